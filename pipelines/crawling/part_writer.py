"""One worker's part of a crawl: pages requested and written to a WARC file, with a ledger and their links."""

import io
import time
import uuid
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines import storage
from pipelines.crawling.frontier import FrontierUrl
from pipelines.crawling.ledger import LEDGER_SCHEMA, LINK_SCHEMA, LedgerRow, part_name
from pipelines.document import canonical_json
from pipelines.drop_reasons import FETCHED, Outcome
from pipelines.pages.parse import parse_page
from pipelines.parts import PartFolder, Tally, write_table
from pipelines.web import urls
from pipelines.web.http_client import Fetched, FetchFailure, PoliteClient

PART_SECONDS = 30.0
PART_PAGES = 1000
MAX_SITEMAPS_PER_HOST = 1000


class WarcPlace(NamedTuple):
    """A record in a WARC file: the file's name, the record's offset and compressed length."""

    warc: str
    offset: int
    length: int


class CrawlPartWriter:
    """Open part of one worker: a WARC file, ledger rows and links, closed together."""

    def __init__(self, folder: PartFolder, round_: int) -> None:
        self._folder, self._round = folder, round_
        self._stack = ExitStack()
        self._reset()

    def _reset(self) -> None:
        self._name = ""
        self._warc: tuple[IO[bytes], WARCWriter] | None = None
        self._ledger: list[LedgerRow] = []
        self._links: dict[str, int] = {}
        self._opened = 0.0

    def _open(self) -> None:
        if not self._name:
            self._name = part_name(self._round, uuid.uuid4().hex[:16])
            self._opened = time.monotonic()

    @property
    def is_due(self) -> bool:
        """True if the part is large or old enough to be closed."""
        old = bool(self._name) and time.monotonic() - self._opened > PART_SECONDS
        return old or len(self._ledger) >= PART_PAGES

    def _open_warc(self) -> tuple[IO[bytes], WARCWriter]:
        if self._warc is None:
            self._open()
            path = self._folder.file(self._name, ".warc.gz")
            file = self._stack.enter_context(storage.write_whole(path))
            writer = WARCWriter(file, gzip=True)
            info = {"software": "Dromaius", "format": "WARC File Format 1.1", "robots": "obeyed (RFC 9309)"}
            writer.write_record(writer.create_warcinfo_record(f"{self._name}.warc.gz", info))
            self._warc = file, writer
        return self._warc

    def store(self, fetched: Fetched, metadata: dict[str, Any]) -> WarcPlace:
        """Write request, response and metadata records; returns where the response is."""
        file, writer = self._open_warc()
        where = urlsplit(fetched.url)
        target = (where.path or "/") + (f"?{where.query}" if where.query else "")
        common = {"WARC-Date": fetched.fetched_at, "WARC-IP-Address": fetched.ip}
        response = writer.create_warc_record(
            fetched.url,
            "response",
            payload=io.BytesIO(fetched.body),
            http_headers=StatusAndHeaders(
                f"{fetched.status} {fetched.reason}", _decoded_headers(fetched), protocol=f"HTTP/{fetched.http_version}"
            ),
            warc_headers_dict=common | ({"WARC-Truncated": "length"} if fetched.truncated else {}),
        )
        request = writer.create_warc_record(
            fetched.url,
            "request",
            http_headers=StatusAndHeaders(
                f"GET {target} HTTP/1.1", list(fetched.request_headers), protocol="", is_http_request=True
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
        writer.write_record(request)
        offset = file.tell()
        writer.write_record(response)
        length = file.tell() - offset
        writer.write_record(note)
        return WarcPlace(f"{self._name}.warc.gz", offset, length)

    def add(self, row: LedgerRow) -> None:
        self._open()
        self._ledger.append(row)

    def link(self, url: str, depth: int) -> None:
        """Add a URL that was found."""
        self._open()
        self._links[url] = min(depth, self._links.get(url, depth))

    def close(self) -> str | None:
        """Finish the part; returns its name, or None if it is empty."""
        name = self._name
        if not name:
            return None
        self._stack.close()
        links = [{"url": url, "depth": depth} for url, depth in sorted(self._links.items())]
        ledger = [row.to_columns() for row in self._ledger]
        files = {
            ".links.parquet": write_table(self._folder.file(name, ".links.parquet"), links, LINK_SCHEMA),
            ".parquet": write_table(self._folder.file(name, ".parquet"), ledger, LEDGER_SCHEMA),
        }
        self._folder.finish(name, "", Tally("crawl"), files, num=len(self._ledger))
        self._reset()
        return name

    def abandon(self, error: BaseException) -> None:
        """Discard the open part."""
        self._stack.__exit__(type(error), error, error.__traceback__)


def _decoded_headers(fetched: Fetched) -> list[tuple[str, str]]:
    """Return response headers that fit the decoded body: encoding headers renamed, as Common Crawl does."""
    headers = []
    for name, value in fetched.headers:
        if name.lower() in ("content-encoding", "transfer-encoding", "content-length"):
            name = f"X-Crawler-{name}"
        headers.append((name, value))
    return [*headers, ("Content-Length", str(len(fetched.body)))]


async def visit(client: PoliteClient, writer: CrawlPartWriter, item: FrontierUrl) -> None:
    """Request one page and record the outcome."""
    try:
        fetched = await client.fetch(item.url, "page", follow_redirects=False)
    except FetchFailure as failure:
        writer.add(LedgerRow(item.url, item.depth, failure.reason, failure.detail, signals=failure.signals))
        return
    headers = {name.lower(): value for name, value in fetched.headers}
    row = LedgerRow(
        item.url,
        item.depth,
        FETCHED,
        status=fetched.status,
        mime=headers.get("content-type", "").partition(";")[0].strip().lower() or None,
        truncated=fetched.truncated,
        signals=fetched.verdict.signals,
        fetched_at=fetched.fetched_at,
    )
    if 300 <= fetched.status < 400:
        target = urls.resolve(fetched.url, headers.get("location", ""))
        if target is not None:
            writer.link(urls.canonical_url(target), item.depth + 1)
        outcome: Outcome = "redirected" if target else "redirect_refused"
        writer.add(replace(row, outcome=outcome, detail=headers.get("location")))
        return
    if row.mime in ("text/html", "application/xhtml+xml"):
        page = parse_page(fetched.body, fetched.url, content_type=headers.get("content-type"))
        row = replace(row, canonical_url=page.canonical_url)
        for link in page.links:
            if not link.is_nofollow:
                writer.link(urls.canonical_url(link.url), item.depth + 1)
    place = writer.store(fetched, {"depth": item.depth, "signals": [asdict(signal) for signal in row.signals]})
    writer.add(replace(row, warc=place.warc, offset=place.offset, length=place.length))


async def sitemap_urls(client: PoliteClient, url: str) -> list[str]:
    """Return the pages in a host's sitemaps, of that host only; a sitemap that fails names none."""
    try:
        site = await client.site(url)
    except FetchFailure:
        return []
    queue, seen, found = list(site.sitemaps), set(site.sitemaps), []
    while queue and len(seen) <= MAX_SITEMAPS_PER_HOST:
        try:
            fetched = await client.fetch(queue.pop(0), "page")
        except FetchFailure:
            continue
        sitemap = urls.parse_sitemap(fetched.body)
        found += [urls.canonical_url(u) for u in sitemap.urls if urls.authority(u) == urls.authority(url)]
        for nested in sitemap.sitemaps:
            if nested not in seen:
                seen.add(nested)
                queue.append(nested)
    return found
