"""A part of a corpus as files that a browser can look at without a server: some samples of each source.

Samples whose use is not allowed are left out, and of the drops only the numbers are given: these files are made to be
published. The folder appears under its name when it is whole.
"""

import os
import shutil
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.errors import UserError
from pipelines.shards.manifest import Manifest, Source, load_manifest
from tools.browse import views
from tools.browse.app import ASSETS, asset
from tools.browse.catalogue import Catalogue, Row
from tools.browse.filters import Filters
from tools.browse.links import Links
from tools.browse.lookup import Lookup
from tools.browse.overview import read_facts
from tools.browse.pages import NUM_OF_GROUP, Html, Item, Pages
from tools.browse.reading import Reader, Sample, media_type
from tools.output import progress

_MARKS = ("index.html", "samples.html", "browse.css", "browse.js")  # by which a folder is known as one of ours
_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "video/mp4": "mp4",
    "video/webm": "webm",
}


class StaticLinks(Links):
    """Addresses of files in one folder; None for what is not among them.

    Args:
        manifest: That of the corpus.
        rows: Rows of the samples that have a page.
    """

    is_static = True

    def __init__(self, manifest: Manifest, rows: frozenset[int]) -> None:
        super().__init__(manifest)
        self.names: dict[tuple[int, str], str] = {}
        self._rows = rows
        self._sources = {source.name: number for number, source in enumerate(manifest.sources)}

    def overview(self) -> str | None:
        return "index.html"

    def samples(
        self, filters: Filters, after: int | None = None, before: int | None = None, source: str | None = None
    ) -> str | None:
        filters = filters if source is None else filters.with_value("source", source)
        if after is not None or before is not None or filters.given.keys() - {"source"}:
            return None
        return "samples.html" if filters.source is None else f"samples-{self._sources[filters.source]}.html"

    def sample(self, row: Row, filters: Filters) -> str | None:
        return f"sample-{row.row}.html" if row.row in self._rows else None

    def random(self, filters: Filters) -> str | None:
        return None

    def raw(self, row: Row) -> str | None:
        return None

    def media(self, row: Row, part: str | None) -> str | None:
        return None if part is None else self.names.get((row.row, part))

    def drops(self, after: int | None = None, before: int | None = None, **chosen: str | None) -> str | None:
        return None if any(value is not None for value in chosen.values()) else "drops.html"

    def asset(self, name: str) -> str:
        return name


def write_static(corpus: str, folder: str, per_source: int) -> None:
    """Write pages of a corpus into a folder, or nothing at all.

    Args:
        corpus: Folder of the corpus, local or an fsspec URL.
        folder: Local folder to make; one that was written before is replaced.
        per_source: Most samples of each source, spread evenly over it.

    Raises:
        UserError: If the folder is something else, or a sample cannot be read.
    """
    manifest = load_manifest(corpus)
    target = Path(os.path.abspath(folder))
    if not storage.is_local(folder):
        raise UserError(f"--static {folder}: must be a local folder; copy it to a store when it is whole")
    if target.exists() and not _may_replace(target):
        raise UserError(
            f"--static {folder}: exists, and is not a folder of pages that was written before; name another"
        )
    unfinished = target.with_name(f"{storage.TEMPORARY}{target.name}.{uuid.uuid4().hex[:12]}")
    reader = Reader(corpus)
    try:
        lookup = Lookup(corpus, manifest)
        facts = read_facts(lookup)
        (unfinished / "media").mkdir(parents=True)
        with Catalogue(lookup) as catalogue:
            num_samples = _write(catalogue, reader, manifest, facts, unfinished, per_source)
        _put(unfinished, target)
    finally:
        reader.close()
        shutil.rmtree(unfinished, ignore_errors=True)
    num_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{folder}/index.html: {num_samples} samples of {len(manifest.sources)} sources, {num_bytes / 1e6:,.1f} MB")


def _write(
    catalogue: Catalogue,
    reader: Reader,
    manifest: Manifest,
    facts: dict[str, Any],
    folder: Path,
    per_source: int,
) -> int:
    """Write all files into a folder; return the number of samples."""
    chosen = {source: _spread(catalogue, source, per_source) for source in manifest.sources}
    rows = [row for found in chosen.values() for row in found]
    links = StaticLinks(manifest, frozenset(row.row for row in rows))
    pages = Pages(manifest, links)
    for name in ASSETS:
        (folder / name).write_bytes(asset(name))
    _write_page(folder, "index.html", pages.overview(facts))
    _write_page(folder, "drops.html", pages.drop_counts())
    counts = [(source.name, len(found)) for source, found in chosen.items()]
    items: dict[Source, list[Item]] = {}
    with progress("writing samples", len(rows)) as done:
        for source, found in chosen.items():
            filters = Filters(source=source.name)
            for number, row in enumerate(found):
                sample = reader.read(row)
                _write_media(reader, sample, links, folder)
                items.setdefault(source, []).append(Item(row, views.card(sample.document), None))
                before, after = found[number - 1] if number else None, next(iter(found[number + 1 :]), None)
                same, num_same = catalogue.group(row, NUM_OF_GROUP) if row.has_group else ([], 0)
                group = ([other for other in same if other.allowed], num_same)
                nearby = [near for near in catalogue.neighbours(row) if near.allowed]
                page = pages.sample(sample, filters, (before, after), nearby, group, None)
                _write_page(folder, f"sample-{row.row}.html", page)
                done(1)
    for source, shown in items.items():
        filters = Filters(source=source.name)
        address = links.samples(filters)
        assert address is not None, "every source has a list"
        _write_page(folder, address, pages.chosen(shown, filters, counts))
    _write_page(folder, "samples.html", pages.chosen([i for shown in items.values() for i in shown], Filters(), counts))
    return len(rows)


def _spread(catalogue: Catalogue, source: Source, num: int) -> list[Row]:
    """Return samples of a source whose use is allowed, at equal distances."""
    manifest = catalogue.manifest
    ranges = [
        range(start, end)
        for shard, (start, end) in zip(manifest.shards, pairwise(manifest.starts()), strict=True)
        if shard.source == source.name
    ]
    total = sum(len(found) for found in ranges)
    filters = Filters(source=source.name, allowed="yes")
    found: dict[int, Row] = {}
    for place in range(min(num, total)):
        at = place * total // min(num, total)
        for rows in ranges:
            if at < len(rows):
                found |= {row.row: row for row in catalogue.page(filters, 1, after=rows[at] - 1).rows}
                break
            at -= len(rows)
    return [found[row] for row in sorted(found)]


def _write_media(reader: Reader, sample: Sample, links: StaticLinks, folder: Path) -> None:
    row = sample.row
    for number, media in enumerate(sample.document.media):
        if media.part is None or media.part not in row.parts:
            continue
        data = reader.part(row, media.part)
        if (extension := _EXTENSIONS.get(media_type(data) or "")) is not None:
            name = f"media/{row.row}-{number}.{extension}"
            (folder / name).write_bytes(data)
            links.names[row.row, media.part] = name


def _write_page(folder: Path, name: str, page: Html) -> None:
    (folder / name).write_text(page.text, encoding="utf-8")


def _may_replace(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or all((folder / name).is_file() for name in _MARKS))


def _put(unfinished: Path, target: Path) -> None:
    """Give a whole folder its name, and remove what had it."""
    if not target.exists():
        unfinished.rename(target)
        return
    old = target.with_name(f"{storage.TEMPORARY}{target.name}.{uuid.uuid4().hex[:12]}")
    target.rename(old)
    try:
        unfinished.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)
