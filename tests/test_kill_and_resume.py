"""Tests of `kill -9` at any moment: a build that is killed many times ends with the bytes of an undisturbed one.

`DROMAIUS_KILLS` is the number of kills (`make torture`: 100). They are spread over the stages and, by a seed, over each
stage's time. Half of them kill the whole process group, half only the driver, whose workers and servers must then end
by themselves.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.funnel import check_funnel
from pipelines.media.raw_store import index_parts, read_index
from pipelines.shards.manifest import load_manifest, samples_per_source, verify
from tests.corpus_command import (
    Web,
    build,
    build_here,
    copy_raw_store,
    free_port,
    kill_group,
    leftovers,
    published,
    serve_setting,
    spec_tree,
    start,
    wait_for_end,
    write_spec,
)

pytestmark = pytest.mark.nightly

NUM_KILLS = int(os.environ.get("DROMAIUS_KILLS", "3"))
KILLS_PER_BUILD = 6
STAGES = ("crawl", "extract", "fetch", "filter", "shard")
WAIT_SECONDS = 120


def stage_of(out: Path) -> str:
    """Return the current stage of a build, judged by its working files."""
    work = out / "work"
    crawl = work / "warc" / "web" / "stage.json"
    if not crawl.exists() or json.loads(crawl.read_text())["finished"] is None:
        return "crawl"
    for stage, folder in (("extract", "candidates"), ("fetch", "raw/documents"), ("filter", "decisions/samples")):
        if not (work / folder / "stage.json").exists():
            return stage
    return "finished" if (out / "manifest.json").exists() else "shard"


def store_is_partial(out: Path) -> bool:
    """Return whether fetch has stored something and is not finished."""
    return stage_of(out) == "fetch" and any((out / "work" / "raw" / "media").glob("g*.json"))


def shards_are_partial(out: Path) -> bool:
    """Return whether shard has written something and is not finished."""
    return stage_of(out) == "shard" and any(out.glob("*/*/*.tar"))


@dataclass(frozen=True)
class Kill:
    """Time and target of a kill: `seconds` after `reached` is true of the output folder."""

    reached: Callable[[Path], bool]
    seconds: float
    whole_group: bool
    num_workers: int


def plan(number: int, num_kills: int, seconds: dict[str, float]) -> list[Kill]:
    """Return the kills of one build, in the order of the stages."""
    rng = random.Random(f"kills {number}")
    kills = []
    for i in range(num_kills):
        stage = STAGES[round(i * (len(STAGES) - 1) / max(num_kills - 1, 1))]  # the first and the last among them
        reached: Callable[[Path], bool] = lambda out, stage=stage: STAGES.index(stage) <= place(out)  # noqa: E731
        delay = rng.uniform(0, seconds[stage])
        if stage == "fetch" and number % 2 == 0:
            reached, delay = store_is_partial, 0.0
        if stage == "shard":
            reached, delay = shards_are_partial, rng.uniform(0, seconds[stage] / 3)
        kills.append(Kill(reached, delay, rng.random() < 0.5, 2 if reached is store_is_partial else rng.choice((1, 2))))
    return kills


def place(out: Path) -> int:
    """Return the number of the current stage of a build; the number of stages if it is finished."""
    return (*STAGES, "finished").index(stage_of(out))


def kill_once(spec: Path, out: Path, kill: Kill) -> str | None:
    """Start a build and kill it; return the stage in which it was killed, or None if the build had finished."""
    process = start("corpus", "--spec", spec, "--out", out, "--workers", kill.num_workers)
    drain = threading.Thread(target=process.communicate, daemon=True)
    drain.start()
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not kill.reached(out) and process.returncode is None:
            assert time.monotonic() < deadline, f"not reached: {stage_of(out)}"
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            drain.join(kill.seconds)
        if process.returncode is not None:
            assert process.returncode == 0
            return None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if kill.whole_group else os.kill)(process.pid, signal.SIGKILL)
        drain.join(WAIT_SECONDS)
        assert wait_for_end(process.pid) == [], "a worker or a server outlived its driver"
        return "partial store" if store_is_partial(out) else stage_of(out)
    finally:
        kill_group(process.pid)
        drain.join()


def torment(folder: Path, number: int, num_kills: int, seconds: dict[str, float]) -> Counter[str]:
    """Kill one build `num_kills` times, let it finish, and compare it with an undisturbed one from its raw store."""
    folder.mkdir()
    port = free_port()
    spec = write_spec(folder / "spec.yaml", spec_tree(port) | {"serve": serve_setting(port, folder / "web")})
    out = folder / "out"
    web = Web(port, folder / "web")
    hits: Counter[str] = Counter()
    stored: set[str] = set()
    num_asked = 0
    for kill in plan(number, num_kills, seconds):
        hit = kill_once(spec, out, kill)
        if hit is not None:
            hits[hit] += 1
            who = "all" if kill.whole_group else "the driver"
            print(f"build {number}: killed {who} of {kill.num_workers} workers in {hit}", flush=True)
        if hit == "partial store":
            indexes = index_parts(str(out / "work" / "raw" / "media"))
            stored = {row.key.removeprefix("http://").replace(f":{port}", "") for i in indexes for row in read_index(i)}
            num_asked = len(web.requests())
    build(spec, out, workers=1)
    assert not stored.intersection(web.requests()[num_asked:]), "what was stored before the kill is asked for again"
    assert leftovers(out) == []
    assert verify(str(out), hashes=True) == []
    manifest = load_manifest(str(out))
    assert check_funnel(manifest.funnel, samples_per_source(manifest.shards)) == []
    return hits


@pytest.mark.timeout(60 + 60 * NUM_KILLS)
def test_a_build_that_is_killed_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    began = time.monotonic()
    port = free_port()
    spec = write_spec(tmp_path / "spec.yaml", spec_tree(port) | {"serve": serve_setting(port, tmp_path / "web")})
    seconds = stage_seconds(spec, tmp_path / "undisturbed")
    undisturbed = load_manifest(str(tmp_path / "undisturbed"))
    counts = [
        len(range(i, NUM_KILLS, -(-NUM_KILLS // KILLS_PER_BUILD))) for i in range(-(-NUM_KILLS // KILLS_PER_BUILD))
    ]
    with ThreadPoolExecutor(2) as pool:
        folders = [tmp_path / f"build-{i}" for i in range(len(counts))]
        hits = sum(pool.map(torment, folders, range(len(counts)), counts, [seconds] * len(counts)), Counter())
    for folder in folders:
        assert load_manifest(str(folder / "out")).funnel == undisturbed.funnel
        again = copy_raw_store(folder / "out", folder / "again")
        build_here(folder / "spec.yaml", again)
        assert published(again) == published(folder / "out")
    print(f"{sum(hits.values())} kills in {time.monotonic() - began:.0f} s: {dict(hits)}")
    assert sum(hits.values()) >= NUM_KILLS * 3 // 4
    assert hits["partial store"] >= 1
    assert hits["shard"] >= 1


def stage_seconds(spec: Path, out: Path) -> dict[str, float]:
    """Return the seconds of each stage of an undisturbed build."""
    process = start("corpus", "--spec", spec, "--out", out, "--workers", "1")
    try:
        _, err = process.communicate(timeout=WAIT_SECONDS)
    finally:
        kill_group(process.pid)
    assert process.returncode == 0, err
    return {name: float(seconds) for name, seconds, _ in map(str.split, err.splitlines())}
