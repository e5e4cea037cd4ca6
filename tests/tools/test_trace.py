"""Tests of `trace`: what a step consumed and which steps consumed a sample, against plain lists of rows."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner

from pipelines.errors import RunError, UserError
from pipelines.shards.manifest import Manifest, load_manifest, write_manifest
from pipelines.shards.sidecar import read_sidecar
from tests.pipelines.corpus_builder import build
from tools import trace as trace_module
from tools.__main__ import commands
from trainer.reading.consumed import ConsumedLog, ConsumedRow

NUM_STEPS, ROWS_PER_STEP, EVERY = 30, 4, 10
CONTRACT = ("step", "position", "source", "shard", "key", "window", "epoch", "url", "page_url", "allowed", "signals")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("corpus"))
    build(folder, ("pair", "interleaved"))
    return folder


def samples(corpus: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return source, shard and sidecar row of the training samples."""
    shards = [shard for shard in load_manifest(corpus).shards if shard.split == "train"]
    return [(s.source, s.path, row) for s in shards for row in read_sidecar(f"{corpus}/{s.sidecar}")]


def rows_of(corpus: str, first: int, last: int) -> list[ConsumedRow]:
    """Return rows of steps, in which each sample comes again and again."""
    found = samples(corpus)
    rows = []
    for position in range(first * ROWS_PER_STEP, last * ROWS_PER_STEP):
        epoch, place = divmod(position, len(found))
        source, shard, row = found[place]
        rows.append(
            ConsumedRow(
                position // ROWS_PER_STEP, position, source, "train", shard, row["key"], 0, epoch, 40, row["num_media"]
            )
        )
    return rows


def consume(run: Path, corpus: str, first: int, last: int) -> None:
    """Continue the record of a run as a trainer does, with a checkpoint every few steps."""
    log = ConsumedLog(str(run))
    log.cut(first)
    for begin in range(first, last, EVERY):
        log.add(rows_of(corpus, begin, min(begin + EVERY, last)))
        log.write()


@pytest.fixture
def run(tmp_path: Path, corpus: str) -> Path:
    consume(tmp_path / "run", corpus, 0, NUM_STEPS)
    return tmp_path / "run"


def trace(corpus: str, run: Path | str, *asked: Any) -> tuple[list[dict[str, Any]], str]:
    """Run the command; return the rows of its JSON, and what it printed."""
    path = str(run) + ".json" if "://" not in str(run) else "memory://found.json"
    arguments = ["trace", "--corpus", corpus, "--run", str(run), *map(str, asked), "--json", path]
    done = CliRunner().invoke(commands, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    with fsspec.open(path) as file:
        record = json.load(file)
    assert record["schema"] == "dromaius-trace/1"
    assert record["found"]["windows"] == len(record["rows"])
    return record["rows"], done.stdout


def positions(rows: list[dict[str, Any]]) -> list[int]:
    return [row["position"] for row in rows]


def expected(corpus: str, num_steps: int, *keys: str) -> list[int]:
    return [row.position for row in rows_of(corpus, 0, num_steps) if row.key in keys]


def test_a_step_is_shown_with_urls_verdicts_and_images(corpus, run):
    rows, printed = trace(corpus, run, "--step", 12)
    assert positions(rows) == [48, 49, 50, 51]
    for row, consumed in zip(rows, rows_of(corpus, 12, 13), strict=True):
        assert set(CONTRACT) <= row.keys()
        (sidecar,) = [held for _, _, held in samples(corpus) if held["key"] == row["key"]]
        assert (row["step"], row["source"], row["shard"], row["epoch"]) == (
            12,
            consumed.source,
            consumed.shard,
            consumed.epoch,
        )
        assert (row["page_url"], row["allowed"], row["signals"]) == (sidecar["page_url"], True, sidecar["signals"])
        assert [image["url"] for image in row["images"]] == [media["url"] for media in sidecar["media"]]
        assert row["url"] == sidecar["media"][0]["url"]
        assert row["key"] in printed
        assert row["page_url"] in printed


@pytest.mark.slow
def test_every_step_of_a_key_a_url_and_a_domain_is_found(corpus, run):
    _, _, sample = samples(corpus)[8]
    url = sample["media"][-1]["url"]
    rows, printed = trace(corpus, run, "--key", sample["key"])
    assert positions(rows) == expected(corpus, NUM_STEPS, sample["key"])
    assert len(rows) > 5
    assert re.search(rf"last step +{rows[-1]['step']}$", printed, re.MULTILINE)
    for asked in (sample["page_url"], sample["page_url"].replace("https://www", "HTTPS://WWW") + "#part"):
        assert positions(trace(corpus, run, "--url", asked)[0]) == positions(rows)
    with_url = {held["key"] for _, _, held in samples(corpus) if url in [media["url"] for media in held["media"]]}
    by_url, _ = trace(corpus, run, "--url", url)
    assert positions(by_url) == expected(corpus, NUM_STEPS, *with_url)
    assert {row["url"] for row in by_url} == {url}
    for domain in ("example.org", "EXAMPLE.org.", "www.example.org", "example.co.uk", "images.example.co.uk"):
        assert positions(trace(corpus, run, "--domain", domain)[0]) == list(range(NUM_STEPS * ROWS_PER_STEP))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("--step", 999), "no step 999: its record has steps 0 to 29; it grows with each checkpoint"),
        (("--key", "pnone"), "no step consumed key pnone"),
        (("--url", "https://none.example/\x1b[2J"), "no sample has url https://none.example/\\x1b[2J"),
        (("--domain", "ample.org"), "no sample has domain ample.org"),
        (("--domain", "org"), "no sample has domain org"),
    ],
)
def test_nothing_found_is_one_line_that_says_of_what(corpus, run, asked, expected):
    with pytest.raises(RunError) as error:
        trace(corpus, run, *asked)
    assert str(error.value).endswith(expected)
    assert json.loads(Path(f"{run}.json").read_text())["rows"] == []


def test_a_sample_that_was_never_trained_on_is_told_from_one_that_is_not_there(corpus, run):
    (shard,) = load_manifest(corpus).shards_of("pairs", "val")
    held_out = next(read_sidecar(f"{corpus}/{shard.sidecar}"))
    with pytest.raises(RunError, match=r"no step consumed url .*, of which the corpus has 1 samples"):
        trace(corpus, run, "--url", held_out["page_url"])


@pytest.mark.slow
def test_a_run_that_continues_or_is_cut_back_is_followed(corpus, run):
    key = samples(corpus)[3][2]["key"]
    assert positions(trace(corpus, run, "--key", key)[0]) == expected(corpus, NUM_STEPS, key)
    consume(run, corpus, NUM_STEPS, NUM_STEPS + 20)
    assert positions(trace(corpus, run, "--key", key)[0]) == expected(corpus, NUM_STEPS + 20, key)
    consume(run, corpus, 14, 25)
    assert positions(trace(corpus, run, "--key", key)[0]) == expected(corpus, 25, key)
    assert len(list((run / "lookup").iterdir())) == 1


def test_a_damaged_copy_is_made_again(corpus, run):
    key = samples(corpus)[3][2]["key"]
    rows, _ = trace(corpus, run, "--key", key)
    (copy,) = (run / "lookup").iterdir()
    copy.write_bytes(copy.read_bytes()[:-9])
    assert trace(corpus, run, "--key", key)[0] == rows


def test_what_was_taken_out_of_the_corpus_is_still_traced(corpus, run, tmp_path):
    changed = str(tmp_path / "changed")
    shutil.copytree(corpus, changed)
    manifest = load_manifest(corpus)
    (gone,) = [shard for shard in manifest.shards if shard.path == "pairs/train/pairs-000001.tar"]
    record = {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__}
    write_manifest(changed, Manifest(**record | {"shards": tuple(s for s in manifest.shards if s is not gone)}))
    key = next(read_sidecar(f"{corpus}/{gone.sidecar}"))["key"]
    rows, printed = trace(changed, run, "--key", key)
    assert positions(rows) == expected(corpus, NUM_STEPS, key)
    assert {(row["in_corpus"], row["allowed"], row["page_url"]) for row in rows} == {(False, None, None)}
    assert "no longer in the corpus" in printed


def test_samples_of_a_skipped_step_are_marked(corpus, run):
    (run / "skipped").mkdir()
    (run / "skipped" / "step-00000003.json").write_text("{}")
    rows, _ = trace(corpus, run, "--domain", "example.org")
    assert {row["step"] for row in rows if row["skipped"]} == {3}


def test_sidecars_read_in_groups_say_the_same(corpus, run, monkeypatch):
    whole = trace(corpus, run, "--domain", "example.org")
    assert len({row["shard"] for row in whole[0]}) > 2
    monkeypatch.setattr(trace_module, "_SIDECARS_AT_ONCE", 1)
    assert trace(corpus, run, "--domain", "example.org") == whole


def test_more_rows_than_are_printed_are_counted(corpus, run):
    rows, printed = trace(corpus, run, "--domain", "example.org")
    assert f"and {len(rows) - trace_module.MAX_SHOWN} more" in printed


@pytest.mark.parametrize("typed", ["http://example.org:80/page", "example.org:8080", "*.example.org", " EXAMPLE.org. "])
def test_a_domain_may_be_typed_as_people_do(corpus, run, typed):
    assert trace(corpus, run, "--domain", typed)[0] == trace(corpus, run, "--domain", "example.org")[0]


@pytest.mark.slow
def test_corpus_and_run_on_another_store(corpus, run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    store.put(corpus, "/traced/corpus", recursive=True)
    store.put(str(run), "/traced/run", recursive=True)
    for asked in (("--domain", "example.org"), ("--step", 3)):
        here, there = trace(corpus, run, *asked), trace("memory://traced/corpus", "memory://traced/run", *asked)
        assert here == there
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 2
    store.rm("/traced", recursive=True)


# --- misuse ---------------------------------------------------------------------------------------------------------


def refused(corpus: str, run: Path | str, *asked: Any) -> str:
    with pytest.raises(UserError) as error:
        trace(corpus, run, *asked)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("name", "value"), [("domain", ""), ("domain", "."), ("key", ""), ("url", " ")])
def test_an_empty_question_is_no_question(corpus, run, name, value):
    assert refused(corpus, run, f"--{name}", value) == f"--{name}: empty"


def test_a_missing_file_of_the_record_is_no_answer(corpus, run):
    files = sorted((run / "consumed").iterdir())
    assert len(files) > 2
    step = int(files[1].name.split("-")[0])
    files[1].unlink()
    assert f"lacks the file with step {step}" in refused(corpus, run, "--step", step)


def test_a_run_of_another_corpus_is_refused(run, tmp_path):
    other = str(tmp_path / "other")
    build(other, ("text",))
    assert "a run of another corpus: it began with sample" in refused(other, run, "--step", 1)


def test_a_run_of_a_corpus_with_shards_of_the_same_names_is_refused(corpus, tmp_path):
    def renamed(row: ConsumedRow) -> ConsumedRow:
        return ConsumedRow(**{**row.record(), "key": "q" + row.key[1:]})

    log = ConsumedLog(str(tmp_path / "run"))
    log.add(map(renamed, rows_of(corpus, 0, 5)))
    log.write()
    assert "a run of another corpus" in refused(corpus, tmp_path / "run", "--step", 1)


def test_folders_that_are_no_run_or_no_corpus_are_refused(corpus, run, tmp_path):
    assert "no such run" in refused(corpus, tmp_path / "none", "--step", 1)
    (tmp_path / "empty" / "encoder" / "consumed").mkdir(parents=True)
    line = refused(corpus, tmp_path / "empty", "--step", 1)
    assert "no record of samples" in line
    assert line.endswith(f"there are runs of its parts: {tmp_path}/empty/encoder")
    assert "no finished corpus here" in refused(str(tmp_path / "none"), run, "--step", 1)


@pytest.mark.parametrize("asked", [("--step", 1), ("--key", "x")])
def test_a_damaged_record_is_named(corpus, run, asked):
    path = sorted((run / "consumed").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(corpus, run, *asked).startswith(f"{path}: not a whole Parquet file")


def test_one_thing_is_asked_for_at_a_time(corpus, run):
    for asked in ([], ["--step", "1", "--key", "x"]):
        done = CliRunner().invoke(commands, ["trace", "--corpus", corpus, "--run", str(run), *asked])
        assert done.exit_code == 2
        assert "one of --step, --key, --url and --domain" in done.output
