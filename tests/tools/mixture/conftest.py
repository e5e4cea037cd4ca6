"""Shared fixtures of the tests of mixtures: one small corpus, a config for it, and the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from pipelines.errors import RunError, UserError
from tests.trainer import small_corpus
from tests.trainer.conftest import TREE, changed
from tools.mixture.commands import mixture


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus of five sources, with tokens."""
    return small_corpus.build(tmp_path_factory.mktemp("mixture") / "corpus")


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., str]:
    """A function that writes a config with changes, as dotted keys, and returns its path."""

    def write(**changes: object) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(changed(TREE, {f"pretrain.{key}": value for key, value in changes.items()})))
        return str(path)

    return write


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A function that runs a mixture command and returns what it writes for programs."""

    def run(*arguments: str) -> dict[str, Any]:
        path = tmp_path / "found.json"
        done(*arguments, "--json", str(path))
        record: dict[str, Any] = json.loads(path.read_text())
        return record

    return run


def done(*arguments: str) -> str:
    """Run a mixture command that succeeds; return what it prints."""
    result = CliRunner().invoke(mixture, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def mistake(*arguments: str) -> str:
    """Run a mixture command that is misused; return the line that says so."""
    result = CliRunner().invoke(mixture, arguments)
    if isinstance(result.exception, UserError):
        return str(result.exception)
    assert result.exit_code == 2, result.exception
    return result.stderr.splitlines()[-1]


def failure(*arguments: str) -> str:
    """Run a mixture command that finds no answer; return the line that says so."""
    result = CliRunner().invoke(mixture, arguments)
    assert isinstance(result.exception, RunError), result.exception
    return str(result.exception)
