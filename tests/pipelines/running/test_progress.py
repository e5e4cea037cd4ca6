"""Tests of the progress of a pipeline: the time left, lines of JSON, metrics, and warnings."""

import json
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from pipelines.errors import UserError
from pipelines.parts import PartFolder, Tally
from pipelines.running import progress, reports
from pipelines.running.progress import _Step, _time_left, watching
from pipelines.running.reports import Progress, Reports, split_label
from pipelines.running.watch import Watch, Work
from pipelines.storage import write_bytes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_BAR_SECONDS", 0.01)
    monkeypatch.setattr(reports, "INTERVAL_SECONDS", 0.0)


def finish(folder: str, part: str) -> None:
    PartFolder(folder).finish(part, "", Tally("extract"), {})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("label", "stage", "step"),
    [
        ("extract", "extract", ""),
        ("fetch: media", "fetch", "media"),
        ("crawl sites, round 0", "crawl", "sites, round 0"),
    ],
)
def test_a_label_begins_with_its_stage(label: str, stage: str, step: str):
    assert split_label(label) == (stage, step)


def test_a_step_is_logged_at_intervals_and_at_its_end(tmp_path: Path):
    folder, log = str(tmp_path / "parts"), tmp_path / "log.jsonl"
    with Reports(str(log)) as given, watching("fetch: documents", [Watch(folder, 2)], given):
        wait_for(lambda: lines(log))
        finish(folder, "a")
        wait_for(lambda: lines(log)[-1]["done"] == 1)
        finish(folder, "b")
    found = lines(log)
    assert {line["event"] for line in found[:-1]} == {"progress"}
    half = next(line for line in found if line["done"] == 1)
    assert (half["stage"], half["step"], half["unit"], half["total"]) == ("fetch", "documents", "parts", 2)
    assert half["rate"] > 0
    assert half["eta_seconds"] == pytest.approx(1 / half["rate"], rel=0.2, abs=0.1)
    assert {name: found[-1][name] for name in ("event", "done", "dropped", "eta_seconds")} == {
        "event": "end",
        "done": 2,
        "dropped": {},
        "eta_seconds": 0.0,
    }
    assert found[-1]["bytes"] > 0
    assert found[-1]["time"].endswith("Z")


def test_a_step_that_waits_for_another_is_told_of_from_its_first_unit_on(tmp_path: Path):
    first, second, log = str(tmp_path / "first"), str(tmp_path / "second"), tmp_path / "log.jsonl"
    watches = [Watch(first, 1, step="media"), Watch(second, 2, step="documents")]
    with Reports(str(log)) as given, watching("fetch", watches, given):
        wait_for(lambda: lines(log) and lines(log)[-1]["seconds"] >= 1)
        assert {line["step"] for line in lines(log)} == {"media"}
        finish(first, "a")
        finish(second, "a")
        wait_for(lambda: "documents" in [line["step"] for line in lines(log)])
    found = [line for line in lines(log) if line["step"] == "documents"]
    assert {line["stage"] for line in found} == {"fetch"}
    assert (found[-1]["event"], found[-1]["done"], found[-1]["total"]) == ("end", 1, 2)
    assert found[0]["seconds"] < 1, "its time does not begin with that of the first"


def test_a_step_that_fails_has_its_end_in_the_log_too(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    with (
        Reports(str(log)) as given,
        pytest.raises(ZeroDivisionError),
        watching("x", [Watch(str(tmp_path / "p"))], given),
    ):
        _ = 1 / 0
    assert lines(log)[-1]["event"] == "end"


def test_what_earlier_runs_did_makes_no_rate(tmp_path: Path):
    finish(str(tmp_path), "a")
    step = _Step("extract", Watch(str(tmp_path), 3), Reports(str(tmp_path / "log")), Console())
    step.begin()
    state = step._state(Work(1, 3))
    assert (state.rate, state.eta_seconds) == (0.0, None)
    assert step._state(Work(2, 3)).eta_seconds is not None


def test_metrics_are_a_file_that_prometheus_reads(tmp_path: Path):
    path = tmp_path / "dromaius.prom"
    work = Work(300, 1_200, {"timeout": 3, "http_404": 20}, 5_000_000)
    with Reports(metrics_file=str(path)) as given:
        given.progress(Progress("crawl", "sites, round 7", "requests", work, 60.0, 5.0, 180.0))
        given.alarm("crawl", "few succeed")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    where = (("stage", "crawl"), ("step", "sites"))
    unit = (*where, ("unit", "requests"))
    assert samples[("dromaius_step_done", *unit)] == 300
    assert samples[("dromaius_step_expected", *unit)] == 1_200
    assert samples[("dromaius_step_units_per_second", *unit)] == 5
    assert samples[("dromaius_step_remaining_seconds", *where)] == 180
    assert samples[("dromaius_step_elapsed_seconds", *where)] == 60
    assert samples[("dromaius_step_folder_bytes", *where)] == 5_000_000
    assert samples[("dromaius_step_dropped", ("reason", "http_404"), *where)] == 20
    assert samples[("dromaius_alarms", ("stage", "crawl"))] == 1
    assert samples[("dromaius_last_update_timestamp_seconds",)] == pytest.approx(time.time(), abs=60)
    assert [other.name for other in tmp_path.iterdir()] == [path.name]  # replaced as a whole


def test_the_same_metrics_are_served_until_the_command_ends():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Reports(metrics_port=port) as given:
        given.progress(Progress("extract", "", "parts", Work(1, 2), 1.0, 1.0, 1.0))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b'dromaius_step_done{stage="extract",step="",unit="parts"} 1.0' in answer.read()
        with (
            pytest.raises(UserError, match=f"--metrics-port {port}: address already in use"),
            Reports(None, None, port),
        ):
            pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


@pytest.mark.parametrize(("option", "name"), [("--log-json", "log_json"), ("--metrics-file", "metrics_file")])
def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path: Path, option: str, name: str):
    path = str(tmp_path / "missing" / "file")
    with pytest.raises(UserError, match=f"{option} {path}: no such file or directory"), Reports(**{name: path}):
        pass


def test_a_warning_of_a_worker_is_printed_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log, alarms = tmp_path / "log.jsonl", tmp_path / "alarms"
    watch = Watch(str(tmp_path / "media"), alarms=str(alarms))
    with Reports(str(log)) as given, watching("fetch: media", [watch], given):
        write_bytes(str(alarms / "x"), b"40% of requests succeeded [timeout 6]")
        wait_for(lambda: "alarm" in [line["event"] for line in lines(log)])
    assert "warning: 40% of requests succeeded [timeout 6]\n" in capsys.readouterr().err
    found = next(line for line in lines(log) if line["event"] == "alarm")
    assert (found["stage"], found["message"]) == ("fetch", "40% of requests succeeded [timeout 6]")


def test_a_bar_shows_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    folder, shown = str(tmp_path), ""

    def is_seen() -> bool:
        nonlocal shown
        shown += capsys.readouterr().err
        return "1/40" in shown and " left" in shown

    with watching("fetch: documents", [Watch(folder, 40)], Reports()):
        finish(folder, "a")
        wait_for(is_seen)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0, "0 s left"), (89, "89 s left"), (90, "2 min left"), (5_399, "90 min left"), (5_400, "2 h left")],
)
def test_time_left_is_in_units_that_people_read(seconds: float | None, shown: str):
    assert _time_left(seconds) == shown
