"""How runs end: sources that run dry, streams that break or stall, signals. What was trained is saved."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
import yaml

from tests.trainer.conftest import TREE, changed, run_findings
from tests.trainer.ranks import in_ranks
from tests.trainer.trial_runs import consumed, losses
from trainer import __main__
from trainer.engine.metrics import read_metrics
from trainer.plan.mixture import load_phases
from trainer.plan.order import key_of, permute

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NEVER = 1000  # steps between checkpoints: none but the last
NUM_TARS = 6


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tars of texts, and one of other texts."""
    folder = tmp_path_factory.mktemp("tars")
    for number in range(NUM_TARS):
        with webdataset.TarWriter(str(folder / f"texts-{number}.tar")) as writer:
            for n in range(8):
                writer.write({"__key__": f"t{number}-{n}", "txt": f"text {n} of {number}. " * 10})
    with webdataset.TarWriter(str(folder / "others.tar")) as writer:
        for n in range(8):
            writer.write({"__key__": f"o{n}", "txt": f"another text {n}. " * 10})
    return folder


def streams(tars: Path, flag: Path, then: str) -> dict[str, Any]:
    """Return settings of a run on tars, one of which while `flag` exists has only its first half, then `then`.

    It is the third that is read, in a run of two processes by the first.
    """
    urls = [f"{tars}/texts-{n}.tar" for n in range(NUM_TARS)]
    third = {s: int(permute(np.array([2]), NUM_TARS, key_of("tars", s, urls[0], 0))[0]) for s in range(20)}
    seed = next(seed for seed, number in third.items() if number)  # the order depends on the first one's name
    path = urls[third[seed]]
    half = f"pipe:if test -e {flag}; then head -c 4096 {path}; {then}; else cat {path}; fi"
    urls[urls.index(path)] = half
    return {
        "data.streams": {"texts": urls, "others": [f"{tars}/others.tar"]},
        "data.plan": {"seq_len": 64, "global_batch_size": 2, "seed": seed},
        "mixture.phases": [{"weights": {"texts": 0.75, "others": 0.25}}],
        "engine.micro_batch_size": 1,
        "checkpoints.every": NEVER,
        "steps": 40,
    }


def arguments(folder: Path, corpus: str, changes: dict[str, Any]) -> list[str]:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(changed(TREE, {f"pretrain.{key}": value for key, value in changes.items()})))
    return ["pretrain", "--config", str(path), "--corpus", corpus, "--out", str(folder / "out")]


def command(world: Any, *given: str) -> tuple[int, str, str]:
    """Run `python -m trainer ...` in a separate process; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["trainer", *given]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            __main__.main()
        except SystemExit as ended:
            return int(ended.code or 0), out.getvalue(), err.getvalue()
    raise AssertionError("main returned")


def checkpoints(out: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted((out / "checkpoints").glob("step-*"))]


def is_whole(out: Path, steps: int) -> None:
    """Check that a run has taken all its steps, each sample at one place."""
    assert [row["step"] for row in read_metrics(str(out / "metrics.jsonl"))] == list(range(steps))
    places = [(row["position"], row["window"]) for row in consumed(out)]
    assert len(places) == len(set(places))


# --- a source that runs dry, a stream that breaks -------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_stream_that_breaks_ends_the_run_after_a_save(training_corpus, tars, tmp_path, size):
    flag = tmp_path / "flag"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    given = arguments(cut, training_corpus, streams(tars, flag, "exit 0"))
    flag.touch()
    found = in_ranks(size, command, *given)
    (step,) = checkpoints(cut / "out")
    assert 0 < step < 40
    assert [row["step"] for row in read_metrics(str(cut / "out/metrics.jsonl"))] == list(range(step))
    for code, _, err in found:  # all processes say why, also those whose data was there
        assert code == 1
        line = rf"error: pipe:.*: cannot be read to its end: broken tar: truncated at byte 4096; saved at step {step}"
        assert re.fullmatch(line, err.splitlines()[-1])
        assert "Traceback" not in err
    flag.unlink()
    assert [code for code, *_ in in_ranks(size, command, *given)] == [0] * size
    is_whole(cut / "out", 40)
    expected = in_ranks(size, command, *arguments(whole, training_corpus, streams(tars, flag, "exit 0")))
    assert [code for code, *_ in expected] == [0] * size
    assert consumed(cut / "out") == consumed(whole / "out")
    assert losses(cut / "out") == pytest.approx(losses(whole / "out"), rel=1e-3)


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_a_run_continues_without_a_stream_that_breaks(training_corpus, tars, tmp_path, size):
    flag = tmp_path / "flag"
    flag.touch()
    changes = streams(tars, flag, "exit 0") | {"mixture.when_source_ends": "continue"}
    found = in_ranks(size, command, *arguments(tmp_path, training_corpus, changes))
    assert [code for code, *_ in found] == [0] * size
    said = [line for line in found[0][1].splitlines() if "continuing" in line]
    (line,) = said
    step = int(re.search(r"truncated at byte 4096; continuing without texts from about step (\d+)$", line)[1])
    phases = load_phases(str(tmp_path / "out/mixture.jsonl"))
    assert [phase.weights for phase in phases] == [{"texts": 0.75, "others": 0.25}, {"others": 1.0}]
    assert phases[1].reason == "config; ended: texts"
    assert abs(phases[1].step - step) <= 2
    is_whole(tmp_path / "out", 40)
    assert {row["source"] for row in consumed(tmp_path / "out") if row["step"] >= 36} == {"others"}


def test_a_run_ends_if_no_stream_remains(training_corpus, tars, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    changes = streams(tars, flag, "exit 0") | {"mixture.when_source_ends": "continue"}
    changes["mixture.phases"] = [{"weights": {"texts": 1.0}}]
    ((code, _, err),) = in_ranks(1, command, *arguments(tmp_path, training_corpus, changes))
    assert code == 1
    assert re.search(r"truncated at byte 4096; saved at step \d+$", err)
    assert len(checkpoints(tmp_path / "out")) == 1


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_an_exhausted_source_ends_the_run_after_a_save(training_corpus, tmp_path, size):
    changes = {"mixture.max_epochs": {"pairs": 1.5}, "checkpoints.every": NEVER, "steps": 60}
    given = arguments(tmp_path, training_corpus, changes)
    found = in_ranks(size, command, *given)
    (step,) = checkpoints(tmp_path / "out")
    for code, _, err in found:
        assert code == 2
        assert re.search(rf"^error: pairs is exhausted: steps from {step} on .*; saved at step {step}$", err, re.M)
    more = in_ranks(size, command, *given, "--set", "pretrain.mixture.max_epochs={pairs: 9}")
    assert [code for code, *_ in more] == [0] * size
    assert run_findings(str(tmp_path / "out"), training_corpus) == []


@pytest.mark.nightly
def test_a_run_continues_without_an_exhausted_source(training_corpus, tmp_path):
    limits = {"pairs": 1.5, "texts": 1}
    changes = {
        "mixture.max_epochs": limits,
        "mixture.when_source_ends": "continue",
        "checkpoints.every": 7,
        "steps": 60,
    }
    given = arguments(tmp_path, training_corpus, changes)
    ((code, out, _),) = in_ranks(1, command, *given)
    assert code == 0
    rows, phases = consumed(tmp_path / "out"), load_phases(str(tmp_path / "out/mixture.jsonl"))
    reasons = [phase.reason for phase in phases]
    assert [*reasons[1:]] in (
        ["config; ended: pairs, texts"],
        ["config; ended: pairs", "config; ended: texts; 1 ended before"],
        ["config; ended: texts", "config; ended: pairs; 1 ended before"],
    )
    assert "ended: pairs" in out
    for name, limit in limits.items():
        drawn = [row["position"] for row in rows if row["source"] == name and row["window"] == 0]
        assert limit * 30 - 4 * 3 <= len(drawn) <= limit * 30  # less than a step's samples are left
    last = phases[-1]
    assert {row["source"] for row in rows if row["position"] > last.position} <= set(last.weights)
    assert run_findings(str(tmp_path / "out"), training_corpus) == []


def test_a_broken_reader_saves_too(training_corpus, tmp_path):
    """Whatever ends the data, what was trained is not lost."""
    given = arguments(tmp_path, training_corpus, {"checkpoints.every": NEVER, "steps": 60})
    ((kind, message),) = in_ranks(1, _with_a_fault, *given)
    assert (kind, message) == ("ZeroDivisionError", "a fault")
    assert checkpoints(tmp_path / "out") == [20]


def _with_a_fault(world: Any, *given: str) -> tuple[str, str]:
    from trainer.reading.reader import SequenceReader

    read = SequenceReader.read

    def fail(self, chunk, step):
        if step == 20:
            raise ZeroDivisionError("a fault")
        return read(self, chunk, step)

    SequenceReader.read = fail
    try:
        command(world, *given)
    except Exception as error:
        return type(error).__name__, str(error)
    raise AssertionError("it did not fail")


# --- signals --------------------------------------------------------------------------------------------------------


def when_it_stands_still(out: Path, act: Callable[[], None]) -> None:
    """Do something when a run has taken steps and then none for a while."""
    path = out / "metrics.jsonl"
    before, since = -1, time.monotonic()
    while before < 1 or time.monotonic() - since < 1.5:
        now = len(path.read_text().splitlines()) if path.exists() else -1
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.1)
    act()


def command_with_signal(world: Any, rank: int, number: int, *given: str) -> tuple[int, str, str, float]:
    """Run the command, and signal one process when it stands still; return also the seconds from then on."""
    sent = [0.0]

    def send() -> None:
        sent[0] = time.monotonic()
        if world.rank == rank:
            os.kill(os.getpid(), number)

    out = Path(given[given.index("--out") + 1])
    threading.Thread(target=when_it_stands_still, args=(out, send), daemon=True).start()
    code, said, err = command(world, *given)
    return code, said, err, time.monotonic() - sent[0]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("size", "rank", "number"),
    [
        pytest.param(1, 0, signal.SIGUSR1, marks=pytest.mark.nightly),
        pytest.param(2, 0, signal.SIGTERM, marks=pytest.mark.nightly),
        (2, 1, signal.SIGUSR1),
    ],
)
def test_a_run_whose_stream_stalls_saves_when_it_is_told_to_end(training_corpus, tars, tmp_path, size, rank, number):
    """Of two processes one waits for bytes, and either may get the signal."""
    flag = tmp_path / "flag"
    flag.touch()
    given = arguments(tmp_path, training_corpus, streams(tars, flag, "sleep 600"))
    found = in_ranks(size, command_with_signal, rank, number, *given)
    (step,) = checkpoints(tmp_path / "out")
    assert 0 < step < 40
    for code, _, err, seconds in found:
        assert code == 75
        assert seconds < 10
        assert "Traceback" not in err
    assert f"stopped, saved in {tmp_path}/out/checkpoints; rerun to continue" in found[0][1]
    flag.unlink()
    assert [code for code, *_ in in_ranks(size, command, *given)] == [0] * size
    is_whole(tmp_path / "out", 40)


@pytest.mark.nightly
def test_a_stream_that_stalls_for_too_long_breaks(training_corpus, tars, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    changes = streams(tars, flag, "sleep 600") | {"data.reader": {"num_threads": 0, "stall_seconds": 4}}
    found = in_ranks(2, command, *arguments(tmp_path, training_corpus, changes))
    for code, _, err in found:
        assert code == 1
        assert re.search(
            r"^error: pipe:.*: cannot be read to its end: no byte for 4 seconds; saved at step \d+$", err, re.M
        )
    assert len(checkpoints(tmp_path / "out")) == 1


def start(given: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.mark.nightly
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_real_command_that_stalls_heeds_the_first_signal(training_corpus, tars, tmp_path, number, code):
    flag = tmp_path / "flag"
    flag.touch()
    process = start(arguments(tmp_path, training_corpus, streams(tars, flag, "sleep 600")))
    try:
        # Ctrl-C in a terminal goes to the whole group, with the commands that are read from.
        when_it_stands_still(tmp_path / "out", lambda: os.killpg(process.pid, number))
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert "Traceback" not in err
    (step,) = checkpoints(tmp_path / "out")
    assert 0 < step < 40
    if number == signal.SIGINT:
        assert "stopping after this step and a save; press Ctrl-C again to stop at once" in err
        assert err.splitlines()[-1] == "error: stopped; rerun to continue from the last checkpoint"
    else:
        assert out.splitlines()[-1].startswith("pretrain: stopped, saved in ")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.nightly
def test_ctrl_c_saves_in_the_middle_of_a_run_and_a_second_one_does_not_wait(training_corpus, tmp_path, times):
    process = start(arguments(tmp_path, training_corpus, {"checkpoints.every": NEVER, "steps": 100_000}))
    metrics = tmp_path / "out/metrics.jsonl"
    try:
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
            time.sleep(0.1)
            assert process.poll() is None, process.communicate()
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.001)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "error: stopped; rerun to continue from the last checkpoint"
    if times == 1:
        (step,) = checkpoints(tmp_path / "out")
        assert [row["step"] for row in read_metrics(str(metrics))] == list(range(step))
        state = json.loads((tmp_path / f"out/checkpoints/step-{step:08d}/data_state.json").read_text())
        assert state["step"] == step
