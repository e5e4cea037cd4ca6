"""Frontier of a crawl: the URLs that a round requests, a function of the files of earlier rounds alone."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TypedDict
from urllib.parse import urlsplit

from pipelines.crawling.ledger import round_of
from pipelines.drop_reasons import Reason
from pipelines.parts import read_rows
from pipelines.spec import CrawlSettings
from pipelines.web import urls
from pipelines.web.http_client import is_transient

State = Literal["requested_before", "requested_now", "found"]
"""State of a URL: requested by an earlier round, requested by this round before it was killed, or only found."""


class Mark(NamedTuple):
    """What one row of a ledger or of the links says about a URL; `depth` is its distance from a seed in links."""

    state: State
    depth: int


class ScopedUrl(NamedTuple):
    """A URL in scope that no earlier round requested; in order of their distance from a seed."""

    depth: int
    url: str
    is_requested: bool  # by this round, before it was killed


class HostUrls(TypedDict):
    """The URLs of a host: how many of them earlier rounds requested (if any), and the others in scope."""

    num_before: list[int]
    others: list[ScopedUrl]


class FrontierUrl(NamedTuple):
    """A URL to request; in order of their distance from a seed."""

    depth: int
    url: str
    is_new_host: bool  # of whose host no earlier round requested anything


def scope_reason(url: str, depth: int, settings: CrawlSettings) -> Reason | None:
    """Return why a URL is not requested, or None if it is in scope."""
    if urls.authority(url) not in settings.scope:
        return "out_of_scope"
    if not any((urlsplit(url).path or "/").startswith(prefix) for prefix in settings.path_prefixes):
        return "out_of_scope"
    return "too_deep" if depth > settings.max_depth else None


def ledger_marks(path: str, state: State, retry_round: int) -> Iterator[tuple[str, Mark]]:
    """Yield (URL, mark) for each row of a ledger part.

    A URL that failed before the last retry, for a reason that can pass, is only `found`.
    """
    is_retried = round_of(path) < retry_round
    for row in read_rows(path, ["url", "depth", "outcome"]):
        is_repeated = is_retried and is_transient(row["outcome"])
        yield row["url"], Mark("found" if is_repeated else state, row["depth"])


def link_marks(path: str) -> Iterator[tuple[str, Mark]]:
    """Yield (URL, mark) for each link that a part found."""
    for row in read_rows(path):
        yield row["url"], Mark("found", row["depth"])


def scoped_urls(grouped: tuple[str, Iterable[Mark]], settings: CrawlSettings) -> Iterator[tuple[str, ScopedUrl]]:
    """Yield (authority, URL) if a URL is in scope and no earlier round requested it."""
    url, marks = grouped[0], list(grouped[1])
    states = {mark.state for mark in marks}
    depth = min(mark.depth for mark in marks)
    if "requested_before" not in states and scope_reason(url, depth, settings) is None:
        yield urls.authority(url), ScopedUrl(depth, url, "requested_now" in states)


def cap_host(joined: tuple[str, HostUrls], max_pages: int) -> Iterator[tuple[str, FrontierUrl]]:
    """Yield (authority, URL) for each URL of a host that is within its cap, except those already requested."""
    authority, sides = joined
    num_before = sum(sides["num_before"])
    for depth, url, is_requested in sorted(sides["others"])[: max(0, max_pages - num_before)]:
        if not is_requested:
            yield authority, FrontierUrl(depth, url, is_new_host=num_before == 0)
