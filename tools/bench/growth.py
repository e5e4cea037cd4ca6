"""Memory and time of whole local builds by their number of rows: both per row must stay as they are.

Texts are rows of a file of JSON lines, each of its own words; a tenth are copies with other first words. Pairs are rows
of a list of images, each of a kilobyte and its own, which a server on this machine makes as they are asked for. Rules
on texts are off and duplicates are looked for: what is measured is how rows are moved, stored and grouped.
"""

import contextlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from tools.bench.command import build_anew, serving, stages_in
from tools.bench.image_server import ADDRESSES
from tools.bench.process_memory import Peaks, watching
from tools.bench.report import figure
from tools.bench.tiny_image_server import image_url

STAGES = ("crawl", "extract", "fetch", "filter", "shard")
KINDS = ("texts", "pairs")
NUM_ROWS = (20_000, 100_000)
PORT = 8705
_COPIES = 10  # every tenth text is nearly the one before it
_NOUNS = (
    "harbour lantern meadow kettle orchard ladder cellar wagon compass basket violin chimney valley anchor mirror "
    "candle bridge garden engine island pebble feather barrel curtain saddle thicket quarry beacon lattice turbine"
)
_ADJECTIVES = "quiet narrow ancient golden heavy distant gentle broken hollow pale crooked steady humble vivid"
_VERBS = "carries follows hides reaches crosses repairs guards measures remembers warms divides answers gathers"
_PLACES = "near beside behind above below around beyond inside across under"


def bench_growth(
    folder: Path, sizes: Sequence[int] = NUM_ROWS, kinds: Sequence[str] = KINDS, num_workers: int = 2
) -> None:
    """Print memory and time of builds of some numbers of rows of each kind; what was built is removed again."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        with serving("tools.bench.tiny_image_server", str(PORT)) if kind == "pairs" else contextlib.nullcontext():
            for num_rows in sizes:
                _bench(folder, kind, num_rows, num_workers)


def _bench(folder: Path, kind: str, num_rows: int, num_workers: int) -> None:
    rows, spec, out = folder / f"{kind}-{num_rows}.jsonl", folder / f"{kind}.yaml", folder / f"{kind}-{num_rows}"
    if not rows.exists():
        _write_rows(rows, kind, num_rows)
    spec.write_text(yaml.safe_dump(_spec(kind, rows)))
    peaks = Peaks()
    build = build_anew(spec, out, num_workers, beside=lambda pid, log: watching(pid, partial(_stage, log), peaks))
    num_kept = sum(shard["samples"] for shard in json.loads((out / "manifest.json").read_bytes())["shards"])
    num_bytes = sum(path.stat().st_size for path in (out / "work").rglob("*") if path.is_file())
    shutil.rmtree(out)
    what, stages = f"{num_rows:,} {kind}", dict.fromkeys(STAGES, 0.0) | build.stages
    figure("growth", f"{what}: samples kept", num_kept, "samples")
    figure("growth", f"{what}: work/ at the end", num_bytes / num_rows, "bytes/row")
    figure("growth", f"{what}: largest process", max(peaks.largest.values()), "MiB")
    figure("growth", f"{what}: all processes together", max(peaks.total.values()), "MiB")
    for stage, took in stages.items():
        memory = f"{peaks.largest.get(stage, 0.0):,.0f} MiB of {peaks.total.get(stage, 0.0):,.0f}"
        figure("growth", f"{what}: {stage}", 1e6 * took / num_rows, f"us/row, {memory}")
    figure("growth", f"{what}: all stages", 1e6 * sum(stages.values()) / num_rows, "us/row")
    figure("growth", f"{what}: processor time", 1e6 * build.processor_seconds / num_rows, "us/row")


def _stage(log: Path) -> str:
    """Return the stage that a build is in."""
    return STAGES[min(len(stages_in(log)), len(STAGES) - 1)]


def _spec(kind: str, rows: Path) -> dict[str, Any]:
    files = [str(rows.resolve())]
    sources: dict[str, dict[str, Any]] = {
        "texts": {
            "kind": "text",
            "input": {"format": "jsonl_text", "files": files},
            "filters": {"language": None, "text": {}, "mask_personal_data": False},
        },
        "pairs": {"kind": "pair", "input": {"format": "url_table", "files": files}, "filters": {"language": None}},
    }
    return {
        "name": "growth",
        "version": "1.0.0",
        "policy": {"user_agent": "bench (mailto:bench@example.org)", "allow_hosts": list(ADDRESSES)},
        "http": {"delay_seconds": 0},
        "sources": {kind: sources[kind]},
    }


# --- the rows -------------------------------------------------------------------------------------------------------


def _write_rows(path: Path, kind: str, num_rows: int) -> None:
    words, text = random.Random(0), ""
    with open(path, "w") as file:
        for number in range(num_rows):
            if kind == "pairs":
                row = {"url": image_url(PORT, number), "caption": _sentence(words)}
            else:
                is_copy = number % _COPIES == _COPIES - 1
                text = f"Once more. {text}" if is_copy else "\n\n".join(_paragraphs(words))
                row = {"id": str(number), "text": text}
            file.write(json.dumps(row) + "\n")


def _paragraphs(words: random.Random) -> Iterator[str]:
    for _ in range(words.randrange(1, 4)):
        yield " ".join(_sentence(words) for _ in range(words.randrange(3, 6)))


def _sentence(words: random.Random) -> str:
    def one(choices: str) -> str:
        return words.choice(_split(choices))

    middle = f"{one(_VERBS)} {words.randrange(2, 5000)} {one(_ADJECTIVES)} {one(_NOUNS)}s"
    end = (
        f"and it was {one(_ADJECTIVES)} {one(_PLACES)} the {one(_NOUNS)}",
        f"{one(_PLACES)} a {one(_ADJECTIVES)} {one(_NOUNS)}",
        f"while somebody with a {one(_NOUNS)} {one(_VERBS)} the {one(_NOUNS)}",
        f"because that {one(_NOUNS)} {one(_VERBS)} to the {one(_NOUNS)}",
    )[words.randrange(4)]
    return f"The {one(_ADJECTIVES)} {one(_NOUNS)} {middle} {end}."


@cache
def _split(words: str) -> list[str]:
    return words.split()
