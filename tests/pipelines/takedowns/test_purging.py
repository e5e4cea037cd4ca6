"""Tests of what a takedown leaves of drops."""

from dataclasses import replace
from pathlib import Path

from pipelines.block_list import BlockList, Entry, sha256_of
from pipelines.document import Drop
from pipelines.parts import DROP_SCHEMA, read_rows, write_table
from pipelines.takedowns.purging import redact_drops, tracebacks_of

PAGE = "http://a.example/page"


def redacted(path: Path, block: BlockList, *drops: Drop) -> list[Drop]:
    write_table(str(path), [drop.row() for drop in drops], DROP_SCHEMA)
    redact_drops(str(path), str(path), block)
    return [Drop(**row) for row in read_rows(str(path))]


def test_drops_of_a_page_of_which_a_part_was_taken_lose_their_words(tmp_path: Path):
    block = BlockList([Entry("page", sha256_of(PAGE), None, 1)])
    drop = Drop(source="pairs", stage="extract", reason="character_repetition", unit="document", key="p1",
                url=f"{PAGE}.jpg", page_url=PAGE, excerpt="words", detail="0.4")  # fmt: skip
    other = replace(drop, page_url=f"{PAGE}2")
    assert redacted(tmp_path / "drops.parquet", block, drop, other) == [replace(drop, excerpt=None), other]


def test_addresses_among_words_go(tmp_path: Path):
    block = BlockList([Entry("url", sha256_of(PAGE), None, 1)])
    drop = Drop(source="web", stage="crawl", reason="not_found", unit="page", url="http://b.example/r",
                page_url="http://b.example/r", detail=f"at {PAGE}: Not Found", record=f"{PAGE}#2")  # fmt: skip
    other = replace(drop, detail=f"at {PAGE}s: Not Found", record="a.warc.gz 1")
    assert redacted(tmp_path / "drops.parquet", block, drop, other) == [replace(drop, detail=None, record=None), other]


def test_tracebacks_are_told_until_their_drops_are_redacted(tmp_path: Path):
    block = BlockList([Entry("url", sha256_of(PAGE), None, 1)])
    drop = Drop(source="web", stage="extract", reason="internal_error", unit="page", url=PAGE,
                detail="KeyError, traceback 00ff")  # fmt: skip
    other = replace(drop, url=f"{PAGE}2", detail="KeyError, traceback 11ff")
    path = str(tmp_path / "drops.parquet")
    write_table(path, [drop.row(), other.row()], DROP_SCHEMA)
    for _ in range(2):  # who is killed before they are removed asks again
        assert tracebacks_of(path, block) == {"00ff"}
    redact_drops(path, path, block)
    assert tracebacks_of(path, block) == set()
