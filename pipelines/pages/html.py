"""HTML bytes as a tree of elements: decoded characters, and formulas as text.

Resiliparse parses (WHATWG rules); the tree is copied once into Python objects, because accessing a node through
its binding costs more than the parse, and every later step accesses each node several times.
"""

import re
from typing import Any

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import DOMContext, HTMLTree, NodeType, traverse_dom

from pipelines.pages.formulas import is_tex_script, reduce_formulas
from pipelines.pages.tree import INVISIBLE, Element

MAX_DEPTH = 150  # deeper elements become children of the one at this depth, since later walks are recursive

_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_HEADER_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


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
    """Parse into the document's root, of tag `#document`; of scripts only JSON and formulas are kept."""
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
            if parent.tag != "style" and (
                parent.tag != "script" or "json" in parent.attributes.get("type", "") or is_tex_script(parent)
            ):
                parent.children.append(node.value)

    document = HTMLTree.parse(text).document
    if document is not None:
        traverse_dom(document, enter)
    reduce_formulas(found)
    for element in reversed(found):
        _add_up(element)
    return root


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
