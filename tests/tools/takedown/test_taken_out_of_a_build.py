"""A takedown of a built corpus leaves nothing below its folder, and no build brings it back."""

import base64
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from pipelines.document import Document
from pipelines.funnel import check_funnel
from pipelines.shards.manifest import load_manifest, samples_per_source, verify
from pipelines.shards.tar_samples import read_samples
from pipelines.takedowns import purging, staging
from tests.corpus_command import Web, build_here, published, served, spec_tree, times, write_spec
from tests.mini_web import EAST, NORTH, WEST, caption, image_bytes, paragraph
from tools.__main__ import commands

pytestmark = pytest.mark.slow

IMAGE = "story-0-0"
"""An image of one story; another page has the same bytes at another address."""
WORDS = paragraph("text-2-0")
"""Words of a page of which another is nearly a copy; the longer of the two is kept."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with served(tmp_path_factory.mktemp("web")) as found:
        yield found


@pytest.fixture(scope="module")
def built(web: Web, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a spec and the corpus of it."""
    folder, tree = tmp_path_factory.mktemp("built"), spec_tree(web.port)
    tree["sources"] = {name: tree["sources"][name] for name in ("stories", "figures", "texts")}
    build_here(write_spec(folder / "spec.yaml", tree), folder / "out")
    return folder


@pytest.fixture(scope="module")
def taken(web: Web, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, of which an image, a page and a pair were taken down."""
    folder = tmp_path_factory.mktemp("taken") / "copy"
    shutil.copytree(built, folder)
    image, page = (f"http://{NORTH}:{web.port}/img/{IMAGE}.jpg", f"http://{WEST}:{web.port}/almost?utm_source=x#top")
    takedown(folder / "out", "--url", image, "--url", page)
    return folder


def takedown(out: Path, *arguments: str) -> str:
    command = ["takedown", "--corpus", str(out), "--reason", "asked for", *arguments]
    done = CliRunner().invoke(commands, command, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def audit(out: Path) -> list[dict[str, Any]]:
    """Return the findings of an audit."""
    report = out.parent / "audit.json"
    command = ["audit", "--corpus", str(out), "--workers", "1", "--json", str(report)]
    done = CliRunner().invoke(commands, command, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    findings: list[dict[str, Any]] = json.loads(report.read_text())["findings"]
    return findings


def contents(out: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every file, also as they are uncompressed."""
    for path in sorted(out.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        yield str(path.relative_to(out)), data
        while path.suffix == ".gz" and data:
            decoder = zlib.decompressobj(31)
            yield str(path.relative_to(out)), decoder.decompress(data)
            data = decoder.unused_data
        if path.suffix == ".parquet":
            for row in pq.read_table(path).to_pylist():
                yield str(path.relative_to(out)), json.dumps(row, default=bytes.hex, ensure_ascii=False).encode()


def holding(out: Path, *needles: bytes) -> set[str]:
    return {name for name, data in contents(out) for needle in needles if needle in data}


def stored(out: Path, name: str) -> set[bytes]:
    """Return the bytes that a corpus holds of an image, by the caption beside it."""
    return {
        sample.parts["jpg"]
        for shard in load_manifest(str(out)).shards_of("figures")
        for sample in read_samples(str(out / shard.path))
        if caption(name) in Document.from_json(sample.parts["json"]).text
    }


def test_nothing_of_it_is_left(built: Path, taken: Path):
    (bytes_,) = stored(built / "out", IMAGE)
    needles = (bytes_, WORDS.encode(), caption(IMAGE).encode())
    kinds = {name.split("/")[0] for name in holding(built / "out", *needles)}
    assert {"figures", "stories", "texts", "work"} <= kinds
    assert {name.split("/")[1] for name in holding(built / "out", *needles) if name.startswith("work/")} == {
        "warc",
        "candidates",
        "raw",
        "decisions",
    }
    assert holding(taken / "out", *needles[:2]) == set()


def test_all_else_is_as_it_was(built: Path, taken: Path):
    before, after = load_manifest(str(built / "out")), load_manifest(str(taken / "out"))
    assert verify(str(taken / "out"), hashes=True) == []
    (entry,) = map(json.loads, (taken / "out" / "takedowns.jsonl").read_text().splitlines())
    changed = {shard["path"] for shard in entry["shards"]}
    old, new = published(built / "out"), published(taken / "out")
    assert {s.path for s in before.shards if old[s.path] != new.get(s.path)} == changed
    assert entry["samples"] == before.num_samples - after.num_samples > 2
    assert (before.version, after.version) == ("1.0.0", "2.0.0")
    drops = [row for path in (taken / "out" / "drops").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    told = [row for row in drops if row["reason"] == "taken_down"]
    assert len(told) == entry["samples"]
    assert all(row[name] is None for row in told for name in ("url", "page_url", "excerpt", "record", "detail"))
    rows = {(r.source, r.stage, r.unit): r for r in after.funnel}
    assert sum(r.dropped.get("taken_down", 0) for r in rows.values()) == entry["samples"]


def test_the_next_build_changes_nothing_and_asks_for_nothing(web: Web, taken: Path, tmp_path: Path):
    shutil.copytree(taken, tmp_path / "again")
    before, asked = published(tmp_path / "again" / "out"), len(web.requests())
    written = times(tmp_path / "again" / "out" / "work")
    build_here(tmp_path / "again" / "spec.yaml", tmp_path / "again" / "out")
    assert published(tmp_path / "again" / "out") == before
    assert times(tmp_path / "again" / "out" / "work").keys() == written.keys()
    assert len(web.requests()) == asked
    assert audit(tmp_path / "again" / "out") == []


@pytest.mark.nightly
def test_a_build_from_the_beginning_does_not_bring_it_back(web: Web, built: Path, taken: Path, tmp_path: Path):
    shutil.copytree(taken, tmp_path / "again")
    out = tmp_path / "again" / "out"
    shutil.rmtree(out / "work")
    asked = len(web.requests())
    build_here(tmp_path / "again" / "spec.yaml", out)
    (bytes_,) = stored(built / "out", IMAGE)
    assert bytes_ not in b"".join(path.read_bytes() for path in out.rglob("*.tar"))
    requests = set(web.requests()[asked:])
    assert f"{EAST}/text/3" in requests
    assert not {f"{NORTH}/img/{IMAGE}.jpg", f"{WEST}/almost", f"{EAST}/text/2"} & requests
    manifest = load_manifest(str(out))
    dropped = {(row.source, row.stage, row.unit): row.dropped.get("taken_down", 0) for row in manifest.funnel}
    assert {which for which, num in dropped.items() if num} >= {
        ("web", "crawl", "page"),  # not asked for
        ("figures", "extract", "document"),  # the image at its other address, where it had been a duplicate
    }
    assert holding(out, WORDS.encode()) == set()
    assert manifest.version == "2.0.0"
    assert verify(str(out), hashes=True) == []
    assert audit(out) == []


def without(*folders: str) -> Callable[[Path], None]:
    """Return a function that deletes folders below `work/`."""

    def delete(out: Path) -> None:
        for folder in folders:
            shutil.rmtree(out / "work" / folder)

    return delete


def with_setting(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Return a function that changes the spec beside a corpus."""

    def edit(out: Path) -> None:
        tree = yaml.safe_load((out.parent / "spec.yaml").read_text())
        change(tree)
        write_spec(out.parent / "spec.yaml", tree)

    return edit


LATER_BUILDS: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str | None]] = {
    "with another setting of extract": (
        with_setting(lambda tree: tree["sources"]["texts"].update(filters={"text": {"min_words": 25}})),
        (),
        None,
    ),
    "with another setting of filter": (
        with_setting(lambda tree: tree["sources"]["figures"]["filters"]["images"].update(max_uses=50)),
        (),
        None,
    ),
    "with another split": (with_setting(lambda tree: tree["split"].update(val=0.2)), (), None),
    "with retry": (lambda _: None, ("--retry", "transient"), None),
    "without decisions": (without("decisions"), (), None),
    "without documents": (without("raw/documents", "decisions"), (), None),
    "without candidates": (without("candidates"), (), None),
    "without all but what was crawled": (without("candidates", "raw", "features", "decisions"), (), None),
    "by a newer crawl": (lambda _: None, (), "pipelines.crawl_inputs.VERSION"),
    "by a newer extract": (lambda _: None, (), "pipelines.extract_inputs.VERSION"),
    "by a newer fetch": (lambda _: None, (), "pipelines.fetch_inputs.VERSION"),
    "by a newer filter": (lambda _: None, (), "pipelines.filter_inputs.VERSION"),
    "by a newer measurement": (lambda _: None, (), "pipelines.images.normalise.FEATURES_VERSION"),
    "by a newer shard": (lambda _: None, (), "pipelines.shard_inputs.VERSION"),
}
"""What changes before a build, its options, and the version that goes up."""


BY_DEFAULT = (
    "with another setting of extract",
    "with another setting of filter",
    "by a newer fetch",
    "by a newer shard",
)
"""One of each stage after the crawl, which is done again from the beginning above; the others run at night."""


@pytest.mark.parametrize(
    "later",
    [pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.nightly) for name in LATER_BUILDS],
)
def test_every_later_build_works_and_leaves_it_out(
    built: Path, taken: Path, tmp_path: Path, later: str, monkeypatch: pytest.MonkeyPatch
):
    change, options, version = LATER_BUILDS[later]
    out = shutil.copytree(taken, tmp_path / "later") / "out"
    change(out)
    if version is not None:
        monkeypatch.setattr(version, 1000)
    build_here(out.parent / "spec.yaml", out, *options)
    before, after = load_manifest(str(taken / "out")), load_manifest(str(out))
    assert check_funnel(after.funnel, samples_per_source(after.shards)) == []
    assert verify(str(out), hashes=True) == []
    if "setting" not in later and "split" not in later:
        assert after.num_samples == before.num_samples
    assert sum(row.dropped.get("taken_down", 0) for row in after.funnel) > 0
    (bytes_,) = stored(built / "out", IMAGE)
    assert holding(out, bytes_, WORDS.encode()) == set()


def test_parts_may_be_purged_in_processes(
    built: Path, taken: Path, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(purging, "_BYTES_PER_WORKER", 1 << 10)
    out = shutil.copytree(built / "out", tmp_path / "out")
    image, page = (f"http://{NORTH}:{web.port}/img/{IMAGE}.jpg", f"http://{WEST}:{web.port}/almost")
    takedown(out, "--url", image, "--url", page)
    ours, theirs = ({p.relative_to(o): p.read_bytes() for p in (o / "work").rglob("*") if p.is_file()}
                    for o in (out, taken / "out"))  # fmt: skip
    assert ours == theirs


@pytest.mark.nightly
def test_a_page_that_holds_the_bytes_of_the_image_itself_is_overwritten(web: Web, tmp_path: Path):
    tree, out = spec_tree(web.port), tmp_path / "out"
    tree["crawls"]["web"] |= {"seeds": [f"http://{WEST}:{web.port}/inline"], "max_depth": 0}
    tree["sources"] = {"figures": tree["sources"]["figures"]}
    build_here(write_spec(tmp_path / "spec.yaml", tree), out)
    image, words = base64.b64encode(image_bytes("inline")), caption("inline").encode()
    for needle in (image, words):
        assert any(name.startswith("work/warc/") for name in holding(out, needle))
    (bytes_,) = stored(out, "inline")
    takedown(out, "--sha256", hashlib.sha256(image_bytes("inline")).hexdigest())
    assert holding(out, image, words, bytes_) == set()
    assert len(stored(out, "good")) == 1


def test_hosts_of_a_domain_are_forgotten(built: Path, tmp_path: Path):
    out = shutil.copytree(built / "out", tmp_path / "out")
    gates = {path.name for path in (out / "work/gates").iterdir()}
    takedown(out, "--domain", NORTH)
    assert NORTH in gates
    assert {path.name for path in (out / "work/gates").iterdir()} == gates - {NORTH}


@pytest.mark.nightly
def test_the_image_is_known_by_its_bytes(built: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(built / "out", out)
    digests = {
        media["stored_sha256"]
        for shard in load_manifest(str(out)).shards_of("figures")
        for row in pq.read_table(out / shard.sidecar).to_pylist()
        for media in row["media"]
        if media["url"].endswith(f"{IMAGE}.jpg")
    }
    takedown(out, "--sha256", *digests)
    assert stored(out, IMAGE) == set()
    assert image_bytes(IMAGE) not in b"".join(data for _, data in contents(out))


@pytest.mark.nightly
def test_a_kill_while_work_is_purged_leaves_nothing_either(
    built: Path, taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    (bytes_,) = stored(built / "out", IMAGE)
    image = next(
        media["url"]
        for shard in load_manifest(str(built / "out")).shards_of("figures")
        for row in pq.read_table(built / "out" / shard.sidecar).to_pylist()
        for media in row["media"]
        if media["url"].endswith(f"/{IMAGE}.jpg")
    )
    page = image.replace(NORTH, WEST).replace(f"/img/{IMAGE}.jpg", "/almost")
    purge, left = purging.purge_work, [0]

    def counting(change: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return change(*arguments, **options)

        return wrapped

    def killed(out: str, block: Any) -> None:
        with monkeypatch.context() as patch:
            for name in ("write_arrow", "write_table", "remove_rows", "blank_records", "_overwrite"):
                patch.setattr(purging, name, counting(getattr(purging, name)))
            purge(out, block)

    monkeypatch.setattr(staging, "purge_work", killed)
    left[0] = -1
    takedown(shutil.copytree(built / "out", tmp_path / "whole"), "--url", image, "--url", page)
    num_changes = -1 - left[0]
    assert num_changes > 10
    for number in range(1, num_changes + 1):
        out = shutil.copytree(built / "out", tmp_path / str(number))
        left[0] = number
        with pytest.raises(Killed):
            takedown(out, "--url", image, "--url", page)
        left[0] = -1
        assert staging.recover(str(out)).endswith("takedown or build had prepared")
        assert holding(out, bytes_, WORDS.encode()) == set()
        inputs = Path("work/decisions/shards.inputs")
        assert (out / inputs).read_bytes() == (tmp_path / "whole" / inputs).read_bytes()
