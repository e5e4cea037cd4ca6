"""HTML bytes as a light tree: decoded characters, and per element how much text, links and images it contains.

Resiliparse parses (WHATWG rules); the tree is copied once into Python objects, because accessing a node through
its binding costs more than the parse, and every later step accesses each node several times.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import DOMContext, HTMLTree, NodeType, traverse_dom

MAX_ATTRIBUTES = 1000  # of one element: the parser compares each with all before it
MAX_DEPTH = 150  # deeper elements become children of the one at this depth, since later walks are recursive

INVISIBLE = frozenset({"script", "style", "template", "noscript", "select", "textarea", "button", "datalist", "title"})

_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_HEADER_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
# A start tag as HTML's tokenizer reads it, or what there is of one; every character is looked at once.
_ATTRIBUTE = r"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"?|'[^']*+'?|[^\s>"'][^\s>]*+)?)?"""
_TAG = re.compile(rf"<[A-Za-z][^\s/>]*+(?:[\s/]++|{_ATTRIBUTE})*+>?")
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_MIN_CHARS_OF_MANY = 50_000  # a shorter page is parsed in no time, whatever it holds
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


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


def decode_html(body: bytes, content_type: str | None = None) -> str:
    """Decode a page: by byte order mark, else as UTF-8 if valid, else by header, `<meta>`, or detection from the bytes.

    Text that is valid UTF-8 beyond ASCII is UTF-8 whatever is declared: it almost never is by chance, and declarations
    are often wrong. A few broken bytes do not turn a page that declares UTF-8 into something else.

    Args:
        body: The page's bytes.
        content_type: The HTTP header, if any.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding, "replace")
    header = _HEADER_CHARSET.search(content_type or "")
    meta = _META_CHARSET.search(body[:1024])
    labels = [header[1]] if header else []
    labels += [meta[1].decode("ascii")] if meta else []
    declared = next((e for e in (map_encoding_to_html5(label, False) for label in labels) if e), None)
    if not body.isascii() and not (declared or "").startswith("utf-16"):
        text = body.decode("utf-8", "replace")
        num_broken = text.count("\ufffd")
        if num_broken == 0:
            return text
        num_sound = sum(1 for c in text if c > "\x7f") - num_broken
        if declared in (None, "utf-8") and num_broken <= num_sound:
            return text
        if declared == "utf-8":
            declared = None
    return bytes_to_str(body, declared or detect_encoding(body) or "utf-8", errors="replace")


def parse_html(text: str) -> Element:
    """Parse into the document's root, of tag `#document`; scripts are kept for JSON-LD only."""
    root = Element("#document", {}, None)
    open_elements = [root]
    found = [root]

    def enter(context: DOMContext) -> None:
        node: Any = context.node
        depth = min(context.depth, MAX_DEPTH)  # the document itself is at 0
        if node.type == NodeType.ELEMENT:
            del open_elements[depth:]
            parent = open_elements[-1]
            element = Element(node.tag, {name: node.getattr(name) or "" for name in node.attrs}, parent)
            parent.children.append(element)
            parent.elements.append(element)
            open_elements.append(element)
            found.append(element)
        elif node.type == NodeType.TEXT:
            parent = open_elements[min(depth, len(open_elements)) - 1]
            if parent.tag != "style" and (parent.tag != "script" or "json" in parent.attributes.get("type", "")):
                parent.children.append(node.value)

    document = HTMLTree.parse(_with_few_attributes(text)).document
    if document is not None:
        traverse_dom(document, enter)
    for element in reversed(found):
        _add_up(element)
    return root


def _with_few_attributes(text: str) -> str:
    """Return a page without the attributes of an element beyond the first `MAX_ATTRIBUTES`.

    Resiliparse's parser takes 40 seconds for an element with a hundred thousand, and lets no other thread run.
    """
    return _TAG.sub(_cut_tag, text) if len(text) > _MIN_CHARS_OF_MANY else text


def _cut_tag(match: re.Match[str]) -> str:
    tag = match[0]
    if len(tag) < 2 * MAX_ATTRIBUTES:
        return tag
    names = list(itertools.islice(_ATTRIBUTES.finditer(tag), MAX_ATTRIBUTES + 2))  # the first is the element's
    return tag if len(names) < MAX_ATTRIBUTES + 2 else f"{tag[: names[-2].end()]}>"


def _add_up(element: Element) -> None:
    """Compute an element's totals from those of its children."""
    if element.tag in INVISIBLE:
        return
    for child in element.children:
        if isinstance(child, str):
            element.text_chars += len(child.strip())
        else:
            element.text_chars += child.text_chars
            element.link_chars += child.link_chars
            element.num_links += child.num_links
            element.num_images += child.num_images
    if element.tag == "a" and "href" in element.attributes:
        element.link_chars = element.text_chars
        element.num_links += 1
    elif element.tag == "img":
        element.num_images += 1
