"""What a config makes of a corpus: tokenizer, layout, windows, plan and reader."""

from dataclasses import dataclass
from typing import Self

from model.config import EmuConfig
from model.sequence import Layout
from model.tokenizer import Tokenizer
from pipelines.document import Split
from pipelines.errors import UserError
from pipelines.token_sidecar import tokens_folder
from trainer.config import TrainConfig
from trainer.consumed import QuarantineRow
from trainer.corpus import TrainingCorpus
from trainer.plan import Plan
from trainer.plan_state import Costs, PlanState
from trainer.reader import PieceReader
from trainer.window_tables import source_windows, windows_fingerprint
from trainer.windows import SourceWindows


@dataclass(frozen=True)
class TrainingData:
    """One split of a corpus, as a config reads it."""

    config: TrainConfig
    corpus: TrainingCorpus
    tokenizer: Tokenizer
    layout: Layout
    model: EmuConfig
    sources: tuple[SourceWindows, ...]
    fingerprint: str

    @classmethod
    def open(cls, folder: str, config: TrainConfig, split: Split = "train") -> Self:
        """The data of a run.

        Raises:
            UserError: If the corpus, its tokens or the model do not fit each other.
        """
        settings = config.data
        corpus = TrainingCorpus.open(folder, tokens=settings.tokens, split=split, cache=settings.cache)
        assert corpus.tokens is not None, "opened with tokens"
        try:
            tokenizer = Tokenizer.load(tokens_folder(corpus.folder, corpus.tokens.name), config.model.family)
        except ValueError as error:
            raise UserError(str(error)) from error
        model = config.model.resolve(tokenizer)
        longest = model.language_model.max_positions
        if settings.plan.length > longest:
            raise UserError(f"data.plan.length is {settings.plan.length}, the language model has {longest} positions")
        layout = Layout(tokenizer, model.bridge, settings.layout)
        arguments = (corpus.manifest, corpus.tokens, layout, settings.plan.length, split)
        sources = source_windows(corpus.folder, *arguments)
        return cls(config, corpus, tokenizer, layout, model, tuple(sources), windows_fingerprint(*arguments))

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
        mixture, steps = self.config.mixture, self.config.steps
        # Stretches end where phases begin; one more at the end, so that what is planned is trained on.
        last = [phase for phase in mixture.phases if phase.step < steps][-1]
        phases = [*(phase for phase in mixture.phases if phase.step < steps), last.model_copy(update={"step": steps})]
        return Plan(
            self.sources,
            self.config.data.plan,
            phases,
            self.fingerprint,
            costs=costs,
            max_passes=mixture.max_passes,
            state=state,
        )

    def reader(self) -> PieceReader:
        """Reads the plan's pieces."""
        plan = self.config.data.plan
        return PieceReader(
            self.corpus,
            self.sources,
            self.layout,
            length=plan.length,
            image_size=self.model.encoder.image_size,
            seed=plan.seed,
        )
