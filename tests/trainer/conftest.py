"""Shared fixtures of the tests of training: one small corpus, and configs for it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer import ranks, small_corpus
from trainer.config import TrainConfig

torch.set_num_threads(1)
os.environ["DS_ACCELERATOR"] = "cpu"


def pytest_collection_finish(session: pytest.Session) -> None:
    capture: Any = session.config.pluginmanager.get_plugin("capturemanager")
    capture.resume_global_capture()  # what ranks print is shown with the tests that fail
    ranks.start_server()
    capture.suspend_global_capture()


RUN = {
    "steps": 12,
    "data": {
        "plan": {"seq_len": 96, "global_batch_size": 4, "packing_buffer_size": 16, "seed": 3},
        "reader": {"num_threads": 0},
    },
    "mixture": {"phases": [{"weights": small_corpus.WEIGHTS}]},
    "stages": [{"lr": {"encoder": 1e-3, "bridge": 3e-3, "language_model": 3e-3}}],
    "engine": {"precision": "fp32", "zero_stage": 0, "micro_batch_size": 2, "peak_flops": 1e12, "threads": 1},
    "checkpoints": {"every": 4, "keep": 2},
    "log": {"every": 1, "tensorboard": False},
}
TREE = {"model": {"size": "debug"}, "pretrain": RUN}


@pytest.fixture(scope="session")
def training_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus of five sources, with tokens."""
    return small_corpus.build(tmp_path_factory.mktemp("training") / "corpus")


@pytest.fixture
def config() -> Callable[..., TrainConfig]:
    """A function that returns a config with changes, as dotted keys, of its section `pretrain` or `model`.

    For example `config(**{"engine.zero_stage": 2, "model.size": "debug-emu"})`.
    """

    def build(**changes: object) -> TrainConfig:
        named = {key if key.startswith("model") else f"pretrain.{key}": value for key, value in changes.items()}
        return TrainConfig.model_validate(changed(TREE, named))

    return build


def changed(tree: dict, changes: dict) -> dict:
    """Return a copy of a tree of settings with dotted keys set."""
    out = {k: dict(v) if isinstance(v, dict) else v for k, v in tree.items()}
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place = out
        for parent in parents:
            place[parent] = dict(place.get(parent, {}))
            place = place[parent]
        place[last] = value
    return out


@pytest.fixture
def check_run() -> Callable[[str, str], list[str]]:
    """A function that returns contradictions in the files of a run."""
    return run_findings


def run_findings(run: str, corpus: str) -> list[str]:
    """Check that all steps are there, without gaps or repeated positions, and each epoch ends before the next."""
    import pyarrow.parquet as pq

    rows = [r for p in sorted(Path(run).glob("consumed/*.parquet")) for r in pq.read_table(p).to_pylist()]
    found = []
    if [r["step"] for r in rows] != sorted(r["step"] for r in rows):
        found.append("not in step order")
    places = [(r["position"], r["window"]) for r in rows]
    if len(places) != len(set(places)):
        found.append("a window twice")
    positions = sorted({r["position"] for r in rows})
    if positions != list(range(len(positions))):
        found.append("gaps between positions")
    seen: dict[tuple[str, int], set[str]] = {}
    for r in sorted(rows, key=lambda r: (r["position"], r["window"])):
        if r["window"] == 0:
            turn = r["replaces"] or r["key"]
            keys = seen.setdefault((r["source"], r["epoch"]), set())
            if turn in keys:
                found.append(f"{turn} twice in epoch {r['epoch']} of {r['source']}")
            keys.add(turn)
    return found
