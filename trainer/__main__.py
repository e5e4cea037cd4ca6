"""Command line of `python -m trainer`: for one process, and unchanged under `torchrun`, `deepspeed` or `srun`."""

import os
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from pipelines import storage
from pipelines.command_line import num_cores, run_commands
from pipelines.errors import RunError, UserError
from pipelines.settings import load_settings
from pipelines.shards.manifest import manifest_path

if TYPE_CHECKING:
    from trainer.config import RunSettings

_SECTIONS = ("encoder", "pretrain", "decoder", "video_decoder", "tune")
_SAVING = 600  # seconds that processes have for a checkpoint after the first signal, as in launch/torchrun.sh


def main() -> None:
    """Run the command given on the command line."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    run_commands(commands, rerun="; rerun to continue from the last checkpoint")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--local_rank", hidden=True, expose_value=False, help="Given by the deepspeed launcher.")
def commands() -> None:
    """Train a multimodal model on a corpus (see trainer/configs/ and README.md)."""


def _local(context: click.Context, parameter: click.Parameter, folder: str | None) -> str | None:
    """Refuse a run's folder that is not on a mounted file system."""
    if folder is not None and not storage.is_local(folder):
        raise UserError(
            f"--out {folder}: a run is written to a mounted file system, as DeepSpeed needs: give a path, and copy the "
            "folder afterwards"
        )
    return folder


def _processes(context: click.Context, parameter: click.Parameter, value: str) -> int | Literal["auto"]:
    """Return a number of processes, or `auto`."""
    if value == "auto":
        return "auto"
    if not value.isdecimal() or value == "0":
        raise click.BadParameter(f"{value!r} is neither a number above 0 nor auto")
    return int(value)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that trains."""
    options = [
        click.option("--config", "config_path", required=True, help="YAML file of the run."),
        click.option("--corpus", required=True, help="The corpus's folder, local or an fsspec URL."),
        click.option("--out", required=True, callback=_local, help="The run's folder, on a mounted file system."),
        click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the config."),
        click.option(
            "--processes",
            default="1",
            show_default=True,
            callback=_processes,
            help="Processes to start on this machine. auto: one per GPU, or per core without GPUs, as far as they "
            "divide the global batch sizes.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@commands.command()
@run_options
def encoder(**options: Any) -> int:
    """Train a vision encoder on the corpus's pairs, if no released one is used."""
    return _train(("encoder",), **options)


@commands.command()
@run_options
def pretrain(**options: Any) -> int:
    """Train the main model; rerun to continue from the last checkpoint."""
    return _train(("pretrain",), **options)


@commands.command()
@run_options
def decoder(**options: Any) -> int:
    """Train the image decoder, and before it its autoencoder if the config has a section for it."""
    return _train(("decoder",), **options)


@commands.command()
@run_options
def video_decoder(**options: Any) -> int:
    """Train the video decoder on the corpus's videos, from the trained image decoder."""
    return _train(("video_decoder",), **options)


@commands.command()
@run_options
def tune(**options: Any) -> int:
    """Tune the main model on instructions or on image generation."""
    return _train(("tune",), **options)


@commands.command("all")
@run_options
def every(**options: Any) -> int:
    """Train everything that has a section in the config, from encoder to tuning; skip what is finished."""
    return _train(None, **options)


def _is_alone() -> bool:
    """Return whether no launcher has started this process; others would wait for one that ends before it joins them."""
    return "RANK" not in os.environ and "SLURM_PROCID" not in os.environ


def _train(
    names: tuple[str, ...] | None,
    config_path: str,
    corpus: str,
    out: str,
    overrides: tuple[str, ...],
    processes: int | Literal["auto"],
) -> int:
    """Train the named commands; None trains every section of the config that is not finished."""
    from trainer.config import TrainConfig

    read_config = partial(load_settings, TrainConfig, config_path, overrides)
    config = read_config()
    for name in names or ():  # mistakes are told before torch is loaded, which takes seconds
        if (settings := getattr(config, name)) is None:
            raise UserError(f"{config_path}: has no section `{name}:`")
        if not settings.data.streams and _is_alone():
            manifest_path(corpus)
    if processes != 1 and _is_alone():
        runs = [run for name in names or _SECTIONS if (run := getattr(config, name)) is not None]
        number = _fitting_processes(runs) if processes == "auto" else processes
        if number > 1:
            return _train_in_processes(number, config_path, corpus, out, overrides)
    from trainer.engine import distributed
    from trainer.loop import STOPPED, is_finished, train
    from trainer.tasks.table import TASKS

    chosen = names or tuple(name for name in TASKS if getattr(config, name) is not None)
    world = distributed.start()
    try:
        for name in chosen:
            last = TASKS[name][-1]
            settings, folder = getattr(config, name), last.folder(out)
            if names is None and is_finished(last, config, out):
                end = "finished before"
            else:
                end = train(name, config, corpus, out, world, read_config)
            if end == STOPPED:
                world.say(f"{name}: {end}, saved in {folder}/checkpoints; rerun to continue")
                return int(settings.checkpoints.requeue_exit_code)
            world.say(f"{name}: {end}, {settings.steps} steps, {folder}/metrics.jsonl, {folder}/model")
    except RuntimeError as error:
        if distributed.lost_another(error):
            raise RunError("another process of the run has ended; see its own error") from error
        raise
    finally:
        distributed.stop()
    return 0


def _fitting_processes(runs: "Iterable[RunSettings]") -> int:
    """Return the largest number of processes for this machine among which all runs can divide their batches."""
    import torch

    parts = [part for run in runs for part in (run, getattr(run, "autoencoder", None)) if part is not None]
    sizes = [part.data.plan.global_batch_size // (part.engine.micro_batch_size or 1) for part in parts]
    most = torch.cuda.device_count() or num_cores()
    return max(number for number in range(1, most + 1) if not any(size % number for size in sizes))


def _train_in_processes(number: int, config_path: str, corpus: str, out: str, overrides: tuple[str, ...]) -> int:
    """Start this command once for each process, under torchrun, and return the exit code."""
    from trainer.launch.elastic import launch

    command = click.get_current_context().info_name
    options = ["--config", config_path, "--corpus", corpus, "--out", out, *(f"--set={one}" for one in overrides)]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun would, with four lines about it
    agent = ["--standalone", f"--nproc_per_node={number}", f"--shutdown_timeout={_SAVING}"]
    return launch([*agent, "-m", "trainer", str(command), *options])


@commands.command()
@click.option("--config", "config_path", default=None, help="YAML file of the run; not needed with --tasks.")
@click.option("--corpus", default=None, help="The corpus's folder, local or an fsspec URL; not needed with --tasks.")
@click.option("--out", required=True, callback=_local, help="The run's folder, on a mounted file system.")
@click.option(
    "--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the config, or of tasks."
)
@click.option("--tasks", multiple=True, help="YAML file of a benchmark, or a folder of them; may be repeated.")
@click.option("--data", default=".", show_default=True, help="Folder to which the paths in tasks are relative.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Questions answered together.")
def evaluate(
    config_path: str | None,
    corpus: str | None,
    out: str,
    overrides: tuple[str, ...],
    tasks: tuple[str, ...],
    data: str,
    batch: int,
) -> None:
    """Evaluate a finished run: on held-out samples of a corpus, or with --tasks on benchmarks.

    On a corpus: evaluation.json, samples/ and loss.png in the run's folder. On benchmarks: benchmarks/<name>/ in it; a
    rerun continues, and under torchrun the questions are shared.
    """
    if tasks:
        _evaluate_tasks(tasks, overrides, out, data, batch)
        return
    if config_path is None or corpus is None:
        raise UserError("evaluate: give --config and --corpus, or --tasks")
    from trainer.config import TrainConfig

    config = load_settings(TrainConfig, config_path, overrides)
    from rich.console import Console

    from trainer.evaluation.drawing import drawing_table
    from trainer.evaluation.evaluate import evaluate as measure

    figures = measure(config, corpus, out)
    for name, value in figures.items():
        click.echo(f"{name:32} {value:,.4g}")
    if (table := drawing_table(figures, tuple(config.evaluate.attributes))) is not None:
        Console(width=120).print(table)
    click.echo(f"evaluated: {len(figures)} figures, {out}/evaluation.json, {out}/samples, {out}/loss.png")


def _evaluate_tasks(tasks: tuple[str, ...], overrides: tuple[str, ...], out: str, data: str, batch: int) -> None:
    from pathlib import Path

    from trainer.benchmarks.settings import load_benchmarks

    benchmarks = load_benchmarks(tasks, overrides)  # mistakes are told before the model is loaded
    from model.errors import WeightsError
    from model.finished_run import FinishedRun
    from trainer.benchmarks.evaluate import evaluate as measure
    from trainer.engine import distributed

    world = distributed.start()
    try:
        results = measure(benchmarks, FinishedRun.open(out, batch=batch), Path(data), world, click.echo)
        if world.is_first:
            num = sum(len(one.answered) for found in results.values() for one in found)
            world.say(f"evaluated: {num} answers to {len(results)} benchmarks, {out}/benchmarks")
    except WeightsError as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if distributed.lost_another(error):
            raise RunError("another process of the evaluation has ended; see its own error") from error
        raise
    finally:
        distributed.stop()


@commands.command()
@click.option(
    "--config", "config_path", default=None, help="YAML file of the run; OUT/config.resolved.yaml if not given."
)
@click.option("--corpus", default=None, help="Not used: the model has its tokenizer.")
@click.option("--out", required=True, callback=_local, help="The run's folder.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the config.")
@click.option("--prompt", "prompts", multiple=True, help="Text with [image:FILE] and [video:FILE]; may be repeated.")
@click.option("--prompts", "prompts_path", default=None, help='File of JSON lines {"prompt": "..."}.')
@click.option(
    "--want", type=click.Choice(["text", "image", "both", "video", "reconstruction"]), default="text", show_default=True
)
@click.option("--save-to", default=None, help="Folder of the results; OUT/generated if not given.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=None, help="Not given: the model's own, or 128.")
@click.option("--min-new-tokens", type=click.IntRange(0), default=None, help="Not given: the model's own, or 0.")
@click.option("--max-images", type=click.IntRange(1), default=4, show_default=True, help="With --want both.")
@click.option("--temperature", type=click.FloatRange(0, min_open=True), default=None, help="Not given: no sampling.")
@click.option("--top-k", type=click.IntRange(1), default=None, help="Sample among so many likely tokens.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=None, help="Sample among likely tokens.")
@click.option("--beams", type=click.IntRange(1), default=None, help="Text only. Not given: the model's own, or 1.")
@click.option("--length-penalty", type=float, default=None, help="Of beams. Not given: the model's own, or 1.")
@click.option(
    "--repetition-penalty", type=click.FloatRange(0, min_open=True), default=None, help="Above 1: repeat less."
)
@click.option("--guidance", type=float, default=None, help="Not given: the image decoder's own.")
@click.option("--frames", type=click.IntRange(1), default=8, show_default=True, help="Frames per video, spread evenly.")
@click.option(
    "--film-frames", type=click.IntRange(1), default=None, help="With --want video. Not given: the decoder's."
)
@click.option("--seed", type=int, default=0, show_default=True)
def generate(
    config_path: str | None,
    corpus: str | None,
    out: str,
    overrides: tuple[str, ...],
    prompts: tuple[str, ...],
    prompts_path: str | None,
    want: Any,
    save_to: str | None,
    max_new_tokens: int | None,
    min_new_tokens: int | None,
    max_images: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    beams: int | None,
    length_penalty: float | None,
    repetition_penalty: float | None,
    guidance: float | None,
    frames: int,
    film_frames: int | None,
    seed: int,
) -> None:
    """Continue prompts with text, an image, both in turn, or a video. For a tuned model: --out OUT/tune."""
    from trainer.config import TrainConfig

    config = load_settings(TrainConfig, config_path or f"{out}/config.resolved.yaml", overrides)
    if beams is not None and beams > 1 and (want != "text" or temperature is not None):
        raise UserError("--beams works only with --want text, and without --temperature")
    for name, value in (("--top-k", top_k), ("--top-p", top_p)):
        if value is not None and temperature is None:
            raise UserError(f"{name} needs --temperature: without it the likeliest token is always chosen")
    if not prompts and prompts_path is None:
        raise UserError("no prompt: give --prompt or --prompts")
    from pydantic import ValidationError

    from model.generation import GenerationConfig
    from trainer.evaluation.generate import RESULTS, Request, read_prompts
    from trainer.evaluation.generate import generate as continue_prompts
    from trainer.evaluation.open_run import open_run

    asked = [*prompts, *(read_prompts(prompts_path) if prompts_path else ())]
    if not asked:
        raise UserError(f"{prompts_path}: no prompt")
    run = open_run(out, config)
    given = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "num_beams": beams if want == "text" and temperature is None else 1,
        "length_penalty": length_penalty,
        "video_length_penalty": length_penalty,
        "repetition_penalty": repetition_penalty,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        chosen = GenerationConfig.model_validate(run.generation.model_dump() | changes | {"max_images": max_images})
    except ValidationError as error:
        raise UserError(f"generate: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    folder = save_to or f"{out}/generated"
    rows = continue_prompts(run, asked, Request(want, chosen, frames, film_frames, guidance, seed), folder)
    for row in rows:
        click.echo("\n".join([row["prompt"], *(f"  {next(iter(part.values()))}" for part in row["parts"])]))
    num_images, num_videos = (sum(len(row.get(name, ())) for row in rows) for name in ("images", "videos"))
    made = f"{num_videos} videos" if num_videos else f"{len(rows)} texts, {num_images} images"
    click.echo(f"generated: {made}, {folder}/{RESULTS}")


@commands.command()
@click.option("--config", "config_path", required=True, help="YAML file of the run.")
@click.option("--corpus", required=True, help="The corpus's folder, local or an fsspec URL.")
@click.option("--out", default=None, help="The run's folder, if weights are named relative to it; nothing is written.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the config.")
def plan(config_path: str, corpus: str, out: str | None, overrides: tuple[str, ...]) -> None:
    """Show a forecast of the mixture before training: epochs, packing and tokens per step."""
    from trainer.config import TrainConfig

    config = load_settings(TrainConfig, config_path, overrides)
    if config.pretrain is None:
        raise UserError(f"{config_path}: has no section `pretrain:`")
    from trainer.evaluation.forecast import describe, describe_streams, forecast
    from trainer.tasks.build import with_carried_layout
    from trainer.tasks.data import StreamData, TrainingData

    weights = [named for named in config.model.weights if out is not None or not named.is_of_run]
    if len(weights) < len(config.model.weights):
        click.echo("layout: the config's; with --out, that of the model with which the run begins", err=True)
    run = with_carried_layout(config.pretrain, weights, out or "", partial(click.echo, err=True))
    if run.data.streams:
        click.echo(describe_streams(StreamData.open(corpus, config.model, run)))
    else:
        data = TrainingData.open(corpus, config.model, run)
        click.echo(describe(data, forecast(data)))


if __name__ == "__main__":
    main()
