"""What lmms-eval shows, asks and compares in `dromaius_demo.yaml`, on rows of `tools few-shot-tasks`."""

from pathlib import Path
from typing import Any

_FOLDER = Path("build/few_shot/languages")
_QUESTION = "What is this?"
Row = dict[str, Any]


def in_english(rows: Any) -> Any:
    """Return the rows of a `datasets.Dataset` that are answered in English."""
    return rows.filter(lambda row: row["group"] == "en")


def messages(row: Row, *_: Any, **__: Any) -> list[dict[str, Any]]:
    """Return what is shown and asked, as messages: of an image alone, the demo's pretrained model writes a caption."""
    return [{"role": "user", "content": [{"type": "image", "url": path} for path in images(row)]}]


def images(row: Row, *_: Any, **__: Any) -> list[str]:
    """Return the files of a row's images."""
    return [str(_FOLDER / row["image"])]


def question(row: Row, *_: Any, **__: Any) -> str:
    """Return the question for models that take one text."""
    return _QUESTION


def named(row: Row, results: list[str]) -> dict[str, float]:
    """Return whether colour and shape stand in the answer, next to each other: `red circle`, whatever its article."""
    return {"named": float(row["answer"].partition(" ")[2] in results[0].lower())}
