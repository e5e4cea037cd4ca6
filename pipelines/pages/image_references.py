"""References to images in any attribute, by what it holds: scripts that load images late name theirs as they like.

An attribute counts if its value is an address of an image, a `srcset`, or JSON or a list with such addresses, and its
name does not say that it is something else. So `data-src`, `data-cfsrc` or `data-actualsrc` need no list of names.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pipelines.pages.tree import Element, split_words
from pipelines.web.urls import parse_srcset

MAX_WIDTH = 2048  # pixels; the widest candidate up to this is used: enough for any encoder, bearable for hosts
MAX_VALUE_CHARS = 20_000  # of an attribute

_PLAIN = frozenset(
    {"src", "srcset", "alt", "title", "class", "id", "style", "href", "sizes", "usemap", "longdesc", "name", "type"}
    | {"rel", "is", "role", "slot", "lang", "content", "datetime", "value", "cite", "action"}
)  # fmt: skip
_OTHER_WORDS = frozenset(
    # a placeholder, or an image for another occasion
    {"placeholder", "lqip", "lowsrc", "low", "blur", "blurhash", "loading", "loader", "spinner", "error", "fallback"}
    | {"default", "hover", "flipped", "pin", "share", "poster", "avatar", "icon", "logo", "sprite"}
    # a text or a page
    | {"title", "name", "filename", "alt", "caption", "description", "desc", "label", "text", "keywords", "id", "key"}
    | {"type", "mime", "format", "width", "height", "ratio", "class", "hash"}
    | {"link", "permalink", "page", "href", "target", "api", "endpoint", "action", "script", "css", "json", "ajax"}
)
_LAST_WORDS = frozenset({"default", "fallback", "type", "mime", "format"})  # in `data-default-src`: a last resort
_SMALL_WORDS = frozenset({"thumb", "thumbnail", "small", "tiny", "preview", "mini"})
_EMPTY_BOXES = frozenset({"div", "section", "span", "a", "li", "figure"})  # to which scripts give a background
_SOURCE_NAME = re.compile(
    r"src|source|img|image|lazy|late|orig|photo|picture|echo|hi-?res|full|large|zoom|retina|2x|^data-url$"
)
_FIRST_NAMES = ("data-src", "data-lazy-src", "data-original", "data-lazy", "data-orig-file", "data-full-url")
_DESCRIPTOR = re.compile(r"\s\d+(?:\.\d+)?[wx]\s*(?:,|$)")

_IMAGE_NAME = re.compile(
    r"""\.(?:jpe?g|jfif|png|gif|webp|avif|bmp|tiff?|heic|jxl|svgz?)(?:$|[?#&!:;,@/)'"])""", re.IGNORECASE
)
_STYLE_URL = re.compile(r"""url\(\s*["']?([^"')]*)""", re.IGNORECASE)
_LISTED = re.compile(r"\.(?:jpe?g|png|gif|webp|avif|svg)(?:\?[^,\s]*)?,", re.IGNORECASE)  # followed by another
_ADDRESS = re.compile(r"(?:https?:)?//[^/\s]|\.{0,2}/[^/\s]", re.IGNORECASE)
_NOT_IN_REFERENCES = re.compile(r"[\s<>{}\"|]")
_WIDTH = re.compile(r"\{width\}|%7Bwidth%7D", re.IGNORECASE)


def held_references(element: Element) -> list[str]:
    """Return the references to images in an element's attributes other than `src` and `srcset`, best first."""
    found: list[tuple[int, str]] = []
    for name, value in element.attributes.items():
        if (rank := _rank(name)) is None or not value or len(value) > MAX_VALUE_CHARS:
            continue
        is_source = _SOURCE_NAME.search(name) is not None
        found += [(rank, reference) for reference in _held(value.strip(), element, name, is_source=is_source)]
    found.sort(key=lambda pair: pair[0])
    return [reference for _, reference in found]


def background_reference(element: Element) -> str | None:
    """Return the reference to an element's background image, by its style or an attribute for late loading.

    None if it has no such image; empty if it has one, but several references or no plain one.
    """
    if (style := element.attributes.get("style")) and (found := _style_references(style)):
        return found[0] if len(found) == 1 else ""
    for name, value in element.attributes.items():
        if ("bg" in name or "background" in name) and _IMAGE_NAME.search(value):
            is_plain = not (_NOT_IN_REFERENCES.search(value.strip()) or _LISTED.search(value))
            found = _style_references(value) or ([value] if is_plain else [])
            return found[0] if len(found) == 1 else ""
    is_empty = element.tag in _EMPTY_BOXES and not element.text_chars and not element.num_images
    return next(filter(is_image_name, held_references(element)), None) if is_empty else None


def _style_references(style: str) -> list[str]:
    """Return what a style refers to outside the page itself (`filter: url(#blur)`), each once."""
    found = (match[1].strip() for match in _STYLE_URL.finditer(style))
    return list(dict.fromkeys(reference for reference in found if not reference.startswith("#")))


def is_image_name(reference: str) -> bool:
    """Return whether a reference ends like the file name of an image."""
    return _IMAGE_NAME.search(reference) is not None


def best_of_srcset(value: str) -> list[str]:
    """Return the widest candidate up to `MAX_WIDTH`, else the narrowest; by density the highest. Skips data URIs."""
    candidates = [c for c in parse_srcset(value) if not c.reference.lower().startswith("data:")] if value else []
    wide = [(c.width, c.reference) for c in candidates if c.width is not None]
    if wide:
        return [_best(wide)]
    return [max(candidates, key=lambda c: c.density or 0).reference] if candidates else []


def _best(sized: list[tuple[int, str]]) -> str:
    within = [pair for pair in sized if pair[0] <= MAX_WIDTH]
    chosen = max(within, key=lambda pair: pair[0]) if within else min(sized, key=lambda pair: pair[0])
    return chosen[1]


def _rank(name: str) -> int | None:
    """Return the rank of what an attribute holds by its name, or None if it says that it is no image to be shown."""
    is_angular = name in ("ng-src", "ng-srcset")
    if name in _PLAIN or (name.startswith(("on", "aria-", "xml", "ng-", "@", ":")) and not is_angular):
        return None
    words = split_words(name)
    others = words & _OTHER_WORDS
    if others and name.endswith("src") and others <= _LAST_WORDS:
        return len(_FIRST_NAMES) + 2
    if others:
        return None
    if name in _FIRST_NAMES:
        return _FIRST_NAMES.index(name)
    return len(_FIRST_NAMES) + (words.isdisjoint(_SMALL_WORDS) is False)


def _held(value: str, element: Element, name: str, *, is_source: bool) -> Iterator[str]:
    """Yield the references that a value holds."""
    if "{{" in value:  # of a template that no script has filled in
        return
    num_sized = len(_DESCRIPTOR.findall(value))
    if num_sized and num_sized >= len(parse_srcset(value)):  # a comma in a text makes candidates without a size
        yield from best_of_srcset(value)
        return
    if value[0] in "[{":
        yield from _in_json(value)
        return
    if match := _WIDTH.search(value):
        widths = [int(number) for number in re.findall(r"\d{1,5}", element.get("data-widths"))]
        if not widths:
            return
        value = value.replace(match[0], _best([(width, str(width)) for width in widths]))
    if _NOT_IN_REFERENCES.search(value) and "src" not in name:
        return
    is_address, is_image = _ADDRESS.match(value) is not None, is_image_name(value)
    if is_image or (is_source and (is_address or ("src" in name and re.search(r"[./?=]", value)))):
        yield value


def _in_json(value: str) -> Iterator[str]:
    """Yield the best image that JSON names; in lists that are none (`[a.jpg, small], [b.jpg, large]`) the last."""
    try:
        tree = json.loads(value)
    except (ValueError, RecursionError):
        names = [part for part in re.split(r"[\s,\[\]{}\"'()|]+", value) if is_image_name(part)]
        yield from names[-1:]
        return
    sized: list[tuple[int, str]] = []
    names = []
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            sized += filter(None, (_sized(key, inner) for key, inner in node.items()))
            stack.extend(reversed(list(node.values())))
        elif isinstance(node, list):
            stack.extend(reversed(node))
        elif isinstance(node, str) and is_image_name(node) and not re.search(r"\s", node):
            names.append(node)
    yield from [_best(sized)] if sized else names[:1]


def _sized(key: str, inner: Any) -> tuple[int, str] | None:
    """Return (width, address) of `{"1280": "a.jpg"}` or `{"a.jpg": [1280, 720]}`."""
    if key.isdecimal() and len(key) < 6 and isinstance(inner, str) and is_image_name(inner):
        return int(key), inner
    if is_image_name(key) and isinstance(inner, list) and inner and all(isinstance(side, int) for side in inner):
        return max(inner), key
    return None
