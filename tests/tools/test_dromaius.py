"""Tests that `dromaius` does the same as `python -m <package>`, and imports no more than that."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dromaius(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as the installed script does."""
    code = f"import sys; sys.argv[0] = 'dromaius'; {before}\nfrom tools.dromaius import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_script_that_is_installed_is_this_one():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"dromaius": "tools.dromaius:main"}


def test_help_names_every_package():
    done = dromaius("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("pipelines", "trainer", "tools"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("pipelines", "corpus", "--spec", "none.yaml", "--out", "none"),
        pytest.param(("pipelines", "tokenize", "--corpus", "none", "--train-bpe", "300"), marks=pytest.mark.nightly),
        pytest.param(("tools", "contact-sheet", "--corpus", "none", "--out", "sheet.gif"), marks=pytest.mark.nightly),
    ],
)
def test_a_mistake_gets_the_words_and_the_exit_code_of_the_package(arguments: tuple[str, ...]):
    package, *rest = arguments
    alone = subprocess.run([sys.executable, "-m", package, *rest], cwd=ROOT, capture_output=True, text=True)
    done = dromaius(*arguments)
    assert alone.stderr.startswith("error: ")
    assert (done.returncode, done.stdout, done.stderr) == (2, alone.stdout, alone.stderr)


@pytest.mark.slow
def test_options_of_the_runner_are_handed_on():
    spec = ("--spec", "corpus_specs/gimp_help.yaml", "--out", "build/no_such_run")
    done = dromaius("pipelines", "extract", *spec, "--set", "nonsense", "--", "--job_endpoint=x:1")
    assert (done.returncode, done.stderr) == (2, "error: --set nonsense: must have the form --set some.key=value\n")


@pytest.mark.parametrize("arguments", [(), ("nope",), ("pipelines", "corpus"), ("pipelines", "corpus", "--no-such")])
def test_misuse_is_shown_with_the_command_as_it_was_called(arguments: tuple[str, ...]):
    done = dromaius(*arguments)
    assert done.returncode == 2
    assert "Usage: dromaius" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "arguments"),
    [("torch", ("pipelines", "schema")), ("apache_beam", ("trainer", "--help")), ("torch", ("tools", "--help"))],
)
def test_a_package_needs_no_more_than_itself(missing: str, arguments: tuple[str, ...]):
    done = dromaius(*arguments, before=f"sys.modules[{missing!r}] = None")
    assert done.returncode == 0, done.stderr
