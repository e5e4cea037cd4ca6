"""Contents of the trainer's window tables for a small tokenized corpus, in the layouts of Emu and Emu2."""

import json
from pathlib import Path
from typing import Any

from model.config import BridgeConfig
from model.sequence import Layout, LayoutConfig
from model.tokenizer import Tokenizer
from pipelines.running.runner import Runner
from pipelines.tokenize import run_tokenize
from tests.goldens.contents import Golden, plain, rows
from tests.pipelines import corpus_builder
from trainer.reading.corpus import TrainingCorpus
from trainer.reading.window_tables import source_windows

NUM_TOKENS = 300


def goldens(folder: Path) -> dict[str, Golden]:
    """Cut samples into windows, some of which are too small for a whole sample."""
    corpus_builder.build(str(folder))
    tokens = folder / "tokens" / run_tokenize(str(folder), None, Runner(), train_bpe=NUM_TOKENS).name
    given = {str(path.relative_to(tokens)): plain(rows(path)) for path in sorted(tokens.rglob("*.parquet"))}
    corpus = TrainingCorpus.open(str(folder))
    outputs: dict[str, Any] = {}
    for family in ("emu", "emu2"):
        tokenizer = Tokenizer.load(tokens, family)
        for frame_times, seq_len in ((False, 24), (True, 48)):
            layout = Layout(
                tokenizer, BridgeConfig(image_slots=4, frame_slots=6), LayoutConfig(frame_times=frame_times)
            )
            outputs[f"{family}, {seq_len}"] = [
                [t.name, t.kind, t.shards, *(_listed(a) for a in (t.first, t.tokens, t.images, t.numbers)), t.refused]
                for t in source_windows(str(folder), corpus.manifest, corpus.tokens, layout, seq_len)
            ]
    return {
        "windows": Golden(given | {"tokenizer": json.loads((tokens / "tokenizer.json").read_text())}, plain(outputs))
    }


def _listed(values: Any) -> list[int] | None:
    return None if values is None else values.tolist()
