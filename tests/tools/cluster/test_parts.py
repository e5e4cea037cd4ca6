"""Tests of fetching a cluster's programs: what is there is held against its hash, what is missing is told."""

from pathlib import Path

import pytest

from pipelines.errors import RunError, UserError
from tools.cluster import parts
from tools.cluster.parts import Parts, fetch_parts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all programs, of which the jars are one of a few bytes."""
    there = Parts(tmp_path)
    for path in (there.prism, there.versitygw, there.jars / "a-1.0.jar", there.operator_schema):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"program")
    monkeypatch.setattr(parts, "expected_jars", lambda: parts.hashes(tmp_path / "expected"))
    (tmp_path / "expected").mkdir()
    (tmp_path / "expected" / "a-1.0.jar").write_bytes(b"program")
    monkeypatch.setattr(parts, "_find", lambda program: None)
    return tmp_path


def test_what_is_there_is_not_fetched_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "_call", lambda command, **variables: pytest.fail(f"called {command}"))
    assert fetch_parts(folder).jars == folder / "gradle" / "wrapper"


@pytest.mark.parametrize("name", ["a-1.0.jar", "b-2.0.jar"])
def test_a_jar_that_is_another_or_too_many_is_refused(folder: Path, name: str):
    (Parts(folder).jars / name).write_bytes(b"other")
    with pytest.raises(RunError, match=rf"{name}: is not the jar of jars.sha256; delete the folder and fetch it again"):
        fetch_parts(folder)


def test_a_program_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^go: not found; install it first"):
        fetch_parts(tmp_path)


def test_the_jars_of_the_list_are_named_once_with_their_hashes():
    lines = (parts.HERE / "jars.sha256").read_text().splitlines()
    found = parts.expected_jars()
    assert len(found) == len(lines) == 163
    assert all(len(digest) == 64 and name.endswith(".jar") for name, digest in found.items())
