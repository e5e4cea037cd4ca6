import gzip
import io
import json
import zlib

import fsspec
import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.warc import CrawledPage, UnreadableRecord, read_pages, read_records

HTML = [("Content-Type", "text/html; charset=utf-8")]
BODY = b"<html><body>" + b"<p>A boat lies at the dock.</p>" * 40 + b"</body></html>"


def _warc(*responses, is_gzip=True):
    """Return a WARC of (headers, body, status, extra WARC headers), each response with its request and metadata."""
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=is_gzip)
    writer.write_record(writer.create_warcinfo_record("x.warc.gz", {"software": "test"}))
    for number, (headers, body, *more) in enumerate(responses):
        status, extra = (*more, "200 OK", {})[:2] if len(more) < 2 else more
        url = f"https://site.example/{number}"
        date = {"WARC-Date": f"2026-01-18T01:58:{number:02d}Z"}
        http = StatusAndHeaders(status, headers, protocol="HTTP/1.1")
        record = writer.create_warc_record(
            url, "response", io.BytesIO(body), http_headers=http, warc_headers_dict=date | extra
        )
        request = StatusAndHeaders("GET / HTTP/1.1", [("Host", "site.example")], protocol="", is_http_request=True)
        writer.write_record(writer.create_warc_record(url, "request", http_headers=request, warc_headers_dict=date))
        writer.write_record(record)
        writer.write_record(
            writer.create_warc_record(url, "metadata", io.BytesIO(b"fetchTimeMs: 9"), warc_headers_dict=date)
        )
    return file.getvalue()


def _brotli(data):
    file = io.BytesIO()
    writer = BrotliWriter(file)
    writer.write(data)
    writer.close()
    return file.getvalue()


def _write(tmp_path, data, name="x.warc.gz"):
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


def test_responses_come_with_headers_date_and_place(tmp_path):
    signals = [*HTML, ("X-Robots-Tag", "noai"), ("x-robots-tag", "otherbot: none"), ("TDM-Reservation", "1")]
    path = _write(tmp_path, _warc((signals, BODY), (HTML, b"<p>two")))
    first, second = read_pages(path)
    assert (first.url, first.status, first.body, first.fetched_at) == (
        "https://site.example/0", 200, BODY, "2026-01-18T01:58:00Z",
    )  # fmt: skip
    assert [v for k, v in first.headers if k.lower() == "x-robots-tag"] == ["noai", "otherbot: none"]
    assert first.header("tdm-reservation") == "1"
    assert first.is_html
    assert first.refusal is None
    for page in (first, second):
        record = gzip.decompress(storage.read_range(path, page.warc_offset, page.warc_length))
        assert record.startswith(b"WARC/1.")
        assert f"WARC-Target-URI: {page.url}".encode() in record
        assert record.rstrip().endswith(page.body)


def test_the_last_records_length_ends_with_its_gzip_member(tmp_path):
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    http = StatusAndHeaders("200 OK", HTML, protocol="HTTP/1.1")
    writer.write_record(
        writer.create_warc_record("https://a.example/", "response", io.BytesIO(BODY), http_headers=http)
    )
    (page,) = read_pages(_write(tmp_path, file.getvalue()))
    assert (page.warc_offset, page.warc_length) == (0, len(file.getvalue()))


def test_a_plain_warc_and_one_of_zstd_frames_are_read(tmp_path):
    plain = _warc((HTML, BODY), (HTML, b"<p>two"), is_gzip=False)
    path = _write(tmp_path, plain, "x.warc")
    pages = list(read_pages(path))
    assert [p.body for p in pages] == [BODY, b"<p>two"]
    assert storage.read_range(path, pages[1].warc_offset, pages[1].warc_length).rstrip().endswith(b"<p>two")
    packed = _write(tmp_path, zstandard.compress(plain), "x.warc.zst")
    assert [(p.body, p.warc_offset) for p in read_pages(packed)] == [(BODY, None), (b"<p>two", None)]
    cut = _write(tmp_path, plain[:-600], "cut.warc")
    assert [getattr(r, "reason", "page") for r in read_records(cut)][-1] == "truncated_file"


def test_a_range_holds_the_records_that_begin_in_it(tmp_path):
    path = _write(tmp_path, _warc(*[(HTML, b"<p>%d" % n) for n in range(6)]))
    pages = list(read_pages(path))
    middle = list(read_pages(path, pages[2].warc_offset, pages[4].warc_offset))
    assert middle == pages[2:4]


def test_files_in_an_object_store_are_read(tmp_path):
    fsspec.filesystem("memory").pipe("/warc/x.warc.gz", _warc((HTML, BODY)))
    assert [p.body for p in read_pages("memory://warc/x.warc.gz")] == [BODY]


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY)[2:-4]),
        ("br", _brotli(BODY)),
        ("zstd", zstandard.compress(BODY)),
        ("identity", BODY),
        ("gzip", BODY),
        ("deflate", BODY),
        ("zstd", BODY),
        ("br", BODY),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
    ],
)
def test_bodies_are_decoded_and_left_where_they_already_were(tmp_path, encoding, stored):
    path = _write(tmp_path, _warc(([*HTML, ("Content-Encoding", encoding)], stored)))
    assert next(read_pages(path)).body == BODY


def test_renamed_encoding_headers_are_no_encoding(tmp_path):
    headers = [*HTML, ("X-Crawler-content-encoding", "gzip"), ("X-Crawler-transfer-encoding", "chunked")]
    assert next(read_pages(_write(tmp_path, _warc((headers, BODY))))).body == BODY


@pytest.mark.parametrize("stored", [b"6\r\n<p>two\r\n3;x=y\r\n</p\r\n1\r\n>\r\n0\r\n\r\n", b"<p>two</p>"])
def test_chunks_are_joined_where_there_are_any(tmp_path, stored):
    page = next(read_pages(_write(tmp_path, _warc(([*HTML, ("Transfer-Encoding", "chunked")], stored)))))
    assert page.body == b"<p>two</p>"


def test_what_is_no_page_says_why(tmp_path):
    cases = [
        (HTML, BODY, "404 Not Found", {}),
        ([("Content-Type", "application/pdf")], b"%PDF", "200 OK", {}),
        (HTML, b"%PDF", "200 OK", {"WARC-Identified-Payload-Type": "application/pdf"}),
        (HTML, BODY, "200 OK", {"WARC-Truncated": "disconnect"}),
        (HTML, b"x" * (1 << 20), "200 OK", {}),
        ([*HTML, ("Content-Encoding", "gzip")], gzip.compress(BODY)[:-20], "200 OK", {}),
        ([*HTML, ("Transfer-Encoding", "chunked")], b"4\r\n<p>x\r\n9\r\n", "200 OK", {}),
        ([*HTML, ("Content-Length", "9999")], BODY, "200 OK", {}),
        ([], BODY, "200 OK", {"WARC-Identified-Payload-Type": "text/html"}),
        ([("content-type", "Application/XHTML+xml")], BODY, "200 OK", {}),
    ]
    pages = list(read_pages(_write(tmp_path, _warc(*cases))))
    assert [p.refusal for p in pages] == [
        "http_status",
        "not_html",
        "not_html",
        *["truncated_page"] * 5,
        None,
        None,
    ]
    assert [p.truncated for p in pages[3:8]] == [
        "disconnect",
        "length",
        "gzip: ended early",
        "chunked: ended early",
        "Content-Length: ended early",
    ]


def test_answers_that_browsers_take_are_pages(tmp_path):
    untyped, listed = [("Content-Length", str(len(BODY)))], [("Content-Type", "text/html, text/html; charset=utf-8")]
    unknown, zipped = [*HTML, ("Content-Encoding", "utf-8")], [*HTML, ("Content-Encoding", "gzip")]
    two_members = gzip.compress(BODY[:99]) + gzip.compress(BODY[99:]) + b"\0\0"
    data = _warc((untyped, BODY), (listed, BODY), (unknown, BODY), (zipped, two_members))
    assert [(p.refusal, p.body) for p in read_pages(_write(tmp_path, data))] == [(None, BODY)] * 4


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n",  # ends before the body's first empty line
        b"HTTP/1.1  200 OK\r\nContent-Type: text/html\r\n\r\n",
        "HTTP/1.1 200 Успех\r\nno field\r\nContent-Type : text/html\r\n\r\n".encode(),
        b"HTTP/2 200\r\nContent-Type:\r\n text/html\r\n\r\n",
    ],
)
def test_heads_are_read_as_browsers_do(tmp_path, head):
    body = b"<p>one\r\n\r\n<p>two"
    block = head + body
    fields = "WARC-Type: response\r\nWARC-Target-URI: https://a.example/\r\nWARC-Date: 2026-01-18T01:58:00Z\r\n"
    record = f"WARC/1.1\r\n{fields}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"
    (page,) = read_pages(_write(tmp_path, gzip.compress(record)))
    assert (page.status, page.is_html, page.body) == (200, True, body)


def test_the_charset_that_the_crawler_found_is_no_statement_of_the_server(tmp_path):
    extra = {"WARC-Identified-Content-Charset": "windows-1251"}
    (page,) = read_pages(_write(tmp_path, _warc(([("Content-Type", "text/html")], BODY, "200 OK", extra))))
    assert (page.header("content-type"), page.identified_charset) == ("text/html", "windows-1251")


def test_a_truncated_file_gives_what_was_read_and_one_record_that_says_so(tmp_path):
    data = _warc(*[(HTML, b"<p>%d" % n + BODY) for n in range(3)])
    whole = list(read_pages(_write(tmp_path, data)))
    for cut in range(whole[2].warc_offset + 20, whole[2].warc_offset + whole[2].warc_length - 30, 17):
        *pages, last = read_records(_write(tmp_path, data[:cut], "cut.warc.gz"))
        assert pages == whole[:2]
        assert isinstance(last, UnreadableRecord)
        assert last.reason == "truncated_file"


def test_damage_in_the_middle_ends_the_file_there(tmp_path):
    data = bytearray(_warc(*[(HTML, b"<p>%d" % n + BODY) for n in range(3)]))
    whole = list(read_pages(_write(tmp_path, bytes(data))))
    at = whole[1].warc_offset + 40
    data[at : at + 60] = bytes(60)
    records = list(read_records(_write(tmp_path, bytes(data), "bad.warc.gz")))
    assert [r for r in records if isinstance(r, CrawledPage)][:1] == whole[:1]
    assert [r.reason for r in records if isinstance(r, UnreadableRecord)] == ["truncated_file"]


def test_a_response_that_is_no_http_or_cannot_be_decoded_is_passed_over(tmp_path):
    damaged = ([*HTML, ("Content-Encoding", "gzip")], gzip.compress(BODY)[:30] + b"xxxxxxxxxxxxxxxxx")
    records = list(read_records(_write(tmp_path, _warc(damaged, (HTML, BODY)))))
    assert [getattr(r, "reason", "page") for r in records] == ["malformed_record", "page"]


@pytest.mark.parametrize("data", [b"hello world, no warc\n" * 9, gzip.compress(b"hello"), b"\x1f\x8bgarbage"])
def test_other_files_are_refused(tmp_path, data):
    with pytest.raises(UserError, match="not a WARC file"):
        list(read_records(_write(tmp_path, data)))


def test_an_empty_file_has_no_pages(tmp_path):
    assert list(read_records(_write(tmp_path, b""))) == []


@pytest.mark.parametrize("status", ["99999999999", "2000", "20", "000", "099", "+20", "-1", "OK"])
def test_a_status_has_three_digits(tmp_path, status):
    """Anything else would not even fit the ledger, and end the crawl at every rerun."""
    wat = {
        "WARC-Header-Metadata": {"WARC-Target-URI": "https://site.example/wat"},
        "Payload-Metadata": {"HTTP-Response-Metadata": {"Response-Message": {"Status": status}}},
    }
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    body = io.BytesIO(json.dumps({"Envelope": wat}).encode())
    writer.write_record(writer.create_warc_record("https://site.example/wat", "metadata", body))
    path = _write(tmp_path, _warc((HTML, BODY, f"{status} Fine", {}), (HTML, BODY)) + file.getvalue())
    first, page, last = read_records(path)
    assert (page.status, page.body) == (200, BODY)
    assert [(r.reason, r.url) for r in (first, last)] == [
        ("malformed_record", "https://site.example/0"),
        ("malformed_record", "https://site.example/wat"),
    ]


def test_the_answer_of_a_name_server_is_no_page_and_no_drop(tmp_path):
    block = b"20260118015800\na.example.\t300\tIN\tA\t192.0.2.1\n"
    fields = "WARC-Type: response\r\nWARC-Target-URI: dns:a.example\r\nContent-Type: text/dns\r\n"
    record = f"WARC/1.0\r\n{fields}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"
    (page,) = read_records(_write(tmp_path, gzip.compress(record) + _warc((HTML, BODY))))
    assert page.url == "https://site.example/0"
