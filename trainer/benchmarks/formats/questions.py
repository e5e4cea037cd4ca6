"""Questions about images, in each set's own JSON: VQAv2, OK-VQA, GQA, TextVQA, VizWiz.

```
VQAv2, OK-VQA  {"questions": [{"image_id": 9, "question": "...", "question_id": 9000}]}, and of the answers another file
               {"annotations": [{"question_id": 9000, "answers": [{"answer": "net"}, ...]}]}
GQA            {"<id>": {"imageId": "2354786", "question": "...", "answer": "no"}}
TextVQA        {"data": [{"image_id": "0054c91397f2fe05", "question": "...", "answers": ["nokia", ...]}]}
VizWiz         [{"image": "VizWiz_val_00000000.jpg", "question": "...", "answers": [{"answer": "basil"}, ...]}]
```
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from pipelines.settings import Settings
from trainer.benchmarks.formats.example import Example, read_rows

PLACEHOLDERS = ("question",)


class QuestionData(Settings):
    """Questions about images."""

    format: Literal["vqa"] = "vqa"
    questions: str = Field(description="JSON file of the questions")
    annotations: str | None = Field(None, description="JSON file of the answers, where the questions lack them (VQAv2)")
    images: str = Field(description="folder of the images")
    image_name: str = Field(
        "{image_id}.jpg", description="name of a question's image: COCO_val2014_{image_id:012d}.jpg for VQAv2"
    )

    @field_validator("image_name")
    @classmethod
    def _names_the_id(cls, name: str) -> str:
        try:
            if name.format(image_id=1) == name.format(image_id=2):
                raise ValueError
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError(
                "needs '{image_id}', or '{image_id:012d}' for twelve digits, and no other brace"
            ) from error
        return name


def read(data: QuestionData, root: Path, *, draw: bool, seed: int) -> list[Example]:
    """Read a set of questions; arguments and errors as in `trainer.benchmarks.formats.read`."""
    answers: dict[str, tuple[str, ...]] = {}
    if data.annotations is not None:
        rows = read_rows(root / data.annotations, lambda content: content["annotations"], "a file of VQAv2's answers")
        answers = {str(row.get("question_id")): answers_of(row) for row in rows if isinstance(row, dict)}

    def examples(content: Any) -> Iterator[Example]:
        for number, (key, row) in enumerate(_questions(content)):
            name = str(row.get("question_id", row.get("id", key or row.get("image", number))))
            image = row["image"] if "image" in row else _image(data, row)
            true = answers.get(name) or answers_of(row)
            question = row["question"].strip()
            yield Example(name, images=(root / data.images / image,), texts={"question": question}, answers=true)

    return read_rows(
        root / data.questions, examples, "a file of questions in the form of VQAv2, GQA, TextVQA or VizWiz"
    )


def answers_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return all answers of a row, as many as people gave; none if it has none."""
    given = row.get("answers", row.get("answer"))
    many = given if isinstance(given, list) else [] if given is None else [given]
    texts = [one.get("answer") if isinstance(one, dict) else one for one in many]
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())


def most_frequent(answers: Iterable[str]) -> str:
    """Return the answer that most people gave, of equals the first."""
    return Counter(answers).most_common(1)[0][0]


def _questions(content: Any) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    if isinstance(content, list):
        yield from ((None, row) for row in content)
    elif isinstance(rows := content.get("questions", content.get("data")), list):
        yield from ((None, row) for row in rows)
    else:  # GQA
        yield from content.items()


def _image(data: QuestionData, row: Mapping[str, Any]) -> str:
    return data.image_name.format(image_id=row["image_id"] if "image_id" in row else row["imageId"])
