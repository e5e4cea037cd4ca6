"""Command line of the tools: `python -m tools <command>`."""

import asyncio
import unicodedata

import click

from pipelines.command_line import run_commands


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def commands() -> None:
    """Serve the demo web, or look at samples of a corpus."""


@commands.command("demo-web")
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


@commands.command("contact-sheet")
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


def main() -> None:
    """Run a command."""
    run_commands(commands)


if __name__ == "__main__":
    main()
