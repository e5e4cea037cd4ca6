"""Tests of cancelling jobs on a Flink cluster, on a server that answers as its REST interface does."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.running.flink_jobs import cancel_jobs
from tests.serving import Quiet, send, serving

JOBS = [("1", "ours", "RUNNING"), ("2", "ours", "FINISHED"), ("3", "another", "RUNNING"), ("4", "ours", "RESTARTING")]


class Master(ThreadingHTTPServer):
    """A JobManager with these jobs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.cancelled: list[str] = []


class _Answer(Quiet, BaseHTTPRequestHandler):
    server: Master

    def do_GET(self) -> None:
        assert self.path == "/jobs/overview"
        jobs = [{"jid": jid, "name": name, "state": state} for jid, name, state in JOBS]
        send(self, 200, json.dumps({"jobs": jobs}).encode())

    def do_PATCH(self) -> None:
        self.server.cancelled.append(self.path)
        send(self, 202, b"{}")


@pytest.fixture
def master() -> Iterator[Master]:
    with serving(Master()) as server:
        yield server


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_jobs_of_the_name_that_have_not_ended_are_cancelled(master: Master, scheme: str):
    assert cancel_jobs(f"{scheme}127.0.0.1:{master.server_port}", "ours") == 2
    assert master.cancelled == ["/jobs/1?mode=cancel", "/jobs/4?mode=cancel"]


@pytest.mark.parametrize("address", ["[auto]", "[local]", "127.0.0.1:1"])
def test_where_there_is_no_cluster_nothing_is_cancelled(address: str):
    assert cancel_jobs(address, "ours") == 0
