"""Parser of robots.txt by RFC 9309: groups by exact product token, and the preference lines of newer drafts.

`protego` matches paths. It picks a group by a substring of the agent's name, so the group is picked here, by the exact
token, and only that group's lines are passed to it.
"""

import functools
import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from protego import Protego

MAX_BYTES = 500 * 1024  # RFC 9309, 2.5: at least this much must be parsed

_RULES = frozenset({"allow", "disallow", "crawl-delay", "request-rate", "visit-time"})
_DISALLOW_TYPOS = frozenset({"dissallow", "dissalow", "disalow", "diasllow", "disallaw"})  # protego accepts these
_PREFERENCES = frozenset({"content-usage", "content-signal"})

# draft-ietf-aipref-vocab has renamed its categories between revisions: if there is no key for training, the wider
# category that once included it counts.
_TRAINING_KEYS = ("train-ai", "train-genai", "ai-train", "genai", "ai")
_WIDER_KEYS = ("tdm", "bots", "all")
_REFUSED = frozenset({"n", "no", "?0", "false"})


class Line(NamedTuple):
    """One line of a group: its field in lower case, its value, and its text without comment."""

    field: str
    value: str
    text: str

    @property
    def path(self) -> str:
        """The path that a preference line is limited to; empty if it has none."""
        return self.value.split(None, 1)[0] if self.value.startswith("/") else ""

    @property
    def preference(self) -> str:
        """The statement of a preference line, without its path."""
        return self.value[len(self.path) :]


@dataclass(frozen=True)
class Group:
    """All lines for one product token, groups of the same token merged; `heading` is the first User-agent line."""

    heading: str
    lines: tuple[Line, ...]

    @functools.cached_property
    def _rules(self) -> Protego:
        return Protego.parse("\n".join(["User-agent: *", *(line.text for line in self.lines)]))

    @functools.cached_property
    def _by_priority(self) -> list[Line]:
        rules = [line for line in self.lines if line.field in ("allow", "disallow") and line.value]
        return sorted(rules, key=lambda line: (-len(line.value), line.field != "allow"))

    @property
    def crawl_delay(self) -> float | None:
        """Seconds between requests that the group demands (not in the RFC, but obeyed)."""
        delay: float | None = self._rules.crawl_delay("*")
        return delay

    def allows(self, url: str) -> bool:
        """Return whether the path of a URL may be fetched: the longest match decides, allow on a tie."""
        return bool(self._rules.can_fetch(url, "*"))

    def evidence(self, url: str) -> str:
        """Return the deciding lines, verbatim: the group's, and the matching rule's if there is one."""
        rule = next((line.text for line in self._by_priority if path_matches(line.value, url)), None)
        return f"{self.heading}\n{rule}" if rule else self.heading

    def preferences(self, url: str) -> list[Line]:
        """Return the preference lines that apply to a URL: for each field those with the longest matching path."""
        applying: list[Line] = []
        for field in sorted(_PREFERENCES):
            lengths = {line: _preference_reach(line, url) for line in self.lines if line.field == field}
            longest = max((n for n in lengths.values() if n is not None), default=None)
            applying += [line for line, n in lengths.items() if n is not None and n == longest]
        return applying


@dataclass(frozen=True)
class Robots:
    """A parsed robots.txt: groups by lower-case token, and the sitemaps it names."""

    groups: dict[str, Group]
    sitemaps: tuple[str, ...] = ()

    def group(self, token: str) -> Group | None:
        """Return the group for a product token, else that of `*`."""
        return self.groups.get(token.lower()) or self.groups.get("*")


def parse_robots(body: bytes) -> Robots:
    """Parse a robots.txt. Nothing in it is an error: unreadable lines are ignored."""
    text = body[:MAX_BYTES].decode("utf-8", "replace").lstrip("\ufeff")
    headings: dict[str, str] = {}
    lines: dict[str, list[Line]] = {}
    sitemaps: list[str] = []
    current: list[str] = []  # tokens of the group being read
    is_naming = False  # whether the last line that counts was a User-agent
    for raw in re.split(r"\r\n|\r|\n", text):
        line = _read_line(raw)
        if line is None:
            continue
        if line.field == "user-agent":
            if not is_naming:
                current = []
            is_naming = True
            token = re.split(r"[\s/]", line.value, maxsplit=1)[0].lower()  # "GPTBot/1.2" names GPTBot
            if token:
                current.append(token)
                headings.setdefault(token, line.text)
                lines.setdefault(token, [])
        elif line.field == "sitemap":
            sitemaps.append(line.value)
        elif line.field in _RULES or line.field in _PREFERENCES:
            is_naming = False
            for token in dict.fromkeys(current):
                lines[token].append(line)
    return Robots(
        {t: Group(headings[t], tuple(lines[t])) for t in headings}, tuple(dict.fromkeys(s for s in sitemaps if s))
    )


def path_matches(pattern: str, url: str) -> bool:
    """Return whether a robots.txt path pattern (`*`, a final `$`) matches the path and query of a URL."""
    return not _single_rule(pattern).can_fetch(url, "*")


@functools.lru_cache(maxsize=16_384)
def _single_rule(pattern: str) -> Protego:
    one_line = re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029#]", lambda m: quote(m[0]), pattern.strip())
    return Protego.parse(f"User-agent: *\nDisallow: {one_line}")


def rule_by_type(group: Group, url: str) -> tuple[bool, str | None]:
    """Return (allowed, deciding line) by the group of an ai.txt: rules for the file's extension override all others.

    Files in practice name each type (`Disallow: *.jpg`) and end with `Disallow: /`, which by length or by order would
    decide differently for the types they allow.
    """
    extension = re.search(r"\.([a-z0-9]{1,5})$", urlsplit(url).path.lower())
    rules = [line for line in group.lines if line.field in ("allow", "disallow") and line.value]
    if extension:
        suffixes = {f"*.{extension[1]}", f"/*.{extension[1]}", f".{extension[1]}"}
        of_type = [line for line in rules if line.value.lower().rstrip("$") in suffixes]
        if of_type:
            decides = next((line for line in of_type if line.field == "disallow"), of_type[0])
            return decides.field == "allow", decides.text
    others = [line for line in rules if path_matches(line.value, url)]
    if not others:
        return True, None
    decides = max(others, key=lambda line: (len(line.value), line.field == "allow"))
    return decides.field == "allow", decides.text


def refuses_training(value: str) -> bool:
    """Return whether a preference (`train-ai=n`, `search=yes, ai-train=no`) refuses AI training.

    Unknown keys are ignored; an absent key neither grants nor refuses. Within one statement the narrow category takes
    precedence over the wide one.
    """
    stated: dict[str, bool] = {}  # refused?
    for member in value.split(","):
        key, _, word = member.partition(";")[0].partition("=")
        key = key.strip().lower()
        stated[key] = stated.get(key, False) or word.strip().strip('"').lower() in _REFUSED
    narrow = [stated[key] for key in _TRAINING_KEYS if key in stated]
    return any(narrow or [stated[key] for key in _WIDER_KEYS if key in stated])


def _preference_reach(line: Line, url: str) -> int | None:
    """Return the length of the line's path if it matches the URL, 0 without a path, None if it does not match."""
    if not line.path:
        return 0
    return len(line.path) if path_matches(line.path, url) else None


def _read_line(raw: str) -> Line | None:
    text = raw.partition("#")[0].strip()
    field, colon, value = text.partition(":")
    if not colon:
        field, _, value = text.partition(" ")
    field, value = field.strip().lower(), value.strip()
    if not field:
        return None
    if field in _DISALLOW_TYPOS:
        field = "disallow"
    elif field in ("useragent", "user agent"):
        field = "user-agent"
    elif field in ("sitemaps", "site-map"):
        field = "sitemap"
    elif field == "crawl delay":
        field = "crawl-delay"
    return Line(field, value, text)
