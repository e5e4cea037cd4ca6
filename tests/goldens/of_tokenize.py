"""Results of the tokenize stage for a small corpus of all five kinds: a tokenizer, then token sidecars."""

import json
from pathlib import Path
from typing import Any

from pipelines.running.runner import Runner
from pipelines.tokenize import read_texts, run_tokenize
from tests.goldens.contents import Golden, plain, rows
from tests.pipelines import corpus_builder

NUM_TOKENS = 300


def goldens(folder: Path) -> dict[str, Golden]:
    """Train a tokenizer on a corpus and write its ids."""
    manifest = corpus_builder.build(str(folder))
    given = {shard.path: [plain(d.to_json()) for d in read_texts(str(folder), shard)] for shard in manifest.shards}
    for documents in given.values():
        for found in documents:
            for media in found["media"]:
                del media["bytes"], media["stored_sha256"]  # they depend on encoders; no image is read
    info = run_tokenize(str(folder), None, Runner(), train_bpe=NUM_TOKENS)
    tokens = folder / "tokens" / info.name
    outputs: dict[str, Any] = {
        source.name: [plain(rows(path)) for path in sorted((tokens / source.name).rglob("*.parquet"))]
        for source in manifest.sources
    }
    outputs["tokenizer.json"] = plain(json.loads((tokens / "tokenizer.json").read_text()))
    return {"tokenize": Golden(given, outputs)}
