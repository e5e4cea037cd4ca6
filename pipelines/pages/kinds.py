"""Candidates of the five kinds from a page: which of its text belongs to which of its images, and in which order."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from pydantic import Field

from pipelines.candidate import Candidate, MediaRequest, inline_request
from pipelines.document import (
    Build,
    Document,
    Kind,
    Media,
    Origin,
    Provenance,
    Region,
    Role,
    Segment,
    Signal,
    clean_text,
    make_key,
    merge_text,
)
from pipelines.pages.blocks import Page, PageImage, PageText
from pipelines.settings import Settings
from pipelines.web.licenses import license_id
from pipelines.web.urls import canonical_url, registered_domain, without_credentials


class PageSettings(Settings):
    """Minimum and maximum sizes of a page's candidates. Text is judged by the filters, not here."""

    min_caption_chars: int = Field(default=5, ge=1, description="In a pair's or grounded caption (LAION-400M, COYO: 5)")
    min_caption_words: int = Field(
        default=2, ge=1, description="In the same captions; the phrase of a region may be one word"
    )
    max_caption_chars: int = Field(default=1000, ge=1, description="Longer texts are not captions (COYO: 1,000)")
    use_alt: bool = Field(default=True, description="Use an image's alt text for a pair without a caption")
    max_images: int = Field(default=100, ge=1, description="Images fetched per page: the first ones")
    strip_figure_numbers: bool = Field(
        default=True, description='Remove "Figure 3.1." from a pair\'s caption: it is about the page'
    )


@dataclass(frozen=True, slots=True)
class PageOrigin:
    """Location of a page and rights statements about it: the provenance that is not in the page itself.

    `release` is that of the archive which has the page.
    """

    crawl: str | None = None
    warc_file: str | None = None
    warc_offset: int | None = None
    warc_length: int | None = None
    fetched_at: str | None = None
    signals: tuple[Signal, ...] = ()
    release: str | None = None


_FIGURE_NUMBER = re.compile(
    r"^(figure|fig\.?|image|picture|photo|plate|illustration|abbildung|abb\.?|bild|figura|рис(унок|\.)?|图|圖|図)"
    r"\s*(\d+|[A-Z][.–-]?\d+)([.–-]\d+)*[a-z]?\s*([.:)–—-]+\s*|$)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")  # a Chinese or Japanese character counts as one
_FILE_NAME = re.compile(r"^\S+\.(jpe?g|png|gif|webp|avif|bmp|tiff?|svg)$", re.IGNORECASE)


def interleaved(page: Page, origin: PageOrigin, source_name: str, settings: PageSettings) -> list[Candidate]:
    """Return the page's text and images in DOM order, captions after their images; empty without an image.

    A repeated image appears only at its first position.
    """
    sample = _Sample("interleaved", page, origin, source_name)
    seen: set[str | bytes] = set()
    is_left_out = False  # the last image was dropped, and with it its caption
    for block in page.blocks:
        if isinstance(block, PageText) and not (is_left_out and block.role == "caption"):
            sample.add_text(block.text, block.role)
        elif isinstance(block, PageImage):
            is_left_out = _identity(block) in seen or len(seen) >= settings.max_images
            if not is_left_out:
                seen.add(_identity(block))
                sample.add_image(block)
    return [sample.candidate()] if seen else []


def pairs(page: Page, origin: PageOrigin, source_name: str, settings: PageSettings) -> list[Candidate]:
    """Return one pair per image with text: its caption, else its alt text (role `alt`).

    A caption that several images share is used only if they have no alt text themselves.
    """
    shared = Counter(image.caption for image in page.images)
    found: list[Candidate] = []
    for number, image in enumerate(_distinct_images(page, settings)):
        caption = _plain_caption(image.caption, settings)
        alt = image.alt if settings.use_alt and not _FILE_NAME.match(image.alt or "") else None
        texts: list[tuple[str | None, Role]] = [(caption, "caption"), (alt, "alt")]
        if shared[image.caption] > 1:
            texts.reverse()
        for text, role in texts:
            if text is not None and _is_caption(text, settings):
                sample = _Sample("pair", page, origin, source_name, number)
                sample.add_image(image)
                sample.add_text(text, role)
                found.append(sample.candidate())
                break
    return found


def grounded(page: Page, origin: PageOrigin, source_name: str, settings: PageSettings) -> list[Candidate]:
    """Return one candidate per image with named regions, with its caption or alt text if that contains their names.

    If the caption contains some of the names, the other regions are dropped; if none, the names joined are the caption
    ("a red circle; a blue square", origin `derived`).
    """
    found: list[Candidate] = []
    for number, image in enumerate(_distinct_images(page, settings)):
        if not image.regions:
            continue
        texts = [(_plain_caption(image.caption, settings), "caption"), (image.alt, "alt")]
        located = [
            (len(regions), text, regions)
            for text, _ in texts
            if text is not None and _is_caption(text, settings) and (regions := _locate(image, text))
        ]
        origin_of_text: Origin = "source"
        if located:
            _, caption, regions = max(located, key=lambda choice: choice[0])  # the caption wins a tie
        else:
            caption = "; ".join(dict.fromkeys(region.text for region in image.regions))
            regions, origin_of_text = _locate(image, caption), "derived"
        sample = _Sample("grounded", page, origin, source_name, number)
        sample.add_image(image)
        sample.segments.append(
            Segment("text", text=caption, role="caption", origin=origin_of_text, regions=tuple(regions))
        )
        found.append(sample.candidate())
    return found


def videos(page: Page, origin: PageOrigin, source_name: str, settings: PageSettings) -> list[Candidate]:
    """Return one candidate per video with text: its tracks, and its caption, else its title, as the first segment."""
    found: list[Candidate] = []
    for number, video in enumerate(dict.fromkeys(page.videos)):
        caption = _plain_caption(video.caption, settings)
        text, role = (caption, "caption") if caption else (video.title, "title")
        if not video.tracks and not text:
            continue
        sample = _Sample("video", page, origin, source_name, number)
        if text:
            sample.add_text(text, "caption" if role == "caption" else "title")
        sample.requests.append(MediaRequest("video", video.sources[0], _page_url(page), video.tracks))
        found.append(sample.candidate())
    return found


def text(page: Page, origin: PageOrigin, source_name: str, settings: PageSettings) -> list[Candidate]:
    """Return the page's headings and body as one text, without the captions and titles of figures."""
    blocks = [b.text for b in page.blocks if isinstance(b, PageText) and b.role in ("body", "heading")]
    if not blocks:
        return []
    sample = _Sample("text", page, origin, source_name)
    sample.add_text("\n\n".join(blocks), "body")
    return [sample.candidate()]


KIND_FUNCTIONS: dict[str, Callable[..., list[Candidate]]] = {
    "interleaved": interleaved,
    "pair": pairs,
    "grounded": grounded,
    "video": videos,
    "text": text,
}
"""How a page gives candidates of each kind."""


class _Sample:
    """A candidate under construction.

    Args:
        number: Its index among those of its kind from one page; None if there is only one.
    """

    def __init__(self, kind: Kind, page: Page, origin: PageOrigin, source_name: str, number: int | None = None) -> None:
        self.segments: list[Segment] = []
        self.requests: list[MediaRequest] = []
        self._kind = kind
        self._page = page
        self._origin = origin
        self._source_name = source_name
        self._number = number
        self._media: list[Media] = []
        self._inline: dict[str, bytes] = {}

    def add_text(self, text: str, role: Role) -> None:
        if text := clean_text(text):
            self.segments.append(Segment("text", text=text, role=role))

    def add_image(self, image: PageImage) -> None:
        page_url = _page_url(self._page)
        if image.url is not None:
            self.requests.append(MediaRequest("image", image.url, page_url))
        else:
            request, (digest, data) = inline_request(image.data or b"", page_url)
            self.requests.append(request)
            self._inline[digest] = data
        self.segments.append(Segment("image", media=len(self._media), role="content"))
        self._media.append(
            Media(
                url=without_credentials(image.url) if image.url is not None else None,
                alt=image.alt,
                fetched_at=self._origin.fetched_at if image.url is None else None,
                license=_license(image.license),
                license_evidence=image.license_evidence,
                credit=image.credit,
            )
        )

    def candidate(self) -> Candidate:
        page_url = _page_url(self._page)
        number = self._number
        licenses = [_license(stated.value) for stated in self._page.licenses]
        document = Document(
            kind=self._kind,
            key=make_key(self._kind, self._source_name, self._page.url, number or 0),
            segments=merge_text(tuple(self.segments)),
            media=tuple(self._media),
            source=Provenance(
                dataset=self._source_name,
                record=page_url if number is None else f"{page_url}#{number}",
                page_url=page_url,
                canonical_url=without_credentials(self._page.canonical_url) if self._page.canonical_url else None,
                release=self._origin.release,
                crawl=self._origin.crawl,
                warc_file=self._origin.warc_file,
                warc_offset=self._origin.warc_offset,
                warc_length=self._origin.warc_length,
                license=licenses[0] if licenses else None,
            ),
            signals=self._origin.signals,
            build=Build(dedup_group=duplicate_group(self._page)),
        )
        return Candidate(document, tuple(self.requests), tuple(self._inline.items()))


def duplicate_group(page: Page) -> str:
    """Return the group that all samples of a page share: a hash of its declared URL, if on the same domain."""
    url = page.url
    if page.canonical_url is not None and registered_domain(page.canonical_url) == registered_domain(url):
        url = canonical_url(page.canonical_url)
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _page_url(page: Page) -> str:
    return without_credentials(page.url)


def _license(stated: str | None) -> str | None:
    """Return the SPDX id of a licence, else the statement, limited to the length of a line."""
    if stated is None:
        return None
    return license_id(stated) or (without_credentials(stated) if "://" in stated else stated)[:200]


def _identity(image: PageImage) -> str | bytes:
    return image.url or image.data or b""


def _distinct_images(page: Page, settings: PageSettings) -> list[PageImage]:
    """Return the images at their first positions, with the text and regions of later ones added."""
    found: dict[str | bytes, PageImage] = {}
    for image in page.images:
        identity = _identity(image)
        first = found.get(identity)
        if first is not None:
            found[identity] = replace(
                first,
                caption=first.caption or image.caption,
                alt=first.alt or image.alt,
                regions=tuple(dict.fromkeys(first.regions + image.regions)),
            )
        elif len(found) < settings.max_images:
            found[identity] = image
    return list(found.values())


def _plain_caption(caption: str | None, settings: PageSettings) -> str | None:
    if caption and settings.strip_figure_numbers:
        caption = clean_text(_FIGURE_NUMBER.sub("", caption))
    return caption or None


def _is_caption(text: str, settings: PageSettings) -> bool:
    return (
        settings.min_caption_chars <= len(text) <= settings.max_caption_chars
        and len(_WORD.findall(text)) >= settings.min_caption_words
    )


def _locate(image: PageImage, caption: str) -> list[Region]:
    """Return the regions whose names the caption contains as whole words in any case, in the order of their phrases.

    Several boxes of one name are assigned its occurrences in turn if there are as many, else all get the first.
    """
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for region in image.regions:
        boxes.setdefault(region.text.casefold(), []).append(region.box)
    names = {region.text.casefold(): region.text for region in image.regions}
    found: list[Region] = []
    for folded, name in names.items():
        spans = [m.span() for m in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", caption, re.IGNORECASE)]
        if not spans:
            continue
        if len(spans) != len(boxes[folded]):
            spans = spans[:1] * len(boxes[folded])
        found += [Region(*span, 0, box) for span, box in zip(spans, boxes[folded], strict=True)]
    return sorted(found, key=lambda region: (region.start, region.end, region.box))
