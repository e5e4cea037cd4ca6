"""The runs behind the trainer's commands: which task, in which folder, and in which order."""

import json
from collections.abc import Callable, Iterable
from operator import attrgetter

from pipelines import storage
from pipelines.errors import UserError
from trainer.config import TrainConfig
from trainer.engine.distributed import World
from trainer.loop import STOPPED, TRAINED, Training
from trainer.plan.mixture import MixtureSettings
from trainer.run_settings import RunSettings
from trainer.tasks.task import Task

COMMANDS = ("encoder", "pretrain", "decoder", "tune")
"""Each a section of the config."""


def run(runs: Iterable[Callable[[], Training]]) -> str:
    """Train what `trainings` gives, one run after the other, each from where it was; `FINISHED` or `STOPPED`."""
    end = STOPPED
    for make_training in runs:
        end = make_training().run()
        if end == STOPPED:
            break
    return end


def run_folder(command: str, out: str) -> str:
    """Where a command's run lies."""
    return out.rstrip("/") if command == "pretrain" else storage.join(out, command)


def is_finished(folder: str, settings: RunSettings) -> bool:
    """Whether a run has made all its steps and written its model of them."""
    path = storage.join(folder, "model", TRAINED)
    return storage.exists(path) and json.loads(storage.read_bytes(path))["steps"] >= settings.steps


def trainings(
    command: str,
    config: TrainConfig,
    corpus: str,
    out: str,
    world: World,
    config_now: Callable[[], TrainConfig] | None = None,
) -> list[Callable[[], Training]]:
    """What makes the runs of a command, in their order.

    Args:
        command: One of `COMMANDS` that the config has a section for.
        config: Of all commands.
        corpus: The corpus's folder.
        out: The folder of the main model's run, with those of the others in it.
        world: Its processes.
        config_now: Reads the config again, when SIGHUP asks for its mixture.
    """

    def made(make_task: Callable[[], Task], name: str, section: str | None = None) -> Callable[[], Training]:
        def mixture_now() -> MixtureSettings:
            now = config_now() if config_now is not None else config
            try:
                found: MixtureSettings = attrgetter(f"{section or name}.mixture")(now)
            except AttributeError as error:
                raise UserError(f"the config has no section `{section or name}:` any more") from error
            return found

        return lambda: Training(make_task, config, run_folder(name, out), world, mixture_now)

    if command == "encoder" and (encoder := config.encoder) is not None:
        from trainer.tasks.encoder import EncoderTask

        return [made(lambda: EncoderTask(config.model, encoder, corpus), "encoder")]
    if command == "pretrain" and (pretrain := config.pretrain) is not None:
        from trainer.tasks.pretrain import PretrainTask

        return [made(lambda: PretrainTask(config.model, pretrain, corpus, out), "pretrain")]
    if command == "decoder" and (decoder := config.decoder) is not None:
        from trainer.tasks.decoder import AutoencoderTask, DecoderTask

        last = made(lambda: DecoderTask(config.model, decoder, corpus, out, world), "decoder")
        if (autoencoder := decoder.autoencoder) is None:
            return [last]
        first = made(lambda: AutoencoderTask(config.model, autoencoder, corpus), "autoencoder", "decoder.autoencoder")
        return [first, last]
    if command == "tune" and (tune := config.tune) is not None:
        from trainer.tasks.tune import TuneTask

        return [made(lambda: TuneTask(config.model, tune, corpus, out), "tune")]
    raise ValueError(f"the config has no section {command!r}")
