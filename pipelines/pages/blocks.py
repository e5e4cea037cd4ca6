"""Content of a parsed page: `Page` and its blocks."""

from dataclasses import dataclass
from typing import NamedTuple

from pipelines.candidate import Track
from pipelines.document import Role
from pipelines.drop_reasons import Reason
from pipelines.web.redirects import Refresh


@dataclass(frozen=True, slots=True)
class PageRegion:
    """Text about a part of an image, and its box: [x0, y0, x1, y1] in 0..1 from the top left."""

    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PageText:
    """A paragraph, heading, list, table, caption, or a figure's title: role `body`, `heading`, `caption` or `title`.

    Only a figure of several images with separate captions has a title. `is_quotation` is set within `<blockquote>`.
    """

    text: str
    role: Role = "body"
    is_quotation: bool = False


@dataclass(frozen=True, slots=True)
class PageImage:
    """An image at a canonical `url`, or with its bytes in the page (`data`, and no URL).

    `caption` is also a separate block after the image, or after the last of those that share it; if its figure has a
    title over several images, `caption` begins with that, and the block does not. Width and height are the declared
    ones, or those of the inline bytes. `license` is a URL or a phrase, as found; a licence of the page is never an
    image's.
    """

    url: str | None
    data: bytes | None = None
    alt: str | None = None
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    link: str | None = None
    license: str | None = None
    license_evidence: str = "none-found"
    credit: str | None = None
    regions: tuple[PageRegion, ...] = ()


@dataclass(frozen=True, slots=True)
class PageVideo:
    """A video: canonical URLs in the page's order of preference, and its subtitle tracks, the default one first."""

    sources: tuple[str, ...]
    tracks: tuple[Track, ...] = ()
    caption: str | None = None
    title: str | None = None
    poster: str | None = None


Block = PageText | PageImage | PageVideo


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page to another URL."""

    url: str
    is_nofollow: bool = False


class SkippedElement(NamedTuple):
    """An element that was skipped: the reason, and the canonical URL of its image, frame or video, if it has one."""

    reason: Reason
    url: str | None = None


@dataclass(frozen=True, slots=True)
class License:
    """A licence that the page states for itself, and where it states it."""

    value: str
    evidence: str


@dataclass(frozen=True, slots=True)
class PageLinks:
    """What a crawler follows on a page: `links`, each once, and to where a `<meta>` element sends browsers.

    `canonical_url` is the URL that the page declares for itself, or None; `base_url` is what its references are
    relative to.
    """

    base_url: str
    canonical_url: str | None
    links: tuple[Link, ...] = ()
    refresh: Refresh | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A parsed page: `blocks` in DOM order, `meta` as (name in lower case, content).

    `canonical_url` is the URL that the page declares for itself, or None. `skipped` holds, in order of reasons
    (`drop_reasons.ELEMENTS`), what was skipped.
    """

    url: str
    canonical_url: str | None
    title: str | None
    lang: str | None
    blocks: tuple[Block, ...]
    meta: tuple[tuple[str, str], ...] = ()
    licenses: tuple[License, ...] = ()
    skipped: tuple[SkippedElement, ...] = ()

    @property
    def images(self) -> tuple[PageImage, ...]:
        """The image blocks, in order."""
        return tuple(b for b in self.blocks if isinstance(b, PageImage))

    @property
    def videos(self) -> tuple[PageVideo, ...]:
        """The video blocks, in order."""
        return tuple(b for b in self.blocks if isinstance(b, PageVideo))
