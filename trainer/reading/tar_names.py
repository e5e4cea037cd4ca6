"""Names of streamed tars that hold no credentials, so that they may be written down and stay when these are rotated.

A name is the tar's URL without its user, query and fragment, any of which may be a credential. Of a `pipe:` command
only words are kept that can be none: its programs, names of options and variables, URLs, numbers of up to three digits,
and files where a program takes nothing else. All other words are masked: tars that are then equal are numbered.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode

from pipelines.errors import UserError

MASK = "***"
"""What stands for a credential."""

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:(?://)?|\$\{\w+\}://)"
    r"(?P<user>[^/?#]*@)?(?P<place>[^?#;]*)(?:[?#;](?P<query>.*))?",
    re.DOTALL,
)
_UNESCAPED_USER = re.compile(  # its password has signs that end it in a URL: it is no port
    r"(?P<scheme>(?:[A-Za-z][A-Za-z0-9+.-]*|\$\{\w+\})://)[^/?#:@\[]*:(?!(?:[\d{}.,]+|\$\{?\w+\}?)/)[^/?#@]*[/?#].*@",
    re.DOTALL,
)
_SCHEME = re.compile(r"(pipe|file):|[A-Za-z][A-Za-z0-9+.-]*://|\$\{\w+\}")
_PLAIN_PATH = re.compile(r"[\w./+{},$-]+")
_FROM_VARIABLE = re.compile(r"\$\{\w+\}(?P<place>[\w./+{}$-]*)(?:[?#](?P<query>.*))?", re.DOTALL)
_QUERY_KEY = re.compile(
    r"file(name)?|path|tar|object|shard|part|chunk|split|page|index|num(ber)?|id|i|n", re.IGNORECASE
)
_QUERY_VALUE = re.compile(r"[\w./+-]+\.(tar|tbz2?|tgz|txz)(\.\w{1,5})?|\d{1,6}")

_PARTS = re.compile(
    r"(?P<sign>\n|[|;&()<>]+)|(?P<word>(?:[^\s'\"\\|;&()<>]|\\.|'[^']*'|\"(?:\\.|[^\"\\])*\")+)", re.DOTALL
)
_QUOTE = re.compile(r"['\"\\]")
_PROGRAM = re.compile(r"(?:[\w./~$+{}-]*/)?(?P<name>[A-Za-z][\w.+-]{0,31})|\$\{?\w+\}?")
_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)
_OPTION = re.compile(r"-|-[A-Za-z]{1,3}|--[a-z][a-z-]*")
_OPTION_VALUE = re.compile(r"(?P<name>--[a-z][a-z-]*)=(?P<value>.*)", re.DOTALL)
_SECRET = re.compile(
    r"-[A-Za-z]*[EFHUbdpu]"  # of curl, wget, sshpass and others
    r"|(?i:.*(auth|bearer|cert|cookie|cred|data|form|header|key|pass|pin|pw|secret|sig|token|user).*)"
)
_HARMLESS = re.compile(
    r"[!.:{}\[\]-]|\d{1,3}|\$\{?\w+\}?"
    r"|cat|copyto|cp|dfs|fs|get|s3|storage"  # commands of programs for object stores
)
_WEB = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"`<>\\]+")
_FILE = re.compile(r"(?=[^./]*[./])[\w./+{}$~-]+|\d+")
_REMOTE = re.compile(r"[A-Za-z][\w-]*:[\w./+{}$-]*")
_SHELLS = frozenset({"bash", "dash", "sh", "zsh"})
_PREFIXES = frozenset({"!", "env", "exec", "time"})  # words after which a command begins
_READER = re.compile(
    r"cat|head|tail|test|hadoop|hdfs|(bz|lz4|xz|z|zstd)cat|(un)?(lz4|pigz|xz|zstd)|p?bzip2|bunzip2|gunzip|gzip"
)
"""Programs whose arguments are files and numbers only."""


@dataclass(frozen=True, slots=True)
class _Hidden:
    """What is written in place of the parts of a URL that may be credentials.

    Attributes:
        user: In place of a user, with its `@`.
        query: Returns what to write of a query, with its `?`.
    """

    user: str
    query: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _Place:
    """What stands before a word of a command.

    Attributes:
        begins: Whether a command begins with the word.
        program: The command's program; empty if it is not known.
        before: The option before the word, or the sign `<` or `>`; else empty.
    """

    begins: bool = True
    program: str = ""
    before: str = ""


def tar_names(urls: Sequence[str], written: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return a name for each URL of a source's tars, in webdataset's form; different URLs have different names.

    Where URLs differ only in their queries, parameters that name a file or a part are kept; what is then still equal is
    numbered in the list's order.

    Args:
        urls: The URLs that are opened.
        written: The same as the config has them, before variables are replaced, whose values may be credentials.

    Raises:
        UserError: If credentials were removed from a URL, as in the copy of a config in a run's folder.
    """
    written = urls if written is None else written
    for url in written:
        if MASK in url:
            raise UserError(
                f"data.streams: {masked(url)}: without its credentials, as in a run's copy of its config: give the "
                "original"
            )
    names = [tar_name(url) for url in written]
    if len(set(names)) < len(set(urls)):
        names = [_safe_url(url, _TOLD_BY_QUERY) for url in written]
    same: dict[str, dict[str, int]] = {}  # the number of each URL among those of a name
    found = []
    for name, url in zip(names, urls, strict=True):
        numbers = same.setdefault(name, {})
        number = numbers.setdefault(url, len(numbers))
        found.append(f"{name} ({number + 1})" if number else name)
    return tuple(found)


def tar_name(url: str) -> str:
    """Return the name of a tar; other tars may have the same."""
    return _safe_url(url, _LEFT_OUT)


def masked(urls: str) -> str:
    """Return what a config has for tars, with braces and `::`, with a mask in place of what may be a credential."""
    if "::" not in urls:
        return _safe_url(_unescaped(urls), _MASKED)
    return "::".join(
        _safe_url(_unescaped(url), _MASKED) if _begins_url(url, beside_commands="pipe:" in urls) else MASK
        for url in urls.split("::")
    )


def _begins_url(url: str, *, beside_commands: bool) -> bool:
    """Return whether a part of a list is a URL or a path, not the rest of a command that has `::` in it."""
    is_path = _PLAIN_PATH.fullmatch(url) and (url.startswith(("/", ".")) or not beside_commands)
    return bool(_SCHEME.match(url) or is_path)


def _unescaped(url: str) -> str:
    """Return a command without the backslashes that the expansion of braces removes before a shell reads it."""
    return re.sub(r"\\(.)", r"\1", url, flags=re.DOTALL) if url.startswith("pipe:") else url


def _safe_url(url: str, hidden: _Hidden) -> str:
    """Return a URL or a path with other text in place of what may be a credential."""
    if url.startswith("pipe:"):
        return f"pipe:{_masked_command(url.removeprefix('pipe:'), hidden)}"
    if url.startswith("file:"):
        return url
    if found := _UNESCAPED_USER.match(url):
        scheme, (user, *places) = found["scheme"], url.removeprefix(found["scheme"]).split("@")
        if len(places) > 1 or re.search(r":\d+[?#]", user):
            return scheme + MASK  # it is not clear where the user ends
        url = f"{scheme}@{places[0]}"
    if found := _URL.fullmatch(url):
        user, place = hidden.user if found["user"] else "", found["place"]
        if "@" in place and ":" in (found["user"] or place.partition("/")[0]):
            return found["scheme"] + MASK  # nor here
        return found["scheme"] + user + place + (hidden.query(found["query"]) if found["query"] else "")
    if found := _FROM_VARIABLE.fullmatch(url):
        return url[: found.end("place")] + (hidden.query(found["query"]) if found["query"] else "")
    is_path = url.startswith(("/", ".")) or "${" not in url
    return url if is_path and "://" not in url and "pipe:" not in url else MASK  # braces may stand around a whole URL


def _naming_parameters(query: str) -> str:
    """Return the parameters of a query that name a file or the number of a part."""
    kept = [(k, v) for k, v in parse_qsl(query) if _QUERY_KEY.fullmatch(k) and _QUERY_VALUE.fullmatch(v)]
    return f"?{urlencode(kept, safe='/')}" if kept else ""


_LEFT_OUT = _Hidden("", lambda query: "")
_TOLD_BY_QUERY = _Hidden("", _naming_parameters)
_MASKED = _Hidden(f"{MASK}@", lambda query: f"?{MASK}")


def _masked_command(command: str, hidden: _Hidden) -> str:
    """Return a command line in which all words are masked that may be credentials."""
    found, end, place = [], 0, _Place()
    for part in _PARTS.finditer(command):
        is_read = not command[end : part.start()].strip()
        if not is_read or "<<" in part[0] or part[0].startswith("#"):
            break  # at a quote without its end, a text for the program's input, or a comment: the rest is masked
        found.append(command[end : part.start()])
        end = part.end()
        if part["sign"]:
            found.append(part[0])
            place = _after_sign(part[0])
        else:
            word = "".join(shlex.split(part[0])) if _QUOTE.search(part[0]) else part[0]  # faster for long lists
            kept = _kept(word, place, hidden)
            found.append(part[0] if kept == word else kept)
            place = _after_word(word, place)
    rest = command[end:]
    return "".join(found) + (f" {MASK}" if rest.strip() else rest)


def _after_sign(sign: str) -> _Place:
    if sign.endswith(("<", ">", ">&", "<&")):
        return _Place(begins=False, before=sign[-1])
    return _Place(begins=not sign.endswith(")"))


def _after_word(word: str, place: _Place) -> _Place:
    if place.begins:
        if word in _PREFIXES or _ASSIGNMENT.fullmatch(word):
            return place
        program = _PROGRAM.fullmatch(word)
        return _Place(begins=False, program=(program["name"] or "") if program else "")
    return replace(place, before=word if _OPTION.fullmatch(word) and not _SECRET.fullmatch(place.before) else "")


def _kept(word: str, place: _Place, hidden: _Hidden) -> str:
    """Return what may be written down of a word: all of it, or a mask in place of it or of a part."""
    takes_files = bool(_READER.fullmatch(place.program)) or place.before in ("<", ">")
    if _SECRET.fullmatch(place.before) and not takes_files:
        return MASK
    named = _ASSIGNMENT.fullmatch(word) if place.begins else _OPTION_VALUE.fullmatch(word)
    if named:
        value = MASK if _SECRET.fullmatch(named["name"]) else _harmless(named["value"], hidden)
        return f"{named['name']}={value}"
    if place.begins:
        return word if word in _PREFIXES or _PROGRAM.fullmatch(word) else MASK
    if place.program in _SHELLS and re.fullmatch(r"-[a-z]*c", place.before):
        script = _masked_command(word, hidden)
        return word if script == word else shlex.quote(script)
    takes_remotes = place.program == "rclone" and not place.before
    if (
        _OPTION.fullmatch(word)
        or (takes_files and _FILE.fullmatch(word))
        or (takes_remotes and _REMOTE.fullmatch(word))
    ):
        return word
    return _harmless(word, hidden)


def _harmless(word: str, hidden: _Hidden) -> str:
    """Return a word that can be no credential, whatever it is for: a URL, a variable, a short number."""
    if _WEB.fullmatch(word):
        return _safe_url(word, hidden)
    return word if _HARMLESS.fullmatch(word) else MASK
