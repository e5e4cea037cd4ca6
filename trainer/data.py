"""What a run's settings make of a corpus: its sources as windows, the plan over them, and what reads them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from model.config import EmuConfig
from model.sequence import Layout
from model.tokenizer import Tokenizer
from pipelines.document import Split
from pipelines.errors import UserError
from pipelines.token_sidecar import tokens_folder
from trainer.config import ModelSettings
from trainer.consumed import QuarantineRow
from trainer.corpus import TrainingCorpus
from trainer.plan import Plan
from trainer.plan_state import Costs, PlanState
from trainer.reader import PieceReader, SampleReader
from trainer.run_settings import RunSettings
from trainer.window_tables import source_windows, windows_fingerprint
from trainer.windows import SourceWindows


@dataclass(frozen=True)
class RunData(ABC):
    """One split of a corpus, as a run reads it."""

    run: RunSettings
    corpus: TrainingCorpus
    tokenizer: Tokenizer
    model: EmuConfig
    sources: tuple[SourceWindows, ...]
    fingerprint: str

    @abstractmethod
    def reader(self) -> SampleReader:
        """Reads the plan's pieces."""

    @property
    def names(self) -> tuple[str, ...]:
        """The sources', in the plan's order."""
        return tuple(source.name for source in self.sources)

    @property
    def refused(self) -> list[QuarantineRow]:
        """What is known before training not to be trained on."""
        return [QuarantineRow(s.name, key, None, reason) for s in self.sources for key, reason in s.refused]

    def plan(self, costs: Costs, state: PlanState | None = None) -> Plan:
        """The steps from a state on.

        Raises:
            UserError: If the mixture does not fit the corpus, or the state is of another plan.
        """
        mixture, steps = self.run.mixture, self.run.steps
        # Stretches end where phases begin; one more at the end, so that what is planned is trained on.
        last = [phase for phase in mixture.phases if phase.step < steps][-1]
        phases = [*(phase for phase in mixture.phases if phase.step < steps), last.model_copy(update={"step": steps})]
        return Plan(
            self.sources,
            self.run.data.plan,
            phases,
            self.fingerprint,
            costs=costs,
            max_passes=mixture.max_passes,
            state=state,
        )


@dataclass(frozen=True)
class TrainingData(RunData):
    """Samples as sequences, for the main model."""

    layout: Layout

    @classmethod
    def open(cls, folder: str, wanted: ModelSettings, run: RunSettings, split: Split = "train") -> Self:
        """The data of a run.

        Raises:
            UserError: If the corpus, its tokens or the model do not fit each other.
        """
        corpus, tokenizer, model = open_corpus(folder, wanted, run, split, chat=cls.is_chat(run))
        length, longest = run.data.plan.length, model.language_model.max_positions
        if length > longest:
            raise UserError(f"data.plan.length is {length}, the language model has {longest} positions")
        layout = cls.make_layout(tokenizer, model, run)
        arguments = (corpus.manifest, corpus.tokens, layout, length, split)
        sources = tuple(source_windows(corpus.folder, *arguments))
        return cls(run, corpus, tokenizer, model, sources, windows_fingerprint(*arguments), layout)

    @classmethod
    def is_chat(cls, run: RunSettings) -> bool:
        """Whether the two sides of a conversation have tokens."""
        return False

    @classmethod
    def make_layout(cls, tokenizer: Tokenizer, model: EmuConfig, run: RunSettings) -> Layout:
        """What writes samples as sequences."""
        return Layout(tokenizer, model.bridge, run.data.layout)

    def reader(self) -> PieceReader:
        """Reads windows, laid out as sequences."""
        run, plan = self.run, self.run.data.plan
        return PieceReader(
            self.corpus,
            self.sources,
            self.layout,
            length=plan.length,
            image_size=self.model.encoder.image_size,
            seed=plan.seed,
            media_first=lambda step: run.stages[run.stage_at(step)].media_first,
        )


def open_corpus(
    folder: str, wanted: ModelSettings, run: RunSettings, split: Split, *, chat: bool = False
) -> tuple[TrainingCorpus, Tokenizer, EmuConfig]:
    """A corpus, its tokenizer with the model's own tokens, and the model with that vocabulary.

    Raises:
        UserError: If the corpus has no tokens, or more than one set and none is named.
    """
    corpus = TrainingCorpus.open(folder, tokens=run.data.tokens, split=split, cache=run.data.cache)
    try:
        tokenizer = Tokenizer.load(tokens_folder(corpus.folder, corpus.tokens.name), wanted.family, chat=chat)
    except ValueError as error:
        raise UserError(str(error)) from error
    return corpus, tokenizer, wanted.resolve(tokenizer)
