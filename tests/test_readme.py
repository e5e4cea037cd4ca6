"""Tests that README and docs are right: files, commands, code, specs and messages are checked against the project."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import click
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import pipelines
from model.__main__ import commands as model_commands
from model.config import SIZES, EmuConfig, merged
from pipelines.__main__ import commands as pipelines_commands
from pipelines.document import Drop
from pipelines.settings import set_override
from pipelines.shards.drops import write_drops
from pipelines.spec import CorpusSpec, load_spec
from tests.pipelines.corpus_builder import build
from tools.__main__ import commands as tools_commands
from tools.card.answers import Answers
from tools.card.card import write_card
from tools.dromaius import commands as dromaius_commands
from trainer.__main__ import commands as trainer_commands
from trainer.config import TrainConfig
from trainer.reading.consumed import SCHEMA as CONSUMED

ROOT = Path(__file__).parent.parent
COMMUNITY = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *COMMUNITY]
README = (ROOT / "README.md").read_text()
EVERYTHING = "\n".join(page.read_text() for page in PAGES)
GROUPS = {
    "pipelines": pipelines_commands,
    "trainer": trainer_commands,
    "model": model_commands,
    "tools": tools_commands,
}
CONFIG_SECTIONS = set(TrainConfig.model_fields)
OF_IMPORT = {"encoder.heads=8"}  # settings of a model, for `model import`
EXAMPLES = {"corpus_specs/x.yaml", "corpus_specs/my_site.yaml"}


def blocks(language: str) -> list[Any]:
    """Return the fenced blocks of a language on all pages, each named by its page and its number there."""
    found = []
    for page in PAGES:
        fenced = re.findall(r"^```(\S*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        texts = [text for name, text in fenced if name == language]
        found += [pytest.param(text, id=f"{page.name}-{number}") for number, text in enumerate(texts)]
    return found


def generator() -> types.ModuleType:
    """Load the module that generates parts of the pages from the code."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "_generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the README -----------------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.encode()) <= 9000


def test_the_readme_has_what_a_newcomer_looks_for():
    for needed in (
        "make pretrain",
        "make test",
        "Prerequisites",
        "Read these first",
        "Not run",
        "corpus_specs",
        "docs/",
    ):
        assert needed in README


# --- targets and commands -------------------------------------------------------------------------------------------


def test_every_make_target_exists():
    named = set(re.findall(r"(?:^|[`·] ?)make ([a-z-]+)", EVERYTHING, re.MULTILINE))
    there = generator().targets()
    assert named >= {"corpus", "pretrain", "test", "real-site", "docs"}
    assert named <= there.keys()


def test_make_help_and_the_docs_name_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in shown.splitlines()} == phony
    page = generator().filled_in("<!-- generated: make_targets -->")
    assert all(f"`make {name}`" in page for name in phony)
    assert "<!-- generated: make_targets -->" in (ROOT / "docs" / "commands.md").read_text()


def commands_of(group: click.Group) -> dict[str, click.Command | None]:
    context = click.Context(group)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}


@pytest.mark.parametrize("package", GROUPS)
def test_every_command_and_option_exists(package: str):
    commands = commands_of(GROUPS[package])
    lines = re.findall(rf"(?:python -m|dromaius) {package} ([a-z-]+)((?:[^`|\n]|\\\n)*)", EVERYTHING)
    assert lines
    for name, options in lines:
        assert name in commands
        command = commands[name]
        while isinstance(command, click.Group) and options.strip():
            name, *options = options.split(maxsplit=1)
            options = "".join(options)
            assert name in command.commands
            command = command.commands[name]
        known = {flag for parameter in command.params for flag in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", options.partition(" -- ")[0])) <= known
    page = (ROOT / "docs" / "commands.md").read_text()
    assert f".. click:: {package}.__main__:commands\n   :prog: python -m {package}\n   :nested: full" in page
    everything = page[page.index(f"## Commands of {package}") :].partition("```{eval-rst}")[0]
    assert all(re.search(rf"`{name}`| {package} {name}\b", everything) for name in commands), "every command named"


def test_every_package_is_a_command_of_dromaius():
    assert set(dromaius_commands.commands) == set(GROUPS)
    for package, group in GROUPS.items():
        assert isinstance(group, click.Group), package


def test_stages_take_the_options_that_the_docs_say():
    with_retry = {n for n, c in pipelines_commands.commands.items() if any("--retry" in p.opts for p in c.params)}
    assert with_retry == {"corpus", "crawl", "fetch"}
    assert "`corpus`, `crawl`\nand `fetch` take `--retry transient`" in (ROOT / "docs" / "commands.md").read_text()


def test_settings_on_a_command_line_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "weights.yaml").write_text("mixture: {phases: [{weights: {pairs: 1.0}}]}\n")
    monkeypatch.chdir(tmp_path)
    spec, config = yaml.safe_load((ROOT / "corpus_specs" / "demo.yaml").read_text()), {}
    for name in ("debug", "demo"):
        config = merged(config, yaml.safe_load((ROOT / "trainer" / "configs" / f"{name}.yaml").read_text()))
    spec["sources"]["articles"] = spec["sources"]["webpages"]
    overrides = set(re.findall(r"--set ([a-z][\w.]+=[^\s`]+)", EVERYTHING)) - {"a.b=c"}
    assert overrides
    assert overrides >= OF_IMPORT
    for override in OF_IMPORT:
        size = SIZES["debug"].model_dump()
        set_override(size, override)
        EmuConfig.model_validate(size)
    for override in overrides - OF_IMPORT:
        is_config = override.partition(".")[0] in CONFIG_SECTIONS
        tree, model = (config, TrainConfig) if is_config else (spec, CorpusSpec)
        changed = merged({}, tree)
        set_override(changed, override)
        model.model_validate(changed)


def test_the_workflow_calls_targets_that_exist():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert {run.split()[1] for run in runs if run.startswith("make ")} <= generator().targets().keys()
    assert all(run.startswith("make ") for run in runs), "what CI does, a person can do"
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    tested = [
        f"Programming Language :: Python :: {v}" for v in workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    ]
    assert tested == [name for name in classifiers if re.search(r":: 3\.\d+$", name)]


def test_all_say_the_same_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert pipelines.__version__ == citation["version"] == released[0] == version


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda f: f.stem)
def test_forms_have_what_a_form_needs(form: Path):
    tree = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= tree.keys()
    asked = [item["id"] for item in tree["body"] if item["type"] != "markdown"]
    assert len(asked) == len(set(asked)) > 0


# --- links, specs, code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    targets = [a or b for a, b in links if not (a or b).startswith(("http", "mailto:"))]
    for target in targets:
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", generator().filled_in(file.read_text()), re.MULTILINE)
            assert anchor in {generator().anchor(heading) for heading in headings}, target


def test_paths_that_are_named_exist():
    named = set(
        re.findall(r"`((?:pipelines|tests|corpus_specs|tools|model|trainer|docs|requirements)/[\w./*]*)`", EVERYTHING)
    )
    missing = [path for path in named - EXAMPLES if not list(ROOT.glob(path.rstrip("/")))]
    assert len(named) > 30
    assert not missing


def minimal_spec(snippet: dict[str, Any]) -> dict[str, Any]:
    """Complete a part of a spec to a valid spec."""
    return {"name": "x", "version": "1.0.0", **snippet}


@pytest.mark.parametrize("text", blocks("yaml"))
def test_specs_and_configs_load(text: str, tmp_path: Path):
    tree = yaml.safe_load(text)
    if tree.keys() <= Answers.model_fields.keys():
        Answers.model_validate(tree)
        return
    if tree.keys() <= CONFIG_SECTIONS:
        base = yaml.safe_load((ROOT / "trainer" / "configs" / "demo.yaml").read_text())
        TrainConfig.model_validate(merged(base, tree))
        return
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(minimal_spec(tree)))
    load_spec(tmp_path / "spec.yaml")


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")  # torch's
@pytest.mark.parametrize("text", [block for block in blocks("python") if not str(block.id).startswith("using.md")])
def test_code_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    corpus, consumed = tmp_path / "build/corpus/demo", tmp_path / "build/runs/demo/consumed"
    build(str(corpus), ("pair",))
    write_drops(str(corpus), "pairs", [Drop(source="pairs", stage="extract", reason="too_few_words", unit="document")])
    consumed.mkdir(parents=True)
    row = {name: 100 if name == "step" else None for name in CONSUMED.names} | {"key": "p0"}
    pq.write_table(pa.Table.from_pylist([row], schema=CONSUMED), consumed / "step-00000000.parquet")
    if "card.json" in text:
        write_card(str(corpus))
        capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    exec(compile(text, "a page", "exec"), {})
    assert ("print(" in text) == bool(capsys.readouterr().out), "what is printed is there"


# --- what the code says ---------------------------------------------------------------------------------------------


def test_formats_are_those_there_are():
    from pipelines.sources import FORMATS

    rows = re.findall(r"^\| (`[a-z0-9_`, ]+) \| .* \| ([a-z, ]+) \|$", EVERYTHING, re.MULTILINE)
    said = {name: kinds.split(", ") for names, kinds in rows for name in re.findall(r"`(\w+)`", names)}
    said = {name: kinds for name, kinds in said.items() if name in FORMATS}
    assert set(said) == set(FORMATS)
    for name, kinds in said.items():
        assert set(FORMATS[name].kinds) == set(kinds) or (kinds == ["any"] and len(FORMATS[name].kinds) > 2)


def test_layouts_of_weights_are_those_there_are():
    from typing import get_args

    from model.config import LayoutName

    page = (ROOT / "docs" / "weights.md").read_text()
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \| ", page, re.MULTILINE)) == set(get_args(LayoutName))


@pytest.mark.slow
def test_the_mistake_in_a_spec_is_answered_as_the_docs_say(tmp_path: Path):
    setting = "sources.text.filters.text.min_wrods=3"
    command = [sys.executable, "-m", "pipelines", "corpus", "--spec", "corpus_specs/demo.yaml", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--set", setting], cwd=ROOT, capture_output=True, text=True)
    said = re.search(r"error: corpus_specs/x.yaml:\d+: ([^`\n]*)", EVERYTHING)[1]
    assert done.returncode == 2
    assert done.stderr.strip().endswith(said)


def messages() -> list[str]:
    """Return every text in the code and the launch scripts, with `…` for inserted values."""
    found = []
    for package in ("pipelines", "trainer", "model", "tools"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    scripts = (path.read_text() for path in sorted((ROOT / "trainer" / "launch").glob("*.sh")))
    return found + [re.sub(r"\$\w+|\$\{\w+\}", "…", text) for text in scripts]


@pytest.mark.slow
def test_messages_in_the_troubleshooting_page_are_the_codes():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = [cell for cell in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) if " " in cell]
    known = messages()
    assert len(quoted) > 30
    assert [text for text in quoted if not any(text.rstrip("…") in message for message in known)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_takes_from_the_code_is_there(page: Path):
    assert "<!-- generated:" not in generator().filled_in(page.read_text())


def test_every_setting_is_in_the_generated_reference():
    text = generator().settings("trainer.config:TrainConfig", "pretrain") + generator().settings(
        "pipelines.spec:CorpusSpec"
    )
    for key in ("global_batch_size", "max_epochs", "user_agent", "min_side"):
        assert f"| `{key}` |" in text
    assert "### `pretrain.mixture.phases.<n>`" in text
    assert "### `sources.<name>.input` with `format: url_table`" in text


def test_the_package_tree_has_every_module():
    text = generator().packages()
    for package in ("pipelines", "trainer", "model", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            assert f"`{path.name}`" in text or path.name == "__init__.py", path
