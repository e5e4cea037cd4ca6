"""What a site says on every page: blocks on most pages of a host, which no single page shows to be furniture.

A block is compared by its words alone, an image by its address and caption. Headings go only with all that stands
below them, so that a page keeps its own heading and those that pages of one kind share ("Parameters"); what a page
quotes is never taken for the site's own words. The rule is in the tradition of site-level template detection (Yi, Liu
and Li, 2003); measured on the pages of `tests/pipelines/pages/marked_sites.py`.
"""

import hashlib
import itertools
import re
from collections.abc import Collection
from dataclasses import replace
from urllib.parse import urlsplit

from pydantic import Field

from pipelines.pages.blocks import Block, Page, PageImage, PageText
from pipelines.settings import Settings

_MARKER = re.compile(r"^\s*(?:[-*•·]|\d+[.)])\s+", re.MULTILINE)


class HostBoilerplate(Settings):
    """When a block that repeats is taken for a host's boilerplate."""

    min_pages: int = Field(default=10, ge=2, description="Of a host, or of a top folder of it, to decide anything")
    min_share: float = Field(default=0.5, ge=0.5, lt=1, description="Share of these; a block on more is dropped")
    max_pages: int = Field(default=500, ge=2, description="Pages of a host that are compared, drawn by their URLs")


def page_groups(url: str) -> list[str]:
    """Return the groups in which a page is compared: its host, and its host's top folder that holds it, if any.

    A site in several languages has furniture of its own in each.
    """
    parts = urlsplit(url)
    top = parts.path.split("/")[1:2] if parts.path.count("/") > 1 else []
    return [parts.netloc, *(f"{parts.netloc}/{folder}/" for folder in top)]


def block_hashes(page: Page) -> set[int]:
    """Return the hashes of all blocks of a page that can be boilerplate."""
    return {hashed for block in page.blocks if (hashed := _hash(block)) is not None}


def without_host_boilerplate(page: Page, repeated: Collection[int]) -> tuple[Page, list[Block]]:
    """Return the page without its host's boilerplate, and the blocks that went.

    Args:
        page: A page.
        repeated: Hashes of the blocks that most pages of its groups have.
    """
    if not repeated:
        return page, []
    gone = [_hash(block) in repeated for block in page.blocks]
    _keep_headings(page, gone)
    captions = {b.text for b, is_gone in zip(page.blocks, gone, strict=True) if is_gone and isinstance(b, PageText)}
    kept = tuple(
        replace(block, caption=None) if isinstance(block, PageImage) and block.caption in captions else block
        for block, is_gone in zip(page.blocks, gone, strict=True)
        if not is_gone
    )
    return replace(page, blocks=kept), [b for b, is_gone in zip(page.blocks, gone, strict=True) if is_gone]


def _keep_headings(page: Page, gone: list[bool]) -> None:
    """Keep the page's title, and the headings below which something is kept, or nothing stands."""
    title = _words(page.title or "")
    headings = [at for at, block in enumerate(page.blocks) if isinstance(block, PageText) and block.role == "heading"]
    for at, end in itertools.pairwise([*headings, len(page.blocks)]):
        heading = page.blocks[at]
        assert isinstance(heading, PageText)
        below = gone[at + 1 : end]
        gone[at] = gone[at] and bool(below) and all(below) and _words(heading.text) != title


def _hash(block: Block) -> int | None:
    """Return 63 bits of the hash of what a block says or shows; None for a quotation, and for what says nothing."""
    if isinstance(block, PageText):
        words = _words(block.text)
        if block.is_quotation or not words:
            return None
        identity = f"{'heading' if block.role == 'heading' else 'text'} {words}".encode()
    elif isinstance(block, PageImage):
        own = (block.url or "").encode() or hashlib.sha256(block.data or b"").digest()
        identity = b"image " + own + b"\n" + _words(block.caption or "").encode()
    else:
        identity = f"video {block.sources[0]}\n{_words(block.caption or '')}".encode()
    return int.from_bytes(hashlib.sha256(identity).digest()[:8], "big") >> 1


def _words(text: str) -> str:
    """Return text without case, the markers of lists, and differences of space."""
    return " ".join(_MARKER.sub("", text).casefold().split())
