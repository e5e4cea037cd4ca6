"""What a run trained on: the samples of a step, or every step that consumed a key, a URL or a domain."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.command_line import printable
from pipelines.errors import RunError, UserError
from pipelines.shards.manifest import Manifest, load_manifest
from pipelines.shards.sidecar import read_sidecar
from tools.output import Section, print_sections, progress, write_json
from tools.queries.sorted_copy import CopySettings, SortedCopy, copy_folder
from tools.queries.tables import Tables, check_parquet

SCHEMA = "dromaius-trace/1"
MAX_SHOWN = 50

_NAME = pa.dictionary(pa.int32(), pa.string())
_ROW = pa.schema(
    [
        ("key", pa.string()),
        ("step", pa.int64()),
        ("position", pa.int64()),
        ("window", pa.int32()),
        ("epoch", pa.int32()),
        ("num_tokens", pa.int32()),
        ("num_images", pa.int32()),
        ("source", _NAME),
        ("shard", _NAME),
    ]
)
_NAMES = ", ".join(f'"{name}"' for name in _ROW.names)
BY_KEY = CopySettings(tuple(_ROW.names), f"SELECT {_NAMES} FROM files", _ROW)
"""The rows of `consumed` by key."""

# A host counts for each domain that it lies in: a.b.example.org for b.example.org and example.org too.
_TERMS = r"""
WITH urls AS (
    SELECT key, domain, [page_url, canonical_url] || list_transform(media, lambda m: m.url) AS urls FROM files
), hosts AS (
    SELECT key, domain, urls, list_distinct(list_transform(urls, lambda u:
        lower(regexp_extract(u, '^[A-Za-z]+://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)', 1)))) AS hosts FROM urls
), domains AS (
    SELECT key, urls, domain, flatten(list_transform(hosts, lambda h:
        CASE WHEN h IS NULL OR h = '' THEN []
             WHEN NOT contains(h, '.') OR regexp_matches(h, '^[0-9.]+$|^\[') THEN [h]
             ELSE list_transform(range(1, len(string_split(h, '.'))), lambda i:
                 array_to_string(string_split(h, '.')[i:], '.')) END)) AS domains FROM hosts
), terms AS (
    SELECT key, unnest(list_distinct(urls || [domain] || domains)) AS term FROM domains
)
SELECT term, key FROM terms WHERE term IS NOT NULL
"""
BY_TERM = CopySettings(
    ("key", "page_url", "canonical_url", "domain", "media"),
    _TERMS,
    pa.schema([("term", pa.large_string()), ("key", pa.large_string())]),  # a segment's may take more than 2 GiB
)
"""The keys of a corpus by URL of a page or image, and by domain."""

_DETAILS = ("key", "page_url", "canonical_url", "license", "policy", "allowed", "reasons", "signals", "media")
_FILE_NAME = re.compile(r"(\d{10,})-(\d{10,})\.parquet")
_SKIPPED = re.compile(r"step-(\d+)\.json")
_PARTS = ("encoder", "autoencoder", "decoder", "video_decoder", "tune")
_KEYS_AT_ONCE = 1_000_000
_SIDECARS_AT_ONCE = 256
_SHARDS_CHECKED = 20  # of which some samples may be gone


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for; one of these is given."""

    step: int | None = None
    key: str | None = None
    url: str | None = None
    domain: str | None = None

    @property
    def asked(self) -> dict[str, int | str]:
        """Return what is given, by name."""
        found = {"step": self.step, "key": self.key, "url": self.url, "domain": self.domain}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def words(self) -> str:
        """Return what is looked for, in words."""
        ((name, value),) = self.asked.items()
        return f"{name} {printable(str(value)[:200])}"


def trace(corpus: str, run: str, question: Question, json_path: str | None = None) -> None:
    """Print what a run consumed of what is looked for, and write all of it as JSON.

    Args:
        corpus: Folder of the corpus that it was trained on.
        run: Folder of the run, which may be going on.
        question: What to look for.
        json_path: File to write, or None.

    Raises:
        UserError: If a folder is not what it should be, or the run is of another corpus.
        RunError: If nothing was found.
    """
    if empty := next((name for name, value in question.asked.items() if not str(value).strip(" .")), None):
        raise UserError(f"--{empty}: empty")
    manifest = load_manifest(corpus)
    files = consumed_files(run)
    check_corpus(corpus, manifest, run, files)
    with Tables() as tables:
        columns = ", ".join(
            f'"{field.name}" {"BIGINT" if pa.types.is_integer(field.type) else "VARCHAR"}' for field in _ROW
        )
        tables.run(f"CREATE TABLE matched ({columns})")
        if question.step is not None:
            why = _match_step(tables, run, files, question.step)
        else:
            why = _match_samples(tables, corpus, manifest, run, files, question)
        found = next(
            tables.records(
                "SELECT count(*) AS windows, count(DISTINCT key) AS samples, count(DISTINCT step) AS steps,"
                " min(step) AS first_step, max(step) AS last_step, sum(num_tokens)::BIGINT AS tokens FROM matched"
            )
        )
        skipped = skipped_steps(run)
        with progress("reading sidecars"):
            head = list(_rows(tables, corpus, manifest, question, skipped, MAX_SHOWN))
            if json_path:
                record = {"query": question.asked, "corpus": manifest.fingerprint, "run": run, "found": found}
                rows = _rows(tables, corpus, manifest, question, skipped, None)
                write_json(json_path, {"schema": SCHEMA, **record, "rows": rows})
    if why is not None:
        raise RunError(why)
    print_sections(_sections(question, found, head))


def consumed_files(run: str) -> dict[str, list[Any]]:
    """Return the files of a run's record in the order of steps, and their stamps.

    Raises:
        UserError: If there are none.
    """
    folder = storage.join(run, "consumed")
    if files := storage.list_stamps(folder, ".parquet"):
        return files
    if not storage.exists(run):
        raise UserError(f"{run}: no such run. `python -m trainer pretrain --out {run}` makes one")
    parts = [part for part in _PARTS if storage.exists(storage.join(run, part, "consumed"))]
    others = f"; there are runs of its parts: {', '.join(storage.join(run, part) for part in parts)}" if parts else ""
    raise UserError(f"{folder}: no record of samples: the run has no checkpoint yet, or this is no run{others}")


def skipped_steps(run: str) -> set[int]:
    """Return the steps that did not change the weights, though their samples were read: for a loss that is a spike."""
    names = (path.rpartition("/")[2] for path in storage.list_files(storage.join(run, "skipped"), ".json"))
    return {int(match[1]) for name in names if (match := _SKIPPED.fullmatch(name))}


def check_corpus(corpus: str, manifest: Manifest, run: str, files: Mapping[str, Sequence[Any]]) -> None:
    """Check by rows at the beginning and the end of a record that a run was trained on a corpus.

    Some of them may since have been taken out of it.

    Raises:
        UserError: If none of them is in the corpus.
    """
    shards = {shard.path: shard for shard in manifest.shards}
    began = None
    for path in dict.fromkeys((next(iter(files)), list(files)[-1])):
        check_parquet(path, BY_KEY.columns)
        with storage.open_read(path) as file:
            batch = next(pq.ParquetFile(file).iter_batches(1000, columns=["shard", "key"]), None)
        keys: dict[str, set[str]] = {}
        for row in batch.to_pylist() if batch is not None else ():
            began = began or f"{row['key']} of {row['shard']}"
            keys.setdefault(row["shard"], set()).add(row["key"])
        for shard in [name for name in keys if name in shards][:_SHARDS_CHECKED]:
            sidecar = storage.join(corpus, shards[shard].sidecar)
            check_parquet(sidecar, ["key"])
            if any(row["key"] in keys[shard] for row in read_sidecar(sidecar, ["key"])):
                return
    if began is not None:
        raise UserError(
            f"{run}: a run of another corpus: it began with sample {began}, which {corpus} does not have. Name the "
            "corpus that it was trained on"
        )


# --- finding --------------------------------------------------------------------------------------------------------


def _match_step(tables: Tables, run: str, files: Mapping[str, Sequence[Any]], step: int) -> str | None:
    """Fill `matched` with the rows of a step; return why there are none."""
    ranges = {path: _steps(path) for path in files}
    holding = [path for path, (first, last) in ranges.items() if first <= step <= last]
    if holding:
        tables.add_files("consumed", holding, BY_KEY.columns)
        tables.run(f"INSERT INTO matched SELECT {_NAMES} FROM consumed WHERE step = ?", step)
    if tables.value("SELECT count(*) FROM matched"):
        return None
    first, last = min(first for first, _ in ranges.values()), max(last for _, last in ranges.values())
    if first <= step <= last:
        raise UserError(f"{run}/consumed: lacks the file with step {step}, though it has later ones: copied in part?")
    return f"{run}: no step {step}: its record has steps {first} to {last}; it grows with each checkpoint"


def _steps(path: str) -> tuple[int, int]:
    """Return the first and the last step in a file, by its name or else by its statistics."""
    if match := _FILE_NAME.fullmatch(path.rpartition("/")[2]):
        return int(match[1]), int(match[2])
    with storage.open_read(path) as file:
        steps = pq.ParquetFile(file).read(columns=["step"]).column("step")
    found = pc.min_max(steps).as_py()
    return found["min"], found["max"]


def _match_samples(
    tables: Tables,
    corpus: str,
    manifest: Manifest,
    run: str,
    files: Mapping[str, Sequence[Any]],
    question: Question,
) -> str | None:
    """Fill `matched` with the rows of samples; return why there are none."""
    by_key = SortedCopy(copy_folder(run, "lookup"), BY_KEY, files, run)
    num_keys = 0
    for keys in [{question.key}] if question.key is not None else _keys(corpus, manifest, question):
        num_keys += len(keys)
        for rows in by_key.find(keys):
            tables.insert("matched", rows)
    if tables.value("SELECT count(*) FROM matched"):
        return None
    if question.key is not None:
        return f"{run}: no step consumed {question.words}"
    if num_keys == 0:
        return f"{corpus}: no sample has {question.words}"
    return f"{run}: no step consumed {question.words}, of which the corpus has {num_keys:,} samples"


def _keys(corpus: str, manifest: Manifest, question: Question) -> Iterator[set[str]]:
    """Yield the keys of the samples with a URL, or in a domain, in sets of bounded size."""
    files = sidecar_stamps(corpus, manifest)
    keys: set[str] = set()
    by_term = SortedCopy(copy_folder(corpus, "work", "lookup", "terms"), BY_TERM, files, corpus)
    for rows in by_term.find(spellings(question)):
        keys |= set(rows.column("key").to_pylist())
        if len(keys) >= _KEYS_AT_ONCE:
            yield keys
            keys = set()
    if keys:
        yield keys


def sidecar_stamps(corpus: str, manifest: Manifest) -> dict[str, list[Any]]:
    """Return the sidecars of a corpus, in the order of its shards, and their stamps.

    Raises:
        UserError: If one is missing.
    """
    sidecars = [storage.join(corpus, shard.sidecar) for shard in manifest.shards]
    stamps: dict[str, list[Any]] = {}
    for folder in dict.fromkeys(path.rpartition("/")[0] for path in sidecars):
        stamps |= storage.list_stamps(folder, ".parquet")
    for path in sidecars:
        if path not in stamps:
            check_parquet(path, ["key"])
    return {path: stamps[path] for path in sidecars}


def spellings(question: Question) -> set[str]:
    """Return the ways in which a corpus may write a URL or a domain."""
    if question.domain is not None:
        # A URL too, or a host with its port: the answer that there is nothing must not come from how it was typed
        domain = question.domain.strip()
        try:
            parts = urlsplit(domain if "://" in domain else f"//{domain}")
            domain = (parts.hostname or "").removeprefix("*.").rstrip(".")
            return {domain, domain.encode("idna").decode()}
        except ValueError:  # no host, or a name that IDNA does not know
            return {domain}
    assert question.url is not None
    try:
        from pipelines.web.urls import canonical_url  # needs packages that a GPU node lacks

        return {question.url, canonical_url(question.url)}
    except (ImportError, ValueError):
        return {question.url}


# --- showing --------------------------------------------------------------------------------------------------------


def _rows(
    tables: Tables, corpus: str, manifest: Manifest, question: Question, skipped: Container[int], limit: int | None
) -> Iterator[dict[str, Any]]:
    """Yield the rows that were found, in order, with what the sidecars say of their samples.

    What is no longer in the corpus has None there.
    """
    order = 'ORDER BY step, "position", "window"'
    tables.run(f"CREATE OR REPLACE TABLE shown AS SELECT * FROM matched {order} {f'LIMIT {limit}' if limit else ''}")
    held = {shard for (shard,) in tables.rows("SELECT DISTINCT shard FROM shown")}
    sidecars = [storage.join(corpus, shard.sidecar) for shard in manifest.shards if shard.path in held]
    _read_details(tables, sidecars)
    wanted = spellings(question) if question.url is not None else set()
    for row in tables.records(f"SELECT * FROM shown LEFT JOIN details USING (key) {order}"):
        media = row["media"] or []
        urls = [item["url"] for item in media if item["url"]]
        yield {
            "step": row["step"],
            "position": row["position"],
            "source": row["source"],
            "shard": row["shard"],
            "key": row["key"],
            "window": row["window"],
            "epoch": row["epoch"],
            "url": next((url for url in urls if url in wanted), urls[0] if urls else None),
            "page_url": row["page_url"] or row["canonical_url"],
            "allowed": row["allowed"],
            "signals": row["signals"],
            "reasons": row["reasons"],
            "policy": row["policy"],
            "license": row["license"],
            "num_tokens": row["num_tokens"],
            "num_images": row["num_images"],
            "images": [
                {name: item[name] for name in ("part", "url", "mime", "width", "height", "license", "t")}
                for item in media
            ],
            "skipped": row["step"] in skipped,
            "in_corpus": row["allowed"] is not None,
        }


def _read_details(tables: Tables, sidecars: Sequence[str]) -> None:
    """Fill `details` with what sidecars say of the samples in `shown`, some of the files open at a time."""
    if not sidecars:
        nothing = ", ".join(f"NULL AS {name}" for name in _DETAILS)
        tables.run(f"CREATE OR REPLACE TABLE details AS SELECT {nothing} WHERE false")
    for begin in range(0, len(sidecars), _SIDECARS_AT_ONCE):
        tables.add_files("sidecars", sidecars[begin : begin + _SIDECARS_AT_ONCE], _DETAILS, replace=True)
        into = "INSERT INTO details" if begin else "CREATE OR REPLACE TABLE details AS"
        tables.run(f"{into} SELECT {', '.join(_DETAILS)} FROM sidecars WHERE key IN (SELECT key FROM shown)")


def _sections(question: Question, found: dict[str, Any], head: list[dict[str, Any]]) -> list[Section]:
    counts = [[name.replace("_", " "), value] for name, value in found.items()]
    columns = ("step", "position", "source", "key", "window", "epoch", "images", "allowed", "signals", "url", "page")
    rows = [
        (
            *(row[name] for name in ("step", "position", "source", "key", "window", "epoch")),
            len(row["images"]),
            row["allowed"] if row["in_corpus"] else "no longer in the corpus",
            " ".join(dict.fromkeys(signal["kind"] for signal in row["signals"] or ())),
            row["url"],
            row["page_url"],
        )
        for row in head
    ]
    return [
        Section(f"consumed of {question.words}", ("what", "number"), counts),
        Section("windows of samples", columns, rows, found["windows"] - len(rows)),
    ]
