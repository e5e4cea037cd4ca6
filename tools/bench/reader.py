"""Reading samples for training, against `webdataset` and Megatron-Energon on the same tars, in one process.

Pairs of 50 KB in tars that are in the page cache. Raw samples: the bytes of every part, in each reader's own training
order or the nearest it has. Images: decoded and resized to 224 x 224, per second of CPU. Then the cost of planning,
and the time from start to first batch of a resumed run.
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.config import BridgeConfig
from model.sequence import Layout, LayoutConfig
from model.tokenizer import Tokenizer
from pipelines.document import Document, Media, Provenance, Segment, make_key
from pipelines.errors import UserError
from pipelines.funnel import FunnelRow
from pipelines.shards.manifest import Manifest, load_manifest, write_manifest
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.token_sidecar import FastEncoder, TokensInfo, token_row, token_sidecar_path, write_token_sidecar
from pipelines.shards.writer import ShardWriter, finish_document
from pipelines.text.byte_level_bpe import train_bpe
from tools.bench.report import figure, interleave, ratio
from trainer.plan.mixture import Phase, Unit
from trainer.plan.order import SourceOrder
from trainer.plan.plan import Plan
from trainer.plan.steps import Costs, PlanSettings, PlanState
from trainer.plan.windows import SourceWindows, one_window_each
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.images import decode
from trainer.reading.reader import Loader, ReaderSettings, SequenceReader
from trainer.reading.window_tables import source_windows, windows_fingerprint

NUM_SHARDS = 4
SAMPLES_PER_SHARD = 1000
IMAGE_SIZE = 224
ROUNDS = 5
_WEIGHTS = {"pages": 0.4, "pairs": 0.25, "videos": 0.15, "grounded": 0.12, "texts": 0.08}


def bench_reader(folder: Path) -> None:
    """Print samples per second of three readers, and the cost of planning."""
    warnings.filterwarnings("ignore", "'pin_memory' argument is set as true but no accelerator")
    corpus = _made(folder / "corpus")
    tars = sorted((folder / "corpus" / "pairs" / "train").glob("*.tar"))
    for tar in tars:
        tar.read_bytes()  # into the page cache
    mean = sum(tar.stat().st_size for tar in tars) / (NUM_SHARDS * SAMPLES_PER_SHARD)
    figure("reader", "bytes per sample", mean, "B")
    _bench_raw(corpus, tars)
    _bench_decoded(corpus, tars)
    _bench_plan()
    _bench_resume(corpus)


def _bench_raw(corpus: TrainingCorpus, tars: list[Path]) -> None:
    ours, wds, energon = interleave(
        ROUNDS,
        lambda: _rate(_our_raw(corpus), 8000),
        lambda: _rate(_webdataset(tars), 2000),
        lambda: _rate(_energon(corpus), 1000),
    )
    for name, rates in (("ours", ours), ("webdataset", wds), ("Energon", energon)):
        figure("reader", f"raw samples, {name}", sorted(rates)[ROUNDS // 2], "samples/s")
    ratio("reader", "raw samples against webdataset", ours, wds)
    ratio("reader", "raw samples against Energon", ours, energon)


def _bench_decoded(corpus: TrainingCorpus, tars: list[Path]) -> None:
    ours, wds, energon = interleave(
        ROUNDS,
        lambda: _rate(_our_images(corpus), 400, time.process_time),
        lambda: _rate(_webdataset_images(tars), 300, time.process_time),
        lambda: _rate(_energon_images(corpus), 300, time.process_time),
    )
    for name, rates in (("ours", ours), ("webdataset", wds), ("Energon", energon)):
        figure("reader", f"decoded and resized, {name}", sorted(rates)[ROUNDS // 2], "images/CPU-s")
    ratio("reader", "decoded and resized per core against webdataset", ours, wds)
    ratio("reader", "decoded and resized per core against Energon", ours, energon)


def _rate(items: Iterator[Any], num: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Items per second, without the first ones: they open files and start read-ahead."""
    for _ in islice(items, 100):
        pass
    begin = clock()
    count = sum(1 for _ in islice(items, num))
    return count / (clock() - begin)


# --- the readers ----------------------------------------------------------------------------------------------------


def _our_places(corpus: TrainingCorpus) -> Iterator[tuple[Any, int]]:
    """Readers and rows in training order, epoch after epoch."""
    (named,) = corpus.manifest.sources
    shards = corpus.manifest.shards_of(named.name, corpus.split)
    source = one_window_each(named.name, named.kind, [s.path for s in shards], [s.samples for s in shards])
    order = SourceOrder(source.num_samples, 0, source.name)
    readers = [corpus.reader(shard) for shard in source.shards]
    for begin in range(0, 1 << 40, 4096):
        for sample in order.samples(np.arange(begin, begin + 4096))[1].tolist():
            shard, row = source.locate(sample)
            yield readers[shard], row


def _our_raw(corpus: TrainingCorpus) -> Iterator[tuple[str, dict[str, bytes]]]:
    for reader, row in _our_places(corpus):
        yield reader.raw(row)


def _our_images(corpus: TrainingCorpus) -> Iterator[Any]:
    for reader, row in _our_places(corpus):
        yield decode(reader.image(row, 0), IMAGE_SIZE)


def _webdataset(tars: list[Path], decoder: str | None = None) -> Iterator[dict[str, Any]]:
    import webdataset

    dataset = webdataset.WebDataset([str(t) for t in tars], shardshuffle=False, empty_check=False).repeat()
    return iter(dataset.decode(decoder) if decoder else dataset)


def _webdataset_images(tars: list[Path]) -> Iterator[Any]:
    """Images decoded and resized as in open_clip: Pillow and its bicubic filter."""
    from PIL import Image

    for sample in _webdataset(tars, "pilrgb"):
        yield np.asarray(sample["jpg"].resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _energon(corpus: TrainingCorpus, image_decode: str | None = None) -> Iterator[Any]:
    from megatron.energon import DefaultTaskEncoder, SampleDecoder, WorkerConfig, get_loader, get_train_dataset

    class Encoder(DefaultTaskEncoder):
        decoder = SampleDecoder(image_decode=image_decode) if image_decode else None

    dataset = get_train_dataset(
        Path(corpus.folder) / "pairs",
        split_part="train",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=100,
        task_encoder=Encoder(),
    )
    return iter(get_loader(dataset))


def _energon_images(corpus: TrainingCorpus) -> Iterator[Any]:
    """Images decoded to Pillow's by Energon, then resized by the same filter as webdataset's."""
    from PIL import Image

    for sample in _energon(corpus, "pilrgb"):
        yield np.asarray(sample.image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


# --- plan and resume ------------------------------------------------------------------------------------------------


def _sources() -> list[SourceWindows]:
    """Five sources of at least half a million samples, with lengths distributed like web data's."""
    rng = np.random.default_rng(0)
    shapes = (("pages", 600_000, 900), ("pairs", 2_000_000, 120), ("videos", 500_000, 400))
    found = []
    for name, num, mean in (*shapes, ("grounded", 500_000, 250), ("texts", 800_000, 600)):
        tokens = rng.lognormal(np.log(mean), 0.5, num).clip(10, 2048).astype(np.int32)
        images = (tokens // 300).astype(np.int32)
        ends = np.array([num], np.int64)
        found.append(SourceWindows(name, "pair", (f"{name}.tar",), ends, None, np.arange(num + 1), tokens, images))
    return found


def _bench_plan() -> None:
    sources, settings, costs = _sources(), PlanSettings(global_batch_size=256), Costs(1, 1e-4, 300)
    units: tuple[Unit, ...] = ("samples", "tokens")
    for unit in units:
        phase = Phase(weights=_WEIGHTS, unit=unit)
        plan = Plan(sources, settings, [phase], "bench", costs=costs)
        state, tokens, packs = plan.state, 0, 0
        rates, cpu_rates = [], []
        for _ in range(40):
            begin, cpu = time.perf_counter(), time.process_time()
            buffer = plan.plan_buffer(state)
            num = buffer.end.position - state.position
            rates.append(num / (time.perf_counter() - begin))
            cpu_rates.append(num / (time.process_time() - cpu))
            tokens += int(buffer.tokens.sum())
            packs += len(buffer.packs)
            state = buffer.end
        figure("reader", f"plan and pack by {unit}, five sources", float(np.median(rates)), "samples/s")
        figure("reader", f"plan and pack by {unit}, per core", float(np.median(cpu_rates)), "samples/CPU-s")
        figure("reader", f"fill of packs of 2,048 by {unit}", 100 * tokens / (packs * settings.seq_len), "%")


def _bench_resume(corpus: TrainingCorpus) -> None:
    """Measure a start that opens the corpus and resumes in the middle of a packing buffer, up to the first step."""

    def loader(state: str | None) -> tuple[Loader, float]:
        begin = time.perf_counter()
        opened = TrainingCorpus.open(corpus.folder)
        tokenizer = Tokenizer.load(f"{corpus.folder}/tokens/{opened.tokens.name}", "emu2")
        layout = Layout(tokenizer, BridgeConfig(), LayoutConfig())
        sources = source_windows(corpus.folder, opened.manifest, opened.tokens, layout, 2048)
        fingerprint = windows_fingerprint(opened.manifest, opened.tokens, layout, 2048, "train")
        plan = Plan(
            sources,
            PlanSettings(global_batch_size=8),
            [Phase(weights={"pairs": 1.0})],
            fingerprint,
            state=PlanState.from_json(state) if state else None,
        )
        reader = SequenceReader(opened, sources, layout, seq_len=2048, image_size=IMAGE_SIZE)
        return Loader(plan, reader, ReaderSettings(num_threads=2)), begin

    first, _ = loader(None)
    state = next(step.step.state.to_json() for step in first if step.step.number == 20)
    first.close()
    again, begin = loader(state)
    step = next(iter(again))
    figure("reader", "first batch after a resume", time.perf_counter() - begin, "s")
    figure("reader", "bytes of state", len(state), "B")
    assert step.step.number == 21
    again.close()


# --- what is read ---------------------------------------------------------------------------------------------------


def _made(folder: Path) -> TrainingCorpus:
    """Corpus of the benchmark, made unless it is already there."""
    try:
        load_manifest(str(folder))
    except UserError:
        _make(str(folder))
    return TrainingCorpus.open(str(folder))


def _make(corpus: str) -> None:
    blobs = [image(n) for n in range(100)]
    encoder = FastEncoder(train_bpe(["a red boat on the lake"], 300))
    rng = random.Random(0)
    shards = []
    documents: list[list[Document]] = []
    for number in range(NUM_SHARDS):
        documents.append([])
        with ShardWriter(corpus, "pairs", "pair", "train", number) as writer:
            for n in range(SAMPLES_PER_SHARD):
                document = _pair(number * SAMPLES_PER_SHARD + n, rng)
                writer.add(finish_document(document, [blobs[(number * 7 + n) % len(blobs)]]))
                documents[-1].append(document)
        assert writer.info is not None
        shards.append(writer.info)
    num = NUM_SHARDS * SAMPLES_PER_SHARD
    manifest = Manifest(
        "bench", "1", None, tuple(shards), (FunnelRow("pairs", "shard", "sample", num, num, {}),), {}, ("pairs",)
    )
    write_reader_indexes(corpus, manifest)
    write_manifest(corpus, manifest)
    folder = f"{corpus}/tokens/bench"
    num_tokens = 0
    for shard, held in zip(shards, documents, strict=True):
        rows = [token_row(document, encoder) for document in held]
        num_tokens += sum(row["num_tokens"] for row in rows)
        write_token_sidecar(token_sidecar_path(folder, shard.path), rows, shard.sha256, encoder.sha256)
    Path(folder, encoder.file_name).write_bytes(encoder.content)
    info = TokensInfo("bench", encoder.file_name, encoder.sha256, manifest.fingerprint, num, num_tokens)
    Path(folder, "tokens.json").write_text(info.to_json())


def _pair(number: int, rng: random.Random) -> Document:
    words = " ".join(rng.choices(["a", "red", "boat", "on", "the", "lake", "beside", "two", "dark", "hills"], k=12))
    media = Media(url=None, mime="image/jpeg", width=640, height=480)
    return Document(
        "pair",
        make_key("pair", "bench", number),
        (Segment("image", media=0, role="content"), Segment("text", words, role="caption")),
        (media,),
        Provenance("bench", str(number)),
    )


def image(number: int) -> bytes:
    """Noise at many scales, like photographs: 640 x 480, about 50 KB as a JPEG."""
    rng = np.random.default_rng(number)
    pixels = np.zeros((480, 640, 3), np.float32)
    for scale in (1, 2, 4, 8, 16, 32, 64):
        noise = rng.normal(0, 4 * scale**0.7, (480 // scale + 1, 640 // scale + 1, 3)).astype(np.float32)
        pixels += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    shown = (128 + pixels).clip(0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, 72])[1].tobytes())
