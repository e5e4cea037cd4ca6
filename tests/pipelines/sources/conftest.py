"""Shared fixtures of the tests of source formats: reading a whole source."""

from collections.abc import Callable
from typing import Any

import pytest

from pipelines.candidate import Candidate
from pipelines.document import Drop
from pipelines.sources import FORMATS


class Found:
    """The result of reading a source."""

    def __init__(self, outcomes: list[Candidate | Drop]) -> None:
        self.candidates = [x for x in outcomes if isinstance(x, Candidate)]
        self.documents = [x.document for x in self.candidates]
        self.drops = [x for x in outcomes if isinstance(x, Drop)]
        self.reasons = [x.reason for x in self.drops]
        self.texts = [d.text for d in self.documents]

    def scores(self, index: int = 0) -> dict[str, float | None]:
        """Return the scores of a document by `<target> <name>`."""
        return {f"{s.target} {s.name}": s.value for s in self.documents[index].scores}


@pytest.fixture
def read_all() -> Callable[..., Found]:
    """A function that splits and reads a source, and checks what is true of every format."""

    def read(settings: Any, kind: str, source: str = "src") -> Found:
        formats = FORMATS[settings.format]
        assert kind in formats.kinds
        parts = formats.parts(settings)
        assert [p.index for p in parts] == list(range(len(parts)))
        found = Found([x for part in parts for x in formats.read(part, settings, source, kind)])
        keys = [d.key for d in found.documents]
        assert len(set(keys)) == len(keys)
        assert all(x.record.startswith(tuple(f"{p.name} " for p in parts)) for x in [*found.candidates, *found.drops])
        for drop in found.drops:
            assert (drop.source, drop.stage) == (source, "extract")
        for candidate in found.candidates:
            document = candidate.document
            assert document.kind == kind
            assert document.build.dedup_group
            assert document.from_json(document.to_json()).key == document.key
            used = [s.media for s in document.segments if s.media is not None]
            assert used == list(range(len(document.media)))
            if kind != "video" or document.media:
                assert len(candidate.requests) == len(document.media)
            inline = {f"inline:{name}" for name, _ in candidate.inline}
            assert {r.key for r in candidate.requests if r.url is None} == inline
        return found

    return read
