"""Writer of an HTML tree as blocks: text, images and videos in DOM order.

A line breaks where a browser breaks it. Lists keep their markers, tables their rows, code its lines. An image
inside a paragraph, list or table splits it.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace

from pipelines.document import Role, clean_text
from pipelines.drop_reasons import Reason
from pipelines.pages.blocks import Block, PageImage, PageRegion, PageText, PageVideo
from pipelines.pages.boilerplate import is_hidden
from pipelines.pages.figures import Figure, is_caption, is_credit, is_figure, join_captions
from pipelines.pages.formulas import is_formula_image
from pipelines.pages.image_references import held_references, holds_background, is_image_name
from pipelines.pages.json_ld import Statements
from pipelines.pages.media_elements import (
    Skipped,
    area_regions,
    choose_source,
    declared_size,
    inline_size,
    video_sources,
    video_tracks,
    words_of_icon,
)
from pipelines.pages.tree import INVISIBLE, Element
from pipelines.web.urls import BaseUrl

_UNSEEN = INVISIBLE | {"head", "map", "input", "frame", "object", "embed"}
_COUNTED: dict[str, Reason] = {
    "svg": "inline_svg",
    "canvas": "canvas",
    "iframe": "embedded_frame",
    "frame": "embedded_frame",
    "object": "embedded_frame",
    "embed": "embedded_frame",
}
_MAX_NESTED_FIGURES = 8  # each is scanned once when it begins
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_BLOCKS_IN_CELLS = ("table", "ul", "ol", "dl", "pre", "figure", "video", "blockquote", *_HEADINGS)
_SPACE = re.compile(r"\s+")


@dataclass(slots=True)
class _Text:
    """A text block under construction."""

    lines: list[str]
    role: Role = "body"
    is_quotation: bool = False


class PageWriter:
    """Writer of the blocks of part of a page, which also counts what it skips by reason.

    Args:
        base: The base URL of the page.
        statements: What the page states about its images.
        areas: `<area>` elements of each image map, by its name; removed once used.
    """

    def __init__(self, base: BaseUrl, statements: Statements, areas: dict[str, list[Element]]) -> None:
        self.skipped: Counter[Reason] = Counter()
        self._blocks: list[_Text | PageImage | PageVideo] = []
        self._base = base
        self._statements = statements
        self._areas = areas
        self._pieces: list[str] = []  # inline text since the last break
        self._role: Role = "body"
        self._marker = ""  # of a list item, until its first words are written
        self._indent = ""  # of the later lines of a list item
        self._depth = 0  # number of enclosing lists and tables
        self._is_tight = False  # next text follows after one line break, without a blank line
        self._cells: list[str] | None = None  # of the table row being written
        self._figures: list[Figure] = []
        self._num_quotations = 0  # enclosing ones
        self._num_texts = 0  # lines and paragraphs written so far

    def write(self, element: Element) -> None:
        """Write everything below an element, and end the line."""
        self._children(element)
        self._break()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks written, without headings that nothing follows."""
        end = len(self._blocks)
        while end and isinstance(last := self._blocks[end - 1], _Text) and last.role == "heading":
            end -= 1
        return tuple(
            PageText("\n".join(b.lines), b.role, b.is_quotation) if isinstance(b, _Text) else b
            for b in self._blocks[:end]
        )

    def _children(self, element: Element) -> None:
        for child in element.children:
            if isinstance(child, str):
                self._pieces.append(_SPACE.sub(" ", child))
            else:
                self._element(child)

    def _element(self, element: Element) -> None:
        tag = element.tag
        if holds_background(element):
            self.skipped["css_background"] += 1
        if element.is_boilerplate:
            self.skipped["boilerplate_image"] += element.num_images
            if element.is_block and not is_hidden(element):
                self._break()
        elif tag == "img":
            self._image(element)
        elif tag == "br":
            self._pieces.append("\n")
        elif tag in ("noscript", "button"):
            self._images_only(element)
        elif tag in _UNSEEN:
            if reason := "chrome_image" if tag == "input" and element.get("type") == "image" else _COUNTED.get(tag):
                self.skipped[reason] += 1
        elif tag == "video":
            self._video(element)
        elif _is_custom_image(element):
            self.skipped["custom_image"] += 1
        elif is_formula_image(element):
            self.skipped["formula_image"] += 1
            self._children(element)
        elif not element.is_block and not _is_custom_figure(element):
            self._children(element)
        elif is_caption(element) and (icons := self._icons(element)) is not None:
            self.skipped.update(icons)
            self._caption(element)
        elif tag in ("pre", "listing", "plaintext"):
            self._preformatted(element)
        elif tag in ("ul", "ol"):
            self._list(element)
        elif tag == "table":
            self._table(element)
        elif is_figure(element) and len(self._figures) < _MAX_NESTED_FIGURES:
            self._figure(element)
        else:
            self._block(element)

    def _block(self, element: Element) -> None:
        self._break()
        outer = self._role
        if element.tag in _HEADINGS:
            self._role = "heading"
        is_quotation = element.tag == "blockquote"
        num_texts = self._num_texts
        self._num_quotations += is_quotation
        self._children(element)
        self._break()
        self._num_quotations -= is_quotation
        self._role = outer
        if element.tag == "dl":
            self._is_tight = self._depth > 0
        elif element.tag == "dt" and self._num_texts > num_texts:
            self._is_tight = True  # the definition of a term follows on the next line

    # Text

    def _take(self) -> str:
        """Return the inline text since the last break, and clear it."""
        text = "".join(self._pieces)
        self._pieces.clear()
        if not text.strip():
            return ""
        text = re.sub(r" ?\n ?", "\n", re.sub(r" {2,}", " ", text))
        return clean_text(re.sub(r"\n{3,}", "\n\n", text))

    def _break(self) -> None:
        """End the line; inside a table row only the word."""
        if self._cells is not None:
            self._pieces.append(" ")
        elif text := self._take():
            self._text(text)

    def _text(self, text: str) -> None:
        first = self._marker or self._indent
        text = first + text.replace("\n", "\n" + self._indent)
        self._marker = ""
        self._num_texts += 1
        last = self._blocks[-1] if self._blocks else None
        new = _Text([text], self._role, is_quotation=self._num_quotations > 0)
        if (
            self._is_tight
            and isinstance(last, _Text)
            and (last.role, last.is_quotation) == (new.role, new.is_quotation)
        ):
            last.lines.append(text)
        else:
            self._blocks.append(new)
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
        """Write one line per row, cells between bars; a layout table is written as if it were no table."""
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
        """Add a cell to the row; an empty one only if it is for text, to keep the columns."""
        text = self._take().replace("\n", " ")
        if self._cells is not None and (text or is_text):
            self._cells.append(text)

    def _end_row(self) -> None:
        cells, self._cells = self._cells or [], None
        if any(cells):
            self._text(" | ".join(cells))

    # Media

    def _media(self, block: PageImage | PageVideo) -> None:
        """Write an image or video, after the text before it."""
        if self._cells is None:
            self._break()
            self._blocks.append(block)
            return
        self._end_cell(is_text=False)
        self._end_row()
        self._blocks.append(block)
        self._cells = []

    def _images_only(self, element: Element) -> None:
        """Write only the images of a `<noscript>` or button; skip a `<noscript>` that repeats a neighbouring image."""
        if element.tag == "noscript" and any(n.tag in ("img", "picture") for n in element.neighbours()):
            return
        for image in element.descendants("img"):
            self._image(image)

    def _image(self, element: Element) -> None:
        around = next((a for a in element.ancestors() if a.is_block or a.tag == "a"), None)
        link = around.get("href") if around is not None and around.tag == "a" else None
        try:
            is_captioned = any(figure.has_caption for figure in self._figures)
            source = choose_source(element, self._base, link, is_captioned=is_captioned)
        except Skipped as skipped:
            self.skipped[skipped.reason] += 1
            # Inside a figure an icon may carry the figure's alt: DocBook's style sheets give it to each image there.
            is_icon = skipped.reason in ("chrome_image", "small_image") and not self._figures
            if is_icon and "".join(self._pieces).strip():
                self._pieces.append(words_of_icon(element))
            return
        target = self._base.resolve(link) if link else None
        last = self._blocks[-1] if self._blocks else None
        if isinstance(last, PageImage) and not "".join(self._pieces).strip():
            is_same = last.data == source.data if source.url is None else source.url in (last.url, last.link)
            if is_same:
                self.skipped["repeated_image"] += 1
                return
        urls = [url for url in (source.url, *source.others) if url]
        size = (inline_size(source.data) if source.data else None) or declared_size(element)
        rights = next((r for url in urls if (r := self._statements.rights.get(url))), None)
        stated = next((f.license for f in reversed(self._figures) if f.license), None)
        license_text, evidence = stated or ((rights.license, rights.evidence) if rights else (None, "none-found"))
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
        """Return the regions of the image's map and annotations, each once, where the image comes first."""
        found, reasons = area_regions(self._areas.pop(element.get("usemap").removeprefix("#"), []), size)
        self.skipped.update(reasons)
        for url in urls:
            for annotation in self._statements.annotations.pop(url, []):
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
        poster = self._base.resolve(element.get("poster")) if element.get("poster") else None
        self._media(PageVideo(sources, video_tracks(element, self._base), None, title or None, poster))

    # Figures

    def _figure(self, element: Element) -> None:
        self._break()
        self._figures.append(Figure.of(element, len(self._blocks)))
        self._children(element)
        self._break()
        self._bind(self._figures.pop())

    def _icons(self, caption: Element) -> list[Reason] | None:
        """Return the reasons for skipping a caption's images; None if one is shown: the caption then encloses it."""
        reasons: list[Reason] = []
        for image in caption.descendants("img"):
            try:
                choose_source(image, self._base, None)
            except Skipped as skipped:
                reasons.append(skipped.reason)
            else:
                return None
        return reasons

    def _caption(self, element: Element) -> None:
        self._break()
        text = clean_text(element.text(without=lambda e: e.is_boilerplate or is_credit(e)))
        if not text:
            return
        if self._figures:
            figure = self._figures[-1]
            figure.caption_at = figure.caption_at if figure.captions else len(self._blocks)
            figure.captions.append(text)
            return
        last = self._blocks[-1] if self._blocks else None
        if isinstance(last, PageImage | PageVideo) and last.caption is None:
            self._blocks[-1:] = [replace(last, caption=text), _Text([text], "caption")]
        else:
            self._text(text)

    def _bind(self, figure: Figure) -> None:
        """Give a figure's caption and credit to its images; the caption is placed after the last of them."""
        media = [i for i in range(figure.start, len(self._blocks)) if not isinstance(self._blocks[i], _Text)]
        for i in media if figure.credit else ():
            block = self._blocks[i]
            if isinstance(block, PageImage) and block.credit is None:
                self._blocks[i] = replace(block, credit=figure.credit)
        caption = ""
        for text in dict.fromkeys(figure.captions):
            caption = join_captions(caption, text)
        if not caption:
            return
        bare = [i for i in media if getattr(self._blocks[i], "caption", None) is None]
        for i in media:
            block = self._blocks[i]
            assert isinstance(block, PageImage | PageVideo)
            # An image inside the figure with a caption of its own has the figure's title in front of it.
            if not (block.caption or "").startswith(caption):
                self._blocks[i] = replace(block, caption=join_captions(caption, block.caption or ""))
        if bare:
            self._blocks.insert(bare[-1] + 1, _Text([caption], "caption"))
        elif len(media) == 1:
            whole = getattr(self._blocks[media[0]], "caption", None) or caption
            self._blocks[media[0] + 1] = _Text([whole], "caption")
        else:
            self._blocks.insert(figure.caption_at, _Text([caption], "title" if media else "body"))


def _is_custom_image(element: Element) -> bool:
    """Return whether an empty element unknown to HTML names an image, which a script shows."""
    is_empty = "-" in element.tag and not element.text_chars and not any(element.descendants("img", "picture", "video"))
    names = (element.get("src"), element.get("poster"))
    return is_empty and (any(map(is_image_name, names)) or bool(held_references(element)))


def _is_custom_figure(element: Element) -> bool:
    """Return whether an element unknown to HTML is a figure or a caption, by its class."""
    return "-" in element.tag and (is_figure(element) or is_caption(element))


def _whole(text: str, default: int) -> int:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else default


def _rows(table: Element) -> list[Element]:
    groups = [table, *(e for e in table.elements if e.tag in ("thead", "tbody", "tfoot"))]
    return [row for group in groups for row in group.elements if row.tag == "tr" and not row.is_boilerplate]


def _is_layout(table: Element, rows: list[Element]) -> bool:
    """Return whether a table is for layout: cells with block structure, or never two cells with text in a row."""
    cells = [cell for row in rows for cell in row.elements]
    return (
        table.get("role") in ("presentation", "none")
        or all(sum(cell.text_chars > 0 for cell in row.elements) <= 1 for row in rows)
        or any(any(cell.descendants(*_BLOCKS_IN_CELLS)) for cell in cells)
        or any(sum(1 for _ in cell.descendants("p")) > 1 for cell in cells)
        or any(is_figure(e) for cell in cells for e in cell.descendants("div"))
    )
