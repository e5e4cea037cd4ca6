"""The samples that a takedown takes out, found by the sidecars, and what must not come back because of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines import storage
from pipelines.block_list import Entry, EntryType, normal_url, read_entries, sha256_of
from pipelines.decisions.duplicates import RULES
from pipelines.layout import drops_folder, media_folder, stage_folder
from pipelines.shards.manifest import Manifest
from tools.queries.tables import Tables
from tools.takedown.equal_texts import add_equal_texts
from tools.takedown.requests import Wanted

_COLUMNS = (
    *("key", "kind", "record", "page_url", "canonical_url", "num_media", "num_text_chars", "byte_offset", "bytes"),
    "media",
)
_DROP_COLUMNS = ("key", "url", "page_url", "record", "reason", "excerpt", "detail")
_TOLD = (  # what a drop names: its detail and record may hold addresses among other words
    "unnest(list_concat([url, page_url, detail], regexp_extract_all("
    "concat_ws(' ', detail, regexp_replace(record, '#\\d+$', '')), '(https?://\\S*?)[.,:;]*(?:\\s|$)', 1)))"
)

_HOST = r"trim(lower(regexp_extract({url}, '^[A-Za-z]+://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)', 1)), '[]')"
_DOCUMENT = r"regexp_replace({key}, '-w[0-9]{{2,}}$', '')"
_VIDEO = (
    r"regexp_extract({url}, '^https?://(?:(?:www\.|m\.)?youtu\.be/|(?:www\.|m\.|music\.)?youtube(?:-nocookie)?\.com/"
    r"(?:embed/|shorts/|v/|live/|watch\?(?:[^#]*&)?v=))([^/?&#]+)', 1)"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a takedown takes out.

    Attributes:
        tables: The samples as a table `taken`: shard, source, split, key, num_media, bytes, and why.
        entries: What must not come back.
        drop_files: Files of `drops/` that tell of it.
        num_samples: Number of samples.
        unmatched: Requests of which it has nothing: no sample, nothing that was dropped and nothing that was fetched.
        before: Those of them that an earlier takedown was asked for too.
    """

    tables: Tables
    entries: Sequence[Entry]
    drop_files: Sequence[str]
    num_samples: int
    unmatched: Sequence[Wanted]
    before: Collection[Wanted]

    @property
    def keys(self) -> "KeysOfShards":
        """The keys that go, by the path of their shard."""
        return KeysOfShards(self.tables)


class KeysOfShards(Mapping[str, frozenset[str]]):
    """The keys of the samples that go, by the path of their shard; those of one shard are in memory at a time."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        tables.run("CREATE OR REPLACE TABLE taken_by_shard AS SELECT shard, key FROM taken ORDER BY shard")
        self._shards = {shard for (shard,) in tables.rows("SELECT DISTINCT shard FROM taken_by_shard")}
        self._last: tuple[str, frozenset[str]] = ("", frozenset())

    def __getitem__(self, shard: str) -> frozenset[str]:
        if shard not in self._shards:
            raise KeyError(shard)
        if self._last[0] != shard:  # each is asked for some times in a row
            rows = self._tables.rows("SELECT key FROM taken_by_shard WHERE shard = ?", shard)
            self._last = (shard, frozenset(key for (key,) in rows))
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._shards))

    def __len__(self) -> int:
        return len(self._shards)

    def __contains__(self, shard: object) -> bool:
        return shard in self._shards


@contextmanager
def match(corpus: str, manifest: Manifest, asked: Sequence[Wanted], number: int) -> Iterator[Found]:
    """Find the samples of a corpus that a takedown takes out.

    A sample goes if it, its page, its video or one of its images is asked for. So do samples with the same bytes of an
    image as one that is asked for, at whatever address, samples with the text of one that goes, and all windows of a
    document of which one goes.

    Args:
        corpus: Its folder.
        manifest: Its manifest.
        asked: What is asked for.
        number: Number of the takedown.
    """
    with Tables() as tables:
        tables.add_sidecars("all_samples", corpus, manifest.shards, _COLUMNS)
        tables.add_rows("wanted", ("type", "value"), [(each.type, each.value) for each in asked])
        is_normal = manifest.spec_sha256 is not None
        _add_addresses(tables, is_normal=is_normal)
        _find(tables)
        _add_windows(tables)
        add_equal_texts(tables, corpus)
        _add_windows(tables)
        entries = [each.entry(number) for each in asked]
        entries += _consequences(tables, corpus, number)
        drop_files = _drop_files(tables, corpus, entries)
        num = tables.value("SELECT count(*) FROM taken")
        _match_work(tables, corpus)
        left = {
            Wanted(*row) for row in tables.rows("SELECT type, value FROM wanted EXCEPT SELECT type, value FROM matched")
        }
        known = {(entry.type, entry.sha256) for entry in read_entries(corpus)} if left else set()
        before = {each for each in left if (each.type, each.entry(number).sha256) in known}
        yield Found(tables, list(dict.fromkeys(entries)), drop_files, num, sorted(left), before)


def _add_addresses(tables: Tables, *, is_normal: bool) -> None:
    """Add the addresses of all samples as a view: of their page (`media` is null) and of each image.

    Args:
        tables: With the samples.
        is_normal: Whether they are in the project's normal form; else the hosts of what is asked for are compared
            first, and then the normal forms.
    """
    tables.run(
        "CREATE VIEW raw_addresses AS "
        "SELECT shard, key, page_url AS url, NULL::STRUCT(stored VARCHAR, source VARCHAR) AS media FROM all_samples "
        "UNION ALL SELECT shard, key, canonical_url, NULL FROM all_samples "
        "UNION ALL SELECT shard, key, m.url, struct_pack(stored := m.stored_sha256, source := m.source_sha256) "
        "FROM (SELECT shard, key, unnest(media) AS m FROM all_samples)"
    )
    host = _HOST.format(url="url")
    if is_normal:
        tables.run(f"CREATE VIEW addresses AS SELECT *, {host} AS host FROM raw_addresses WHERE url IS NOT NULL")
        return
    hosts = _HOST.format(url="value")
    tables.run(
        f"CREATE TABLE wanted_hosts AS SELECT DISTINCT CASE WHEN type = 'domain' THEN value ELSE {hosts} END AS host "
        "FROM wanted WHERE type IN ('url', 'prefix', 'domain')"
    )
    near = (
        f"SELECT DISTINCT url FROM (SELECT url, {host} AS host FROM raw_addresses WHERE url IS NOT NULL) AS a WHERE "
        "EXISTS (FROM wanted_hosts w WHERE a.host = w.host OR ends_with(a.host, '.' || w.host)) "
        "OR NOT regexp_matches(a.host, '^[!-~]*$')"
    )
    forms = [(url, normal) for (url,) in tables.rows(near) if (normal := normal_url(url)) is not None]
    tables.add_rows("found_forms", ("url", "normal"), forms)
    tables.run(
        f"CREATE VIEW addresses AS SELECT shard, key, normal AS url, media, {_HOST.format(url='normal')} AS host "
        "FROM raw_addresses JOIN found_forms USING (url)"
    )


_DOMAINS = (
    "CASE WHEN NOT contains(host, '.') OR regexp_matches(host, '^[0-9.]+$|:') THEN [host] ELSE "
    "list_transform(range(1, len(string_split(host, '.')) + 1), lambda i: "
    "array_to_string(string_split(host, '.')[i:], '.')) END"
)


def _find(tables: Tables) -> None:
    """Fill the table `taken`."""
    tables.run(
        "CREATE TABLE hits (shard VARCHAR, key VARCHAR, why VARCHAR, stored VARCHAR, source VARCHAR, asked VARCHAR)"
    )
    addressed = (
        "INSERT INTO hits SELECT shard, key, '{why}', media.stored, media.source, {asked} FROM addresses a {found}"
    )
    kinds = {type_ for (type_,) in tables.rows("SELECT DISTINCT type FROM wanted")}
    domains = "(SELECT list(value) FROM wanted WHERE type = 'domain')"
    by_address = {
        "url": ("a.url", "WHERE url IN (SELECT value FROM wanted WHERE type = 'url')"),
        "prefix": ("w.value", "JOIN (SELECT value FROM wanted WHERE type = 'prefix') w ON starts_with(a.url, w.value)"),
        "domain": (f"unnest(list_intersect({_DOMAINS}, {domains}))", f"WHERE list_has_any({_DOMAINS}, {domains})"),
    }
    for why, (asked, condition) in by_address.items():
        if why in kinds:
            tables.run(addressed.format(why=why, asked=asked, found=condition))
    if "key" in kinds:
        tables.run(
            "INSERT INTO hits SELECT shard, key, 'key', NULL, NULL, key FROM all_samples "
            "WHERE key IN (SELECT value FROM wanted WHERE type = 'key')"
        )
    if "video" in kinds:
        video = _VIDEO.format(url="media[1].url")
        names = f"[regexp_replace(record, '#w[0-9]+$', ''), {video}]"
        videos = f"list_intersect({names}, (SELECT list(value) FROM wanted WHERE type = 'video'))"
        tables.run(
            "INSERT INTO hits SELECT shard, key, 'video', m.stored_sha256, m.source_sha256, unnest(found) FROM ("
            f"SELECT shard, key, unnest(media) AS m, {videos} AS found FROM all_samples WHERE kind = 'video') "
            "WHERE len(found) > 0"
        )
    # The same bytes, at whatever address.
    tables.run(
        "CREATE TABLE wanted_bytes AS SELECT value AS sha256 FROM wanted WHERE type = 'sha256' "
        "UNION SELECT stored FROM hits WHERE stored IS NOT NULL UNION SELECT source FROM hits WHERE source IS NOT NULL"
    )
    if tables.value("SELECT count(*) FROM wanted_bytes"):
        tables.run(
            "INSERT INTO hits SELECT shard, key, 'sha256', m.stored_sha256, m.source_sha256, NULL FROM "
            "(SELECT shard, key, unnest(media) AS m FROM all_samples) "
            "WHERE m.stored_sha256 IN (FROM wanted_bytes) OR m.source_sha256 IN (FROM wanted_bytes)"
        )
    tables.run(
        "CREATE TABLE matched AS SELECT DISTINCT why AS type, asked AS value FROM hits WHERE asked IS NOT NULL "
        "UNION SELECT 'sha256', unnest([stored, source]) FROM hits"
    )
    tables.run(
        "CREATE TABLE taken AS SELECT s.shard, s.source, s.split, s.key, s.page_url, s.num_media, s.bytes, h.why "
        "FROM all_samples s JOIN (SELECT shard, key, min(why) AS why FROM hits GROUP BY ALL) h "
        "ON s.shard = h.shard AND s.key = h.key"
    )


def _add_windows(tables: Tables) -> None:
    """Add the other windows of documents of which one goes."""
    document, taken = _DOCUMENT.format(key="s.key"), _DOCUMENT.format(key="key")
    tables.run(
        "INSERT INTO taken SELECT s.shard, s.source, s.split, s.key, s.page_url, s.num_media, s.bytes, 'window' "
        "FROM all_samples s WHERE ends_with(s.record, '#' || split_part(s.key, '-', -1)) "
        f"AND (s.source, {document}) IN (SELECT source, {taken} FROM taken WHERE key <> {taken}) "
        "AND (s.shard, s.key) NOT IN (SELECT shard, key FROM taken)"
    )


def _consequences(tables: Tables, corpus: str, number: int) -> Iterator[Entry]:
    """Yield what must not come back with the samples: their keys, pages of which nothing is left, their own images."""
    for (key,) in tables.rows("SELECT DISTINCT key FROM taken"):
        yield Entry("key", sha256_of(key), None, number)
    pages = (
        "SELECT page_url FROM taken WHERE page_url IS NOT NULL EXCEPT SELECT page_url FROM all_samples "
        "WHERE (shard, key) NOT IN (SELECT shard, key FROM taken) AND page_url IN (SELECT page_url FROM taken)"
    )
    yield from _of_pages(tables, pages, number)
    yield from _of_pages(tables, "SELECT DISTINCT page_url FROM taken WHERE page_url IS NOT NULL", number, "page")
    tables.run(
        "CREATE TABLE media_of AS SELECT (shard, key) IN (SELECT shard, key FROM taken) AS is_taken, "
        "m.stored_sha256 AS stored, m.source_sha256 AS source "
        "FROM (SELECT shard, key, unnest(media) AS m FROM all_samples)"
    )
    for column in ("stored", "source"):
        own = (
            f"SELECT {column} FROM media_of WHERE is_taken AND {column} IS NOT NULL "
            f"EXCEPT SELECT {column} FROM media_of WHERE NOT is_taken"
        )
        for (sha256,) in tables.rows(f"{own} UNION SELECT sha256 FROM wanted_bytes"):
            yield Entry("sha256", sha256, None, number)


def _of_pages(tables: Tables, pages: str, number: int, type_: EntryType = "url") -> Iterator[Entry]:
    """Yield the entries of pages that a query gives."""
    for (page,) in tables.rows(pages):
        if (normal := normal_url(page)) is not None:
            yield Entry(type_, sha256_of(normal), None, number)


def _drop_files(tables: Tables, corpus: str, entries: list[Entry]) -> list[str]:
    """Return the files of drops that tell of what goes; duplicates of it are added to the entries."""
    paths = storage.list_files(drops_folder(corpus), ".parquet")
    if not paths:
        return []
    tables.add_files("dropped", paths, _DROP_COLUMNS)
    number = entries[0].takedown
    document = _DOCUMENT.format(key="key")
    tables.run(
        "CREATE TABLE copies AS SELECT DISTINCT key, page_url FROM dropped WHERE key IS NOT NULL AND "
        f"reason IN ({', '.join(repr(str(reason)) for reason in RULES)}) "
        f"AND detail IN (SELECT {document} FROM taken)"
    )
    entries += [Entry("key", sha256_of(key), None, number) for (key,) in tables.rows("SELECT key FROM copies")]
    pages = (
        "SELECT page_url FROM copies WHERE page_url IS NOT NULL EXCEPT SELECT page_url FROM all_samples WHERE "
        "page_url IN (SELECT page_url FROM copies) AND (shard, key) NOT IN (SELECT shard, key FROM taken)"
    )
    entries += _of_pages(tables, pages, number)
    tables.add_rows("entries", ("type", "sha256"), [(entry.type, entry.sha256) for entry in entries])
    hashed = "sha256({0}) IN (SELECT sha256 FROM entries WHERE type = '{1}')"
    told = (
        f"SELECT DISTINCT filename FROM (SELECT filename, {_TOLD} AS u FROM dropped) WHERE "
        f"{_asked_url('u')} OR {hashed.format('u', 'url')} "
        f"UNION SELECT filename FROM dropped WHERE excerpt IS NOT NULL AND {hashed.format('page_url', 'page')} "
        f"UNION SELECT filename FROM dropped WHERE {hashed.format('key', 'key')} AND reason <> 'taken_down'"
    )
    found = {filename for (filename,) in tables.rows(told)}
    _match_urls(tables, f"SELECT {_TOLD} AS u FROM dropped")
    tables.run(
        "INSERT INTO matched SELECT DISTINCT 'key', key FROM dropped "
        "WHERE reason <> 'taken_down' AND key IN (SELECT value FROM wanted WHERE type = 'key')"
    )
    return [path for path in paths if path in found or path.rpartition("://")[2] in found]


def _match_work(tables: Tables, corpus: str) -> None:
    """Add what was fetched to the requests that match, though no sample was made of it."""
    ledgers = [
        path
        for path in storage.list_files(stage_folder(corpus, "crawl"), ".parquet")
        if not path.endswith((".links.parquet", ".drops.parquet"))
    ]
    for name, paths, columns in (
        ("ledgers", ledgers, ("url", "canonical_url")),
        ("stored", storage.list_files(media_folder(corpus), ".parquet"), ("key",)),
    ):
        if paths:
            tables.add_files(name, paths, columns)
            _match_urls(tables, f"SELECT unnest([{', '.join(columns)}]) AS u FROM {name}")


def _match_urls(tables: Tables, addresses: str) -> None:
    """Add the requests by which one of the addresses `u` of a query is asked for."""
    tables.run(f"CREATE OR REPLACE TEMP TABLE told AS SELECT DISTINCT u FROM ({addresses}) WHERE {_asked_url('u')}")
    domains = _DOMAINS.replace("host", _HOST.format(url="u"))
    for type_, found in (
        ("url", "SELECT u AS value FROM told"),
        ("prefix", "SELECT w.value FROM told JOIN wanted w ON w.type = 'prefix' AND starts_with(u, w.value)"),
        ("domain", f"SELECT unnest({domains}) AS value FROM told"),
    ):
        tables.run(
            f"INSERT INTO matched SELECT DISTINCT '{type_}', value FROM ({found}) "
            f"WHERE value IN (SELECT value FROM wanted WHERE type = '{type_}')"
        )


def _asked_url(url: str) -> str:
    """Return a condition: a URL is asked for, by itself, its beginning or its host."""
    domains = _DOMAINS.replace("host", _HOST.format(url=url))
    return (
        f"{url} IS NOT NULL AND ({url} IN (SELECT value FROM wanted WHERE type = 'url') "
        f"OR EXISTS (FROM wanted w WHERE w.type = 'prefix' AND starts_with({url}, w.value)) "
        f"OR list_has_any({domains}, (SELECT list(value) FROM wanted WHERE type = 'domain')))"
    )


def summary(found: Found) -> Iterator[dict[str, Any]]:
    """Yield what goes, by source and split."""
    yield from found.tables.records(
        "SELECT source, split, count(*) AS samples, sum(num_media)::BIGINT AS images, sum(bytes)::BIGINT AS bytes, "
        "count(DISTINCT shard) AS shards FROM taken GROUP BY ALL ORDER BY ALL"
    )
