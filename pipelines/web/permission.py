"""Permission to fetch a URL and to use it for training: a verdict with its reasons, and the evidence verbatim.

Three steps, each adding its findings to the previous verdict:

1. `site_rules.SiteRules.verdict`, before the request: robots.txt with its preference lines, tdmrep.json, ai.txt.
2. `response_verdict`: X-Robots-Tag, TDMRep, Content-Usage and Content-Signal headers.
3. `page_verdict`: the `<meta>` elements of an HTML page.

Nothing here reads files, the network or the clock. `Signal.kind` is one of `SIGNAL_KINDS`.
"""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipelines.document import Signal
from pipelines.drop_reasons import Reason
from pipelines.settings import Settings
from pipelines.web.address_guard import AllowedHosts
from pipelines.web.robots import refuses_training
from pipelines.web.urls import without_credentials

Purpose = Literal["page", "image", "video", "text"]
MEDIA_PURPOSES: frozenset[Purpose] = frozenset({"image", "video"})

SIGNAL_KINDS = (
    "robots.txt",  # the lines of the group, or the status if there is no file
    "content-usage",  # AIPREF (draft-ietf-aipref-attach), in robots.txt or as a header
    "content-signal",  # in robots.txt or as a header
    "tdmrep.json",  # the first matching rule
    "tdm-reservation",
    "tdm-policy",
    "ai.txt",
    "x-robots-tag",
    "meta-robots",
    "meta-tdm-reservation",
    "meta-tdm-policy",
)

TRANSIENT_REASONS: frozenset[Reason] = frozenset({"robots_unreachable", "tdm_unreachable", "ai_txt_unreachable"})

# Product tokens whose published purpose is gathering training data, from the operators' pages and the public list
# ai-robots-txt/ai.robots.txt, as of TRAINING_TOKENS_DATE. Search and assistant crawlers are not included.
TRAINING_TOKENS_DATE = "2026-08"
TRAINING_TOKENS = (
    "AI2Bot", "Ai2Bot-Dolma", "Amazonbot", "anthropic-ai", "Applebot-Extended", "Bytespider", "CCBot", "ClaudeBot",
    "cohere-training-data-crawler", "Cotoyogi", "DeepSeekBot", "Diffbot", "FacebookBot", "FriendlyCrawler",
    "Google-Extended", "GPTBot", "ICC-Crawler", "img2dataset", "laion-huggingface-processor", "LAIONDownloader",
    "Meta-ExternalAgent", "omgili", "omgilibot", "PanguBot", "SBIntuitionsBot", "TikTokSpider", "Timpibot",
    "VelenPublicWebCrawler", "Webzio-Extended",
)  # fmt: skip

MAX_SIGNALS = 100  # evidence is part of every sample, and a page can have a hundred thousand meta elements
MAX_SIGNAL_CHARS = 2000

NOT_ASKED = "not asked: "
"""Beginning of the value of the `robots.txt` signal of a page whose host was not asked; the reason follows."""

UNASKED = f"{NOT_ASKED}policy.robots_of_others is unasked"
"""The same where the policy is the reason."""

NOT_ARCHIVED = "not in the archive"
"""Value of the `robots.txt` signal of an archived page whose host's file the archive lacks."""

HEADERS = frozenset({"x-robots-tag", "content-usage", "content-signal", "tdm-reservation", "tdm-policy"})
"""Headers of a response that state what it may be used for, in lower case; also the kinds of their signals."""

_CONTACT = re.compile(r"https?://[^\s/]+\.[^\s/]+|[^\s@<>()+:;,]+@[^\s@<>();,]+\.[A-Za-z]{2,}")
# Directives of X-Robots-Tag that contain a colon themselves, so that what precedes it is not a product token.
_VALUED_DIRECTIVES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


class PolicySettings(Settings):
    """Rules for refusals, the way we introduce ourselves, and the hosts that may be contacted."""

    name: str = Field(default="strict", min_length=1, description="Policy name, written into every sample's decision")
    user_agent: str | None = Field(
        default=None, description="User-Agent with a contact address (URL or e-mail); null: no request beyond loopback"
    )
    product_token: str = Field(
        default="Dromaius", pattern=r"^[A-Za-z_-]+$", description="Our name in robots.txt (RFC 9309, 2.2.1)"
    )
    training_tokens: Literal["strict", "named"] = Field(
        default="strict",
        description="strict: a path disallowed for any known training crawler is refused; named: only for us",
    )
    blocking_signals: list[Literal["preferences", "tdm", "ai_txt", "noai", "noindex"]] = Field(
        default=["preferences", "tdm", "ai_txt", "noai"],
        description="Signals that block, besides robots.txt; the others are kept as evidence only",
    )
    unknown: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="Where tdmrep.json or ai.txt could not be read for an error of the server or the network, and for "
        "pages that others fetched from a host that exists no longer, or is not in their robots_files",
    )
    robots_of_others: Literal["asked", "unasked"] = Field(
        default="asked",
        description="asked: before a page that others fetched is used (of WARC files, of lists with URLs of pages), "
        "its host is asked for robots.txt, once; unasked: you answer for that otherwise, and each sample says so",
    )
    asks_headers_of_reserved: bool = Field(
        default=True, description="Ask by HEAD whether a tdm-reservation header lifts what tdmrep.json reserves"
    )
    licenses: list[str] | None = Field(default=None, description="Acceptable SPDX ids; null: any, or none stated")
    allow_hosts: list[str] = Field(
        default=[],
        description="Hosts that may be contacted although their addresses are not public: host or host:port, where * "
        "stands for any characters (*.example.org, 127.0.7.*:8080), or networks of their addresses (10.0.0.0/8)",
    )

    @field_validator("user_agent")
    @classmethod
    def _names_a_contact(cls, value: str | None) -> str | None:
        if value is not None and not _CONTACT.search(value):
            raise ValueError(
                f"{value!r} contains no contact address, such as (+https://example.org/bot; mail@example.org)"
            )
        if value is not None and not re.fullmatch(r"[\x20-\x7e]+", value):
            raise ValueError(f"{value!r} must be printable ASCII")
        return value

    @field_validator("allow_hosts")
    @classmethod
    def _names_hosts(cls, value: list[str]) -> list[str]:
        for entry in value:
            if "://" in entry:
                raise ValueError(
                    f"{entry!r} is a URL; a host is named without scheme and path: {urlsplit(entry).netloc!r}"
                )
            AllowedHosts([entry])
        return value

    @property
    def has_contact(self) -> bool:
        """True if requests carry a contact address."""
        return self.user_agent is not None

    @property
    def user_agent_header(self) -> str:
        """The User-Agent to send; contains the product token, by which robots.txt addresses us."""
        if self.user_agent is None:
            return self.product_token
        has_token = self.product_token.lower() in self.user_agent.lower()
        return self.user_agent if has_token else f"{self.user_agent} {self.product_token}"

    def heeds(self, token: str) -> bool:
        """Return whether a rule for this product token applies to us."""
        token = token.lower()
        return token == self.product_token.lower() or (self.training_tokens == "strict" and token in TRAINING_NAMES)

    def name_for(self, signals: Iterable[Signal]) -> str:
        """The name for a sample's decision, which says if robots.txt of its page's host was not asked for."""
        is_unasked = any(signal.kind == "robots.txt" and signal.value == UNASKED for signal in signals)
        return f"{self.name}, robots.txt not asked" if is_unasked else self.name

    def allows_license(self, license_id: str | None) -> bool:
        """Return whether material under this licence (None: none found) is acceptable."""
        return self.licenses is None or (license_id or "").lower() in {name.lower() for name in self.licenses}


TRAINING_NAMES = frozenset(token.lower() for token in TRAINING_TOKENS)
"""`TRAINING_TOKENS` in lower case, as tokens are compared."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Reasons for refusal (none: allowed), all signals seen, and the crawl delay of robots.txt, in seconds.

    `image_reasons` say why the images embedded in a page may not be used although the page may.
    """

    reasons: tuple[Reason, ...] = ()
    signals: tuple[Signal, ...] = ()
    crawl_delay: float | None = None
    image_reasons: tuple[Reason, ...] = ()

    @property
    def allowed(self) -> bool:
        """True if there is no reason for refusal."""
        return not self.reasons

    @property
    def reason(self) -> Reason | None:
        """The first reason for refusal."""
        return self.reasons[0] if self.reasons else None

    @property
    def images_allowed(self) -> bool:
        """True if the page allows the use of its images; each image's own verdict must allow it as well."""
        return self.allowed and not self.image_reasons

    def adding(
        self, reasons: Iterable[Reason] = (), signals: Iterable[Signal] = (), image_reasons: Iterable[Reason] = ()
    ) -> "Verdict":
        """Return this verdict with additions, each thing once; of the signals only the first `MAX_SIGNALS`."""
        return replace(
            self,
            reasons=tuple(dict.fromkeys((*self.reasons, *reasons))),
            signals=tuple(itertools.islice(dict.fromkeys((*self.signals, *signals)), MAX_SIGNALS)),
            image_reasons=tuple(dict.fromkeys((*self.image_reasons, *image_reasons))),
        )


def response_verdict(
    site: Verdict,
    headers: Iterable[tuple[str, str]],
    purpose: Purpose,
    policy: PolicySettings,
    *,
    url: str | None = None,
    observed_at: str | None = None,
) -> Verdict:
    """Return the site's verdict with the findings in the response's headers; a TDMRep header overrides the file."""
    seen: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() in HEADERS:
            seen.setdefault(name.lower(), []).append(value.strip())
    if not seen:
        return site
    pairs = ((kind, value) for kind, values in seen.items() for value in values)
    found = site.adding(signals=[Signal(kind, "page", evidence_text(value), observed_at, url) for kind, value in pairs])
    preferences = [*seen.get("content-usage", []), *seen.get("content-signal", [])]
    if "preferences" in policy.blocking_signals and any(map(refuses_training, preferences)):
        found = found.adding(["ai_train_refused"])
    for value in sorted(seen.get("tdm-reservation", [])):  # "1" last: of contradicting headers the stricter counts
        found = with_reservation(found, value, policy)
    words = {word for value in seen.get("x-robots-tag", []) for word in _words_for_us(value, policy)}
    return _with_words(found, words, purpose, policy)


def page_verdict(
    response: Verdict,
    metas: Iterable[tuple[str, str]],
    policy: PolicySettings,
    *,
    url: str | None = None,
    observed_at: str | None = None,
) -> Verdict:
    """Return the response's verdict with the findings in an HTML page's `<meta name content>` pairs.

    `tdm-reservation` overrides the header and covers the HTML only; `noimageai` covers the images embedded in it.
    """
    words, signals, reservations = set[str](), list[Signal](), list[str]()
    for name, content in metas:
        name, content = name.strip().lower(), content.strip()
        if name == "robots" or policy.heeds(name):
            signals.append(Signal("meta-robots", "page", evidence_text(f"{name}: {content}"), observed_at, url))
            words |= set(_split_words(content.lower()))
        elif name in ("tdm-reservation", "tdm-policy"):
            signals.append(Signal(f"meta-{name}", "page", evidence_text(content), observed_at, url))
            reservations += [content] if name == "tdm-reservation" else []
    found = response.adding(signals=signals)
    for value in sorted(reservations):
        found = with_reservation(found, value, policy)
    return _with_words(found, words, "page", policy)


def stored_signals(records: Iterable[dict[str, Any]]) -> tuple[Signal, ...]:
    """Return signals as stored with an answer: each once, at URLs without credentials, which old records have."""
    signals = (Signal(**record) for record in records)
    shown = (replace(signal, url=without_credentials(signal.url) if signal.url else None) for signal in signals)
    return tuple(dict.fromkeys(shown))


def evidence_text(value: str) -> str:
    """Return a value as evidence."""
    return value if len(value) <= MAX_SIGNAL_CHARS else f"{value[:MAX_SIGNAL_CHARS]}…"


def with_reservation(found: Verdict, value: Any, policy: PolicySettings) -> Verdict:
    """Replace an earlier TDMRep value by a later one; a value other than 0 and 1 is unset and changes nothing."""
    if isinstance(value, bool) or str(value) not in ("0", "1") or "tdm" not in policy.blocking_signals:
        return found
    others = tuple(reason for reason in found.reasons if reason not in ("tdm_reserved", "tdm_unreachable"))
    return replace(found, reasons=(*others, "tdm_reserved") if str(value) == "1" else others)


def _words_for_us(value: str, policy: PolicySettings) -> list[str]:
    """Return the words of one X-Robots-Tag for everyone or for us: `noai`, or `token: noai, noimageai`."""
    words: list[str] = []
    is_for_us = True
    for part in re.split("[,;]", value.lower()):
        token, colon, rest = part.partition(":")
        if colon and token.strip() not in _VALUED_DIRECTIVES:
            is_for_us, part = token.strip() in ("*", "robots") or policy.heeds(token.strip()), rest
        if is_for_us:
            words += _split_words(part)
    return words


def _split_words(value: str) -> list[str]:
    """Return the words of a list, which should be parted by commas, and are in fact parted in other ways as well."""
    return [word for word in re.split(r"[,;|\s]+", value) if word]


def _with_words(found: Verdict, words: set[str], purpose: Purpose, policy: PolicySettings) -> Verdict:
    """Return the verdict with the effects of `noai`, `noimageai` and, by setting, the index words."""
    reasons: list[Reason] = []
    image_reasons: list[Reason] = []
    if "noai" in policy.blocking_signals:
        reasons += ["noai"] if words & {"noai", "noml"} else []
        image_reasons += ["noimageai"] if "noimageai" in words else []
    if "noindex" in policy.blocking_signals:
        reasons += ["noindex"] if words & {"noindex", "none"} else []
        image_reasons += ["noimageindex"] if "noimageindex" in words else []
    if purpose in MEDIA_PURPOSES:
        return found.adding([*reasons, *image_reasons])
    return found.adding(reasons, image_reasons=image_reasons)
