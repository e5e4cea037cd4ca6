"""Formulas of a page as text: the TeX that their authors wrote, else one readable line of the MathML.

TeX stands between dollar signs, as in other corpora of web pages with mathematics (OpenWebMath, arXiv:2310.06786).
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable

from pipelines.pages.tree import BLOCKS, INVISIBLE, Element

UNREAD = "#formula"
"""Tag of a formula of which a page has nothing but the glyphs; no page can have an element of this name."""

_TEX = re.compile(r"(^|[/-])(la)?tex\b", re.IGNORECASE)  # application/x-tex, text/x-latex, TeX; not text/plain
_DELIMITERS = re.compile(r"\$\$(.+)\$\$|\$(.+)\$|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL)
_FORMULA_SCRIPT = re.compile(r"math/(?:tex|latex|asciimath|mml)\b", re.IGNORECASE)
_TEX_SCRIPT = re.compile(r"math/(la)?tex\b", re.IGNORECASE)
# Images of formulas, whose `alt` is the TeX: MediaWiki, WordPress, Sphinx, and those that older converters write.
_IMAGE_CLASSES = frozenset(
    {"mwe-math-fallback-image-inline", "mwe-math-fallback-image-display", "tex", "latex", "ql-img-inline-formula"}
    | {"ql-img-displayed-equation", "texrender"}
)
_IMAGE_SOURCE = re.compile(
    r"/latex\.php\?|//latex\.codecogs\.com/|/math/render/(svg|png)/|/equation\?tex=|/math\?formula="
    # of Sphinx and older versions of MediaWiki, which name the file by a hash of the TeX
    r"|(?:^|/)_images/math/[0-9a-f]{40}\.(?:png|svg)|/images/math/(?:[0-9a-f]/)+[0-9a-f]{32}\.png",
    re.IGNORECASE,
)
# TeX in an attribute: MathJax 4 and Tiptap, Zhihu, KaTeX's auto-render, mdnice.
_TEX_ATTRIBUTES = ("data-latex", "data-tex", "data-katex", "data-formula")
_TEX_ATTRIBUTE = re.compile(r" data-(?:latex|tex|katex|formula|value|mathml)=")
_FLAG = re.compile(r"true|false|\d+", re.IGNORECASE)  # in such an attribute: a setting or a number
_TEX_SIGN = re.compile(r"[\\^_{}]")
_WORD = re.compile(r"[^\W\d_\u0370-\u03ff]{2,}")  # Greek letters side by side are symbols
_NO_FORMULA = BLOCKS | {"video", "iframe"}  # in an element whose attribute has TeX
_MAX_NESTED = 8  # elements in one another that may be formulas: what is below each is walked
_MAX_BEFORE = 8  # elements that MathJax puts before its script; it takes two
_MAX_BESIDE = 100  # elements looked at for the MathML of an image

# One of these is in the source of every page that has a formula, but for those with images of class `tex`. They are
# looked for where what they have in common is there.
_MARKS = {
    b"math": (b"<math", b"math/", b"math-", b"data-mathml"),
    b"mjx-": (b"mjx-",),
    b"atex": (b"latex", b"katex"),
    b"texrender": (b"texrender",),
    b"ql-img": (b"ql-img",),
    b"formula": (b"ql-formula", b"?formula=", b"data-formula"),
    b"tex=": (b"equation?tex=",),
    b"data-": (b"data-tex", b"data-value"),
}

_INVISIBLE_OPERATORS = {"\u2061": "", "\u2062": "", "\u2063": ",", "\u2064": "+"}
_SCRIPTS = frozenset({"msup", "msub", "msubsup", "mover", "munder", "munderover", "mmultiscripts"})
_SPACED = frozenset("=+-−±∓×÷·*<>≤≥≠≈≡∼≅∝∈∉⊂⊆⊃⊇∪∩∧∨→←↔⇒⇐⇔↦∣|:")
_UNSEEN = frozenset({"annotation", "annotation-xml", "mphantom", "maligngroup", "malignmark", "none", "mprescripts"})


def may_hold_formula(source: str, elements: Iterable[Element]) -> bool:
    """Return False for a page that has no formula, by its source and its elements: most have none."""
    lowered = source.encode("utf-8", "replace").lower()
    is_marked = any(common in lowered and any(mark in lowered for mark in marks) for common, marks in _MARKS.items())
    return is_marked or any(e.tag == "img" and "tex" in e.classes for e in elements)


def may_replace_elements(source: str) -> bool:
    """Return False for a page in which no element but scripts and images is reduced to a formula, or goes with one."""
    if "<math" in source or "<mjx-" in source or _TEX_ATTRIBUTE.search(source):
        return True
    lowered = source.encode("utf-8", "replace").lower()
    return b"katex" in lowered or b"math/" in lowered


def reduce_formulas(root: Element) -> None:
    """Make each formula an element `math` with its text, in place: MathML, scripts of MathJax 2, images with TeX.

    What shows the same formula again goes: an image beside its MathML, and what MathJax has put beside its script. Of
    what MathJax 3 and KaTeX have drawn, where they leave no source, becomes an empty element `UNREAD`.
    """
    stack = [(child, 0) for child in reversed(root.elements)]
    while stack:
        element, num_around = stack.pop()
        if element.tag == "math":
            _reduce(element, _formula(element))
            if element.get("type").lower().startswith("math/"):  # it was a script
                _remove_rendered(element)
        elif is_formula_script(element):
            _reduce_script(element)
        elif element.tag == "img" and (text := _image_formula(element)):
            _reduce_image(element, text)
        elif num_around < _MAX_NESTED and _may_be_drawn(element):
            num_around += 1
            _reduce_drawn(element)
        stack += [(child, num_around) for child in reversed(element.elements)]


def is_formula_image(element: Element) -> bool:
    """Return whether an element was an image before it became a formula."""
    return element.tag == "math" and "src" in element.attributes


def source_attributes(image: Element) -> dict[str, str]:
    """Return the attributes by which a formula is known to have been an image, and by which image."""
    return {"src": "", **{name: value for name, value in image.attributes.items() if "src" in name}}


def is_formula_script(element: Element) -> bool:
    """Return whether an element is a script in which MathJax 2 keeps a formula: as TeX, AsciiMath or MathML."""
    return element.tag == "script" and _FORMULA_SCRIPT.match(element.get("type")) is not None


def _reduce(element: Element, text: str) -> None:
    element.children, element.elements = [text] if text else [], []


def _replace(element: Element, text: str, *, is_display: bool) -> None:
    """Make an element that is not MathML a formula."""
    element.tag = "math"
    if is_display:
        element.attributes["display"] = "block"
    _reduce(element, text)


def _reduce_script(script: Element) -> None:
    kind, written = script.get("type"), script.raw_text()
    is_set = "mode=display" in kind
    is_display = is_set or "display" in script.attributes
    text = _delimited(written, is_display=is_display) if _TEX_SCRIPT.match(kind) else " ".join(written.split())
    _replace(script, text, is_display=is_set)
    _remove_rendered(script)


def _reduce_image(image: Element, text: str) -> None:
    """Reduce an image to its formula; to nothing if the MathML before it has the same."""
    image.tag = "math"
    before = image.neighbours()[:1] if image.index else []
    beside = (math for e in before for math in (e, *itertools.islice(e.descendants(), _MAX_BESIDE)))
    _reduce(image, "" if any(e.tag == "math" and text in e.children for e in beside) else text)


def _may_be_drawn(element: Element) -> bool:
    """Return whether an element is by its name or attributes one that shows a formula."""
    return (
        element.tag == "mjx-container"
        or not element.attributes.keys().isdisjoint((*_TEX_ATTRIBUTES, "data-value"))
        or "katex" in element.classes
    )


def _reduce_drawn(element: Element) -> None:
    """Reduce what a script or an editor has drawn, if it is a formula."""
    if written := _written_tex(element):
        is_display = element.is_block
        if (image := next(element.descendants("img"), None)) is not None:
            element.attributes = source_attributes(image) | element.attributes
        _replace(element, _delimited(written, is_display=is_display), is_display=is_display)
    elif element.tag == "mjx-container":
        _reduce_container(element)
    elif "katex" in element.classes:
        drawn = [child for child in element.elements if "katex-html" in child.classes]
        if drawn and not any(element.descendants("math")):
            drawn[0].tag = UNREAD
            for child in drawn:
                _reduce(child, "")


def _written_tex(element: Element) -> str:
    """Return the TeX that an attribute has of what an element shows; empty if it has none."""
    if "ql-formula" in element.classes and (value := element.get("data-value")):  # of Quill
        return value
    values = ((name, element.get(name)) for name in _TEX_ATTRIBUTES)
    name, tex = next(((name, tex) for name, tex in values if tex and not _FLAG.fullmatch(tex)), ("", ""))
    if not tex or element.tag in INVISIBLE or (element.tag in BLOCKS and element.tag != "div"):
        return ""
    num_images = 0
    for below in element.descendants():
        num_images += below.tag == "img"
        if num_images > 1 or below.tag in _NO_FORMULA:
            return ""
    text = element.text()
    if name == "data-formula":  # in a page of another kind this is a sum formula, or that of a cell
        return "" if text or num_images or element.is_block else tex
    return "" if _has_prose(text, tex) else tex


def _has_prose(text: str, tex: str) -> bool:
    """Return whether what is shown has words that its TeX cannot draw: with other letters, or several that it lacks."""
    words = [word for word in _WORD.findall(unicodedata.normalize("NFKC", text)) if word not in tex]
    letters = set(tex)
    return any(not letters.issuperset(word) for word in words) or sum(len(word) > 2 for word in words) > 1


def _reduce_container(container: Element) -> None:
    """Reduce what MathJax 3 or 4 has drawn: to TeX, the MathML for screen readers, or what is read aloud."""
    inside = list(container.descendants())
    is_display = container.get("display") == "true"
    roots = (e for e in inside if e.tag in ("mjx-math", "math") or e.get("data-mml-node") == "math")
    if tex := next((tex for e in roots if (tex := e.get("data-latex"))), ""):
        _replace(container, _delimited(tex, is_display=is_display), is_display=is_display)
    elif any(e.tag == "math" for e in inside):
        return
    elif spoken := " ".join(container.get("aria-label").split()):
        text = _delimited(spoken, is_display=is_display) if _TEX_SIGN.search(spoken) else spoken
        _replace(container, text, is_display=is_display)
    else:
        container.tag = UNREAD
        _reduce(container, "")


def _remove_rendered(script: Element) -> None:
    """Empty the elements directly before a script in which MathJax has shown its formula."""
    siblings = script.parent.elements if script.parent is not None else []
    for sibling in reversed(siblings[max(script.index - _MAX_BEFORE, 0) : script.index]):
        if not any(name.startswith(("mathjax", "mjx")) for name in sibling.classes):
            break
        _reduce(sibling, "")


def _formula(math: Element) -> str:
    is_display = math.get("display") == "block" or math.get("mode") == "display"
    for annotation in math.descendants("annotation"):
        if _TEX.search(annotation.get("encoding")) and (tex := " ".join(annotation.raw_text().split())):
            return _delimited(tex, is_display=is_display)
    if tex := math.get("data-latex"):
        return _delimited(tex, is_display=is_display)
    alternative = " ".join(math.get("alttext").split())
    if alternative and _is_tex(alternative):
        return _delimited(alternative, is_display=is_display)
    return alternative or _row(math).strip()


def _is_tex(text: str) -> bool:
    """Return whether an alternative text is TeX rather than words to be read aloud."""
    return _TEX_SIGN.search(text) is not None or not re.search(r"(?<![^\W\d])[^\W\d]{2,}+ [^\W\d]{2}", text)


def _image_formula(image: Element) -> str | None:
    """Return the text of the formula that an `<img>` shows, or None if it is not known to show one."""
    if tex := _written_tex(image):
        return _delimited(tex, is_display=False)
    tex = " ".join(image.get("alt").split())
    if not tex or (_IMAGE_CLASSES.isdisjoint(image.classes) and not _IMAGE_SOURCE.search(image.get("src"))):
        return None
    is_display = not {"mwe-math-fallback-image-display", "ql-img-displayed-equation"}.isdisjoint(image.classes)
    return _delimited(tex, is_display=is_display)


def _delimited(tex: str, *, is_display: bool) -> str:
    tex = " ".join(tex.split())
    if match := _DELIMITERS.fullmatch(tex):
        tex = next(group for group in match.groups() if group).strip()
    if not tex:
        return ""
    return f"$${tex}$$" if is_display else f"${tex}$"


# --- one line of MathML ---------------------------------------------------------------------------------------------


def _line(element: Element) -> str:
    """Return an element of MathML as text: powers as `x^2`, indices as `x_i`, fractions as `a/b`, roots as `√x`."""
    tag, parts = element.tag, element.elements
    if tag in _UNSEEN:
        return ""
    if tag == "mspace":
        return " "
    if tag == "mtable":
        rows = (" ".join(filter(None, (_row(cell).strip() for cell in row.elements))) for row in parts)
        return "; ".join(filter(None, rows))
    if tag == "mfenced":
        separators = "".join(element.attributes.get("separators", ",").split())[:1]
        inside = f"{separators} ".join(filter(None, map(_line, parts)))
        return f"{element.attributes.get('open', '(')}{inside}{element.attributes.get('close', ')')}"
    if tag == "msqrt":
        return f"√{_grouped(_row(element))}"
    if tag in ("semantics", "maction"):
        return _line(parts[0]) if parts else _token(element)
    if len(parts) == 2 and tag in ("mfrac", "msup", "msub", "mover", "munder", "mroot"):
        first, second = _grouped(_line(parts[0])), _grouped(_line(parts[1]))
        if tag == "mroot":
            return f"{second}√{first}"
        if tag == "mover" and parts[1].tag == "mo":
            return first + second  # an accent
        return first + {"mfrac": "/", "msub": "_", "munder": "_"}.get(tag, "^") + second
    if len(parts) == 3 and tag in ("msubsup", "munderover"):
        base, below, above = (_grouped(_line(part)) for part in parts)
        return f"{base}_{below}^{above}"
    if tag == "mmultiscripts" and parts:
        at = next((i for i, part in enumerate(parts) if part.tag == "mprescripts"), len(parts))
        before = _pairs(parts[at + 1 :])
        return (before and f"{before} ") + _grouped(_line(parts[0])) + _pairs(parts[1:at])
    return _row(element) if parts else _token(element)


def _pairs(scripts: list[Element]) -> str:
    """Return indices and powers in turn, as `_x^y`; either may be missing."""
    marked = ((mark, _grouped(_line(script))) for mark, script in zip(itertools.cycle("_^"), scripts, strict=False))
    return "".join(mark + text for mark, text in marked if text)


def _token(element: Element) -> str:
    text = " ".join(element.raw_text().split())
    return "".join(_INVISIBLE_OPERATORS.get(character, character) for character in text)


def _row(element: Element) -> str:
    """Return the children one after the other, with spaces around infix operators, words and fractions."""
    if not element.elements:
        return _token(element)
    row = ""
    last: Element | None = None
    for at, child in enumerate(element.elements):
        text = _line(child)
        if not text:
            continue
        is_prefix = last is None or (last.tag == "mo" and row[-1:] not in ")]}|!")
        if child.tag == "mo" and text in _SPACED and not is_prefix and at < len(element.elements) - 1:
            row = f"{row.rstrip()} {text} "
        elif last is not None and row[-1].isalnum() and text[0].isalnum() and _are_words(last, child):
            row = f"{row} {text}"
        else:
            row += f"{text} " if text in (",", ";") else text
        last = child
    return re.sub(r" {2,}", " ", row)


def _are_words(first: Element, second: Element) -> bool:
    """Return whether two neighbours need a space: beside a fraction, words or a name such as `sin`, behind a power."""
    return first.tag in _SCRIPTS or any(
        e.tag in ("mfrac", "mtext") or (e.tag == "mi" and len(_token(e)) > 1) for e in (first, second)
    )


def _grouped(text: str) -> str:
    """Return text in brackets unless it is one number, name or bracket already."""
    text = text.strip()
    is_bracket = text[:1] == "(" and text[-1:] == ")" and "(" not in text[1:] and ")" not in text[:-1]
    return text if len(text) <= 1 or text.isalnum() or is_bracket else f"({text})"
