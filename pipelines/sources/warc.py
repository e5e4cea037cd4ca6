"""Pages in WARC files: of our own crawl, Common Crawl, or any other crawler.

The HTTP headers inside are those of the crawl, so that the page's opt-out signals can be read without another
request. Bodies are decoded: Common Crawl stores them so and renames the encoding headers, others store the original.
A page may also be a `resource` (a file without HTTP headers), a `conversion` (the text of Common Crawl's WET), or what
the `metadata` of a WAT file lists of it (`archived_page.py`).
"""

import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal

import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from pipelines import storage
from pipelines.drop_reasons import Reason
from pipelines.errors import UserError
from pipelines.faults import refusal_of
from pipelines.web.content_coding import DamagedBodyError, decode_body
from pipelines.web.media_types import HTML_TYPES, media_type, stated_type
from pipelines.web.response_head import HEAD_END, MAX_HEAD_BYTES, repaired_head

MAX_BODY_BYTES = 64 << 20  # decoded; no page is this large, but a decompression bomb is
# Common Crawl cut payloads at 1 MiB before March 2025 and at 5 MiB since, not always with a flag.
CUT_LENGTHS = frozenset({1 << 20, 5 << 20})
_STATUS = re.compile(rb"[1-9][0-9]{2}")  # RFC 9112, 4
_ADDED_HEAD_BYTES = 4096  # a crawler may rename fields and add some, as ours does
RecordType = Literal["response", "resource", "conversion", "metadata", "revisit"]


@dataclass(frozen=True, slots=True)
class CrawledPage:
    """A page as a crawl stored it, with its body decoded. `truncated` says why the body is incomplete, if it is.

    `record_type` is the WARC record's; the body of `metadata` is the JSON of a WAT file, and a `revisit` has none.
    `warc_offset` and `warc_length` are of the compressed record; None if the file is not compressed by record.
    """

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    fetched_at: str
    warc_offset: int | None
    warc_length: int | None
    truncated: str | None = None
    identified_mime: str | None = None
    identified_charset: str | None = None
    record_type: RecordType = "response"

    def header(self, name: str) -> str | None:
        """Return the first HTTP header of that name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def mime(self) -> str | None:
        """The type that the server states, else the one that the crawler detected, else what the bytes are."""
        stated = stated_type(self.header("content-type"))
        return stated or self.identified_mime or media_type(None, self.body)

    @property
    def is_html(self) -> bool:
        """True if the server, and the crawler if it checked, consider it HTML."""
        return self.mime in HTML_TYPES and self.identified_mime in (None, *HTML_TYPES)

    @property
    def is_text(self) -> bool:
        """True if it is the text that was taken from a page: of no other page is plain text read."""
        return self.record_type == "conversion" and self.mime == "text/plain"

    @property
    def refusal(self) -> Reason | None:
        """Reason not to parse the page, or None: `http_status`, `revisit_record`, `not_html` or `truncated_page`."""
        if self.status != 200:
            return "http_status"
        if self.record_type == "revisit":
            return "revisit_record"
        if not (self.is_html or self.is_text or self.record_type == "metadata"):
            return "not_html"
        return "truncated_page" if self.truncated else None


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A record that cannot be read, or (`truncated_file`) the end of the readable part of a WARC file.

    `url` is what the record says that it is of, if it says so.
    """

    warc_offset: int
    reason: Reason
    detail: str
    url: str | None = None


def read_pages(path: str, start: int = 0, stop: int | None = None) -> Iterator[CrawledPage]:
    """Yield the pages of `read_records` of any status and type, without unreadable ones."""
    return (record for record in read_records(path, start, stop) if isinstance(record, CrawledPage))


def read_records(path: str, start: int = 0, stop: int | None = None) -> Iterator[CrawledPage | UnreadableRecord]:
    """Yield the pages of a WARC file, in order; if the file is damaged, a last record says so.

    Args:
        path: A WARC file, plain or compressed by record.
        start: Offset of the first record to read.
        stop: Records that begin here or later are not read.

    Raises:
        UserError: If the file is not a WARC at all.
    """
    with storage.open_read(path) as file:
        file.seek(start)
        pending: CrawledPage | None = None
        num, at, is_by_record = 0, start, True
        try:
            for record in ArchiveIterator(file, parse_http=False):
                is_by_record = num == 0 or record.stream_pos > at
                at = record.stream_pos
                if pending is not None:
                    yield _placed(pending, at)
                    pending = None
                if stop is not None and at >= stop:
                    return
                num += 1
                block = record.reader.read(MAX_BODY_BYTES + 1)
                if len(block) < min(record.content_length, MAX_BODY_BYTES) or "Content-Length" not in record.headers:
                    short = f"{len(block)} bytes of {record.content_length}"
                    yield UnreadableRecord(at, "truncated_file", short, _target(record))
                    return
                try:
                    page = _page(record, block)
                except Exception as error:
                    refusal = refusal_of(error)
                    page = UnreadableRecord(at, refusal.reason, refusal.detail or "", _target(record))
                if isinstance(page, CrawledPage):
                    pending = page
                elif page is not None:
                    yield page
        except OSError as error:
            if num == 0 and start == 0 and not _looks_like_warc(path):
                raise UserError(f"{path}: not a WARC file") from error
            if pending is not None:
                yield replace(pending, warc_length=None)
            yield UnreadableRecord(at, "truncated_file", str(error))
            return
        except Exception as error:  # of the reader: what follows in the file is lost
            refusal = refusal_of(error)
            if pending is not None:
                yield replace(pending, warc_length=None)
            yield UnreadableRecord(at, refusal.reason, refusal.detail or "")
            return
        if num == 0:
            if start == 0 and storage.size(path) and not _looks_like_warc(path):
                raise UserError(f"{path}: not a WARC file")
            return
        end = _record_end(file, at)
        if pending is not None:
            yield _placed(pending, end or at) if is_by_record else replace(pending, warc_offset=None)
        if end is None or end < storage.size(path):  # the reader silently skips a truncated header
            yield UnreadableRecord(at if end is None else end, "truncated_file", "the last record ends early")


def parse_record(data: bytes) -> CrawledPage | UnreadableRecord:
    """Return the page of one compressed record, as a range of a WARC file has it, at offset 0 of these bytes."""
    found: CrawledPage | UnreadableRecord | None = None
    try:
        for number, record in enumerate(ArchiveIterator(io.BytesIO(data), parse_http=False)):
            if number:
                return UnreadableRecord(0, "malformed_record", "more than one record in the range")
            block = record.reader.read(MAX_BODY_BYTES + 1)
            if len(block) < min(record.content_length, MAX_BODY_BYTES) or "Content-Length" not in record.headers:
                short = f"{len(block)} bytes of {record.content_length}"
                return UnreadableRecord(0, "truncated_file", short, _target(record))
            found = _page(record, block)
    except OSError as error:  # of the reader: the range does not begin where a record does
        return UnreadableRecord(0, "malformed_record", str(error))
    except Exception as error:
        refusal = refusal_of(error)
        return UnreadableRecord(0, refusal.reason, refusal.detail or "")
    if isinstance(found, CrawledPage):
        return replace(found, warc_offset=0, warc_length=len(data))
    return found or UnreadableRecord(0, "malformed_record", "no record of a page in the range")


def _placed(page: CrawledPage, end: int) -> CrawledPage:
    """Return the page with its record's length, or without offset if records share one compressed stream."""
    at = page.warc_offset or 0
    return replace(page, warc_length=end - at) if end > at else replace(page, warc_offset=None)


def _record_end(file: BinaryIO, at: int) -> int | None:
    """Return the end of the last record: of its gzip member or zstd frame, else of the file; None if truncated."""
    file.seek(at)
    head = file.read(4)
    file.seek(at)
    if head[:2] == b"\x1f\x8b":
        decoder: Any = zlib.decompressobj(31)
    elif head == b"\x28\xb5\x2f\xfd":
        decoder = zstandard.ZstdDecompressor().decompressobj()
    else:
        end = file.seek(0, io.SEEK_END)
        file.seek(max(0, end - 4))
        return end if file.read(4) == b"\r\n\r\n" else None
    try:
        while chunk := file.read(1 << 16):
            decoder.decompress(chunk)
            if decoder.eof:
                return file.tell() - len(decoder.unused_data)
    except (zlib.error, zstandard.ZstdError):
        return None
    return None


def _page(record: WarcRecord, block: bytes) -> CrawledPage | UnreadableRecord | None:
    """Return the page of a record and its block, or None for a record of another kind."""
    if (_target(record) or "").startswith("dns:"):
        return None  # Heritrix stores the answers of name servers as responses
    is_http = (record.headers.get("Content-Type") or "").partition(";")[0].strip().lower() == "application/http"
    if record.record_type == WarcRecordType.response or (record.record_type == WarcRecordType.resource and is_http):
        return _response(record, block)
    if record.record_type == WarcRecordType.revisit:
        return _revisit(record, block)
    if record.record_type == WarcRecordType.metadata:
        return _wat_page(record, block)
    if record.record_type == WarcRecordType.resource:
        return _file(record, block, "resource")
    return _file(record, block, "conversion") if record.record_type == WarcRecordType.conversion else None


def _target(record: WarcRecord) -> str | None:
    """Return the URL that a record is of, if it names one; older crawlers put it in angle brackets."""
    return (record.headers.get("WARC-Target-URI") or "").strip("<> ") or None


def _unreadable(record: WarcRecord, detail: str) -> UnreadableRecord:
    return UnreadableRecord(record.stream_pos, "malformed_record", detail, _target(record))


def _file(record: WarcRecord, block: bytes, record_type: RecordType) -> CrawledPage:
    """Return the page of a record that holds a file without HTTP headers."""
    stated = record.headers.get("Content-Type")
    truncated = record.headers.get("WARC-Truncated") or ("length" if len(block) > MAX_BODY_BYTES else None)
    return CrawledPage(
        url=_target(record) or "",
        status=200,
        headers=(("Content-Type", stated),) if stated else (),
        body=block[:MAX_BODY_BYTES],
        fetched_at=record.headers.get("WARC-Date") or "",
        warc_offset=record.stream_pos,
        warc_length=None,
        truncated=truncated,
        identified_mime=record.headers.get("WARC-Identified-Payload-Type"),
        identified_charset=record.headers.get("WARC-Identified-Content-Charset"),
        record_type=record_type,
    )


def _revisit(record: WarcRecord, block: bytes) -> CrawledPage:
    """Return a page without its body, which an earlier record has, here or in another archive."""
    found = _response(record, block)
    page = found if isinstance(found, CrawledPage) else _file(record, b"", "revisit")
    return replace(page, body=b"", status=200 if page.status == 304 else page.status, record_type="revisit")


def _wat_page(record: WarcRecord, block: bytes) -> CrawledPage | UnreadableRecord | None:
    """Return the page that a record of a WAT file describes; None if it describes no response."""
    if not block.lstrip().startswith(b"{"):
        return None  # of another crawler: fields such as fetchTimeMs
    try:
        record_of_wat = json.loads(block)
        if "Envelope" not in record_of_wat:
            return None  # a crawler's note, as ours writes
        envelope = record_of_wat["Envelope"]
        response = envelope["Payload-Metadata"].get("HTTP-Response-Metadata")
        if response is None:
            return None  # of a request or of the file itself
        warc, status = envelope["WARC-Header-Metadata"], int(response["Response-Message"]["Status"])
        if not 100 <= status <= 999:
            raise ValueError(f"status {status}"[:100])
        headers = tuple((str(name), str(value)) for name, value in (response.get("Headers") or {}).items())
        return CrawledPage(
            url=str(warc["WARC-Target-URI"]),
            status=status,
            headers=headers,
            body=json.dumps(response.get("HTML-Metadata") or {}).encode(),
            fetched_at=str(warc.get("WARC-Date") or ""),
            warc_offset=record.stream_pos,
            warc_length=None,
            record_type="metadata",
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return _unreadable(record, f"no WAT record: {error!r}"[:200])


def _response(record: WarcRecord, block: bytes) -> CrawledPage | UnreadableRecord:
    """Return the page of a response record and its block, HTTP headers included."""
    end = HEAD_END.search(block, 0, MAX_HEAD_BYTES + _ADDED_HEAD_BYTES)
    head, body = (repaired_head(block[: end.start()]), block[end.end() :]) if end is not None else (b"", b"")
    status_line, *rest = head.rstrip(b"\r\n").split(b"\r\n")
    status = status_line.split(b" ", 2)
    url = _target(record)
    if len(status) < 2 or not _STATUS.fullmatch(status[1]) or not status[0].startswith(b"HTTP") or not url:
        return _unreadable(record, "no HTTP response")
    headers = tuple(_headers(rest))
    truncated = record.headers.get("WARC-Truncated")
    if truncated is None and (len(body) in CUT_LENGTHS or len(block) > MAX_BODY_BYTES):
        truncated = "length"
    is_over_limit = False
    try:
        body, is_over_limit, early_end = decode_body(body, headers, MAX_BODY_BYTES, is_archived=True)
        if early_end is not None:
            truncated = truncated or f"{early_end}: ended early"
    except DamagedBodyError as error:
        if truncated is None:
            return _unreadable(record, str(error))
    return CrawledPage(
        url=url,
        status=int(status[1]),
        headers=headers,
        body=body,
        fetched_at=record.headers.get("WARC-Date") or "",
        warc_offset=record.stream_pos,
        warc_length=None,
        truncated=truncated or ("length" if is_over_limit else None),
        identified_mime=record.headers.get("WARC-Identified-Payload-Type"),
        identified_charset=record.headers.get("WARC-Identified-Content-Charset"),
    )


def _headers(lines: list[bytes]) -> Iterator[tuple[str, str]]:
    """Yield names and values; UTF-8 if valid, else Latin-1, which accepts any byte."""
    for line in lines:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text = line.decode("latin-1")
        name, colon, value = text.partition(":")
        if colon and name.strip():
            yield name.strip(), value.strip()


def _looks_like_warc(path: str) -> bool:
    with storage.open_read(path) as file:
        head = file.read(1 << 16)
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, 16)
        except zlib.error:
            return False
    elif head[:4] == b"\x28\xb5\x2f\xfd":
        return True
    return head.lstrip().startswith(b"WARC/")
