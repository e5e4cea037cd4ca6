"""Memory and time of whole local builds by their number of rows: both per row must stay as they are.

The rows are texts in a file of JSON lines, each of its own words; a tenth are copies with other first words. Rules on
texts are off and duplicates are looked for: what is measured is how rows are moved, stored and grouped.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from tools.bench.report import figure

STAGES = ("crawl", "extract", "fetch", "filter", "shard")
SAMPLE_SECONDS = 0.5
_COPIES = 10  # every tenth text is nearly the one before it
_NOUNS = (
    "harbour lantern meadow kettle orchard ladder cellar wagon compass basket violin chimney valley anchor mirror "
    "candle bridge garden engine island pebble feather barrel curtain saddle thicket quarry beacon lattice turbine"
)
_ADJECTIVES = "quiet narrow ancient golden heavy distant gentle broken hollow pale crooked steady humble vivid"
_VERBS = "carries follows hides reaches crosses repairs guards measures remembers warms divides answers gathers"
_PLACES = "near beside behind above below around beyond inside across under"


@dataclass(slots=True)
class Peaks:
    """The most memory at once, in MiB, as proportional set size: pages that processes share count once."""

    largest: float = 0.0
    total: float = 0.0
    by_stage: dict[str, float] = field(default_factory=dict)


def bench_growth(folder: Path, sizes: Sequence[int] = (20_000, 100_000)) -> None:
    """Print memory and time of builds of texts for some numbers of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for num_rows in sizes:
        texts, spec, out = folder / f"{num_rows}.jsonl", folder / "spec.yaml", folder / "out"
        if not texts.exists():
            _write_texts(texts, num_rows)
        spec.write_text(yaml.safe_dump(_spec(texts)))
        seconds, peaks, cpu = _measured(spec, out)
        num_kept = sum(shard["samples"] for shard in json.loads((out / "manifest.json").read_bytes())["shards"])
        what = f"{num_rows:,} texts"
        figure("growth", f"{what}: samples kept", num_kept, "samples")
        figure("growth", f"{what}: largest process", peaks.largest, "MiB")
        figure("growth", f"{what}: all processes together", peaks.total, "MiB")
        for stage, took in seconds.items():
            figure("growth", f"{what}: {stage}", 1e6 * took / num_rows, f"us/row, {peaks.by_stage[stage]:,.0f} MiB")
        figure("growth", f"{what}: all stages", 1e6 * sum(seconds.values()) / num_rows, "us/row")
        figure("growth", f"{what}: processor time", 1e6 * cpu / num_rows, "us/row")


def _spec(texts: Path) -> dict[str, object]:
    return {
        "name": "growth",
        "version": "1.0.0",
        "policy": {"user_agent": "bench (mailto:bench@example.org)"},
        "sources": {
            "texts": {
                "kind": "text",
                "input": {"format": "jsonl_text", "files": [str(texts.resolve())]},
                "filters": {"language": None, "text": {}, "mask_personal_data": False},
            }
        },
    }


# --- the rows -------------------------------------------------------------------------------------------------------


def _write_texts(path: Path, num_rows: int) -> None:
    rng, text = np.random.default_rng(0), ""
    with open(path, "w") as file:
        for number in range(num_rows):
            is_copy = number % _COPIES == _COPIES - 1
            text = f"Once more. {text}" if is_copy else "\n\n".join(_paragraphs(rng))
            file.write(json.dumps({"id": str(number), "text": text}) + "\n")


def _paragraphs(rng: np.random.Generator) -> Iterator[str]:
    for _ in range(rng.integers(1, 4)):
        yield " ".join(_sentence(rng) for _ in range(rng.integers(3, 6)))


def _sentence(rng: np.random.Generator) -> str:
    def one(words: str) -> str:
        choices = words.split()
        return choices[rng.integers(len(choices))]

    middle = f"{one(_VERBS)} {rng.integers(2, 5000)} {one(_ADJECTIVES)} {one(_NOUNS)}s"
    end = (
        f"and it was {one(_ADJECTIVES)} {one(_PLACES)} the {one(_NOUNS)}",
        f"{one(_PLACES)} a {one(_ADJECTIVES)} {one(_NOUNS)}",
        f"while somebody with a {one(_NOUNS)} {one(_VERBS)} the {one(_NOUNS)}",
        f"because that {one(_NOUNS)} {one(_VERBS)} to the {one(_NOUNS)}",
    )[rng.integers(4)]
    return f"The {one(_ADJECTIVES)} {one(_NOUNS)} {middle} {end}."


# --- the build ------------------------------------------------------------------------------------------------------


def _measured(spec: Path, out: Path) -> tuple[dict[str, float], Peaks, float]:
    """Build a corpus anew; returns seconds by stage, memory, and seconds of processor time.

    Raises:
        RuntimeError: If the build failed.
    """
    shutil.rmtree(out, ignore_errors=True)
    log = out.with_suffix(".log")
    peaks, seconds = Peaks(), dict.fromkeys(STAGES, 0.0)
    command = [sys.executable, "-m", "pipelines", "corpus", "--spec", str(spec), "--out", str(out)]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, log, peaks, ended))
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)  # includes the processes it waited for
        ended.set()
        sampler.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"the build failed: see {log}")
    for stage, took in re.findall(r"^(\w+) +([0-9.]+) s$", log.read_text(), re.MULTILINE):
        seconds[stage] = float(took)
    return seconds, peaks, usage.ru_utime + usage.ru_stime


def _sample(root: int, log: Path, peaks: Peaks, ended: threading.Event) -> None:
    while not ended.wait(SAMPLE_SECONDS):
        sizes = [size for pid in _tree(root) if (size := _memory(pid)) is not None]
        if not sizes:
            continue
        peaks.largest, peaks.total = max(peaks.largest, *sizes), max(peaks.total, sum(sizes))
        done = len(re.findall(rb"^\w+ +[0-9.]+ s$", log.read_bytes(), re.MULTILINE))
        stage = STAGES[min(done, len(STAGES) - 1)]
        peaks.by_stage[stage] = max(peaks.by_stage.get(stage, 0.0), sum(sizes))


def _tree(root: int) -> list[int]:
    """Return the ids of a process and of all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _memory(pid: int) -> float | None:
    """Return a process's proportional set size in MiB; None if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    sizes = Counter({name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])})
    return sizes["Pss"] / 1024
