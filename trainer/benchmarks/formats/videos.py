"""Questions about videos: MSVD-QA and MSRVTT-QA in their JSON, NExT-QA in its CSV.

```
MSVD-QA, MSRVTT-QA  [{"id": 0, "video_id": 1301, "question": "...", "answer": "dance"}]
NExT-QA             video,frame_count,width,height,question,answer,qid,type   and, with choices, a0,a1,a2,a3,a4
```
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines.errors import UserError
from pipelines.settings import Settings
from trainer.benchmarks.formats.example import Example, read_rows

PLACEHOLDERS = ("question",)


class VideoData(Settings):
    """Questions about videos."""

    format: Literal["video_qa"] = "video_qa"
    questions: str = Field(description="JSON file, or CSV of NExT-QA")
    videos: str = Field(description="folder of the videos, or of one folder of frames for each")
    video_name: str = Field("video{video_id}.mp4", description="name of a question's video, or of its folder")
    names: str | None = Field(
        None,
        description="file that gives the videos' names: youtube_mapping.txt of MSVD-QA, map_vid_vidorID.json of "
        "NExT-QA; `{video_id}` is then the name in it",
    )


def read(data: VideoData, root: Path, *, draw: bool, seed: int) -> list[Example]:
    """Read a set of questions; arguments and errors as in `trainer.benchmarks.formats.read`."""
    names = _names(root / data.names) if data.names is not None else None

    def example(row: Mapping[str, Any], number: int) -> Example:
        video = str(row["video_id"] if "video_id" in row else row["video"])
        if names is not None:
            video = names[video]
        answer = str(row.get("answer") or "").strip()
        if answer.isdigit() and f"a{answer}" in row:
            answer = row[f"a{answer}"].strip()
        name = f"{row['video']}-{row['qid']}" if "qid" in row else str(row.get("id", number))
        path = root / data.videos / data.video_name.format(video_id=video)
        texts = {"question": row["question"].strip()}
        return Example(name, video=path, texts=texts, answers=(answer,) if answer else ())

    def examples(rows: Any) -> Iterator[Example]:
        return (example(row, number) for number, row in enumerate(rows))

    path = root / data.questions
    if path.suffix != ".csv":
        return read_rows(path, examples, "a file of questions in the form of MSVD-QA")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(examples(csv.DictReader(file)))
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a CSV in NExT-QA's form: {type(error).__name__}: {error}") from error


def _names(path: Path) -> dict[str, str]:
    """Return the names of videos by the ids that questions give."""
    if path.suffix == ".json":
        pairs = read_rows(path, lambda content: content.items(), "a mapping of videos to their names")
        return {str(key): str(name) for key, name in pairs}
    try:
        named = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {number.removeprefix("vid"): name for name, number in named}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not lines of a video's name and its number, as in MSVD-QA: {error}") from error
