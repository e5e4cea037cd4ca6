"""Writes a tree down as blocks: text, pictures and videos in the order of the DOM.

A line is broken where a browser breaks it. Lists keep their markers, tables their rows, code its lines. A picture
inside a paragraph, a list or a table divides it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.document import Role, clean_text
from pipelines.html_json_ld import Statements
from pipelines.html_media import (
    Skipped,
    area_regions,
    choose_source,
    declared_size,
    inline_size,
    is_caption,
    is_figure,
    video_sources,
    video_tracks,
)
from pipelines.html_page import Block, PageImage, PageRegion, PageText, PageVideo
from pipelines.html_tree import INLINE, INVISIBLE, Element
from pipelines.urls import resolve

_UNSEEN = INVISIBLE | {"head", "audio", "map", "input", "svg", "canvas", "iframe", "frame", "object", "embed"}
_COUNTED = {"svg": "inline_svg", "canvas": "canvas"} | dict.fromkeys(
    ("iframe", "frame", "object", "embed"), "embedded_frame"
)
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_BLOCKS_IN_CELLS = ("table", "ul", "ol", "dl", "pre", "figure", "video", "blockquote", *_HEADINGS)
_SPACE = re.compile(r"\s+")
_CREDIT_WORDS = frozenset({"credit", "credits", "photographer", "attribution", "copyright"})
_CREDIT_PROPERTIES = frozenset({"credittext", "creator", "author", "copyrightnotice", "copyrightholder"})


@dataclass(slots=True)
class _Figure:
    """A figure being written: where it begins among the blocks; the captions that came by, and where the first did."""

    element: Element
    start: int
    captions: list[str] = field(default_factory=list)
    caption_at: int = 0


class PageWriter:
    """Blocks of a part of a page, and by reason how much was left out.

    Args:
        base: The base URL of the page.
        statements: What it says about its pictures.
        areas: `<area>` elements of each image map, by its name.
    """

    def __init__(self, base: str, statements: Statements, areas: Mapping[str, list[Element]]) -> None:
        self.blocks: list[Block] = []
        self.skipped: Counter[str] = Counter()
        self.image_urls: set[str] = set()
        self._base = base
        self._statements = statements
        self._areas = areas
        self._pieces: list[str] = []  # inline text since the last break
        self._role: Role = "body"
        self._marker = ""  # of a list item, until its first words
        self._indent = ""  # of the further lines of a list item
        self._depth = 0  # of lists and tables around
        self._is_tight = False  # whether the next text follows the last after one line break, not after a blank line
        self._cells: list[str] | None = None  # of the table row being written
        self._figures: list[_Figure] = []

    def write(self, element: Element) -> None:
        """Write all below an element, and end the line; headings with nothing behind them are left out."""
        self._children(element)
        self._break()
        while self.blocks and isinstance(last := self.blocks[-1], PageText) and last.role == "heading":
            self.blocks.pop()

    def _children(self, element: Element) -> None:
        for child in element.children:
            if isinstance(child, str):
                self._pieces.append(_SPACE.sub(" ", child))
            else:
                self._element(child)

    def _element(self, element: Element) -> None:
        tag = element.tag
        if "url(" in element.attributes.get("style", ""):
            self.skipped["css_background"] += 1
        if element.is_boilerplate:
            self.skipped["boilerplate_image"] += element.num_images
        elif tag == "img":
            self._image(element)
        elif tag == "br":
            self._pieces.append("\n")
        elif tag in ("noscript", "button"):
            self._images_only(element)
        elif tag in _UNSEEN:
            if tag in _COUNTED:
                self.skipped[_COUNTED[tag]] += 1
        elif tag in INLINE:
            self._children(element)
        elif tag == "video":
            self._video(element)
        elif is_caption(element) and not element.num_images:
            self._caption(element)
        elif tag == "pre":
            self._preformatted(element)
        elif tag in ("ul", "ol"):
            self._list(element)
        elif tag == "table":
            self._table(element)
        elif is_figure(element):
            self._figure(element)
        else:
            self._block(element)

    def _block(self, element: Element) -> None:
        self._break()
        outer = self._role
        if element.tag in _HEADINGS:
            self._role = "heading"
        num_blocks = len(self.blocks)
        self._children(element)
        self._break()
        self._role = outer
        if element.tag == "dl":
            self._is_tight = self._depth > 0
        elif element.tag == "dt" and len(self.blocks) > num_blocks:
            self._is_tight = True  # what defines a term follows on the next line

    # Text

    def _take(self) -> str:
        """The inline text since the last break."""
        text = "".join(self._pieces)
        self._pieces.clear()
        if not text.strip():
            return ""
        text = re.sub(r" ?\n ?", "\n", re.sub(r" {2,}", " ", text))
        return clean_text(re.sub(r"\n{3,}", "\n\n", text))

    def _break(self) -> None:
        """End the line; inside a table row only a word."""
        if self._cells is not None:
            self._pieces.append(" ")
        elif text := self._take():
            self._text(text)

    def _text(self, text: str) -> None:
        first = self._marker or self._indent
        text = first + text.replace("\n", "\n" + self._indent)
        self._marker = ""
        last = self.blocks[-1] if self.blocks else None
        if self._is_tight and isinstance(last, PageText) and last.role == self._role:
            self.blocks[-1] = PageText(f"{last.text}\n{text}", self._role)
        else:
            self.blocks.append(PageText(text, self._role))
        self._is_tight = self._depth > 0

    def _preformatted(self, element: Element) -> None:
        self._break()
        text = element.raw_text().strip("\r\n")
        margin = text[: len(text) - len(text.lstrip(" \t"))]
        if text := clean_text(text):
            self._text(margin + text)

    def _list(self, element: Element) -> None:
        self._break()
        self._is_tight = self._depth > 0
        number = _whole(element.get("start"), 1)
        for child in element.elements:
            if child.tag != "li" or child.is_boilerplate:
                self._element(child)
                continue
            number = _whole(child.get("value"), number)
            outer = self._indent
            self._marker = outer + (f"{number}. " if element.tag == "ol" else "- ")
            self._indent, self._depth = outer + "  ", self._depth + 1
            self._children(child)
            self._break()
            self._marker, self._indent, self._depth = "", outer, self._depth - 1
            number += 1
        self._is_tight = self._depth > 0

    def _table(self, element: Element) -> None:
        """A row a line, cells between bars; a table that arranges a page is written as if it were none."""
        self._break()
        rows = _rows(element)
        if self._cells is not None or _is_layout(element, rows):
            self._children(element)
            self._break()
            return
        for caption in element.elements:
            if caption.tag == "caption":
                self._element(caption)
        self._is_tight = self._depth > 0
        self._depth += 1
        for row in rows:
            self._cells = []
            for cell in row.elements:
                self._element(cell)
                self._end_cell(is_text=not cell.num_images)
            self._end_row()
        self._depth -= 1
        self._is_tight = self._depth > 0

    def _end_cell(self, *, is_text: bool) -> None:
        """Add a cell to the row; an empty one only where it is for text, to keep the columns."""
        text = self._take().replace("\n", " ")
        if self._cells is not None and (text or is_text):
            self._cells.append(text)

    def _end_row(self) -> None:
        cells, self._cells = self._cells or [], None
        if any(cells):
            self._text(" | ".join(cells))

    # Media

    def _media(self, block: PageImage | PageVideo) -> None:
        """Write a picture or video, after the text that stands before it."""
        if self._cells is None:
            self._break()
            self.blocks.append(block)
            return
        self._end_cell(is_text=False)
        self._end_row()
        self.blocks.append(block)
        self._cells = []

    def _images_only(self, element: Element) -> None:
        """Of a `<noscript>` or a button the pictures; those of a `<noscript>` beside a picture are that picture's."""
        if element.tag == "noscript" and any(n.tag in ("img", "picture") for n in element.neighbours()):
            return
        for image in element.descendants("img"):
            self._image(image)

    def _image(self, element: Element) -> None:
        around = next((a for a in element.ancestors() if a.tag not in INLINE or a.tag == "a"), None)
        link = around.get("href") if around is not None and around.tag == "a" else None
        try:
            source = choose_source(element, self._base, link)
        except Skipped as skipped:
            self.skipped[skipped.reason] += 1
            return
        target = resolve(self._base, link) if link else None
        last = self.blocks[-1] if self.blocks else None
        if isinstance(last, PageImage) and not "".join(self._pieces).strip():
            is_same = last.data == source.data if source.url is None else source.url in (last.url, last.link)
            if is_same:
                self.skipped["repeated_image"] += 1
                return
        urls = [url for url in (source.url, *source.others) if url]
        self.image_urls.update(urls)
        size = (inline_size(source.data) if source.data else None) or declared_size(element)
        rights = next((r for url in urls if (r := self._statements.rights.get(url))), None)
        license_text, evidence = self._figure_license() or (
            (rights.license, rights.evidence) if rights else (None, "none-found")
        )
        self._media(
            PageImage(
                source.url,
                source.data,
                clean_text(" ".join(element.get("alt").split())) or None,
                None,
                *size,
                target,
                license_text,
                evidence,
                rights.credit if rights else None,
                self._regions(element, urls, size),
            )
        )

    def _regions(
        self, element: Element, urls: list[str], size: tuple[int | None, int | None]
    ) -> tuple[PageRegion, ...]:
        found, reasons = area_regions(self._areas.get(element.get("usemap").removeprefix("#"), []), size)
        self.skipped.update(reasons)
        for url in urls:
            for annotation in self._statements.annotations.get(url, []):
                region = annotation.region(size)
                if isinstance(region, PageRegion):
                    found.append(region)
                else:
                    self.skipped[region] += 1
        return tuple(dict.fromkeys(found))

    def _video(self, element: Element) -> None:
        try:
            sources = video_sources(element, self._base)
        except Skipped as skipped:
            self.skipped[skipped.reason] += 1
            return
        title = clean_text(" ".join((element.get("title") or element.get("aria-label")).split()))
        poster = resolve(self._base, element.get("poster")) if element.get("poster") else None
        self._media(PageVideo(sources, video_tracks(element, self._base), None, title or None, poster))

    # Figures

    def _figure(self, element: Element) -> None:
        self._break()
        self._figures.append(_Figure(element, len(self.blocks)))
        self._children(element)
        self._break()
        self._bind(self._figures.pop())

    def _caption(self, element: Element) -> None:
        self._break()
        text = clean_text(element.text(without=lambda e: e.is_boilerplate or _is_credit(e)))
        if not text:
            return
        if self._figures:
            figure = self._figures[-1]
            figure.caption_at = figure.caption_at if figure.captions else len(self.blocks)
            figure.captions.append(text)
            return
        last = self.blocks[-1] if self.blocks else None
        if isinstance(last, PageImage | PageVideo) and last.caption is None:
            self.blocks[-1:] = [replace(last, caption=text), PageText(text, "caption")]
        else:
            self._text(text)

    def _bind(self, figure: _Figure) -> None:
        """Give a figure's caption and credit to its pictures; a caption stands behind the last of them."""
        media = [i for i in range(figure.start, len(self.blocks)) if not isinstance(self.blocks[i], PageText)]
        credit = next((clean_text(e.text()) for e in figure.element.descendants() if _is_credit(e)), None)
        for i in media if credit else ():
            block = self.blocks[i]
            if isinstance(block, PageImage) and block.credit is None:
                self.blocks[i] = replace(block, credit=credit)
        caption = ""
        for text in dict.fromkeys(figure.captions):
            caption = _after(caption, text)
        if not caption:
            return
        bare = [i for i in media if getattr(self.blocks[i], "caption", None) is None]
        for i in bare or media[: len(media) == 1]:
            block = self.blocks[i]
            assert isinstance(block, PageImage | PageVideo)
            # A lone picture with words of its own inside the figure has the figure's title before them.
            self.blocks[i] = replace(block, caption=_after(caption, block.caption or ""))
        if bare:
            self.blocks.insert(bare[-1] + 1, PageText(caption, "caption"))
        elif len(media) == 1:
            whole = getattr(self.blocks[media[0]], "caption", None) or caption
            self.blocks[media[0] + 1] = PageText(whole, "caption")
        else:
            self.blocks.insert(figure.caption_at, PageText(caption))

    def _figure_license(self) -> tuple[str, str] | None:
        """The licence stated inside the figures around, from the inside, and by what."""
        for figure in reversed(self._figures):
            for element in figure.element.descendants("a", "link", "meta"):
                stated = element.get("href") or element.get("content")
                if stated and "license" in element.get("rel").lower().split():
                    return stated, "figure:rel=license"
                if stated and element.get("itemprop").lower() == "license":
                    return stated, "figure:itemprop=license"
        return None


def _is_credit(element: Element) -> bool:
    return not _CREDIT_WORDS.isdisjoint(element.words) or element.get("itemprop").lower() in _CREDIT_PROPERTIES


def _after(first: str, second: str) -> str:
    """Two captions as one."""
    if not first or not second:
        return first or second
    return f"{first} {second}" if first[-1] in ".!?:…" else f"{first}. {second}"


def _whole(text: str, default: int) -> int:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else default


def _rows(table: Element) -> list[Element]:
    groups = [table, *(e for e in table.elements if e.tag in ("thead", "tbody", "tfoot"))]
    return [row for group in groups for row in group.elements if row.tag == "tr" and not row.is_boilerplate]


def _is_layout(table: Element, rows: list[Element]) -> bool:
    """Whether a table arranges a page: cells with structure of their own, or never two cells with text in a row."""
    cells = [cell for row in rows for cell in row.elements]
    return (
        table.get("role") in ("presentation", "none")
        or all(sum(cell.text_chars > 0 for cell in row.elements) <= 1 for row in rows)
        or any(any(cell.descendants(*_BLOCKS_IN_CELLS)) for cell in cells)
        or any(sum(1 for _ in cell.descendants("p")) > 1 for cell in cells)
        or any(is_figure(e) for cell in cells for e in cell.descendants("div"))
    )
