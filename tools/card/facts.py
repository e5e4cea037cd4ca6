"""Facts about a corpus: each a value with the file and the query that it came from.

They are read from what the stages wrote: manifest, settings, sidecars, drops and tokens. No tar is opened, and memory
does not grow with the number of samples. Equal files give equal facts.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import yaml

from pipelines import storage
from pipelines.command_line import printable
from pipelines.errors import UserError
from pipelines.layout import drops_folder, resolved_spec_path
from pipelines.parts import DROP_SCHEMA
from pipelines.shards.manifest import Manifest, ShardInfo, load_manifest
from pipelines.shards.token_sidecar import token_sidecar_path, tokens_folder
from tools.card import funnel, queries
from tools.output import progress
from tools.queries.tables import Tables

MAX_CHARS = 200
"""Length to which a text from the corpus is cut."""

SIDECARS = "<source>/<split>/*.parquet as samples"
_THREADS = 16  # sizes asked at once: on a store, each takes as long as an answer
_STALE = "tokens/*/tokens.json: those whose .fingerprint is not the manifest's"
DROPS = "drops/*.parquet as drops"


@dataclass(frozen=True, slots=True)
class Fact:
    """A value of JSON, and the file and query that it came from; None is unknown."""

    value: Any
    origin: str


class Facts(Mapping[str, Any]):
    """The facts of one corpus; as a mapping, the values by their names.

    Args:
        corpus: The corpus's folder.
        manifest: Its manifest.
        facts: The facts by name.
    """

    def __init__(self, corpus: str, manifest: Manifest, facts: Mapping[str, Fact]) -> None:
        self.corpus = corpus
        self.manifest = manifest
        self._facts = dict(facts)

    def __getitem__(self, name: str) -> Any:
        return self._facts[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def origin(self, name: str) -> str:
        """Return the file and query of a fact."""
        return self._facts[name].origin

    def with_facts(self, more: Mapping[str, Fact]) -> "Facts":
        """Return these facts and more."""
        return Facts(self.corpus, self.manifest, self._facts | dict(more))

    def to_record(self) -> dict[str, dict[str, Any]]:
        """Return the facts as `card.json` has them."""
        return {name: {"value": fact.value, "from": fact.origin} for name, fact in self._facts.items()}


def read_facts(corpus: str) -> Facts:
    """Read the facts of a finished corpus, built here or indexed; what its files do not say is None.

    Args:
        corpus: Its folder, local or an fsspec URL.

    Raises:
        UserError: If there is no manifest, or a file that it names is missing or damaged.
    """
    with Tables() as tables:
        return facts_from(tables, corpus)


def facts_from(tables: Tables, corpus: str) -> Facts:
    """Read the facts of a corpus; `samples` and, if there are any, `drops` then are tables that more can be asked.

    Raises:
        UserError: As `read_facts`.
    """
    manifest = load_manifest(corpus)
    found = _of_manifest(manifest) | _of_settings(corpus)
    tables.add_sidecars("samples", corpus, manifest.shards, queries.COLUMNS)
    with progress("reading sidecars", len(queries.SAMPLES) + len(queries.TABLES)) as done:
        for name, sql in queries.TABLES.items():
            tables.run(f"CREATE TABLE {name} AS {sql}")
            done(1)
        for name, query in queries.SAMPLES.items():
            found[name] = Fact(_value(tables, query), f"{SIDECARS}: {query.whole}")
            done(1)
    found |= _of_drops(tables, corpus) | _of_tokens(tables, corpus, manifest)
    return Facts(corpus, manifest, found | _of_damage(corpus, manifest, found["num_drops"].value))


def shown(value: Any) -> Any:
    """Return a value with texts made printable and cut: control and bidi characters show as escapes."""
    if isinstance(value, str):
        return printable(value if len(value) <= MAX_CHARS else value[: MAX_CHARS - 1] + "…")
    if isinstance(value, dict):
        return {name: shown(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shown(inner) for inner in value]
    return value


def _value(tables: Tables, query: queries.Query) -> Any:
    """Return the rows of a query; the one row itself, or its one value, where it always has only that."""
    rows = [shown(row) for row in tables.records(query.sql)]
    if query.shape == "rows":
        return rows
    (row,) = rows
    return row if query.shape == "row" else next(iter(row.values()))


def _of_manifest(manifest: Manifest) -> dict[str, Fact]:
    def fact(value: Any, query: str) -> Fact:
        return Fact(shown(value), f"manifest.json: {query}")

    totals = manifest.totals()
    inputs = [{"source": f.source, "file": f.file, "bytes": f.bytes, "sha256": f.sha256} for f in manifest.inputs]
    return {
        "name": fact(manifest.name, ".name"),
        "version": fact(manifest.version, ".version"),
        "fingerprint": fact(manifest.fingerprint, ".fingerprint"),
        "spec_sha256": fact(manifest.spec_sha256, ".spec_sha256"),
        "num_samples": fact(manifest.num_samples, "[.shards[].samples] | add"),
        "num_shards": fact(len(manifest.shards), ".shards | length"),
        "num_bytes": fact(sum(s.bytes for s in manifest.shards), "[.shards[].bytes] | add"),
        "num_sources": fact(len(manifest.sources), ".sources | length"),
        "contents": fact(
            [
                {"source": s.name, "kind": s.kind, "split": p}
                | {"shards": totals[s.name, p].shards, "samples": totals[s.name, p].samples}
                | {"bytes": totals[s.name, p].bytes}
                for s in manifest.sources
                for p in s.splits
            ],
            ".shards | group_by([.source, .split]) | map({source, kind, split, shards, samples, bytes}) of the sums",
        ),
        "software": fact(dict(manifest.tools), ".tools"),
        "code": fact(dict(manifest.code), ".code"),
        "inputs": fact(inputs[:100], ".inputs[:100]"),
        "num_inputs": fact(len(inputs), ".inputs | length"),
        "funnel": fact(funnel.funnel(manifest), ".funnel"),
        "stages": fact(
            funnel.stages(manifest), ".funnel | group_by([.stage, .unit]) | map({stage, unit, in, kept}) of the sums"
        ),
        "drops": fact(funnel.drops(manifest)[:100], ".funnel[] | .stage, .unit, .dropped, added up by reason"),
        "candidates": fact(
            funnel.candidates(manifest),
            '.funnel | map(select(.unit == "document" or .unit == "sample")) | group_by(.source)'
            " | map({source: .[0].source, candidates: .[0].in, samples: .[-1].kept})",
        ),
        "refusals": fact(funnel.refusals(manifest), f".funnel[] | .unit, .dropped | {_keys(funnel.SIGNAL_OF)}"),
        "duplicate_drops": fact(
            funnel.duplicate_drops(manifest), f".funnel[] | .unit, .dropped | {_keys(funnel.DUPLICATE_REASONS)}"
        ),
    }


def _keys(reasons: Iterable[str]) -> str:
    return ", ".join(f".{reason}" for reason in reasons)


def _of_settings(corpus: str) -> dict[str, Fact]:
    """Return the settings that say how the data was gathered; None for tars that others wrote."""
    path = resolved_spec_path(corpus)
    if not storage.exists(path):
        names = ("description", "policy", "inputs_of_sources", "crawls")
        return {name: Fact(None, "spec.resolved.yaml: there is none") for name in names}
    try:
        tree = yaml.safe_load(storage.read_bytes(path))
        policy = tree["policy"]
        inputs = [
            {"source": name, "kind": source["kind"], "format": source["input"]["format"], "crawl": _crawl(source)}
            for name, source in tree["sources"].items()
        ]
        crawls = [
            {"crawl": name, "seeds": len(crawl["seeds"]), "warc_files": len(crawl["warc_files"])}
            for name, crawl in tree["crawls"].items()
        ]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the settings of a corpus: {storage.error_line(error)}") from error
    return {
        "description": Fact(shown(tree.get("description") or None), "spec.resolved.yaml: .description"),
        "policy": Fact(shown(policy), "spec.resolved.yaml: .policy"),
        "inputs_of_sources": Fact(
            shown(inputs), "spec.resolved.yaml: .sources | map_values({kind, format: .input.format})"
        ),
        "crawls": Fact(shown(crawls), "spec.resolved.yaml: .crawls | map_values(.seeds, .warc_files | length)"),
    }


def _crawl(source: Mapping[str, Any]) -> str | None:
    crawl = source["input"].get("crawl")
    return ", ".join(crawl) if isinstance(crawl, list) else crawl


def _of_drops(tables: Tables, corpus: str) -> dict[str, Fact]:
    files = storage.list_files(drops_folder(corpus), ".parquet")
    if not files:
        return {name: Fact(None, "drops/*.parquet: there are none") for name in queries.DROPS}
    tables.add_files("drops", files, DROP_SCHEMA.names)
    with progress("reading drops"):
        return {name: Fact(_value(tables, q), f"{DROPS}: {q.whole}") for name, q in queries.DROPS.items()}


def _of_damage(corpus: str, manifest: Manifest, num_drops: int | None) -> dict[str, Fact]:
    """Return how many drops are listed nowhere, and how many tars are missing or have not the manifest's size."""

    def is_whole(shard: ShardInfo) -> bool:
        try:
            return storage.size(storage.join(corpus, shard.path)) == shard.bytes
        except FileNotFoundError:
            return False

    num_dropped = sum(num for row in manifest.funnel for num in row.dropped.values())
    with ThreadPoolExecutor(_THREADS) as pool:
        num_broken = sum(not whole for whole in pool.map(is_whole, manifest.shards))
    return {
        "num_unlisted_drops": Fact(
            max(0, num_dropped - (num_drops or 0)),
            "manifest.json: [.funnel[].dropped[]] | add, less num_drops",
        ),
        "num_broken_shards": Fact(num_broken, "manifest.json: .shards[].bytes, compared with the sizes of the tars"),
    }


def _of_tokens(tables: Tables, corpus: str, manifest: Manifest) -> dict[str, Fact]:
    """Return the text tokens by tokenizer and source; those of an earlier build are left out."""
    found, stale = [], []
    paths = storage.list_files(storage.join(corpus, "tokens"), "tokens.json")
    for number, path in enumerate(paths):
        name = path.split("/")[-2]
        if not _is_of(path, manifest):
            stale.append(name)
            continue
        files = [token_sidecar_path(tokens_folder(corpus, name), shard.path) for shard in manifest.shards]
        tables.add_shard_files(f"tokens_{number}", files, manifest.shards, ["num_tokens"])
        rows = tables.records(queries.TOKENS.sql.replace("FROM tokens", f"FROM tokens_{number}"))
        found += [{"tokenizer": shown(name), **row} for row in rows]
    files_of = "tokens/<tokenizer>/<source>/<split>/*.parquet as tokens"
    sums: dict[str, int] = {}
    for row in found:
        sums[row["tokenizer"]] = sums.get(row["tokenizer"], 0) + row["tokens"]
    if not found:
        none = Fact(None, "tokens/: there are none of this build")
        return {"tokens": none, "num_tokens": none, "stale_tokenizers": Fact(shown(stale), _STALE)}
    return {
        "tokens": Fact(found, f"{files_of}: {queries.TOKENS.sql}"),
        "num_tokens": Fact(sums, f"{files_of}: SELECT sum(num_tokens)::BIGINT AS tokens FROM tokens"),
        "stale_tokenizers": Fact(shown(stale), _STALE),
    }


def _is_of(path: str, manifest: Manifest) -> bool:
    try:
        return bool(yaml.safe_load(storage.read_bytes(path))["fingerprint"] == manifest.fingerprint)
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return False
