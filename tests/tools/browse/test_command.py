"""Tests of the command: its one line, how it ends, and mistakes, each of which is one line too."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import pytest

from pipelines import storage
from pipelines.errors import UserError
from tests.pipelines.corpus_builder import build
from tests.sources import ROOT
from tools.browse.command import browse as serve
from tools.browse.lookup import Lookup


def browse(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tools", "browse", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, **pipes
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_it_says_where_it_serves_and_ends_cleanly(tmp_path, number):
    corpus, scratch = tmp_path / "corpus", tmp_path / "scratch"
    scratch.mkdir()
    build(str(corpus), ("pair",))
    with browse("--corpus", str(corpus), "--port", "0", TMPDIR=str(scratch)) as process:
        line = process.stdout.readline()
        address = re.fullmatch(rf"{corpus}: (http://127\.0\.0\.1:\d+/) until Ctrl-C\n", line)[1]
        with urllib.request.urlopen(f"{address}samples") as answer:
            assert answer.status == 200
            assert "9 samples" in answer.read().decode()
        process.send_signal(number)
        printed, errors = process.communicate(timeout=30)
    assert (process.returncode, printed, errors) == (0, "stopped\n", "")
    assert not list(scratch.glob("dromaius-*"))
    assert not list((corpus / "work" / "lookup").rglob(f"{storage.TEMPORARY}*"))


@pytest.mark.slow
def test_a_damaged_sidecar_is_said_on_its_page_and_the_rest_is_prepared(tmp_path):
    build(str(tmp_path), ("pair",))
    sidecar = next(tmp_path.glob("*/*/*.parquet"))
    os.truncate(sidecar, 100)
    lookup = tmp_path / "work" / "lookup" / "browse"
    with browse("--corpus", str(tmp_path), "--port", "0") as process:
        address = process.stdout.readline().split()[1]
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"{address}samples")
        assert "not a whole Parquet file" in answer.value.read().decode()
        end = time.monotonic() + 30
        while not list(lookup.glob("drops-*.duckdb")):
            assert time.monotonic() < end, "drops are prepared as well"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=30)
    assert (process.returncode, printed, errors) == (0, "stopped\n", "")


@pytest.mark.parametrize("ask", ["run", "value"])
def test_what_is_being_made_is_stopped_and_leaves_nothing(tmp_path, monkeypatch, ask):
    corpus = str(tmp_path / "corpus")
    lookup = Lookup(corpus, build(corpus, ("pair",)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    is_made, said = threading.Event(), []

    def make() -> None:
        try:
            with lookup.building() as tables:
                is_made.set()
                getattr(tables, ask)("SELECT sum(hash(range)) FROM range(100_000_000_000)")
        except UserError as error:
            said.append(str(error))

    thread = threading.Thread(target=make)
    thread.start()
    assert is_made.wait(30)
    lookup.stop(30)
    assert not list(tmp_path.glob("dromaius-*"))
    thread.join(30)
    assert said == ["stopped"]
    with pytest.raises(UserError, match="stopped"), lookup.building():
        pass


def test_mistakes_are_one_line(tmp_path):
    corpus = str(tmp_path / "corpus")
    build(corpus, ("pair",))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, words in (
            ((corpus, None, "127.0.0.1", port), "cannot listen there: Address already in use; name another --port"),
            ((str(tmp_path), None, "127.0.0.1", 0), "manifest.json: missing: no finished corpus here"),
            ((corpus, str(tmp_path / "run"), "127.0.0.1", 0), "run: no such run"),
            ((corpus, None, "name.invalid", 0), "--host name.invalid: no such address"),
            ((corpus, None, "192.0.2.1", 0), "192.0.2.1:0: cannot listen there: "),
        ):
            with pytest.raises(UserError) as error:
                serve(*arguments)
            assert words in str(error.value)
            assert "\n" not in str(error.value)
    assert not (tmp_path / "corpus" / "work" / "lookup").exists()
