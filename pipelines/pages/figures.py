"""Figures of a page: how they are recognised, with caption, credit and licence."""

from dataclasses import dataclass, field
from typing import Self

from pipelines.document import clean_text
from pipelines.pages.tree import Element

_FIGURE_CLASSES = frozenset(
    {"figure", "informalfigure", "mediaobject", "wp-caption", "thumb", "thumbinner", "gallerybox", "gallery-item"}
    | {"imageblock", "videoblock", "image-container", "captioned-image"}
)
_CAPTION_CLASSES = frozenset(
    {"caption", "figcaption", "wp-caption-text", "thumbcaption", "gallerytext", "gallery-caption", "image-caption"}
    | {"img-caption", "photo-caption", "figure-caption", "caption-text", "media-caption", "video-caption"}
)
_CREDIT_WORDS = frozenset({"credit", "credits", "photographer", "attribution", "copyright"})
_CREDIT_PROPERTIES = frozenset({"credittext", "creator", "author", "copyrightnotice", "copyrightholder"})


@dataclass(slots=True)
class Figure:
    """A figure under construction.

    `start` is its index among the blocks; `captions` are those found so far, `caption_at` is the index of the first;
    `license` is the statement of a licence, and how it is made.
    """

    start: int
    has_caption: bool
    credit: str | None
    license: tuple[str, str] | None
    captions: list[str] = field(default_factory=list)
    caption_at: int = 0

    @classmethod
    def of(cls, element: Element, start: int) -> Self:
        """Begin a figure without blocks."""
        inside = list(element.descendants())
        credit = next((clean_text(e.text()) for e in inside if is_credit(e)), None)
        return cls(start, any(map(is_caption, inside)), credit, _stated_license(inside))


def is_figure(element: Element) -> bool:
    """Return whether an element contains an image and its caption or credit."""
    return (
        element.tag == "figure"
        or not _FIGURE_CLASSES.isdisjoint(element.classes)
        or ("itemtype" in element.attributes and element.get("itemtype").endswith("schema.org/ImageObject"))
    )


def is_caption(element: Element) -> bool:
    """Return whether an element is the caption of an image."""
    if element.tag == "figcaption" or "class" not in element.attributes:
        return element.tag == "figcaption"
    classes = element.classes
    return not _CAPTION_CLASSES.isdisjoint(classes) or (
        "title" in classes and element.parent is not None and element.parent.tag == "div" and is_figure(element.parent)
    )


def is_credit(element: Element) -> bool:
    """Return whether an element names the source or author of an image."""
    return not _CREDIT_WORDS.isdisjoint(element.words) or element.get("itemprop").lower() in _CREDIT_PROPERTIES


def join_captions(first: str, second: str) -> str:
    if not first or not second:
        return first or second
    return f"{first} {second}" if first[-1] in ".!?:…" else f"{first}. {second}"


def _stated_license(elements: list[Element]) -> tuple[str, str] | None:
    """Return the licence that one of a figure's elements states, and how it does."""
    for element in elements:
        stated = element.get("href") or element.get("content")
        if stated and element.tag in ("a", "link", "meta"):
            if "license" in element.get("rel").lower().split():
                return stated, "figure:rel=license"
            if element.get("itemprop").lower() == "license":
                return stated, "figure:itemprop=license"
    return None
