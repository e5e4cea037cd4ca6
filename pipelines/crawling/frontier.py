"""Frontier of a crawl: the URLs that a round requests, a function of the files of earlier rounds alone."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TypedDict
from urllib.parse import urlsplit

from pipelines.block_list import NOTHING, BlockList
from pipelines.crawling.ledger import RequestedUnit, read_ledger, round_of
from pipelines.drop_reasons import Reason
from pipelines.parts import read_rows
from pipelines.spec import CrawlSettings
from pipelines.web import urls
from pipelines.web.answers import is_transient

State = Literal["requested_before", "requested_now", "site_file", "failed_site_file", "found"]
"""State of a URL: requested as a page by an earlier round, or by this round before it was killed; requested as a site's
file, which counts as no page, and failed, for good or for a reason that can pass; or only found."""


class Mark(NamedTuple):
    """What one row of a ledger or of the links says about a URL; `depth` is its distance from a seed in links."""

    state: State
    depth: int


class ScopedUrl(NamedTuple):
    """A URL in scope that no earlier round requested as a page; in order of their distance from a seed."""

    depth: int
    url: str
    is_requested: bool  # by this round, before it was killed


class HostUrls(TypedDict):
    """The URLs of a host: how many pages earlier rounds requested (if any), and the other URLs in scope."""

    num_before: list[int]
    others: list[ScopedUrl]


class FrontierUrl(NamedTuple):
    """A URL to request; in order of their distance from a seed."""

    depth: int
    url: str
    is_new_host: bool  # of whose host no earlier round requested any page
    unit: RequestedUnit = "page"  # a `site_file` is a sitemap


def scope_reason(url: str, depth: int, settings: CrawlSettings, block: BlockList = NOTHING) -> Reason | None:
    """Return why a URL is not requested, or None if it is in scope."""
    if block.url(url):
        return "taken_down"
    if urls.authority(url) not in settings.scope:
        return "out_of_scope"
    if not any((urlsplit(url).path or "/").startswith(prefix) for prefix in settings.path_prefixes):
        return "out_of_scope"
    return "too_deep" if depth > settings.max_depth else None


def ledger_marks(path: str, state: State, retry_round: int) -> Iterator[tuple[str, Mark]]:
    """Yield (URL, mark) for each row of a ledger part; `state` is that of its pages.

    A page that failed before the last retry, for a reason that can pass, is only `found`. No mark has a sitemap of this
    round, which is followed again if the round was killed, or one that is malformed: it may be a page.
    """
    is_retried = round_of(path) < retry_round
    for row in read_ledger(path, ["url", "depth", "outcome"]):
        is_repeated = is_retried and is_transient(row["outcome"])
        if row["unit"] == "page":
            yield row["url"], Mark("found" if is_repeated else state, row["depth"])
        elif state == "requested_before" and row["outcome"] != "malformed_sitemap":
            yield row["url"], Mark("failed_site_file" if is_repeated else "site_file", row["depth"])


def link_marks(path: str) -> Iterator[tuple[str, Mark]]:
    """Yield (URL, mark) for each link that a part found."""
    for row in read_rows(path):
        yield row["url"], Mark("found", row["depth"])


def scoped_urls(
    grouped: tuple[str, Iterable[Mark]], settings: CrawlSettings, block: BlockList = NOTHING
) -> Iterator[tuple[str, ScopedUrl]]:
    """Yield (authority, URL) if a URL was found as a page in scope, and no earlier round requested it."""
    url, marks = grouped[0], list(grouped[1])
    states = {mark.state for mark in marks}
    is_done = "requested_before" in states or ("site_file" in states and "requested_now" not in states)
    depth = min((mark.depth for mark in marks if mark.state in ("found", "requested_now")), default=None)
    if not is_done and depth is not None and scope_reason(url, depth, settings, block) is None:
        yield urls.authority(url), ScopedUrl(depth, url, "requested_now" in states)


def requested_before(grouped: tuple[str, Iterable[Mark]]) -> Iterator[tuple[str, int]]:
    """Yield (authority, 1) if an earlier round requested a URL as a page."""
    if any(mark.state == "requested_before" for mark in grouped[1]):
        yield urls.authority(grouped[0]), 1


def failed_site_files(grouped: tuple[str, Iterable[Mark]]) -> Iterator[tuple[str, FrontierUrl]]:
    """Yield (authority, URL) if a URL was requested as a site's file, and only failed for a reason that can pass."""
    url, marks = grouped[0], list(grouped[1])
    depths = [mark.depth for mark in marks if mark.state == "failed_site_file"]
    if depths and all(mark.state != "site_file" for mark in marks):
        yield urls.authority(url), FrontierUrl(min(depths), url, is_new_host=False, unit="site_file")


def cap_host(joined: tuple[str, HostUrls], max_pages: int) -> Iterator[tuple[str, FrontierUrl]]:
    """Yield (authority, URL) for each URL of a host that is within its cap, except those already requested."""
    authority, sides = joined
    num_before = sum(sides["num_before"])
    for depth, url, is_requested in sorted(sides["others"])[: max(0, max_pages - num_before)]:
        if not is_requested:
            yield authority, FrontierUrl(depth, url, is_new_host=num_before == 0)
