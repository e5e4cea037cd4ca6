"""Answers as they are made: one JSON line each, so that a stopped evaluation continues where it was.

    {"id": "9000", "key": "5f1e...", "answer": "net", "num_shots": 4, "prompt": "..."}

`key` is the digest of all that the answer follows from: the model's files, settings of generation, and the prompt with
its images. An answer whose key is no longer that of its question is not used.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines import storage

Row = dict[str, Any]


class AnswerFile:
    """The answers to a benchmark with one number of shots, in one file; while several ranks answer, one for each.

    Args:
        path: The file; those of ranks lie beside it.
        rank: This process's rank.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self._path = path
        self._own = path.with_name(f"{path.stem}.rank{rank}{path.suffix}")

    def read(self) -> dict[str, Row]:
        """Return the answers that any rank has written, by question; a line that was cut by a kill is left out."""
        found: dict[str, Row] = {}
        for path in (self._path, *self._of_ranks()):
            if path.exists():
                for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # not at U+2028
                    if (row := _row(line)) is not None:
                        found[row["id"]] = row
        return found

    def append(self, rows: Iterable[Row]) -> None:
        """Add answers of this rank."""
        self._own.parent.mkdir(parents=True, exist_ok=True)
        with self._own.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                cut = file.read(1) != b"\n"  # by a kill
            else:
                cut = False
            file.write(b"\n" * cut + _lines(rows).encode())

    def finish(self, rows: Iterable[Row]) -> None:
        """Replace all files by one with the given answers."""
        storage.write_bytes(str(self._path), _lines(rows).encode())
        for path in self._of_ranks():
            path.unlink()

    def _of_ranks(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{self._path.stem}.rank*{self._path.suffix}"))


def model_digest(folders: Iterable[Path]) -> str:
    """Return a digest of a model's folders: names, sizes and times of the files, which are too large to read."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            stat = path.stat()
            found.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return found.hexdigest()


def key_of(model: str, settings: Mapping[str, Any], prompt: str) -> str:
    """Return the key of an answer."""
    content = json.dumps([model, settings, prompt], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"id", "key", "answer"} <= row.keys() else None


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
