"""Record between extract and fetch stage: a document without bytes, and the media to fetch for it."""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

from pipelines.document import Document, canonical_json, plain


@dataclass(frozen=True, slots=True)
class Track:
    """Timed text of a video: `kind` as in HTML (`subtitles`, `captions`); `is_automatic` if a machine wrote it."""

    url: str
    lang: str | None = None
    kind: str = "subtitles"
    is_automatic: bool = False


RequestType = Literal["image", "video", "site"]
_SITE = "site:"


@dataclass(frozen=True, slots=True)
class MediaRequest:
    """One image or video that a document needs, or the site files of its page's host.

    In an image document, request i is for `document.media[i]`. A video document has one request of type `video` and no
    media yet: its frames and subtitles become segments after the download. A request of type `site` is the last; what
    robots.txt and the like say today decides on the whole document, whose page others fetched.

    `url` is absolute, http(s); None if the input itself contains the bytes (`inline`: a data: URI, a tar member).
    `page_url` is the page of the reference, None for lists.
    """

    type: RequestType
    url: str | None
    page_url: str | None = None
    tracks: tuple[Track, ...] = ()
    inline_sha256: str | None = None

    @property
    def key(self) -> str:
        """Key in the raw store: the URL, or the hash of the inline bytes; a site's is no image's."""
        if self.url is None:
            return f"inline:{self.inline_sha256}"
        return f"{_SITE}{self.url}" if self.type == "site" else self.url


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that passed the text rules, its requests, and the inline bytes by their sha256 in hex.

    `record` is the candidate's origin: the file and row of a list, or the WARC file and offset of a page.
    """

    document: Document
    requests: tuple[MediaRequest, ...] = ()
    inline: tuple[tuple[str, bytes], ...] = ()
    record: str | None = None

    @property
    def media_requests(self) -> tuple[MediaRequest, ...]:
        """The requests for images and videos."""
        return tuple(request for request in self.requests if request.type != "site")

    @property
    def site(self) -> MediaRequest | None:
        """The request for the site files of the page's host, if others fetched the page."""
        return next((request for request in self.requests if request.type == "site"), None)

    def requests_json(self) -> str:
        """Return the requests as JSON, for a column of a parquet file."""
        return canonical_json(plain(self.requests))

    @classmethod
    def from_columns(cls, document: str, requests: str, record: str | None) -> Self:
        """Rebuild a candidate from its columns, without the inline bytes."""
        return cls(Document.from_json(document), requests_of(requests), record=record)


def requests_of(column: str) -> tuple[MediaRequest, ...]:
    """Return the requests in a column that `Candidate.requests_json` wrote."""
    rows = json.loads(column)
    return tuple(MediaRequest(**{**row, "tracks": tuple(Track(**t) for t in row["tracks"])}) for row in rows)


def url_of_key(key: str) -> str:
    """Return the URL of a request by its key, unless its bytes are inline."""
    return key.removeprefix(_SITE)


def site_request(page_url: str) -> MediaRequest:
    """Return a request for the site files of a page's host."""
    return MediaRequest("site", f"{urlsplit(page_url).scheme}://{urlsplit(page_url).netloc}/")


def inline_request(data: bytes, page_url: str | None = None) -> tuple[MediaRequest, tuple[str, bytes]]:
    """Return a request for an image whose bytes are given, and the bytes with their hash."""
    digest = hashlib.sha256(data).hexdigest()
    return MediaRequest("image", None, page_url, inline_sha256=digest), (digest, data)
