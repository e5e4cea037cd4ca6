"""Rows below `work/` that may be blocked, told by the raw text of their columns: few are parsed of those that stay."""

import json
import re
from collections.abc import Iterator, Set
from typing import Any

from pipelines.block_list import TEXT_KINDS, BlockList, text_hash_of
from pipelines.candidate import requests_of
from pipelines.document import Document

_URL = re.compile(r'"\s*(https?:[^"]*)', re.IGNORECASE)
_SHA256 = re.compile('"([0-9a-f]{64})"')
_KEY = re.compile('"key":"([^"]*)"')


class Suspects:
    """What tells which rows are blocked, in steps from the cheap to the exact.

    Args:
        block: What is blocked.

    Attributes:
        block: The same.
        has_hashes: True if hashes of bytes are blocked, so that records of media must be read.
    """

    def __init__(self, block: BlockList) -> None:
        self.block = block
        types = block.counts().keys()
        self.has_hashes, self._has_videos, self._has_texts = ("sha256" in types, "video" in types, "text" in types)
        self._has_addresses = bool(types & {"url", "prefix", "domain"})
        self._is_of_text = tuple(f'"kind":"{kind}"' for kind in sorted(TEXT_KINDS))

    def is_blocked(self, row: dict[str, Any]) -> bool:
        """Return whether a candidate, a document or a sample is blocked, or holds something that is.

        Args:
            row: Its `document` and, of candidates, its `requests`, as JSON.
        """
        return self._may_be(row["document"], row.get("requests") or "") and is_blocked(row, self.block)

    def has_inline(self, requests: str) -> bool:
        """Return whether requests, as JSON, hold the bytes of a blocked image themselves."""
        if not self.has_media(requests):
            return False
        return any(self.block.media(request.inline_sha256) for request in requests_of(requests))

    def has_media(self, text: str) -> bool:
        """Return whether JSON has the hash of a blocked image."""
        return self.has_hashes and any(map(self.block.media, _SHA256.findall(text)))

    def _may_be(self, document: str, requests: str) -> bool:
        """Return False only of what is not blocked."""
        if any(map(self.block.key, _KEY.findall(document))) or self.has_media(document) or self.has_media(requests):
            return True
        if self._has_addresses and any(self._is_address(url) for text in (document, requests) for url in urls_in(text)):
            return True
        if self._has_videos and '"kind":"video"' in document:
            return True
        return self._has_texts and any(kind in document for kind in self._is_of_text) and self._has_text(document)

    def _is_address(self, url: str) -> bool:
        return "\\" in url or self.block.url(url)

    def _has_text(self, document: str) -> bool:
        record = json.loads(document)
        text = "\n\n".join(s["text"] for s in record["segments"] if s["text"] is not None)
        return self.block.is_text(text_hash_of(record["kind"], text))


def urls_in(text: str) -> Iterator[str]:
    """Yield the values of JSON that begin like addresses, as they are written there."""
    for match in _URL.finditer(text):
        yield match[1]


def may_name(requests: str, names: Set[str]) -> bool:
    """Return False only if requests, as JSON, are for none of some addresses and inline hashes."""
    addresses = (match[1] for match in _URL.finditer(requests))
    return any("\\" in url or url in names for url in addresses) or any(
        digest in names for digest in _SHA256.findall(requests)
    )


def is_blocked(row: dict[str, Any], block: BlockList) -> bool:
    """Return whether a candidate, a document or a sample is blocked, or holds something that is; the row is parsed."""
    document = Document.from_json(row["document"])
    requests = requests_of(row["requests"]) if row.get("requests") else ()
    videos = [request.url for request in requests if request.type == "video"]
    videos += [media.url for media in document.media[:1] if document.kind == "video"]
    return (
        block.document(document, videos)
        or any(block.url(r.url) or block.media(r.inline_sha256) for r in requests if r.type != "site")
        or any(block.url(m.url) or block.media(m.stored_sha256, m.source_sha256) for m in document.media)
    )
