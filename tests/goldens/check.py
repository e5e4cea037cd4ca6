"""Check that each stage gives the results in `goldens.json` for its version, and write that file anew."""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.goldens import of_crawl, of_extract, of_fetch, of_filter, of_shard, of_tokenize, of_windows
from tests.goldens.contents import digest

FILE = Path(__file__).with_name("goldens.json")
MAKERS = {
    maker.__name__.rpartition("of_")[2]: maker.goldens
    for maker in (of_crawl, of_extract, of_fetch, of_filter, of_shard, of_tokenize, of_windows)
}
VERSIONS = {
    "crawl": ("pipelines.crawl_inputs", "VERSION"),
    "extract": ("pipelines.extract_inputs", "VERSION"),
    "fetch": ("pipelines.fetch_inputs", "VERSION"),
    "features": ("pipelines.images.normalise", "FEATURES_VERSION"),
    "filter": ("pipelines.filter_inputs", "VERSION"),
    "shard": ("pipelines.shard_inputs", "VERSION"),
    "manifest": ("pipelines.shard_inputs", "MANIFEST_VERSION"),
    "tokenize": ("pipelines.shards.token_sidecar", "VERSION"),
    "windows": ("trainer.reading.window_tables", "VERSION"),
}
"""Module and constant with the version of each stage."""


class Entry(NamedTuple):
    """A stage's version, the digest of its input, and those of its results."""

    version: int
    inputs: str
    outputs: dict[str, str]


class Fault(NamedTuple):
    """A difference of a stage from `goldens.json`, and whether `make goldens` may write the new results."""

    text: str
    is_stale: bool


def made(maker: str, folder: Path) -> dict[str, Entry]:
    """Run stages on their fixed inputs.

    Args:
        maker: One of `MAKERS`.
        folder: An empty folder.
    """
    return {
        stage: Entry(
            version_of(stage), digest(golden.inputs), {name: digest(v) for name, v in sorted(golden.outputs.items())}
        )
        for stage, golden in MAKERS[maker](folder).items()
    }


def version_of(stage: str) -> int:
    """Return the version of a stage in the code."""
    module, name = VERSIONS[stage]
    version: int = getattr(importlib.import_module(module), name)
    return version


def committed() -> dict[str, Entry]:
    """Return the entry of each stage in `goldens.json`."""
    return {stage: Entry(**entry) for stage, entry in json.loads(FILE.read_text()).items()} if FILE.exists() else {}


def find_fault(stage: str, old: Entry | None, new: Entry) -> Fault | None:
    """Compare a stage's results with the earlier ones.

    Args:
        stage: Name of the stage.
        old: Its entry in `goldens.json`; None if there is none.
        new: Its entry now.
    """
    module, name = VERSIONS[stage]
    file = f"{module.replace('.', '/')}.py"
    if old == new:
        return None
    if old is None:
        return Fault(f"{stage}: not in {FILE.name}. Run `make goldens`", True)
    if new.version < old.version:
        return Fault(f"{stage}: {name} in {file} is {new.version} and was {old.version}: versions only rise", False)
    if (old.version, old.inputs) == (new.version, new.inputs):
        names = sorted(n for n in old.outputs.keys() | new.outputs.keys() if old.outputs.get(n) != new.outputs.get(n))
        return Fault(
            f"{stage}: gives other results under the same version: {', '.join(names)}. If the change is meant, raise"
            f" {name} in {file} and run `make goldens`; if not, it is a bug",
            False,
        )
    what = f"{name} in {file} was raised" if old.version != new.version else "the golden's own inputs are others"
    return Fault(f"{stage}: {what}, but {FILE.name} was not written anew. Run `make goldens`", True)


def write(entries: dict[str, Entry]) -> None:
    """Write `goldens.json`."""
    record: dict[str, Any] = {stage: entries[stage]._asdict() for stage in VERSIONS}
    FILE.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Write `goldens.json` anew, unless a stage gives other results under its old version.

    If only the comparison has changed, not the stage itself, delete its entry first.
    """
    entries: dict[str, Entry] = {}
    for maker in MAKERS:
        with tempfile.TemporaryDirectory() as folder:
            entries |= made(maker, Path(folder))
    old = committed()
    faults = {stage: fault for stage, new in entries.items() if (fault := find_fault(stage, old.get(stage), new))}
    refused = [fault.text for fault in faults.values() if not fault.is_stale]
    for text in refused:
        print(f"error: {text}", file=sys.stderr)
    if refused:
        sys.exit(1)
    write(entries)
    print(f"{FILE}: {', '.join(faults) or 'nothing'} written anew")
