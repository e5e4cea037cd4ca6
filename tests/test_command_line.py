"""Tests of bad input: the exit code, one line that says what is wrong, and no half-written files."""

import contextlib
import gzip
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.code_version import code_version
from pipelines.funnel import check_funnel
from pipelines.lease import hold
from pipelines.shards.manifest import load_manifest, samples_per_source, verify
from tests.corpus_command import (
    ROOT,
    build_here,
    copy_raw_store,
    free_port,
    group_members,
    kill_group,
    leftovers,
    published,
    run,
    run_here,
    serve_setting,
    served,
    spec_tree,
    start,
    wait_for_end,
    write_spec,
)
from tests.pipelines.corpus_builder import build

STAGE = re.compile(r"[a-z]+ +[0-9.]+ s")  # a finished stage
TEXT = {"kind": "text", "input": {"crawl": "web"}}


UNASKED = {"robots_of_others": "unasked"}


def minimal(**changes: object) -> dict:
    """Return a valid spec with changes."""
    web = {"seeds": ["http://127.0.1.1:9/"]}
    return {"name": "x", "version": "1.0.0", "crawls": {"web": web}, "sources": {"texts": TEXT}} | changes


def complaint(*arguments: str | Path, code: int = 2) -> str:
    """Run a command and return the one line with which it ends."""
    out, err = run_here(*arguments, code=code)
    assert out == ""
    (line,) = [line for line in err.splitlines() if not STAGE.fullmatch(line)]
    return line


def refused(tmp_path: Path, tree: dict, *arguments: str, command: str = "corpus") -> str:
    spec = write_spec(tmp_path / "spec.yaml", tree)
    line = complaint(command, "--spec", spec, "--out", tmp_path / "out", "--workers", "1", *arguments)
    assert not (tmp_path / "out" / "manifest.json").exists()
    return line.replace(str(tmp_path) + "/", "")


# --- misuse: exit code 2 --------------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_one(tmp_path):
    tree = minimal(sources={"texts": TEXT | {"filters": {"images": {"min_sied": 3}}}})
    line = refused(tmp_path, tree)
    number = (tmp_path / "spec.yaml").read_text().splitlines().index("        min_sied: 3") + 1
    expected = f"spec.yaml:{number}: sources.texts.filters.images.min_sied: unknown key. Did you mean 'min_side'?"
    assert line == f"error: {expected}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"crawls": {"web": {}}}, "crawls.web: needs either 'seeds' or 'warc_files'"),
        ({"crawls": {"web": {"seeds": ["http://a.test/"], "warc_files": ["x"]}}}, "needs either 'seeds' or"),
        ({"crawls": {}}, "sources.texts.input.crawl: no crawl 'web'; there are: none"),
        ({"split": {"val": 0.6, "test": 0.5}}, "val + test must be below 1"),
        ({"serve": [{"addresses": ["8.8.8.8:80"], "folder": "."}]}, "is not a loopback address"),
        ({"crawls": {"web": {"seeds": ["http://example.org/"]}}}, "policy.user_agent: must hold a contact address"),
        ({"policy": {"user_agent": "Nobody"}}, "contains no contact address"),
        ({"sources": {"web": TEXT}}, "'web' names both a crawl and a source"),
        ({"sources": {"work": TEXT}}, "sources.work: a corpus has a folder of that name"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, changes, expected):
    line = refused(tmp_path, minimal(**changes))
    assert line.startswith("error: spec.yaml")
    assert expected in line


def test_a_missing_spec_is_refused(tmp_path):
    assert "no such spec" in complaint("corpus", "--spec", tmp_path / "none.yaml", "--out", tmp_path)


def test_missing_input_files_are_refused(tmp_path):
    lists = {"kind": "text", "input": {"format": "jsonl_text", "files": [str(tmp_path / "none.jsonl")]}}
    assert "none.jsonl" in refused(tmp_path, {"name": "x", "version": "1.0.0", "sources": {"lines": lists}})
    warcs = minimal(policy=UNASKED, crawls={"web": {"warc_files": [str(tmp_path / "none.warc.gz")]}})
    assert "none.warc.gz: no such file" in refused(tmp_path, warcs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("", "its files have no rows"),
        ('{"text": "too short"}\n{"no": 1}\n', "extract dropped all 2 documents (missing_text 1, too_few_words 1)"),
    ],
)
def test_a_source_that_ends_empty_fails_the_build_unless_it_may(tmp_path, rows, why):
    (tmp_path / "a.jsonl").write_text(rows)
    lists = {"kind": "text", "input": {"format": "jsonl_text", "files": [str(tmp_path / "a.jsonl")]}}
    spec = write_spec(tmp_path / "spec.yaml", {"name": "x", "version": "1.0.0", "sources": {"lines": lists}})
    command = ("corpus", "--spec", spec, "--out", tmp_path / "out", "--workers", "1")
    line = complaint(*command, code=1)
    assert line.startswith(f"error: sources.lines: no sample: {why}")
    assert line.endswith("set sources.lines.allow_empty: true")
    assert not (tmp_path / "out" / "manifest.json").exists()
    run_here(*command, "--set", "sources.lines.allow_empty=true")
    assert load_manifest(str(tmp_path / "out")).num_samples == 0


@pytest.mark.nightly
@pytest.mark.slow
def test_the_manifest_names_the_code_and_every_input_and_a_changed_one_is_read_again(tmp_path):
    def write(words: str) -> None:
        (tmp_path / "a.jsonl").write_text(json.dumps({"text": f"{words} " * 20}))

    write("boat")
    lists = {"kind": "text", "input": {"format": "jsonl_text", "files": [str(tmp_path / "*.jsonl")]}}
    lists["filters"] = {"text": {}, "language": None}
    spec = write_spec(tmp_path / "spec.yaml", {"name": "x", "version": "1.0.0", "sources": {"lines": lists}})
    command = ("corpus", "--spec", spec, "--out", tmp_path / "out", "--workers", "1")
    run_here(*command)
    manifest = load_manifest(str(tmp_path / "out"))
    data = (tmp_path / "a.jsonl").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert [(f.source, f.file, f.bytes, f.sha256) for f in manifest.inputs] == [("lines", "a.jsonl", len(data), digest)]
    assert manifest.code == code_version()
    run_here(*command)
    assert load_manifest(str(tmp_path / "out")) == manifest
    write("lake")  # of the same size
    run_here(*command)
    changed = load_manifest(str(tmp_path / "out"))
    assert changed.fingerprint != manifest.fingerprint
    assert changed.inputs[0].sha256 != digest


@pytest.mark.parametrize("override", ["crawls.web.max_dept=3", "nonsense", "split.val=2", "crawls.web.seeds.7=x"])
def test_a_bad_override_is_refused(tmp_path, override):
    assert override.partition("=")[0].rpartition(".")[2] in refused(tmp_path, minimal(), "--set", override)


def test_a_bad_option_of_the_runner_is_refused(tmp_path):
    spec = write_spec(tmp_path / "spec.yaml", minimal())
    arguments = ("corpus", "--spec", spec, "--out", tmp_path / "out", "--workers", "1")
    run_here(*arguments, "--no-such-option", code=2)  # before --, so it is not a runner's
    assert "--runner NoSuchRunner: " in complaint(*arguments, "--runner", "NoSuchRunner")
    assert "-- --job_endpoint: argument --job_endpoint" in complaint(*arguments, "--", "--job_endpoint")
    assert "Beam has no option --paralellism" in complaint(*arguments, "--", "--paralellism=3")


@pytest.mark.slow
def test_an_address_that_is_taken_is_refused(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.1.1", 0))
        other.listen()
        address = f"127.0.1.1:{other.getsockname()[1]}"
        serve = [{"addresses": [address], "folder": str(tmp_path)}]
        assert f"{address} is used by another program" in refused(tmp_path, minimal(serve=serve))


def test_a_served_folder_that_is_missing_is_refused(tmp_path):
    serve = [{"addresses": [f"127.0.1.1:{free_port()}"], "folder": str(tmp_path / "none")}]
    assert "serve: no folder none" in refused(tmp_path, minimal(serve=serve))


def test_a_server_that_does_not_start_is_reported(tmp_path):
    serve = [{"addresses": [f"127.0.1.1:{free_port()}"], "command": ["-c", "raise SystemExit(3)"]}]
    assert "does not answer on 127.0.1.1" in refused(tmp_path, minimal(serve=serve))


@pytest.mark.parametrize("command", [("tokenize", "--train-bpe", "300"), ("index",)])
def test_a_corpus_at_which_another_run_is_at_work_is_refused(tmp_path, command):
    build(str(tmp_path / "corpus"), ("pair",))
    with hold(str(tmp_path / "corpus")):
        assert "another run is using this folder" in complaint(*command, "--corpus", tmp_path / "corpus")


@pytest.mark.parametrize("command", [("tokenize", "--train-bpe", "300"), ("index",)])
def test_a_corpus_that_is_not_there_is_refused_and_not_made(tmp_path, command):
    assert f"{tmp_path}/none" in complaint(*command, "--corpus", tmp_path / "none")
    assert not (tmp_path / "none").exists()


# --- broken input: counted ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """A finished build, and the spec that gives the same from only the raw store."""
    folder = tmp_path_factory.mktemp("crawled")
    with served(folder / "web") as web:
        spec = write_spec(folder / "spec.yaml", spec_tree(web.port))
        build_here(spec, folder / "out")
    return spec, folder / "out"


@pytest.mark.nightly
def test_a_truncated_warc_gives_what_it_holds_and_a_counted_drop(crawled, tmp_path):
    warcs = sorted((crawled[1] / "work" / "warc" / "web").glob("*.warc.gz"), key=lambda p: p.stat().st_size)
    whole = warcs[-1].read_bytes()
    kept = {}
    for name, data in (("whole", whole), ("cut", whole[: len(whole) * 2 // 3])):
        (tmp_path / f"{name}.warc.gz").write_bytes(data)
        tree = minimal(policy=UNASKED, crawls={"web": {"warc_files": [str(tmp_path / f"{name}.warc.gz")]}})
        build_here(write_spec(tmp_path / "spec.yaml", tree), tmp_path / name)
        manifest = load_manifest(str(tmp_path / name))
        assert check_funnel(manifest.funnel, samples_per_source(manifest.shards)) == []
        (row,) = [row for row in manifest.funnel if (row.source, row.stage) == ("web", "crawl")]
        kept[name] = row.kept
        assert row.dropped.get("truncated_file", 0) == (name == "cut")
    assert 0 < kept["cut"] < kept["whole"]


def test_what_is_no_warc_is_refused(tmp_path):
    with gzip.open(tmp_path / "x.warc.gz", "wb") as file:
        file.write(b"no WARC at all\n" * 50)
    tree = minimal(policy=UNASKED, crawls={"web": {"warc_files": [str(tmp_path / "x.warc.gz")]}})
    assert "x.warc.gz: not a WARC file" in refused(tmp_path, tree)


# --- no room --------------------------------------------------------------------------------------------------------


def small_files(max_bytes: int):
    """Return a function to run before a command, which then cannot write larger files, as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))

    return limit


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "max_bytes"), [pytest.param("fetch", 100_000, marks=pytest.mark.nightly), ("shard", 30_000)]
)
def test_a_full_disk_is_one_line_and_no_half_file(crawled, tmp_path, stage, max_bytes):
    spec, whole = crawled
    out = copy_raw_store(whole, tmp_path / "out")
    with served_again(spec) if stage == "fetch" else contextlib.nullcontext():
        if stage == "fetch":
            shutil.rmtree(out / "work" / "raw")
        before = ("crawl", "extract", "fetch", "filter", "shard")
        for earlier in before[: before.index(stage)]:
            build_here(spec, out, command=earlier)
        arguments = (stage, "--spec", spec, "--out", out, "--workers", "1")
        printed, err = run(*arguments, code=2, preexec_fn=small_files(max_bytes))
        assert printed == ""
        assert err.splitlines() == ["error: file too large: free some space and rerun; finished work is kept"]
        assert leftovers(out) == []
        assert not (out / "manifest.json").exists()
        build_here(spec, out)
    manifest = load_manifest(str(out))
    assert verify(str(out), hashes=True) == []
    assert manifest.funnel == load_manifest(str(whole)).funnel
    if stage == "shard":
        assert published(out) == published(whole)


@contextlib.contextmanager
def served_again(spec: Path):
    """Serve the web of a spec again, at its previous port."""
    port = spec.read_text().partition("127.0.1.1:")[2].split()[0].strip("/'")
    state = spec.parent / "web"
    command = [sys.executable, "-m", "tests.mini_web", "--port", port, "--state", str(state)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.1.3", int(port))) == 0:
                    break
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


# --- being stopped --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers", "whole_group"),
    [
        (signal.SIGTERM, 1, False),
        pytest.param(signal.SIGTERM, 2, False, marks=pytest.mark.nightly),
        (signal.SIGINT, 2, True),
    ],
    ids=["terminated", "terminated with workers", "interrupted from the terminal"],
)
def test_a_stopped_run_ends_at_once_and_can_continue(tmp_path, number, workers, whole_group):
    port = free_port()
    tree = spec_tree(port) | {"serve": serve_setting(port, tmp_path / "web")}
    tree["http"]["delay_seconds"] = 3600  # a run that waited for its next request would end in no test's time
    spec = write_spec(tmp_path / "spec.yaml", tree)
    process = start("corpus", "--spec", spec, "--out", tmp_path / "out", "--workers", workers)
    try:
        log = tmp_path / "web" / "requests.log"
        while not log.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        (os.killpg if whole_group else os.kill)(process.pid, number)
        printed, err = process.communicate(timeout=300)
        assert process.returncode == 130, err
        assert (printed, err.strip()) == ("", "error: stopped; rerun to continue")
        assert wait_for_end(process.pid) == []
    finally:
        kill_group(process.pid)


@pytest.mark.slow
def test_a_worker_that_is_killed_fails_the_run_in_one_line(tmp_path):
    port = free_port()
    tree = spec_tree(port) | {"serve": serve_setting(port, tmp_path / "web")}
    tree["http"]["delay_seconds"] = 30
    spec = write_spec(tmp_path / "spec.yaml", tree)
    process = start("corpus", "--spec", spec, "--out", tmp_path / "out", "--workers", "2")
    try:
        log = tmp_path / "web" / "requests.log"
        while not log.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        for worker in grandchildren(process.pid):
            os.kill(worker, signal.SIGKILL)
        printed, err = process.communicate(timeout=60)
        assert (process.returncode, printed) == (1, "")
        assert err == "error: a worker process was killed, possibly for lack of memory; rerun to continue\n"
        assert wait_for_end(process.pid) == []
    finally:
        kill_group(process.pid)


def grandchildren(process: int) -> list[int]:
    """Return the worker processes of a run: children of its fork server."""
    parents = {}
    for member in group_members(process):
        with contextlib.suppress(OSError):
            parents[member] = int(Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()[1])
    return [member for member, parent in parents.items() if parents.get(parent) == process]
