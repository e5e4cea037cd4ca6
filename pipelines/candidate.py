"""Record between extract and fetch stage: a document without bytes, and the media to fetch for it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, Self

from pipelines.document import Document


@dataclass(frozen=True, slots=True)
class Track:
    """Timed text of a video: `kind` as in HTML (`subtitles`, `captions`); `is_automatic` if a machine wrote it."""

    url: str
    lang: str | None = None
    kind: str = "subtitles"
    is_automatic: bool = False


@dataclass(frozen=True, slots=True)
class MediaRequest:
    """One image or video that a document needs.

    In an image document, request i is for `document.media[i]`. A video document has one request of type `video` and no
    media yet: its frames and subtitles become segments after the download.

    `url` is absolute, http(s); None if the input itself contains the bytes (`inline`: a data: URI, a tar member).
    `page_url` is the page of the reference, None for lists.
    """

    type: Literal["image", "video"]
    url: str | None
    page_url: str | None = None
    tracks: tuple[Track, ...] = ()
    inline_sha256: str | None = None

    @property
    def key(self) -> str:
        """Key in the raw store: the URL, or the hash of the inline bytes."""
        return self.url if self.url is not None else f"inline:{self.inline_sha256}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that passed the text rules, its requests, and the inline bytes by their sha256 in hex.

    `record` is the candidate's origin: the file and row of a list, or the WARC file and offset of a page.
    """

    document: Document
    requests: tuple[MediaRequest, ...] = ()
    inline: tuple[tuple[str, bytes], ...] = ()
    record: str | None = None

    def requests_json(self) -> str:
        """Return the requests as JSON, for a column of a parquet file."""
        return json.dumps([asdict(r) for r in self.requests], sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_columns(cls, document: str, requests: str, record: str | None) -> Self:
        """Rebuild a candidate from its columns, without the inline bytes."""
        rows = json.loads(requests)
        return cls(
            Document.from_json(document),
            tuple(MediaRequest(**{**r, "tracks": tuple(Track(**t) for t in r["tracks"])}) for r in rows),
            record=record,
        )


def inline_request(data: bytes, page_url: str | None = None) -> tuple[MediaRequest, tuple[str, bytes]]:
    """Return a request for an image whose bytes are given, and the bytes with their hash."""
    digest = hashlib.sha256(data).hexdigest()
    return MediaRequest("image", None, page_url, inline_sha256=digest), (digest, data)
