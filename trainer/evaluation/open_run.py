"""Opening a finished run with the settings of a config."""

from pathlib import Path

from model.errors import WeightsError
from model.finished_run import FinishedRun
from model.template import TEMPLATE
from pipelines.errors import UserError
from trainer.config import TrainConfig


def open_run(folder: str, config: TrainConfig) -> FinishedRun:
    """Open a finished run.

    Args:
        folder: The run's folder.
        config: Settings of evaluation; and of the layout, for a model that does not carry its own.

    Raises:
        UserError: If it has no weights, or its weights or settings cannot be read.
    """
    section = config.tune if (Path(folder) / "model" / TEMPLATE).is_file() else config.pretrain
    layout = section.data.layout if section is not None else None
    try:
        return FinishedRun.open(folder, layout=layout, batch=config.evaluate.batch)
    except WeightsError as error:
        raise UserError(str(error)) from error
