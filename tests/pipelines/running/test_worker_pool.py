"""Tests of the pool of a cluster's workers, asked as a task manager does."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

from tests.corpus_command import ROOT, run
from tests.ports import free_port


class Control(beam_fn_api_pb2_grpc.BeamFnControlServicer):
    """A cluster's side of the control channel: it notes who connects, and waits."""

    def __init__(self) -> None:
        self.connected, self.over = threading.Event(), threading.Event()
        self.workers: list[str] = []

    def Control(self, responses, context):  # noqa: N802 - named by Beam
        self.workers.append(dict(context.invocation_metadata())["worker_id"])
        self.connected.set()
        self.over.wait(60)
        return iter(())


@contextlib.contextmanager
def control() -> Iterator[tuple[Control, str]]:
    service, server = Control(), grpc.server(ThreadPoolExecutor(4))
    beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        service.over.set()
        server.stop(0)


def start_worker(port: int, address: str) -> None:
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    grpc.channel_ready_future(channel).result(30)
    request = beam_fn_api_pb2.StartWorkerRequest(
        worker_id="1-1", control_endpoint=endpoints_pb2.ApiServiceDescriptor(url=address)
    )
    assert not beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel).StartWorker(request, timeout=60).error
    channel.close()


@pytest.mark.nightly
@pytest.mark.slow
def test_workers_of_several_task_managers_are_started_and_end_with_the_pool():
    port = free_port()
    command = [sys.executable, "-m", "pipelines", "worker-pool", "--host", "127.0.0.1", "--port", str(port)]
    with (
        control() as (first, address),
        control() as (second, other),
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as pool,
    ):
        start_worker(port, address)
        start_worker(port, other)  # both name their worker so
        assert first.connected.wait(60)
        assert second.connected.wait(60)
        assert (first.workers, second.workers) == (["1-1"], ["1-1"])
        pool.send_signal(signal.SIGINT)
        assert pool.wait(30) == 130
        said = pool.stderr.read() if pool.stderr else ""
    assert said.startswith(f"127.0.0.1:{port}: workers are started when a cluster asks for them\n")
    assert said.endswith("error: stopped; rerun to continue\n")


def test_a_port_that_is_taken_is_told(tmp_path: Path):
    with control() as (_, address):
        port = address.rpartition(":")[2]
        said = run("worker-pool", "--host", "127.0.0.1", "--port", port, code=2)[1]
    assert f"error: --port {port}: 127.0.0.1 has no such port free; stop what uses it, or choose another" in said
