"""Reading what a plan needs: one process per rank, threads that decode, and results in the plan's order.

A window's text comes from the token sidecar, its images from the tar. What cannot be read is replaced by another
sample of its source, chosen by the plan's seed and cut to the planned positions, so that no other rank is concerned.
"""

import contextlib
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
from pydantic import Field

from model.config import Resampling
from model.resizing import Pixels
from model.segment import Text
from model.sequence import Layout, Window
from model.sequence import Sequence as TokenSequence
from pipelines.errors import RunError, UserError
from pipelines.settings import Settings
from trainer.plan.mixture import Phase
from trainer.plan.order import key_of
from trainer.plan.plan import Plan
from trainer.plan.steps import Chunk, Step
from trainer.plan.windows import SourceWindows
from trainer.reading.consumed import BadSampleLimit, ConsumedRow, QuarantineRow
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.excluded import REASON as TAKEN_DOWN
from trainer.reading.images import Crop, decode
from trainer.reading.shard_reader import DamagedSample, ShardReader

_SUBSTITUTES = 64  # replacements tried before the source counts as broken


@dataclass(frozen=True, slots=True)
class ChunkData:
    """The data of a chunk; fields as in `ReadChunk`."""

    sequence: TokenSequence
    images: tuple[Pixels, ...]
    crop: Crop | None = None


class ReaderSettings(Settings):
    """Settings for reading samples."""

    num_threads: int = Field(
        2, ge=0, description="threads per rank that read and decode; 0: read in the training's thread"
    )
    own_process: bool = Field(
        False,
        description="read and collate in a process beside the one that trains, one per rank. Streams, and images of "
        "which features are kept, are read in the training's own",
    )
    prefetch_steps: int = Field(2, ge=1, description="steps read ahead")
    max_bad_fraction: float = Field(
        0.01, ge=0, description="largest fraction of a source's samples that may be unreadable"
    )
    stall_seconds: float = Field(
        300.0, gt=0, description="seconds without a byte after which one of `streams` counts as broken"
    )


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """A window as input of the model.

    Attributes:
        source: Index of the source in the plan.
        sequence: Tokens and slots of the window.
        images: (size, size, 3) uint8 RGB, one per image of `sequence`, in its order; for an image decoder's training
            two of its only image: as the decoder's target, and as the encoder reads it.
        row: The row of `consumed`.
        bad: The unreadable sample that it replaces, if any.
        crop: Of a single image: original height and width, and the crop's top and left offset.
    """

    source: int
    sequence: TokenSequence
    images: tuple[Pixels, ...]
    row: ConsumedRow
    bad: QuarantineRow | None = None
    crop: Crop | None = None


@dataclass(frozen=True, slots=True)
class RankStep:
    """The data of one rank in a step: the packed sequences of its slots, in order."""

    step: Step
    packs: list[list[ReadChunk]]

    @property
    def rows(self) -> list[ConsumedRow]:
        """Rows of `consumed`."""
        return [chunk.row for pack in self.packs for chunk in pack]

    @property
    def bad(self) -> list[QuarantineRow]:
        """Rows of `quarantine.jsonl`."""
        return [chunk.bad for pack in self.packs for chunk in pack if chunk.bad is not None]


class SampleReader(ABC):
    """Reads chunks of a plan; a pure function of the chunk, on any thread and rank.

    Args:
        corpus: The corpus.
        sources: Sources of the plan.
        seed: Seed of all random choices and of substitutes.
    """

    def __init__(self, corpus: TrainingCorpus, sources: Sequence[SourceWindows], *, seed: int = 0) -> None:
        self._corpus, self._sources, self._seed = corpus, sources, seed
        self._shards: dict[str, ShardReader] = {}

    def read(self, chunk: Chunk, step: int) -> ReadChunk:
        """Read a chunk, or its substitute.

        Raises:
            UserError: If the tokens are not those for which the plan was made.
            RunError: If nothing of the source can be read.
        """
        found = self.read_itself(chunk, step)
        return found if isinstance(found, ReadChunk) else self._substitute(chunk, step, found)

    def read_itself(self, chunk: Chunk, step: int) -> ReadChunk | QuarantineRow:
        """Read a chunk, or return why it cannot be read.

        Raises:
            UserError: If the tokens are not those for which the plan was made.
        """
        source = self._sources[chunk.source]
        reader, row = self._place(source, chunk.sample)
        if (key := reader.key(row)) in self._corpus.excluded:
            return QuarantineRow(source.name, key, chunk.position, TAKEN_DOWN)
        try:
            read = self._read(chunk, step, reader, row)
        except DamagedSample as error:
            return QuarantineRow(source.name, reader.key(row), chunk.position, str(error))
        return self._chunk(chunk, step, reader, row, read, None)

    @abstractmethod
    def _read(self, chunk: Chunk, step: int, reader: ShardReader, row: int) -> ChunkData:
        """Read a chunk's tokens and images.

        Raises:
            DamagedSample: If they cannot be read.
        """

    @abstractmethod
    def _stand_in(self, chunk: Chunk, step: int, reader: ShardReader, row: int) -> ChunkData | None:
        """Read as much of another sample as takes the chunk's positions; return None if it does not fit.

        Raises:
            DamagedSample: If it cannot be read.
        """

    def _place(self, source: SourceWindows, sample: int) -> tuple[ShardReader, int]:
        shard, row = source.locate(sample)
        path = source.shards[shard]
        if path not in self._shards:
            self._shards[path] = self._corpus.reader(path)
        return self._shards[path], row

    def _chunk(
        self,
        chunk: Chunk,
        step: int,
        reader: ShardReader,
        row: int,
        read: ChunkData,
        bad: QuarantineRow | None,
    ) -> ReadChunk:
        shard = reader.shard
        consumed = ConsumedRow(
            step,
            chunk.position,
            shard.source,
            shard.split,
            shard.path,
            reader.key(row),
            chunk.window,
            chunk.epoch,
            chunk.tokens,
            len(read.sequence.images),
            bad.key if bad is not None else None,
        )
        return ReadChunk(chunk.source, read.sequence, read.images, consumed, bad, read.crop)

    def _substitute(self, chunk: Chunk, step: int, bad: QuarantineRow) -> ReadChunk:
        """Read the first of the source's samples, in the chunk's own order, that is readable and fits its positions."""
        source = self._sources[chunk.source]
        tried, damaged = {chunk.sample}, 0
        for sample in self._others(source, chunk):
            if sample in tried:
                continue
            tried.add(sample)
            reader, row = self._place(source, sample)
            if reader.key(row) in self._corpus.excluded:
                continue
            try:
                read = self._stand_in(chunk, step, reader, row)
            except DamagedSample:
                damaged += 1
                continue
            if read is not None:
                return self._chunk(chunk, step, reader, row, read, bad)
        num = len(tried) - 1
        why = (
            f"of {num} others that were tried, {damaged} cannot be read either, and {num - damaged} have no part as "
            f"short as its {chunk.tokens} positions"
            if num
            else "the source has no other"
        )
        raise RunError(
            f"{source.name}: {bad.key} cannot be read ({bad.reason}), and no sample can take its place: {why}. "
            "Compare its tars with the hashes in manifest.json, or give the source no weight in the mixture"
        )

    def _others(self, source: SourceWindows, chunk: Chunk) -> Iterator[int]:
        """Yield samples that may take a chunk's place, some of them more than once; all of a small source."""
        for attempt in range(_SUBSTITUTES):
            yield (
                key_of("substitute", self._seed, source.name, chunk.sample, chunk.window, attempt) % source.num_samples
            )
        if source.num_samples <= _SUBSTITUTES:
            yield from range(source.num_samples)


class SequenceReader(SampleReader):
    """Reads windows as input of the main model.

    Args:
        corpus: The corpus.
        sources: Sources of the plan.
        layout: Writes windows as tokens.
        seq_len: Positions per packed sequence, to which samples were cut.
        image_size: Side in pixels.
        seed: Seed of the order within windows, and of substitutes.
        media_first: Function from step to the probability that images come before their text; None: the layout's.
        resampling: How images are resized.
    """

    def __init__(
        self,
        corpus: TrainingCorpus,
        sources: Sequence[SourceWindows],
        layout: Layout,
        *,
        seq_len: int,
        image_size: int,
        seed: int = 0,
        media_first: Callable[[int], float | None] = lambda step: None,
        resampling: Resampling = "area",
    ) -> None:
        super().__init__(corpus, sources, seed=seed)
        self.image_size, self._resampling = image_size, resampling
        self._layout, self._seq_len, self._media_first = layout, seq_len, media_first

    def _read(self, chunk: Chunk, step: int, reader: ShardReader, row: int) -> ChunkData:
        windows = self._layout.split(reader.segments(row), self._seq_len)
        if chunk.window >= len(windows) or windows[chunk.window].num_tokens != chunk.tokens:
            raise UserError(
                f"{reader.shard.path}, sample {reader.key(row)}: its tokens are not those for which the plan was made. "
                "Rerun `python -m pipelines tokenize`"
            )
        return self._lay_out(chunk, step, reader, row, windows[chunk.window])

    def _stand_in(self, chunk: Chunk, step: int, reader: ShardReader, row: int) -> ChunkData | None:
        """Read as much as fits: only its texts if an image does not."""
        segments = reader.segments(row)
        for chosen in (segments, [s for s in segments if isinstance(s, Text)]):
            with contextlib.suppress(ValueError):
                if windows := self._layout.split(chosen, chunk.tokens):
                    return self._lay_out(chunk, step, reader, row, windows[0])
        return None

    def _lay_out(self, chunk: Chunk, step: int, reader: ShardReader, row: int, window: Window) -> ChunkData:
        rng = random.Random(key_of("layout", self._seed, chunk.source, chunk.epoch, chunk.sample, chunk.window))
        sequence = self._layout.lay_out(window, rng, media_first=self._media_first(step))
        return ChunkData(sequence, tuple(self._image(reader, row, media) for media in sequence.images))

    def _image(self, reader: ShardReader, row: int, media: int) -> Pixels:
        return decode(reader.image(row, media), self.image_size, self._resampling)


class Loader:
    """Steps of one rank, read ahead by threads.

    The result depends only on the plan: threads change only the time it takes.

    Args:
        plan: The plan; the loader resumes from its state.
        reader: Reads the chunks of the plan.
        settings: Threads and prefetching.
        rank: Rank of this process.
        world_size: Number of processes; divides the global batch size.

    Raises:
        UserError: If the number of processes does not divide the global batch size.
    """

    def __init__(
        self,
        plan: Plan,
        reader: SampleReader,
        settings: ReaderSettings | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        packs = plan.settings.global_batch_size
        if packs % world_size:
            raise UserError(
                f"data.plan.global_batch_size is {packs}, not a multiple of the {world_size} processes: change "
                "it, or start another number of processes"
            )
        self._plan, self._reader, self._settings = plan, reader, settings or ReaderSettings()
        self._rank, self._world_size = rank, world_size
        self._limit = BadSampleLimit(self._settings.max_bad_fraction)
        self._start = plan.state
        self._steps = iter(plan)
        self._ahead: deque[tuple[Step, list[Future[list[ReadChunk]]]]] = deque()
        self._last: Step | None = None
        cv2.setNumThreads(1)  # our threads are the parallelism; OpenCV's own would compete with them
        num = self._settings.num_threads
        self._pool = ThreadPoolExecutor(num, "reader") if num else None
        self._planner = ThreadPoolExecutor(1, "planner") if num else None
        self._next: Future[Step] | None = None
        self._end: UserError | None = None

    def __iter__(self) -> Iterator[RankStep]:
        """Yield the steps, without end."""
        while True:
            yield self._inline() if self._pool is None else self._from_threads()

    def change(self, phases: Sequence[Phase]) -> int:
        """Draw by other phases as soon as the samples that are already drawn have been trained on.

        All ranks must call this between the same two steps.

        Returns:
            The step from which they apply.

        Raises:
            UserError: If they name unknown or empty sources; nothing changes then.
        """
        self._settle()
        step = self._last.buffer.end.step if self._last is not None else self._start.step
        self._plan.change(phases)
        kept = [entry for entry in self._ahead if entry[0].buffer.end.step == step]
        for _, futures in list(self._ahead)[len(kept) :]:
            for future in futures:
                future.cancel()
        self._ahead = deque(kept)
        last = kept[-1][0] if kept else self._last
        self._plan.state = last.state if last is not None else self._start
        self._end = None
        self._steps = iter(self._plan)
        return step

    def close(self) -> None:
        """Stop the threads."""
        for pool in (self._planner, self._pool):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _inline(self) -> RankStep:
        step = next(self._steps)
        return self._done(step, [self._read(pack, step.number) for pack in step.of_rank(self._rank, self._world_size)])

    def _from_threads(self) -> RankStep:
        assert self._pool is not None
        assert self._planner is not None
        while self._end is None and len(self._ahead) <= self._settings.prefetch_steps:
            try:
                step = (self._next or self._planner.submit(next, self._steps)).result()
            except UserError as error:
                self._end = error  # a source is exhausted: earlier planned steps are trained on first
                break
            self._next = self._planner.submit(next, self._steps)
            packs = step.of_rank(self._rank, self._world_size)
            self._ahead.append((step, [self._pool.submit(self._read, pack, step.number) for pack in packs]))
        if not self._ahead:
            assert self._end is not None
            raise self._end
        step, futures = self._ahead.popleft()
        return self._done(step, [future.result() for future in futures])

    def _settle(self) -> None:
        """Wait for the planner; what it has planned is planned again."""
        if self._next is not None:
            self._next.exception()
            self._next = None

    def _read(self, pack: list[Chunk], step: int) -> list[ReadChunk]:
        return [self._reader.read(chunk, step) for chunk in pack]

    def _done(self, step: Step, packs: list[list[ReadChunk]]) -> RankStep:
        for pack in packs:
            for chunk in pack:
                is_damaged = chunk.bad is not None and chunk.bad.reason != TAKEN_DOWN
                self._limit.count(chunk.row.source, chunk.bad if is_damaged else None)
        self._last = step
        return RankStep(step, packs)
