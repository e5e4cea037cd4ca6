"""A polite, bounded HTTP client: permission before the request, one request at a time per host, every size capped.

`PoliteClient.fetch` is the entry point. What it returns may be used as far as the site and the response say; anything
else is a `FetchFailure` with a drop reason.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal, ParamSpec, Self, TypeVar

from yarl import URL

from pipelines.document import Signal
from pipelines.drop_reasons import FETCHED, Outcome, http_reason
from pipelines.faults import refusal_of, without_stop_iteration
from pipelines.web.answers import Fetched, FetchFailure, Headers
from pipelines.web.http_exchange import REDIRECT_STATUSES, Exchange, HttpSettings, Request, parse_target, utc_now
from pipelines.web.permission import (
    MEDIA_PURPOSES,
    PolicySettings,
    Purpose,
    Verdict,
    response_verdict,
)
from pipelines.web.robots import MAX_BYTES as ROBOTS_MAX_BYTES
from pipelines.web.site_rules import SiteFile, SiteRules
from pipelines.web.urls import join, without_credentials

__all__ = ["HttpSettings", "PoliteClient"]

P = ParamSpec("P")
T = TypeVar("T")

_SITE_FILE_REDIRECTS = 5  # RFC 9309, 2.3.1.2: at least five, to any host
_LARGE_SITE_BYTES = 64 << 10  # of robots.txt and the like; less is judged within milliseconds
_UNREACHABLE_CACHE_SECONDS = 3600.0  # StormCrawler's value for a robots.txt that failed
_ADDRESS_REASONS = frozenset({"host_not_found", "dns_failure", "private_address", "no_contact_address"})


@dataclass(slots=True)
class _Site:
    """Cached knowledge of an authority."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    rules: SiteRules | None = None
    expires: float = 0.0


class PoliteClient:
    """Client that fetches URLs under a policy. An asynchronous context manager, bound to one event loop.

    Args:
        policy: How we introduce ourselves, and what counts as a refusal.
        http: Delays, caps and deadlines.
        gate_folder: Local folder of lock files, through which processes of a machine take turns at each host.
        loopback_delay: Seconds between requests to a host on loopback, instead of `delay_seconds`; None: no exception.
        is_blocked: Returns whether a URL was taken down, which is not requested, also where a redirect leads to it.
        count_outcome: Told how each `fetch` ended.
    """

    def __init__(
        self,
        policy: PolicySettings,
        http: HttpSettings,
        *,
        gate_folder: str | None = None,
        loopback_delay: float | None = None,
        is_blocked: Callable[[str], bool] = lambda url: False,
        count_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._policy = policy
        self._is_blocked = is_blocked
        self._count_outcome = count_outcome
        self._http = http
        self._exchange = Exchange(policy, http, gate_folder, loopback_delay)
        self._sites: dict[str, _Site] = {}
        self._policy_answers: list[Fetched] = []

    async def __aenter__(self) -> Self:
        await self._exchange.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exchange.close()

    async def fetch(
        self,
        url: str,
        purpose: Purpose,
        *,
        max_bytes: int | None = None,
        follow_redirects: bool = True,
        headers: Iterable[tuple[str, str]] = (),
        method: Literal["GET", "HEAD"] = "GET",
        site_rules: bool = True,
    ) -> Fetched:
        """Return the response to a URL, if site and response allow its use.

        Args:
            url: An http(s) URL; a fragment is not sent.
            purpose: Intended use; decides which signals count and how large the body may be.
            max_bytes: Replaces the cap of the purpose. A page is truncated there, anything else fails.
            follow_redirects: False returns a redirect as it is. Each hop is judged like the first.
            headers: Further request headers.
            method: GET or HEAD.
            site_rules: False skips robots.txt and the like: for a URL that was judged in another way.

        Raises:
            FetchFailure: With its reason, also if the use is refused.
        """
        max_bytes = max_bytes if max_bytes is not None else self._http.max_bytes(purpose)
        headers = tuple(headers)
        hop, asked, evidence = url, list[str](), list[Signal]()
        try:
            while True:
                if self._is_blocked(hop):
                    raise FetchFailure("taken_down", hop)
                target = parse_target(hop)
                site = await self._site_verdict(target, purpose, evidence) if site_rules else Verdict()

                def is_wanted(status: int, received: Headers, site: Verdict = site) -> bool:
                    is_of_use = _has_content(status, headers) or (status in REDIRECT_STATUSES and not follow_redirects)
                    return is_of_use and response_verdict(site, received, purpose, self._policy).allowed

                answer = await self._exchange.ask(
                    Request(
                        target,
                        is_wanted,
                        method,
                        headers,
                        max_bytes,
                        may_cut=purpose == "page",
                        delay_seconds=site.crawl_delay or 0.0,
                    )
                )
                verdict = self._judged(site, answer, purpose)
                evidence += verdict.signals
                if answer.status in REDIRECT_STATUSES and follow_redirects:
                    asked.append(hop)
                    hop = self._next_hop(answer, asked)
                    continue
                if not (_has_content(answer.status, headers) or answer.status in REDIRECT_STATUSES):
                    raise FetchFailure(http_reason(answer.status), hop, answer.reason)
                if not verdict.allowed:
                    raise FetchFailure(verdict.reasons[0], hop, ", ".join(verdict.reasons[1:]))
                if answer.truncated and purpose != "page":
                    raise FetchFailure("too_large", hop, f"more than {max_bytes} bytes")
                self._count_outcome(FETCHED)
                return replace(answer, url=url, redirects=tuple(asked), verdict=verdict.adding(signals=evidence))
        except Exception as error:
            failure = error if isinstance(error, FetchFailure) else _internal_failure(hop, error)
            failure.signals = tuple(dict.fromkeys(evidence))
            if asked and failure.reason != "taken_down":  # where that is, is not told
                place = f"at {without_credentials(failure.url)}"
                failure.detail = ": ".join(part for part in (place, failure.detail) if part)
            failure.url = url
            self._count_outcome(failure.reason)
            raise failure from failure.__cause__

    async def site(self, url: str) -> SiteRules:
        """Return the rules of a URL's authority: for its sitemaps, and as evidence.

        Raises:
            FetchFailure: If the host may not or cannot be contacted.
        """
        try:
            return await self._rules(parse_target(url), "page")
        except FetchFailure:
            raise
        except Exception as error:
            raise _internal_failure(url, error) from error

    def take_policy_answers(self) -> list[Fetched]:
        """Return robots.txt, tdmrep.json and ai.txt responses of any status since the last call, for the archive."""
        answers, self._policy_answers = self._policy_answers, []
        return answers

    def _judged(self, site: Verdict, answer: Fetched, purpose: Purpose) -> Verdict:
        shown = without_credentials(answer.final_url)  # redirects lead to signed URLs
        return response_verdict(site, answer.headers, purpose, self._policy, url=shown, observed_at=answer.fetched_at)

    def _next_hop(self, answer: Fetched, asked: list[str]) -> str:
        """Return the target of a redirect, unless it is a loop or one hop too many."""
        hop = _location(answer)
        if hop is None:
            raise FetchFailure(http_reason(answer.status), answer.final_url, "no valid Location")
        if hop in asked:
            raise FetchFailure("redirect_loop", hop)
        if len(asked) > self._http.max_redirects:
            raise FetchFailure("too_many_redirects", hop, f"more than {self._http.max_redirects}")
        return hop

    async def _site_verdict(self, target: URL, purpose: Purpose, evidence: list[Signal]) -> Verdict:
        """Return the site's verdict on a URL that it allows us to request.

        Raises:
            FetchFailure: If it does not allow it.
        """
        url = str(target)
        rules = await self._rules(target, purpose)
        verdict = await _judged_by(rules, rules.verdict, url, purpose)
        evidence += verdict.signals
        delay = verdict.crawl_delay or 0.0
        if delay > self._http.max_crawl_delay_seconds:
            raise FetchFailure("crawl_delay_too_long", url, f"{delay:g} seconds")
        if verdict.reasons == ("tdm_reserved",) and self._policy.asks_headers_of_reserved:
            # The header overrides the file. HEAD returns it without the content that the file reserves.
            head = await self._exchange.ask(Request(target, lambda *_: False, "HEAD", delay_seconds=delay))
            if 200 <= head.status < 300:
                verdict = self._judged(verdict, head, purpose)
                evidence += verdict.signals
        if not verdict.allowed:
            raise FetchFailure(verdict.reasons[0], url, ", ".join(verdict.reasons[1:]))
        return verdict

    async def _rules(self, target: URL, purpose: Purpose) -> SiteRules:
        """Return the policy files of an authority, requested once; ai.txt only when media are wanted."""
        origin = str(target.origin())
        site = self._sites.setdefault(origin, _Site())
        async with site.lock:
            if site.rules is None or time.monotonic() >= site.expires:
                site.rules = SiteRules(self._policy, await self._site_file(f"{origin}/robots.txt"))
                tdmrep = f"{origin}/.well-known/tdmrep.json"
                if await _judged_by(site.rules, site.rules.may_read, tdmrep):
                    site.rules = replace(site.rules, tdmrep=await self._site_file(tdmrep))
                seconds = self._http.site_cache_seconds
                if site.rules.robots.is_unreachable:
                    seconds = min(seconds, _UNREACHABLE_CACHE_SECONDS)
                site.expires = time.monotonic() + seconds
            if purpose in MEDIA_PURPOSES and site.rules.ai_txt is None and site.rules.may_read(f"{origin}/ai.txt"):
                site.rules = replace(site.rules, ai_txt=await self._site_file(f"{origin}/ai.txt"))
            return site.rules

    async def _site_file(self, url: str) -> SiteFile:
        """Fetch a policy file through a few redirects; a longer chain counts as no file (RFC 9309, 2.3.1.2)."""
        target = parse_target(url)
        for num_redirects in range(_SITE_FILE_REDIRECTS + 1):
            try:
                answer = await self._exchange.ask(
                    Request(target, lambda status, _: 200 <= status < 300, max_bytes=ROBOTS_MAX_BYTES, may_cut=True)
                )
                hop = _location(answer) if answer.status in REDIRECT_STATUSES else None
                if hop is None or num_redirects == _SITE_FILE_REDIRECTS:
                    break
                target = parse_target(hop)
            except FetchFailure as failure:
                if num_redirects == 0 and failure.reason in _ADDRESS_REASONS:
                    raise  # the host itself is unreachable or forbidden, which says more than a missing robots.txt
                return SiteFile(url, None, observed_at=utc_now())
        self._policy_answers.append(replace(answer, url=url))
        return SiteFile(url, answer.status, answer.body, answer.fetched_at)


async def _judged_by(rules: SiteRules, judge: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the rules of a site say: of large ones in a thread, since other hosts wait meanwhile."""
    if rules.num_bytes <= _LARGE_SITE_BYTES:
        return judge(*args, **kwargs)
    return await asyncio.to_thread(without_stop_iteration(judge), *args, **kwargs)


def _has_content(status: int, sent: Headers) -> bool:
    """Return whether an answer is what was asked for: not without a body, nor a part of one that nobody asked for."""
    if status == 206:
        return any(name.lower() == "range" for name, _ in sent)
    return 200 <= status < 300 and status not in (204, 205)


def _internal_failure(url: str, error: Exception) -> FetchFailure:
    refusal = refusal_of(error)
    failure = FetchFailure(refusal.reason, url, refusal.detail or "")
    failure.__cause__ = error
    return failure


def _location(answer: Fetched) -> str | None:
    """Return the absolute URL of a redirect's target, spelled as the server spells it."""
    if answer.location is None:
        return None
    try:
        return join(answer.final_url, answer.location)
    except ValueError:
        return None
