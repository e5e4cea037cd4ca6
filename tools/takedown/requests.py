"""What a takedown is asked for: keys, URLs, beginnings of URLs, domains, hashes of bytes, and videos."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pipelines import storage
from pipelines.block_list import Entry, normal_url, sha256_of, video_id
from pipelines.command_line import printable
from pipelines.document import KEY_PREFIX
from pipelines.errors import UserError
from pipelines.web.urls import canonical_host

RequestType = Literal["key", "url", "prefix", "domain", "sha256", "video"]
TYPES: tuple[RequestType, ...] = get_args(RequestType)
MAX_LOGGED = 100
"""Requests that the log lists one by one; of more it has the numbers."""

_SHA256 = re.compile("[0-9a-f]{64}")
_KEY = re.compile(f"[{''.join(sorted(set(KEY_PREFIX.values())))}][0-9a-f]{{20}}(-w[0-9]{{2,}})?")
_COMMENT = re.compile(r"(^|\s+)#.*")
_PLAIN = ("key", "sha256")  # these name nobody


@dataclass(frozen=True, slots=True, order=True)
class Wanted:
    """One thing that is asked for; `value` is in its normal form."""

    type: RequestType
    value: str

    def entry(self, takedown: int) -> Entry:
        """Return the entry of the block list by which it does not come back."""
        digest = self.value if self.type == "sha256" else sha256_of(self.value)
        return Entry(self.type, digest, len(self.value) if self.type == "prefix" else None, takedown)

    @property
    def logged(self) -> dict[str, str]:
        """What the log says of it: addresses are hashed, since the log is published."""
        named = "value" if self.type in _PLAIN else "sha256"
        return {"type": self.type, named: self.value if self.type in _PLAIN else sha256_of(self.value)}


def wanted(type_: RequestType, value: str) -> Wanted:
    """Return a request in its normal form.

    Raises:
        UserError: If the value is not of its type.
    """
    value = value.strip()
    if not value:
        raise UserError(f"{type_}: empty")
    if any(c.isspace() or unicodedata.category(c) == "Cc" for c in value):
        raise UserError(f"{type_} {_shown(value)}: has a space or control character; one thing is asked for at a time")
    if type_ in ("url", "prefix"):
        if (found := normal_url(value)) is None:
            raise UserError(f"{type_} {_shown(value)}: no http(s) URL")
        if type_ == "prefix" and not _keeps_its_end(value, found):
            said = f"URLs are compared without what it ends in; give {_shown(found)} if all that begins so is meant"
            raise UserError(f"prefix {_shown(value)}: {said}")
        return Wanted(type_, found)
    if type_ == "domain":
        return Wanted(type_, _domain(value))
    if type_ == "sha256":
        if not _SHA256.fullmatch(value.lower()):
            raise UserError(f"sha256 {_shown(value)}: not 64 hexadecimal digits")
        return Wanted(type_, value.lower())
    if type_ == "video":
        return Wanted(type_, video_id(value) or value)
    return Wanted(type_, value)


def _domain(value: str) -> str:
    name = value.removeprefix("*").removeprefix(".").rstrip(".")
    try:
        if "/" in value or "@" in value:
            raise ValueError("an address")
        found = canonical_host(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError as error:
        raise UserError(f"domain {_shown(value)}: no domain, such as example.org") from error
    if not {".", ":"} & set(found) and found != "localhost":
        raise UserError(f"domain {_shown(value)}: one label, which would take all hosts that end in it")
    return found


def _keeps_its_end(prefix: str, normal: str) -> bool:
    """Return whether URLs that begin with a prefix begin with its normal form too, and no others do."""
    parts = urlsplit(prefix)
    begun = prefix if parts.path or parts.query or parts.fragment or prefix.endswith(("?", "#")) else prefix + "/"
    return all(normal_url(begun + more) == normal + more for more in ("0", "00"))  # the second completes an escape


def read_list(path: str) -> Iterator[Wanted]:
    """Yield the requests of a file: in each line a type and a value, or a URL, hash or key alone.

    `#` begins a comment, at the beginning of a line or after a space. A key alone is one of this project's; those of
    others could be any word.

    Raises:
        UserError: If a line is neither; the message has its number.
    """
    if not storage.exists(path):
        raise UserError(f"{path}: no such file")
    with storage.open_read(path) as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8: {error.reason}") from error
            if not (text := _COMMENT.sub("", text)):
                continue
            first, *rest = text.split(None, 1)
            try:
                if rest:
                    yield wanted(_type(first), rest[0])
                else:
                    yield wanted(_type_of(text), text)
            except UserError as error:
                raise UserError(f"{path}:{number}: {error}") from error


def _type_of(value: str) -> RequestType:
    """Return the type of what stands alone in a line."""
    if "://" in value:
        return "url"
    if _SHA256.fullmatch(value.lower()):
        return "sha256"
    if _KEY.fullmatch(value):
        return "key"
    raise UserError(
        f"{_shown(value)}: no URL, hash or key of ours; say what it is, such as `domain {_shown(value)[1:-1]}`"
    )


def _type(name: str) -> RequestType:
    for known in TYPES:
        if name.rstrip(":").lower() == known:
            return known
    raise UserError(f"{_shown(name)}: no type; a line has one of {', '.join(TYPES)} and a value, or a key or URL alone")


def logged(asked: Sequence[Wanted]) -> list[dict[str, Any]]:
    """Return what the log says of requests."""
    if len(asked) <= MAX_LOGGED:
        return [each.logged for each in asked]
    counted = Counter(each.type for each in asked)
    return [{"type": type_, "number": counted[type_]} for type_ in TYPES if counted[type_]]


def collect(given: Mapping[RequestType, Iterable[str]], files: Iterable[str]) -> list[Wanted]:
    """Return all requests of a command, each once.

    Raises:
        UserError: If there is none, or one is not of its type.
    """
    found = [wanted(type_, value) for type_, values in given.items() for value in values]
    found += (each for path in files for each in read_list(path))
    if not found:
        raise UserError("nothing to take down: give --key, --url, --prefix, --domain, --sha256, --video or --file")
    return sorted(set(found))


def _shown(value: str) -> str:
    return printable(repr(value[:100]))
