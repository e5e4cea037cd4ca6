"""Elements of a page: a light tree that knows per element how much text, links and images it contains."""

import functools
import re
from collections.abc import Callable, Iterator

INVISIBLE = frozenset({"script", "style", "template", "noscript", "select", "textarea", "button", "datalist", "title"})


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
        return frozenset(self.attributes["class"].lower().split()) if "class" in self.attributes else frozenset()

    @property
    def words(self) -> frozenset[str]:
        """Words of the names in `class` and `id`: `mainNav top-bar` gives main, nav, top, bar."""
        names = f"{self.attributes.get('class', '')} {self.attributes.get('id', '')}"
        return split_words(names) if names != " " else frozenset()

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
                pieces.append("" if node.tag in INLINE else " ")
                stack.append("" if node.tag in INLINE else " ")
                stack.extend(node.children[::-1])
        return " ".join("".join(pieces).split())

    def raw_text(self) -> str:
        """Return the visible text below with its spaces and line breaks as written, for `<pre>`."""
        return "".join(
            child if isinstance(child, str) else "\n" if child.tag == "br" else child.raw_text()
            for child in self.children
            if isinstance(child, str) or child.tag not in INVISIBLE
        )


# Tags that do not break a line; all others do.
INLINE = frozenset(
    {"a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins"}
    | {"img", "kbd", "label", "mark", "math", "mi", "mn", "mo", "mrow", "nobr", "output", "picture", "q", "rp", "rt"}
    | {"ruby", "s", "samp", "small", "span", "svg"}
    | {"strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr"}
)


@functools.lru_cache(maxsize=10_000)
def split_words(names: str) -> frozenset[str]:
    """Return the lower-case words in names written with dashes, underscores or capitals."""
    return frozenset(re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", names).lower().replace("_", " ").replace("-", " ").split())
