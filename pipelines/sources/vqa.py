"""Visual question answering, in each set's own JSON: VQAv2, OK-VQA, GQA, TextVQA, VizWiz.

```
VQAv2, OK-VQA  {"questions": [{"image_id": 9, "question": "...", "question_id": 9000}]}, and of the answers another file
               {"annotations": [{"question_id": 9000, "multiple_choice_answer": "net", "answers": [...]}]}
GQA            {"<id>": {"imageId": "2354786", "question": "...", "answer": "no"}}
TextVQA        {"data": [{"image_id": "0054c91397f2fe05", "question": "...", "answers": ["nokia", ...]}]}
VizWiz         [{"image": "VizWiz_train_00000000.jpg", "question": "...", "answers": [{"answer": "basil"}, ...]}]
```

Each question becomes a conversation of two turns: the image and the question, and the answer that most people gave.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator

from pipelines.document import Kind
from pipelines.sources import attachments, lines
from pipelines.sources.attachments import Attachments, WithAttachments
from pipelines.sources.delimited import first_rows
from pipelines.sources.files import CompanionFile, Part, expand
from pipelines.sources.origin import Origin, Outcome, RowError, convert_rows
from pipelines.sources.tables import item_parts
from pipelines.sources.turns import Turn, conversation, words
from pipelines.sources.where import clauses_of, wanted_rows

KINDS: tuple[Kind, ...] = ("conversation",)
_SECTION = re.compile(rb'"(questions|data)"\s*:\s*\[')  # in a string its quotes would be escaped
_HEAD_BYTES = 1 << 16


class VqaSettings(WithAttachments):
    """Questions about images, with their answers."""

    format: Literal["vqa"] = "vqa"
    annotations: list[str] = Field(
        default=[], description="Files of answers, where questions do not have them (VQAv2, OK-VQA); paths as in files"
    )
    image_name: str = Field(
        "{image_id}.jpg",
        description="Name of a question's image, if only its id is given: COCO_train2014_{image_id:012d}.jpg for VQAv2",
    )
    hint: str | None = Field(
        None,
        description="Line after each question, such as LLaVA-1.5's 'Answer the question using a single word or "
        "phrase.'; null: none",
    )
    system: str | None = Field(None, description="System turn before each question; null: none")

    @field_validator("image_name")
    @classmethod
    def _names_the_id(cls, name: str) -> str:
        if "{image_id" not in name:
            raise ValueError("needs '{image_id}', or '{image_id:012d}' for twelve digits")
        return name


def parts(settings: VqaSettings) -> list[Part]:
    """Split the files of questions at their items."""
    files = expand(settings.files, missing=settings.missing)
    found = [part for path, name in files for part in item_parts(path, name, settings.part_rows, _section(path))]
    return [replace(part, index=i) for i, part in enumerate(found)]


def companion_files(settings: VqaSettings) -> list[CompanionFile]:
    """Return the files of answers, and the archives of images."""
    answers = [CompanionFile(path, name) for path, name in expand(settings.annotations)] if settings.annotations else []
    return [*answers, *attachments.companion_files(settings)]


def read(part: Part, settings: VqaSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one conversation per question.

    Raises:
        UserError: If a file is no JSON.
    """
    found = Attachments(settings)
    answers = _answers(tuple(settings.annotations))

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        question, record = row.get("question"), str(row.get("question_id", locator))
        if not isinstance(question, str) or not question.strip():
            raise RowError("missing_text", "no question")
        answer = answers.get(record) or _answer(row)
        if answer is None:
            raise RowError("missing_answer", text=question)
        asked = question.strip() if settings.hint is None else f"{question.strip()}\n{settings.hint}"
        image = found.image(_image_name(row, settings.image_name))
        turns = [Turn("user", (image, *words(asked))), Turn("assistant", tuple(words(answer)))]
        return [conversation(origin, locator, turns, system=settings.system, record=record)]

    rows = _questions(part)
    if settings.where:
        head = [row for row in first_rows(_questions(part))[0] if isinstance(row, dict)]
        columns = dict.fromkeys(name for row in head for name in row)
        rows = wanted_rows(rows, clauses_of(part.path, columns or settings.where, settings.where))
    return convert_rows(Origin(source_name, kind, part, settings), rows, convert)


def _questions(part: Part) -> Iterator[tuple[str, dict[str, Any] | RowError]]:
    items = lines.read_json_items(part.path, under=_section(part.path))
    for at, row in itertools.islice(items, part.start, part.stop):
        is_object = isinstance(row, dict)
        yield at, row if is_object else RowError("malformed_row", "no JSON object", text=str(row)[:2_000])


def _section(path: str) -> str | None:
    """Return the key that holds a file's questions; None if the file itself is their list."""
    with lines.open_text(path) as file:
        match = _SECTION.search(file.read(_HEAD_BYTES))
    return match[1].decode() if match else None


def _image_name(row: Mapping[str, Any], pattern: str) -> str:
    if isinstance(row.get("image"), str):
        return str(row["image"])
    image_id = row.get("image_id", row.get("imageId"))
    if not isinstance(image_id, str | int):
        raise RowError("missing_images", "neither image, image_id nor imageId")
    try:
        return pattern.format(image_id=image_id)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise RowError("malformed_row", f"image_id {image_id!r} does not fit {pattern}") from error


def _answer(row: Mapping[str, Any]) -> str | None:
    """Return the answer of a row: the one given, or the most frequent of several, of equals the first."""
    for name in ("multiple_choice_answer", "answer"):
        if isinstance(row.get(name), str) and row[name].strip():
            return str(row[name]).strip()
    given = row.get("answers")
    texts = [one.get("answer") if isinstance(one, dict) else one for one in given] if isinstance(given, list) else []
    counts = Counter(text.strip() for text in texts if isinstance(text, str) and text.strip())
    return counts.most_common(1)[0][0] if counts else None


@functools.lru_cache(maxsize=4)
def _answers(files: tuple[str, ...]) -> dict[str, str]:
    """Return the answers of annotation files, by question."""
    found: dict[str, str] = {}
    for path, _ in expand(list(files)) if files else []:
        for _, row in lines.read_json_items(path, under="annotations"):
            if isinstance(row, dict) and (answer := _answer(row)) is not None:
                found[str(row.get("question_id"))] = answer
    return found
