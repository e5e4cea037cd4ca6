"""Tests of `serve:` of a spec: servers run only while they are needed; a mistake is one line."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.running import serve
from pipelines.running.serve import Serve, _answers, serving
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
SERVER_WITH_PID = """
import http.server, pathlib, os, sys
pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
HANGING_RUN = """
import sys
from pipelines.running.serve import Serve, serving
with serving([Serve.model_validate_json(sys.argv[1])]):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


def serving_one(**settings: Any) -> AbstractContextManager[None]:
    return serving([Serve(**settings)])


def test_a_folder_is_served_within_the_block_only(tmp_path: Path, address: str):
    (tmp_path / "a.txt").write_text("hello")
    with (
        serving_one(folder=str(tmp_path), addresses=[address]),
        urllib.request.urlopen(f"http://{address}/a.txt") as answer,
    ):
        assert answer.read() == b"hello"
    assert not _answers(address)


def test_a_command_ends_with_the_block_also_where_that_fails(tmp_path: Path, address: str):
    command = ["-c", SERVER_WITH_PID, address.rpartition(":")[2], str(tmp_path / "pid")]
    with pytest.raises(ZeroDivisionError), serving_one(command=command, addresses=[address]):
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_missing_folder_is_reported(tmp_path: Path, address: str):
    with (
        pytest.raises(
            UserError, match=r"^serve: no folder .*/absent; see the first lines of the spec for what it needs$"
        ),
        serving_one(folder=str(tmp_path / "absent"), addresses=[address]),
    ):
        pass


def test_an_address_in_use_is_reported(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve, "FREE_SECONDS", 0)
    host, _, port = address.rpartition(":")
    with (
        socket.create_server((host, int(port))),
        pytest.raises(UserError, match=f"^serve: {address} is used by another program"),
        serving_one(folder=str(tmp_path), addresses=[address]),
    ):
        pass


def test_a_command_that_ends_at_once_is_reported(address: str):
    with (
        pytest.raises(UserError, match=f"^serve: -c pass does not answer on {address}$"),
        serving_one(command=["-c", "pass"], addresses=[address]),
    ):
        pass


def test_the_first_server_ends_where_the_second_does_not_start(tmp_path: Path, address: str):
    first = Serve(folder=str(tmp_path), addresses=[address])
    second = Serve(command=["-c", "pass"], addresses=["127.0.0.1:1"])
    with pytest.raises(UserError, match=r"does not answer on 127\.0\.0\.1:1"), serving([first, second]):
        pass
    assert not _answers(address)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_server_ends_when_the_run_is_killed(tmp_path: Path, address: str):
    os.mkfifo(tmp_path / "pipe")
    code = "import sys; pipe = open(sys.argv[3], 'wb')\n" + SERVER_WITH_PID  # the pipe is open while the process lives
    served = Serve(
        command=["-c", code, address.rpartition(":")[2], str(tmp_path / "pid"), str(tmp_path / "pipe")],
        addresses=[address],
    )
    run = subprocess.Popen(
        [sys.executable, "-c", HANGING_RUN, served.model_dump_json()], cwd=ROOT, stdin=subprocess.PIPE
    )
    with run, open(tmp_path / "pipe", "rb") as server:
        os.kill(run.pid, signal.SIGKILL)
        assert server.read() == b""
