"""Parser of robots.txt by RFC 9309: groups by exact product token, and the preference lines of newer drafts.

`protego` matches paths. It picks a group by a substring of the agent's name, so the group is picked here, by the exact
token, and only that group's lines are passed to it.
"""

import functools
import re
from collections.abc import Container, Set
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from protego import Protego

from pipelines.document import encodable

MAX_BYTES = 500 * 1024  # RFC 9309, 2.5: at least this much must be parsed

_RULES = frozenset({"allow", "disallow", "crawl-delay", "request-rate", "visit-time"})
_DISALLOW_TYPOS = frozenset({"dissallow", "dissalow", "disalow", "diasllow", "disallaw"})  # protego accepts these
_PREFERENCES = frozenset({"content-usage", "content-signal"})

# draft-ietf-aipref-vocab has renamed its categories between revisions: if there is no key for training, the wider
# category that once included it counts.
_TRAINING_KEYS = ("train-ai", "train-genai", "ai-train", "genai", "ai")
_WIDER_KEYS = ("tdm", "bots", "all")
_REFUSED = frozenset({"n", "no", "?0", "false"})


MAX_EVIDENCE_CHARS = 1000  # of a longer group only the lines that decide are kept: evidence is part of every sample
MAX_EVIDENCE_BLOCKS = 4
# Lists of names have no place in RFC 9309, but those who write them mean each name: with whatever stands between them.
_BETWEEN_AGENTS = re.compile(r"[,;|&+\s\uff0c\u3001\uff1b]+")
_AROUND_AGENTS = "\"'`()[]{}<>\u2018\u2019\u201c\u201d-"
_VERSION = re.compile(r"v?[0-9.]+")
# RFC 9309, 2.2.1 has no digits, names in use do: `AI2Bot`, `img2dataset`. So a name counts as both forms end it.
_TOKEN_FORMS = (re.compile(r"[a-z_-]+"), re.compile(r"[a-z0-9_-]+"))
_LITERAL_HEAD = re.compile(r"/[A-Za-z0-9/_.-]*")  # of a pattern: characters that stand for themselves alone
_COLON = re.compile("[:\uff1a]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_AROUND_VALUE = " \t\u00a0\u3000\u00ad\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064"
_BYTE_ORDER_MARKS = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


class Line(NamedTuple):
    """One line of a file: its field in lower case, its value without comment, and its text as it stands."""

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
class Block:
    """A group as it stands in the file: its User-agent lines with the tokens that each names, and the lines below."""

    agents: tuple[tuple[Line, frozenset[str]], ...]
    lines: tuple[Line, ...]

    @functools.cached_property
    def text(self) -> str:
        """All lines, verbatim."""
        return "\n".join(line.text for line in (*(line for line, _ in self.agents), *self.lines))

    def evidence(self, tokens: Container[str], deciding: Set[Line]) -> str:
        """Return the block verbatim, or of a long one the lines that name these tokens and those that decide."""
        if len(self.text) <= MAX_EVIDENCE_CHARS:
            return self.text
        named = [(line, any(token in tokens for token in names)) for line, names in self.agents]
        marked = [*named, *((line, line in deciding) for line in self.lines)]
        shown: list[str] = []
        for line, is_kept in marked:
            if is_kept:
                shown.append(line.text)
            elif shown[-1:] != ["…"]:
                shown.append("…")
        text = "\n".join(shown)
        return text if len(text) <= 2 * MAX_EVIDENCE_CHARS else f"{text[: 2 * MAX_EVIDENCE_CHARS]}…"


@dataclass(frozen=True)
class Group:
    """All blocks for one product token, which count as one."""

    blocks: tuple[Block, ...]

    @functools.cached_property
    def lines(self) -> tuple[Line, ...]:
        """The lines of all blocks, without the User-agent lines."""
        return tuple(line for block in self.blocks for line in block.lines)

    @functools.cached_property
    def _rules(self) -> Protego:
        rules = [f"{line.field}: {_one_line(line.value)}" for line in self.lines if line.field in _RULES]
        return Protego.parse("\n".join(["User-agent: *", *rules]))

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

    def evidence(self, url: str, tokens: Container[str]) -> list[str]:
        """Return the evidence for the verdict on a URL, verbatim: all blocks, or of many those that decide.

        Args:
            url: The URL that is judged.
            tokens: Product tokens that count, in lower case.
        """
        if self._num_chars <= MAX_EVIDENCE_CHARS:
            return [block.text for block in self.blocks]
        rule = next((line for line in self._by_priority if path_matches(line.value, url)), None)
        deciding = frozenset([*([rule] if rule is not None else []), *self.preferences(url)])
        blocks = [block for block in self.blocks if any(line in deciding for line in block.lines)]
        return [block.evidence(tokens, deciding) for block in (blocks or self.blocks)[:MAX_EVIDENCE_BLOCKS]]

    @functools.cached_property
    def _num_chars(self) -> int:
        return sum(len(block.text) for block in self.blocks)

    def preferences(self, url: str) -> list[Line]:
        """Return the preference lines that apply to a URL: for each field those with the longest matching path."""
        applying: list[Line] = []
        for placed in self._preferences:
            reached = [(line, path) for line, path in placed if not path or path_matches(path, url)]
            longest = max((len(path) for _, path in reached), default=0)
            applying += dict.fromkeys(line for line, path in reached if len(path) == longest)
        return applying

    @functools.cached_property
    def _preferences(self) -> list[list[tuple[Line, str]]]:
        """Lines and their paths, field by field."""
        return [[(line, line.path) for line in self.lines if line.field == field] for field in sorted(_PREFERENCES)]


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
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if body.startswith(mark)), "utf-8")
    blocks: dict[str, list[Block]] = {}
    sitemaps: list[str] = []
    agents: list[tuple[Line, frozenset[str]]] = []
    lines: list[Line] = []

    def end_block() -> None:
        block = Block(tuple(agents), tuple(lines))
        for token in dict.fromkeys(token for _, names in agents for token in sorted(names)):
            blocks.setdefault(token, []).append(block)
        agents.clear()
        lines.clear()

    for raw in re.split(r"\r\n|\r|\n", body[:MAX_BYTES].decode(encoding, "replace")):
        line = _read_line(raw)
        if line is None:
            continue
        if line.field == "user-agent":
            if lines:
                end_block()
            agents.append((line, _named_tokens(line.value)))
        elif line.field == "sitemap":
            sitemaps.append(line.value)
        elif agents and (line.field in _RULES or line.field in _PREFERENCES):
            lines.append(line)
    end_block()
    groups = {token: Group(tuple(found)) for token, found in blocks.items()}
    return Robots(groups, tuple(dict.fromkeys(s for s in sitemaps if s)))


def _named_tokens(value: str) -> frozenset[str]:
    """Return the product tokens in a User-agent line, in lower case: `GPTBot/1.2, CCBot` names gptbot and ccbot."""
    found: set[str] = set()
    for part in _BETWEEN_AGENTS.split(_INVISIBLE.sub("", value).lower()):
        name = part.strip(_AROUND_AGENTS)
        if name == "*":
            found.add("*")
        elif not _VERSION.fullmatch(name):
            found |= {match[0] for form in _TOKEN_FORMS if (match := form.match(name))}
    return frozenset(found)


def path_matches(pattern: str, url: str) -> bool:
    """Return whether a robots.txt path pattern (`*`, a final `$`) matches the path and query of a URL."""
    return not _begins_otherwise(pattern, url) and not _single_rule(pattern).can_fetch(url, "*")


def _begins_otherwise(pattern: str, url: str) -> bool:
    """Return whether a pattern cannot match by its beginning: of a file's thousands of patterns nearly all."""
    head, path = _LITERAL_HEAD.match(pattern), _path(url)
    return head is not None and "%" not in path and not path.startswith(head[0])


@functools.lru_cache(maxsize=64)
def _path(url: str) -> str:
    return urlsplit(url).path or "/"


@functools.lru_cache(maxsize=16_384)
def _single_rule(pattern: str) -> Protego:
    return Protego.parse(f"User-agent: *\nDisallow: {_one_line(pattern)}")


def _one_line(pattern: str) -> str:
    """Return a path without characters that protego would take for the end of a line or of the path."""
    return re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029#]", lambda m: quote(m[0]), encodable(pattern.strip()))


def rule_by_type(group: Group, url: str) -> tuple[bool, Line | None]:
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
            return decides.field == "allow", decides
    others = [line for line in rules if path_matches(line.value, url)]
    if not others:
        return True, None
    decides = max(others, key=lambda line: (len(line.value), line.field == "allow"))
    return decides.field == "allow", decides


@functools.lru_cache(maxsize=32_768)  # a file may have 25,000 preferences, and each page of the host meets them
def refuses_training(value: str) -> bool:
    """Return whether a preference (`train-ai=n`, `search=yes, ai-train=no`) refuses AI training.

    Unknown keys are ignored; an absent key neither grants nor refuses. Within one statement the narrow category takes
    precedence over the wide one. Semicolons part members as commas do: a parameter of a member is an unknown key.
    """
    stated: dict[str, bool] = {}  # refused?
    for member in re.split("[,;]", value):
        key, _, word = member.partition("=")
        key = key.strip().lower()
        stated[key] = stated.get(key, False) or word.strip().strip('"').lower() in _REFUSED
    narrow = [stated[key] for key in _TRAINING_KEYS if key in stated]
    return any(narrow or [stated[key] for key in _WIDER_KEYS if key in stated])


def _read_line(raw: str) -> Line | None:
    content = raw.partition("#")[0].strip()
    colon = _COLON.search(content)
    if colon is not None:
        field, value = content[: colon.start()], content[colon.end() :]
    else:
        field, _, value = content.partition(" ")
    field, value = _INVISIBLE.sub("", field).strip().lower(), value.strip(_AROUND_VALUE)
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
    return Line(field, value, raw.strip())
