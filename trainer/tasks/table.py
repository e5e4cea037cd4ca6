"""The tasks behind the trainer's commands, in the order in which they are trained."""

from dataclasses import dataclass

from pipelines import storage
from trainer.config import RunSettings, TrainConfig
from trainer.tasks.decoder import AutoencoderTask, DecoderTask
from trainer.tasks.encoder import EncoderTask
from trainer.tasks.pretrain import PretrainTask
from trainer.tasks.task import Task
from trainer.tasks.tune import TuneTask
from trainer.tasks.video_decoder import VideoDecoderTask


@dataclass(frozen=True)
class TaskRun:
    """A task with its section of the config and its folder.

    Attributes:
        task: Class of the task.
        section: Its section of the config.
        subfolder: Its folder in the main model's run; empty for the main model itself.
    """

    task: type[Task]
    section: str
    subfolder: str

    def settings(self, config: TrainConfig) -> RunSettings | None:
        """Return the run's section of a config; None if the config has none."""
        found: object = config
        for name in self.section.split("."):
            found = getattr(found, name, None)
        return found if isinstance(found, RunSettings) else None

    def replaced(self, config: TrainConfig, run: RunSettings) -> TrainConfig:
        """Return a config with other settings of the run."""
        *parents, last = self.section.split(".")
        if not parents:
            return config.model_copy(update={last: run})
        (parent,) = parents
        return config.model_copy(update={parent: getattr(config, parent).model_copy(update={last: run})})

    def folder(self, out: str) -> str:
        """Return the run's folder, given that of the main model."""
        return storage.join(out, self.subfolder) if self.subfolder else out.rstrip("/")


TASKS: dict[str, tuple[TaskRun, ...]] = {
    "encoder": (TaskRun(EncoderTask, "encoder", "encoder"),),
    "pretrain": (TaskRun(PretrainTask, "pretrain", ""),),
    "decoder": (
        TaskRun(AutoencoderTask, "decoder.autoencoder", "autoencoder"),
        TaskRun(DecoderTask, "decoder", "decoder"),
    ),
    "video_decoder": (TaskRun(VideoDecoderTask, "video_decoder", "video_decoder"),),
    "tune": (TaskRun(TuneTask, "tune", "tune"),),
}
"""The runs of each command. A run whose section the config leaves out is not trained."""
