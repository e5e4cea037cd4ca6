"""Frontier of a crawl: the URLs that a round requests, a function of the files of earlier rounds alone."""

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from pipelines.crawling.ledger import round_of
from pipelines.drop_reasons import Reason
from pipelines.parts import read_rows
from pipelines.spec import CrawlSettings
from pipelines.web import urls
from pipelines.web.http_client import is_transient

Mark = tuple[str, int]  # ("known" | "done" | "found", depth)


def scope_reason(url: str, depth: int, settings: CrawlSettings) -> Reason | None:
    """Why a URL is not asked for, or null where it is in scope."""
    if urls.authority(url) not in settings.scope:
        return "out_of_scope"
    if not any((urlsplit(url).path or "/").startswith(prefix) for prefix in settings.path_prefixes):
        return "out_of_scope"
    return "too_deep" if depth > settings.max_depth else None


def ledger_marks(path: str, mark: str, retry_round: int) -> Iterator[tuple[str, Mark]]:
    """Rows of a ledger part as marks; what failed for a passing reason before the last retry is only `found`."""
    retried = round_of(path) < retry_round
    for row in read_rows(path, ["url", "depth", "outcome"]):
        passing = retried and is_transient(row["outcome"])
        yield row["url"], ("found" if passing else mark, row["depth"])


def link_marks(path: str) -> Iterator[tuple[str, Mark]]:
    for row in read_rows(path):
        yield row["url"], ("found", row["depth"])


def scoped_urls(
    grouped: tuple[str, Iterable[Mark]], settings: CrawlSettings
) -> Iterator[tuple[str, tuple[str, int, bool]]]:
    """(authority, (url, depth, is_done)) of a URL that this round asks for."""
    url, marks = grouped[0], list(grouped[1])
    if any(mark == "known" for mark, _ in marks):
        return
    depth = min(depth for _, depth in marks)
    if scope_reason(url, depth, settings) is None:
        yield urls.authority(url), (url, depth, any(mark == "done" for mark, _ in marks))


def cap_host(
    joined: tuple[str, dict[str, Iterable[Any]]], max_pages: int
) -> Iterator[tuple[str, tuple[str, int, bool]]]:
    """A host's URLs within its page cap, nearest to a seed first, without those already done in this round."""
    authority, parts = joined
    num_known = sum(parts["known"])
    room = max(0, max_pages - num_known)
    ordered = sorted(parts["new"], key=lambda row: (row[1], row[0]))[:room]
    for url, depth, is_done in ordered:
        if not is_done:
            yield authority, (url, depth, num_known == 0)
