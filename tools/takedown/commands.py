"""The command `takedown` of the tools."""

import click

from tools.takedown.requests import TYPES, collect


@click.command()
@click.option("--corpus", required=True, help="Folder of the corpus, local or an fsspec URL.")
@click.option("--key", multiple=True, help="Key of a sample. Each of these options may be repeated.")
@click.option("--url", multiple=True, help="URL of a page, image or video.")
@click.option("--prefix", multiple=True, help="Beginning of URLs.")
@click.option("--domain", multiple=True, help="Host of pages or images, with the hosts below it.")
@click.option("--sha256", multiple=True, help="Hash of an image's bytes, as fetched or as stored.")
@click.option("--video", multiple=True, help="Id of a video, or its address on YouTube.")
@click.option(
    "--file", "files", multiple=True, help="List with a type and a value, or a URL, hash or key, in each line."
)
@click.option("--reason", required=True, help="Why; it is published in takedowns.jsonl, so name nobody.")
@click.option("--dry-run", is_flag=True, help="Show what would go, and change nothing.")
@click.option("--json", "json_path", help="File to write the same to, for programs.")
def takedown(
    corpus: str, files: tuple[str, ...], reason: str, dry_run: bool, json_path: str | None, **given: tuple[str, ...]
) -> None:
    """Take samples out of a corpus so that no build brings them back; exit code 1 if nothing is asked for."""
    from tools.takedown.takedown import takedown as take_down

    asked = collect({type_: given[type_] for type_ in TYPES}, files)
    take_down(corpus.rstrip("/"), asked, reason, dry_run=dry_run, json_path=json_path)
