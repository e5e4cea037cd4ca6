"""Elements of a page: a light tree that knows per element how much text, links and images it contains."""

import functools
import re
from collections.abc import Callable, Iterator

# Elements whose text is not read as text: browsers do not show it (that of `noframes` and its like is raw markup), or
# show it as a control, or as the reading of the characters below it (`rt`).
INVISIBLE = frozenset(
    {"script", "style", "template", "noscript", "select", "textarea", "button", "datalist", "title", "svg", "audio"}
    | {"canvas", "iframe", "noframes", "noembed", "xmp", "progress", "meter", "rt", "rp", "rtc"}
)
# Elements that begin and end a line: those that the HTML Standard's style sheet (15.3) displays as blocks, list items
# and parts of tables, and `br`. All others stand in the line, those unknown to HTML among them, as browsers show them.
BLOCKS = frozenset(
    {"html", "body", "address", "blockquote", "center", "dialog", "div", "figure", "figcaption", "footer", "form"}
    | {"header", "hr", "legend", "listing", "main", "p", "plaintext", "pre", "search", "article", "aside", "nav"}
    | {"section", "h1", "h2", "h3", "h4", "h5", "h6", "hgroup", "dir", "dd", "dl", "dt", "menu", "ol", "ul", "li"}
    | {"table", "caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr", "td", "th", "fieldset", "details"}
    | {"summary", "optgroup", "option", "frameset", "frame", "br"}
)
_NO_NAMES: frozenset[str] = frozenset()
_DISPLAY = re.compile(r"(?:^|[;\s])display\s*:\s*([a-z-]+)", re.IGNORECASE)
_BLOCK_DISPLAYS = frozenset({"block", "flex", "grid", "flow-root", "list-item", "table"})
_PLAIN_BLOCKS = frozenset({"div", "p", "form"})  # which a style may put into the line; others mean more than a block


class Element:
    """An element with its children, strings and elements in order (`elements` without the strings), and totals.

    `index` is its index among its parent's `elements`. `text_chars` and `link_chars` count characters without the
    space around each string, `num_links` counts `<a href>`, `num_images` `<img>`; invisible content is not counted.
    `is_boilerplate` is set by `boilerplate.mark_boilerplate`.
    """

    __slots__ = (
        "attributes",
        "children",
        "elements",
        "index",
        "is_boilerplate",
        "link_chars",
        "num_images",
        "num_links",
        "parent",
        "tag",
        "text_chars",
    )

    def __init__(self, tag: str, attributes: dict[str, str], parent: "Element | None") -> None:
        self.tag = tag
        self.attributes = attributes
        self.parent = parent
        self.children: list[Element | str] = []
        self.elements: list[Element] = []
        self.index = len(parent.elements) if parent is not None else 0
        self.text_chars = self.link_chars = self.num_links = self.num_images = 0
        self.is_boilerplate = False

    def get(self, name: str) -> str:
        """Return an attribute without surrounding space; empty if there is none."""
        return self.attributes.get(name, "").strip()

    @property
    def classes(self) -> frozenset[str]:
        """Names in `class`, in lower case."""
        return class_names(self.attributes["class"]) if "class" in self.attributes else _NO_NAMES

    @property
    def words(self) -> frozenset[str]:
        """Words of the names in `class` and `id`: `mainNav top-bar` gives main, nav, top, bar."""
        if "class" not in self.attributes and "id" not in self.attributes:
            return _NO_NAMES
        return split_words(f"{self.attributes.get('class', '')} {self.attributes.get('id', '')}")

    @property
    def is_block(self) -> bool:
        """True if it begins and ends a line, by its tag or by the `display` of its own style."""
        is_block = self.tag in BLOCKS or (self.tag == "math" and self.attributes.get("display") == "block")
        if not self.attributes:
            return is_block
        if (style := self.attributes.get("style")) and (stated := _DISPLAY.search(style)):
            if self.tag in _PLAIN_BLOCKS:
                return stated[1].lower() != "inline"
            return is_block or stated[1].lower() in _BLOCK_DISPLAYS
        return is_block

    def descendants(self, *tags: str) -> Iterator["Element"]:
        """Yield the elements below, in document order; only those with the given tags, if any."""
        stack = self.elements[::-1]
        while stack:
            element = stack.pop()
            if not tags or element.tag in tags:
                yield element
            stack.extend(element.elements[::-1])

    def ancestors(self) -> Iterator["Element"]:
        """Yield the enclosing elements, innermost first."""
        element = self.parent
        while element is not None:
            yield element
            element = element.parent

    def images(self, without: "Element | None" = None) -> Iterator["Element"]:
        """Yield the `<img>` elements that `num_images` counts, in document order, but those in `without`."""
        stack = [self]
        while stack:
            element = stack.pop()
            if element is without or element.tag in INVISIBLE:
                continue
            if element.tag == "img":
                yield element
            stack.extend(element.elements[::-1])

    def neighbours(self) -> list["Element"]:
        """Return the element siblings directly before and after."""
        siblings = self.parent.elements if self.parent is not None else [self]
        return siblings[max(self.index - 1, 0) : self.index] + siblings[self.index + 1 : self.index + 2]

    def text(self, without: Callable[["Element"], bool] = lambda _: False) -> str:
        """Return the visible text below in one line, without that of elements for which `without` is true."""
        pieces: list[str] = []
        stack: list[Element | str] = self.children[::-1]
        while stack:
            node = stack.pop()
            if isinstance(node, str):
                pieces.append(node)
            elif node.tag not in INVISIBLE and not without(node):
                space = " " if node.is_block else ""
                pieces.append(space)
                stack.append(space)
                stack.extend(node.children[::-1])
        return " ".join("".join(pieces).split())

    def raw_text(self) -> str:
        """Return the visible text below with its spaces and line breaks as written, for `<pre>`."""
        return "".join(
            child if isinstance(child, str) else "\n" if child.tag == "br" else child.raw_text()
            for child in self.children
            if isinstance(child, str) or child.tag not in INVISIBLE
        )


@functools.lru_cache(maxsize=10_000)
def class_names(value: str) -> frozenset[str]:
    """Return the names in a `class`, in lower case."""
    return frozenset(value.lower().split())


@functools.lru_cache(maxsize=10_000)
def split_words(names: str) -> frozenset[str]:
    """Return the lower-case words in names written with dashes, underscores or capitals."""
    return frozenset(re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", names).lower().replace("_", " ").replace("-", " ").split())
