"""`python -m pipelines`: one command per stage, and `corpus` for all of them."""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

from pipelines import storage
from pipelines.command_line import RERUN, end_on_sigterm, num_cores, run_commands
from pipelines.errors import UserError
from pipelines.running.quick_imports import quick_imports


def main() -> None:
    """Run the command line."""
    end_on_sigterm()
    logging.captureWarnings(True)
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.CRITICAL)
    run_commands(commands, rerun=RERUN)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def commands() -> None:
    """Build a multimodal pretraining corpus from a spec (see corpus_specs/ and README.md)."""


WORKERS = click.option(
    "--workers", type=click.IntRange(1), help="Workers at the same time: all cores, or what the cluster is set to."
)


def stage_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every stage to a command."""
    options = [
        click.option("--spec", "spec_path", required=True, help="YAML file of the corpus."),
        click.option("--out", required=True, help="The corpus's folder, local or an fsspec URL."),
        click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the spec."),
        click.option("--runner", default="local", show_default=True, help="local, or one of Beam's runners."),
        click.option("--log-json", metavar="FILE", help="Append the progress as lines of JSON, also to /dev/stderr."),
        click.option("--metrics-file", metavar="FILE", help="Write metrics for node_exporter's textfile collector."),
        click.option("--metrics-port", type=click.IntRange(1, 65535), help="Serve the same metrics to Prometheus."),
        WORKERS,
        click.argument("beam_options", nargs=-1, type=click.UNPROCESSED),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _prepare(values: dict[str, Any]) -> tuple[Any, str, Any]:
    """Return spec, output folder and runner by a stage's options."""
    spec, out = _load(values)
    return spec, out, _reporting_runner(values, out)


def _load(values: dict[str, Any]) -> tuple[Any, str]:
    """Return spec and output folder by a stage's options."""
    if not _has_manifest(values["out"]):
        _start_forkserver(values)
    with quick_imports():
        from pipelines.spec import load_spec

    spec = load_spec(values["spec_path"], values["overrides"])
    return spec, _hold(values["out"])


def _has_manifest(out: str) -> bool:
    return storage.exists(storage.join(_usual_form(out), "manifest.json"))


def _start_forkserver(values: dict[str, Any]) -> None:
    """Let the process from which local workers are forked import the stages while this one does the same."""
    if values["runner"] == "local" and (values["workers"] or num_cores()) > 1:
        from pipelines.running.forkserver import forkserver

        forkserver()


def _reporting_runner(values: dict[str, Any], out: str) -> Any:
    """Return the runner, which reports to where the options say. Beam is imported only here: that takes a second."""
    from pipelines.running.reports import Reports

    reports = Reports(values["log_json"], values["metrics_file"], values["metrics_port"])
    click.get_current_context().with_resource(reports)
    return _runner(values["runner"], values["workers"], values["beam_options"], out, reports)


def _runner(name: str, workers: int | None, beam_options: tuple[str, ...], out: str, reports: Any = None) -> Any:
    """Return the choice of runner for a folder, in which the text of a failed job is kept."""
    from pipelines.layout import traceback_folder
    from pipelines.running.runner import Runner

    if workers is None and name == "local":
        workers = num_cores()
    given = {} if reports is None else {"reports": reports}
    return Runner(name, workers, beam_options, traceback_folder(out), **given)


def _usual_form(folder: str) -> str:
    return folder.removeprefix("file://").rstrip("/") or "/"


def _hold(folder: str) -> str:
    """Keep other runs from a folder until the command ends; returns its path in the usual form."""
    from pipelines.lease import hold

    path = _usual_form(folder)
    click.get_current_context().with_resource(hold(path))
    from pipelines.layout import takedown_folder

    if storage.exists(takedown_folder(path)):
        from pipelines.takedowns.staging import recover

        if (line := recover(path)) is not None:
            print(line, file=sys.stderr)
    return path


RETRY = click.option("--retry", type=click.Choice(["transient"]), help="Request again what failed but can pass.")


@commands.command()
@stage_options
@RETRY
def corpus(retry: str | None, **values: Any) -> None:
    """Build a corpus, all stages; a rerun continues where it was interrupted."""
    spec, out = _load(values)
    with quick_imports():
        from pipelines.finished import finished_corpus
        from pipelines.summary import print_summary

    if retry is None and (manifest := finished_corpus(spec, out)) is not None:
        print_summary(manifest, out, {})
        return
    _start_forkserver(values)
    with quick_imports():
        from pipelines.corpus import build_corpus

    build_corpus(spec, out, _reporting_runner(values, out), retry=retry is not None)


@commands.command()
@stage_options
@RETRY
def crawl(retry: str | None, **values: Any) -> None:
    """Crawl pages into WARC files and a ledger."""
    from pipelines.crawl import run_crawls
    from pipelines.running.serve import serving
    from pipelines.summary import print_stage

    spec, out, runner = _prepare(values)
    with serving(spec.serve):
        run_crawls(spec, out, runner, retry=retry is not None)
    print_stage(spec, out, "crawl")


@commands.command()
@stage_options
def extract(**values: Any) -> None:
    """Turn pages and lists into candidates, and judge their text."""
    from pipelines.extract import run_extract
    from pipelines.running.serve import serving
    from pipelines.summary import print_stage

    spec, out, runner = _prepare(values)
    with serving(spec.serve):
        run_extract(spec, out, runner)
    print_stage(spec, out, "extract")


@commands.command()
@stage_options
@RETRY
def fetch(retry: str | None, **values: Any) -> None:
    """Fetch images, videos and subtitles of the candidates into the raw store."""
    from pipelines.fetch import run_fetch
    from pipelines.running.serve import serving
    from pipelines.summary import print_stage

    spec, out, runner = _prepare(values)
    with serving(spec.serve):
        run_fetch(spec, out, runner, retry=retry is not None)
    print_stage(spec, out, "fetch")


@commands.command()
@stage_options
def filter(**values: Any) -> None:
    """Measure images, then decide: thresholds, duplicates, splits."""
    from pipelines.filter import run_filter
    from pipelines.summary import print_stage

    spec, out, runner = _prepare(values)
    run_filter(spec, out, runner)
    print_stage(spec, out, "filter")


@commands.command()
@stage_options
def shard(**values: Any) -> None:
    """Write samples into tars, and the manifest."""
    from pipelines.shard import run_shard
    from pipelines.summary import print_summary

    spec, out, runner = _prepare(values)
    print_summary(run_shard(spec, out, runner), out, {})


@commands.command()
@click.option("--corpus", "folder", required=True, help="A finished corpus.")
@click.option("--tokenizer", help="A tokenizer.json, a tokenizer.model, or a folder that contains one.")
@click.option("--train-bpe", type=click.IntRange(min=257), metavar="TOKENS", help="Train a byte-level BPE instead.")
@click.option("--name", help="Name of the folder below tokens/.")
@click.option("--runner", default="local", show_default=True, help="local, or one of Beam's runners.")
@WORKERS
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def tokenize(
    folder: str,
    tokenizer: str | None,
    train_bpe: int | None,
    name: str | None,
    runner: str,
    workers: int | None,
    beam_options: tuple[str, ...],
) -> None:
    """Write the text of a corpus as ids of one tokenizer, for training, below tokens/."""
    from pipelines.shards.manifest import load_manifest
    from pipelines.tokenize import run_tokenize

    load_manifest(folder)  # a folder without a corpus is left as it is
    folder = _hold(folder)
    info = run_tokenize(
        folder, tokenizer, _runner(runner, workers, beam_options, folder), train_bpe=train_bpe, name=name
    )
    print(f"{folder}/tokens/{info.name}: {info.num_tokens:,} tokens of {info.num_samples:,} samples")


@commands.command()
@click.option("--corpus", "folder", required=True, help="Folder of tars: img2dataset's, Energon's, plain WebDataset.")
def index(folder: str) -> None:
    """Give foreign tars an index and a manifest."""
    from pipelines.shards.index import index_corpus

    if storage.exists(folder):  # else there is nothing to lock, and `index_corpus` raises the error
        folder = _hold(folder)
    indexed = index_corpus(folder)
    for note in indexed.notes:
        print(f"note: {note}", file=sys.stderr)
    manifest = indexed.manifest
    print(f"{folder}: {manifest.num_samples:,} samples in {len(manifest.shards)} shards indexed")


@commands.command("worker-pool")
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=50000, show_default=True)
def worker_pool(host: str, port: int) -> None:
    """Start workers on this machine for a cluster, beside each of its task managers, until stopped."""
    from pipelines.running.worker_pool import run_worker_pool

    run_worker_pool(host, port)


@commands.command()
@click.option("--spec", "spec_path", required=True, help="YAML file of the corpus.")
@click.option("--out", help="Where it is to be built, for the space there.  [default: build/corpus/<name>]")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a setting of the spec.")
@click.option("--cores", type=click.IntRange(1), default=num_cores, show_default="those of this machine")
@click.option("--machines", type=click.IntRange(1), default=1, show_default=True, help="Machines with so many cores.")
@click.option("--rows", multiple=True, metavar="SOURCE=N", help="Rows of a source's whole list, if a part is here.")
@click.option("--json", "json_path", help="File to write the same to, for programs.")
def plan(
    spec_path: str,
    out: str | None,
    overrides: tuple[str, ...],
    cores: int,
    machines: int,
    rows: tuple[str, ...],
    json_path: str | None,
) -> int:
    """Tell what a build will take, from its spec and a sample of its input; nothing is fetched.

    The exit code is 1 if something was found that would stop the build.
    """
    from pipelines.planning.plan import load_planned, make_plan
    from pipelines.planning.report import print_plan
    from pipelines.running.serve import serving

    spec, known = load_planned(spec_path, overrides)
    out, whole = out or f"build/corpus/{spec.name}", dict(map(_rows_of_source, rows))
    with contextlib.ExitStack() as served:
        try:
            served.enter_context(serving(spec.serve))
        except UserError as error:
            known.append(str(error))
        made = make_plan(spec, out, num_cores=cores, num_machines=machines, rows=whole, known_obstacles=known)
    if json_path is not None:
        storage.write_bytes(json_path, f"{json.dumps(made.to_record(), indent=1, ensure_ascii=False)}\n".encode())
    print_plan(made)
    return 1 if made.obstacles else 0


def _rows_of_source(option: str) -> tuple[str, int]:
    source, _, num = option.partition("=")
    if not (source and num.isdigit()):
        raise UserError(f"--rows {option}: must have the form --rows source=1000000")
    return source, int(num)


@commands.command()
def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    from pipelines.spec import json_schema

    print(json_schema(), end="")


if __name__ == "__main__":
    main()
