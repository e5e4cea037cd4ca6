"""Command lines of the smaller tools: options, and what is imported when one of them is called."""

import asyncio
import unicodedata
from collections.abc import Callable
from typing import Any

import click


@click.command("demo-web")
@click.option(
    "--port", default=8700, type=click.IntRange(0, 65535), help="Port on every address; 0 takes any free port."
)
@click.option("--pages-scale", default=1.0, type=click.FloatRange(0.001, 1.0), help="Fraction of the pages to serve.")
@click.option("--seed", default=0, help="Seed from which the whole web is generated.")
def demo_web(port: int, pages_scale: float, seed: int) -> None:
    """Serve a small generated web on loopback addresses until terminated."""
    from tools.demo_web.server import serve
    from tools.demo_web.site import ADDRESSES, Web

    def ready(web: Web) -> None:
        click.echo(f"demo-web ready: {web.url('start')} and {len(ADDRESSES) - 1} more addresses, seed {web.seed}")

    asyncio.run(serve(Web(seed, port, pages_scale), ready))


@click.command("few-shot-tasks")
@click.option("--out", required=True, help="Folder to write them into.")
@click.option("--seed", default=0, help="Seed of the images, words and rows.")
def few_shot_tasks(out: str, seed: int) -> None:
    """Write few-shot tasks on images of the demo web, for `trainer evaluate --tasks trainer/benchmarks/demo`."""
    from tools.demo_web.few_shot import write_few_shot_tasks

    for name, num in write_few_shot_tasks(out, seed).items():
        click.echo(f"{out}/{name}/rows.jsonl: {num} rows")


@click.command("contact-sheet")
@click.option("--corpus", required=True, help="Folder of a finished corpus, local or an fsspec URL.")
@click.option("--out", required=True, help="Image to write: .png or .jpg.")
@click.option("--per-kind", type=click.IntRange(1), show_default="one row", help="Samples drawn of each kind.")
@click.option("--seed", default=0, help="Seed of the draw.")
def contact_sheet(corpus: str, out: str, per_kind: int | None, seed: int) -> None:
    """Draw samples of every kind from a corpus into one image."""
    from pipelines.shards.contact_sheet import write_contact_sheet

    sheet = write_contact_sheet(corpus.rstrip("/"), out, per_kind=per_kind, seed=seed)
    if sheet.missing:
        shown = ", ".join(f"{c} ({unicodedata.name(c, 'unnamed').lower()})" for c in sorted(sheet.missing)[:3])
        click.echo(f"{out}: no font here has {len(sheet.missing)} of the characters: {shown}. Install one", err=True)
    click.echo(f"{out}: {sheet.num_samples} samples of {corpus}")


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "json_path", help="File to write the same to, for programs.")(command)


@click.command("card")
@click.option("--corpus", required=True, help="Folder of a finished corpus, local or an fsspec URL.")
@click.option("--answers", help="File of what only people can say.", show_default="answers.yaml of the corpus")
@click.option("--release", is_flag=True, help="Write nothing, and exit with 1, while a question is not answered.")
@click.option("--against", help="Folder of an earlier version, for what has changed since.")
@_json_option
def card(corpus: str, answers: str | None, release: bool, against: str | None, json_path: str | None) -> int:
    """Write a corpus's card: README.md, card.html, croissant.json, card.json, a datasheet, rows of the EU's summary."""
    from tools.card.card import write_card

    old = against.rstrip("/") if against else None
    is_written = write_card(corpus.rstrip("/"), answers, release=release, against=old, json_path=json_path)
    return 0 if is_written else 1


@click.command("browse")
@click.option("--corpus", required=True, help="Folder of the corpus, local or an fsspec URL.")
@click.option("--run", help="Folder of a run that was trained on it: in which steps a sample was, and the loss there.")
@click.option("--host", default="127.0.0.1", help="Name or address to listen on.")
@click.option("--port", default=8710, type=click.IntRange(0, 65535), help="Port; 0 takes any free one.")
@click.option("--static", "static_folder", help="Write pages that need no server into this folder instead.")
@click.option("--per-source", default=24, type=click.IntRange(1, 10_000), help="With --static: samples of each source.")
def browse(corpus: str, run: str | None, host: str, port: int, static_folder: str | None, per_source: int) -> None:
    """Show a corpus in the browser, until Ctrl-C: samples, drops, evidence."""
    if static_folder is not None:
        if run is not None:
            raise click.UsageError("--static shows a corpus without a run.")
        from tools.browse.static_site import write_static

        write_static(corpus.rstrip("/"), static_folder.rstrip("/"), per_source)
        return
    from tools.browse.command import browse as serve

    serve(corpus.rstrip("/"), None if run is None else run.rstrip("/"), host, port)


@click.command("diff")
@click.argument("old")
@click.argument("new")
@_json_option
def diff(old: str, new: str, json_path: str | None) -> int:
    """Compare two corpora, OLD and NEW, such as two versions of one; exit code 1 if they differ."""
    from tools.diff import diff as compare

    return 0 if compare(old.rstrip("/"), new.rstrip("/"), json_path) else 1


@click.command("export")
@click.option("--corpus", required=True, help="Folder of a finished corpus, local or an fsspec URL.")
@click.option(
    "--layout",
    required=True,
    type=click.Choice(["mint-html", "mint-pdf", "curator-tar", "curator-parquet"]),
    help="MINT-1T's parquet of webpages, its tars of documents, or NeMo Curator's tars or tables.",
)
@click.option("--out", required=True, help="Folder to write into.")
@click.option("--source", "sources", multiple=True, show_default="all", help="Interleaved or video source; repeatable.")
def export(corpus: str, layout: Any, out: str, sources: tuple[str, ...]) -> None:
    """Write interleaved samples in the layouts of MINT-1T, which NeMo Curator reads."""
    from tools.export import export as export_corpus

    export_corpus(corpus.rstrip("/"), out.rstrip("/"), layout, sources)


@click.command("serve")
@click.option("--run", required=True, help="Folder of a finished run; of a tuned model its tune/.")
@click.option("--host", default="127.0.0.1", help="Name or address to listen on; any but loopback needs a key.")
@click.option("--port", default=8720, type=click.IntRange(0, 65535), help="Port; 0 takes any free one.")
@click.option("--key-file", help="File with the key that requests must carry, and the page's password.")
@click.option("--max-body", default=32 << 20, type=click.IntRange(1024), help="Bytes of a request.")
@click.option("--max-pixels", default=50_000_000, type=click.IntRange(1), help="Pixels of an image.")
@click.option("--max-new-tokens", default=2048, type=click.IntRange(1), help="Tokens of an answer.")
@click.option("--max-waiting", default=16, type=click.IntRange(1), help="Requests that wait for the model or use it.")
@click.option("--page/--no-page", default=True, help="Whether to serve the page too, or only the endpoints.")
def serve(
    run: str,
    host: str,
    port: int,
    key_file: str | None,
    max_body: int,
    max_pixels: int,
    max_new_tokens: int,
    max_waiting: int,
    page: bool,
) -> None:
    """Serve a run's model until Ctrl-C: OpenAI's chat completions and images, and a page."""
    from tools.serve.command import serve as serve_run
    from tools.serve.limits import Limits

    limits = Limits(body=max_body, pixels=max_pixels, new_tokens=max_new_tokens, waiting=max_waiting)
    serve_run(run.rstrip("/"), host, port, key_file, limits, with_page=page)


@click.command("trace")
@click.option("--corpus", required=True, help="Folder of the corpus, local or an fsspec URL.")
@click.option("--run", required=True, help="Folder of a run that was trained on it; it may be going on.")
@click.option("--step", type=click.IntRange(0), help="The samples of this step.")
@click.option("--key", help="Every step that consumed this sample.")
@click.option("--url", help="Every step that consumed a sample with this URL, of its page or an image.")
@click.option("--domain", help="Every step that consumed a sample of this domain or one below it.")
@_json_option
def trace(
    corpus: str, run: str, step: int | None, key: str | None, url: str | None, domain: str | None, json_path: str | None
) -> None:
    """Say what a run trained on at a step, or at which steps on a sample, a URL or a domain."""
    if sum(value is not None for value in (step, key, url, domain)) != 1:
        raise click.UsageError("Give one of --step, --key, --url and --domain.")
    from tools.trace import Question
    from tools.trace import trace as trace_run

    trace_run(corpus.rstrip("/"), run.rstrip("/"), Question(step, key, url, domain), json_path)
