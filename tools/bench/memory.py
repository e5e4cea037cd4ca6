"""Memory of the training's processes for the index of a large corpus: two that train together on one machine.

Each opens the corpus as training does, all its images as for an image decoder, and plans the first steps; what the
tables take is then measured by the kernel: private to each process, and shared by both.
"""

import multiprocessing
import os
import socket
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from model.config import BridgeConfig
from model.sequence import Layout, LayoutConfig
from model.tokenizer import Tokenizer
from pipelines.shards.manifest import load_manifest
from pipelines.shards.token_sidecar import FastEncoder, load_tokens
from pipelines.text.byte_level_bpe import train_bpe
from tools.bench.report import figure
from tools.bench.synthetic_corpus import SOURCES, made_once
from trainer.plan.mixture import Phase
from trainer.plan.plan import Plan
from trainer.plan.steps import PlanSettings
from trainer.reading.byte_store import CacheSettings
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.window_tables import source_windows, windows_fingerprint
from trainer.tasks.single_images import sources_by_media

NUM_SAMPLES = 1_000_000
RANKS = 2
_SEQ_LEN = 16_384  # longer than every synthetic sample, so that none is cut: they have no ids
_PARTS = ("Private_Dirty", "Private_Clean", "Shared_Clean", "Shared_Dirty")


def bench_memory(folder: Path) -> None:
    """Print the memory of each process, when tables are made and when they are there already."""
    corpus = made_once(folder, NUM_SAMPLES)
    with tempfile.TemporaryDirectory() as cache:
        for name in ("tables are made", "tables are there"):
            found = _in_ranks(corpus, cache)
            for rank, (memory, peak) in enumerate(found):
                what = f"{name}, process {rank}"
                for part, value in memory.items():
                    figure("memory", f"{what}: {part}", value, "MiB")
                figure("memory", f"{what}: most at once", peak, "MiB")


def _in_ranks(corpus: str, cache: str) -> list[tuple[dict[str, float], float]]:
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    started = []
    for rank in range(RANKS):
        ours, theirs = context.Pipe()
        process = context.Process(target=_rank, args=(theirs, rank, port, corpus, cache))
        process.start()
        started.append((process, ours))
    found = [pipe.recv() for _, pipe in started]
    for process, pipe in started:
        pipe.send(None)
        process.join()
    return found


def _rank(pipe: Connection, rank: int, port: int, corpus: str, cache: str) -> None:
    """Measure one of the processes; none ends before all have measured, so that what they share is counted as such."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    from trainer.engine import distributed

    world = distributed.start()
    before, peak = memory_of_process(), _peak()
    held = world.first_then_others(lambda: opened(corpus, cache))
    world.barrier()
    after = memory_of_process()
    pipe.send(({part: after[part] - before[part] for part in after}, _peak() - peak))
    pipe.recv()
    del held
    distributed.stop()


def opened(folder: str, cache: str) -> list[Any]:
    """Open a corpus's windows and images as training does, and plan the first steps of both."""
    manifest = load_manifest(folder)  # unchecked: it names more samples than its tars have
    corpus = TrainingCorpus(folder, manifest, load_tokens(folder, manifest, None), cache=CacheSettings(folder=cache))
    encoder = FastEncoder(train_bpe(["a red boat on the lake"], 300))
    tokenizer = Tokenizer.of_file("tokenizer.json", encoder.content, "emu2")
    layout = Layout(tokenizer, BridgeConfig(), LayoutConfig())
    arguments = (corpus.manifest, corpus.tokens, layout, _SEQ_LEN)
    windows = source_windows(folder, *arguments, cache=corpus.cache)
    images = sources_by_media(corpus, "images", lambda kind, num_media: num_media)
    weights = {name: share for name, (_, share) in SOURCES.items()}
    settings = PlanSettings(seq_len=_SEQ_LEN, global_batch_size=8, packing_buffer_size=64)
    plans = [
        Plan(windows, settings, [Phase(weights=weights)], windows_fingerprint(*arguments, "train")),
        Plan(images, PlanSettings(seq_len=1), [Phase(weights={"pairs": 1.0})], "images"),
    ]
    return [corpus, *plans, *(plan.plan_buffer(plan.state) for plan in plans)]


def memory_of_process() -> dict[str, float]:
    """Return the memory of this process in MiB: its own, and what it shares with others or with the page cache."""
    sizes = dict.fromkeys(_PARTS, 0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0])
    own = sizes["Private_Dirty"]
    return {"own": own / 1024, "of files, shared": (sum(sizes.values()) - own) / 1024}


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
