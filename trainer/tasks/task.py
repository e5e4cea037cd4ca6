"""The interface between the training loop and a task: the model to train, its data and its losses."""

# ruff: noqa: B027 - methods without a body are optional hooks
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pipelines.document import Split
from trainer.config import EngineSettings, ModelSettings, RunSettings, Stage
from trainer.engine.distributed import World
from trainer.engine.metrics import Totals
from trainer.plan.steps import Costs
from trainer.reading.micro_batches import Collate, MicroBatch
from trainer.reading.reader import ReadChunk
from trainer.tasks.data import CorpusData, RunData


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
        modules: Names of the model's parts that have learning rates.
        sizes_vary: Whether micro-batches of a run differ in size, as in their number of images.
        run: The run's settings.
        data: The split that is trained on.
    """

    objectives: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[str, ...]]
    sizes_vary: ClassVar[bool] = True
    run: RunSettings
    data: RunData

    def __init__(self, model: ModelSettings, run: Any, corpus: str, out: str, world: World) -> None:
        self.run = run
        self._model, self._corpus, self._out, self._world = model, corpus, out, world
        self.data = self.open("train")

    @abstractmethod
    def open(self, split: Split) -> RunData:
        """Open a split of the corpus."""

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the model for the beginning of the run."""

    @abstractmethod
    def collate(self, packs: Sequence[Sequence[ReadChunk]]) -> MicroBatch:
        """Collate packed sequences to the input of a forward pass."""

    def detached(self) -> tuple[Callable[[], CorpusData], Collate] | None:
        """Return how another process opens the same data and collates it, or None if that needs the model.

        Both are pickled.
        """
        return None

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Return all settings that determine the shapes of the weights."""

    @abstractmethod
    def flops(self, counts: Totals, targets: Sequence[int], trained: Collection[str]) -> float:
        """Return the useful FLOPs of a step.

        Args:
            counts: Samples, tokens and images of the step.
            targets: Number of targets of each objective.
            trained: Modules that are trained.
        """

    @abstractmethod
    def export(self, weights: dict[str, Tensor], folder: str) -> None:
        """Write whole weights with everything needed to use them."""

    def load(self, folder: str) -> nn.Module:
        """Load the model that `export` wrote, to continue in another stage."""
        raise NotImplementedError("a task with several stages must implement `load`")

    def costs(self) -> Costs:
        """Return the costs by which packed sequences are balanced."""
        return Costs()

    def begin(self, module: nn.Module, first_images: Iterator[Tensor], device: torch.device) -> None:
        """Fit parts of the model to the data before the first step, and before a stage that trains other modules.

        Only the first process calls it; the others receive its weights.
        """

    def prepare(self, module: nn.Module, stage: Stage, dtype: torch.dtype) -> None:
        """Prepare the model for a stage, before the engine wraps it."""

    def change(self, module: nn.Module, stage: Stage) -> None:
        """Adapt the model to another stage that trains the same modules."""

    def blocks(self, module: nn.Module) -> Iterator[nn.Module]:
        """Return the parts that are compiled one by one."""
        return iter(())

    def stepped(self, module: nn.Module) -> None:
        """Run after each step in which the optimizer moved."""

    def samples(self, module: nn.Module, data: RunData, num: int) -> list[dict[str, Any]]:
        """Return the model's output for `num` held-out samples, in readable form."""
        return []


def mlp_multiple(engine: EngineSettings, device: torch.device) -> int:
    """Return the multiple to which MLPs of an odd width are padded: the configured one, or the device's own."""
    if engine.mlp_multiple is not None:
        return engine.mlp_multiple
    # 2,730 columns 37.1 % MFU, 2,752 columns 41.7 % (H200, EVA-02-L)
    return 64 if device.type == "cuda" and engine.zero_stage < 3 else 1
