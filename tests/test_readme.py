"""The README says what is there: files, commands, code and specs in it are checked against the project."""

import re
import subprocess
import sys
from pathlib import Path

import click
import datasets
import pytest

from pipelines.__main__ import commands as pipelines_commands
from pipelines.spec import load_spec
from tests.pipelines.corpus_builder import build
from tools.__main__ import commands as tools_commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str = "") -> list[str]:
    """The fenced blocks of a language, in order."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for found, text in fenced if found == language]


def test_every_make_target_exists():
    named = set(re.findall(r"(?:^|[`·] ?)make ([a-z-]+)", README, re.MULTILINE))
    there = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named >= {"corpus", "test", "real-site", "help"}
    assert named <= there
    assert there <= named, "the README names every target"


@pytest.mark.parametrize(("package", "group"), [("pipelines", pipelines_commands), ("tools", tools_commands)])
def test_every_command_and_option_exists(package: str, group: click.Group):
    lines = re.findall(rf"python -m {package} ([a-z-]+)([^`|\n]*)`?(.*)", README)
    assert lines
    for name, options, _ in lines:
        assert name in group.commands
        known = {flag for parameter in group.commands[name].params for flag in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", options.partition(" -- ")[0])) <= known
    everything = re.search(rf"\| `python -m {package} .*", README, re.DOTALL)[0]
    assert all(f"`{name}`" in everything or f" {name}" in everything for name in group.commands), "every command named"


def test_stages_take_the_options_that_the_readme_says():
    with_retry = {n for n, c in pipelines_commands.commands.items() if any("--retry" in p.opts for p in c.params)}
    assert with_retry == {"corpus", "crawl", "fetch"}
    assert "`corpus`, `crawl` and `fetch` take `--retry transient`" in README


def test_links_to_files_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    paths = re.findall(r"`((?:pipelines|tests|corpus_specs|tools|model|trainer)/[\w./]+)`", README)
    missing = [path for path in links + paths if not (ROOT / path).exists() and path != "corpus_specs/x.yaml"]
    assert links
    assert not missing


@pytest.mark.parametrize("number", range(len(blocks("yaml"))))
def test_specs_in_the_readme_load(number: int, tmp_path: Path):
    (tmp_path / "spec.yaml").write_text(blocks("yaml")[number])
    load_spec(tmp_path / "spec.yaml")


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")  # torch's
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_code_in_the_readme_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build(str(tmp_path / "build/corpus/demo"), ("pair",))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    exec(compile(blocks("python")[number], "README.md", "exec"), {})


def test_formats_in_the_readme_are_those_there_are():
    from pipelines.sources import FORMATS

    rows = re.findall(r"^\| (`[a-z0-9_`, ]+) \| .* \| ([a-z, ]+) \|$", README, re.MULTILINE)
    said = {name: kinds.split(", ") for names, kinds in rows for name in re.findall(r"`(\w+)`", names)}
    said = {name: kinds for name, kinds in said.items() if name in FORMATS}
    assert set(said) == set(FORMATS)
    for name, kinds in said.items():
        assert set(FORMATS[name].kinds) == set(kinds) or (kinds == ["any"] and len(FORMATS[name].kinds) > 2)


def test_the_mistake_in_the_readme_is_answered_as_it_says(tmp_path: Path):
    setting = "sources.text.filters.text.min_wrods=3"
    command = [sys.executable, "-m", "pipelines", "corpus", "--spec", "corpus_specs/demo.yaml", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--set", setting], cwd=ROOT, capture_output=True, text=True)
    said = re.search(r"error: corpus_specs/x.yaml:\d+: ([^`]*)`", README)[1]
    assert done.returncode == 2
    assert done.stderr.strip().endswith(said)
