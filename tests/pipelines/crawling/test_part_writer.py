"""Tests of writing a part of a crawl: a WARC for any reader, a ledger that finds each page in it, the links."""

import hashlib
import io
import json
from base64 import b32encode
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator as FastIterator
from warcio.archiveiterator import ArchiveIterator

from pipelines import storage
from pipelines.crawling.ledger import LedgerRow, part_name, round_of
from pipelines.crawling.part_writer import PART_PAGES, CrawlPartWriter, WarcPlace
from pipelines.crawling.warc_records import exchange_records
from pipelines.document import Signal
from pipelines.drop_reasons import FETCHED
from pipelines.parts import PartFolder, read_rows
from pipelines.sources.warc import CrawledPage, read_records
from pipelines.web.answers import Fetched

BODY = "<p>café</p>".encode()


def fetched(url: str = "https://a.example/x?q=1", body: bytes = BODY, **more) -> Fetched:
    return Fetched(
        url=url,
        final_url=url,
        status=200,
        reason="OK",
        http_version="1.1",
        headers=(("Content-Type", "text/html"), ("Content-Encoding", "gzip"), ("Content-Length", "9"), ("X-A", "é")),
        body=body,
        request_headers=(("Host", "a.example"), ("User-Agent", "Dromaius")),
        ip="192.0.2.1",
        fetched_at="2026-01-05T10:11:12Z",
        **more,
    )


@pytest.fixture
def folder(tmp_path: Path) -> PartFolder:
    return PartFolder(str(tmp_path))


def written(folder: PartFolder, *answers: Fetched) -> tuple[bytes, list[WarcPlace]]:
    writer = CrawlPartWriter(folder, 3)
    places = []
    for answer in answers:
        place = writer.store(exchange_records(answer, {"depth": 1, "signals": []}))
        writer.add(LedgerRow(answer.url, 1, FETCHED, **place._asdict()))
        places.append(place)
    name = writer.close()
    assert name is not None
    assert round_of(name) == 3
    return storage.read_bytes(folder.file(name, ".warc.gz")), places


def sha1(data: bytes) -> str:
    return f"sha1:{b32encode(hashlib.sha1(data).digest()).decode()}"


def test_warcio_reads_a_part_with_digests_that_hold(folder: PartFolder):
    data, _ = written(folder, fetched(), fetched("https://a.example/y", b"second", truncated=True))
    records = []
    for record in ArchiveIterator(io.BytesIO(data), check_digests="raise"):
        records.append((record, record.content_stream().read()))
    assert [r.rec_type for r, _ in records] == ["warcinfo", *["request", "response", "metadata"] * 2]
    (_, (request, _), (response, body), (metadata, note)) = records[:4]
    headers = response.rec_headers
    assert body == BODY
    assert headers.get_header("WARC-Target-URI") == "https://a.example/x?q=1"
    assert headers.get_header("WARC-Date") == "2026-01-05T10:11:12Z"
    assert headers.get_header("WARC-IP-Address") == "192.0.2.1"
    assert headers.get_header("WARC-Payload-Digest") == sha1(BODY)
    assert headers.get_header("WARC-Truncated") is None
    assert request.http_headers.protocol == "GET"
    assert request.http_headers.statusline.startswith("/x?q=1 ")
    for other in (request, metadata):
        assert other.rec_headers.get_header("WARC-Concurrent-To") == headers.get_header("WARC-Record-ID")
    assert json.loads(note) == {"depth": 1, "signals": []}
    assert records[5][0].rec_headers.get_header("WARC-Truncated") == "length"


def test_headers_say_that_the_body_is_decoded_and_what_was_sent(folder: PartFolder):
    data, _ = written(folder, fetched())
    (response,) = [r for r in ArchiveIterator(io.BytesIO(data)) if r.rec_type == "response"]
    assert response.http_headers.headers == [
        ("Content-Type", "text/html"),
        ("X-Crawler-Content-Encoding", "gzip"),
        ("X-Crawler-Content-Length", "9"),
        ("X-A", "é"),  # the byte that was sent
        ("Content-Length", str(len(BODY))),
    ]


def test_fastwarc_reads_each_page_at_its_place(folder: PartFolder):
    data, places = written(folder, fetched(), fetched("https://a.example/y", b"second"))
    for (_, offset, length), body in zip(places, (BODY, b"second"), strict=True):
        (record,) = FastIterator(io.BytesIO(data[offset : offset + length]), verify_digests=True)
        assert record.reader.read() == body
        assert record.http_headers.status_code == 200


def test_our_reader_finds_pages_where_the_ledger_says(folder: PartFolder):
    written(folder, fetched(), fetched("https://a.example/y", b"second"))
    (receipt,) = folder.receipts()
    rows = list(read_rows(folder.file(receipt.part, ".parquet")))
    pages = [p for p in read_records(folder.file(receipt.part, ".warc.gz")) if isinstance(p, CrawledPage)]
    assert [(p.url, p.warc_offset, p.warc_length) for p in pages] == [
        (r["url"], r["offset"], r["length"]) for r in rows
    ]
    assert {r["warc"] for r in rows} == {f"{receipt.part}.warc.gz"}
    assert receipt.extra == {"num": 2, "outcomes": {"fetched": 2}}


def test_links_are_kept_once_at_their_least_depth(folder: PartFolder):
    writer = CrawlPartWriter(folder, 0)
    for url, depth in (("https://b.example/", 3), ("https://a.example/", 2), ("https://b.example/", 1)):
        writer.link(url, depth)
    name = writer.close() or ""
    assert [(r["url"], r["depth"]) for r in read_rows(folder.file(name, ".links.parquet"))] == [
        ("https://a.example/", 2),
        ("https://b.example/", 1),
    ]
    assert list(read_rows(folder.file(name, ".parquet"))) == []
    assert not storage.exists(folder.file(name, ".warc.gz"))  # nothing was fetched


def test_nothing_gives_no_part_and_an_abandoned_one_leaves_nothing(folder: PartFolder, tmp_path: Path):
    writer = CrawlPartWriter(folder, 0)
    assert writer.close() is None
    writer.store(exchange_records(fetched(), {}))
    writer.add(LedgerRow("https://a.example/", 0, "http_404"))
    writer.abandon(OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_due_by_its_pages(folder: PartFolder):
    writer = CrawlPartWriter(folder, 0)
    assert not writer.is_due
    for _ in range(PART_PAGES):
        writer.add(LedgerRow("https://a.example/", 0, "http_404"))
    assert writer.is_due
    first = writer.close()
    assert not writer.is_due
    writer.add(LedgerRow("https://a.example/", 0, "http_404"))
    assert writer.close() != first


def test_rounds_are_read_from_names_of_any_length():
    assert [round_of(part_name(n, "ab-cd")) for n in (0, 7, 1234)] == [0, 7, 1234]
    assert round_of("/out/r12-x/work/r003-abc.links.parquet") == 3


def test_signals_of_a_row_of_an_earlier_version_lose_their_secrets():
    signals = tuple(Signal("x-robots-tag", "page", "all", None, f"https://u:p{n}@a.example/") for n in range(2))
    row = LedgerRow("https://a.example/", 0, FETCHED, signals=signals)
    found = LedgerRow.from_columns(row.to_columns()).signals
    assert found == (Signal("x-robots-tag", "page", "all", None, "https://a.example/"),)
