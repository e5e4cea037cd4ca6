"""HTML as a tree of elements, formulas as text.

Resiliparse parses (WHATWG rules) and writes the page anew, in the one form where every tag is explicit and every sign
of markup in a text or an attribute is escaped. One regular expression reads that into the tree: to ask the parser's
nodes one by one through its binding costs twenty times the parse.
"""

import itertools
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from resiliparse.parse.html import HTMLTree

from pipelines.pages.formulas import (
    is_formula_script,
    may_hold_formula,
    may_replace_elements,
    reduce_formulas,
    source_attributes,
)
from pipelines.pages.image_references import is_image_name
from pipelines.pages.tree import INVISIBLE, Element

MAX_ATTRIBUTES = 1000  # of one element: the parser compares each with all before it
MAX_DEPTH = 150  # deeper elements become children of the one at this depth, since later walks are recursive
MAX_MATHML_TEXTS = 5000  # of a page: each is parsed on its own
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
_AMP = {"amp-img": "img", "amp-anim": "img", "amp-video": "video"}
_NAMED_ANEW = frozenset({*_AMP, "object", "embed", "picture"})

# What the parser writes (HTML Standard, 13.3): elements without an end tag, and tags with the text after each.
_VOID = frozenset(
    {"area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "img", "input", "keygen", "link"}
    | {"meta", "param", "source", "track", "wbr"}
)
# A script ends as the tokenizer says: one more `<script>` within `<!--` hides an end tag (13.2.5.17 and on).
_DOUBLY_ESCAPED = r"(?i:<script)[\s/>](?:[^<-]++|-(?!->)|<(?!/(?i:script)[\s/>]))*+(?:</(?i:script)[\s/>]|(?=-->)|\Z)"
_ESCAPED = rf"(?:[^<-]++|-(?!->)|<(?!/?(?i:script)[\s/>])|{_DOUBLY_ESCAPED})*+(?:-->|(?=</script>)|\Z)"
_SCRIPT = rf"(?:[^<]++|<(?!/script>|!--)|<!--(?:-*+>|{_ESCAPED}))*+"
_RAW = "(?P<raw>(?P<script>script)|style|xmp|iframe|noembed|noframes|(?P<last>plaintext))(?=[ >])(?P<of_raw>[^>]*)>"
_WITHIN = f"(?(script){_SCRIPT}|(?(last).*(?=</plaintext>)|.*?))"
_WRITTEN = re.compile(
    rf"""<(?:
    {_RAW}(?P<within>{_WITHIN})(?:</(?P=raw)>|\Z)
    |(?P<name>/?[A-Za-z][^ \t\n\f/>]*)(?P<attributes>[^>]*)>
    |!--.*?-->
    |[!?][^>]*>
    )(?P<text>[^<]*)""",
    re.DOTALL | re.VERBOSE,
)
LEADING = frozenset({"a", "area", "base", "frame", "iframe", "link", "meta"})
"""Elements that lead to other pages, or tell what such a reference is relative to."""
_NAMES = "a|area|base|frame|link|meta|/?noscript"
_READ = f"(?:script|style|xmp|iframe|noembed|noframes|plaintext|{_NAMES})[ >]|!--"
_LEADING = re.compile(
    rf"""<(?:
    {_RAW}{_WITHIN}(?:</(?P=raw)>|\Z)
    |(?P<name>{_NAMES})(?=[ >])(?P<attributes>[^>]*)>
    |!--.*?-->
    |[^>]*>[^<]*+(?:<(?!{_READ})[^>]*>[^<]*+)*+  # all other tags up to the next of these, for a name may hold a `<`
    )""",
    re.DOTALL | re.VERBOSE,
)
_HIDDEN = re.compile(r"<(?:template|object|amp-)")  # of what these hold some is not shown
_WRITTEN_ATTRIBUTE = re.compile(r' ([^ \t\n\f/>][^ \t\n\f/>=]*)="([^"]*)"')


class Tree(NamedTuple):
    """A page as its root, of tag `#document`, and all elements below it, in document order."""

    root: Element
    elements: list[Element]


def parse_html(text: str) -> Tree:
    """Parse a page; of scripts only JSON and formulas are kept.

    Declarative shadow roots take the place of what their hosts hold, and what shows an image or a video by another
    element is an `img` or a `video`: those of AMP, `<object>`, `<embed>`, and a `<picture>` without an `<img>`.
    """
    return _tree(_written(text))


def parse_leading(text: str) -> list[Element]:
    """Return the elements of a page that lead elsewhere, in document order, each below a `noscript` if it is in one.

    They are those of `parse_html`, found without making a tree, unless parts of the page are not shown or are formulas.
    """
    written = _written(text)
    if _HIDDEN.search(written) or may_replace_elements(written):
        return [element for element in _tree(written).elements if element.tag in LEADING]
    elements: list[Element] = []
    enclosing: list[Element] = []  # `noscript` elements
    for raw, _, _, of_raw, name, attributes in _LEADING.findall(written):
        if name == "/noscript":
            enclosing = enclosing[:-1]
        elif name or raw in LEADING:
            element = Element(name or raw, _attributes(attributes or of_raw), enclosing[-1] if enclosing else None)
            if name == "noscript":
                enclosing.append(element)
            else:
                elements.append(element)
    return elements


def _written(text: str) -> str:
    """Return a page as the parser writes it."""
    document = HTMLTree.parse(_with_few_attributes(text)).document
    return document.html if document is not None else ""


def _tree(written: str) -> Tree:
    root, elements = _read(written)
    named_anew = [element for element in elements if element.tag in _NAMED_ANEW]
    if named_anew:
        _name_media(named_anew)
        elements = list(root.descendants())
    if may_hold_formula(written, elements):
        _read_mathml_text(elements)
        reduce_formulas(root)
        elements = list(root.descendants())
    for element in reversed(elements):
        _add_up(element)
    _add_up(root)
    return Tree(root, elements)


def _read(written: str) -> Tree:
    """Read what the parser has written, without looking at what the elements are, but for shadow roots.

    A script in a drawing (`<svg>`) may hold its own end tag as text; what follows there is taken for markup.
    """
    root = parent = Element("#document", {}, None)
    stack = [root]
    num_deeper = 0  # open elements below `MAX_DEPTH`
    elements: list[Element] = []
    templates: list[tuple[Element, Element]] = []
    for raw, _, _, of_raw, within, name, attributes, text in _WRITTEN.findall(written):
        if name[:1] == "/":
            if num_deeper:
                num_deeper -= 1
            elif parent is not root:
                stack.pop()
                parent = stack[-1]
        elif name:
            element = Element(name.lower(), _attributes(attributes) if attributes else {}, parent)
            parent.children.append(element)
            parent.elements.append(element)
            elements.append(element)
            if name in _VOID:
                pass
            elif len(stack) >= MAX_DEPTH:
                num_deeper += 1
            else:
                parent = element
                if name == "template":  # what it holds is not shown, unless it is a shadow root
                    parent = Element("#fragment", {}, None)
                    templates.append((element, parent))
                stack.append(parent)
        elif raw:
            element = Element(raw, _attributes(of_raw), parent)
            parent.children.append(element)
            parent.elements.append(element)
            elements.append(element)
            if within and raw != "style" and (raw != "script" or _is_kept_script(element)):
                element.children.append(within)
        if text:
            parent.children.append(_unescaped(text) if "&" in text else text)
    for template, fragment in reversed(templates):  # inner hosts first
        if _is_shadow_root(template):
            _show_shadow(template, fragment)
    return Tree(root, list(root.descendants()) if templates else elements)


def _attributes(written: str) -> dict[str, str]:
    found = dict(_WRITTEN_ATTRIBUTE.findall(written))
    return {name: _unescaped(value) for name, value in found.items()} if "&" in written else found


def _unescaped(text: str) -> str:
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&nbsp;", "\xa0")
    return text.replace("&amp;", "&")


def _is_kept_script(script: Element) -> bool:
    return "json" in script.attributes.get("type", "") or is_formula_script(script)


def _is_shadow_root(element: Element) -> bool:
    """Return whether a template holds what browsers show in the place of what its parent holds."""
    mode, host = element.attributes.get("shadowrootmode", ""), element.parent
    is_root = mode.lower() in ("open", "closed")
    return is_root and host is not None and (host.tag in _SHADOW_HOSTS or "-" in host.tag)


def _with_few_attributes(text: str) -> str:
    """Return a page without the attributes of an element beyond the first `MAX_ATTRIBUTES`.

    Resiliparse's parser takes 40 seconds for an element with a hundred thousand, and lets no other thread run.
    """
    if len(text) <= _MIN_CHARS_OF_MANY or max(map(len, _TAG.findall(text)), default=0) < 2 * MAX_ATTRIBUTES:
        return text
    return _TAG.sub(_cut_tag, text)


def _cut_tag(match: re.Match[str]) -> str:
    tag = match[0]
    if len(tag) < 2 * MAX_ATTRIBUTES:
        return tag
    names = list(itertools.islice(_ATTRIBUTES.finditer(tag), MAX_ATTRIBUTES + 2))  # the first is the element's
    return tag if len(names) < MAX_ATTRIBUTES + 2 else f"{tag[: names[-2].end()]}>"


def _show_shadow(template: Element, shadow: Element) -> None:
    """Put a shadow tree in the place of its host's children, which are shown where it has slots for them."""
    host = template.parent
    if host is None or any(e.tag == "template" for e in host.elements[: host.elements.index(template)]):
        return
    slotted: dict[str, list[Element | str]] = {}
    for child in host.children:
        if child is not template:
            slotted.setdefault("" if isinstance(child, str) else child.get("slot"), []).append(child)
    for slot in list(shadow.descendants("slot")):
        given = slotted.pop(slot.get("name"), [])
        if any(not isinstance(child, str) or child.strip() for child in given):
            _fill(slot, given)
    _fill(host, shadow.children)


def _fill(element: Element, children: list[Element | str]) -> None:
    element.children = children
    element.elements = [child for child in children if isinstance(child, Element)]
    for index, child in enumerate(element.elements):
        child.parent, child.index = element, index


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
        if (math := _first_math(written)) is None:
            continue
        own = {name: element.attributes[name] for name in _KEPT_ATTRIBUTES if name in element.attributes}
        if element.tag == "img":
            own |= source_attributes(element)
        element.tag = "math"
        element.attributes = math.attributes | own
        _fill(element, math.children)


def _first_math(text: str) -> Element | None:
    document = HTMLTree.parse(text).document
    return None if document is None else next(_read(document.html).root.descendants("math"), None)


def _add_up(element: Element) -> None:
    """Compute an element's totals from those of its children."""
    if element.tag in INVISIBLE:
        return
    text_chars = 0
    for child in element.children:
        if child.__class__ is str:
            text_chars += len(child.strip())
    if element.elements:
        for child in element.elements:
            text_chars += child.text_chars
            element.link_chars += child.link_chars
            element.num_links += child.num_links
            element.num_images += child.num_images
    element.text_chars = text_chars
    if element.tag == "a" and "href" in element.attributes:
        element.link_chars = text_chars
        element.num_links += 1
    elif element.tag == "img":
        element.num_images += 1
