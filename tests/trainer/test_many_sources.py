"""Runs on more sources than a checkpoint's state once had room for: they save, and resume with the next sample."""

from pathlib import Path
from typing import Any

import pytest
import webdataset

from pipelines.running.runner import Runner
from pipelines.shards.index import index_corpus
from pipelines.tokenize import run_tokenize
from tests.trainer.ranks import in_ranks
from tests.trainer.trial_runs import consumed, killed, losses, run
from trainer.loop import FINISHED
from trainer.plan.steps import max_state_bytes

pytestmark = pytest.mark.slow

NUM = 150
NAMES = [f"source-{n:03d}-with-a-name-of-its-own" for n in range(NUM)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus of many sources, each of one small tar."""
    folder = tmp_path_factory.mktemp("many")
    for number, name in enumerate(NAMES):
        (folder / name).mkdir()
        with webdataset.TarWriter(str(folder / name / "0.tar")) as writer:
            for n in range(4):
                writer.write({"__key__": f"{number}-{n}", "txt": f"text {n} of source {number}. " * 4})
    index_corpus(str(folder))
    run_tokenize(str(folder), None, Runner(), train_bpe=300)
    return str(folder)


@pytest.mark.parametrize(("of", "size"), [pytest.param("corpus", 2, marks=pytest.mark.nightly), ("streams", 1)])
def test_a_run_of_many_sources_resumes(corpus, config, tmp_path, of, size):
    changes: dict[str, Any] = {
        "mixture.phases": [{"weights": dict.fromkeys(NAMES, 1 / NUM)}],
        "engine.micro_batch_size": 1,
        "checkpoints.every": 3,
        "steps": 6,
    }
    if of == "streams":
        changes["data.streams"] = {name: [f"{corpus}/{name}/0.tar"] for name in NAMES}
    chosen = config(**changes)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert in_ranks(size, run, "pretrain", chosen, corpus, whole) == [FINISHED] * size
    killed(size, "pretrain", chosen, corpus, cut, 3)
    assert in_ranks(size, run, "pretrain", chosen, corpus, cut) == [FINISHED] * size
    assert consumed(cut) == consumed(whole)
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)
    states = list(Path(cut).glob("checkpoints/*/data_state.json"))
    assert states
    assert all(path.stat().st_size <= max_state_bytes(NUM) for path in states)
