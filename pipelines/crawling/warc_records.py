"""WARC records of one exchange with a host: the request, the response, and a note of ours."""

import io
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from warcio.recordloader import ArcWarcRecord
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.document import canonical_json
from pipelines.web.answers import Fetched

_INFO = {"software": "Dromaius", "format": "WARC File Format 1.1", "robots": "obeyed (RFC 9309)"}


@dataclass(frozen=True, slots=True)
class ExchangeRecords:
    """Compressed records, in the order in which they are written."""

    request: bytes
    response: bytes
    note: bytes


class _SentHead(StatusAndHeaders):
    """Head of a message as it was sent: warcio writes ASCII, and refuses or escapes what else servers write."""

    def __init__(self, first_line: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__(first_line.decode("latin-1"), [])
        lines = [first_line, *(b"%b: %b" % header for header in headers)]
        self.headers_buff = b"\r\n".join(lines) + b"\r\n\r\n"

    def compute_headers_buffer(self, header_filter: Any = None) -> None:
        """Leave the bytes as they are."""


def file_record(name: str) -> bytes:
    """Return the first record of a WARC file, which describes it."""
    return _encoded(_writer().create_warcinfo_record(name, _INFO))


def exchange_records(fetched: Fetched, metadata: dict[str, Any]) -> ExchangeRecords:
    """Return the records of a request and its response.

    Args:
        fetched: The response.
        metadata: What the note says, as JSON.
    """
    writer = _writer()
    where = urlsplit(fetched.url)
    target = (where.path or "/") + (f"?{where.query}" if where.query else "")
    common = {"WARC-Date": fetched.fetched_at, "WARC-IP-Address": fetched.ip}
    first_line = f"HTTP/{fetched.http_version} {fetched.status} {fetched.reason}".encode("utf-8", "surrogateescape")
    response = writer.create_warc_record(
        fetched.url,
        "response",
        payload=io.BytesIO(fetched.body),
        http_headers=_SentHead(first_line, _headers_of_decoded_body(fetched)),
        warc_headers_dict=common | ({"WARC-Truncated": "length"} if fetched.truncated else {}),
    )
    request = writer.create_warc_record(
        fetched.url,
        "request",
        http_headers=_SentHead(
            f"GET {target} HTTP/1.1".encode(), [(n.encode(), v.encode()) for n, v in fetched.request_headers]
        ),
        warc_headers_dict=common,
    )
    response_id = response.rec_headers.get_header("WARC-Record-ID")
    request.rec_headers.add_header("WARC-Concurrent-To", response_id)
    note = writer.create_warc_record(
        fetched.url,
        "metadata",
        payload=io.BytesIO(canonical_json(metadata).encode()),
        warc_content_type="application/json",
        warc_headers_dict={"WARC-Date": fetched.fetched_at, "WARC-Concurrent-To": response_id},
    )
    return ExchangeRecords(_encoded(request), _encoded(response), _encoded(note))


def _writer() -> WARCWriter:
    return WARCWriter(io.BytesIO(), gzip=True)


def _encoded(record: ArcWarcRecord) -> bytes:
    buffer = io.BytesIO()
    WARCWriter(buffer, gzip=True).write_record(record)
    return buffer.getvalue()


def _headers_of_decoded_body(fetched: Fetched) -> list[tuple[bytes, bytes]]:
    """Return response headers that fit the decoded body: encoding headers renamed, as Common Crawl does."""
    headers = []
    for name, value in fetched.headers:
        if name.lower() in ("content-encoding", "transfer-encoding", "content-length"):
            name = f"X-Crawler-{name}"
        headers.append((name, value))
    headers.append(("Content-Length", str(len(fetched.body))))
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
