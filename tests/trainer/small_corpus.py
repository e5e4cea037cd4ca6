"""A small corpus with tokens, and its readers: long pages and texts, pairs, grounded pairs and videos."""

import hashlib
from pathlib import Path

from model.config import BridgeConfig
from model.sequence import Layout, LayoutConfig
from model.tokenizer import Tokenizer
from pipelines import storage
from pipelines.document import Kind, Split
from pipelines.funnel import FunnelRow
from pipelines.running.runner import Runner
from pipelines.shards.manifest import Manifest, load_manifest, sort_shards, write_manifest
from pipelines.shards.sidecar import read_sidecar
from pipelines.tokenize import run_tokenize
from tests.pipelines.corpus_builder import sample, write_shard
from trainer.plan.mixture import Phase
from trainer.plan.order import OrderSettings
from trainer.plan.plan import Plan
from trainer.plan.steps import Costs, PlanSettings, PlanState
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.reader import Loader, RankStep, ReaderSettings, SequenceReader
from trainer.reading.window_tables import source_windows, windows_fingerprint

KINDS: tuple[Kind, ...] = ("interleaved", "pair", "grounded", "video", "text")
NUM_SAMPLES = 30
WEIGHTS = {"interleaveds": 0.3, "pairs": 0.25, "groundeds": 0.15, "videos": 0.2, "texts": 0.1}
SETTINGS = PlanSettings(
    seed=3, seq_len=48, global_batch_size=8, packing_buffer_size=32, order=OrderSettings(block_samples=4, pool_blocks=2)
)


def build(path: Path, kinds: tuple[Kind, ...] = KINDS) -> str:
    """Write two train shards and one val shard per kind, with tokens; return the corpus's folder."""
    corpus = str(path)
    shards, funnel = [], []
    for kind in kinds:
        samples = [sample(kind, n) for n in range(NUM_SAMPLES + 2)]
        parts = (("train", 0, samples[:20]), ("train", 1, samples[20:NUM_SAMPLES]), ("val", 0, samples[NUM_SAMPLES:]))
        shards += [write_shard(corpus, kind, split, number, part) for split, number, part in parts]  # type: ignore[arg-type]
        funnel.append(FunnelRow(f"{kind}s", "shard", "sample", len(samples), len(samples), {}))
    names = [f"{kind}s" for kind in kinds]
    write_manifest(
        corpus, Manifest("small", "1", "0" * 64, sort_shards(shards, names), tuple(funnel), {}, tuple(names))
    )
    run_tokenize(corpus, None, Runner(), train_bpe=300)
    return corpus


def damage(corpus: str, source: str, keys: set[str] | None = None, split: Split = "train") -> set[str]:
    """Overwrite the middle of the first image of some or all samples of a source; return their keys."""
    done = set()
    for shard in load_manifest(corpus).shards_of(source, split):
        data = bytearray(storage.read_bytes(f"{corpus}/{shard.path}"))
        for row in read_sidecar(f"{corpus}/{shard.sidecar}"):
            if keys is None or row["key"] in keys:
                part = next(p for p in row["parts"] if p["name"] == row["media"][0]["part"])
                middle = part["offset"] + 20
                data[middle : middle + part["bytes"] - 40] = bytes(part["bytes"] - 40)
                done.add(row["key"])
        Path(corpus, shard.path).write_bytes(data)
    return done


class Opened:
    """A corpus with its layout and tables."""

    def __init__(self, folder: str) -> None:
        self.corpus = TrainingCorpus.open(folder)
        tokenizer = Tokenizer.load(f"{folder}/tokens/{self.corpus.tokens.name}", "emu2")
        self.layout = Layout(tokenizer, BridgeConfig(image_slots=4, frame_slots=4), LayoutConfig())
        arguments = (self.corpus.manifest, self.corpus.tokens, self.layout, SETTINGS.seq_len)
        self.sources = source_windows(folder, *arguments)
        self.fingerprint = windows_fingerprint(*arguments, "train")

    def plan(self, state: PlanState | None = None, phases: tuple[Phase, ...] = (Phase(weights=WEIGHTS),)) -> Plan:
        """Return a plan over the corpus."""
        return Plan(self.sources, SETTINGS, phases, self.fingerprint, costs=Costs(1, 0.01, 5), state=state)

    def loader(self, plan: Plan, rank: int = 0, world_size: int = 1, num_threads: int = 0) -> Loader:
        """Return a loader of the plan."""
        reader = SequenceReader(self.corpus, self.sources, self.layout, seq_len=SETTINGS.seq_len, image_size=16, seed=3)
        return Loader(plan, reader, ReaderSettings(num_threads=num_threads), rank, world_size)


def take(loader: Loader, num: int) -> list[RankStep]:
    """Return the next steps of a loader, which is then closed."""
    steps = [step for step, _ in zip(loader, range(num), strict=False)]
    loader.close()
    return steps


def digest(packs: list) -> str:
    """Return the sha256 of the contents of packed sequences: tokens, targets, pixels and records."""
    found = hashlib.sha256()
    for pack in packs:
        for chunk in pack:
            sequence = chunk.sequence
            for array in (sequence.token_ids, sequence.targets, sequence.slots, *chunk.images):
                found.update(array.tobytes())
            found.update(repr((chunk.source, chunk.row, sequence.images, sequence.frames)).encode())
    return found.hexdigest()
