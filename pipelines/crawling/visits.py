"""Visits of a crawl: a page, sitemap or site file requested, and the outcome recorded, whatever it is.

Each is a boundary: what our code fails on becomes a row of the ledger, so that one host's odd answer ends no crawl.
Pages and sitemaps are parsed, and records compressed, in threads, so that other hosts' answers are read meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import asdict, replace
from urllib.parse import urlsplit

from pipelines.crawling.frontier import FrontierUrl
from pipelines.crawling.ledger import LedgerRow
from pipelines.crawling.part_writer import CrawlPartWriter
from pipelines.crawling.warc_records import exchange_records
from pipelines.drop_reasons import FETCHED, Outcome
from pipelines.faults import refusal_of, without_stop_iteration
from pipelines.pages.parse import parse_links
from pipelines.web import urls
from pipelines.web.answers import Fetched, FetchFailure
from pipelines.web.http_client import PoliteClient
from pipelines.web.media_types import HTML_TYPES, XML_TYPES, media_type
from pipelines.web.redirects import parse_refresh
from pipelines.web.sitemaps import MAX_SITEMAP_BYTES, Sitemap, parse_sitemap

MAX_SITEMAPS_PER_HOST = 1000


async def visit(
    client: PoliteClient, writer: CrawlPartWriter, item: FrontierUrl, *, reads_sitemaps: bool = True
) -> None:
    """Request one page and record the outcome.

    Args:
        client: Client of this worker.
        writer: Takes the page, its links and its row.
        item: The URL.
        reads_sitemaps: Whether a sitemap or feed at this URL gives links, as a page does.
    """
    try:
        fetched = await client.fetch(item.url, "page", follow_redirects=False)
        await _record_answer(writer, item, fetched, reads_sitemaps)
    except FetchFailure as failure:
        writer.add(LedgerRow(item.url, item.depth, failure.reason, failure.detail, signals=failure.signals))
    except Exception as error:
        writer.add(LedgerRow(item.url, item.depth, *refusal_of(error)))


async def _record_answer(writer: CrawlPartWriter, item: FrontierUrl, fetched: Fetched, reads_sitemaps: bool) -> None:
    """Store an answer with its links; of a redirect only the link."""
    row = LedgerRow(
        item.url,
        item.depth,
        FETCHED,
        status=fetched.status,
        mime=media_type(fetched.header("content-type"), fetched.body),
        truncated=fetched.truncated,
        signals=fetched.verdict.signals,
        fetched_at=fetched.fetched_at,
    )
    if 300 <= fetched.status < 400:
        target = urls.resolve(fetched.url, fetched.location or "")
        if target is not None:
            writer.link(target, item.depth + 1)
        outcome: Outcome = "redirected" if target else "redirect_refused"
        writer.add(replace(row, outcome=outcome, detail=fetched.location))
        return
    refresh = parse_refresh(fetched.refresh, fetched.url)
    if row.mime in HTML_TYPES:
        content_type = fetched.header("content-type")
        page = await asyncio.to_thread(
            without_stop_iteration(parse_links), fetched.body, fetched.url, content_type=content_type
        )
        row = replace(row, canonical_url=page.canonical_url)
        refresh = refresh or page.refresh
        for link in page.links:
            if not link.is_nofollow:
                writer.link(link.url, item.depth + 1)
    elif row.mime in XML_TYPES and reads_sitemaps:
        sitemap = await asyncio.to_thread(without_stop_iteration(parse_sitemap), fetched.body)
        for url in (*sitemap.urls, *sitemap.sitemaps):
            writer.link(url, item.depth + 1)
    if refresh is not None:
        writer.link(refresh.url, item.depth + 1)
        if refresh.is_redirect:
            writer.add(replace(row, outcome="redirected", detail=refresh.url))
            return
    note = {"depth": item.depth, "signals": [asdict(signal) for signal in row.signals]}
    place = writer.store(await asyncio.to_thread(without_stop_iteration(exchange_records), fetched, note))
    writer.add(replace(row, warc=place.warc, offset=place.offset, length=place.length))


async def follow_sitemaps(
    client: PoliteClient, writer: CrawlPartWriter, item: FrontierUrl, scope: Collection[str]
) -> None:
    """Add the pages in the sitemaps that a host's robots.txt names; a sitemap with a problem is recorded.

    The pages may be of any host, like those that a page links to: whether they are in scope is decided alike, and each
    host's own robots.txt decides on the request. The host may also name a sitemap elsewhere, as the protocol provides
    for; further sitemaps in that one are requested of its own host and of hosts in scope only.

    Args:
        client: Client of this worker.
        writer: Takes the links, and rows of sitemaps that could not be read, or not wholly.
        item: Any URL of the host.
        scope: Hosts of the crawl, as of `urls.authority`.
    """
    try:
        site = await client.site(item.url)
    except FetchFailure:
        return  # for which each of the host's pages fails as well
    named: list[str] = []
    for reference in site.sitemaps:
        url = urls.resolve(item.url, reference)
        if url is not None:
            named.append(url)
        else:
            why = f"names {reference[:200]!r}, which is no http(s) URL"
            writer.add(LedgerRow(site.robots.url, item.depth, "malformed_sitemap", why, unit="site_file"))
    await _follow_all(client, writer, named, item, scope)


async def follow_sitemap(
    client: PoliteClient, writer: CrawlPartWriter, item: FrontierUrl, scope: Collection[str]
) -> None:
    """Add the pages in one sitemap, and in those that it names, as `follow_sitemaps` does.

    Args:
        client: Client of this worker.
        writer: Takes the links, and rows of sitemaps that could not be read, or not wholly.
        item: The sitemap.
        scope: Hosts of the crawl, as of `urls.authority`.
    """
    await _follow_all(client, writer, [item.url], item, scope)


async def _follow_all(
    client: PoliteClient, writer: CrawlPartWriter, named: Iterable[str], item: FrontierUrl, scope: Collection[str]
) -> None:
    queue: deque[str] = deque()
    seen: set[str] = set()
    num_more = 0

    def add(url: str) -> None:
        nonlocal num_more
        if url in seen:
            return
        if len(seen) > MAX_SITEMAPS_PER_HOST:
            num_more += 1
            return
        seen.add(url)
        queue.append(url)

    for url in named:
        add(url)
    for _ in range(MAX_SITEMAPS_PER_HOST):
        if not queue:
            return
        url = queue.popleft()
        hosts = {*scope, urlsplit(url).netloc}
        for nested in (await _follow_sitemap(client, writer, url, item)).sitemaps:
            if urlsplit(nested).netloc in hosts:
                add(nested)
            else:
                writer.link(nested, item.depth + 1)  # which the accounts call out of scope
        writer.close_if_due()
    for url in queue:
        more = f"and {num_more} others: more than {MAX_SITEMAPS_PER_HOST} sitemaps of one host"
        writer.add(LedgerRow(url, item.depth, "malformed_sitemap", more, unit="site_file"))


async def _follow_sitemap(client: PoliteClient, writer: CrawlPartWriter, url: str, item: FrontierUrl) -> Sitemap:
    row = LedgerRow(url, item.depth, "malformed_sitemap", unit="site_file")
    sitemap = Sitemap((), ())
    try:
        fetched = await client.fetch(url, "page", max_bytes=MAX_SITEMAP_BYTES)
        sitemap = await asyncio.to_thread(without_stop_iteration(parse_sitemap), fetched.body, is_cut=fetched.truncated)
        if sitemap.problem is not None:
            writer.add(replace(row, detail=sitemap.problem, status=fetched.status, fetched_at=fetched.fetched_at))
        for found in sitemap.urls:
            writer.link(found, item.depth + 1)
    except FetchFailure as failure:
        writer.add(replace(row, outcome=failure.reason, detail=failure.detail, signals=failure.signals))
    except Exception as error:
        refusal = refusal_of(error)
        writer.add(replace(row, outcome=refusal.reason, detail=refusal.detail))
    return sitemap


def store_site_files(client: PoliteClient, writer: CrawlPartWriter, item: FrontierUrl) -> None:
    """Archive the answers to requests for robots.txt and the like."""
    for answer in client.take_policy_answers():
        try:
            writer.store(exchange_records(answer, {"is": "policy file"}))
        except Exception as error:
            writer.add(LedgerRow(answer.url, item.depth, *refusal_of(error), unit="site_file"))
