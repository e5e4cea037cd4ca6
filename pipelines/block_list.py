"""What was taken down of a corpus and must not come back: hashes of keys, addresses, domains, videos, bytes and texts.

The list is in the corpus's folder and is published with it, so it says nothing in words: whoever has a URL can find out
whether it was taken down, and nobody can read which URLs were.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from pipelines import storage
from pipelines.document import Document, Kind
from pipelines.layout import block_list_path
from pipelines.parts import read_rows
from pipelines.web import urls

EntryType = Literal["key", "url", "prefix", "domain", "sha256", "video", "text", "page"]
"""What an entry blocks; `page` blocks nothing: a page from which samples were taken and others are left."""

SCHEMA = pa.schema(
    [
        ("type", pa.string()),
        ("sha256", pa.string()),  # of the value in UTF-8; of type sha256 the value itself
        ("length", pa.int32()),  # of a prefix, characters
        ("takedown", pa.int32()),  # number of the takedown, from 1
    ]
)
TEXT_KINDS: frozenset[Kind] = frozenset({"interleaved", "text"})
"""Kinds of which a text alone is enough to know it again; a caption such as "a red circle" is not."""

MIN_TEXT_CHARS = 200
"""Length from which the text of a page with images is enough to know it again: some sentences, no title."""

_ADDRESS = re.compile(r"https?://\S+")
_MAX_SET = 1 << 18  # values of a type that are looked up in a set, which is faster and larger than a sorted array
_DIGEST_BYTES = 16  # two of a billion values agree in so many with a probability of 10^-21


class Entry(NamedTuple):
    """A row of the list; see `SCHEMA`."""

    type: EntryType
    sha256: str
    length: int | None
    takedown: int


def sha256_of(value: str) -> str:
    """Return the hash of a value, in hex."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def normal_url(url: str) -> str | None:
    """Return the spelling of a URL by which URLs are compared, without credentials; None if it is no http(s) URL."""
    try:
        return urls.canonical_url(urls.without_credentials(url))
    except ValueError:
        return None


def document_key(key: str) -> str:
    """Return the key of the document of which a sample may be a window."""
    stem, mark, number = key.rpartition("-w")
    return stem if mark and len(number) >= 2 and number.isdigit() else key


def text_hash(document: Document) -> str | None:
    """Return the hash by which a document's text is known again; None if it says too little of which document it is.

    A page of images may have a title and nothing else in words, which others have as well.
    """
    return text_hash_of(document.kind, document.text)


def text_hash_of(kind: Kind, text: str) -> str | None:
    """Return the same of a document's kind and text."""
    if kind not in TEXT_KINDS or not text:
        return None
    return sha256_of(text) if kind == "text" or len(text) >= MIN_TEXT_CHARS else None


def video_ids(document: Document, addresses: Iterable[str | None]) -> Iterator[str]:
    """Yield the names by which a video is known: of its record, and in its addresses as YouTube has them."""
    if document.kind == "video":
        yield document.source.record.partition("#w")[0]
        for url in addresses:
            if url is not None and (found := video_id(url)) is not None:
                yield found


def video_id(url: str) -> str | None:
    """Return the id in the address of a video on YouTube; None if it is another address."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removeprefix("www.").removeprefix("m.").removeprefix("music.")
    if host == "youtu.be":
        return parts.path.strip("/") or None
    if host not in ("youtube.com", "youtube-nocookie.com"):
        return None
    named = dict(pair.partition("=")[::2] for pair in parts.query.split("&"))
    folder, _, name = parts.path.strip("/").partition("/")
    return named.get("v") or (name.partition("/")[0] if folder in ("embed", "shorts", "v", "live") else None) or None


class BlockList:
    """The entries of a list, for look-ups; an empty one blocks nothing and is false.

    Args:
        entries: In any order.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        digests: dict[tuple[str, int | None], list[bytes]] = {}
        for entry in entries:
            digests.setdefault((entry.type, entry.length), []).append(_short(entry.sha256))
        self._digests: dict[tuple[str, int | None], frozenset[bytes] | Any] = {
            which: frozenset(found) if len(found) <= _MAX_SET else np.sort(np.array(found, f"S{_DIGEST_BYTES}"))
            for which, found in digests.items()
        }
        self._lengths = sorted(length for type_, length in digests if type_ == "prefix" and length is not None)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def url(self, url: str | None) -> bool:
        """Return whether an address is blocked: itself, by its beginning or by its host."""
        if url is None or not self or (normal := normal_url(url)) is None:
            return False
        if self._has("url", sha256_of(normal)):
            return True
        if any(self._has("prefix", sha256_of(normal[:n]), n) for n in self._lengths if n <= len(normal)):
            return True
        return ("domain", None) in self._digests and self.host(urlsplit(normal).hostname or "")

    def host(self, host: str) -> bool:
        """Return whether a host is blocked, or a domain that it lies in."""
        return any(self._has("domain", sha256_of(domain)) for domain in domains_of(host))

    def named(self, text: str | None) -> bool:
        """Return whether a text names an address that is blocked, such as where a redirect led."""
        return text is not None and bool(self) and any(map(self.url, addresses_in(text)))

    def part_of(self, page_url: str | None) -> bool:
        """Return whether samples of a page were taken down of which others are left."""
        if page_url is None or not self or (normal := normal_url(page_url)) is None:
            return False
        return self._has("page", sha256_of(normal))

    def key(self, key: str) -> bool:
        """Return whether a sample is blocked, or the document of which it is a window."""
        return bool(self) and (self._has("key", sha256_of(key)) or self._has("key", sha256_of(document_key(key))))

    def media(self, *sha256: str | None) -> bool:
        """Return whether one of these hashes of an image's bytes, as fetched or as stored, is blocked."""
        return any(value is not None and self._has("sha256", value) for value in sha256)

    def document(self, document: Document, addresses: Iterable[str | None] = ()) -> bool:
        """Return whether a document is blocked as a whole: by its key, page, text or video.

        Args:
            document: The document.
            addresses: Of the videos that it is made of.
        """
        if not self:
            return False
        found, source = list(addresses), document.source
        return (
            self.key(document.key)
            or self.url(source.page_url)
            or self.url(source.canonical_url)
            or self.text(document)
            or any(self._has("video", sha256_of(name)) for name in video_ids(document, found))
            or (document.kind == "video" and any(map(self.url, found)))
        )

    def text(self, document: Document) -> bool:
        """Return whether a document has the text of one that was taken down."""
        return bool(self) and self.is_text(text_hash(document))

    def is_text(self, digest: str | None) -> bool:
        """Return whether this is the hash of a text that was taken down."""
        return digest is not None and self._has("text", digest)

    def counts(self) -> dict[str, int]:
        """Return the number of entries by type."""
        counted: Counter[str] = Counter()
        for (type_, _), found in self._digests.items():
            counted[type_] += len(found)
        return dict(counted)

    def _has(self, type_: EntryType, sha256: str, length: int | None = None) -> bool:
        found: Any = self._digests.get((type_, length))
        if found is None:
            return False
        digest = _short(sha256)
        if isinstance(found, frozenset):
            return digest in found
        place = int(np.searchsorted(found, np.bytes_(digest)))
        return place < len(found) and bytes(found[place]) == digest


NOTHING = BlockList()
"""The list of a corpus of which nothing was ever taken down."""


def addresses_in(text: str) -> Iterator[str]:
    """Yield the http(s) URLs in a text, each as it is and without the punctuation after it."""
    for found in _ADDRESS.findall(text):
        yield from {found, found.rstrip(".,:;")}


def domains_of(host: str) -> Iterator[str]:
    """Yield a host and the domains that it lies in, the widest last; of an address only itself."""
    is_address = ":" in host or host.replace(".", "").isdigit()
    yield host
    while not is_address and "." in host:
        host = host.partition(".")[2]
        yield host


def read_entries(out: str) -> Iterator[Entry]:
    """Yield the entries of a corpus's list; none if nothing was ever taken down."""
    path = block_list_path(out)
    if storage.exists(path):
        for row in read_rows(path):
            yield Entry(**row)


def load_block_list(out: str) -> BlockList:
    """Return what was taken down of the corpus in a folder."""
    return BlockList(read_entries(out))


def _short(sha256: str) -> bytes:
    """Return the beginning of a hash as NumPy holds it, which drops zeros at the end."""
    return bytes.fromhex(sha256)[:_DIGEST_BYTES].rstrip(b"\0")
