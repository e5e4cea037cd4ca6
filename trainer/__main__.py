"""`python -m trainer`: one process, or under `torchrun`, `deepspeed` or `srun` unchanged."""

import warnings
from collections.abc import Callable
from typing import Any

import click

from pipelines.command_line import run_commands
from pipelines.errors import UserError
from pipelines.settings import load_settings


def main() -> None:
    """Run a command."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    run_commands(commands, rerun="; rerun to go on from the last checkpoint")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def commands() -> None:
    """Train a multimodal model on a corpus (see trainer/configs/ and README.md)."""


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command takes."""
    options = [
        click.option("--config", "config_path", required=True, help="YAML file of the run."),
        click.option("--corpus", required=True, help="The corpus's folder, local or an fsspec URL."),
        click.option("--out", required=True, help="The run's folder."),
        click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the config."),
        click.option("--local_rank", default=None, hidden=True, help="Given by the deepspeed launcher."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@commands.command()
@run_options
def encoder(config_path: str, corpus: str, out: str, overrides: tuple[str, ...], local_rank: str | None) -> int:
    """Train a visual encoder on the corpus's pairs, where no released one is at hand."""
    return _train(("encoder",), config_path, corpus, out, overrides)


@commands.command()
@run_options
def pretrain(config_path: str, corpus: str, out: str, overrides: tuple[str, ...], local_rank: str | None) -> int:
    """Train the main model; rerun to go on from the last checkpoint."""
    return _train(("pretrain",), config_path, corpus, out, overrides)


@commands.command()
@run_options
def decoder(config_path: str, corpus: str, out: str, overrides: tuple[str, ...], local_rank: str | None) -> int:
    """Train the image decoder, and before it its autoencoder if the config says so."""
    return _train(("decoder",), config_path, corpus, out, overrides)


@commands.command("all")
@run_options
def every(config_path: str, corpus: str, out: str, overrides: tuple[str, ...], local_rank: str | None) -> int:
    """Train all that the config has a section for: encoder, main model, decoder; what is finished is left as it is."""
    return _train(None, config_path, corpus, out, overrides)


def _train(names: tuple[str, ...] | None, config_path: str, corpus: str, out: str, overrides: tuple[str, ...]) -> int:
    """Train what commands name; null: whatever the config has a section for, and is not finished."""
    from trainer.config import TrainConfig

    config = load_settings(TrainConfig, config_path, overrides)
    from trainer import distributed
    from trainer.runs import COMMANDS, is_finished, run, run_folder

    chosen = names or tuple(name for name in COMMANDS if getattr(config, name) is not None)
    if missing := [name for name in chosen if getattr(config, name) is None]:
        raise UserError(f"{config_path}: has no section `{missing[0]}:`")
    world = distributed.start()
    from trainer.training import STOPPED

    try:
        for name in chosen:
            settings, folder = getattr(config, name), run_folder(name, out)
            if names is None and is_finished(folder, settings):
                end = "finished before"
            else:
                end = run(name, config, corpus, out, world)
            if end == STOPPED:
                world.say(f"{name}: {end}, saved in {folder}/checkpoints; rerun to go on")
                return int(settings.checkpoints.requeue_exit_code)
            world.say(f"{name}: {end}, {settings.steps} steps, {folder}/metrics.jsonl, {folder}/model")
    finally:
        distributed.stop()
    return 0


@commands.command()
@click.option("--config", "config_path", required=True, help="YAML file of the run.")
@click.option("--corpus", required=True, help="The corpus's folder, local or an fsspec URL.")
@click.option("--out", default=None, help="Not used: nothing is written.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the config.")
def plan(config_path: str, corpus: str, out: str | None, overrides: tuple[str, ...]) -> None:
    """Show what a mixture will do, before anything runs."""
    from trainer.config import TrainConfig

    config = load_settings(TrainConfig, config_path, overrides)
    if config.pretrain is None:
        raise UserError(f"{config_path}: has no section `pretrain:`")
    from trainer.data import TrainingData
    from trainer.forecast import describe, forecast

    data = TrainingData.open(corpus, config.model, config.pretrain)
    click.echo(describe(data, forecast(data)))


if __name__ == "__main__":
    main()
