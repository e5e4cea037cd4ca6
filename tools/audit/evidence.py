"""Permission judged again, offline: the signals that a sample stores, by the policy of the corpus.

A signal holds the statement verbatim and the URL where it stood. From these the files are put together again that
`pipelines.web` judges: groups of robots.txt, the rule of tdmrep.json, the group of ai.txt, headers, meta elements. The
same code then gives the same verdict, if the evidence bears it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from pipelines.document import Document, Signal
from pipelines.drop_reasons import Reason
from pipelines.images.embedded_rights import refusals
from pipelines.web.permission import (
    HEADERS,
    MAX_SIGNAL_CHARS,
    MAX_SIGNALS,
    NOT_ARCHIVED,
    NOT_ASKED,
    UNASKED,
    PolicySettings,
    Purpose,
    Verdict,
    page_verdict,
    response_verdict,
)
from pipelines.web.site_rules import SiteFile, SiteRules

_BLOCK_END = "\nCrawl-delay: 0"
"""A rule that refuses nothing: without one, the User-agent lines of a group without rules would join the next group."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the stored evidence says of a sample.

    `reasons` refuse it; `missing` is what was fetched without any evidence; `is_partial` says that a part of the
    evidence was cut when it was stored, or is of an address that redirected and was not stored.
    """

    reasons: tuple[str, ...]
    missing: tuple[str, ...]
    is_partial: bool


def judge_again(document: Document, policy: PolicySettings) -> Judgement:
    """Return what the stored signals of a sample say by a policy."""
    reasons: list[str] = []
    missing: list[str] = []
    numbers = Counter(signal.target for signal in document.signals)
    is_partial = max(numbers.values(), default=0) >= MAX_SIGNALS or any(_is_cut(s) for s in document.signals)
    page = _of(document, "page")
    page_url = document.source.page_url
    found, is_whole = _verdict(page, page_url, "page", policy)
    reasons += found.reasons
    reasons += found.image_reasons if document.media else ()
    is_partial |= not is_whole
    is_listed_video = document.kind == "video" and document.source.warc_file is not None  # only the video was asked for
    if document.source.crawl is not None and not is_listed_video and not _is_asked(page):
        missing.append("no robots.txt of its page")
    if not document.media and document.source.crawl is not None and not policy.allows_license(document.source.license):
        reasons.append("license_not_allowed")
    for i, media in enumerate(document.media):
        # The frames of a conversation have the address of their video
        purpose: Purpose = "video" if document.kind == "video" or media.t is not None else "image"
        about = _of(document, f"media:{i}")
        found, is_whole = _verdict(about, media.url, purpose, policy)
        reasons += found.reasons
        reasons += refusals((signal.kind, signal.value) for signal in about)
        is_partial |= not is_whole
        if not policy.allows_license(media.license):
            reasons.append("license_not_allowed")
        is_first = purpose == "image" or i == 0  # the signals of a video are stored with its first frame
        if is_first and media.fetched_at and _is_web(media.url) and not _is_asked(about):
            missing.append(f"no robots.txt of media {i}")
    return Judgement(tuple(dict.fromkeys(reasons)), tuple(missing), is_partial)


def _of(document: Document, target: str) -> list[Signal]:
    return [signal for signal in document.signals if signal.target == target]


def _is_asked(signals: Iterable[Signal]) -> bool:
    return any(signal.kind == "robots.txt" for signal in signals)


def _is_cut(signal: Signal) -> bool:
    return len(signal.value) > MAX_SIGNAL_CHARS


def _is_web(url: str | None) -> bool:
    return url is not None and url.startswith(("http://", "https://"))


def _verdict(
    signals: Sequence[Signal], url: str | None, purpose: Purpose, policy: PolicySettings
) -> tuple[Verdict, bool]:
    """Return the verdict on a page or an image, and whether all evidence could be judged.

    Each host is judged by itself: a request that was redirected has evidence of several.
    """
    whole = Verdict()
    is_whole = True
    origins = dict.fromkeys(_origin(signal.url) for signal in signals)
    for origin in origins:
        mine = [signal for signal in signals if _origin(signal.url) == origin]
        asked = _asked_url(mine, url, origin)
        for robots in _robots_files(mine):
            found = _site_verdict(mine, robots, asked, purpose, policy)
            if found is None:
                is_whole = False
                continue
            files = {signal.url for signal in mine if signal.kind == "robots.txt"}
            headers = [(s.kind, s.value) for s in mine if s.kind in HEADERS and s.url not in files]
            found = response_verdict(found, headers, purpose, policy)
            if purpose == "page":
                found = page_verdict(found, _metas(mine), policy)
            whole = whole.adding(found.reasons, image_reasons=found.image_reasons)
    return whole, is_whole


def _origin(url: str | None) -> str:
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}".lower()


def _asked_url(signals: Iterable[Signal], url: str | None, origin: str) -> str | None:
    """Return the URL at an origin that was asked for: the sample's own, or the target of a redirect."""
    if url is not None and _origin(url) == origin:
        return url
    return next((signal.url for signal in signals if signal.kind in HEADERS and signal.url), None)


def _robots_files(signals: Iterable[Signal]) -> list[list[Signal]]:
    """Return the robots.txt signals by the file that they are of, which may have been asked for twice; at least one."""
    files: dict[tuple[str | None, str | None], list[Signal]] = {}
    for signal in signals:
        if signal.kind == "robots.txt":
            files.setdefault((signal.url, signal.observed_at), []).append(signal)
    return list(files.values()) or [[]]


def _site_verdict(
    signals: Sequence[Signal], robots: Sequence[Signal], url: str | None, purpose: Purpose, policy: PolicySettings
) -> Verdict | None:
    """Return the verdict by the policy files of a host; None if the address that they were asked for is not stored."""
    values = [signal.value for signal in robots]
    if any(value.startswith((NOT_ASKED, NOT_ARCHIVED)) for value in values):
        return Verdict(_unasked(values, policy))
    file = _file(robots)
    if file is None:
        file = SiteFile("", 404)
    if url is None:
        return None if file.content else Verdict(("robots_unreachable",) if file.is_unreachable else ())
    tdmrep = _file([signal for signal in signals if signal.kind == "tdmrep.json"], is_json=True)
    ai_txt = _file([signal for signal in signals if signal.kind == "ai.txt"])
    return SiteRules(policy, file, tdmrep, ai_txt).verdict(url, purpose)


def _unasked(values: Iterable[str], policy: PolicySettings) -> tuple[Reason, ...]:
    """Return why a page of a host that was not asked is refused, if it is."""
    reasons: list[Reason] = []
    for value in values:
        said = value.removeprefix(NOT_ASKED)
        is_unasked = value == UNASKED and policy.robots_of_others == "unasked"
        is_unknown = said in ("host_not_found", NOT_ARCHIVED) and policy.unknown == "allow"
        if not (is_unasked or is_unknown or said == "private_address"):
            reasons.append("robots_unreachable")
    return tuple(reasons)


def _file(signals: Sequence[Signal], *, is_json: bool = False) -> SiteFile | None:
    """Return the file of which parts are stored, or the answer in its place; None if there is no signal of it."""
    if not signals:
        return None
    return _put_together(signals[0].url or "", tuple(signal.value for signal in signals), is_json)


@lru_cache(maxsize=1024)  # the samples of a host have the same evidence
def _put_together(url: str, values: tuple[str, ...], is_json: bool) -> SiteFile:
    status: int | None = 200
    parts: list[str] = []
    for value in values:
        if value == "no answer":
            status = None
        elif value.startswith("HTTP ") and value[5:].isdigit():
            status = int(value[5:])
        else:
            parts.append(value)
    if not parts:
        return SiteFile(url, status)
    body = f"[{','.join(parts)}]" if is_json else "\n".join(part + _BLOCK_END for part in parts)
    return SiteFile(url, 200, body.encode("utf-8", "replace"))


def _metas(signals: Iterable[Signal]) -> list[tuple[str, str]]:
    """Return the meta elements of a page, as names and contents."""
    found = []
    for signal in signals:
        if signal.kind == "meta-robots":
            name, _, content = signal.value.partition(": ")
            found.append((name, content))
        elif signal.kind.startswith("meta-"):
            found.append((signal.kind.removeprefix("meta-"), signal.value))
    return found
