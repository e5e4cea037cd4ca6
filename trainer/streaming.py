"""Streams that cannot be indexed: `pipe:` commands, compressed tars, plain HTTP, read through `webdataset`.

Their order is approximate, and says so wherever it is reported: each rank reads its own URLs from front to back through
a shuffle buffer, mixes its sources exactly by samples and packs what it has. A resume reads over what was read before;
another world size, or a broken connection, gives another order. Index the tars where that can be done.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import webdataset
from braceexpand import braceexpand

from model.segment import Picture, Segment, Text, grounded_text, text
from model.sequence import Layout, Window
from model.tokenizer import Tokenizer
from pipelines.document import Document
from pipelines.errors import RunError, UserError
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.tar_samples import TarSample
from trainer.consumed import BadSampleLimit, ConsumedRow, QuarantineRow
from trainer.images import decode
from trainer.mixture import Scheduler
from trainer.order import key_of
from trainer.packing import pack_prefix
from trainer.reader import ReadPiece
from trainer.shard_reader import DamagedSample

SHUFFLE_BUFFER = 1000
"""Samples that are mixed with each other: webdataset's usual size."""


@dataclass(frozen=True, slots=True)
class StreamStep:
    """What a rank trains on in a step, as `RankStep`; `state` is that of this rank only."""

    number: int
    packs: list[list[ReadPiece]]
    bad: list[QuarantineRow]
    state: str

    @property
    def rows(self) -> list[ConsumedRow]:
        """For `consumed`; positions count this rank's samples, interleaved with those of the others."""
        return [piece.row for pack in self.packs for piece in pack]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A window that waits to be packed."""

    source: int
    window: Window
    number: int
    parts: Mapping[str, bytes]
    document: Document
    url: str
    position: int
    pass_: int


class StreamLoader:
    """Steps from streams of samples.

    Args:
        urls: Of each source, as webdataset takes them (`{000..127}` and `pipe:` included).
        weights: Of each source.
        layout: Writes windows as tokens.
        length: Places of a pack.
        packs_per_rank: Of each step.
        image_size: Pixels a side.
        seed: Of the shuffle buffers.
        rank: Of this process.
        world_size: Processes in all.
        state: To go on from: a step's, of the same rank and world size.

    Raises:
        UserError: If a source has no URLs, or the state is of another world size.
    """

    order: Literal["approximate"] = "approximate"

    def __init__(
        self,
        urls: Mapping[str, str | Sequence[str]],
        weights: Mapping[str, float],
        layout: Layout,
        *,
        length: int,
        packs_per_rank: int,
        image_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        state: str | None = None,
    ) -> None:
        self._names = [name for name in urls if weights.get(name)]
        self._urls = {name: _expand(urls[name]) for name in self._names}
        for name, found in self._urls.items():
            if not found:
                raise UserError(f"{name}: a source without URLs")
        self._weights = [weights[name] for name in self._names]
        self._layout, self._length, self._packs = layout, length, packs_per_rank
        self._image_size, self._seed = image_size, seed
        self._rank, self._world_size = rank, world_size
        self._limit = BadSampleLimit()
        begin = {"world_size": world_size, "step": 0, "read": [0] * len(self._names)}
        before: dict[str, Any] = json.loads(state) if state else begin
        if before["world_size"] != world_size or len(before["read"]) != len(self._names):
            raise UserError(
                f"these streams were read by {before['world_size']} processes and cannot go on with {world_size}: "
                "their order is approximate. Index the tars (`python -m pipelines index`) to resume at any world size"
            )
        self._step: int = before["step"]
        self._read: list[int] = before["read"]

    def __iter__(self) -> Iterator[StreamStep]:
        """The steps, without end."""
        samples = [self._samples(s) for s in range(len(self._names))]
        scheduler = Scheduler(self._weights, "samples", self._read)
        waiting: list[_Waiting] = []
        bad: list[QuarantineRow] = []
        while True:
            while sum(w.window.num_tokens for w in waiting) < self._packs * self._length:
                (source,) = scheduler.draw(1)
                waiting += next(samples[source])
            tokens, images = (
                np.array([getattr(w.window, name) for w in waiting], np.int64) for name in ("num_tokens", "num_images")
            )
            num, packs = pack_prefix(tokens, images, self._packs, self._length)
            done = [[p for p in (self._finish(waiting[i], bad) for i in pack) if p is not None] for pack in packs]
            waiting = waiting[num:]
            self._step += 1
            state = {"order": self.order, "world_size": self._world_size, "step": self._step, "read": scheduler.units}
            yield StreamStep(self._step - 1, done, bad, json.dumps(state))
            bad = []

    def _samples(self, source: int) -> Iterator[list[_Waiting]]:
        """The windows of one sample after the other, pass after pass."""
        name, skip = self._names[source], self._read[source]
        count = 0
        for pass_ in range(1 << 30):
            for sample in self._stream(source, pass_):
                count += 1
                if count > skip and (windows := self._windows(source, sample, count - 1, pass_)):
                    yield windows
            if not count:
                raise RunError(f"{name}: nothing comes from {self._urls[name][0]}")

    def _stream(self, source: int, pass_: int) -> Iterator[dict[str, Any]]:
        """A pass over this rank's part: its own URLs, or every n-th sample where there are too few."""
        urls = self._urls[self._names[source]]
        own = urls[self._rank :: self._world_size] if len(urls) >= self._world_size > 1 else urls
        dataset = webdataset.WebDataset(own, shardshuffle=False, empty_check=False, nodesplitter=lambda x: x)
        rng = _rng(self._seed, source, pass_, self._rank if len(own) < len(urls) else 0)
        shuffled = dataset.shuffle(SHUFFLE_BUFFER, rng=rng)
        return iter(shuffled) if len(own) < len(urls) else islice(shuffled, self._rank, None, self._world_size)

    def _windows(self, source: int, sample: dict[str, Any], number: int, pass_: int) -> list[_Waiting]:
        parts = {name: data for name, data in sample.items() if not name.startswith("__")}
        key, url = sample["__key__"], _without_query(sample["__url__"])
        position = number * self._world_size + self._rank
        try:
            document = read_document(TarSample(key, 0, 0, parts), self._names[source])
            windows = self._layout.split(segments_of(document, self._layout.tokenizer), self._length)
        except ValueError as error:
            self._limit.count(self._names[source], QuarantineRow(self._names[source], key, position, str(error)))
            return []
        return [_Waiting(source, w, n, parts, document, url, position, pass_) for n, w in enumerate(windows)]

    def _finish(self, waiting: _Waiting, bad: list[QuarantineRow]) -> ReadPiece | None:
        """A window as the model gets it; null, and a line for the quarantine, where it cannot be decoded."""
        name, document = self._names[waiting.source], waiting.document
        sequence = self._layout.lay_out(waiting.window, _rng(self._seed, waiting.source, waiting.position))
        try:
            images = tuple(
                decode(waiting.parts[str(document.media[m].part)], self._image_size) for m in sequence.images
            )
        except DamagedSample as error:
            bad.append(QuarantineRow(name, document.key, waiting.position, str(error)))
            self._limit.count(name, bad[-1])
            return None
        self._limit.count(name, None)
        row = ConsumedRow(
            self._step,
            waiting.position,
            name,
            "train",
            waiting.url,
            document.key,
            waiting.number,
            waiting.pass_,
            waiting.window.num_tokens,
            len(images),
        )
        return ReadPiece(waiting.source, sequence, images, row)


def segments_of(document: Document, tokenizer: Tokenizer) -> list[Segment]:
    """What a document is made of, encoded here and now."""
    segments: list[Segment] = []
    for segment in document.segments:
        if segment.text is None:
            assert segment.media is not None
            segments.append(Picture(segment.media, segment.type == "frame", segment.t0))
        elif segment.regions:
            found = grounded_text(segment.text, [(r.start, r.end, r.box) for r in segment.regions], tokenizer)
            segments.append(Text(found.ids, segment.role, found.phrases))
        else:
            segments.append(text(segment.text, tokenizer, role=segment.role))
    return segments


def _expand(urls: str | Sequence[str]) -> list[str]:
    return [u for url in ([urls] if isinstance(urls, str) else urls) for u in braceexpand(url)]


def _without_query(url: str) -> str:
    """A URL as it may be written down: what follows `?` may be a signature."""
    return url.partition("?")[0]


def _rng(*names: int) -> random.Random:
    return random.Random(key_of("stream", *names))
