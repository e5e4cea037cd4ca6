"""HTML as a tree of elements, formulas as text.

Resiliparse parses (WHATWG rules); the tree is copied once into Python objects, because accessing a node through
its binding costs more than the parse, and every later step accesses each node several times.
"""

import itertools
import re
from typing import Any
from urllib.parse import urlsplit

from resiliparse.parse.html import DOMContext, HTMLTree, NodeType, traverse_dom

from pipelines.pages.formulas import is_formula_script, reduce_formulas, source_attributes
from pipelines.pages.image_references import is_image_name
from pipelines.pages.tree import INVISIBLE, Element

MAX_ATTRIBUTES = 1000  # of one element: the parser compares each with all before it
MAX_DEPTH = 150  # deeper elements become children of the one at this depth, since later walks are recursive
MAX_MATHML_TEXTS = 5000  # of a page: each is parsed on its own
_MIN_DEPTH = 10  # left for a shadow root; deeper ones are not shown
_MIN_CHARS_OF_MANY = 50_000  # a shorter page is parsed in no time, whatever it holds
# A start tag as HTML's tokenizer reads it, or what there is of one; every character is looked at once.
_ATTRIBUTE = r"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"?|'[^']*+'?|[^\s>"'][^\s>]*+)?)?"""
_TAG = re.compile(rf"<[A-Za-z][^\s/>]*+(?:[\s/]++|{_ATTRIBUTE})*+>?")
_ATTRIBUTES = re.compile(_ATTRIBUTE)
# Elements besides those with a hyphen to which browsers attach a shadow root (DOM Standard, 4.8).
_SHADOW_HOSTS = frozenset(
    {"article", "aside", "blockquote", "body", "div", "footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "main"}
    | {"nav", "p", "section", "span"}
)
# Of what holds MathML as text: what tells scripts and drawings of MathJax, and whether it is shown.
_KEPT_ATTRIBUTES = ("type", "class", "hidden", "style", "aria-hidden")
_TEMPLATE = re.compile(r"""<template(?:[^>"]|"[^"]*")*>(.*)</template>""", re.DOTALL)
_AMP = {"amp-img": "img", "amp-anim": "img", "amp-video": "video"}


def parse_html(text: str) -> Element:
    """Parse into the document's root, of tag `#document`; of scripts only JSON and formulas are kept.

    Declarative shadow roots take the place of what their hosts hold, and what shows an image or a video by another
    element is an `img` or a `video`: those of AMP, `<object>`, `<embed>`, and a `<picture>` without an `<img>`.
    """
    root = _parse(text, MAX_DEPTH)
    found = [root, *root.descendants()]
    for element in found:
        for index, child in enumerate(element.elements):
            child.index = index
    _name_media(found)
    _read_mathml_text(found)
    reduce_formulas(root)
    for element in reversed([root, *root.descendants()]):
        _add_up(element)
    return root


def _parse(text: str, max_depth: int) -> Element:
    """Parse without looking at what the elements are, but for shadow roots."""
    root = Element("#document", {}, None)
    open_elements = [root]
    shadows: list[tuple[Element, str, int]] = []

    def enter(context: DOMContext) -> None:
        node: Any = context.node
        depth = min(context.depth, max_depth)  # the document itself is at 0
        if node.type == NodeType.ELEMENT:
            del open_elements[depth:]
            parent = open_elements[-1]
            element = Element(node.tag, {name: node.getattr(name) or "" for name in node.attrs}, parent)
            parent.children.append(element)
            parent.elements.append(element)
            open_elements.append(element)
            if _is_shadow_root(element):
                shadows.append((element, node.html, depth))
        elif node.type == NodeType.TEXT:
            parent = open_elements[min(depth, len(open_elements)) - 1]
            if parent.tag != "style" and (
                parent.tag != "script" or "json" in parent.attributes.get("type", "") or is_formula_script(parent)
            ):
                parent.children.append(node.value)

    document = HTMLTree.parse(_with_few_attributes(text)).document
    if document is not None:
        traverse_dom(document, enter)
    for template, html, depth in reversed(shadows):  # inner hosts first
        inside = _TEMPLATE.fullmatch(html)
        if inside is not None and max_depth - depth > _MIN_DEPTH:
            _show_shadow(template, _parse(inside[1], max_depth - depth))
    return root


def _is_shadow_root(element: Element) -> bool:
    """Return whether an element is a template whose content browsers show in the place of its parent's."""
    mode, host = element.attributes.get("shadowrootmode", ""), element.parent
    is_root = element.tag == "template" and mode.lower() in ("open", "closed")
    return is_root and host is not None and (host.tag in _SHADOW_HOSTS or "-" in host.tag)


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


def _show_shadow(template: Element, shadow: Element) -> None:
    """Put a shadow tree in the place of its host's children, which are shown where it has slots for them."""
    host = template.parent
    body = next(shadow.descendants("body"), None)
    if host is None or body is None or any(e.tag == "template" for e in host.elements[: host.elements.index(template)]):
        return
    slotted: dict[str, list[Element | str]] = {}
    for child in host.children:
        if child is not template:
            slotted.setdefault("" if isinstance(child, str) else child.get("slot"), []).append(child)
    for slot in list(body.descendants("slot")):
        given = slotted.pop(slot.get("name"), [])
        if any(not isinstance(child, str) or child.strip() for child in given):
            _fill(slot, given)
    _fill(host, body.children)


def _fill(element: Element, children: list[Element | str]) -> None:
    element.children = children
    element.elements = [child for child in children if isinstance(child, Element)]
    for child in element.elements:
        child.parent = element


def _name_media(elements: list[Element]) -> None:
    """Give what shows an image or a video the tag that HTML has for it."""
    for element in elements:
        tag = element.tag
        if tag in _AMP:
            element.tag = _AMP[tag]
            if element.tag == "img":
                _fill(element, [])  # what is shown without scripts
        elif tag in ("object", "embed"):
            reference = element.get("data") if tag == "object" else element.get("src")
            if reference and (element.get("type").startswith("image/") or is_image_name(urlsplit(reference).path)):
                element.tag = "img"
                element.attributes["src"] = reference
                _fill(element, [])  # what is shown if it cannot be had
        elif tag == "picture" and not any(element.descendants("img", "amp-img")):
            image = Element("img", {k: v for k, v in element.attributes.items() if k != "src"}, element)
            element.children.append(image)
            element.elements.append(image)


def _read_mathml_text(elements: list[Element]) -> None:
    """Make what holds MathML as text the formula that it holds: scripts of MathJax 2, and what it has drawn."""
    num_read = 0
    for element in elements:
        is_script = element.tag == "script" and element.get("type").lower().startswith("math/mml")
        written = element.raw_text() if is_script else element.attributes.get("data-mathml", "")
        if not written or num_read == MAX_MATHML_TEXTS:
            continue
        num_read += 1
        if (math := next(_parse(written, MAX_DEPTH).descendants("math"), None)) is None:
            continue
        own = {name: element.attributes[name] for name in _KEPT_ATTRIBUTES if name in element.attributes}
        if element.tag == "img":
            own |= source_attributes(element)
        element.tag = "math"
        element.attributes = math.attributes | own
        _fill(element, math.children)


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
