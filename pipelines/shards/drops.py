"""`drops/<source>-00000.parquet`: one row for every candidate that did not become a sample, with the reason."""

from collections.abc import Iterable
from itertools import chain, islice

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.document import Drop
from pipelines.layout import drops_folder
from pipelines.parts import DROP_SCHEMA

ROWS_PER_FILE = 1_000_000
_ROWS_PER_GROUP = 65_536


def write_drops(corpus: str, source: str, drops: Iterable[Drop], rows_per_file: int = ROWS_PER_FILE) -> list[str]:
    """Write a source's drops in the given order, and remove surplus files of an earlier build.

    Args:
        corpus: The corpus's folder.
        source: Name of the source or crawl of all drops.
        drops: May be larger than memory.
        rows_per_file: Rows after which a new file begins.

    Returns:
        The paths written; none if there are no drops.
    """
    written: list[str] = []
    rows = iter(drops)
    for first in rows:
        path = storage.join(drops_folder(corpus), f"{source}-{len(written):05d}.parquet")
        _write_file(path, chain([first], islice(rows, rows_per_file - 1)))
        written.append(path)
    for path in storage.list_files(drops_folder(corpus), ".parquet"):
        stem = path.rpartition("/")[2].removesuffix(".parquet")
        name, _, number = stem.rpartition("-")
        if name == source and number.isdigit() and int(number) >= len(written):
            storage.remove(path)
    return written


def _write_file(path: str, drops: Iterable[Drop]) -> None:
    rows = iter(drops)
    with (
        storage.write_whole(path) as file,
        pq.ParquetWriter(file, DROP_SCHEMA, compression="zstd", compression_level=3, store_schema=False) as writer,
    ):
        while batch := [drop.row() for drop in islice(rows, _ROWS_PER_GROUP)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=DROP_SCHEMA))
