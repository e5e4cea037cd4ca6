"""Tests of whole builds on a small real web: their results, that they repeat, and what a rerun leaves unchanged."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import webdataset

from pipelines.document import KINDS, Document
from pipelines.funnel import check_funnel
from pipelines.shards.manifest import Manifest, load_manifest, samples_per_source, verify
from tests.corpus_command import (
    Web,
    build,
    build_here,
    copy_raw_store,
    leftovers,
    published,
    run_here,
    served,
    spec_tree,
    times,
    write_spec,
)
from tests.mini_web import NUM_FILMS, NUM_MAPS, NUM_STORIES, NUM_TEXTS, WEST

pytestmark = pytest.mark.slow

LOST_IMAGES = {
    "http_503": 1,  # until it is healed
    "corrupt_image": 1,
    "noai": 1,
    "private_address": 1,
    "redirect_loop": 1,
    "http_404": 1,
}
DROPS = {
    ("web", "crawl", "page"): {
        "robots_disallowed": 1,
        "noai": 1,
        "http_404": 1,
        "http_503": 1,
        "redirected": 1,
        "out_of_scope": 1,
    },
    ("web", "extract", "page"): {"duplicate_url": 1, "noai": 1, "not_html": 1},
    ("texts", "extract", "document"): {"too_few_words": 1},
    ("texts", "filter", "document"): {"exact_duplicate": 1, "near_duplicate_text": 1},
    ("stories", "fetch", "media"): LOST_IMAGES,
    ("stories", "filter", "media"): {"image_too_small": 1},
    ("figures", "fetch", "media"): LOST_IMAGES,
    ("figures", "fetch", "document"): LOST_IMAGES,
    ("figures", "filter", "media"): {"image_too_small": 1, "document_dropped": 1},
    ("figures", "filter", "document"): {"image_too_small": 1, "near_duplicate_image": 1},
}
# Besides texts: /busy, and one each of the twins and of the copies with their originals; a gallery of ten images.
SAMPLES = {
    "stories": NUM_STORIES + NUM_MAPS + 1,
    "figures": 2 * NUM_STORIES + NUM_MAPS + 10 - sum(LOST_IMAGES.values()) - 2,
    "maps": NUM_MAPS,
    "films": NUM_FILMS,
    "texts": NUM_TEXTS + 2,
}


@dataclass(frozen=True)
class Built:
    """A finished build, its spec, and the web that it was built from."""

    web: Web
    spec: Path
    out: Path

    @property
    def manifest(self) -> Manifest:
        return load_manifest(str(self.out))

    def copy(self, to: Path) -> Path:
        """Copy the build to another place, with everything from which reruns start."""
        shutil.copytree(self.out, to)
        return to


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory):
    """A build with two workers, made once by the command as a user gives it."""
    folder = tmp_path_factory.mktemp("build")
    with served(folder / "web") as web:
        spec = write_spec(folder / "spec.yaml", spec_tree(web.port))
        build(spec, folder / "out", workers=2)
        yield Built(web, spec, folder / "out")


def changed(built: Built, folder: Path, **changes: object) -> Path:
    """Write the spec with other values at dotted keys; return its path."""
    tree = spec_tree(built.web.port)
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return write_spec(folder / "changed.yaml", tree)


def work_times(out: Path, *stages: str) -> dict[str, int]:
    return {f"{stage}/{name}": at for stage in stages for name, at in times(out / "work" / stage).items()}


def samples(out: Path) -> dict[str, tuple]:
    """Return every sample by its key: its contents, without the time at which it was fetched."""
    found = {}
    manifest = load_manifest(str(out))
    for record in webdataset.WebDataset([str(out / s.path) for s in manifest.shards], shardshuffle=False):
        parts = {name: value for name, value in record.items() if not name.startswith("__")}
        found[record["__key__"]] = (without_times(json.loads(parts.pop("json"))), parts)
    return found


def without_times(record: object) -> object:
    if isinstance(record, dict):
        return {k: without_times(v) for k, v in record.items() if k not in ("fetched_at", "observed_at")}
    return [without_times(item) for item in record] if isinstance(record, list) else record


# --- what a build gives ---------------------------------------------------------------------------------------------


def test_a_build_is_complete_and_accounts_for_everything(built):
    manifest = built.manifest
    assert verify(str(built.out), hashes=True) == []
    assert check_funnel(manifest.funnel, samples_per_source(manifest.shards)) == []
    assert leftovers(built.out) == []
    kept = {row.source: row.kept for row in manifest.funnel if row.stage == "shard"}
    assert kept == SAMPLES


def test_every_drop_is_counted_under_its_reason(built):
    assert {(row.source, row.stage, row.unit): row.dropped for row in built.manifest.funnel if row.dropped} == DROPS


def test_a_refused_page_is_not_asked_for(built):
    asked = built.web.requests()
    assert not [path for path in asked if "/private/" in path or "/elsewhere" in path]
    assert asked.count(f"{WEST}/busy") == 2  # 503, then the page


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "conversation"])  # a web has none
def test_webdataset_reads_every_kind(built, kind):
    shards = [shard for shard in built.manifest.shards if shard.kind == kind]
    urls = [str(built.out / shard.path) for shard in shards]
    records = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(records) == sum(shard.samples for shard in shards) > 0
    for record in records:
        document = Document.from_json(json.dumps(record["json"]))
        assert document.kind == kind
        for media in document.media:
            assert record[media.part].size == (media.width, media.height)
        if kind in ("pair", "grounded"):
            assert record["txt"] == next(s.text for s in document.segments if s.role in ("caption", "alt"))
        if kind == "grounded":
            assert len([region for segment in document.segments for region in segment.regions]) == 2
        if kind == "video":
            assert [s.type for s in document.segments] == ["frame", "text"] * 3


def test_a_split_rule_goes_before_the_hash(built):
    splits = {}
    for shard in built.manifest.shards:
        for record in webdataset.WebDataset(str(built.out / shard.path), shardshuffle=False).decode():
            splits.setdefault(record["json"]["source"]["page_url"], set()).add(shard.split)
    assert all(len(found) == 1 for found in splits.values())
    by_path = {url.partition("/story/")[2]: found for url, found in splits.items() if "/story/" in url}
    assert (by_path["1"], by_path["2"]) == ({"val"}, {"test"})


# --- that it repeats ------------------------------------------------------------------------------------------------


def test_one_worker_gives_the_bytes_of_two_without_a_request(built, tmp_path):
    asked = built.web.requests()
    again = copy_raw_store(built.out, tmp_path / "one")
    build_here(built.spec, again)
    assert published(again) == published(built.out)
    assert built.web.requests() == asked


def test_stages_one_by_one_give_the_same_bytes(built, tmp_path):
    again = copy_raw_store(built.out, tmp_path / "stages")
    last_lines = [
        build_here(built.spec, again, command=stage).splitlines()[-1]
        for stage in ("crawl", "extract", "fetch", "filter", "shard")
    ]
    assert published(again) == published(built.out)
    for stage, line in zip(("crawl", "extract", "fetch", "filter"), last_lines, strict=False):
        rows = [row for row in built.manifest.funnel if row.stage == stage]
        num_dropped = sum(sum(row.dropped.values()) for row in rows)
        units = {
            unit: sum(row.kept for row in rows if row.unit == unit) for unit in dict.fromkeys(r.unit for r in rows)
        }
        kept = ", ".join(f"{num:,} {unit}s".replace("medias", "media") for unit, num in units.items() if num)
        assert line.endswith(f"{stage} kept {kept}, dropped {num_dropped:,}")


def test_a_stage_after_which_the_funnel_does_not_add_up_fails(built, tmp_path):
    again = built.copy(tmp_path / "out")
    receipts = {path: json.loads(path.read_text()) for path in sorted((again / "work/raw/documents").glob("*.json"))}
    receipt, record = next((path, found) for path, found in receipts.items() if found.get("counts"))
    record["counts"][0]["kept"] += 1
    receipt.write_text(json.dumps(record))
    build_here(built.spec, again, command="extract")
    for stage in ("fetch", "filter"):
        _, err = run_here(stage, "--spec", built.spec, "--out", again, "--workers", "1", code=1)
        assert err.startswith("error: the funnel does not add up: ")
        assert len(err.splitlines()) == 1


def test_without_its_work_a_corpus_is_complete(built, tmp_path):
    shutil.copytree(built.out, tmp_path / "moved", ignore=shutil.ignore_patterns("work"))
    assert verify(str(tmp_path / "moved"), hashes=True) == []
    assert len(samples(tmp_path / "moved")) == sum(SAMPLES.values())


# --- what a rerun leaves alone --------------------------------------------------------------------------------------


def test_a_rerun_asks_nothing_and_touches_no_shard(built):
    asked, before, bytes_before = built.web.requests(), times(built.out), published(built.out)
    build_here(built.spec, built.out)
    after = times(built.out)
    assert built.web.requests() == asked
    assert published(built.out) == bytes_before
    assert after.keys() == before.keys()
    shards = {name for shard in built.manifest.shards for name in (shard.path, f"{shard.path}.idx", shard.sidecar)}
    assert {name: after[name] for name in shards} == {name: before[name] for name in shards}


def test_a_sidecar_and_an_index_that_went_missing_are_made_again(built, tmp_path):
    out = built.copy(tmp_path / "out")
    first, second = built.manifest.shards[:2]
    (out / first.sidecar).unlink()
    (out / f"{second.path}.idx").unlink()
    build_here(built.spec, out)
    assert published(out) == published(built.out)


@pytest.mark.parametrize(
    ("changes", "untouched"),
    [
        pytest.param(
            {"sources__stories__filters__images__min_side": 121, "sources__stories__allow_empty": True},
            ("warc", "candidates", "raw"),
            marks=pytest.mark.nightly,
        ),
        ({"sources__figures__sharding__max_samples": 7}, ("warc", "candidates", "raw", "features")),
    ],
    ids=["threshold", "shard size"],
)
def test_a_changed_setting_redoes_only_what_depends_on_it(built, tmp_path, changes, untouched):
    out = built.copy(tmp_path / "out")
    asked, before = built.web.requests(), work_times(out, *untouched)
    spec = changed(built, tmp_path, **changes)
    build_here(spec, out)
    assert work_times(out, *untouched) == before
    assert built.web.requests() == asked
    assert verify(str(out), hashes=True) == []
    assert load_manifest(str(out)).fingerprint != built.manifest.fingerprint
    fresh = copy_raw_store(built.out, tmp_path / "fresh")
    build_here(spec, fresh)
    assert published(out) == published(fresh)  # and nothing of the earlier build is left


@pytest.mark.nightly
def test_a_new_source_fetches_only_what_is_new(built, tmp_path):
    out = built.copy(tmp_path / "out")
    asked = built.web.requests()
    tree = spec_tree(built.web.port)
    more = {"kind": "pair", "input": {"crawl": "web", "include": ["/map/"]}, "filters": {"language": None}}
    tree["sources"]["more"] = more
    build_here(write_spec(tmp_path / "more.yaml", tree), out)
    assert built.web.requests() == asked  # its images are there for the other sources
    tree["sources"]["more"] = more | {"media": {"images": {"image_size": 100}}}
    build_here(write_spec(tmp_path / "more.yaml", tree), out)
    new = built.web.requests()[len(asked) :]
    assert sorted(path for path in new if "/img/" in path) == [f"127.0.1.2/img/map-{n}.jpg" for n in range(NUM_MAPS)]
    assert not [path for path in new if "/map/" in path]
    assert verify(str(out), hashes=True) == []
    del tree["sources"]["more"]
    build_here(write_spec(tmp_path / "more.yaml", tree), out)
    assert published(out) == published(built.out)  # a source that is taken out leaves nothing behind


@pytest.mark.nightly
def test_retry_asks_again_only_for_what_failed_for_a_passing_reason(tmp_path):
    with served(tmp_path / "web") as web:
        tree = spec_tree(web.port)
        del tree["sources"]["films"], tree["sources"]["maps"]  # of other pages
        spec = write_spec(tmp_path / "spec.yaml", tree)
        build_here(spec, tmp_path / "out")
        before = web.requests()
        build_here(spec, tmp_path / "out", "--retry", "transient")
        policy = ("/robots.txt", "/tdmrep.json", "/ai.txt", "/sitemap.xml")
        asked = [path for path in web.requests()[len(before) :] if not path.endswith(policy)]
        attempts = 3
        assert sorted(asked) == sorted([f"{WEST}/flaky", f"{WEST}/img/flaky.jpg"] * attempts)
        web.heal()
        before = web.requests()
        build_here(spec, tmp_path / "out", "--retry", "transient")
        asked = [path for path in web.requests()[len(before) :] if not path.endswith(policy)]
        assert sorted(asked) == [f"{WEST}/flaky", f"{WEST}/img/flaky.jpg"]
        build_here(spec, tmp_path / "undisturbed")
    retried, undisturbed = (load_manifest(str(tmp_path / name)) for name in ("out", "undisturbed"))
    assert verify(str(tmp_path / "out"), hashes=True) == []
    assert retried.funnel == undisturbed.funnel
    assert samples(tmp_path / "out") == samples(tmp_path / "undisturbed")
