"""A card and the sizes of a mixture for a million samples, in seconds and memory, against pandas on the same tables.

The peer reads the same columns of all sidecars and counts part of what the card does: languages, domains, licences,
images, signals, and quantiles of scores and lengths. Each runs in a process of its own, whose peak memory is measured.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.shards.manifest import load_manifest
from tools.bench.report import figure, interleave, ratio
from tools.bench.synthetic_corpus import TOKENIZER, made_once

NUM_SAMPLES = 1_000_000
ROUNDS = 3
_COLUMNS = ("lang", "domain", "license", "num_media", "num_text_chars", "bytes", "media", "scores", "signals")

_MEASURE = """
import json, os, sys, time
began = time.perf_counter()
pid = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print()
print(json.dumps([time.perf_counter() - began, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]))
"""


def bench_card(folder: Path) -> None:
    """Print seconds and peak memory of the card and of the mixture's sizes, and ratios to pandas."""
    began = time.perf_counter()
    corpus = made_once(folder, NUM_SAMPLES)
    figure("card", "synthetic samples", load_manifest(corpus).num_samples, "")
    figure("card", "making them, once", time.perf_counter() - began, "s")
    memory: dict[str, list[float]] = {}

    def timed(name: str, *command: str) -> float:
        seconds, peak = measured([sys.executable, "-m", *command])
        memory.setdefault(name, []).append(peak)
        return seconds

    ours, sizes, peer = interleave(
        ROUNDS,
        lambda: timed("card", "tools", "card", "--corpus", corpus),
        lambda: timed("mixture sizes", "tools", "mixture", "sizes", "--corpus", corpus, "--tokens", TOKENIZER),
        lambda: timed("pandas", "tools.bench.card", corpus),
    )
    for name, seconds in (("card", ours), ("mixture sizes", sizes), ("pandas", peer)):
        figure("card", f"{name}, start of the process included", statistics.median(seconds), "s")
        figure("card", f"{name}, peak memory", max(memory[name]), "MiB")
    ratio("card", "card, speed against pandas on part of its counts", [1 / t for t in ours], [1 / t for t in peer])
    ratio("card", "card, memory of pandas against ours", memory["pandas"], memory["card"])


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the peak memory of its process, MiB.

    A small process starts it: the peak of a process is at least what the one that forked it held at that moment, and
    that of the benchmarks holds torch.
    """
    done = subprocess.run([sys.executable, "-S", "-c", _MEASURE, *command], check=True, stdout=subprocess.PIPE)
    seconds, peak, code = json.loads(done.stdout.splitlines()[-1])
    if code != 0:
        raise subprocess.CalledProcessError(code, list(command))
    return seconds, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def counted_by_pandas(corpus: str) -> dict[str, Any]:
    """Return part of what a card counts, by pandas with all rows in memory."""
    import pandas

    shards = load_manifest(corpus).shards
    columns = list(_COLUMNS)
    frame = pandas.concat(
        (
            pandas.read_parquet(f"{corpus}/{shard.sidecar}", columns=columns).assign(source=shard.source)
            for shard in shards
        ),
        ignore_index=True,
    )
    found: dict[str, Any] = {
        name: len(frame[name].value_counts(dropna=False)) for name in ("lang", "domain", "license")
    }
    found["sources"] = frame.groupby("source")[["num_media", "num_text_chars", "bytes"]].sum().to_dict()
    found["lengths"] = frame["num_text_chars"].quantile([0.05, 0.25, 0.5, 0.75, 0.95]).to_list()
    for name in ("media", "scores", "signals"):
        exploded = frame[name].explode().dropna()
        items = pandas.DataFrame.from_records(exploded.to_list())
        if name == "media":
            found[name] = items.groupby(["mime", "license_evidence"]).size().to_list()
            found["repeated"] = int(items["stored_sha256"].duplicated().sum())
        elif name == "scores":
            found[name] = [items.groupby("name")["value"].quantile(q).to_list() for q in (0.05, 0.5, 0.95)]
        else:
            found[name] = items.groupby(["kind", "target"])["observed_at"].agg(["min", "max", "count"]).to_dict("list")
    return found


if __name__ == "__main__":
    print(json.dumps(counted_by_pandas(sys.argv[1]), default=str))
