"""Differences of two corpora, such as two versions of one: samples, shards, settings, drops and shifts of contents."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import yaml

from pipelines import storage
from pipelines.command_line import printable
from pipelines.errors import UserError
from pipelines.layout import resolved_spec_path
from pipelines.shards.manifest import Manifest, ShardInfo, load_manifest
from tools.output import Section, print_sections, progress, write_json
from tools.queries import stability
from tools.queries.stability import Shift, shifts
from tools.queries.tables import Tables

SCHEMA = "dromaius-diff/1"
MAX_SHOWN = 40
"""Rows of each table that are printed; the JSON has all."""

ASPECTS = ("place", "kind", "text", "images", "language", "rights", "scores", "origin")
"""In what a sample can differ from that of the same key, beside `build`: how it was made, with equal content."""

_COLUMNS = (
    *("key", "kind", "lang", "num_text_chars", "num_segments", "page_url", "canonical_url", "dataset", "release"),
    *("record", "file", "license", "policy", "allowed", "reasons", "parts", "media", "scores", "signals"),
)
# The hashes are compared in one process only. An observation's time is no right, and the text is in the tar alone.
_FACTS = """
SELECT key, source, split, shard, shard_sha256, hash(source, split) AS place, hash(kind) AS kind,
    hash(num_text_chars, num_segments) AS text, hash(lang) AS language, hash(scores) AS scores,
    hash(list_transform(media, lambda m: coalesce(m.stored_sha256, concat(m.part, ' ', m.bytes)))) AS images,
    hash(license, policy, allowed, reasons, list_transform(media, lambda m: [m.license, m.license_evidence]),
         list_transform(signals, lambda s: [s.kind, s.target, s.value])) AS rights,
    hash(page_url, canonical_url, dataset, release, record, file, list_transform(media, lambda m: m.url)) AS origin,
    list_filter(parts, lambda p: p.name IN ('json', 'txt')) AS texts
FROM {table}
"""
_BOTH = "NOT (added OR removed)"


@dataclass(frozen=True, slots=True)
class Change:
    """A value that differs; None where there is none."""

    name: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two corpora."""

    folder: str
    manifest: Manifest

    @property
    def facts(self) -> dict[str, Any]:
        """Return what tells which corpus it is."""
        found = {"name": self.manifest.name, "version": self.manifest.version}
        return (
            {"folder": self.folder}
            | found
            | {
                "fingerprint": self.manifest.fingerprint,
                "samples": self.manifest.num_samples,
                "shards": len(self.manifest.shards),
            }
        )


@dataclass(frozen=True, slots=True)
class Differences:
    """All that differs but the lists of samples, which stay in tables; `counts` has a row for each source and split.

    Versions of the software that made the corpora are in it and are no difference.
    """

    old: Side
    new: Side
    counts: list[dict[str, Any]]
    shards: list[Change]
    settings: list[Change]
    names: list[Change]
    inputs: list[Change]
    drops: list[dict[str, Any]]
    shifts: list[Shift]
    software: list[Change]

    @property
    def is_equal(self) -> bool:
        others = [self.shards, self.settings, self.names, self.inputs, self.drops]
        return not any([*others, *(_differs(row) for row in self.counts)])

    @property
    def moved(self) -> list[Shift]:
        """Shifts beyond chance, the largest first."""
        return sorted((s for s in self.shifts if s.words != "none beyond chance"), key=lambda s: -(s.psi or math.inf))


def find_differences(tables: Tables, old_folder: str, new_folder: str) -> Differences:
    """Compare two corpora; samples that differ then are in the table `compared` (see `compare_samples`).

    Args:
        tables: Where to compare them.
        old_folder: The earlier version.
        new_folder: The later one.

    Raises:
        UserError: If one is no finished corpus, or a file of it is damaged.
    """
    old, new = Side(old_folder, load_manifest(old_folder)), Side(new_folder, load_manifest(new_folder))
    settings = _changes(_settings(old.folder), _settings(new.folder))
    with progress("reading sidecars"):
        for name, side in (("old", old), ("new", new)):
            tables.add_sidecars(name, side.folder, side.manifest.shards, stability.COLUMNS)
        found_shifts = shifts(tables, "old", "new")
    compare_samples(tables, old, new)
    return Differences(
        old,
        new,
        counts=list(tables.records(_COUNTS)),
        shards=_shards(old.manifest, new.manifest),
        settings=settings,
        names=_changes(*({"name": s.manifest.name, "version": s.manifest.version} for s in (old, new))),
        inputs=_changes(_inputs(old.manifest), _inputs(new.manifest)),
        drops=_drops(old.manifest, new.manifest),
        shifts=found_shifts,
        software=_changes(*(_software(side.manifest) for side in (old, new))),
    )


def diff(old_folder: str, new_folder: str, json_path: str | None = None) -> bool:
    """Print the differences of two corpora, and write them as JSON; return whether there are none.

    Versions of the software that made them are shown and are no difference.

    Args:
        old_folder: The earlier version.
        new_folder: The later one.
        json_path: File to write, or None.

    Raises:
        UserError: If one is no finished corpus, or a file of it is damaged.
    """
    with Tables() as tables:
        found = find_differences(tables, old_folder, new_folder)
        if json_path:
            record = {
                "schema": SCHEMA,
                "old": found.old.facts,
                "new": found.new.facts,
                "equal": found.is_equal,
                "samples": found.counts,
                "shards": [asdict(change) for change in found.shards],
                "settings": [asdict(change) for change in found.settings],
                "versions": [asdict(change) for change in found.names],
                "inputs": [asdict(change) for change in found.inputs],
                "drops": found.drops,
                "distributions": [asdict(shift) | {"words": shift.words} for shift in found.shifts],
                "software": [asdict(change) for change in found.software],
                "added": tables.records(_listed("added")),
                "removed": tables.records(_listed("removed")),
                "changed": _changed(tables),
            }
            write_json(json_path, record)
    print_sections(_sections(found))
    said = "equal" if found.is_equal else "different"
    print(f"{said}: {_one_line(found.old)} and {_one_line(found.new)}")
    return found.is_equal


# --- samples --------------------------------------------------------------------------------------------------------


def compare_samples(tables: Tables, old: Side, new: Side) -> None:
    """Make a table `compared` of the samples that are in one corpus only, or differ.

    Its columns are `key`, `source` and `split` (the new ones, if there are any), `added`, `removed`, one for each
    aspect, and `build`. The JSON of two samples of one key is read if nothing else tells whether their texts are equal.

    Args:
        tables: Where to make it.
        old, new: The corpora. Shards of equal bytes are not looked at.
    """
    same = {(s.source, s.split, s.sha256) for s in old.manifest.shards}
    same &= {(s.source, s.split, s.sha256) for s in new.manifest.shards}
    for name, side in (("old", old), ("new", new)):
        shards = [s for s in side.manifest.shards if (s.source, s.split, s.sha256) not in same]
        tables.add_sidecars(f"{name}_differing", side.folder, shards, _COLUMNS)
        tables.run(f"CREATE VIEW {name}_facts AS {_FACTS.format(table=f'{name}_differing')}")
    aspects = ", ".join(f"{_BOTH} AND o.{a} IS DISTINCT FROM n.{a} AS {a}" for a in ASPECTS)
    with progress("comparing samples"):
        tables.run(
            "CREATE TABLE pairs AS SELECT key,"
            " coalesce(n.source, o.source) AS source, coalesce(n.split, o.split) AS split,"
            f" o.shard IS NULL AS added, n.shard IS NULL AS removed, {aspects},"
            " o.shard AS old_shard, o.texts AS old_texts, n.shard AS new_shard, n.texts AS new_texts"
            " FROM old_facts o FULL JOIN new_facts n USING (key)"
        )
    tables.run("CREATE TABLE texts_read (key VARCHAR, text_differs BOOLEAN)")
    _compare_texts(tables, old.folder, new.folder)
    others = ", ".join(a for a in ASPECTS if a != "text")
    any_other = " OR ".join(ASPECTS)
    tables.run(
        f"CREATE TABLE compared AS SELECT key, source, split, added, removed, {others},"
        " text OR coalesce(text_differs, false) AS text,"
        f" text_differs IS NOT NULL AND NOT (text_differs OR {any_other}) AS build"
        f" FROM pairs LEFT JOIN texts_read USING (key)"
    )


def _compare_texts(tables: Tables, old: str, new: str) -> None:
    """Fill `texts_read` with the keys of samples whose JSON differs, and whether it does in what a model reads."""
    chosen = f"FROM pairs WHERE {_BOTH} AND NOT text"
    columns = "key, old_shard, old_texts, new_shard, new_texts"
    batches = tables.batches(f"SELECT {columns} {chosen} ORDER BY new_shard, new_texts[1].offset")

    def compare(row: Mapping[str, Any]) -> tuple[str, bool] | None:
        before = _texts(old, row["old_shard"], row["old_texts"])
        after = _texts(new, row["new_shard"], row["new_texts"])
        return None if before == after else (row["key"], _content(before) != _content(after))

    with progress("comparing texts", tables.value(f"SELECT count(*) {chosen}")) as done, ThreadPoolExecutor() as pool:
        for batch in batches:
            found = [row for row in pool.map(compare, batch.to_pylist(), chunksize=100) if row is not None]
            if found:
                arrays = [pa.array([key for key, _ in found], pa.string()), pa.array([d for _, d in found], pa.bool_())]
                tables.insert("texts_read", pa.table(arrays, names=["key", "text_differs"]))
            done(len(batch))


def _texts(corpus: str, shard: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    path = storage.join(corpus, shard)
    try:
        return {part["name"]: storage.read_range(path, part["offset"], part["bytes"]) for part in parts}
    except (EOFError, OSError) as error:
        raise UserError(f"{path}: cannot be read where its sidecar says a sample is: {error}") from error


def _content(texts: Mapping[str, bytes]) -> Any:
    """Return what a model reads of a sample's text members: the segments of seq/1, or all of a foreign sample's."""
    try:
        return json.loads(texts["json"])["segments"], texts.get("txt")
    except (KeyError, ValueError, TypeError):
        return texts


_COUNTS = f"""
WITH counted AS (
    SELECT source, split, count(*) FILTER (added) AS added, count(*) FILTER (removed) AS removed,
        count(*) FILTER ({" OR ".join(ASPECTS)}) AS changed,
        {", ".join(f"count(*) FILTER ({aspect}) AS {aspect}" for aspect in (*ASPECTS, "build"))}
    FROM compared GROUP BY ALL
), totals AS (
    SELECT source, split, count(*) FILTER (is_old) AS old, count(*) FILTER (NOT is_old) AS new
    FROM (SELECT source, split, true AS is_old FROM old UNION ALL SELECT source, split, false FROM new) GROUP BY ALL
)
SELECT source, split, old, new,
    {", ".join(f"coalesce({n}, 0) AS {n}" for n in ("added", "removed", "changed", *ASPECTS, "build"))}
FROM totals LEFT JOIN counted USING (source, split) ORDER BY source, split
"""


def _differs(row: Mapping[str, Any]) -> bool:
    return any(row[name] for name in ("added", "removed", "changed"))


def _listed(which: str) -> str:
    return f"SELECT source, split, key FROM compared WHERE {which} ORDER BY ALL"


def _changed(tables: Tables) -> Iterator[dict[str, Any]]:
    """Yield the samples that changed, and in what."""
    sql = f"SELECT source, split, key, {', '.join(ASPECTS)} FROM compared WHERE {' OR '.join(ASPECTS)} ORDER BY 1, 2, 3"
    for row in tables.records(sql):
        where = {name: row[name] for name in ("source", "split", "key")}
        yield where | {"aspects": [aspect for aspect in ASPECTS if row[aspect]]}


# --- everything else ------------------------------------------------------------------------------------------------


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    names = [*old, *(name for name in new if name not in old)]
    return [Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _shards(old: Manifest, new: Manifest) -> list[Change]:
    """Return the shards, by path, of which one corpus has other bytes or none."""

    def hashes(shards: Sequence[ShardInfo]) -> dict[str, str]:
        return {shard.path: shard.sha256 for shard in shards}

    return _changes(hashes(old.shards), hashes(new.shards))


def _settings(corpus: str) -> dict[str, Any]:
    """Return all settings by their dotted keys; none for foreign tars."""
    path = resolved_spec_path(corpus)
    if not storage.exists(path):
        return {}
    try:
        tree = yaml.safe_load(storage.read_bytes(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {storage.error_line(error)}") from error
    return dict(_dotted(tree, ""))


def _dotted(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _dotted(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, inner in enumerate(value):
            yield from _dotted(inner, f"{name}.{number}")
    else:
        yield name, value


def _inputs(manifest: Manifest) -> dict[str, Any]:
    return {f"{file.source} {file.file}": file.sha256 or file.tag for file in manifest.inputs}


def _software(manifest: Manifest) -> dict[str, str | None]:
    return {**manifest.tools, **{f"code.{name}": value for name, value in manifest.code.items()}}


def _drops(old: Manifest, new: Manifest) -> list[dict[str, Any]]:
    """Return the numbers of the funnel that differ: what was kept, and what was dropped for each reason."""

    def counts(manifest: Manifest) -> dict[tuple[str, str, str, str], int]:
        found: dict[tuple[str, str, str, str], int] = {}
        for row in manifest.funnel:
            where = (row.source, row.stage, row.unit)
            found |= {(*where, reason): num for reason, num in row.dropped.items()}
            found[(*where, "kept")] = row.kept
        return found

    before, after = counts(old), counts(new)
    names = ("source", "stage", "unit", "reason")
    return [
        dict(zip(names, which, strict=True)) | {"old": before.get(which, 0), "new": after.get(which, 0)}
        for which in [*before, *(which for which in after if which not in before)]
        if before.get(which, 0) != after.get(which, 0)
    ]


# --- printing -------------------------------------------------------------------------------------------------------


def _sections(found: Differences) -> list[Section]:
    """Return a table for each kind of difference that there is."""
    counts = found.counts
    aspects = [name for name in (*ASPECTS, "build") if any(row[name] for row in counts)]
    columns = ("source", "split", "old", "new", "added", "removed", "changed", *aspects)
    sections = [
        _section(
            "samples", columns, [[row[name] for name in columns] for row in counts if _differs(row) or row["build"]]
        ),
        _section(
            "shards", ("path", "old sha256", "new sha256"), [[c.name, _cut(c.old), _cut(c.new)] for c in found.shards]
        ),
        _section("settings", ("key", "old", "new"), _values(found.settings)),
        _section("versions and input files", ("what", "old", "new"), _values([*found.names, *found.inputs])),
        _section(
            "funnel: kept, and dropped by reason",
            ("source", "stage", "unit", "reason", "old", "new", "difference"),
            [[*row.values(), row["new"] - row["old"]] for row in found.drops],
        ),
        _section(
            "shifts beyond chance (population stability index)",
            ("source", "of", "old", "new", "bins", "index", "by chance", "shift"),
            [[s.source, s.what, s.num_old, s.num_new, s.num_bins, s.psi, s.by_chance, s.words] for s in found.moved],
        ),
        _section(
            "software that made them (no difference of the data)", ("what", "old", "new"), _values(found.software)
        ),
    ]
    return [section for section in sections if section.rows]


def _section(title: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> Section:
    return Section(title, columns, rows[:MAX_SHOWN], max(0, len(rows) - MAX_SHOWN))


def _cut(digest: str | None) -> str | None:
    return digest and digest[:12]


def _values(changes: Sequence[Change]) -> list[list[Any]]:
    return [[change.name, change.old, change.new] for change in changes]


def _one_line(side: Side) -> str:
    manifest = side.manifest
    which = f"{manifest.name} {manifest.version}, {manifest.num_samples:,} samples, {manifest.fingerprint[:12]}"
    return printable(f"{side.folder} ({which})")
