"""Statements about images in a page's JSON-LD: licences and credits (schema.org), Web Annotations with boxes."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.document import clean_text
from pipelines.drop_reasons import Reason
from pipelines.pages.blocks import PageRegion
from pipelines.pages.media_elements import fraction_box
from pipelines.pages.references import References
from pipelines.pages.tree import Element

MAX_NODES = 10_000  # JSON objects examined per page

_SELECTOR = re.compile(r"xywh=(?:(pixel|percent):)?(-?[\d.]+),(-?[\d.]+),([\d.]+),([\d.]+)\s*$")


@dataclass(frozen=True, slots=True)
class Rights:
    """Licence (a URL or a phrase), where it was found, and whom to credit."""

    license: str | None = None
    evidence: str = "none-found"
    credit: str | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """Text about a box (x, y, width, height) of an image, in percent, or in pixels of `size` if given."""

    text: str
    xywh: tuple[float, float, float, float]
    is_percent: bool
    size: tuple[float, float] | None

    def region(self, declared: tuple[int | None, int | None]) -> PageRegion | Reason:
        """Return the region, or the reason why there is none.

        Args:
            declared: The image's width and height as the page declares them; the pixels' frame of reference if the
                annotation gives no size itself.
        """
        x, y, width, height = self.xywh
        size: tuple[float, float] | None = (100, 100) if self.is_percent else self.size
        if size is None and declared[0] is not None and declared[1] is not None:
            size = (declared[0], declared[1])
        if size is None:
            return "region_without_size"
        box = fraction_box((x, y, x + width, y + height), size)
        return "invalid_region" if box is None else PageRegion(self.text, box)


@dataclass(slots=True)
class Statements:
    """All statements of a page: rights and annotations by the image's canonical URL, and the page's own licences.

    `num_invalid` counts scripts that are no JSON; `invalid_regions` are the images, if known, of annotations that name
    no box.
    """

    rights: dict[str, Rights] = field(default_factory=dict)
    annotations: dict[str, list[Annotation]] = field(default_factory=dict)
    licenses: list[str] = field(default_factory=list)
    num_invalid: int = 0
    invalid_regions: list[str | None] = field(default_factory=list)


def read_json_ld(elements: Iterable[Element], base: References) -> Statements:
    """Read the `<script type="application/ld+json">` among a page's elements; broken ones are counted."""
    statements = Statements()
    for script in elements:
        if script.tag != "script" or script.get("type").lower().partition(";")[0].strip() != "application/ld+json":
            continue
        try:
            tree = json.loads("".join(c for c in script.children if isinstance(c, str)))
        except (ValueError, RecursionError):
            statements.num_invalid += 1
            continue
        for node in _objects(tree):
            types = {str(t).rpartition(":")[2] for t in _list(node.get("@type", node.get("type")))}
            if types & {"ImageObject", "Photograph"}:
                _read_rights(statements, node, base)
            elif types & {"Article", "NewsArticle", "BlogPosting", "WebPage", "CreativeWork", "TechArticle"}:
                statements.licenses += [text for value in _list(node.get("license")) if (text := _text(value))]
            elif "Annotation" in types:
                _read_annotation(statements, node, base)
    return statements


def _objects(tree: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a JSON tree, in document order."""
    stack, num_seen = [tree], 0
    while stack and num_seen < MAX_NODES:
        node = stack.pop()
        num_seen += 1
        if isinstance(node, dict):
            yield node
            stack.extend(reversed(list(node.values())))
        elif isinstance(node, list):
            stack.extend(reversed(node))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _text(value: Any) -> str | None:
    """Return a string, or the name, URL or value of an object or of the first item of a list."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = next((value[k] for k in ("name", "@id", "id", "url", "value", "@value") if value.get(k)), None)
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _read_rights(statements: Statements, node: Mapping[str, Any], base: References) -> None:
    credit = next(
        (t for k in ("creditText", "creator", "author", "copyrightNotice") if (t := _text(node.get(k)))), None
    )
    key, stated = next(((k, t) for k in ("license", "acquireLicensePage") if (t := _text(node.get(k)))), (None, None))
    # A page where licences are sold is evidence of rights, not a licence.
    license_text = stated if key == "license" else None
    rights = Rights(license_text, f"json-ld:ImageObject.{key}" if key else "none-found", credit)
    if not key and not credit:
        return
    for name in ("contentUrl", "url", "@id"):
        reference = _text(node.get(name))
        if reference and (url := base.resolve(reference)):
            statements.rights.setdefault(url, rights)


def _read_annotation(statements: Statements, node: Mapping[str, Any], base: References) -> None:
    bodies = [b for b in _list(node.get("body", node.get("hasBody"))) if isinstance(b, dict)]
    texts = [t for b in bodies if isinstance(t := b.get("value", b.get("chars")), str)]
    texts += [t for t in _list(node.get("bodyValue")) if isinstance(t, str)]
    text = clean_text(" ".join(" ".join(texts[:1]).split()))
    for target in _list(node.get("target", node.get("hasTarget"))):
        source, selector, size = _read_target(target)
        url, match = base.resolve(source) if source else None, _SELECTOR.search(selector)
        xywh = None
        if match:
            with contextlib.suppress(ValueError):
                xywh = (float(match[2]), float(match[3]), float(match[4]), float(match[5]))
        if not text or url is None or match is None or xywh is None:
            statements.invalid_regions.append(url)
        else:
            found = statements.annotations.setdefault(url, [])
            found.append(Annotation(text, xywh, match[1] == "percent", size))


def _read_target(target: Any) -> tuple[str, str, tuple[float, float] | None]:
    """Return (the image's reference, the fragment that selects a box, the image's size if given)."""
    if isinstance(target, str):
        reference, _, fragment = target.partition("#")
        return reference, fragment, None
    if not isinstance(target, dict):
        return "", "", None
    source: Any = target.get("source", target.get("@id", target.get("id")))
    if isinstance(source, str) and "#" in source:
        return _read_target(source)
    selectors = [s.get("value") if isinstance(s, dict) else s for s in _list(target.get("selector"))]
    selector = next((s for s in selectors if isinstance(s, str) and "xywh=" in s), "")
    if not isinstance(source, dict):
        return _text(source) or "", selector, None
    width, height = source.get("width"), source.get("height")
    size = (width, height) if isinstance(width, int | float) and isinstance(height, int | float) else None
    return _text(source.get("id", source.get("@id"))) or "", selector, size
