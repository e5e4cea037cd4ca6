"""Shared fixtures of the tests of cards: a small corpus, and one in which every text tries to become markup."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from pipelines.document import Drop, Score, Signal
from pipelines.funnel import FunnelRow
from pipelines.shards.drops import write_drops
from pipelines.shards.manifest import load_manifest, write_manifest
from pipelines.shards.readme import corpus_readme
from pipelines.shards.writer import SampleParts, finish_document
from pipelines.spec import CorpusSpec
from tests.pipelines import corpus_builder
from tests.pipelines.corpus_builder import sample
from tools.__main__ import commands
from tools.card.answers import Answers
from tools.card.eu_summary import crawled_domains
from tools.card.facts import Facts, facts_from, read_facts
from tools.queries.tables import Tables

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "</style><svg onload=alert(3)>",
    "[click](javascript:alert(4)) ![x](http://evil.example/p.png) `code` **bold** | cell",
    "left\u202eright\u2066\x1b[2J\u200e",
    "http://evil.example/ www.evil.example <http://evil.example>",
)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus of five sources with settings, a funnel of two crawls' worth, and drops."""
    folder = str(tmp_path_factory.mktemp("card") / "corpus")
    corpus_builder.build(folder)
    finish(folder)
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus whose captions, licences, names of data sets, scores, signals and domains are `HOSTILE`."""
    folder = str(tmp_path_factory.mktemp("hostile") / "corpus")
    shards = [
        corpus_builder.write_shard(folder, kind, "train", 0, [_hostile(sample(kind, n), n) for n in range(7)])
        for kind in ("pair", "grounded", "video", "text", "interleaved")
    ]
    manifest = replace(
        load_manifest_of(folder, shards),
        name=HOSTILE[0],
        version="1.0.0",
        tools={HOSTILE[0]: HOSTILE[1]},
    )
    write_manifest(folder, manifest)
    for shard in shards:
        path = Path(folder, shard.sidecar)
        table = pq.read_table(path)
        domains = [*HOSTILE, "d" * 100_000][: len(table)]
        place = table.schema.get_field_index("domain")
        pq.write_table(table.set_column(place, "domain", pa.array(domains)), path, store_schema=False)
    return folder


@pytest.fixture(scope="session")
def facts(corpus: str) -> Facts:
    """The facts of `corpus`, with those about its domain names."""
    with Tables() as tables:
        found = facts_from(tables, corpus)
        return found.with_facts(crawled_domains(tables, found)[1])


@pytest.fixture(scope="session")
def hostile_facts(hostile: str) -> Facts:
    """The facts of `hostile`."""
    return read_facts(hostile)


def load_manifest_of(folder: str, shards: list[Any]) -> Any:
    """Return a manifest of shards, which is written."""
    from pipelines.shards.manifest import Manifest

    funnel = [FunnelRow(s.source, "shard", "sample", s.samples, s.samples, {}) for s in shards]
    spec_sha256 = finish(folder, manifest=False)
    return Manifest("x", "1.0.0", spec_sha256, tuple(shards), tuple(funnel), {}, tuple(s.source for s in shards))


def _hostile(item: SampleParts, number: int) -> SampleParts:
    """Return a sample with hostile texts wherever a record has texts."""
    text = HOSTILE[number % len(HOSTILE)]
    document = item.document
    segments = tuple(s if s.text is None else replace(s, text=f"{text} {s.text}") for s in document.segments)
    changed = replace(
        document,
        segments=segments,
        media=tuple(replace(m, license=text, url=None) for m in document.media),
        source=replace(document.source, dataset=text, license=text, page_url=None),
        signals=(Signal(text, "page", text, text, text),),
        scores=(Score(text, "document", 0.5, text),),
        decision=replace(document.decision, policy=text),
        lang=text,
        extras={},
    )
    blobs = [blob for part, blob in item.parts if part not in ("json", "txt")]
    return finish_document(changed, blobs)


def finish(folder: str, *, manifest: bool = True) -> str:
    """Add settings and drops to a corpus, and what a build says in its manifest; return the hash of the settings."""
    kinds = ("interleaved", "pair", "grounded", "video", "text")
    tree = {
        "name": "tiny",
        "version": "1.2.3",
        "description": "Docks and boats.",
        "policy": {"user_agent": "Dromaius (+https://example.org/us)"},
        "crawls": {"sites": {"seeds": ["https://example.org/"]}},
        "sources": {f"{kind}s": {"kind": kind, "input": {"crawl": "sites"}} for kind in kinds},
    }
    spec = CorpusSpec.model_validate(tree)
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "spec.resolved.yaml").write_text(spec.resolved())
    if manifest:
        found = load_manifest(folder)
        funnel = [FunnelRow("sites", "crawl", "page", 60, 50, {"noai": 4, "http_404": 6})]
        for row in found.funnel:
            dropped = {"too_few_words": 2, "near_duplicate_image": 1}
            funnel += [FunnelRow(row.source, "extract", "document", row.in_ + 3, row.in_, dropped), row]
        changed = replace(found, version="1.2.3", spec_sha256=spec.sha256, funnel=tuple(funnel))
        write_manifest(folder, changed)
        Path(folder, "README.md").write_text(corpus_readme(folder, changed))
        write_drops(folder, "sites", [Drop(source="sites", stage="crawl", reason="noai", unit="page")] * 4)
    return spec.sha256


def write_answers(path: Path) -> None:
    """Write a file in which all questions are answered."""
    given = {name: f"The answer about {name}." for name in Answers.model_fields}
    given |= {"license": "CC-BY-4.0", "url": "https://example.org/corpus", "published": "2026-11-28"}
    path.write_text(yaml.safe_dump(given))


@pytest.fixture
def card() -> Callable[..., tuple[int, str]]:
    """A function that runs the command and returns its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(commands, ["card", *arguments], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done.return_value, done.stdout

    return run


def card_json(corpus: str) -> dict[str, Any]:
    """Return the content of a corpus's `card.json`."""
    record: dict[str, Any] = json.loads(Path(corpus, "card.json").read_text())
    return record
