"""What the policy files of a site say of a URL: robots.txt with its preference lines, tdmrep.json, ai.txt (media only).

The first of the three steps of `permission.py`, before any request for the URL itself.
"""

import functools
import json
import math
from dataclasses import dataclass
from typing import Any

from pipelines.document import Signal, canonical_json
from pipelines.drop_reasons import Reason
from pipelines.web.permission import (
    MAX_SIGNALS,
    MEDIA_PURPOSES,
    TRAINING_NAMES,
    PolicySettings,
    Purpose,
    Verdict,
    evidence_text,
    with_reservation,
)
from pipelines.web.robots import Group, Robots, parse_robots, path_matches, refuses_training, rule_by_type

MAX_KEPT_HOSTS = 1000  # parsed rules of hosts in memory: some 50 KB each, and a file of Common Crawl has 20,000 hosts


@dataclass(frozen=True)
class SiteFile:
    """The response to the request for a policy file; `status` is None if there was none."""

    url: str
    status: int | None
    body: bytes = b""
    observed_at: str | None = None

    @property
    def is_unreachable(self) -> bool:
        """True if there was no response, a 5xx or a 429: RFC 9309 reads 4xx as "no rules", but a 429 may hide some."""
        return self.status is None or self.status >= 500 or self.status == 429

    @property
    def content(self) -> bytes:
        """The file's bytes; empty if there is no file."""
        return self.body if self.status is not None and 200 <= self.status < 300 else b""

    @functools.cached_property
    def parsed(self) -> Robots:
        """The file's content as a robots.txt, whose form an ai.txt has as well."""
        return parse_robots(self.content)

    def signal(self, kind: str, value: str | None = None) -> Signal:
        """Return what was seen in the file, or the status if nothing could be."""
        status = "no answer" if self.status is None else f"HTTP {self.status}"
        return Signal(kind, "page", status if value is None else evidence_text(value), self.observed_at, self.url)


@dataclass(frozen=True)
class SiteRules:
    """The policy files of one authority. `tdmrep` and `ai_txt` are None if they were not requested."""

    policy: PolicySettings
    robots: SiteFile
    tdmrep: SiteFile | None = None
    ai_txt: SiteFile | None = None

    def verdict(self, url: str, purpose: Purpose) -> Verdict:
        """Return the verdict on a URL of this authority, before any request for it."""
        if self.robots.is_unreachable:
            return Verdict(("robots_unreachable",), (self.robots.signal("robots.txt"),))
        found = self._robots_verdict(url)
        if self.tdmrep is not None:
            found = self._tdmrep_verdict(found, self.tdmrep, url)
        if self.ai_txt is not None and purpose in MEDIA_PURPOSES:
            found = self._ai_txt_verdict(found, self.ai_txt, url)
        return found

    @property
    def num_bytes(self) -> int:
        """Size of all files, by which it takes time to judge a URL."""
        return sum(len(file.body) for file in (self.robots, self.tdmrep, self.ai_txt) if file is not None)

    def may_read(self, url: str) -> bool:
        """Return whether robots.txt lets us read another policy file."""
        return not self.robots.is_unreachable and (self._group is None or self._group.allows(url))

    @property
    def crawl_delay(self) -> float | None:
        """Seconds between requests that robots.txt demands of us."""
        return self._group.crawl_delay if self._group is not None else None

    @property
    def sitemaps(self) -> tuple[str, ...]:
        """Sitemaps that robots.txt names, unresolved."""
        return self.robots.parsed.sitemaps

    @functools.cached_property
    def _group(self) -> Group | None:
        return self.robots.parsed.group(self.policy.product_token)

    @functools.cached_property
    def _training_groups(self) -> list[Group]:
        """Groups that name training crawlers; an unnamed one falls under `*`, which is checked for us anyway."""
        if self.policy.training_tokens != "strict":
            return []
        return [group for token, group in self.robots.parsed.groups.items() if token in TRAINING_NAMES]

    def _robots_verdict(self, url: str) -> Verdict:
        group = self._group
        reasons: list[Reason] = []
        signals: list[Signal] = []
        if group is None:
            signals.append(self.robots.signal("robots.txt"))
        else:
            signals += self._evidence(group, url)
            if not group.allows(url):
                reasons.append("robots_disallowed")
        for other in self._training_groups:
            signals += self._evidence(other, url)
            if not other.allows(url):
                reasons.append("training_crawlers_disallowed")
        for speaker in [*([group] if group is not None else []), *self._training_groups]:
            preferences = speaker.preferences(url)
            signals += [self.robots.signal(line.field, line.value) for line in preferences[:MAX_SIGNALS]]
            is_refused = any(refuses_training(line.preference) for line in preferences)
            if is_refused and "preferences" in self.policy.blocking_signals:
                reasons.append("ai_train_refused")
        return Verdict(crawl_delay=self.crawl_delay).adding(reasons, signals)

    def _evidence(self, group: Group, url: str) -> list[Signal]:
        tokens = {"*", self.policy.product_token.lower(), *TRAINING_NAMES}
        return [self.robots.signal("robots.txt", text) for text in group.evidence(url, tokens)]

    def _tdmrep_verdict(self, found: Verdict, file: SiteFile, url: str) -> Verdict:
        if file.is_unreachable:
            refused = self.policy.unknown == "refuse" and "tdm" in self.policy.blocking_signals
            return found.adding(["tdm_unreachable"] if refused else [], [file.signal("tdmrep.json")])
        for rule in self._tdm_rules:
            if path_matches(rule["location"], url):
                seen = found.adding(signals=[file.signal("tdmrep.json", canonical_json(rule))])
                return with_reservation(seen, rule.get("tdm-reservation"), self.policy)
        return found

    @functools.cached_property
    def _tdm_rules(self) -> list[dict[str, Any]]:
        """Rules of tdmrep.json in order, without malformed ones (on an error the value is unset)."""
        try:
            content = self.tdmrep.content if self.tdmrep is not None else b"[]"
            rules = json.loads(content, parse_constant=str, parse_float=_number, parse_int=_number)
        except (ValueError, RecursionError):
            return []
        rules = rules if isinstance(rules, list) else [rules]
        return [
            {**rule, "location": location if location.startswith(("/", "*")) else f"/{location}"}
            for rule in rules
            if isinstance(rule, dict) and isinstance(location := rule.get("location"), str) and location
        ]

    def _ai_txt_verdict(self, found: Verdict, file: SiteFile, url: str) -> Verdict:
        blocks = "ai_txt" in self.policy.blocking_signals
        if file.is_unreachable:
            refused = blocks and self.policy.unknown == "refuse"
            return found.adding(["ai_txt_unreachable"] if refused else [], [file.signal("ai.txt")])
        group = self._ai_group
        if group is None:
            return found
        allowed, line = rule_by_type(group, url)
        tokens = {"*", self.policy.product_token.lower()}
        evidence = [block.evidence(tokens, {line} if line is not None else set()) for block in group.blocks]
        signals = [file.signal("ai.txt", text) for text in evidence]
        return found.adding(["ai_txt_disallowed"] if blocks and not allowed else [], signals)

    @functools.cached_property
    def _ai_group(self) -> Group | None:
        assert self.ai_txt is not None
        return self.ai_txt.parsed.group(self.policy.product_token)


def _number(literal: str) -> float | str:
    """Return a number of JSON as such if it is one for Python and for our own records, which know no infinity."""
    value = float(literal)
    if not math.isfinite(value):
        return literal
    return value if "." in literal or "e" in literal.lower() else int(literal)
