"""What the loop of `loop.py` does not know: which model is trained, on what, and by which losses."""

# ruff: noqa: B027 - what a task need not do is done by nothing
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipelines.document import Split
from trainer.config import ModelSettings, RunSettings, Stage
from trainer.engine.distributed import World
from trainer.engine.metrics import Totals
from trainer.plan.steps import Costs
from trainer.reading.micro_batches import MicroBatch
from trainer.reading.reader import ReadChunk
from trainer.tasks.data import RunData


class Task(ABC):
    """A model, the data it is trained on, and its losses.

    Args:
        model: The main model's settings.
        run: The run's settings.
        corpus: The corpus's folder.
        out: Folder of the main model's run, which holds the runs of the other commands.
        world: The run's processes.

    Attributes:
        objectives: Names of the losses, in the order of a micro-batch's.
        modules: Names of the model's parts that learning rates are given for.
        run: The run's settings.
        data: The split that is trained on.
    """

    objectives: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[str, ...]]
    run: RunSettings
    data: RunData

    def __init__(self, model: ModelSettings, run: Any, corpus: str, out: str, world: World) -> None:
        self.run = run
        self._model, self._corpus, self._out, self._world = model, corpus, out, world
        self.data = self.open("train")

    @abstractmethod
    def open(self, split: Split) -> RunData:
        """A split of the corpus."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The model at the beginning of the run."""

    @abstractmethod
    def collate(self, packs: Sequence[Sequence[ReadChunk]]) -> MicroBatch:
        """What a forward pass is given."""

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """All settings that decide the shapes of the weights."""

    @abstractmethod
    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """Useful arithmetic of a step: what it holds, targets of each objective, and the modules that learn."""

    @abstractmethod
    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """Write whole weights with all that is needed to use them."""

    def load(self, folder: str) -> nn.Module:
        """The model that `export` wrote, to go on with in another stage."""
        raise NotImplementedError("a task with several stages gives its model back")

    def costs(self) -> Costs:
        """What packs are balanced by."""
        return Costs()

    def begin(self, module: nn.Module, first_images: Iterator[Tensor], device: torch.device) -> None:
        """What is set from the data before the first step, and before a stage that trains other modules.

        Only the first process asks for it; the others get the weights from there.
        """

    def prepare(self, module: nn.Module, stage: Stage, dtype: torch.dtype) -> None:
        """Fit the model to a stage, before the engine has it."""

    def change(self, module: nn.Module, stage: Stage) -> None:
        """Fit the model to another stage of the same modules."""

    def blocks(self, module: nn.Module) -> Iterator[nn.Module]:
        """Parts that are compiled one by one."""
        return iter(())

    def stepped(self, module: nn.Module) -> None:
        """What follows a step that was taken."""

    def samples(self, module: nn.Module, data: RunData, num: int) -> list[dict[str, Any]]:
        """What the model makes of so many held-out samples, to read."""
        return []
