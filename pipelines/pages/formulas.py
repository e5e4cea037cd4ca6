"""Formulas of a page as text: the TeX that their authors wrote, else one readable line of the MathML.

TeX stands between dollar signs, as in other corpora of web pages with mathematics (OpenWebMath, arXiv:2310.06786).
"""

import itertools
import re

from pipelines.pages.tree import Element

_TEX = re.compile(r"(^|[/-])(la)?tex\b", re.IGNORECASE)  # application/x-tex, text/x-latex, TeX; not text/plain
_DELIMITERS = re.compile(r"\$\$(.+)\$\$|\$(.+)\$|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL)
_FORMULA_SCRIPT = re.compile(r"math/(?:tex|latex|asciimath|mml)\b", re.IGNORECASE)
_TEX_SCRIPT = re.compile(r"math/(la)?tex\b", re.IGNORECASE)
# Images of formulas, whose `alt` is the TeX: MediaWiki, WordPress, and those that older converters write.
_IMAGE_CLASSES = frozenset(
    {"mwe-math-fallback-image-inline", "mwe-math-fallback-image-display", "tex", "latex", "ql-img-inline-formula"}
    | {"ql-img-displayed-equation"}
)
_IMAGE_SOURCE = re.compile(r"/latex\.php\?|//latex\.codecogs\.com/|/math/render/(svg|png)/", re.IGNORECASE)

_INVISIBLE_OPERATORS = {"\u2061": "", "\u2062": "", "\u2063": ",", "\u2064": "+"}
_SCRIPTS = frozenset({"msup", "msub", "msubsup", "mover", "munder", "munderover", "mmultiscripts"})
_SPACED = frozenset("=+-−±∓×÷·*<>≤≥≠≈≡∼≅∝∈∉⊂⊆⊃⊇∪∩∧∨→←↔⇒⇐⇔↦∣|:")
_UNSEEN = frozenset({"annotation", "annotation-xml", "mphantom", "maligngroup", "malignmark", "none", "mprescripts"})


def reduce_formulas(elements: list[Element]) -> None:
    """Make each formula an element `math` with its text, in place: MathML, scripts of MathJax 2, images with TeX.

    What shows the same formula again goes: an image beside its MathML, and what MathJax has put beside its script.
    """
    for element in elements:
        if element.tag == "math":
            _reduce(element, _formula(element))
            if element.get("type").lower().startswith("math/"):  # it was a script
                _remove_rendered(element)
        elif is_formula_script(element):
            written = element.raw_text()
            element.tag = "math"
            if "mode=display" in element.get("type"):
                element.attributes["display"] = "block"
            is_tex = _TEX_SCRIPT.match(element.get("type")) is not None
            is_display = "display" in element.attributes
            _reduce(element, _delimited(written, is_display=is_display) if is_tex else " ".join(written.split()))
            _remove_rendered(element)
        elif element.tag == "img" and (text := _image_formula(element)):
            element.tag = "math"
            before = element.neighbours()[:1] if element.index else []
            is_repeated = any(text in math.children for e in before for math in (e, *e.descendants("math")))
            _reduce(element, "" if is_repeated else text)


def is_formula_image(element: Element) -> bool:
    """Return whether an element was an image before it became a formula."""
    return element.tag == "math" and "src" in element.attributes


def is_formula_script(element: Element) -> bool:
    """Return whether an element is a script in which MathJax 2 keeps a formula: as TeX, AsciiMath or MathML."""
    return element.tag == "script" and _FORMULA_SCRIPT.match(element.get("type")) is not None


def _reduce(element: Element, text: str) -> None:
    element.children, element.elements = [text] if text else [], []


def _remove_rendered(script: Element) -> None:
    """Empty the elements directly before a script in which MathJax has shown its formula."""
    siblings = script.parent.elements if script.parent is not None else []
    at = script.index - 1
    while at >= 0 and any(name.startswith("mathjax") for name in siblings[at].classes):
        _reduce(siblings[at], "")
        at -= 1


def _formula(math: Element) -> str:
    is_display = math.get("display") == "block" or math.get("mode") == "display"
    for annotation in math.descendants("annotation"):
        if _TEX.search(annotation.get("encoding")) and (tex := " ".join(annotation.raw_text().split())):
            return _delimited(tex, is_display=is_display)
    alternative = " ".join(math.get("alttext").split())
    if alternative and _is_tex(alternative):
        return _delimited(alternative, is_display=is_display)
    return alternative or _row(math).strip()


def _is_tex(text: str) -> bool:
    """Return whether an alternative text is TeX rather than words to be read aloud."""
    return bool(re.search(r"[\\^_{}]", text)) or not re.search(r"(?<![^\W\d])[^\W\d]{2,}+ [^\W\d]{2}", text)


def _image_formula(image: Element) -> str | None:
    """Return the text of the formula that an `<img>` shows, or None if it is not known to show one."""
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
