"""Tests of filter: groups stay together, splits, and duplicates, equal for any order, parts and workers."""

import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import filter as filter_stage
from pipelines import storage
from pipelines.decisions.decided import parse_decided, read_decided
from pipelines.decisions.features import MeasuredImage
from pipelines.decisions.fingerprints import fingerprint
from pipelines.decisions.measuring import PartMeasurer
from pipelines.document import Document, Segment
from pipelines.fetch import DOCUMENT_SCHEMA
from pipelines.filter import run_filter
from pipelines.images.normalise import FEATURES_VERSION, ImageSettings, normalise
from pipelines.layout import decisions_folder, documents_folder, features_folder, media_folder, traceback_folder
from pipelines.media.raw_store import Blob
from pipelines.parts import Tally, read_rows, sum_counts, write_table
from pipelines.running.runner import Runner
from tests.pipelines.crawling.test_visits import made_error
from tests.pipelines.stage_records import document, image, image_bytes, image_url, spec, text

WORDS = ("harbour", "lantern", "meadow", "orchard", "violin", "kettle", "bridge", "ladder", "garden", "window")


def words(seed: int, num: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num)) + f" {seed}."


def test_fingerprints_of_each_kind():
    sources = {
        "pages": {"kind": "interleaved"},
        "pairs": {"kind": "pair"},
        "texts": {"kind": "text"},
        "films": {"kind": "video"},
    }
    settings = {name: source.filters.duplicates for name, source in spec(sources).sources.items()}
    media = [MeasuredImage(name, phash, blur=200.0, mean=100.0, std=40.0) for name, phash in (("a", 7), ("b", 8))]
    page = document("interleaved", image(0), text(words(0)), image(1), num_media=2)
    pair = document("pair", image(0), text(words(0)), num_media=1)
    found = {
        "pages": fingerprint("pages", settings["pages"], page, media),
        "pairs": fingerprint("pairs", settings["pairs"], pair, media[:1]),
        "texts": fingerprint("texts", settings["texts"], document("text", text(words(0))), []),
        "films": fingerprint("films", settings["films"], replace(page, kind="video"), media),
    }
    assert {name: (f.phash, f.signature is not None) for name, f in found.items()} == {
        "pages": (None, True),
        "pairs": (7, False),
        "texts": (None, True),
        "films": (None, False),
    }
    assert {f.scope for f in found.values()} == found.keys()
    assert len({f.sha256 for f in found.values()}) == 3  # a film of the same content as the page, in another scope
    other = fingerprint("pages", settings["pages"], page, media[::-1])
    assert other.sha256 != found["pages"].sha256  # the same images in another order


# --- the stage ------------------------------------------------------------------------------------------------------


class Input:
    """Output of the fetch stage: documents in parts, and their images in one file of blobs."""

    def __init__(self, out: str) -> None:
        self.out = out
        self._data = b""
        self._blobs: dict[int, tuple[Blob, Any]] = {}
        self._rows: list[tuple[str, Document, tuple[int, ...]]] = []

    def add(self, source: str, page: str, *segments: Segment, images: tuple[int, ...] = ()) -> str:
        """Add a document that shows images by number, and return its key."""
        kind = {"pages": "interleaved", "pairs": "pair", "texts": "text"}[source]
        made = document(kind, *segments, num_media=len(images), page=f"https://www.example.org{page}")
        media = []
        for i in images:
            blob, stored = self._stored(i)
            media.append(
                replace(
                    made.media[0],
                    url=image_url(i),
                    mime=stored.mime,
                    width=stored.width,
                    height=stored.height,
                    source_width=stored.source_width,
                    source_height=stored.source_height,
                    source_sha256=stored.source_sha256,
                    stored_sha256=stored.stored_sha256,
                    bytes=blob.length,
                )
            )
        self._rows.append((source, replace(made, media=tuple(media)), images))
        return made.key

    def _stored(self, i: int) -> tuple[Blob, Any]:
        if i not in self._blobs:
            stored = normalise(image_bytes(i), ImageSettings())
            self._blobs[i] = Blob("g000-x.blobs", len(self._data), len(stored.data)), stored
            self._data += stored.data
        return self._blobs[i]

    def _features(self, i: int, version: int) -> dict[str, Any]:
        found = asdict(self._blobs[i][1].features)
        return {"version": version} | {name: found[name] for name in ("phash", "blur", "mean", "std")}

    def write(self, num_parts: int = 2, seed: int = 0, features: int | None = None) -> None:
        """Write the documents; with the features of images as code of a version measured them, unless it is None."""
        storage.write_bytes(storage.join(media_folder(self.out), "g000-x.blobs"), self._data)
        rows = list(self._rows)
        random.Random(seed).shuffle(rows)
        folder = documents_folder(self.out)
        for number in range(num_parts):
            part, tally = f"part-{number}", Tally("fetch")
            written = []
            for source, made, images in rows[number::num_parts]:
                blobs = [asdict(self._blobs[i][0]) for i in images]
                about = {"source": source, "key": made.key, "record": f"list {made.key}"}
                found = [None if features is None else self._features(i, features) for i in images]
                written.append(about | {"document": made.to_json(), "blobs": blobs, "features": found})
                tally.keep(source, "document")
            files = {".parquet": write_table(folder.file(part, ".parquet"), written, DOCUMENT_SCHEMA)}
            folder.finish(part, "", tally, files)


def samples(out: str) -> dict[str, dict[str, Any]]:
    folder = decisions_folder(out)
    found = {}
    for part in folder.names():
        for row, data in read_decided(folder, part):
            document, blobs = parse_decided(data)
            about = {name: row[name] for name in ("source", "split", "key", "num_bytes")}  # not the place
            found[row["key"]] = about | {"document": document, "blobs": [asdict(blob) for blob in blobs]}
    return found


def drops(out: str) -> list[tuple[str, str, str | None, str | None]]:
    """Return (reason, unit, key, URL) of all drops."""
    rows = [row for path in decisions_folder(out).drops() for row in read_rows(path)]
    return sorted(((r["reason"], r["unit"], r["key"], r["url"]) for r in rows), key=str)


SOURCES: dict[str, Any] = {
    "pages": {"kind": "interleaved", "filters": {"images": {"max_uses": 2}}},
    "pairs": {"kind": "pair", "filters": {"images": {"max_uses": None}}},
    "texts": {"kind": "text"},
}
SPLIT = {"val": 0.3, "test": 0.3, "rules": [{"pattern": "/held-out/", "split": "val"}]}
SPEC = spec(SOURCES, split=SPLIT)


def small_corpus(out: str) -> tuple[Input, dict[str, str]]:
    """Return pages with everything that groups or drops them, and their keys by name."""
    given, keys = Input(out), {}
    for i in range(8):
        keys[f"page {i}"] = given.add("pages", f"/{i}", text(words(i)), image(0), images=(i,))
    # Two pages share an image, a third shares another with the second and is held out: one group, one split.
    for i, (name, images) in enumerate((("a", (20,)), ("b", (20, 21)), ("held-out/c", (21,)))):
        shown = [image(j) for j in range(len(images))]
        keys[name] = given.add("pages", f"/shared/{name}", text(words(20 + i)), *shown, images=images)
    for i in range(3):  # a logo on three pages, beside an image of their own; alone on a fourth
        keys[f"logo {i}"] = given.add(
            "pages", f"/logo/{i}", text(words(30 + i)), image(0), image(1), images=(30 + i, 40)
        )
    keys["only logo"] = given.add("pages", "/logo/only", text(words(39)), image(0), images=(40,))
    keys["pair"] = given.add("pairs", "/1", image(0), text("the image of page one"), images=(1,))
    long = words(50, 200)
    for name, body in (("text", long), ("longer", f"{long} And one more."), ("copy", long)):
        keys[name] = given.add("texts", f"/texts/{name}", text(body))
    return given, keys


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[str, dict[str, str]]:
    out = str(tmp_path_factory.mktemp("built"))
    given, keys = small_corpus(out)
    given.write()
    run_filter(SPEC, out, Runner())
    return out, keys


@pytest.mark.slow
def test_pages_that_share_an_image_end_in_one_split_by_the_rule_of_any(built):
    out, keys = built
    found = samples(out)
    shared = [found[keys[name]] for name in ("a", "b", "held-out/c")]
    assert {row["split"] for row in shared} == {"val"}
    assert len({json.loads(row["document"])["build"]["dedup_group"] for row in shared}) == 1
    pair, page = found[keys["pair"]], found[keys["page 1"]]  # from one page, in two sources
    assert pair["split"] == page["split"]
    assert {found[keys[f"page {i}"]]["split"] for i in range(8)} == {"train", "val", "test"}


def test_an_image_on_too_many_pages_is_dropped_from_each_and_binds_none(built):
    out, keys = built
    found = samples(out)
    groups = set()
    for i in range(3):
        kept = json.loads(found[keys[f"logo {i}"]]["document"])
        assert [m["url"] for m in kept["media"]] == [image_url(30 + i)]
        assert len(found[keys[f"logo {i}"]]["blobs"]) == 1
        groups.add(kept["build"]["dedup_group"])
        assert ("image_overused", "media", keys[f"logo {i}"], image_url(40)) in drops(out)
    assert len(groups) == 3
    assert ("too_few_images", "document", keys["only logo"], image_url(40)) in drops(out)


def test_the_longest_of_near_duplicates_is_kept(built):
    out, keys = built
    found = samples(out)
    assert keys["longer"] in found
    assert {keys["text"], keys["copy"]}.isdisjoint(found)
    reasons = {key: reason for reason, unit, key, _ in drops(out) if unit == "document"}
    assert {reasons[keys["text"]], reasons[keys["copy"]]} <= {"near_duplicate_text", "exact_duplicate"}


def test_what_came_in_is_kept_or_dropped(built):
    out, _ = built
    counts = {(c.source, c.stage, c.unit): c for c in sum_counts(decisions_folder(out).receipts())}
    assert (counts["pages", "filter", "document"].in_, counts["pages", "filter", "document"].kept) == (15, 14)
    assert (counts["pages", "filter", "media"].in_, counts["pages", "filter", "media"].kept) == (19, 15)
    assert counts["pages", "filter", "media"].dropped == {"image_overused": 4}
    assert (counts["texts", "filter", "document"].in_, counts["texts", "filter", "document"].kept) == (3, 1)
    assert counts["pairs", "shard", "sample"].kept == 1


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "num_parts", "num_workers"), [(1, 5, 1), (2, 3, 2)])
def test_the_result_depends_on_neither_order_nor_parts_nor_workers(built, tmp_path: Path, seed, num_parts, num_workers):
    given, _ = small_corpus(str(tmp_path))
    given.write(num_parts, seed)
    run_filter(SPEC, given.out, Runner("local", num_workers))
    assert samples(given.out) == samples(built[0])
    assert drops(given.out) == drops(built[0])


@pytest.mark.slow
def test_images_of_a_document_that_is_dropped_are_dropped_with_it(tmp_path: Path):
    given = Input(str(tmp_path))
    first = given.add("pairs", "/1", image(0), text("a red circle"), images=(1,))
    second = given.add("pairs", "/2", image(0), text("a red circle"), images=(1,))
    given.write(1)
    run_filter(SPEC, given.out, Runner())
    lost = max(first, second)
    assert drops(given.out) == [
        ("document_dropped", "media", lost, image_url(1)),
        ("exact_duplicate", "document", lost, image_url(1)),
    ]
    rows = [row for path in decisions_folder(given.out).drops() for row in read_rows(path)]
    assert {(row["unit"], row["record"], row["excerpt"]) for row in rows} == {
        ("document", f"list {lost}", "a red circle"),
        ("media", f"list {lost}", None),
    }


@pytest.mark.slow
def test_a_changed_threshold_measures_no_image_again(tmp_path: Path):
    given, keys = small_corpus(str(tmp_path))
    given.write()
    run_filter(SPEC, given.out, Runner())
    before = Path(features_folder(given.out).file("part-0", ".parquet")).stat()
    storage.remove(media_folder(given.out))  # no bytes are read any more
    pages = SOURCES["pages"] | {"filters": {"images": {"max_uses": None, "min_side": 65}}}
    stricter = spec(SOURCES | {"pages": pages}, split=SPLIT)
    run_filter(stricter, given.out, Runner())
    assert Path(features_folder(given.out).file("part-0", ".parquet")).stat() == before
    assert keys["pair"] in samples(given.out)
    assert keys["page 1"] not in samples(given.out)


@pytest.mark.slow
def test_no_documents_give_no_samples(tmp_path: Path):
    run_filter(SPEC, str(tmp_path), Runner())
    assert samples(str(tmp_path)) == {}


# --- faults of our own ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sample_that_breaks_a_rule_is_dropped_before_it_ends_the_shard_stage(tmp_path: Path):
    given = Input(str(tmp_path))
    sound = given.add("pages", "/1", text(words(1)), image(0), images=(1,))
    odd = given.add("pages", "/2", text(words(2)), image(1), image(0), images=(2, 3))  # not in the order of their use
    given.write(num_parts=1)
    run_filter(SPEC, given.out, Runner())
    assert set(samples(given.out)) == {sound}
    assert [drop[:3] for drop in drops(given.out)] == [
        ("document_dropped", "media", odd),
        ("document_dropped", "media", odd),
        ("internal_error", "document", odd),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["judge", "fingerprint", "windows"])
@pytest.mark.parametrize("seed", range(2))
def test_a_document_on_which_our_code_fails_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int
):
    given = Input(str(tmp_path))
    keys = [given.add("texts", f"/{i}", text(words(i))) for i in range(3)]
    given.write(num_parts=1)
    work, rng = getattr(filter_stage, name), random.Random(f"{name} {seed}")

    def fail(*args: Any, **options: Any) -> Any:
        if any(isinstance(arg, Document) and arg.key == keys[1] for arg in args):
            raise made_error(rng)
        return work(*args, **options)

    monkeypatch.setattr(filter_stage, name, fail)
    monkeypatch.setattr(filter_stage, "excerpt", fail)  # which is also asked for the document on which our code failed
    run_filter(SPEC, given.out, Runner())
    assert set(samples(given.out)) == {keys[0], keys[2]}
    assert [drop[:3] for drop in drops(given.out)] == [("internal_error", "document", keys[1])]
    assert any("in fail" in path.read_text() for path in Path(traceback_folder(given.out)).iterdir())


def test_features_that_were_stored_with_an_image_are_measured_by_nobody_again(tmp_path: Path):
    found: dict[str, bytes] = {}
    for name, version in (("measured", None), ("stored", FEATURES_VERSION), ("outdated", FEATURES_VERSION - 1)):
        out = str(tmp_path / name)
        given, _ = small_corpus(out)
        given.write(1, features=version)
        if name == "stored":
            storage.remove(media_folder(out))
        PartMeasurer({}, {}, {}, out).measure("part-0", "")
        found[name] = Path(features_folder(out).file("part-0", ".parquet")).read_bytes()
    assert found["measured"] == found["stored"] == found["outdated"]
    storage.remove(media_folder(str(tmp_path / "outdated")))
    with pytest.raises(OSError, match=r"g000-x\.blobs"):
        PartMeasurer({}, {}, {}, str(tmp_path / "outdated")).measure("part-0", "")
