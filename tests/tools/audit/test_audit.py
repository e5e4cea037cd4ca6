"""Tests of `audit`: each fault is planted in a copy of a small corpus, and exactly it is found."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal as signal_numbers
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipelines.document import Drop
from pipelines.errors import UserError
from pipelines.funnel import FunnelRow
from pipelines.shards.drops import write_drops
from pipelines.shards.manifest import load_manifest, write_manifest
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.tar_samples import member_header
from tests.sources import ROOT
from tests.tools.audit.small_corpus import Shard, build, corpus_spec, noise, rewrite, signal
from tools.__main__ import commands
from tools.audit.faults import CHECKS, FAULTS
from tools.audit.plan import DropsTask, Plan, whole_shards

Plant = Callable[[Path], object]
PAIRS, PAGES, TEXTS, GROUNDED = "pairs", "interleaveds", "texts", "groundeds"
PAIR_TAR = "pairs/train/pairs-000000.tar"
TEXT_TAR = "texts/train/texts-000000.tar"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build(str(folder))
    (folder / "work" / "raw").mkdir(parents=True)  # what a build can start from again
    (folder / "work" / "raw" / "stage.json").write_text("{}")
    return folder


@pytest.fixture
def corpus(clean: Path, tmp_path: Path) -> Path:
    shutil.copytree(clean, tmp_path / "corpus")
    return tmp_path / "corpus"


def audit(corpus: Path | str, *options: str, code: int = 1) -> tuple[dict[str, Any], str]:
    """Run the command; return its JSON and what it printed."""
    report = "memory://report.json"
    arguments = ["audit", "--corpus", str(corpus), "--workers", "1", "--json", report, *options]
    done = CliRunner().invoke(commands, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    assert done.return_value == code, done.stdout
    with fsspec.open(report) as file:
        return json.load(file), done.stdout


def shard(folder: Path, source: str, split: str = "train") -> Shard:
    return Shard(folder, source, split)


# --- planting -------------------------------------------------------------------------------------------------------


def edit(path: str, change: Callable[[bytes], bytes]) -> Plant:
    """Return a function that changes the bytes of a file of a corpus."""

    def plant(folder: Path) -> None:
        file = folder / path
        file.write_bytes(change(file.read_bytes()))

    return plant


def remove(path: str) -> Plant:
    return lambda folder: (folder / path).unlink()


def change(source: str, how: Callable[[dict[str, Any]], object], *, number: int = 1, split: str = "train") -> Plant:
    """Return a function that changes the JSON of a sample."""
    return lambda folder: shard(folder, source, split).change(number, how).write()


def first_of(name: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    """Return a function that sets fields of the first item of a list in a sample's JSON."""
    return lambda record: record[name][0].update(values)


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + b"x"


def swap_members(folder: Path) -> None:
    tar = shard(folder, PAIRS)
    parts = tar.samples[1][1]
    tar.samples[1] = (tar.keys[1], {name: parts[name] for name in ("json", "txt", "jpg")})
    tar.write()


def other_header(folder: Path) -> None:
    tar = shard(folder, PAIRS)
    wrong = f"{tar.keys[1]}.txt"

    def header(name: str, size: int) -> bytes:
        right = member_header(name, size)
        if name != wrong:
            return right
        head = right[:100] + b"0000600\0" + right[108:148] + b" " * 8 + right[156:]
        return head[:148] + b"%06o\0 " % sum(head) + head[156:]

    tar.write(header)


def stray_member(folder: Path) -> None:
    shard(folder, PAIRS).write(stray=member_header("README", 0))


def without_member(folder: Path) -> None:
    tar = shard(folder, PAGES)
    del tar.samples[1][1]["001.jpg"]
    tar.write()


def set_json(source: str, make: Callable[[dict[str, Any]], bytes]) -> Plant:
    def plant(folder: Path) -> None:
        tar = shard(folder, source)
        tar.samples[1][1]["json"] = make(tar.record(1))
        tar.write()

    return plant


def count_of_manifest(folder: Path) -> None:
    manifest = load_manifest(str(folder))
    rewrite(folder, tuple(dataclasses.replace(s, samples=4) if s.path == PAIR_TAR else s for s in manifest.shards))


def sidecar(how: Callable[[pa.Table], pa.Table], path: str = PAIR_TAR) -> Plant:
    """Return a function that changes the table of a sidecar, and Energon's index with it."""

    def plant(folder: Path) -> None:
        file = folder / path.replace(".tar", ".parquet")
        pq.write_table(how(pq.read_table(file)), file, store_schema=False)
        write_reader_indexes(str(folder), load_manifest(str(folder)))

    return plant


def column(name: str, change: Callable[[pa.ChunkedArray], Any]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, change(table.column(name)))


def sqlite(statement: str) -> Plant:
    def plant(folder: Path) -> None:
        database = sqlite3.connect(folder / "pairs/.nv-meta/index.sqlite")
        database.execute(statement)
        database.commit()
        database.close()

    return plant


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE samples SET byte_size = byte_size + 512",  # in both shards
            "table samples: row (0, 0, ",
        ),
        ("UPDATE samples SET byte_size = 7 WHERE tar_file_id = 1 AND sample_index = 1", "table samples: row (1, 1, "),
        ("DELETE FROM samples WHERE tar_file_id = 1 AND sample_index = 1", "table samples: row None is not (1, 1, "),
        ("UPDATE sample_parts SET part_name = 'png'", "table sample_parts: row (0, 0, 'png', "),
        (
            "INSERT INTO samples VALUES (2, 'more', 0, 0, 512)",
            "table samples: row (2, 'more', 0, 0, 512) is of none of",
        ),
        ("INSERT INTO samples VALUES (0.5, 'half', 0, 0, 512)", "table samples: row (0.5, 0, 'half', "),
        ("INSERT INTO sample_parts VALUES (NULL, 0, 'a', 0, 1)", "table sample_parts: row (None, 0, 'a', 0, 1) is of"),
        ("DROP TABLE samples", "no such table: samples"),
    ],
)
def test_rows_of_energon_that_differ_are_one_finding(corpus: Path, statement: str, said: str):
    sqlite(statement)(corpus)
    record, _ = audit(corpus, "--only", "index")
    (found,) = record["findings"]
    assert record["counts"] == [{"kind": found["kind"], "number": 1}]
    assert said in found["detail"]
    assert found["path"] == "pairs/.nv-meta/index.sqlite"


def test_a_drawn_shard_whose_rows_in_energon_differ_is_bad(corpus: Path):
    sqlite("UPDATE samples SET byte_size = byte_size + 512 WHERE tar_file_id = 1")(corpus)
    record, _ = audit(corpus, "--sample", "99", "--only", "shard_sha256,index")
    assert {check: said["bad"] for check, said in record["promises"].items()} == {"shard_sha256": 0, "index": 1}


def same_key(folder: Path) -> None:
    tar, key = shard(folder, TEXTS), shard(folder, PAIRS).keys[0]
    tar.samples[1] = (key, tar.samples[1][1])
    tar.change(1, lambda record: record.update(key=key)).write()


def in_val(source: str, how: Callable[[Shard, Shard], object]) -> Plant:
    """Return a function that gives a held-out sample something of a training sample."""

    def plant(folder: Path) -> None:
        held_out = shard(folder, source, "val")
        how(held_out, shard(folder, source))
        held_out.write()

    return plant


def same_group(held_out: Shard, train: Shard) -> None:
    group = train.record(0)["build"]["dedup_group"]
    held_out.change(1, lambda record: record["build"].update(dedup_group=group))


def same_text(held_out: Shard, train: Shard, words: str = "") -> None:
    text = train.record(0)["segments"][0]["text"]
    held_out.change(1, first_of("segments", text=text + words))


def same_image(held_out: Shard, train: Shard) -> None:
    held_out.set_image(1, train.samples[0][1]["000.jpg"])


def similar_image(held_out: Shard, train: Shard) -> None:
    del train
    held_out.set_image(1, noise(100, quality=76))  # the seed of the first pair


def long_text(folder: Path) -> None:
    """Give a text of training and a held-out one long texts that differ in their last word."""
    words = " ".join(f"word{n}" for n in range(60))
    for split, last in (("train", "end"), ("val", "finish")):
        tar = shard(folder, TEXTS, split)
        tar.change(1, first_of("segments", text=f"{words} {last}")).write()


def box(*place: float) -> Callable[[dict[str, Any]], object]:
    def change(record: dict[str, Any]) -> None:
        record["segments"][1]["regions"][0]["box"] = list(place)
        record["noun_chunks"][0][2:6] = list(place)

    return change


def add_signal(target: str, kind: str, value: str, url: str) -> Callable[[dict[str, Any]], object]:
    return lambda record: record["signals"].append(dataclasses.asdict(signal(target, url, kind, value)))


def robots_value(value: str) -> Callable[[dict[str, Any]], object]:
    return lambda record: record["signals"][0].update(value=value)


def funnel(change: Callable[[FunnelRow], FunnelRow]) -> Plant:
    """Return a function that changes the first row of the funnel that has drops."""

    def plant(folder: Path) -> None:
        manifest = load_manifest(str(folder))
        rows = list(manifest.funnel)
        rows[0] = change(rows[0])
        write_manifest(str(folder), dataclasses.replace(manifest, funnel=tuple(rows)))

    return plant


def drops(*found: Drop, source: str = PAGES) -> Plant:
    return lambda folder: write_drops(str(folder), source, found)


DROP = Drop(source=PAGES, stage="filter", reason="too_few_images", unit="document")
PAGE_URL = "https://www.example.org/interleaved/1"
IMG_URL = "https://img.example.net/pair/1/0.jpg"
X_ROBOTS = ("x-robots-tag", "noai", PAGE_URL)

FOUND_AT = {  # by kind of fault: what plants it, and the file and the number of the sample that are named
    "shard_missing": (remove(PAIR_TAR), PAIR_TAR, None),
    "shard_extra": (
        lambda folder: shutil.copy(folder / PAIR_TAR, folder / "pairs/train/pairs-000001.tar"),
        "pairs/train/pairs-000001.tar",
        None,
    ),
    "shard_bytes": (edit(PAIR_TAR, flip_last_byte), PAIR_TAR, None),
    "num_samples": (count_of_manifest, PAIR_TAR, None),
    "member_header": (other_header, PAIR_TAR, 1),
    "member_order": (swap_members, PAIR_TAR, 1),
    "stray_member": (stray_member, PAIR_TAR, None),
    "index_missing": (remove(f"{PAIR_TAR}.idx"), f"{PAIR_TAR}.idx", None),
    "index_damaged": (edit(f"{PAIR_TAR}.idx", lambda data: data[:-3]), f"{PAIR_TAR}.idx", None),
    "index_differs": (
        edit(f"{PAIR_TAR}.idx", lambda data: data[:8] + (512).to_bytes(8, "little") + data[16:]),
        f"{PAIR_TAR}.idx",
        None,
    ),
    "energon_missing": (remove("pairs/.nv-meta/split.yaml"), "pairs/.nv-meta/split.yaml", None),
    "energon_damaged": (
        edit("pairs/.nv-meta/index.sqlite", lambda data: b"no database" + data[11:]),
        "pairs/.nv-meta/index.sqlite",
        None,
    ),
    "energon_differs": (
        sqlite("UPDATE samples SET byte_size = byte_size + 512 WHERE sample_index = 1"),
        "pairs/.nv-meta/index.sqlite",
        None,
    ),
    "wids_differs": (
        edit("pairs/wids-train.json", lambda data: data.replace(b'"nsamples": 3', b'"nsamples": 2')),
        "pairs/wids-train.json",
        None,
    ),
    "sidecar_missing": (remove("pairs/train/pairs-000000.parquet"), "pairs/train/pairs-000000.parquet", None),
    "sidecar_damaged": (
        edit("pairs/train/pairs-000000.parquet", lambda data: data[:-50]),
        "pairs/train/pairs-000000.parquet",
        None,
    ),
    "sidecar_column_missing": (
        sidecar(lambda table: table.drop_columns(["lang"])),
        "pairs/train/pairs-000000.parquet",
        None,
    ),
    "sidecar_column_unknown": (
        sidecar(lambda table: table.append_column("mood", pa.array(["fair"] * 3))),
        "pairs/train/pairs-000000.parquet",
        None,
    ),
    "sidecar_column_type": (
        sidecar(column("num_text_chars", lambda values: values.cast(pa.float64()))),
        "pairs/train/pairs-000000.parquet",
        None,
    ),
    "sidecar_rows": (sidecar(lambda table: table.slice(0, 2)), "pairs/train/pairs-000000.parquet", None),
    "sidecar_key": (
        sidecar(column("key", lambda keys: pa.array([keys[0].as_py(), "other", keys[2].as_py()]))),
        "pairs/train/pairs-000000.parquet",
        1,
    ),
    "sidecar_place": (
        sidecar(column("byte_offset", lambda offsets: pa.array([0, 512, offsets[2].as_py()]))),
        "pairs/train/pairs-000000.parquet",
        1,
    ),
    "sidecar_value": (
        sidecar(column("lang", lambda _: pa.array(["en", "de", "en"]))),
        "pairs/train/pairs-000000.parquet",
        1,
    ),
    "json_damaged": (set_json(TEXTS, lambda record: json.dumps(record).encode()[:-9]), TEXT_TAR, 1),
    "json_not_canonical": (set_json(TEXTS, lambda record: json.dumps(record).encode()), TEXT_TAR, 1),
    "json_invalid": (change(TEXTS, first_of("segments", role="shout")), TEXT_TAR, 1),
    "other_key": (change(TEXTS, lambda record: record.update(key="tother")), TEXT_TAR, 1),
    "key_repeated": (same_key, TEXT_TAR, 1),
    "caption_differs": (change(PAIRS, lambda record: record.update(caption="another")), PAIR_TAR, 1),
    "credential_in_url": (
        change(TEXTS, lambda record: record["source"].update(canonical_url="https://a.example/?api_key=f00ba4f00")),
        TEXT_TAR,
        1,
    ),
    "local_path": (change(TEXTS, lambda record: record["source"].update(file="/home/ann/list.jsonl")), TEXT_TAR, 1),
    "media_missing": (without_member, "interleaveds/train/interleaveds-000000.tar", 1),
    "media_format": (
        lambda folder: shard(folder, PAIRS).set_image(1, noise(900, "PNG")).write(),
        PAIR_TAR,
        1,
    ),
    "media_broken": (lambda folder: shard(folder, PAIRS).set_image(1, noise(900)[:400]).write(), PAIR_TAR, 1),
    "media_size": (change(PAGES, first_of("media", width=65)), "interleaveds/train/interleaveds-000000.tar", 1),
    "media_hash": (
        change(PAGES, first_of("media", stored_sha256="0" * 64)),
        "interleaveds/train/interleaveds-000000.tar",
        1,
    ),
    "media_metadata": (
        lambda folder: shard(folder, PAIRS).set_image(1, noise(900, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")).write(),
        PAIR_TAR,
        1,
    ),
    "region_invalid": (change(GROUNDED, box(0.5, 0.2, 0.4, 0.9)), "groundeds/train/groundeds-000000.tar", 1),
    "grounding_differs": (
        change(GROUNDED, lambda record: record.update(noun_chunks=[])),
        "groundeds/train/groundeds-000000.tar",
        1,
    ),
    "funnel_sum": (funnel(lambda row: dataclasses.replace(row, in_=row.in_ + 1)), "manifest.json", None),
    "drops_missing": (drops(), "drops/interleaveds-00000.parquet", None),
    "drops_damaged": (
        edit("drops/interleaveds-00000.parquet", lambda data: data[:-20]),
        "drops/interleaveds-00000.parquet",
        None,
    ),
    "drops_count": (drops(DROP, DROP), "drops/interleaveds-00000.parquet", None),
    "drops_reason": (
        lambda folder: (
            drops(dataclasses.replace(DROP, reason="boredom"))(folder),  # type: ignore[arg-type]
            funnel(lambda row: dataclasses.replace(row, dropped={"boredom": 1}))(folder),
        ),
        "drops/interleaveds-00000.parquet",
        None,
    ),
    "verdict_differs": (change(TEXTS, add_signal("page", *X_ROBOTS)), TEXT_TAR, 1),
    "not_allowed": (
        change(TEXTS, lambda record: record["decision"].update(allowed=False, reasons=["noai"])),
        TEXT_TAR,
        1,
    ),
    "evidence_missing": (change(TEXTS, lambda record: record.update(signals=[])), TEXT_TAR, 1),
    "policy_name": (change(TEXTS, lambda record: record["decision"].update(policy="lax")), TEXT_TAR, 1),
    "spec_differs": (
        edit("spec.resolved.yaml", lambda data: data.replace(b"seed: 0", b"seed: 1", 1)),
        "spec.resolved.yaml",
        None,
    ),
    "spec_unreadable": (remove("spec.resolved.yaml"), "spec.resolved.yaml", None),
    "group_in_splits": (in_val(TEXTS, same_group), "texts/val/texts-000000.tar", 1),
    "image_in_splits": (in_val(PAGES, same_image), "interleaveds/val/interleaveds-000000.tar", 1),
    "similar_image_in_splits": (in_val(PAIRS, similar_image), "pairs/val/pairs-000000.tar", 1),
    "similar_text_in_splits": (long_text, "texts/val/texts-000000.tar", 1),
    "personal_data": (
        change(TEXTS, first_of("segments", text="Write to ann.lee@example.com or call +49 30 1234567.")),
        TEXT_TAR,
        1,
    ),
    "personal_data_in_drops": (
        drops(dataclasses.replace(DROP, excerpt="ann.lee@example.com")),
        "drops/interleaveds-00000.parquet",
        None,
    ),
}


def test_a_clean_corpus_gives_no_findings(clean: Path):
    record, printed = audit(clean, code=0)
    assert record["schema"] == "dromaius-audit/1"
    assert record["corpus"] == load_manifest(str(clean)).fingerprint
    assert record["findings"] == []
    assert record["not_checked"].keys() == {"croissant", "drift"}
    assert list(record["checked"]) == list(CHECKS)
    assert all(record["checked"][check] > 0 for check in CHECKS if check not in record["not_checked"])
    assert printed.endswith("no finding\n")


def fast_and_slow() -> Iterator[Any]:
    """Yield the kinds of faults, all but the first two of each check marked as slow."""
    seen: Counter[str] = Counter()
    for kind in FOUND_AT:
        seen[FAULTS[kind].check] += 1
        yield pytest.param(kind, marks=[pytest.mark.slow] if seen[FAULTS[kind].check] > 2 else [])


def assert_can_run(remedy: str) -> None:
    """Check that a remedy is a command for a shell, and removes only what is there."""
    subprocess.run(["bash", "-n", "-c", remedy], check=True)
    words = shlex.split(remedy)
    if words[0] == "rm":
        assert Path(words[2]).exists()


@pytest.mark.parametrize("kind", list(fast_and_slow()))
def test_a_planted_fault_is_found_and_nothing_else(corpus: Path, kind: str):
    plant, path, number = FOUND_AT[kind]
    plant(corpus)
    record, printed = audit(corpus)
    (found,) = record["findings"]
    source, split = path.split("/")[:2] if number is not None else ("", "")
    key = shard(corpus, source, split).keys[number] if number is not None else found["key"]
    assert found["kind"] == kind
    assert (found["check"], found["severity"]) == FAULTS[kind][:2]
    assert (found["path"], found["key"]) == (path, key)
    assert found["remedy"].split()[0] in ("rm", "python")
    assert str(corpus) in found["remedy"]
    assert_can_run(found["remedy"])
    assert found["remedy"] in printed


# --- faults that bring others with them -------------------------------------------------------------------------------


def truncate(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def drops_without_reason(folder: Path) -> None:
    file = folder / "drops/interleaveds-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["reason"]), file)


def same_pair(held_out: Shard, train: Shard) -> None:
    parts, record = train.samples[0][1], train.record(0)
    held_out.samples[1][1].update(txt=parts["txt"])
    held_out.change(1, first_of("segments", text=None))
    held_out.change(1, lambda mine: mine["segments"].__setitem__(1, record["segments"][1]))
    held_out.change(1, lambda mine: mine.update(caption=record["caption"]))
    held_out.set_image(1, parts["jpg"])


TOGETHER: dict[str, tuple[Plant, set[str]]] = {
    "a truncated tar": (edit(PAIR_TAR, truncate), {"shard_size", "tar_broken"}),
    "two tars joined": (edit(PAIR_TAR, lambda data: data * 2), {"shard_size", "tar_broken"}),
    "more padding": (edit(PAIR_TAR, lambda data: data + bytes(10_240)), {"shard_size", "tar_padding"}),
    "no tar at all": (edit(PAIR_TAR, lambda data: b"<html>" + data), {"shard_size", "tar_broken"}),
    "nothing": (edit(PAIR_TAR, lambda _: b""), {"shard_size", "tar_broken"}),
    "no sidecar row and no file": (
        lambda folder: shutil.rmtree(folder / "pairs/train"),
        {"shard_missing"},
    ),
    "drops without a column": (drops_without_reason, {"drops_columns"}),
    "equal pairs": (
        in_val(PAIRS, same_pair),
        {"image_in_splits", "content_in_splits", "similar_image_in_splits"},
    ),
    "equal texts": (in_val(TEXTS, same_text), {"content_in_splits", "similar_text_in_splits"}),
    "robots.txt": (change(TEXTS, robots_value("User-agent: *\nDisallow: /text/")), {"verdict_differs"}),
    "an image's host": (
        change(PAIRS, lambda r: r["signals"][1].update(value="User-agent: GPTBot\nDisallow: /")),
        {"verdict_differs"},
    ),
    "an image's page": (
        change(PAGES, add_signal("page", "meta-robots", "robots: noimageai", PAGE_URL)),
        {"verdict_differs"},
    ),
    "an image's own file": (
        change(PAIRS, add_signal("media:0", "plus-data-mining", "DMI-PROHIBITED", IMG_URL)),
        {"verdict_differs"},
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_a_fault_hides_is_not_told_again(corpus: Path, name: str):
    plant, expected = TOGETHER[name]
    plant(corpus)
    record, _ = audit(corpus)
    assert {found["kind"] for found in record["findings"]} == expected
    for found in record["findings"]:
        assert_can_run(found["remedy"])


def test_signals_that_refuse_nothing_are_no_finding(corpus: Path):
    tar = shard(corpus, TEXTS)
    tar.change(0, add_signal("page", "x-robots-tag", "otherbot: noai", PAGE_URL))
    tar.change(1, add_signal("page", "meta-robots", "robots: noimageai", PAGE_URL))  # a text has no images
    tar.change(2, add_signal("page", "content-usage", "train-ai=y", PAGE_URL))
    tar.write()
    audit(corpus, code=0)


# --- settings of the corpus -------------------------------------------------------------------------------------------


def with_spec(folder: Path, **more: Any) -> Path:
    made = corpus_spec(**more)
    (folder / "spec.resolved.yaml").write_text(made.resolved())
    manifest = load_manifest(str(folder))
    write_manifest(str(folder), dataclasses.replace(manifest, spec_sha256=made.sha256))
    return folder


def test_a_missing_file_of_drops_is_one_finding(corpus: Path):
    reasons = {"too_few_images": 1, "too_few_words": 2, "robots_disallowed": 3}

    def drop(row: FunnelRow) -> FunnelRow:
        return dataclasses.replace(row, in_=row.kept + 6, dropped=reasons)

    funnel(drop)(corpus)
    source = load_manifest(str(corpus)).funnel[0].source
    (corpus / f"drops/{source}-00000.parquet").unlink()
    record, _ = audit(corpus, "--only", "drops")
    said = f"missing; the funnel says 6 drops of {source}"
    assert [(f["kind"], f["path"], f["detail"]) for f in record["findings"]] == [
        ("drops_missing", f"drops/{source}-00000.parquet", said)
    ]


def test_libjpeg_writes_nothing_of_a_damaged_image(corpus: Path, capfd: pytest.CaptureFixture[str]):
    image = noise(900)
    shard(corpus, PAIRS).set_image(1, image[:-60] + image[-2:]).write()
    audit(corpus, "--only", "splits", code=0)
    os.write(2, b"what others write")
    assert capfd.readouterr().err == "what others write"


def test_a_stricter_policy_finds_what_it_refuses(corpus: Path):
    change(TEXTS, add_signal("page", "x-robots-tag", "noindex", PAGE_URL))(corpus)
    audit(corpus, code=0)
    with_spec(corpus, policy={"blocking_signals": ["noindex"]})
    record, _ = audit(corpus)
    assert [(f["kind"], f["path"]) for f in record["findings"]] == [("verdict_differs", TEXT_TAR)]
    assert "noindex" in record["findings"][0]["detail"]


def test_licences_that_are_not_accepted_are_found(corpus: Path):
    with_spec(corpus, policy={"licenses": ["CC-BY-4.0"]})
    record, _ = audit(corpus, "--only", "policy")
    assert {f["kind"] for f in record["findings"]} == {"verdict_differs"}
    assert len(record["findings"]) == 18


def test_personal_data_that_was_kept_by_setting_is_a_note(corpus: Path):
    change(TEXTS, first_of("segments", text="Write to ann.lee@example.com."))(corpus)
    made = corpus_spec()
    filters = made.sources["texts"].filters.model_copy(update={"mask_personal_data": False})
    source = made.sources["texts"].model_copy(update={"filters": filters})
    made = made.model_copy(update={"sources": {**made.sources, "texts": source}})
    (corpus / "spec.resolved.yaml").write_text(made.resolved())
    manifest = load_manifest(str(corpus))
    write_manifest(str(corpus), dataclasses.replace(manifest, spec_sha256=made.sha256))
    record, printed = audit(corpus)
    assert [(f["kind"], f["severity"]) for f in record["findings"]] == [("personal_data_kept", "note")]
    assert "1 EMAIL" in record["findings"][0]["detail"]
    assert "ann.lee" not in printed + json.dumps(record)


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_folder_without_manifest_is_misuse(tmp_path: Path, corpus: Path):
    with pytest.raises(UserError, match="no finished corpus here"):
        audit(tmp_path)
    with pytest.raises(UserError, match="no finished corpus here"):
        audit(corpus, "--against", str(tmp_path))
    edit("manifest.json", lambda data: data[:-99])(corpus)
    with pytest.raises(UserError, match="not a valid manifest"):
        audit(corpus)


def test_checks_are_chosen_by_name(corpus: Path):
    remove(f"{PAIR_TAR}.idx")(corpus)
    change(TEXTS, lambda record: record["decision"].update(policy="lax"))(corpus)
    assert audit(corpus, "--only", "index")[0]["counts"] == [{"kind": "index_missing", "number": 1}]
    record, _ = audit(corpus, "--skip", "index")
    assert record["counts"] == [{"kind": "policy_name", "number": 1}]
    assert record["not_checked"]["index"] == "left out"
    audit(corpus, "--only", "funnel,drops", code=0)
    for wrong in (("--only", "hashes"), ("--only", "media", "--skip", "media")):
        with pytest.raises(UserError, match=r"no check 'hashes'|leave no check"):
            audit(corpus, *wrong)


def test_what_hides_the_rest_is_told_whatever_is_asked(corpus: Path):
    edit(PAIR_TAR, truncate)(corpus)
    assert audit(corpus, "--only", "personal_data")[0]["counts"] == [{"kind": "tar_broken", "number": 1}]


def test_hostile_text_is_printed_as_text(corpus: Path):
    change(TEXTS, lambda record: record["decision"].update(policy="\x1b[2J\u202e"))(corpus)
    _, printed = audit(corpus)
    assert "\\x1b[2J\\u202e" in printed
    assert all(c.isprintable() or c == "\n" for c in printed)


@pytest.mark.slow
def test_any_number_of_workers_finds_the_same(corpus: Path):
    for kind in ("media_size", "media_broken", "group_in_splits", "sidecar_value"):
        FOUND_AT[kind][0](corpus)
    one, _ = audit(corpus)
    two, _ = audit(corpus, "--workers", "2")
    assert one == two
    assert len(one["findings"]) > 3


@pytest.mark.slow
def test_who_stops_it_waits_for_no_shard(corpus: Path, request: pytest.FixtureRequest):
    (corpus / PAIR_TAR).unlink()
    os.mkfifo(corpus / PAIR_TAR)  # whoever reads it never ends
    temporary = tempfile.mkdtemp()  # a path short enough for the sockets of processes
    request.addfinalizer(lambda: shutil.rmtree(temporary, ignore_errors=True))
    command = [sys.executable, "-m", "tools", "audit", "--corpus", str(corpus), "--workers", "2"]
    environment = os.environ | {"TMPDIR": temporary}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    writer = None
    while writer is None and process.poll() is None:
        time.sleep(0.1)
        with contextlib.suppress(OSError):  # until a worker opens it
            writer = os.open(corpus / PAIR_TAR, os.O_WRONLY | os.O_NONBLOCK)
    assert writer is not None, process.communicate()
    try:
        process.send_signal(signal_numbers.SIGTERM)  # as Ctrl-C, which is ignored where tests run in the background
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        os.close(writer)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("error: stopped")
    assert "Traceback" not in said
    assert not list(Path(temporary).glob("dromaius-*"))


@pytest.mark.slow
def test_a_pipeline_finds_the_same(corpus: Path, tmp_path: Path):
    for kind in ("media_size", "media_broken", "similar_text_in_splits", "sidecar_value"):
        FOUND_AT[kind][0](corpus)
    here, _ = audit(corpus)
    there, _ = audit(corpus, "--runner", "local", "--scratch", str(tmp_path))
    assert here == there
    assert not list(tmp_path.glob("audit-*"))


def test_tasks_that_have_ended_are_counted(corpus: Path, tmp_path: Path):
    from tools.audit.pipeline import _AuditTask

    (shard_task,) = whole_shards(load_manifest(str(corpus)).shards[:1])
    task = _AuditTask(Plan(str(corpus), frozenset({"index"}), False, None, {}, {}), str(tmp_path / "ended"))
    task.setup()
    for number, audited in enumerate((shard_task, DropsTask(f"drops/{PAGES}-00000.parquet"), shard_task)):
        assert list(task.process((number, audited)))
    task.teardown()
    assert len(list((tmp_path / "ended").iterdir())) == 3


@pytest.mark.slow
def test_a_corpus_on_another_store(corpus: Path):
    FOUND_AT["sidecar_value"][0](corpus)
    store = fsspec.filesystem("memory")
    store.put(str(corpus), "/audited/corpus", recursive=True)
    there, _ = audit("memory://audited/corpus")
    store.rm("/audited", recursive=True)
    here, _ = audit(corpus)
    assert [{**f, "remedy": ""} for f in there["findings"]] == [{**f, "remedy": ""} for f in here["findings"]]
    store_name, path = "memory://audited/corpus", PAIR_TAR.replace(".tar", ".parquet")
    again = f"python -m pipelines corpus --spec {store_name}/spec.resolved.yaml --out {store_name}"
    assert [f["remedy"] for f in there["findings"]] == [f"remove {store_name}/{path}, then: {again}"]
    assert there["checked"] == here["checked"]


# --- a part of a corpus -----------------------------------------------------------------------------------------------


def test_a_draw_says_what_it_promises(corpus: Path):
    record, printed = audit(corpus, "--sample", "10", "--seed", "2", code=0)
    assert record["sample"] == {"unit": "samples", "number": 10, "of": 18, "seed": 2}
    assert record["checked"]["schema"] == record["checked"]["policy"] == record["checked"]["sidecar"] == 10
    assert {"shard_sha256", "splits"} <= record["not_checked"].keys()
    assert record["promises"]["schema"]["fewer_than"] == pytest.approx(1 - 0.05 ** (1 / 10))
    assert "10 of 18 samples were drawn, by seed 2" in printed
    assert "schema: 0 of 10 bad; with 95 % confidence fewer than 26 % of all are" in printed


def test_a_draw_of_everything_finds_what_is_there(corpus: Path):
    change(TEXTS, lambda record: record["decision"].update(policy="lax"))(corpus)
    record, _ = audit(corpus, "--sample", "1000")
    assert [(f["kind"], f["path"]) for f in record["findings"]] == [("policy_name", TEXT_TAR)]
    assert record["promises"]["policy"] | {"fewer_than": 0} == {
        "checked": 18,
        "bad": 1,
        "fewer_than": 0,
        "confidence": 0.95,
    }


def test_whole_shards_are_drawn_for_checks_of_shards(corpus: Path):
    edit(PAIR_TAR, flip_last_byte)(corpus)
    record, printed = audit(corpus, "--sample", "99", "--only", "shard_sha256,tar_format")
    assert record["sample"]["unit"] == "shards"
    assert record["promises"]["shard_sha256"]["bad"] == 1
    assert "7 of 7 shards were drawn" in printed


def unread(folder: Path) -> None:
    (folder / PAIR_TAR).unlink()


def short_index(folder: Path) -> None:
    file = folder / f"{PAIR_TAR}.idx"
    file.write_bytes(file.read_bytes()[:-16])  # one of three samples is left


def broken_json(folder: Path) -> None:
    tar = shard(folder, PAIRS)
    for _, parts in tar.samples:
        parts["json"] = b"{"
    tar.write()


SAMPLE_CHECKS = dict.fromkeys(("sidecar", "schema", "media", "boxes", "policy", "personal_data"), 0)


@pytest.mark.parametrize(
    ("kind", "plant", "bad"),
    [
        ("shard_missing", unread, dict.fromkeys(SAMPLE_CHECKS, 3)),
        ("index_missing", remove(f"{PAIR_TAR}.idx"), dict.fromkeys(SAMPLE_CHECKS, 3)),
        ("index_damaged", edit(f"{PAIR_TAR}.idx", lambda data: data[:-1]), dict.fromkeys(SAMPLE_CHECKS, 3)),
        ("index_differs", short_index, dict.fromkeys(SAMPLE_CHECKS, 2)),
        ("tar_broken", edit(PAIR_TAR, lambda data: data[:512]), dict.fromkeys(SAMPLE_CHECKS, 3)),
        ("json_damaged", broken_json, dict.fromkeys(SAMPLE_CHECKS, 3) | {"sidecar": 0}),
        ("sidecar_missing", remove(PAIR_TAR.replace(".tar", ".parquet")), {"sidecar": 3}),
        ("sidecar_value", FOUND_AT["sidecar_value"][0], {"sidecar": 1}),
        ("member_header", other_header, {}),
    ],
)
def test_a_draw_promises_nothing_of_what_it_cannot_check(corpus: Path, kind: str, plant: Plant, bad: dict[str, int]):
    plant(corpus)
    record, _ = audit(corpus, "--sample", "1000", code=0 if kind == "member_header" else 1)
    assert {f["kind"] for f in record["findings"]} == ({kind} if kind != "member_header" else set())
    for found in record["findings"]:
        assert_can_run(found["remedy"])
    assert {check: said["bad"] for check, said in record["promises"].items()} == SAMPLE_CHECKS | bad
    assert {said["checked"] for said in record["promises"].values()} == {18}


def test_a_draw_of_which_nothing_can_be_read_promises_nothing(corpus: Path):
    for tar in corpus.rglob("*.tar"):
        tar.unlink()
    record, _ = audit(corpus, "--sample", "5")
    assert {(said["checked"], said["bad"], said["fewer_than"]) for said in record["promises"].values()} == {(5, 5, 1.0)}


def test_evidence_that_is_judged_in_part_is_not_promised(corpus: Path):
    change(PAIRS, add_signal("page", "x-robots-tag", "otherbot: " + "a" * 3000, PAGE_URL))(corpus)
    record, _ = audit(corpus, "--sample", "1000", code=0)
    assert (record["in_part"], record["promises"]["policy"]["bad"]) == ({"policy": 1}, 1)


@pytest.mark.parametrize(
    ("plant", "bad"),
    [
        (unread, {"shard_sha256": 1, "tar_format": 1, "index": 1}),
        (edit(PAIR_TAR, truncate), {"shard_sha256": 1, "tar_format": 1, "index": 1}),
        (short_index, {"shard_sha256": 0, "tar_format": 0, "index": 1}),
    ],
)
def test_a_shard_that_cannot_be_read_is_bad_for_each_check(corpus: Path, plant: Plant, bad: dict[str, int]):
    plant(corpus)
    record, _ = audit(corpus, "--sample", "99", "--only", "shard_sha256,tar_format,index")
    assert {check: said["bad"] for check, said in record["promises"].items()} == bad


# --- versions ---------------------------------------------------------------------------------------------------------


def test_drift_since_an_earlier_version_is_found(clean: Path, corpus: Path):
    for split, num in (("train", 3), ("val", 2)):
        tar = shard(corpus, TEXTS, split)
        for number in range(num):
            tar.change(number, lambda record: record.update(lang="de"))
        tar.write()
    audit(corpus, code=0)
    record, _ = audit(corpus, "--against", str(clean))
    (found,) = record["findings"]
    assert (found["check"], found["kind"]) == ("drift", "drift")
    assert found["detail"].startswith("texts, language: stability index ")
    assert found["remedy"] == f"python -m tools diff {clean} {corpus}"
    assert record["checked"]["drift"] > 10
    audit(clean, "--against", str(clean), code=0)
