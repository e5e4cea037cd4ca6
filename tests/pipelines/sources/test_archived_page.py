"""Pages of archives that are no HTTP responses: files, converted text, WAT's lists, and records without a body."""

import gzip
import json

import pytest

from pipelines.pages.kinds import PageOrigin, PageSettings, pairs, text
from pipelines.sources.archived_page import kinds_of, parse_record
from pipelines.sources.warc import CrawledPage, UnreadableRecord, read_records

URL = "https://site.example/docks/"
HTML = b"<html><head><title>Docks</title></head><body><p>A boat lies at the dock.</p></body></html>"
WAT = {
    "Container": {"Filename": "CC-MAIN.warc.gz", "Offset": "80610731"},
    "Envelope": {
        "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": URL, "WARC-Date": "2026-01-18T01:58:10Z"},
        "Payload-Metadata": {
            "HTTP-Response-Metadata": {
                "Response-Message": {"Status": "200", "Version": "HTTP/1.1"},
                "Headers": {"Content-Type": "text/html; charset=utf-8", "X-Robots-Tag": "noai"},
                "HTML-Metadata": {
                    "Head": {
                        "Title": "Docks",
                        "Base": "/img/",
                        "Metas": [{"name": "robots", "content": "noimageai"}],
                        "Link": [{"path": "LINK@/href", "url": "/own", "rel": "canonical"}],
                    },
                    "Links": [
                        {"path": "IMG@/src", "url": "boat.jpg", "alt": 'a boat "Anna" & her dock'},
                        {"path": "A@/href", "url": "/next", "text": "Next"},
                        {"path": "IMG@/src", "url": "data:image/gif;base64,R0lGOD", "alt": "cut short by WAT"},
                        {"path": "IMG@/src", "url": "//cdn.example/shed.png", "alt": "a grey shed at night"},
                        {"path": "IMG@/src"},
                        "no mapping",
                    ],
                },
            }
        },
    },
}


def record(warc_type: str, block: bytes, content_type: str | None = None, url: str = URL, **headers: str) -> bytes:
    lines = ["WARC/1.0", f"WARC-Type: {warc_type}", f"WARC-Target-URI: {url}", "WARC-Date: 2026-01-18T01:58:10Z"]
    lines += [f"Content-Type: {content_type}"] if content_type else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, f"Content-Length: {len(block)}", "", ""])
    return gzip.compress(head.encode() + block + b"\r\n\r\n")


def read(tmp_path, *records: bytes) -> list:
    path = tmp_path / "x.warc.gz"
    path.write_bytes(b"".join(records))
    return list(read_records(str(path)))


def wat(change: object = None) -> bytes:
    return record("metadata", json.dumps(change or WAT).encode(), "application/json")


def test_files_without_http_headers_are_pages(tmp_path):
    page, *others = read(
        tmp_path,
        record("resource", HTML, "text/html; charset=utf-8"),
        record("resource", HTML, WARC_Identified_Payload_Type="text/html"),
        record("resource", HTML, "text/html", WARC_Truncated="length"),
        record("resource", b"#wget log", "text/plain", "metadata://gnu.org/software/wget/warc/wget.log"),
        record(
            "resource", b"HTTP/1.1 404 Gone\r\nContent-Type: text/html\r\n\r\n", "application/http;msgtype=response"
        ),
    )
    assert (page.url, page.status, page.body, page.fetched_at) == (URL, 200, HTML, "2026-01-18T01:58:10Z")
    assert (page.header("content-type"), page.refusal, page.warc_offset) == ("text/html; charset=utf-8", None, 0)
    assert page.warc_length == others[0].warc_offset
    assert [p.refusal for p in others] == [None, "truncated_page", "not_html", "http_status"]


def test_the_text_of_a_wet_file_is_a_text_and_nothing_else(tmp_path):
    words = "Docks\nA boat lies at the dock – été.\n"
    page, html, pdf = read(
        tmp_path,
        record("conversion", words.encode(), "text/plain", WARC_Identified_Content_Language="eng"),
        record("conversion", HTML, "text/html"),
        record("conversion", b"%PDF", "application/pdf"),
    )
    assert (page.refusal, html.refusal, pdf.refusal) == (None, None, "not_html")
    assert (kinds_of(page), kinds_of(html)) == ({"text"}, None)
    (candidate,) = text(parse_record(page, URL), PageOrigin(), "src", PageSettings())
    assert candidate.document.text == words.strip()
    empty = parse_record(read(tmp_path, record("conversion", b" \n", "text/plain"))[0], URL)
    assert text(empty, PageOrigin(), "src", PageSettings()) == []


def test_a_wat_file_gives_pairs_by_the_rules_of_pages(tmp_path):
    (page,) = read(tmp_path, record("warcinfo", b"software: x"), wat(), record("request", b"GET / HTTP/1.1\r\n\r\n"))
    assert (page.url, page.status, page.refusal, kinds_of(page)) == (URL, 200, None, {"pair"})
    assert page.header("x-robots-tag") == "noai"
    parsed = parse_record(page, URL)
    assert parsed.canonical_url == "https://site.example/own"
    assert ("robots", "noimageai") in parsed.meta
    found = pairs(parsed, PageOrigin(), "src", PageSettings())
    assert [(c.requests[0].url, c.document.text) for c in found] == [
        ("https://site.example/img/boat.jpg", 'a boat "Anna" & her dock'),
        ("https://cdn.example/shed.png", "a grey shed at night"),
    ]
    assert parsed.skipped


@pytest.mark.parametrize(
    "listing", [None, [], {"Links": None}, {"Head": []}, {"Links": [1]}, {"Head": {"Metas": [{"a b": "c", "x": 1}]}}]
)
def test_a_wat_record_may_list_nothing(tmp_path, listing):
    changed = json.loads(json.dumps(WAT))
    changed["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"] = listing
    (page,) = read(tmp_path, wat(changed))
    assert parse_record(page, URL).images == ()


def test_metadata_that_describes_no_response_is_no_page_and_damaged_is_named(tmp_path):
    request = {"Envelope": {"WARC-Header-Metadata": {}, "Payload-Metadata": {"HTTP-Request-Metadata": {}}}}
    assert read(tmp_path, wat(request), record("metadata", b"fetchTimeMs: 9", "application/warc-fields")) == []
    damaged = read(tmp_path, record("metadata", b'{"Envelope": ', "application/json"), wat({"Envelope": {}}))
    assert [(type(r), r.reason) for r in damaged] == [(UnreadableRecord, "malformed_record")] * 2


def test_a_revisit_is_a_page_without_its_body(tmp_path):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    found = read(
        tmp_path,
        record("revisit", head, "application/http; msgtype=response", WARC_Refers_To_Target_URI="https://b.example/"),
        record("revisit", head.replace(b"200 OK", b"304 Not Modified"), "application/http; msgtype=response"),
        record("revisit", b""),
    )
    assert all(isinstance(page, CrawledPage) for page in found)
    assert [(page.refusal, page.body) for page in found] == [("revisit_record", b"")] * 3
