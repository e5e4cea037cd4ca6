"""HTML as a tree of elements, formulas as text.

Resiliparse parses (WHATWG rules); the tree is copied once into Python objects, because accessing a node through
its binding costs more than the parse, and every later step accesses each node several times.
"""

from typing import Any

from resiliparse.parse.html import DOMContext, HTMLTree, NodeType, traverse_dom

from pipelines.pages.formulas import is_tex_script, reduce_formulas
from pipelines.pages.tree import INVISIBLE, Element

MAX_DEPTH = 150  # deeper elements become children of the one at this depth, since later walks are recursive


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
