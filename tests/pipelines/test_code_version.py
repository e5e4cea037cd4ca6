"""The version of the code that a manifest names."""

import re
import subprocess

import pytest

import pipelines
from pipelines import code_version
from tests.sources import ROOT


@pytest.fixture
def repository(tmp_path, monkeypatch):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("a = 1\n")
    monkeypatch.setattr(pipelines, "__file__", str(tmp_path / "pipelines" / "__init__.py"))
    return tmp_path


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit() -> str | None:
    return code_version.code_version.__wrapped__()["commit"]


def test_the_commit_is_named_where_there_is_one_and_changes_are_told(repository):
    assert commit() is None
    git(repository, "init", "-q")
    assert commit() is None  # nothing is committed yet
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    head = git(repository, "rev-parse", "HEAD")
    assert commit() == head
    (repository / "notes.txt").write_text("not tracked\n")
    assert commit() == head
    (repository / "pipelines" / "__init__.py").write_text("a = 2\n")
    assert commit() == f"{head}+changes"


def test_a_repository_around_an_installation_is_not_its_own(repository):
    git(repository, "init", "-q")
    installed = repository / ".venv" / "lib" / "pipelines"
    installed.mkdir(parents=True)
    pipelines.__file__ = str(installed / "__init__.py")
    assert commit() is None


def test_without_git_only_the_version_is_named(repository, monkeypatch):
    git(repository, "init", "-q")
    monkeypatch.setenv("PATH", str(repository))
    assert code_version.code_version.__wrapped__() == {"version": pipelines.__version__, "commit": None}


def test_this_code_has_a_version():
    found = code_version.code_version()
    assert found["version"] == pipelines.__version__
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", found["commit"] or "")
