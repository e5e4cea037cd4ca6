"""Data of a run, from its settings and a corpus or streams: what is read, in which order, and the record of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Self

from torch import Tensor

from model.config import EmuConfig
from model.sequence import Layout
from model.tokenizer import TOKENIZER_FILES, Tokenizer
from pipelines import storage
from pipelines.document import Split
from pipelines.errors import UserError
from pipelines.shards.manifest import load_manifest
from pipelines.shards.token_sidecar import load_tokens, tokens_folder
from trainer.config import ModelSettings, RunSettings
from trainer.engine.distributed import World
from trainer.engine.metrics import Totals
from trainer.plan.continuing import continue_on, drawn_before
from trainer.plan.mixture import MixtureSettings, Order, Phase
from trainer.plan.plan import Plan
from trainer.plan.steps import STATE_FILE, Costs, PlanState, Step
from trainer.plan.windows import SourceWindows
from trainer.reading.changes import changes_since
from trainer.reading.consumed import QuarantineRow, consumed_of_buffer
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.micro_batches import as_tensor
from trainer.reading.reader import Loader, RankStep, SampleReader, SequenceReader
from trainer.reading.reading_process import ReadingProcess
from trainer.reading.stream_state import StreamState
from trainer.reading.streaming import StreamLoader, StreamStep
from trainer.reading.window_tables import source_windows, windows_fingerprint


@dataclass(frozen=True)
class ResumedFrom:
    """A checkpoint from which a run resumes.

    Attributes:
        files: Contents of the files of its data, by their names.
        run: Folder of the run.
        section: The run's section of the config, for messages.
        names: Names of the sources then, in the plan's order.
    """

    files: Mapping[str, str]
    run: str
    section: str
    names: Sequence[str]


@dataclass(frozen=True)
class RunData(ABC):
    """Data that a run is trained on.

    Attributes:
        order: `exact` if the order depends only on data, seed and mixture.
    """

    order: ClassVar[Order]
    run: RunSettings
    tokenizer: Tokenizer
    model: EmuConfig

    @property
    @abstractmethod
    def tokenizer_folder(self) -> str:
        """Folder of the tokenizer."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the sources."""

    @property
    @abstractmethod
    def sizes(self) -> tuple[int | None, ...]:
        """Number of training samples of each source; None if unknown."""

    @property
    def refused(self) -> list[QuarantineRow]:
        """Samples that are known before training to be left out."""
        return []

    @abstractmethod
    def loader(self, costs: Costs, world: World, state: Mapping[str, str] | None) -> Loader | StreamLoader:
        """Return the loader of a rank's steps, from a checkpoint's files of the data on, or from the beginning.

        Raises:
            UserError: If the mixture does not fit the data, or the state belongs to other data.
        """

    def resumed(self, checkpoint: ResumedFrom, costs: Costs) -> Mapping[str, str]:
        """Return a checkpoint's files of the data, from which the loader resumes; all ranks call.

        Raises:
            UserError: If the data have changed, and the settings do not say that the run continues on them.
        """
        return checkpoint.files

    @abstractmethod
    def change(self, loader: Any, mixture: MixtureSettings) -> int:
        """Change a loader's mixture; return the first step of the new one. All ranks call between the same two steps.

        Raises:
            UserError: If it cannot be changed; nothing has changed then.
        """

    @abstractmethod
    def first_images(self, costs: Costs) -> Iterator[Tensor]:
        """Yield the images of the first steps, the same on every rank."""

    @abstractmethod
    def totals(self, read: Any, world: World) -> Totals:
        """Return the totals of a step of the loader, over all ranks; all must call."""

    def gathered(self, state: Any, world: World) -> Any:
        """Return the state of all ranks after a step, on the first rank; all must call."""
        return state


@dataclass(frozen=True)
class CorpusData(RunData):
    """One split of a corpus, as read by a run."""

    order = "exact"
    corpus: TrainingCorpus
    sources: tuple[SourceWindows, ...]
    fingerprint: str

    @abstractmethod
    def reader(self) -> SampleReader:
        """Return a reader of the plan's chunks."""

    @abstractmethod
    def fingerprint_of(self, corpus: str) -> str:
        """Return the fingerprint as it was with another version of the corpus, by that one's own fingerprint."""

    def resumed(self, checkpoint: ResumedFrom, costs: Costs) -> Mapping[str, str]:
        """Return a checkpoint's files of the data, adapted to a corpus that has changed. As in `RunData.resumed`."""
        state = PlanState.from_json(checkpoint.files[STATE_FILE])
        fresh = self.plan(costs)
        if state.fingerprint == fresh.fingerprint:
            return checkpoint.files
        for change in changes_since(self.corpus.folder, self.corpus.manifest.fingerprint):
            before = replace(self, fingerprint=self.fingerprint_of(change.fingerprint_before))
            if before.plan(costs).fingerprint != state.fingerprint:
                continue
            if self.run.data.when_corpus_changes == "refuse":
                raise UserError(
                    f"{self.corpus.folder}: {change.words}, since the checkpoint of step {state.step}. To continue on "
                    f"what is there, add --set {checkpoint.section}.data.when_corpus_changes=continue"
                )
            position, consumed = consumed_of_buffer(checkpoint.run, state)
            drawn = drawn_before(state, checkpoint.names, position, consumed)
            continued = continue_on(state, fresh.state, self.sources, drawn, change.taken(self.corpus.split))
            return {**checkpoint.files, STATE_FILE: replace(continued, position=position, note=change.words).to_json()}
        return checkpoint.files  # of another corpus, which the plan refuses

    @property
    def tokenizer_folder(self) -> str:
        """Folder of the tokenizer."""
        return tokens_folder(self.corpus.folder, self.corpus.tokens.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources, in the plan's order."""
        return tuple(source.name for source in self.sources)

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Number of training samples of each source."""
        return tuple(source.num_samples for source in self.sources)

    @property
    def refused(self) -> list[QuarantineRow]:
        """Samples that are known before training to be left out."""
        return [QuarantineRow(s.name, key, None, reason) for s in self.sources for key, reason in s.refused]

    def plan(self, costs: Costs, state: PlanState | None = None) -> Plan:
        """Return the plan of the steps from a state on.

        Raises:
            UserError: If the mixture does not fit the corpus, or the state belongs to another plan.
        """
        return Plan(
            self.sources,
            self.run.data.plan,
            self._phases(self.run.mixture),
            self.fingerprint,
            costs=costs,
            max_epochs=self.run.mixture.max_epochs,
            continues=self.run.mixture.when_source_ends == "continue",
            state=state,
        )

    def loader(self, costs: Costs, world: World, state: Mapping[str, str] | None) -> Loader:
        """Return the loader of a rank's steps. Arguments and errors as in `RunData.loader`."""
        return self.loader_of_rank(costs, world.rank, world.size, state)

    def loader_of_rank(self, costs: Costs, rank: int, world_size: int, state: Mapping[str, str] | None) -> Loader:
        """Return the loader of a rank of so many. Other arguments and errors as in `RunData.loader`."""
        plan = self.plan(costs, PlanState.from_json(state[STATE_FILE]) if state is not None else None)
        return Loader(plan, self.reader(), self.run.data.reader, rank, world_size)

    def change(self, loader: Loader | ReadingProcess, mixture: MixtureSettings) -> int:
        """Change a loader's mixture. Arguments and errors as in `RunData.change`."""
        return loader.change(self._phases(mixture))

    def _phases(self, mixture: MixtureSettings) -> list[Phase]:
        """Return the phases that begin within the run, and one that begins at its end."""
        # Packing buffers end where phases begin; the last phase makes the last buffer end with the run.
        within = [phase for phase in mixture.phases if phase.step < self.run.steps]
        return [*within, within[-1].model_copy(update={"step": self.run.steps})]

    def first_images(self, costs: Costs) -> Iterator[Tensor]:
        """Yield the images of the plan's first packing buffer."""
        plan, reader = self.plan(costs), self.reader()
        buffer = plan.plan_buffer(plan.state)
        for number in range(buffer.end.step):
            for pack in Step(number, buffer).packs:
                for chunk in pack:
                    yield from map(as_tensor, reader.read(chunk, number).images[: chunk.images] if chunk.images else ())

    def totals(self, read: RankStep, world: World) -> Totals:
        """Return the totals of a step, known from the plan."""
        return Totals.of(read.step, len(self.sources))


@dataclass(frozen=True)
class TrainingData(CorpusData):
    """Samples as sequences, for the main model."""

    layout: Layout

    @classmethod
    def open(cls, folder: str, wanted: ModelSettings, run: RunSettings, split: Split = "train") -> Self:
        """Open the data of a run.

        Raises:
            UserError: If the corpus, its tokens or the model do not fit each other.
        """
        corpus, tokenizer, model = open_corpus(folder, wanted, run, split, chat=cls.is_chat(run))
        seq_len = checked_seq_len(run, model)
        layout = cls.make_layout(tokenizer, model, run)
        arguments = (corpus.manifest, corpus.tokens, layout, seq_len, split)
        sources = tuple(source_windows(corpus.folder, *arguments, cache=run.data.cache))
        return cls(run, tokenizer, model, corpus, sources, windows_fingerprint(*arguments), layout)

    def fingerprint_of(self, corpus: str) -> str:
        """Return the fingerprint as it was with another version of the corpus."""
        arguments = self.corpus.manifest, self.corpus.tokens, self.layout, self.run.data.plan.seq_len, self.corpus.split
        return windows_fingerprint(*arguments, corpus=corpus)

    @classmethod
    def is_chat(cls, run: RunSettings) -> bool:
        """Return whether the vocabulary has tokens for the two sides of a conversation."""
        return False

    @classmethod
    def make_layout(cls, tokenizer: Tokenizer, model: EmuConfig, run: RunSettings) -> Layout:
        """Return the layout, which writes samples as sequences."""
        return Layout(tokenizer, model.bridge, run.data.layout)

    def reader(self) -> SequenceReader:
        """Return a reader of windows, laid out as sequences."""
        run, plan = self.run, self.run.data.plan
        return SequenceReader(
            self.corpus,
            self.sources,
            self.layout,
            seq_len=plan.seq_len,
            image_size=self.model.encoder.image_size,
            seed=plan.seed,
            media_first=run.media_first,
            resampling=self.model.encoder.resampling,
        )


@dataclass(frozen=True)
class StreamData(RunData):
    """Streams as sequences, for the main model."""

    order = "approximate"
    folder: str
    layout: Layout

    @classmethod
    def open(cls, folder: str, wanted: ModelSettings, run: RunSettings) -> Self:
        """Open the data of a run.

        Args:
            folder: A corpus with tokens, or a tokenizer's folder: streams have no tokenizer of their own.
            wanted: Settings of the model.
            run: Settings of the run, with the streams.

        Raises:
            UserError: If there is no tokenizer, or the model does not fit.
        """
        folder = folder.rstrip("/")
        if _tokenizer_file(folder) is None:
            folder = tokens_folder(folder, load_tokens(folder, load_manifest(folder), run.data.tokens).name)
        tokenizer = load_tokenizer(folder, wanted)
        model = wanted.resolve(tokenizer)
        checked_seq_len(run, model)
        return cls(run, tokenizer, model, folder, Layout(tokenizer, model.bridge, run.data.layout))

    @property
    def tokenizer_folder(self) -> str:
        """Folder of the tokenizer."""
        return self.folder

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the streams, in the config's order."""
        return tuple(self.run.data.streams)

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """None for each stream: their sizes are unknown."""
        return (None,) * len(self.names)

    def loader(self, costs: Costs, world: World, state: Mapping[str, str] | None) -> StreamLoader:
        """Return the loader of a rank's steps. Arguments and errors as in `RunData.loader`."""
        found = StreamState.from_files(state) if state is not None else None
        world.say(f"data.streams: {', '.join(self.names)}: their order is approximate")
        if found is not None and found.world_size != world.size:
            world.say(
                f"data.streams: another number of processes, now {world.size}: each stream resumes at the first tar "
                "that was unfinished on any process"
            )
        return self._loader(world.rank, world.size, found)

    def change(self, loader: StreamLoader, mixture: MixtureSettings) -> int:
        """Refuse: a stream's position does not depend only on the mixture."""
        raise UserError("data.streams: to change their mixture, stop the run and start it again")

    def first_images(self, costs: Costs) -> Iterator[Tensor]:
        """Yield the images of as many steps as a packing buffer has."""
        plan, loader = self.run.data.plan, self._loader(0, 1, None)
        try:
            for step in islice(loader, max(1, plan.packing_buffer_size // plan.global_batch_size)):
                for pack in step.packs:
                    for chunk in pack:
                        yield from map(as_tensor, chunk.images)
        finally:
            loader.close()

    def totals(self, read: StreamStep, world: World) -> Totals:
        """Return the totals of a step, over all ranks."""
        return Totals.of_rows(read.rows, self.names).over(world)

    def gathered(self, state: StreamState, world: World) -> StreamState:
        """Return the state of all ranks after a step."""
        return state.joined(world.gather(state))

    def _loader(self, rank: int, world_size: int, state: StreamState | None) -> StreamLoader:
        run = self.run
        return StreamLoader(
            run.data.streams,
            run.mixture.phases,
            run.data.plan,
            run.data.reader,
            self.layout,
            self.model.encoder.image_size,
            media_first=run.media_first,
            resampling=self.model.encoder.resampling,
            rank=rank,
            world_size=world_size,
            state=state,
        )


def checked_seq_len(run: RunSettings, model: EmuConfig) -> int:
    """Return the positions per packed sequence.

    Raises:
        UserError: If they are more than the model has.
    """
    seq_len, longest = run.data.plan.seq_len, model.language_model.max_positions
    if seq_len > longest:
        raise UserError(f"data.plan.seq_len is {seq_len}, the language model has {longest} positions")
    return seq_len


def _tokenizer_file(folder: str) -> str | None:
    files = (storage.join(folder, name) for name in TOKENIZER_FILES)
    return next((file for file in files if storage.exists(file)), None)


def load_tokenizer(folder: str, wanted: ModelSettings, *, chat: bool = False) -> Tokenizer:
    """Load the tokenizer of a folder, with the model's own tokens.

    Raises:
        UserError: If there is none.
    """
    if (file := _tokenizer_file(folder)) is None:
        raise UserError(f"{folder}: no tokenizer; it has neither {' nor '.join(TOKENIZER_FILES)}")
    try:
        return Tokenizer.of_file(file, storage.read_bytes(file), wanted.family, chat=chat)
    except ValueError as error:
        raise UserError(str(error)) from error


def open_corpus(
    folder: str, wanted: ModelSettings, run: RunSettings, split: Split, *, chat: bool = False
) -> tuple[TrainingCorpus, Tokenizer, EmuConfig]:
    """Open a corpus; return it, its tokenizer with the model's own tokens, and the model with that vocabulary.

    Raises:
        UserError: If the corpus has no tokens, or more than one set and none is named.
    """
    if run.data.streams:
        raise UserError("data.streams: only `pretrain` reads streams; index these tars, or name another corpus")
    corpus = TrainingCorpus.open(folder, tokens=run.data.tokens, split=split, cache=run.data.cache)
    tokenizer = load_tokenizer(tokens_folder(corpus.folder, corpus.tokens.name), wanted, chat=chat)
    return corpus, tokenizer, wanted.resolve(tokenizer)
