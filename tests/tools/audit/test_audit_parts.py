"""Tests of the parts of an audit: bounded findings, draws, the form of tars, hostile files, foreign tars, Croissant."""

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom

from pipelines.decisions.duplicates import DuplicateSettings, Fingerprint, band_rows
from pipelines.document import SPLITS
from pipelines.errors import UserError
from pipelines.shards.index import index_corpus
from pipelines.shards.manifest import Manifest, ShardInfo, load_manifest
from pipelines.shards.sidecar import SCHEMA
from pipelines.shards.tar_samples import TarSample, member_header, padded, tar_end
from tests.sources import ROOT
from tests.tools.audit.small_corpus import Shard, build, noise, sample
from tests.tools.audit.test_audit import FOUND_AT, TOGETHER, audit
from tools.audit.duplicates import GROUP, KEY, SIMILAR, STORED, Meeting, Shared, scope_of
from tools.audit.faults import CHECKS, FAULTS, REASONS
from tools.audit.findings import MAX_PER_KIND, Findings, Found, shown, to_record
from tools.audit.meetings import MeetingWriter, find_shared
from tools.audit.plan import Plan
from tools.audit.samples import SampleFault, parse, schema_faults
from tools.audit.sampling import draw_samples, draw_shards, upper_bound
from tools.audit.sidecars import SidecarReader
from tools.audit.tar_reader import FormReader, HashingReader
from tools.audit.whole import _urls_by_shard, _without_equals


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build(str(folder))
    return folder


# --- the table of faults ----------------------------------------------------------------------------------------------


def test_every_fault_is_of_a_check_documented_and_planted_somewhere():
    page = (ROOT / "docs" / "audit.md").read_text()
    assert {fault.check for fault in FAULTS.values()} == set(CHECKS)
    assert all(f"`{kind}`" in page for kind in FAULTS)
    assert all(f"| `{check}` |" in page for check in CHECKS)
    assert REASONS.keys() <= FAULTS.keys()
    planted = {*FOUND_AT, *(kind for _, kinds in TOGETHER.values() for kind in kinds)}
    elsewhere = {"personal_data_kept", "drift", "croissant_invalid", "croissant_differs"}
    elsewhere |= {"member_repeated", "not_adjacent", "unreadable_sample"}  # below
    elsewhere |= {"json_missing", "other_kind"}
    assert FAULTS.keys() - planted - elsewhere == {"shard_unreadable", "check_failed"}


@pytest.mark.parametrize("is_foreign", [False, True])
@pytest.mark.parametrize("kind", FAULTS)
def test_no_remedy_takes_a_store_for_a_folder(kind: str, is_foreign: bool):
    found = Found((0, 0), kind, "a/train/a-000000.tar", "k", "")
    remedy = to_record(found, "s3://bucket/corpus", is_foreign=is_foreign, can_rebuild=True, against="s3://bucket/old")[
        "remedy"
    ]
    assert remedy.split()[0] in ("python", "energon", "remove", "move", "look")
    assert " rm " not in remedy


# --- findings ---------------------------------------------------------------------------------------------------------


def test_findings_are_counted_and_the_first_of_each_kind_kept():
    order = list(range(5000))
    random.Random(1).shuffle(order)
    workers = [Findings() for _ in range(3)]
    for place in order:
        workers[place % 3].add("media_hash", "a.tar", "x" * 900, key=f"k{place}", order=(0, place))
    whole = Findings()
    for found in workers[::-1]:
        whole.merge(found)
    assert whole.counts == {"media_hash": 5000}
    assert [found.key for found in whole.kept()] == [f"k{place}" for place in range(MAX_PER_KIND)]
    assert all(len(found.detail) == 500 for found in whole.kept())


def test_findings_are_read_as_they_were_written():
    found = Findings(num_samples=3, num_shards=1)
    found.num_checked["media"] += 3
    found.num_unknown["policy"] += 1
    found.num_bad["media"] += 1
    found.add("media_hash", "a.tar", "\udcff \n …", key="k", order=(7, 9))
    found.add("drift", "manifest.json", "d")
    assert Findings.from_json(found.to_json()) == found


@pytest.mark.parametrize("max_compared", [5, 20_000])
def test_rows_of_a_band_meet_in_any_order_as_sorted_by_sql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_compared: int
):
    from tools.audit.pipeline import _shared

    monkeypatch.setattr("tools.audit.duplicates.MAX_COMPARED", max_compared)
    settings = DuplicateSettings(max_phash_distance=0)
    name, draw = scope_of(settings), random.Random(1)
    bands = [kind + b"%d" % i for kind in (KEY, GROUP, STORED) for i in range(4)]
    for number in range(4):
        print_ = Fingerprint(f"r{number}", name, sha256=f"{number}", phash=number)
        bands += [SIMILAR + band for band, _ in band_rows(print_, settings)]
    rows = []
    for place in range(300):
        sketch = (place % 3).to_bytes(8, "little")
        rows.append(Meeting(draw.choice(bands), draw.choice(SPLITS), f"k{place}", place % 7, place, sketch))
    draw.shuffle(rows)
    with MeetingWriter(str(tmp_path / "rows.parquet")) as writer:
        for row in rows:
            writer.add(row)
    by_sql = list(find_shared([str(tmp_path / "rows.parquet")], {name: settings}))
    plan = Plan("", frozenset(), False, None, {}, {name: settings})
    told: dict[tuple[str, int, int, str], Shared] = {}
    for band in bands:
        if met := [row for row in rows if row.band == band]:
            for key, found in _shared((band, met), plan):
                told[key] = min(found, told.get(key, found))
    assert sorted(by_sql) == sorted(told.values())
    assert {found.kind for found in by_sql} == {
        "key_repeated",
        "group_in_splits",
        "image_in_splits",
        "content_in_splits",
        "similar_image_in_splits",
    }


def test_workers_elsewhere_need_a_folder_that_they_can_write(clean: Path):
    with pytest.raises(UserError, match="--runner FlinkRunner: name a --scratch folder that all workers can write"):
        audit(clean, "--runner", "FlinkRunner")


def test_a_report_of_many_findings_says_that_it_is_cut(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(clean, tmp_path / "corpus")
    (tmp_path / "corpus/spec.resolved.yaml").unlink()
    monkeypatch.setattr("tools.audit.findings.MAX_PER_KIND", 3)
    monkeypatch.setattr("tools.audit.audit.MAX_PER_KIND", 3)
    monkeypatch.setattr("tools.audit.audit.MAX_SHOWN", 2)
    for tar in (tmp_path / "corpus").rglob("*.idx"):
        tar.unlink()
    record, printed = audit(tmp_path / "corpus", "--only", "index")
    assert record["counts"] == [{"kind": "index_missing", "number": 7}]
    assert len(record["findings"]) == 3
    assert "and 1 more: --json writes all" in printed
    assert "kinds with more findings than the 3 that are kept, 7 findings in all" in printed


def test_details_hold_neither_credentials_nor_personal_data(clean: Path, tmp_path: Path):
    shutil.copytree(clean, tmp_path / "corpus")
    url = "https://ann:s3cret@www.example.org/a?token=0123456789abcdef"
    mail = "ann.lee@mail.example.org"

    def change(folder: Path, name: str, value: str) -> None:
        path = folder / "texts/train/texts-000000.parquet"
        table = pq.read_table(path)
        values = [value, *table.column(name).to_pylist()[1:]]
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
        pq.write_table(table, path, store_schema=False)

    change(tmp_path / "corpus", "page_url", url)
    record, printed = audit(tmp_path / "corpus")
    (found,) = record["findings"]
    assert found["kind"] == "sidecar_value"
    assert "https://www.example.org/a" in found["detail"]
    assert "s3cret" not in json.dumps(record) + printed
    assert "0123456789abcdef" not in json.dumps(record) + printed
    assert mail not in shown([{"value": f"write to {mail}"}])
    assert shown(123456789012) == "123456789012"
    assert len(shown("a" * 10_000)) == 120

    plain = tmp_path / "plain"
    shutil.copytree(clean, plain)
    pairs = Shard(plain, "pairs", "train")
    texts = pairs.record(0)
    texts["segments"][-1]["text"] = texts["caption"] = mail
    pairs.set_record(0, texts)
    pairs.samples[0][1]["txt"] = b"other"
    pairs.samples[0][1]["json"] = json.dumps(texts).encode()
    pairs.write()
    record, printed = audit(plain, "--only", "schema")
    assert {found["kind"] for found in record["findings"]} == {"json_not_canonical", "caption_differs"}
    assert mail not in json.dumps(record) + printed


def test_what_has_no_work_folder_is_not_built_from_nothing(clean: Path, tmp_path: Path):
    shutil.copytree(clean, tmp_path / "corpus")
    shutil.rmtree(tmp_path / "corpus" / "work", ignore_errors=True)
    tar = next((tmp_path / "corpus").rglob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-100])
    record, _ = audit(tmp_path / "corpus", "--only", "shard_sha256")
    assert {finding["remedy"].partition(":")[0] for finding in record["findings"]} == {
        "# no work/ here to build it from"
    }


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "bad"), [(1, 0), (20, 0), (300, 0), (300, 1), (300, 17), (1000, 999)])
def test_the_bound_is_that_of_the_binomial_distribution(number: int, bad: int):
    assert binom.cdf(bad, number, upper_bound(number, bad)) == pytest.approx(0.05)


def test_nothing_drawn_promises_nothing():
    assert upper_bound(0, 0) == upper_bound(5, 5) == 1.0


def shards(*numbers: int) -> list[ShardInfo]:
    return [ShardInfo(f"a/train/a-{i:06d}.tar", "a", "text", "train", "", 0, n) for i, n in enumerate(numbers)]


def test_each_sample_is_drawn_as_likely_as_any_other():
    counts: Counter[tuple[int, int]] = Counter()
    for seed in range(2000):
        tasks = draw_samples(shards(1, 5, 2), 2, seed)
        drawn = [(task.number, place) for task in tasks for place in task.chosen or ()]
        assert len(set(drawn)) == 2
        counts.update(drawn)
    assert len(counts) == 8
    assert all(400 < num < 600 for num in counts.values())
    assert draw_samples(shards(3, 3), 4, 7) == draw_samples(shards(3, 3), 4, 7)
    assert [task.chosen for task in draw_samples(shards(2, 0, 1), 99, 0)] == [(0, 1), (0,)]
    assert draw_samples([], 5, 0) == []
    assert [task.number for task in draw_shards(shards(1, 1, 1), 9, 0)] == [0, 1, 2]


def test_rows_of_a_draw_are_those_of_their_numbers(tmp_path: Path):
    path = str(tmp_path / "a.parquet")
    count = 1500
    columns = {f.name: pa.array([None] * count, f.type) for f in SCHEMA}
    columns["key"] = pa.array([f"k{i}" for i in range(count)])
    pq.write_table(pa.table(columns), path)
    faults: list[tuple[str, str, str | None]] = []
    for numbers in ((0,), (1499,), (0, 511, 512, 1300, 1499), (3, 9999)):
        with SidecarReader(path, lambda *fault: faults.append(fault)) as reader:
            found = reader.rows_at(numbers)
            assert {number: row["key"] for number, row in found.items()} == {i: f"k{i}" for i in numbers if i < count}
            assert not faults


# --- tars -------------------------------------------------------------------------------------------------------------


def tar(*members: tuple[str, bytes]) -> bytes:
    data = b"".join(member_header(n, len(b)) + b + bytes(padded(len(b)) - len(b)) for n, b in members)
    return data + tar_end(len(data))


def form_of(data: bytes) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    reader = FormReader(
        lambda at, length: data[at : at + length], "a.tar", lambda kind, _, key: found.append((kind, key)), is_ours=True
    )
    list(reader.samples(0, len(data), is_whole=True))
    return found + ([("tar_broken", None)] if reader.error is not None else [])


def test_members_of_a_sample_stand_together_and_once():
    assert form_of(tar(("a.json", b"{}"), ("a.jpg", b"1"), ("b.json", b"{}"))) == []
    assert form_of(tar(("a.json", b"{}"), ("a.JSON", b"1"))) == [("member_repeated", "a")]
    assert form_of(tar(("a.json", b"{}"), ("b.json", b"{}"), ("a.jpg", b"1"))) == [("not_adjacent", "a")]


def test_every_byte_is_hashed_once(tmp_path: Path):
    data = random.Random(0).randbytes(5_000_000)
    (tmp_path / "a").write_bytes(data)
    for ranges in ([], [(0, 512), (512, 700_000), (1_500_000, 512), (1_500_512, 3_499_488)], [(3_000_000, 9_000_000)]):
        with open(tmp_path / "a", "rb") as file:
            reader = HashingReader(file, hashes=True)
            for at, length in ranges:
                assert reader.read(at, length) == data[at : at + length]
            assert reader.finish() == (hashlib.sha256(data).hexdigest(), len(data))


# --- hostile files ----------------------------------------------------------------------------------------------------

FILES = (
    "pairs/train/pairs-000000.tar",
    "groundeds/train/groundeds-000000.tar",
    "texts/train/texts-000000.tar.idx",
    "pairs/train/pairs-000000.parquet",
    "pairs/.nv-meta/index.sqlite",
    "pairs/.nv-meta/.info.json",
    "pairs/.nv-meta/split.yaml",
    "pairs/wids-train.json",
    "drops/pairs-00000.parquet",
    "spec.resolved.yaml",
)


def flipped(data: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(20):
        damaged[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(damaged)


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flipped bytes": flipped,
    "truncated": lambda data, draw: data[: draw.randrange(len(data) - 600)] if len(data) > 700 else data[:-9],
    "other content": lambda data, draw: draw.randbytes(len(data)),
    "empty": lambda data, draw: b"",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_of_any_file_is_a_finding(clean: Path, tmp_path: Path, how: str):
    shutil.copytree(clean, tmp_path / "corpus")
    for path in FILES:
        file = tmp_path / "corpus" / path
        file.write_bytes(DAMAGE[how](file.read_bytes(), random.Random(how + path)))
    record, _ = audit(tmp_path / "corpus")
    assert not any(found["kind"] == "check_failed" for found in record["findings"])
    silent = {path for path in FILES if path not in {found["path"] for found in record["findings"]}}
    assert silent <= ({"pairs/.nv-meta/index.sqlite"} if how == "flipped bytes" else set())  # it has unused bytes


HOSTILE = [
    b"[]",
    b"null",
    b'{"schema":"seq/1"}',
    b"{" * 5000,
    b"[" * 100_000,
    b'{"a":' + b"9" * 6000 + b"}",
    b'{"schema":"seq/1","kind":[],"key":{},"lang":1,"segments":[1],"media":"","source":{},"signals":{},"decision":{}}',
    b"\xff\xfe",
    b"",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_json_of_any_content_is_a_fault(number: int):
    found = parse(TarSample("k", 0, 0, {"json": HOSTILE[number]}))
    assert isinstance(found, SampleFault)
    assert found.kind in ("json_damaged", "json_invalid")


def test_a_sample_without_json_is_a_fault():
    assert parse(TarSample("k", 0, 0, {"jpg": b""})) == ("json_missing", "no member k.json among jpg")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("segments", [{"type": "text", "text": 5}]),
        ("lang", 7),
        ("media", {}),
        ("build", {"pipeline": None}),
        ("decision", {"policy": "a", "allowed": "yes", "reasons": []}),
        ("scores", [{"name": "a", "target": "document", "value": "high", "origin": "x"}]),
        ("extra", float("nan")),
        ("source", {"dataset": "web", "record": "1"}),  # keys that are missing
    ],
)
def test_values_of_other_types_are_faults(name: str, value: Any):
    record = json.loads(sample("text", 0).document.to_json()) | {name: value}
    packed = TarSample(record["key"], 0, 0, {"json": json.dumps(record).encode()})
    found = parse(packed)
    kinds = [found.kind] if isinstance(found, SampleFault) else [f.kind for f in schema_faults(packed, found, "text")]
    assert kinds in (["json_invalid"], ["json_not_canonical"])


def test_a_sample_of_another_kind_is_a_fault():
    item = sample("text", 0)
    packed = TarSample(item.key, 0, 0, dict(item.parts))
    assert [fault.kind for fault in schema_faults(packed, item.document, "pair")] == ["other_kind"]


# --- foreign tars -----------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Pairs as img2dataset writes them, one without a caption, in two splits."""
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        members: list[tuple[str, bytes]] = []
        for number in numbers:
            about = {
                "url": f"https://a.example/{number}.jpg",
                "width": 64,
                "height": 48,
                "caption": f"image {number}",
            }
            members += [(f"{number:09d}.jpg", noise(number)), (f"{number:09d}.json", json.dumps(about).encode())]
            members += [(f"{number:09d}.txt", f"image {number} of a set".encode())] if number else []
        members.append((f"{numbers[0]:09d}x.foo", b"neither"))
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "00000.tar").write_bytes(tar(*members))
    index_corpus(str(tmp_path))
    return tmp_path


def test_foreign_tars_are_audited_for_what_applies(foreign: Path):
    record, printed = audit(foreign, code=0)
    assert record["num_unusable"] == 2
    assert "2 samples that `index` found unusable were passed over" in " ".join(printed.split())
    assert record["not_checked"].keys() == {"policy", "croissant", "drift"}
    assert record["checked"]["media"] == 6
    assert record["checked"]["sidecar"] == 8


def test_faults_of_foreign_tars_are_found(foreign: Path):
    path = foreign / "set/val/00000.tar"
    leaked = tar(
        ("a.jpg", noise(1)),
        ("a.txt", b"write to ann.lee@example.com"),
        ("b.jpg", noise(900)[:300]),
        ("b.txt", b"a broken image"),
        ("c.jpg", noise(901)),
        ("c.txt", b"one"),
        ("c.TXT", b"two"),
    )
    path.write_bytes(leaked)
    index_corpus(str(foreign))
    record, _ = audit(foreign)
    expected = {"personal_data", "media_broken", "image_in_splits", "similar_image_in_splits", "member_repeated"}
    assert {found["kind"] for found in record["findings"]} == expected
    path.write_bytes(leaked[:-10_240])
    record, _ = audit(foreign)
    assert {"tar_broken", "shard_size"} <= {found["kind"] for found in record["findings"]}
    remedies = {found["remedy"] for found in record["findings"] if found["check"] == "shard_sha256"}
    assert remedies == {f"python -m pipelines index --corpus {foreign}"}


def test_a_foreign_sample_that_became_unreadable_is_found(foreign: Path):
    sidecar = foreign / "set/train/00000.sidecar.parquet"
    table = pq.read_table(sidecar)
    allowed = table.column("allowed").to_pylist()
    assert allowed.count(False) == 1
    place = table.column_names.index("allowed")
    pq.write_table(table.set_column(place, "allowed", [[True] * len(allowed)]), sidecar, store_schema=False)
    record, _ = audit(foreign)
    assert [found["kind"] for found in record["findings"]] == ["unreadable_sample"]


# --- Croissant --------------------------------------------------------------------------------------------------------


def croissant(folder: Path) -> dict[str, Any]:
    """Return a description of a corpus's tars."""
    context = {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "conformsTo": "dct:conformsTo",
    }
    files = [
        {
            "@type": "cr:FileObject",
            "@id": shard.path,
            "name": shard.path,
            "contentUrl": shard.path,
            "contentSize": f"{shard.bytes} B",
            "encodingFormat": "application/x-tar",
            "sha256": shard.sha256,
        }
        for shard in load_manifest(str(folder)).shards
    ]
    return {
        "@context": context,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "tiny",
        "description": "A small corpus.",
        "license": "https://creativecommons.org/licenses/by/4.0/",
        "url": "https://example.org/tiny",
        "creator": {"@type": "sc:Person", "name": "Ann Lee"},
        "datePublished": "2026-01-05",
        "distribution": files,
    }


@pytest.mark.slow
@pytest.mark.parametrize("max_validated", [50, 1])
def test_croissant_is_held_against_the_manifest(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_validated: int
):
    monkeypatch.setattr("tools.audit.whole._MAX_VALIDATED", max_validated)
    shutil.copytree(clean, tmp_path / "corpus")
    folder, path = tmp_path / "corpus", tmp_path / "corpus/croissant.json"
    record = croissant(folder)
    path.write_text(json.dumps(record))
    report, _ = audit(folder, "--only", "croissant", code=0)
    assert report["checked"]["croissant"] == 7

    record["distribution"][3]["sha256"] = "0" * 64
    record["distribution"][4] |= {"@id": "x", "contentUrl": "https://a.example/else.tar"}
    path.write_text(json.dumps(record))
    report, _ = audit(folder, "--only", "croissant")
    assert {found["kind"] for found in report["findings"]} == {"croissant_differs"}
    assert len(report["findings"]) == 3  # another hash, a tar that is missing, one that is no shard

    del record["distribution"][0]["encodingFormat"]
    path.write_text(json.dumps(record))
    report, _ = audit(folder, "--only", "croissant")
    assert "croissant_invalid" in {found["kind"] for found in report["findings"]}
    for content in ("{", "[]", '{"distribution": 5}', '{"@context": 1, "distribution": [{}]}'):
        path.write_text(content)
        report, _ = audit(folder, "--only", "croissant")
        assert "croissant_invalid" in {found["kind"] for found in report["findings"]}


def test_a_url_names_the_shard_with_the_longest_path():
    paths = ["a/train/0.tar", "0.tar", "train/0.tar", "b.tar"]
    info = [ShardInfo(path, "a", "text", "train", "", 0, 1) for path in paths]
    manifest = Manifest("tiny", "1", None, tuple(info), (), {}, ("a",))
    urls = ["https://x.example/v1/a/train/0.tar?sig=1", "s3://y/0.tar", "train/0.tar", "z/train/0.tar", "c.tar"]
    assert _urls_by_shard(urls, manifest) == {
        "a/train/0.tar": urls[0],
        "0.tar": urls[1],
        "train/0.tar": "train/0.tar",
    }


def test_mlcroissant_is_given_files_of_which_it_could_say_something():
    digest = {"encodingFormat": "application/x-tar", "sha256": "0" * 64}
    files: list[dict[str, Any]] = [
        {"@type": "cr:FileObject", "@id": f"{i}.tar", "name": "n", "contentUrl": f"{i}.tar", **digest}
        for i in range(500)
    ]
    del files[300]["sha256"]
    files[301]["sha256"] = "none"
    files[302]["@id"] = files[303]["@id"] = "302.tar"
    members = {"@type": "cr:FileSet", "@id": "json", "containedIn": [{"@id": f"{i}.tar"} for i in range(100, 500)]}
    record_set = {"field": [{"source": {"fileObject": {"@id": "499.tar"}}}]}
    record = {"distribution": [*files, members], "recordSet": [record_set]}
    left = _without_equals(record)
    kept = [*files[:50], *files[100:150], *files[300:304], files[499]]
    refs = [{"@id": f"{i}.tar"} for i in (*range(100, 150), 300, 301, 302, 303, 499)]
    assert left["distribution"] == [*kept, members | {"containedIn": refs}]
    assert left["recordSet"] == [record_set]
    assert _without_equals({"distribution": files[:40]}) == {"distribution": files[:40]}
