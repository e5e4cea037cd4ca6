"""Files by which samples and drops are found: copies of what sidecars and drops say, in the order of the manifest.

They are DuckDB's, in `work/lookup/browse/`, or in the user's cache if the corpus is on a store or cannot be written to.
Each is named by a hash of what it is made from, written under another name, and renamed when it is whole; a corpus that
changes gets new ones, and the old ones are removed, by a takedown at once. A sample's row is its number in the corpus:
that of all samples in the shards before its own, and its place there.
"""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines import storage
from pipelines.errors import UserError
from pipelines.layout import drops_folder
from pipelines.parts import digest
from pipelines.shards.manifest import Manifest, ShardInfo
from tools.output import progress
from tools.queries.sorted_copy import copy_folder
from tools.queries.tables import PLACE, Tables
from tools.trace import BY_TERM, sidecar_stamps

MEMORY = "512MiB"
"""Most that DuckDB keeps in memory: enough to sort a part of a corpus, the rest is on disk."""

_VERSION = 3
_SECONDS_TO_ASK = 0.05
_SAMPLES_AT_ONCE = 131_072
_ABANDONED_SECONDS = 24 * 3600  # after which a file that was never finished belongs to nobody
_COLUMNS = (
    *("key", "kind", "lang", "license", "allowed", "num_media", "num_text_chars", "dedup_group"),
    *("byte_offset", "bytes", "parts", "scores"),
)
_SAMPLES = """
SELECT start + {place} AS row, number AS shard, key, source, split, kind, coalesce(lang, 'unknown') AS lang,
    coalesce(license, 'unknown') AS license, coalesce(allowed, true) AS allowed, num_media, num_text_chars,
    md5_number_lower(nullif(dedup_group, '')) AS dedup, byte_offset, bytes, parts, scores
FROM {chunk} JOIN places USING (shard)
"""


class Lookup:
    """The files of a corpus by which browsing finds things, made when they are first needed.

    Args:
        corpus: Folder of the corpus.
        manifest: Its manifest.
    """

    def __init__(self, corpus: str, manifest: Manifest) -> None:
        self.corpus, self.manifest = corpus, manifest
        self._folder = copy_folder(corpus, "work", "lookup", "browse")
        self._lock = threading.Lock()
        self._building: Tables | None = None
        self._is_stopped = False

    @contextlib.contextmanager
    def building(self) -> Iterator[Tables]:
        """Give tables to make something with; one thing is made at a time, for the sake of memory.

        Raises:
            UserError: If it was stopped.
        """
        with self._lock:
            if self._is_stopped:
                raise UserError("stopped")
            with Tables(MEMORY) as tables:
                self._building = tables
                try:
                    yield tables
                finally:
                    self._building = None

    def stop(self, seconds: float) -> None:
        """Stop what is being made for good, and wait until its temporary files are removed, or for some seconds."""
        self._is_stopped = True
        end = time.monotonic() + seconds
        while not self._lock.acquire(timeout=_SECONDS_TO_ASK):
            if (tables := self._building) is not None:
                tables.interrupt()
            if time.monotonic() > end:
                return
        self._lock.release()

    def samples(self) -> str:
        """Return the path of the file with `samples`, `scores`, `keys`, `groups` and `counts`, up to date.

        Raises:
            UserError: If a sidecar is missing or damaged.
        """
        return self._made("samples", self._sidecars(), self._write_samples)

    def terms(self) -> str:
        """Return the path of the file with `terms`: rows by the hash of a URL or a domain, of 64 bits.

        Raises:
            UserError: If a sidecar is missing or damaged.
        """
        return self._made("terms", self._sidecars(), self._write_terms)

    def drops(self) -> str:
        """Return the path of the file with `drops`, sorted by stage and reason, up to date.

        Raises:
            UserError: If a file of them is damaged.
        """
        return self._made("drops", storage.list_stamps(drops_folder(self.corpus), ".parquet"), self._write_drops)

    def facts(self) -> str:
        """Return the path under which the facts of the corpus are kept; it may be missing."""
        made_from = digest(_VERSION, self.manifest.fingerprint, self._stamps(self._sidecars()))[:16]
        self._remove_others("facts", path := storage.join(self._folder, f"facts-{made_from}.json"))
        return path

    def words(self) -> str:
        """Return the path of the index of words, which `words` fills."""
        made_from = digest(_VERSION, self.manifest.fingerprint)[:16]
        self._remove_others("words", path := storage.join(self._folder, f"words-{made_from}.sqlite"))
        os.makedirs(self._folder, exist_ok=True)
        return path

    def _sidecars(self) -> Mapping[str, Sequence[Any]]:
        return sidecar_stamps(self.corpus, self.manifest)

    def _stamps(self, files: Mapping[str, Sequence[Any]]) -> list[Any]:
        return [[path.removeprefix(self.corpus), list(stamp)] for path, stamp in files.items()]

    def _made(self, what: str, files: Mapping[str, Sequence[Any]], write: Callable[[Tables], None]) -> str:
        made_from = digest(_VERSION, self.manifest.fingerprint, self._stamps(files))[:16]
        path = storage.join(self._folder, f"{what}-{made_from}.duckdb")
        if not os.path.exists(path):
            with self.building() as tables, _written_whole(path) as unfinished:
                if not os.path.exists(path):  # by a thread that came first
                    tables.attach(unfinished, "made")
                    write(tables)
                    tables.run("DETACH made")
        self._remove_others(what, path)
        return path

    def _remove_others(self, what: str, kept: str) -> None:
        for path in storage.list_files(self._folder):
            if path.startswith(storage.join(self._folder, f"{what}-")) and not path.startswith(kept):
                storage.remove(path)

    def _chunks(self, tables: Tables, columns: Sequence[str], what: str) -> Iterator[str]:
        """Yield names of tables with the samples of some shards each, and `places` to number them by."""
        shards = self.manifest.shards
        tables.run('CREATE TABLE places (shard VARCHAR, "number" INTEGER, start BIGINT)')
        tables.insert(
            "places",
            pa.table(
                {
                    "shard": [s.path for s in shards],
                    "number": pa.array(range(len(shards)), pa.int32()),
                    "start": self.manifest.starts()[:-1],
                }
            ),
        )
        with progress(what, len(shards)) as done:
            for number, chunk in enumerate(_chunks_of(shards)):
                name = f"chunk{number}"
                tables.add_sidecars(name, self.corpus, chunk, [*columns, PLACE])
                yield name
                tables.run(f"DROP VIEW {name}; DROP VIEW {name}_files; DROP TABLE {name}_shards")
                done(len(chunk))

    def _write_samples(self, tables: Tables) -> None:
        for number, chunk in enumerate(self._chunks(tables, _COLUMNS, "indexing samples")):
            tables.run(f"CREATE TABLE chunk AS {_SAMPLES.format(chunk=chunk, place=PLACE)} ORDER BY row")
            samples = "SELECT * EXCLUDE scores FROM chunk ORDER BY row"
            # A score that is unknown lies in no range.
            scores = (
                'SELECT row, score.name AS name, score."value" AS "value" FROM (SELECT row, unnest(scores) AS score '
                'FROM chunk) WHERE score."value" IS NOT NULL AND NOT isnan(score."value") ORDER BY name, row'
            )
            for name, query in (("samples", samples), ("scores", scores)):
                tables.run(f"{f'INSERT INTO made.{name}' if number else f'CREATE TABLE made.{name} AS'} {query}")
            tables.run("DROP TABLE chunk")
        tables.run(
            "CREATE TABLE made.keys AS SELECT md5_number_lower(key) AS hash, row FROM made.samples ORDER BY hash"
        )
        tables.run(
            "CREATE TABLE made.groups AS SELECT dedup AS hash, row FROM made.samples WHERE dedup IS NOT NULL"
            " ORDER BY hash, row"
        )
        tables.run(
            "CREATE TABLE made.counts AS SELECT source, split, kind, lang, license, allowed, count(*) AS num"
            " FROM made.samples GROUP BY ALL ORDER BY ALL"
        )
        tables.run(
            'CREATE TABLE made.score_ranges AS SELECT name, count(*) AS num, min("value") AS least,'
            ' max("value") AS greatest FROM made.scores GROUP BY name ORDER BY name'
        )

    def _write_terms(self, tables: Tables) -> None:
        columns = ("page_url", "canonical_url", "domain", "media")
        for number, chunk in enumerate(self._chunks(tables, columns, "sorting URLs")):
            # `key` of that query is whatever is to be found by a term
            tables.run(
                f"CREATE OR REPLACE VIEW files AS SELECT start + {PLACE} AS key, page_url, canonical_url, domain, media"
                f" FROM {chunk} JOIN places USING (shard)"
            )
            into = "INSERT INTO found" if number else "CREATE TABLE found AS"
            tables.run(f"{into} SELECT md5_number_lower(term) AS hash, key AS row FROM ({BY_TERM.query})")
            tables.run("DROP VIEW files")
        tables.run("CREATE TABLE made.terms AS SELECT hash, row FROM found ORDER BY hash, row")

    def _write_drops(self, tables: Tables) -> None:
        columns = ("source", "stage", "reason", "unit", "key", "url", "page_url", "record", "excerpt", "detail")
        paths = storage.list_files(drops_folder(self.corpus), ".parquet")
        if paths:
            tables.add_files("files", paths, columns)
        else:
            tables.add_rows("files", columns, [])
        names = ", ".join(columns)
        with progress("sorting drops"):
            tables.run(
                "CREATE TABLE made.drops AS SELECT row_number() OVER (ORDER BY stage, reason, source, url, key) AS row,"
                f" {names} FROM files ORDER BY row"
            )


def _chunks_of(shards: Sequence[ShardInfo]) -> Iterator[list[ShardInfo]]:
    """Yield shards in groups of bounded numbers of samples, in order."""
    chunk: list[ShardInfo] = []
    num_samples = 0
    for shard in shards:
        chunk.append(shard)
        num_samples += shard.samples
        if num_samples >= _SAMPLES_AT_ONCE:
            yield chunk
            chunk, num_samples = [], 0
    if chunk:
        yield chunk


@contextlib.contextmanager
def _written_whole(path: str) -> Iterator[str]:
    """Give a name to write a local file under, which gets its own name when the block succeeds.

    DuckDB opens files by name, so `storage.write_whole` cannot write them. What a killed process left is removed.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    for found in os.scandir(folder):
        is_ours = found.name.startswith(f"{storage.TEMPORARY}")
        if is_ours and time.time() - found.stat().st_mtime > _ABANDONED_SECONDS:
            storage.remove(found.path)
    unfinished = os.path.join(folder, f"{storage.TEMPORARY}{name}.{uuid.uuid4().hex[:12]}")
    try:
        yield unfinished
        if os.path.exists(unfinished):
            os.replace(unfinished, path)
    finally:
        for left in (unfinished, f"{unfinished}.wal"):
            storage.remove(left)
