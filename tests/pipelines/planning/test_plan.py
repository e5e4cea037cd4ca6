"""Tests of the plan of a build: held against what builds do, against the heads of the ready specs, and its warnings."""

import gzip
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.errors import UserError
from pipelines.extract import run_extract
from pipelines.fetch import run_fetch
from pipelines.filter import run_filter
from pipelines.planning import obstacles, sampling
from pipelines.planning.figures import Counts, Figures, figures_of
from pipelines.planning.plan import Plan, load_planned, make_plan
from pipelines.planning.report import hours, size
from pipelines.planning.sampling import row_of
from pipelines.running.runner import Runner
from pipelines.shard import run_shard
from pipelines.spec import CorpusSpec, load_spec
from tests.corpus_command import run_here
from tests.pipelines.sources.storyboard_files import write_video
from tests.pipelines.sources.test_ready_specs import ALONE, CONTACT, FILES, SPECS, WORDS, Answer, basis, write_list
from tests.serving import serving

MILLION = 10**6
IMAGES = {
    "laion": 2_000 * MILLION,
    "laion-coco": 600 * MILLION,
    "capsfusion": 113 * MILLION,
    "coyo": 746_972_269,
    "cc12m": 12_400_000,
    "mmc4": 375 * MILLION,
    "obelics": 337 * MILLION,
    "grit": 20 * MILLION,
}
"""Images that the heads of the ready specs state, before `where`."""
TEXTS = {"mmc4": 77_700_000, "obelics": 134_648_855, "pile": 220 * MILLION, "fineweb": 15 * MILLION}
FILM = {"webvid": 52_000 * 3600.0}
"""Seconds of film that they state."""
MIXTURES = {"emu": ["laion", "laion-coco", "mmc4"], "emu2": ["laion", "capsfusion", "mmc4", "grit", "pile"]}
NO_COUNTS = Counts(0, "stated", num_documents=0, num_images=0, num_videos=0, num_inline=0, num_texts=0)


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.2.1", 0), Answer)) as server:
        yield f"http://127.0.2.1:{server.server_address[1]}"


def stated(name: str, num_pages: int = 0) -> Figures:
    """Return the figures of a ready spec by the numbers of its head."""
    spec = load_spec(SPECS / f"{name}.yaml", CONTACT)
    parts = MIXTURES.get(name, [name])
    counts = dict.fromkeys(spec.sources, NO_COUNTS) | {
        part: Counts(
            1,
            "stated",
            num_images=IMAGES.get(part, 0),
            num_videos=0,
            num_texts=TEXTS.get(part, 0),
            film_seconds=FILM.get(part),
        )
        for part in parts
        if part in spec.sources
    }
    return figures_of(spec, counts, num_pages)


@pytest.mark.parametrize("name", [*ALONE, *MIXTURES])
def test_the_head_of_a_ready_spec_states_what_a_plan_prints(name: str):
    head, figures = (SPECS / f"{name}.yaml").read_text().partition("\nname:")[0], stated(name)
    assert (
        f"{hours(figures.hours(16))} on one machine of 16 cores, {hours(figures.hours(16, 100))} on a hundred" in head
    )
    assert not figures.fetched_bytes or f"{size(figures.fetched_bytes)} of images" in head


@pytest.mark.parametrize("name", ["pile", "laion"])
def test_ten_million_documents_take_less_than_two_gibibytes(name: str):
    spec = load_spec(SPECS / f"{name}.yaml", CONTACT)
    counts = dict.fromkeys(spec.sources, NO_COUNTS) | {name: replace(NO_COUNTS, num_documents=10 * MILLION)}
    memory = figures_of(spec, counts, 0).memory_bytes
    assert memory is not None
    assert memory < 2 << 30


def test_the_head_of_common_crawl_states_what_a_plan_prints():
    spec, pages = load_spec(SPECS / "common_crawl.yaml", CONTACT), 35_000 * 1_000
    texts = Counts(pages, "stated", num_images=0, num_videos=0, num_texts=pages)
    figures = figures_of(spec, dict.fromkeys(spec.sources, NO_COUNTS) | {"texts": texts}, pages)
    shown = f"{hours(figures.hours(16))} on one machine of 16 cores, {hours(figures.hours(16, 100))} on a hundred"
    assert shown in (SPECS / "common_crawl.yaml").read_text()


def test_the_head_of_storyboards_states_what_a_plan_prints():
    spec = load_spec(SPECS / "youtube_storyboards.yaml", CONTACT)
    (source,) = spec.sources
    frames = replace(NO_COUNTS, num_rows=18 * MILLION, num_inline=1_800 * MILLION)
    figures = figures_of(spec, {source: frames}, 0)
    shown = f"{hours(figures.hours(16))} on one machine of 16 cores, {hours(figures.hours(16, 100))} on a hundred"
    assert shown in (SPECS / "youtube_storyboards.yaml").read_text()


ROWS = {"laion": (2, 2, 2), "capsfusion": (2, 2, 2), "coyo": (3, 2, 2), "cc12m": (2, 2, 2), "mmc4": (1, 1, 2)}
ROWS |= {"obelics": (1, 1, 1), "grit": (3, 1, 1), "webvid": (1, 1, 0), "pile": (2, 1, 0), "fineweb": (2, 1, 0)}


@pytest.mark.parametrize("name", ALONE)
def test_rows_documents_and_requests_of_each_ready_spec_are_told(tmp_path: Path, name: str):
    file = tmp_path / FILES.get(name, "part-00000.parquet")
    write_list(name, file, "http://images.example")
    loose = f"sources.{name}.filters={{language: null, text: {{}}}}"
    spec = load_spec(SPECS / f"{name}.yaml", (*CONTACT, f"sources.{name}.input.files=['{file}']", loose, *basis(name)))
    plan = make_plan(spec, str(tmp_path / "out"), num_cores=2)
    found = plan.counts[name]
    assert plan.obstacles == []
    assert (found.num_rows, found.num_documents, found.num_images) == ROWS[name]
    assert found.num_videos == (name == "webvid")
    assert found.film_seconds == (2 if name == "webvid" else None)
    assert found.how == "counted in 1 file"


def list_spec(tmp_path: Path, web: str) -> CorpusSpec:
    """Return a spec of pairs, of which some rows fall, and of texts."""
    (tmp_path / "pairs.csv").write_text(
        "url,caption,score\n"
        + "".join(f"{web}/{n}.jpg,a lantern on quay number {n},{n / 40}\n" for n in range(40))
        + f"{web}/50.jpg,,0.9\nnot a url,a boat,0.9\n{web}/39.jpg,the last lantern again,0.9\n"
        + f"{web}/none,a dock at night,0.9\n"
    )
    texts = [{"text": f"{n} {WORDS}"} for n in range(6)] + [{"text": "too short"}, {"nothing": 1}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    tree = {
        "name": "mini",
        "version": "1.0.0",
        "policy": {"allow_hosts": ["127.0.2.*"], "user_agent": "Test (mail@example.org)"},
        "http": {"delay_seconds": 0},
        "sources": {
            "pairs": {
                "kind": "pair",
                "input": {
                    "format": "url_table",
                    "files": [str(tmp_path / "pairs.csv")],
                    "where": {"score": {"min": 0.5}},
                },
                "filters": {"language": None, "images": {"min_contrast": None}, "duplicates": {"min_jaccard": None}},
            },
            "texts": {
                "kind": "text",
                "input": {"format": "jsonl_text", "files": [str(tmp_path / "texts.jsonl")]},
                "filters": {"language": None, "text": {"min_words": 20}, "duplicates": {"min_jaccard": None}},
            },
        },
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(tree))
    return load_spec(tmp_path / "spec.yaml")


@pytest.mark.slow
def test_a_build_does_what_its_plan_told(tmp_path: Path, web: str):
    spec, out = list_spec(tmp_path, web), str(tmp_path / "out")
    plan = make_plan(spec, out, num_cores=2)
    for run in (run_extract, run_fetch, run_filter):
        run(spec, out, Runner())
    manifest = run_shard(spec, out, Runner())
    rows = {(row.source, row.stage, row.unit): row for row in manifest.funnel}
    for name, counts in plan.counts.items():
        extracted = rows[name, "extract", "document"]
        assert counts.num_rows == extracted.in_
        assert (counts.num_documents, counts.dropped) == (extracted.kept, extracted.dropped)
    assert plan.counts["pairs"].num_images == rows["pairs", "fetch", "media"].in_ - 1  # one image twice, asked for once
    assert {host.partition(":")[0] for host in plan.counts["pairs"].by_host} == {"127.0.2.1"}
    stored = sum(path.stat().st_size for path in Path(out).rglob("*.tar"))
    assert plan.figures.tar_bytes is not None
    assert 0.2 < stored / plan.figures.tar_bytes < 5  # images of the test are smaller than those of the benchmark


def test_a_large_compressed_list_is_told_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sampling, "SAMPLED_BYTES", 20_000)
    monkeypatch.setattr(sampling, "JUDGED_ROWS", 40)
    for part in range(6):
        lines = "".join(
            json.dumps({"text": f"{part} {n} {hash_of(n)} {WORDS}"}) + "\n" for n in range(3_000 + 100 * part)
        )
        (tmp_path / f"{part}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    plan = plan_of_texts(tmp_path, str(tmp_path / "*.jsonl.gz"))
    counts = plan.counts["texts"]
    assert counts.num_rows == pytest.approx(6 * 3_250, rel=0.1)
    assert counts.num_documents == counts.num_rows
    assert counts.how.startswith("extrapolated from ")
    assert counts.how.endswith(" of 6 files")


def hash_of(n: int) -> str:
    return str(pow(7, n, (1 << 61) - 1))


def plan_of_texts(tmp_path: Path, files: str, *more: str) -> Plan:
    tree = {
        "name": "texts",
        "version": "1.0.0",
        "sources": {
            "texts": {
                "kind": "text",
                "input": {"format": "jsonl_text", "files": [files]},
                "filters": {"language": None, "text": {}},
            }
        },
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(tree))
    return make_plan(load_spec(tmp_path / "spec.yaml", more), str(tmp_path / "out"), num_cores=2)


def test_parquet_rows_are_those_of_the_footers_and_few_are_read(tmp_path: Path):
    rows = [{"text": f"{n} {WORDS}", "language_score": n % 4 / 4} for n in range(2_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=1_000)
    pq.write_table(pa.Table.from_pylist(rows[:500]), tmp_path / "b.parquet")
    plan = plan_of_texts(tmp_path, f"{tmp_path}/*.parquet", "sources.texts.input.where={language_score: {min: 0.5}}")
    counts = plan.counts["texts"]
    assert (counts.num_rows, counts.num_documents, counts.dropped) == (2_500, 1_250, {"where_unmet": 1_250})


def test_a_list_of_a_store_is_sampled_like_any_other(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"{n} {WORDS}"}) + "\n" for n in range(9)))
    assert plan_of_texts(tmp_path, f"file://{tmp_path}/*.jsonl").counts["texts"].num_rows == 9


def warc_record(url: str, body: str, status: str = "200 OK") -> bytes:
    block = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n\r\n{body}".encode()
    fields = f"WARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    head = f"WARC/1.0\r\n{fields}Content-Length: {len(block)}\r\n\r\n".encode()
    return gzip.compress(head + block + b"\r\n\r\n")


def test_pages_of_an_archive_are_parsed_for_each_source(tmp_path: Path):
    figure = "<figure><img src='/{n}.jpg'><figcaption>a lantern on the quay</figcaption></figure>"
    page = f"<html lang=en><body><main><h1>Quay</h1><p>{WORDS}</p>{figure}<p>{WORDS}</p></main></body></html>"
    records = [warc_record(f"http://a.example/{n}", page.replace("{n}", str(n))) for n in range(3)]
    records.append(warc_record("http://a.example/gone", "nothing", "404 Not Found"))
    (tmp_path / "a.warc.gz").write_bytes(b"".join(records))
    loose = "{language: null, text: {}}"
    spec = load_spec(
        SPECS / "common_crawl.yaml",
        (
            *CONTACT,
            f"crawls.archive.warc_files=['{tmp_path}/*.warc.gz']",
            "crawls.archive.robots_files=[]",
            *(f"sources.{source}.filters={loose}" for source in ("pages", "pairs", "texts")),
        ),
    )
    plan = make_plan(spec, str(tmp_path / "out"), num_cores=2)
    found = {name: (each.num_rows, each.num_documents, each.num_images) for name, each in plan.counts.items()}
    assert found == {"pages": (4, 3, 3), "pairs": (4, 3, 3), "texts": (4, 3, 0)}
    assert plan.figures.core_hours is not None
    assert plan.figures.core_hours.extract == pytest.approx((3 / 158 + 6 / 237) / 3600)  # pages and texts of the three


def test_a_crawl_of_live_sites_is_not_estimated(tmp_path: Path):
    spec = load_spec(SPECS / "gimp_help.yaml")
    plan = make_plan(spec, str(tmp_path / "out"), num_cores=2)
    assert {each.num_rows for each in plan.counts.values()} == {None}
    assert plan.counts["manual-text"].how == "unknown: live sites are crawled; hosts: 1, pages: at most 10,000"


def test_a_storyboard_is_a_row(tmp_path: Path):
    write_video(tmp_path, "http://videos.example/watch")
    files = f"sources.storyboards.input.files=['{tmp_path}/*.mhtml']"
    plan = make_plan(load_spec(SPECS / "youtube_storyboards.yaml", (*CONTACT, files)), str(tmp_path), num_cores=2)
    counts = plan.counts["storyboards"]
    assert (counts.num_rows, counts.num_documents, counts.num_images) == (1, 1, 0)
    assert counts.num_inline


def test_nothing_is_requested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = list_spec(tmp_path, "http://127.0.2.1:9")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connects"))
    assert make_plan(spec, str(tmp_path / "out"), num_cores=2).counts["pairs"].num_images == 21


def test_rows_of_the_whole_list_scale_what_a_part_shows(tmp_path: Path):
    plan = make_plan(list_spec(tmp_path, "http://a.example"), "out", num_cores=16, rows={"pairs": 44_000, "texts": 0})
    counts = plan.counts["pairs"]
    assert (counts.num_rows, counts.num_images) == (44_000, 21_000)
    assert plan.figures.largest_host == "a.example"
    with pytest.raises(UserError, match="--rows other: no such source; the spec has pairs, texts"):
        make_plan(plan.spec, "out", num_cores=16, rows={"other": 1})


def test_the_largest_host_bounds_the_time_on_any_number_of_machines(tmp_path: Path):
    spec = list_spec(tmp_path, "http://a.example")
    spec = spec.model_copy(update={"http": spec.http.model_copy(update={"delay_seconds": 2.0})})
    figures = make_plan(spec, "out", num_cores=16, rows={"pairs": 44_000, "texts": 0}).figures
    assert figures.polite_hours == pytest.approx((21_000 + 3) * 2 / 3600)
    assert figures.hours(16, 1_000) == figures.polite_hours


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ("a b.csv 12", "a b.csv 12"),
        ("a.zip 7 image 3", "a.zip 7"),
        ("x.parquet 0/4#d01", "x.parquet 0/4"),
        ("v.mhtml 0 sheet 2", "v.mhtml 0"),
    ],
)
def test_what_belongs_to_one_row_is_counted_as_one(record: str, row: str):
    assert row_of(record) == row


# --- what would stop a build ----------------------------------------------------------------------------------------


def test_a_user_agent_without_contact_is_told_and_the_plan_is_made(tmp_path: Path):
    list_spec(tmp_path, "http://a.example")
    text = (tmp_path / "spec.yaml").read_text().replace("  user_agent: Test (mail@example.org)\n", "")
    (tmp_path / "spec.yaml").write_text(text)
    spec, known = load_planned(str(tmp_path / "spec.yaml"), ())
    assert "policy.user_agent: must hold a contact address" in known[0]
    assert make_plan(spec, "out", num_cores=2, known_obstacles=known).obstacles == known


def test_other_mistakes_of_a_spec_stay_mistakes(tmp_path: Path):
    (tmp_path / "spec.yaml").write_text("name: x\nversion: 1.0.0\nsources: {}\n")
    with pytest.raises(UserError, match="sources"):
        load_planned(str(tmp_path / "spec.yaml"), ())


def test_missing_files_are_told_and_other_sources_planned(tmp_path: Path):
    spec = list_spec(tmp_path, "http://a.example")
    (tmp_path / "texts.jsonl").unlink()
    plan = make_plan(spec, "out", num_cores=2)
    assert plan.obstacles == [f"sources.texts: {tmp_path}/texts.jsonl: no such file"]
    assert plan.counts["pairs"].num_rows == 44
    assert plan.figures.core_hours is None
    assert plan.figures.unknown == ("what texts take",)


def test_a_disk_that_is_too_small_is_told(tmp_path: Path):
    plan = make_plan(
        list_spec(tmp_path, "http://a.example"), str(tmp_path / "out"), num_cores=2, rows={"pairs": 10**13}
    )
    assert "GB free, and the build writes" in plan.obstacles[0]


def test_missing_packages_weights_and_ffmpeg_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = list_spec(tmp_path, "http://a.example")
    tree = yaml.safe_load((tmp_path / "spec.yaml").read_text())
    tree["sources"]["pairs"]["filters"]["match"] = {"model": {"weights": "none.pt"}}
    tree["sources"]["films"] = {"kind": "video", "input": {"format": "video_list", "files": ["s3://bucket/v.csv"]}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(tree))
    spec = load_spec(tmp_path / "spec.yaml")
    monkeypatch.setattr(obstacles.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(obstacles.imageio_ffmpeg, "get_ffmpeg_exe", lambda: (_ for _ in ()).throw(RuntimeError("no")))
    unknown = Figures(None, None, None, None, None, None, None, None, None)
    found = obstacles.obstacles(spec, "out", unknown)
    assert found == [
        "paths of s3://: the package s3fs is missing; install the extra s3",
        "filters.match: the package torch is missing; install the extra train",
        "filters.match: the package open_clip is missing; install the extra train",
        "sources.pairs.filters.match.model: no weights at none.pt",
        "videos: no ffmpeg (RuntimeError: no); install it, or imageio-ffmpeg with its binary",
    ]


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path):
    list_spec(tmp_path, "http://a.example")
    shown, _ = run_here(
        "plan", "--spec", tmp_path / "spec.yaml", "--out", tmp_path / "out", "--cores", "4", "--machines", "10",
        "--json", tmp_path / "plan.json",
    )  # fmt: skip
    assert "10 machines" in shown
    assert "where_unmet 20" in shown
    assert shown.splitlines()[-1] == "mini: nothing found that would stop the build"
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["sources"]["pairs"]["rows"] == 44
    assert record["sources"]["pairs"]["dropped"] == {"bad_url": 1, "missing_caption": 1, "where_unmet": 20}
    assert record["media_requests"] == 21
    assert record["machines"] == 10


def test_the_command_fails_for_what_would_stop_the_build(tmp_path: Path):
    list_spec(tmp_path, "http://a.example")
    (tmp_path / "pairs.csv").unlink()
    shown, _ = run_here("plan", "--spec", tmp_path / "spec.yaml", code=1)
    assert "stops the build: sources.pairs: " in shown


def test_rows_must_be_a_number(tmp_path: Path):
    list_spec(tmp_path, "http://a.example")
    _, said = run_here("plan", "--spec", tmp_path / "spec.yaml", "--rows", "pairs=many", code=2)
    assert said == "error: --rows pairs=many: must have the form --rows source=1000000\n"
