"""Samples with the text of one that a takedown takes out, at whatever address and in whatever source."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pyarrow as pa

from pipelines import storage
from pipelines.block_list import TEXT_KINDS, text_hash
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.tar_samples import read_sample
from tools.output import progress
from tools.queries.tables import Tables

_NUM_READERS = 16  # of a store, where each read waits for an answer
_BATCH = 1 << 12  # samples read before their hashes are kept; no texts are

_Row = tuple[str, str, str, int, int, bool]


def add_equal_texts(tables: Tables, corpus: str) -> None:
    """Add samples with the text of one that goes to the table `taken`; of others, those of its length are read.

    Else they stayed published under another key, while the next build leaves them out. Samples are read one by one in
    the order in which they lie, and of each the hash of its text is kept, on disk if there are many.

    Args:
        tables: With the samples (`all_samples`) and those that go (`taken`).
        corpus: Its folder.
    """
    kinds = ", ".join(f"'{kind}'" for kind in sorted(TEXT_KINDS))
    mine = f"SELECT num_text_chars FROM all_samples JOIN taken USING (shard, key) WHERE kind IN ({kinds})"
    tables.run(
        "CREATE TABLE of_equal_length AS SELECT shard, source, key, byte_offset, bytes, num_text_chars, "
        "(shard, key) IN (SELECT shard, key FROM taken) AS is_taken FROM all_samples "
        f"WHERE kind IN ({kinds}) AND num_text_chars IN ({mine})"
    )
    tables.run(
        "DELETE FROM of_equal_length WHERE num_text_chars NOT IN "
        "(SELECT num_text_chars FROM of_equal_length WHERE NOT is_taken)"
    )
    tables.run("CREATE TABLE texts (shard VARCHAR, key VARCHAR, is_taken BOOLEAN, sha256 VARCHAR)")
    total = tables.value("SELECT count(*) FROM of_equal_length")
    columns = 'shard, source, key, byte_offset, byte_offset + bytes AS "end", is_taken'
    with progress("comparing texts of equal length", total) as done, _mapping(corpus) as each:
        query = f"SELECT {columns} FROM of_equal_length ORDER BY shard, byte_offset"
        for batch in tables.batches(query, size=_BATCH):
            rows = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
            hashes = pa.array(each(partial(_text_of, corpus), rows), pa.string())
            kept = [batch.column("shard"), batch.column("key"), batch.column("is_taken"), hashes]
            tables.insert("texts", pa.record_batch(kept, ["shard", "key", "is_taken", "sha256"]))
            done(len(rows))
    tables.run(
        "INSERT INTO taken SELECT s.shard, s.source, s.split, s.key, s.page_url, s.num_media, s.bytes, 'text' "
        "FROM all_samples s JOIN texts t ON s.shard = t.shard AND s.key = t.key "
        "WHERE NOT t.is_taken AND t.sha256 IN (SELECT sha256 FROM texts WHERE is_taken AND sha256 IS NOT NULL)"
    )


@contextmanager
def _mapping(corpus: str) -> Iterator[Callable[[Callable[[_Row], str | None], list[_Row]], list[str | None]]]:
    """Yield what calls a function for each row: of a store, for several at a time."""
    if storage.is_local(corpus):  # where threads would only wait for each other's parsing
        yield lambda call, rows: [call(row) for row in rows]
        return
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        yield lambda call, rows: list(pool.map(call, rows))


def _text_of(corpus: str, row: _Row) -> str | None:
    """Return the hash by which the text of a sample is known again."""
    shard, source, _, begin, end, _ = row
    try:
        return text_hash(read_document(read_sample(storage.join(corpus, shard), begin, end), source))
    except ValueError:  # of another's tar
        return None
