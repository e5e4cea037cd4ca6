"""Records of a WARC file are overwritten in place, and all others are read as before."""

import gzip
from pathlib import Path

import pytest

from pipelines.sources.warc import read_pages
from pipelines.takedowns.blank_records import blank_records


def record(number: int, size: int) -> bytes:
    """Return a response of a page, compressed."""
    body = b"<html>" + bytes(97 + (number * i) % 26 for i in range(size)) + b"</html>"
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
        f"WARC-Target-URI: http://a.example/{number}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0)


@pytest.mark.parametrize("gone", [0, 1, 2, 3])
def test_others_stay_where_they_are(tmp_path: Path, gone: int):
    path = tmp_path / "a.warc.gz"
    records = [record(number, size) for number, size in enumerate((50, 200_000, 500, 5_000))]
    path.write_bytes(b"".join(records))
    before = {page.url: page for page in read_pages(str(path))}
    assert blank_records(str(path), lambda url: url == f"http://a.example/{gone}") == 1
    assert path.stat().st_size == sum(map(len, records))
    after = {page.url: page for page in read_pages(str(path))}
    assert after == {url: page for url, page in before.items() if url != f"http://a.example/{gone}"}
    assert before[f"http://a.example/{gone}"].body not in gzip.decompress(path.read_bytes())
