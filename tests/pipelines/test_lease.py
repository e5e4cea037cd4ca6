"""Tests of who may use a folder: one run at a time, on a disk and in a store."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import lease, storage
from pipelines.errors import RunError, UserError
from pipelines.lease import STALE_SECONDS, hold

OUT = "memory://leased/corpus"
LEASE = f"{OUT}/work/lease.json"


@pytest.fixture(autouse=True)
def _empty_store():
    yield
    if storage.exists(OUT):
        storage.remove(OUT)


def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="file/out: folder cannot be written to: Not a directory"),
        hold(str(tmp_path / "file" / "out")),
    ):
        pass


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path):
    held = hold(str(tmp_path))
    with held, pytest.raises(UserError, match="another run is using this folder"), hold(str(tmp_path)):
        pass
    with hold(str(tmp_path)):
        pass


def written(**changes: object) -> None:
    """Write the lease of a run on another machine."""
    holder = {"owner": "o", "host": "far", "process": 7, "renewed_at": time.time()} | changes
    storage.write_bytes(LEASE, json.dumps(holder).encode())


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_in_a_store_is_held_by_one_run_at_a_time():
    with hold(OUT):
        said = (
            rf"{OUT}: a run on {socket.gethostname()} \(process {os.getpid()}\) is using this folder; wait .* ends in"
        )
        with pytest.raises(UserError, match=said), hold(OUT):
            pass
        assert storage.exists(LEASE)
    assert not storage.exists(LEASE)
    with hold(OUT):
        pass


def test_a_run_on_another_machine_is_named():
    written(renewed_at=time.time() - 60)
    with (
        pytest.raises(UserError, match=r"a run on far \(process 7\) is using this folder.*ends in 2[34]\d s$"),
        hold(OUT),
    ):
        pass
    assert json.loads(storage.read_bytes(LEASE))["owner"] == "o"


@pytest.mark.parametrize("gone", ["killed here", "not renewed"])
def test_the_lease_of_a_killed_run_is_taken_over(gone: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "_SETTLE_SECONDS", 0)
    if gone == "killed here":
        written(host=socket.gethostname(), process=ended_process())
    else:
        written(renewed_at=time.time() - STALE_SECONDS - 1)
    with hold(OUT):
        assert json.loads(storage.read_bytes(LEASE))["process"] == os.getpid()


def test_of_two_that_take_over_a_lease_the_last_holds_it(monkeypatch: pytest.MonkeyPatch):
    written(renewed_at=0.0)
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: written(owner="faster"))
    with pytest.raises(UserError, match="a run on far"), hold(OUT):
        pass
    assert json.loads(storage.read_bytes(LEASE))["owner"] == "faster"


def test_a_lease_is_renewed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    with hold(OUT):
        first = json.loads(storage.read_bytes(LEASE))["renewed_at"]
        deadline = time.monotonic() + 10
        while json.loads(storage.read_bytes(LEASE))["renewed_at"] == first:
            assert time.monotonic() < deadline, "the lease is not renewed"
            time.sleep(0.01)


def test_a_run_that_lost_its_lease_is_stopped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.02)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(RunError, match=r"this run was stopped, since far \(process 7\) uses the folder now"), hold(OUT):
        written()
        time.sleep(10)
    assert json.loads(storage.read_bytes(LEASE))["owner"] == "o", "the other run's lease is left to it"


def test_what_is_no_lease_is_told():
    storage.write_bytes(LEASE, b"{}")
    with pytest.raises(UserError, match=r"lease.json: is no lease; delete it if no run is using the folder"), hold(OUT):
        pass
