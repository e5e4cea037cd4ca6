"""Writer of an HTML tree as blocks: text, images and videos in DOM order.

A line breaks where a browser breaks it. Lists keep their markers, tables their rows, code its lines. An image
inside a paragraph, list or table splits it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipelines.document import Role, clean_text
from pipelines.drop_reasons import Reason
from pipelines.pages.blocks import Block, PageImage, PageRegion, PageText, PageVideo, SkippedElement
from pipelines.pages.boilerplate import is_hidden
from pipelines.pages.figures import Figure, is_caption, is_credit, is_figure, join_captions
from pipelines.pages.formulas import UNREAD, is_formula_image
from pipelines.pages.image_references import background_reference, best_of_srcset, held_references, is_image_name
from pipelines.pages.json_ld import Statements
from pipelines.pages.media_elements import (
    Skipped,
    area_regions,
    choose_source,
    declared_size,
    image_url,
    inline_size,
    video_sources,
    video_tracks,
    words_of_icon,
)
from pipelines.pages.references import References
from pipelines.pages.tree import INVISIBLE, Element

_UNSEEN = INVISIBLE | {"head", "map", "input", "frame", "object", "embed"}
_COUNTED: dict[str, Reason] = {
    "svg": "inline_svg",
    "canvas": "canvas",
    "iframe": "embedded_frame",
    "frame": "embedded_frame",
    "object": "embedded_frame",
    "embed": "embedded_frame",
}
_IMAGES_ONLY = ("noscript", "button")  # whose text is not shown
_FRAME_REFERENCES = ("src", "data", "data-src")  # a frame that waits for consent has `about:blank` first
_MAX_NESTED_FIGURES = 8  # each is scanned once when it begins
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_ROW_GROUPS = ("thead", "tbody", "tfoot")
_BLOCKS_IN_CELLS = ("table", "ul", "ol", "dl", "pre", "figure", "video", "blockquote", *_HEADINGS)
# Elements that stand in the line and mean nothing to a text, unless their style says otherwise.
_PLAIN_INLINE = frozenset(
    {"a", "abbr", "b", "big", "cite", "code", "dfn", "em", "font", "i", "ins", "kbd", "mark", "q", "s", "samp", "small"}
    | {"span", "strong", "sub", "sup", "tt", "u", "var"}
)
_BLANK_LINES = re.compile(r"\n{3,}")
_BREAK = "\0"  # which no text has: HTML's tokenizer leaves it out


@dataclass(slots=True)
class _Text:
    """A text block under construction."""

    lines: list[str]
    role: Role = "body"
    is_quotation: bool = False


class PageWriter:
    """Writer of the blocks of part of a page, and of the elements that it skips.

    Args:
        base: The base URL of the page.
        statements: What the page states about its images.
        areas: `<area>` elements of each image map, by its name; removed once used.
    """

    def __init__(self, base: References, statements: Statements, areas: dict[str, list[Element]]) -> None:
        self.skipped: list[SkippedElement] = []
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

    def _skip(self, reason: Reason, *references: str) -> None:
        """Count an element as skipped, with the URL of the first of its references that has one."""
        self.skipped.append(self._skipped(reason, *references))

    def _skipped(self, reason: Reason, *references: str) -> SkippedElement:
        urls = (self._base.resolve(reference) for reference in references if reference)
        return SkippedElement(reason, next(filter(None, urls), None))

    def _skipped_image(self, image: Element, reason: Reason) -> SkippedElement:
        return SkippedElement(reason, image_url(image, self._base))

    def _children(self, element: Element) -> None:
        for child in element.children:
            if isinstance(child, str):
                self._pieces.append(child)
            else:
                self._element(child)

    def _element(self, element: Element) -> None:
        tag = element.tag
        if element.attributes and (background := background_reference(element)) is not None:
            self._skip("css_background", background)
        if element.is_boilerplate:
            self.skipped += self._skipped_of_boilerplate(element)
            if element.is_block and not is_hidden(element):
                self._break()
        elif tag in _PLAIN_INLINE and "style" not in element.attributes:
            self._children(element)
        elif tag == "img":
            self._image(element)
        elif tag == "br":
            self._pieces.append(_BREAK)
        elif tag in _IMAGES_ONLY:
            self._images_only(element)
        elif tag in _UNSEEN:
            if reason := "chrome_image" if tag == "input" and element.get("type") == "image" else _COUNTED.get(tag):
                self._skip(reason, *map(element.get, _FRAME_REFERENCES))
        elif tag == "video":
            self._video(element)
        elif (reference := _custom_image(element)) is not None:
            self._skip("custom_image", reference)
        elif tag == UNREAD:
            self._skip("unread_formula")
        elif is_formula_image(element):
            self.skipped.append(self._skipped_image(element, "formula_image"))
            self._children(element)
        elif not element.is_block and not _is_custom_figure(element):
            self._children(element)
        elif is_caption(element) and (skipped := self._skipped_in(element)) is not None:
            self.skipped += skipped
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
        if not self._pieces:
            return ""
        text = "".join(self._pieces)
        self._pieces.clear()
        if _BREAK not in text:
            return clean_text(" ".join(text.split()))
        lines = (" ".join(line.split()) for line in text.split(_BREAK))
        return clean_text(_BLANK_LINES.sub("\n\n", "\n".join(lines)))

    def _has_text(self) -> bool:
        """Return whether there is inline text since the last break."""
        return bool("".join(self._pieces).replace(_BREAK, "").strip())

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
        for child in _not_text(element):
            if is_formula_image(child):  # its text is written already
                self.skipped.append(self._skipped_image(child, "formula_image"))
            elif child.tag not in _IMAGES_ONLY:
                self._element(child)

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
        for child in element.elements:
            if child.tag == "caption" or (child.tag in _ROW_GROUPS and child.is_boilerplate):
                self._element(child)
        self._is_tight = self._depth > 0
        self._depth += 1
        for row in rows:
            if row.is_boilerplate:
                self._element(row)
                continue
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
            self.skipped.append(self._skipped_image(element, skipped.reason))
            # Inside a figure an icon may carry the figure's alt: DocBook's style sheets give it to each image there.
            is_icon = skipped.reason in ("chrome_image", "small_image") and not self._figures
            if is_icon and self._has_text():
                self._pieces.append(words_of_icon(element))
            return
        target = self._base.resolve(link) if link else None
        last = self._blocks[-1] if self._blocks else None
        if isinstance(last, PageImage) and not self._has_text():
            is_same = last.data == source.data if source.url is None else source.url in (last.url, last.link)
            if is_same:
                self.skipped.append(SkippedElement("repeated_image", source.url))
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
        shown = urls[0] if urls else None
        self.skipped += [SkippedElement(reason, shown) for reason in reasons]
        for url in urls:
            for annotation in self._statements.annotations.pop(url, []):
                region = annotation.region(size)
                if isinstance(region, PageRegion):
                    found.append(region)
                else:
                    self.skipped.append(SkippedElement(region, url))
        return tuple(dict.fromkeys(found))

    def _video(self, element: Element) -> None:
        try:
            sources = video_sources(element, self._base)
        except Skipped as skipped:
            self._skip(skipped.reason, element.get("poster"))
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

    def _skipped_in(self, caption: Element) -> list[SkippedElement] | None:
        """Return what is skipped of a caption; None if an image of it is shown: the caption then encloses it."""
        found: list[SkippedElement] = []
        for child in _not_text(caption):
            if child.is_boilerplate:
                found += self._skipped_of_boilerplate(child)
            elif child.tag == UNREAD:
                found.append(SkippedElement("unread_formula"))
            elif is_formula_image(child):
                found.append(self._skipped_image(child, "formula_image"))
            elif child.tag in _COUNTED:
                found.append(self._skipped(_COUNTED[child.tag], *map(child.get, _FRAME_REFERENCES)))
            else:
                for image in child.descendants("img") if child.tag in _IMAGES_ONLY else [child]:
                    try:
                        choose_source(image, self._base, None)
                    except Skipped as skipped:
                        found.append(self._skipped_image(image, skipped.reason))
                    else:
                        return None
        return found

    def _skipped_of_boilerplate(self, element: Element) -> list[SkippedElement]:
        """Return the images of a boilerplate element, and the formulas that readers see and screen readers do not."""
        found = [self._skipped_image(image, "boilerplate_image") for image in element.images()]
        if element.get("aria-hidden") == "true":
            found += [SkippedElement("unread_formula") for _ in element.descendants(UNREAD)]
        return found

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


def _not_text(element: Element) -> Iterator[Element]:
    """Yield what is shown or counted below an element whose text is written as a whole, boilerplate undivided."""
    stack = element.elements[::-1]
    while stack:
        child = stack.pop()
        if child.is_boilerplate or child.tag in ("img", UNREAD, *_IMAGES_ONLY, *_COUNTED) or is_formula_image(child):
            yield child
        elif child.tag not in INVISIBLE:
            stack.extend(child.elements[::-1])


def _custom_image(element: Element) -> str | None:
    """Return the reference to the image that an empty element unknown to HTML names, for a script to show."""
    if "-" not in element.tag or element.text_chars or any(element.descendants("img", "picture", "video")):
        return None
    named = filter(is_image_name, (element.get("src"), element.get("poster")))
    return next(named, None) or next(iter([*best_of_srcset(element.get("srcset")), *held_references(element)]), None)


def _is_custom_figure(element: Element) -> bool:
    """Return whether an element unknown to HTML is a figure or a caption, by its class."""
    return "-" in element.tag and (is_figure(element) or is_caption(element))


def _whole(text: str, default: int) -> int:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else default


def _rows(table: Element) -> list[Element]:
    groups = [table, *(e for e in table.elements if e.tag in _ROW_GROUPS and not e.is_boilerplate)]
    return [row for group in groups for row in group.elements if row.tag == "tr"]


def _is_layout(table: Element, rows: list[Element]) -> bool:
    """Return whether a table is for layout: cells with block structure, or never two cells with text in a row."""
    rows = [row for row in rows if not row.is_boilerplate]
    cells = [cell for row in rows for cell in row.elements]
    return (
        table.get("role") in ("presentation", "none")
        or all(sum(cell.text_chars > 0 for cell in row.elements) <= 1 for row in rows)
        or any(any(cell.descendants(*_BLOCKS_IN_CELLS)) for cell in cells)
        or any(sum(1 for _ in cell.descendants("p")) > 1 for cell in cells)
        or any(is_figure(e) for cell in cells for e in cell.descendants("div"))
    )
