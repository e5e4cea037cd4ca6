"""What the project requires has upper bounds, by the rule that pyproject.toml states, and the locks lie within them."""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.sources import PACKAGES, ROOT, modules
from tests.test_import_directions import imports

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BY_MINOR = {"apache-beam", "deepspeed"}  # used beyond their public names
BEFORE = {"albumentations": "1.4.7"}  # a release that does what no user asked for


def requirements(*extras: str) -> Iterator[Requirement]:
    """Those of an installation with extras, and of what the extras take in."""
    for line in [*PROJECT["dependencies"], *(r for extra in extras for r in PROJECT["optional-dependencies"][extra])]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            yield from requirements(*sorted(requirement.extras))
        else:
            yield requirement


def locked(name: str) -> dict[str, set[Version]]:
    """The versions of each package in a lock: several where Pythons differ."""
    found: dict[str, set[Version]] = {}
    for line in (ROOT / "requirements" / f"{name}.lock").read_text().splitlines():
        if match := re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", line):
            found.setdefault(canonicalize_name(match[1]), set()).add(Version(match[2]))
    return found


DISTRIBUTIONS = packages_distributions()
LOCKS = {"dev": locked("dev"), "crawl": locked("crawl")}
ALL = [(lock, requirement) for lock in LOCKS for requirement in requirements(lock)]


@pytest.mark.parametrize(("lock", "requirement"), ALL, ids=lambda value: str(value))
def test_a_requirement_has_the_bound_of_the_rule_and_a_locked_version_within(lock: str, requirement: Requirement):
    name = canonicalize_name(requirement.name)
    versions = LOCKS[lock][name]
    assert all(requirement.specifier.contains(version) for version in versions)
    newest = max(versions)
    by_minor = newest.major == 0 or name in BY_MINOR
    bound = BEFORE.get(name, f"{newest.major}.{newest.minor + 1}" if by_minor else f"{newest.major + 1}")
    assert [s.version for s in requirement.specifier if s.operator == "<"] == [bound]
    assert any(s.operator == ">=" for s in requirement.specifier)


def test_an_extra_bounds_a_package_as_the_others_do():
    found: dict[str, set[str]] = {}
    for _, requirement in ALL:
        found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert {name: bounds for name, bounds in found.items() if len(bounds) > 1} == {}


def test_locks_agree_name_no_index_and_hold_hashes():
    for name, versions in LOCKS["crawl"].items():
        assert versions <= LOCKS["dev"][name]
    for name in LOCKS:
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        assert not re.search(r"https?://|--(?:extra-)?index-url|--find-links", text)
        assert len(re.findall(r"^\S+==", text, re.MULTILINE)) == len(
            re.findall(r"^\S+==.*\\\n +--hash", text, re.MULTILINE)
        )


WITHOUT = {  # imported where it is asked for, by those who have it
    "pipelines/images/text_match.py": {"open-clip-torch", "safetensors", "torch"},
    "pipelines/shards/energon_cookers.py": {"megatron-energon"},
    "pipelines/shards/readme.py": {"datasets"},
    "pipelines/shards/token_sidecar.py": {"sentencepiece"},
    "trainer/benchmarks/lmms_eval_model.py": {"lmms-eval"},
    "trainer/benchmarks/metrics/captions.py": {"pycocoevalcap"},
    "trainer/benchmarks/drawings.py": {"torch-fidelity"},
    "trainer/engine/fp8.py": {"torchao"},
    "trainer/engine/metrics.py": {"wandb"},
}
EXTRAS = {"model": ("train",), "trainer": ("train",), "pipelines": ("crawl",), "tools": ("dev",)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_is_required(path: Path):
    """Not left to what another requirement happens to bring along."""
    required = {canonicalize_name(r.name) for r in requirements(*EXTRAS[path.relative_to(ROOT).parts[0]])}
    required |= WITHOUT.get(str(path.relative_to(ROOT)), set())
    for name in {name.split(".")[0] for name in imports(path)} - {*PACKAGES, *sys.stdlib_module_names}:
        assert required & {canonicalize_name(found) for found in DISTRIBUTIONS.get(name, [name])}, name
