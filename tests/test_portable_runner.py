"""The stages on Prism, Beam's runner that holds a pipeline strictly to what it declares, give what they give locally.

It finds what the in-process runner forgives: elements without coders, keys whose coder is not deterministic, state that
is shared by chance. Prism is one program: `make cluster-parts` makes it, or it is on the PATH.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest

from pipelines.errors import RunError
from pipelines.running.runner import Runner, run_pipeline
from tests.corpus_command import ROOT, build, copy_raw_store, published, served, spec_tree, write_spec
from tests.ports import free_port

BINARY = shutil.which("prism", path=str(ROOT / "build" / "cluster" / "bin")) or shutil.which("prism")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BINARY is None, reason="Prism is not at hand: `make cluster-parts` makes it"),
]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Beam's options for a Prism that runs until the end of the module."""
    port = free_port()
    with open(tmp_path_factory.mktemp("prism") / "log", "w") as log:
        process = subprocess.Popen(
            [str(BINARY), "-job_port", str(port), "-serve_http=false"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert process.poll() is None, "Prism ended"
            assert time.monotonic() < deadline, "Prism does not answer"
            time.sleep(0.05)
        yield (f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK")
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_a_build_on_prism_has_the_bytes_of_a_local_one(options: tuple[str, ...], tmp_path: Path):
    with served(tmp_path / "state") as web:
        spec = write_spec(tmp_path / "mini.yaml", spec_tree(web.port))
        build(spec, tmp_path / "there", "--runner", "PortableRunner", "--", *options)
        asked = web.requests()
        here = copy_raw_store(tmp_path / "there", tmp_path / "here")
        build(spec, here)
        assert web.requests() == asked, "the local build took everything from the raw store"
    assert published(tmp_path / "there") == published(here)
    assert (here / "manifest.json").exists()


def fail(n: int) -> None:
    raise ValueError(f"no such column: {n}")


def test_a_failed_job_is_one_line(options: tuple[str, ...], tmp_path: Path):
    runner = Runner("PortableRunner", 2, options, str(tmp_path))
    with pytest.raises(RunError) as raised:
        run_pipeline("extract", runner, lambda pipeline: pipeline | beam.Create([3]) | beam.Map(fail))
    (log,) = tmp_path.iterdir()
    assert str(raised.value) == (
        f"extract: the job failed: ValueError: no such column: 3 (all of it: {log}); rerun to continue"
    )
    assert "Traceback" in log.read_text()
