"""How many times as fast two workers are as one, where the processor is the limit: texts from lists, judged and hashed.

`python -m pipelines corpus` on 16 files of texts, by one worker and by two, in turn. One worker works in the process of
the command itself, two are processes beside it. On a machine with fewer than two free cores the ratio says nothing.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import yaml

from tools.bench.command import Ran, build_anew
from tools.bench.report import figure, ratio

ROUNDS = 3
NUM_FILES, TEXTS_PER_FILE = 16, 1_000
_WORDS = {
    "the": "the a this that every some no our your their",
    "old": "quiet narrow ancient golden heavy distant gentle broken hollow pale crooked steady humble vivid old new",
    "house": "harbour lantern meadow kettle orchard ladder cellar wagon compass basket violin chimney valley anchor"
    " mirror candle bridge garden engine island pebble feather barrel curtain saddle thicket quarry beacon turbine",
    "has": "carries follows hides reaches crosses repairs guards measures remembers warms divides gathers has is keeps",
    "near": "near beside behind above below around beyond inside across under with of from to for and but while",
}
_PATTERN = "the old house has the house near the old house near the house"
STAGES = ("extract", "filter", "shard")


def bench_workers(folder: Path) -> None:
    """Print seconds of each stage with one worker and with two, and how many times as fast the two are."""
    spec = _prepare(folder)
    runs: dict[int, list[Ran]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for num, of in runs.items():
            of.append(build_anew(spec, folder / "out", num))
    for stage in STAGES:
        for num, of in runs.items():
            figure("workers", f"{stage}, {num} workers, by the clock", min(run.stages[stage] for run in of), "s")
        one, two = ([1 / run.stages[stage] for run in runs[num]] for num in (1, 2))
        ratio("workers", f"{stage}, two against one", two, one)
    for num, of in runs.items():
        figure("workers", f"whole command, {num} workers, by the clock", min(run.seconds for run in of), "s")
        figure("workers", f"whole command, {num} workers, of the processor", min(r.processor_seconds for r in of), "s")
    one, two = ([1 / run.seconds for run in runs[num]] for num in (1, 2))
    ratio("workers", "whole command, two against one", two, one)


def _prepare(folder: Path) -> Path:
    """Write the texts and the spec; return the path of the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _files(folder):
        if not path.exists():
            path.write_text("".join(_rows(int(path.stem))))
    files = [str(path.resolve()) for path in _files(folder)]
    tree = {
        "name": "bench",
        "version": "1.0.0",
        "policy": {"user_agent": "bench (mailto:bench@example.org)"},
        "sources": {"texts": {"kind": "text", "input": {"format": "jsonl_text", "files": files}}},
    }
    spec = folder / "spec.yaml"
    spec.write_text(yaml.safe_dump(tree))
    return spec


def _files(folder: Path) -> Iterator[Path]:
    return (folder / f"{number:02d}.jsonl" for number in range(NUM_FILES))


def _rows(seed: int) -> Iterator[str]:
    """Yield lines of texts of about 3,000 characters, which all rules on texts let pass."""
    words = random.Random(seed)
    for number in range(TEXTS_PER_FILE):
        paragraphs = (" ".join(_sentence(words) for _ in range(words.randrange(5, 12))) for _ in range(6))
        yield json.dumps({"id": f"{seed}-{number}", "text": "\n\n".join(paragraphs)}) + "\n"


def _sentence(words: random.Random) -> str:
    chosen = " ".join(words.choice(_WORDS[kind].split()) for kind in _PATTERN.split()[: words.randrange(6, 14)])
    return f"{chosen.capitalize()}."
