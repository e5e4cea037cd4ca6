"""Measures one part: `python -m tools.bench.gpu_parts PART FOLDER ROWS`.

A part appends its rows to a file as it finds them, so that one that runs out of time or memory keeps what it has.
"""

import sys
from pathlib import Path

from tools.bench.gpu_parts import engine, generation, training
from tools.bench.gpu_parts.part import Bench, Part

PARTS: dict[str, Part] = {
    "corpus": training.corpus,
    "captions": training.captions,
    "unified": training.unified,
    "decoder_512": training.decoder_512,
    "generation": generation.generation,
    "decoder_1024": training.decoder_1024,
    "language_model": engine.language_model,
    "zero": engine.zero,
}


if __name__ == "__main__":
    name, folder, rows = sys.argv[1:]
    PARTS[name](Bench(name, Path(folder), Path(rows)))
