"""Results of the filter stage for documents of all five kinds: first their features, then the decisions."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.document import Document, Kind, Media, Region, Segment
from pipelines.fetch import DOCUMENT_SCHEMA
from pipelines.filter import run_filter
from pipelines.parts import PartFolder, Tally, write_table
from pipelines.running.runner import Runner
from tests.goldens.contents import Golden, parts, plain
from tests.goldens.exact_files import blocks, png
from tests.mini_web import paragraph
from tests.pipelines.stage_records import document, image, spec, text

BLOBS = "g000-golden.blobs"
SIZES = {"small": (24, 16), "thin": (320, 64), "large": (160, 120)}


def _pixels(name: str) -> Any:
    """Return an image's pixels: `blank` is of one colour, `<name>~` hardly differs from `<name>`, sizes may differ."""
    if name == "blank":
        return np.full((48, 64, 3), 90, np.uint8)
    made = blocks(name.removesuffix("~"), SIZES.get(name, (64, 48)))
    if name.endswith("~"):
        made = made.copy()
        made[:8, :8] = np.minimum(made[:8, :8], 250) + 5
    return made


class _Store:
    """Images in one file, as in the raw store."""

    def __init__(self) -> None:
        self.data = b""
        self._places: dict[str, tuple[int, bytes]] = {}

    def place(self, name: str) -> tuple[dict[str, Any], bytes]:
        """Return the position of an image, and its bytes."""
        if name not in self._places:
            self._places[name] = len(self.data), png(_pixels(name))
            self.data += self._places[name][1]
        offset, data = self._places[name]
        return {"file": BLOBS, "offset": offset, "length": len(data)}, data

    def media(self, name: str, t: float | None = None) -> Media:
        """Return the description of a fetched image."""
        data = self.place(name)[1]
        height, width, _ = _pixels(name).shape
        return Media(
            f"https://images.example.org/{name}.png",
            mime="image/png",
            width=width,
            height=height,
            source_width=width,
            source_height=height,
            bytes=len(data),
            stored_sha256=hashlib.sha256(data).hexdigest(),
            source_sha256=hashlib.sha256(data).hexdigest(),
            t=t,
            fetched_at="2026-01-05T10:11:12Z",
        )


_Given = list[tuple[str, Document, Sequence[str]]]


class _Documents:
    """Documents that name their images."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self.given: _Given = []

    def add(
        self, source: str, kind: Kind, page: str, segments: Sequence[Segment | str], times: Sequence[float] = ()
    ) -> None:
        """Add a document of a page; a string in its segments is the name of an image."""
        names = [s for s in segments if isinstance(s, str)]
        numbers = iter(range(len(names)))
        shown = [
            s
            if isinstance(s, Segment)
            else Segment("frame", media=(n := next(numbers)), t0=times[n], role="frame")
            if times
            else image(next(numbers))
            for s in segments
        ]
        made = document(kind, *shown, page=f"https://www.example.org/{page}", lang="en")
        media = [self._store.media(name, times[n] if times else None) for n, name in enumerate(names)]
        self.given.append((source, replace(made, media=tuple(media)), names))


def _pages(store: _Store) -> _Given:
    found = _Documents(store)

    def story(page: str, *names: str, words: str | None = None) -> None:
        segments: list[Segment | str] = [text(paragraph(words or page), role="heading")]
        for n, name in enumerate(names):
            segments += [
                name,
                text(f"The {name} of page {page}", role="caption"),
                text(paragraph(f"{words or page} {n}")),
            ]
        found.add("stories", "interleaved", page, segments)

    story("val/1", "one", "two")
    story("test/2", "three", "small", "logo", "thin")
    story("3", *(f"many-{n}" for n in range(9)))  # too many
    story("4", "blank", "small")  # too few
    story("5", "four", "five", "six", "large", "logo", "seven")  # windows
    story("6", "eight", "ten", words="val/1")  # nearly the words of val/1
    story("7", "logo")
    found.add("stories", "interleaved", "8", [text(paragraph(f"long {n}", 9)) for n in range(3)] + ["nine"])
    region = Region(4, 10, 0, (0.1, 0.2, 0.5, 0.9), 0.8, "noun_chunk")
    for n, names in enumerate((["map"], ["blank"])):
        found.add(
            "maps",
            "grounded",
            f"map/{n}",
            [*names, text("the harbour and the dock", role="caption", regions=(region,))],
        )
    for n in range(8):
        found.add("texts", "text", f"text/{n}", [text(paragraph(f"text {n % 6} {m}")) for m in range(2)])  # 6, 7: again
    more = paragraph("text 2 0") + " " + paragraph("text 2 1") + " One more line."
    found.add("texts", "text", "val/text", [text(more)])
    return found.given


def _lists(store: _Store) -> _Given:
    found = _Documents(store)
    for n, name in enumerate(["pair", "pair", "near", "near~", "small", "blank", "thin", "one", "logo", "large"]):
        caption = "a boat beside the dock" if name == "pair" else f"caption {n} of {name}"
        found.add("figures", "pair", f"list/{n}", [name, text(caption, role="caption")])
    cue = text("A boat comes in.", t0=0.5, t1=1.5, role="subtitle")
    found.add("films", "video", "film/0", ["frame-0", cue, "frame-1", "blank"], (0.5, 2.0, 3.0))
    found.add("films", "video", "film/1", ["frame-0", cue, "blank"], (0.5, 2.0))  # too few
    return found.given


def goldens(folder: Path) -> dict[str, Golden]:
    """Measure images, then decide which documents to keep, and their splits."""
    out = folder / "out"
    store = _Store()
    documents = PartFolder(str(out / "work" / "raw" / "documents"))
    for name, given in (("lists-00000", _lists(store)), ("web-r000-first", _pages(store))):
        rows = [
            {
                "source": source,
                "key": made.key,
                "document": made.to_json(),
                "blobs": [store.place(image)[0] for image in images],
            }
            for source, made, images in given
        ]
        files = {".parquet": write_table(documents.file(name, ".parquet"), rows, DOCUMENT_SCHEMA)}
        documents.finish(name, "", Tally("fetch"), files)
    media = out / "work" / "raw" / "media"
    media.mkdir(parents=True)
    (media / BLOBS).write_bytes(store.data)
    images = {"min_side": 32, "max_aspect": 3, "max_uses": 3}
    near = {"max_phash_distance": 6}
    given_spec = spec(
        {
            "stories": {
                "kind": "interleaved",
                "filters": {"images": images, "max_images": 6},
                "sharding": {"max_media": 2, "max_chars": 1500},
            },
            "figures": {"kind": "pair", "filters": {"images": images, "duplicates": near}},
            "maps": {"kind": "grounded", "filters": {"images": images}},
            "films": {"kind": "video", "filters": {"min_images": 2}},
            "texts": {"kind": "text"},
        },
        split={
            "val": 0.2,
            "test": 0.2,
            "rules": [{"pattern": "/val/", "split": "val"}, {"pattern": "/test/", "split": "test"}],
        },
    )
    run_filter(given_spec, str(out), Runner())
    given = parts(Path(documents.path)) | {BLOBS: plain(store.data)}
    measured = parts(out / "work" / "features")
    decided = parts(out / "work" / "decisions" / "samples")
    return {"features": Golden(given, measured), "filter": Golden({"documents": given, "features": measured}, decided)}
