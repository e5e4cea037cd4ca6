"""Tests of a run's records: each place has the rows of `metrics.jsonl`, also for a resumed run."""

import contextlib
import io
import json
import os
import struct
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.errors import UserError
from tests.trainer.ranks import in_ranks
from trainer.config import LogSettings
from trainer.engine.metrics import MetricsLog, Totals, read_metrics

NAMES = ("loss", "tokens/pairs")


def row(step, loss):
    return {"step": step, "stage": "all", "loss": loss, "tokens/pairs": 10 * step}


def write_and_resume(folder, settings):
    """Write six rows, lose the last two and write them again with two more; return the rows of `metrics.jsonl`."""
    for first, last, shift in ((0, 6, 0.5), (4, 8, 0.25)):
        log = MetricsLog(str(folder), settings, first)
        for step in range(first, last):
            log.write(row(step, step + shift))
        log.close()
    return read_metrics(str(folder / "metrics.jsonl"))


def test_numbers_that_are_not_finite_are_null(tmp_path):
    log = MetricsLog(str(tmp_path), LogSettings(tensorboard=False))
    log.write(row(0, float("nan")))
    assert read_metrics(str(tmp_path / "metrics.jsonl")) == [row(0, None)]


def test_totals_of_a_resumed_run_are_found_by_the_names_of_sources():
    totals = Totals(3, 30, 2, 5.0, ((1, 10, 0), (2, 20, 2)))
    record = json.loads(json.dumps(totals.to_record(["pairs", "texts"])))
    assert Totals.from_record(record, ["pairs", "texts"]) == totals
    turned = Totals.from_record(record, ["new", "texts", "pairs"])
    assert turned.by_source == ((0, 0, 0), (2, 20, 2), (1, 10, 0))
    assert turned.columns(["new", "texts", "pairs"], [None] * 3)["tokens/texts"] == 20
    del record["names"]  # as older runs have written it
    assert Totals.from_record(record, ["pairs", "texts"]) == totals


def test_tensorboard_has_the_rows_of_a_resumed_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = write_and_resume(tmp_path, LogSettings(tensorboard=True))
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == set(NAMES)
    for name in NAMES:
        assert [(s.step, s.value) for s in found.Scalars(name)] == [(row["step"], row[name]) for row in rows]


@pytest.mark.nightly
@pytest.mark.slow
def test_weights_and_biases_has_the_rows_of_a_resumed_run_as_one_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    rows = write_and_resume(tmp_path, LogSettings(tensorboard=False, wandb_project="test"))
    wandb.teardown()  # its separate process writes the files
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert {path.name for path in files} == {f"run-{(tmp_path / 'wandb/run_id').read_text()}.wandb"}
    found = {logged["step"]: logged for path in files for logged in _logged(path)}
    for row in rows:
        assert {name: found[row["step"]][name] for name in NAMES} == {name: row[name] for name in NAMES}


def log_without_its_process(world, folder, rows):
    """Write rows after the process of Weights & Biases has ended; return the printed message."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        log = MetricsLog(folder, LogSettings(tensorboard=False, wandb_project="test"))
        (service,) = psutil.Process().children()
        service.terminate()
        service.wait()
        for each in rows:
            log.write(each)
        log.close()
    return said.getvalue()


@pytest.mark.nightly
@pytest.mark.slow
def test_a_signal_that_ends_weights_and_biases_ends_no_training(tmp_path):
    pytest.importorskip("wandb")
    rows = [row(step, 1.0) for step in range(3)]
    (said,) = in_ranks(1, log_without_its_process, str(tmp_path), rows)
    assert said.count("Weights & Biases has ended") == 1
    assert read_metrics(str(tmp_path / "metrics.jsonl")) == rows


def _logged(path: Path):
    """Yield the rows in a file of Weights & Biases: LevelDB's log of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at = path.read_bytes(), 7
    while at < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, at)
        assert kind == 1  # whole: the file is smaller than a block
        record = Record.FromString(data[at + 7 : at + 7 + length])
        if record.HasField("history"):
            yield {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        at += 7 + length


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb_project: the wandb package is not installed"):
        MetricsLog(str(tmp_path), LogSettings(tensorboard=False, wandb_project="test"))
