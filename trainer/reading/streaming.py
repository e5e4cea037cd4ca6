"""Training on streams that cannot be indexed: `pipe:` commands, compressed tars, plain HTTP (see streamed_tars.py).

Their order is approximate, and reported as such everywhere. Each rank mixes the samples that it reads exactly by
their number, and packs them one step at a time. A resume continues with the next sample if there are as many ranks as
before, otherwise with the first tar that some rank had not finished. Prefer to index the tars if that is possible.
"""

import math
import random
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from model.config import Resampling
from model.resizing import Pixels
from model.segment import ImageSegment, Segment, Text, grounded_text, text
from model.sequence import Layout, Window
from model.tokenizer import Tokenizer
from pipelines.document import Document
from pipelines.errors import RunError, UserError
from pipelines.shards.foreign_samples import read_document
from trainer.plan.mixture import Phase, PhaseStart, Scheduler, without
from trainer.plan.order import key_of
from trainer.plan.packing import pack_prefix
from trainer.plan.steps import PlanSettings
from trainer.reading.byte_streams import Stopped
from trainer.reading.consumed import BadSampleLimit, ConsumedRow, QuarantineRow
from trainer.reading.images import decode
from trainer.reading.reader import ReadChunk, ReaderSettings
from trainer.reading.shard_reader import DamagedSample
from trainer.reading.stream_state import RankCursor, StreamState
from trainer.reading.streamed_tars import Ahead, StreamedSample, StreamReading, Tars, samples_of_rank
from trainer.reading.window_tables import NOT_ALLOWED

_AHEAD = 256  # samples that are read ahead, of all sources: opening the next tar takes time


class SourceEnded(RunError):  # noqa: N818 - a fact about data, without which a run may continue
    """A stream that cannot be read any further; a run may continue without it.

    Attributes:
        source: Name of the source.
    """

    def __init__(self, message: str, source: str) -> None:
        super().__init__(message)
        self.source = source


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """A step, as known to one rank.

    Attributes:
        number: Number of the step.
        state: State after the step, with only this rank's cursor.
        phase: The phase that begins with it, if any.
    """

    number: int
    state: StreamState
    phase: PhaseStart | None


@dataclass(frozen=True, slots=True)
class StreamStep:
    """The data of one rank in a step; as `RankStep`."""

    step: StreamPlace
    packs: list[list[ReadChunk]]
    bad: list[QuarantineRow]

    @property
    def rows(self) -> list[ConsumedRow]:
        """Rows of `consumed`."""
        return [chunk.row for pack in self.packs for chunk in pack]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A sample in windows; `problem` is the reason if there are none."""

    sample: StreamedSample
    document: Document | None
    windows: list[Window]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A window that is drawn and waits to be packed."""

    source: int
    prepared: _Prepared
    number: int
    position: int

    @property
    def window(self) -> Window:
        return self.prepared.windows[self.number]


class StreamLoader:
    """Steps of one rank, from streams.

    Args:
        streams: URLs of each source, as webdataset expects them.
        phases: Weights of the sources, in the order of their steps.
        plan: Settings of packing.
        reader: Settings of reading.
        layout: Writes windows as tokens.
        image_size: Pixels per side.
        media_first: Probability, at a step, that images come before their text; None leaves it to the layout.
        resampling: How images are resized.
        rank: Rank of this process.
        world_size: Number of processes; divides the global batch size.
        state: State from which to resume; None: the beginning.
    """

    def __init__(
        self,
        streams: Mapping[str, Sequence[str]],
        phases: Sequence[Phase],
        plan: PlanSettings,
        reader: ReaderSettings,
        layout: Layout,
        image_size: int,
        *,
        media_first: Callable[[int], float | None] = lambda step: None,
        resampling: Resampling = "area",
        rank: int = 0,
        world_size: int = 1,
        state: StreamState | None = None,
    ) -> None:
        self._phases, self._settings, self._media_first = tuple(phases), plan, media_first
        self._layout, self._image_size, self._resampling = layout, image_size, resampling
        self._rank, self._world_size = rank, world_size
        self._names = tuple(streams)
        self._tars = [Tars.of(urls) for urls in streams.values()]
        state = (state or StreamState.begin()).fitted(self._names, self._tars)
        self._fingerprints = state.tars
        cursor = state.cursor(rank, world_size, self._tars)
        self._step, self._phase = state.step, state.phase
        self._position, self._at = cursor.position, list(cursor.at)
        self._scheduler = Scheduler(self._weights(state.phase or self._phases[0]), "samples", cursor.units)
        self._limit = BadSampleLimit(reader.max_bad_fraction)
        self._closed = threading.Event()
        self._reading = StreamReading(rank, world_size, plan.seed, reader.stall_seconds)
        self._ended: frozenset[str] = frozenset()
        self._streams: dict[int, Ahead[_Prepared]] = {}
        self._waiting: list[_Waiting] = []
        self._bad: list[QuarantineRow] = []
        cv2.setNumThreads(1)  # our threads are the parallelism
        num = reader.num_threads
        self._pool = ThreadPoolExecutor(num, "reader") if num else None

    def __iter__(self) -> Iterator[StreamStep]:
        """Yield the steps, without end."""
        while True:
            yield self._next_step()

    def leave_out(self, names: Collection[str], step: int) -> bool:
        """Draw no more from sources that have ended, from the next step that is read on; may be called on any thread.

        Their share is divided among the others. A run that is resumed tries them again.

        Args:
            names: Names of the sources.
            step: Step of the training, which is the same on all ranks.

        Returns:
            False if no source of that step would remain; nothing changes then.
        """
        ended = self._ended | set(names)
        if not any(weight for name, weight in self._wanted(step).weights.items() if name not in ended):
            return False
        self._ended = ended
        for source, stream in list(self._streams.items()):
            if self._names[source] in ended:  # also if this process waits for it, unlike the one whose stream broke
                stream.stop()
        return True

    def close(self) -> None:
        """Stop the threads, and the commands that are read from, also if they wait for bytes."""
        self._closed.set()
        for stream in list(self._streams.values()):
            stream.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _next_step(self) -> StreamStep:
        phase = self._enter_phase()
        seq_len, num_packs = self._settings.seq_len, self._settings.global_batch_size // self._world_size
        while sum(waiting.window.num_tokens for waiting in self._waiting) < num_packs * seq_len:
            self._draw()
        tokens, images = (
            np.array([getattr(waiting.window, name) for waiting in self._waiting], np.int64)
            for name in ("num_tokens", "num_images")
        )
        num, packs = pack_prefix(tokens, images, num_packs, seq_len, self._settings.max_images)
        chunks = list((self._pool.map if self._pool else map)(self._read, self._waiting[:num]))
        for chunk in chunks:
            if isinstance(chunk, QuarantineRow):
                self._limit.count(chunk.source, chunk)
                self._bad.append(chunk)
            else:
                self._limit.count(chunk.row.source, None)
        self._waiting = self._waiting[num:]
        self._step += 1
        state = StreamState(
            self._names, self._fingerprints, self._step, self._phase, self._world_size, (self._cursor(),)
        )
        read = [[chunk for i in pack if isinstance(chunk := chunks[i], ReadChunk)] for pack in packs]
        bad, self._bad = self._bad, []
        return StreamStep(StreamPlace(self._step - 1, state, phase), read, bad)

    def _enter_phase(self) -> PhaseStart | None:
        """Return the phase that begins with the next step; None if the previous one continues."""
        ended = self._ended
        for source in [source for source in self._streams if self._names[source] in ended]:
            self._streams.pop(source).close()
        wanted = without(self._wanted(self._step), ended, self._phase)
        if not any(wanted.weights.values()):
            raise RunError(f"data.streams: none that the mixture names from step {self._step} on can be read any more")
        if self._phase is not None and self._phase.equals(wanted):
            return None
        weights = {name: weight for name, weight in wanted.weights.items() if weight}
        self._phase = PhaseStart(self._step, self._position, weights, wanted.unit, wanted.reason, "approximate")
        self._scheduler = Scheduler(self._weights(wanted), "samples")
        return self._phase

    def _wanted(self, step: int) -> Phase:
        return [phase for phase in self._phases if phase.step <= step][-1]

    def _weights(self, phase: Phase | PhaseStart) -> list[float]:
        return [phase.weights.get(name, 0.0) for name in self._names]

    def _draw(self) -> None:
        """Draw the windows of the next sample that has any."""
        (source,) = self._scheduler.draw(1)
        if source not in self._streams:
            share = self._scheduler.weights[source] / sum(self._scheduler.weights)
            stopping = threading.Event()
            self._streams[source] = Ahead(self._samples(source, stopping), math.ceil(_AHEAD * share), stopping)
            if self._closed.is_set():  # by another thread, which may not have seen this stream
                stopping.set()
        while True:
            prepared = self._take(source)
            sample, (tar_number, number, first) = prepared.sample, self._at[source]
            self._at[source] = (sample.tar_number, sample.number + 1, 0)
            if prepared.windows:
                break
            is_bad, name = prepared.problem != NOT_ALLOWED, self._names[source]
            row = QuarantineRow(name, sample.of_tar.key, self._position if is_bad else None, prepared.problem)
            self._bad.append(row)
            if is_bad:
                self._limit.count(name, row)
        first = first if (tar_number, number) == (sample.tar_number, sample.number) else 0
        self._waiting += [_Waiting(source, prepared, n, self._position) for n in range(first, len(prepared.windows))]
        self._position += self._world_size

    def _take(self, source: int) -> _Prepared:
        """Return a source's next sample.

        Raises:
            SourceEnded: If it breaks, or was left out while this waited for it.
            UserError: If a file is missing and nothing was ever read of the source, also not before a resume.
        """
        try:
            return self._streams[source].take()
        except Stopped as stopped:
            if self._names[source] not in self._ended:
                raise
            name = self._names[source]
            raise SourceEnded(f"data.streams.{name}: has ended on another process", name) from stopped
        except (RunError, UserError) as error:
            self._streams.pop(source).close()
            first_tar = 0 if self._tars[source].is_shared(self._world_size) else self._rank
            if isinstance(error, UserError) and self._at[source] == (first_tar, 0, 0):
                raise
            raise SourceEnded(str(error), self._names[source]) from error

    def _samples(self, source: int, stopping: threading.Event) -> Generator[_Prepared, None, None]:
        tar_number, number, _ = self._at[source]
        for sample in samples_of_rank(self._tars[source], tar_number, number, self._reading, stopping):
            yield self._prepare(sample, self._names[source])

    def _prepare(self, sample: StreamedSample, source: str) -> _Prepared:
        try:
            document = read_document(sample.of_tar, source)
            segments = segments_of(document, self._layout.tokenizer) if document.decision.allowed else []
            windows = self._layout.split(segments, self._settings.seq_len)
        except ValueError as error:
            return _Prepared(sample, None, [], str(error))
        return _Prepared(sample, document, windows, "" if windows else NOT_ALLOWED)

    def _read(self, waiting: _Waiting) -> ReadChunk | QuarantineRow:
        """Return a window as input of the model, or a row for the quarantine if it cannot be decoded."""
        name, sample, window = self._names[waiting.source], waiting.prepared.sample, waiting.window
        rng = random.Random(key_of("layout", self._settings.seed, name, waiting.position, waiting.number))
        sequence = self._layout.lay_out(window, rng, media_first=self._media_first(self._step))
        try:
            images = tuple(self._image(waiting.prepared, media) for media in sequence.images)
        except DamagedSample as error:
            return QuarantineRow(name, sample.of_tar.key, waiting.position, str(error))
        row = ConsumedRow(
            self._step,
            waiting.position,
            name,
            "train",
            sample.url,
            sample.of_tar.key,
            waiting.number,
            sample.epoch,
            window.num_tokens,
            len(images),
        )
        return ReadChunk(waiting.source, sequence, images, row)

    def _image(self, prepared: _Prepared, media: int) -> Pixels:
        assert prepared.document is not None
        part = str(prepared.document.media[media].part)
        if part not in prepared.sample.of_tar.parts:
            raise DamagedSample(f"part {part} is missing")
        return decode(prepared.sample.of_tar.parts[part], self._image_size, self._resampling)

    def _cursor(self) -> RankCursor:
        """Return the cursor before the first sample of each source that is not completely trained on."""
        position, units, at = self._position, list(self._scheduler.units), list(self._at)
        for waiting in reversed(self._waiting):
            sample = waiting.prepared.sample
            at[waiting.source] = (sample.tar_number, sample.number, waiting.number)
            if waiting.position != position:
                position = waiting.position
                units[waiting.source] = max(0, units[waiting.source] - 1)  # 0 if a phase began in between
        return RankCursor(position, tuple(units), tuple(at))


def segments_of(document: Document, tokenizer: Tokenizer) -> list[Segment]:
    """Encode the segments of a document."""
    segments: list[Segment] = []
    for segment in document.segments:
        if segment.text is None:
            assert segment.media is not None
            segments.append(ImageSegment(segment.media, segment.type == "frame", segment.t0, role=segment.role))
        elif segment.regions:
            found = grounded_text(segment.text, [(r.start, r.end, r.box) for r in segment.regions], tokenizer)
            segments.append(Text(found.ids, segment.role, found.phrases))
        else:
            segments.append(text(segment.text, tokenizer, role=segment.role))
    return segments
