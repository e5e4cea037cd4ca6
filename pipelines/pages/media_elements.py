"""Images and videos of a page: which URL each has, which are furniture, and the regions named on them."""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from PIL import Image

from pipelines.candidate import Track
from pipelines.document import clean_text
from pipelines.drop_reasons import Reason
from pipelines.images.metadata import read_size, sniff_format
from pipelines.pages.blocks import PageRegion
from pipelines.pages.tree import INLINE, Element, split_words
from pipelines.web.urls import parse_srcset, resolve

MAX_SRCSET_WIDTH = 2048  # pixels; the widest candidate up to here is taken: enough for any encoder, bearable for hosts
MIN_SIDE = 48  # pixels, declared or of inline bytes; icons come in sizes from 16 to 48, so 48 itself is out
MAX_DATA_URI_BYTES = 10_000_000  # of an image written into the page
MAX_REGIONS = 200  # of one image
MAX_ICON_CHARS = 40  # of an icon's alt that is part of a sentence
MAX_ICONS = 50  # images in one block: each looks through the block's text

_LAZY_SRC = (  # OBELICS' list, and what other lazy loaders use
    *("data-src", "data-lazy-src", "data-original", "data-lazy", "data-img-src", "data-src-fg", "data-scroll-image"),
    *("data-lateloadsrc", "data-gt-lazy-src", "src2", "data-orig-file", "data-full-url", "data-image", "data-url"),
)
_LAZY_SRCSET = ("data-srcset", "data-lazy-srcset", "data-original-set")
_PLACEHOLDER_NAME = re.compile(
    r"(^|/)(blank|spacer|placeholder|transparent|loading|loader|lazy|lazyload|empty|grey|gray|dummy|pixel|clear|px|1x1)"
    r"([._-]?(\d+|x|img|image|gif|bg|placeholder|loader|pixel))*\.(gif|png|jpe?g|webp)$",
    re.IGNORECASE,
)
_LAZY_WORDS = frozenset({"lazy", "lazyload", "lazyloaded", "lazyloading", "lqip", "blur", "placeholder", "unveil"})
_CHROME_WORDS = frozenset(
    {"logo", "logos", "icon", "icons", "favicon", "sprite", "sprites", "avatar", "avatars", "gravatar", "badge"}
    | {"badges", "pixel", "spacer", "emoji", "emojis", "smiley", "smilies", "btn", "guiicon", "spinner"}
)
_ADMONITIONS = frozenset({"note", "tip", "warning", "caution", "important", "admonition"})
_SHARE_LINK = re.compile(
    r"//(www\.)?(facebook\.com/(sharer|share)|(twitter|x)\.com/(intent|share)|pinterest\.\w+/pin/create"
    r"|linkedin\.com/share|reddit\.com/submit|t\.me/share|api\.whatsapp\.com/send)|^(mailto|whatsapp):",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where an image's bytes are: at a URL, or in the page; `others` are its further URLs, all canonical."""

    url: str | None
    data: bytes | None = None
    others: tuple[str, ...] = ()


class Skipped(Exception):  # noqa: N818 - a verdict on the element, not a failure of ours
    """An image or video that is left out, for one of `drop_reasons.ELEMENTS`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def declared_size(element: Element) -> tuple[int | None, int | None]:
    """Width and height in pixels by attribute, else by style; None where not said in pixels."""
    width, height = (_pixels(element, side) for side in ("width", "height"))
    return width, height


def _pixels(element: Element, side: str) -> int | None:
    if match := re.match(r"(\d{1,6})(\.\d*)?(px)?\s*$", element.get(side)):
        return int(match[1])
    style = re.search(rf"(?:^|[;\s]){side}\s*:\s*(\d{{1,6}})(\.\d*)?px", element.attributes.get("style", ""))
    return int(style[1]) if style else None


def choose_source(image: Element, base: str, link: str | None, *, is_captioned: bool = False) -> ImageSource:
    """Where to get the image that an `<img>` shows, alone or in a `<picture>`.

    In order: the sources of `<picture>`, `srcset`, `src` unless a placeholder, attributes of lazy loaders, the
    `<noscript>` beside it.

    Args:
        image: The `<img>`.
        base: The page's base URL.
        link: What the image links to, if anything.
        is_captioned: Whether it stands in a figure with a caption: shown to be looked at, whatever its file's name.

    Raises:
        Skipped: If it is furniture, or has no usable source.
    """
    _refuse_chrome(image, link)
    found: list[str] = []
    reason: Reason = "placeholder_image"
    for reference in _references(image):
        if reference[:5].lower() == "data:":
            if not found:
                try:
                    return ImageSource(None, decode_data_uri(reference))
                except Skipped as skipped:
                    reason = skipped.reason
            continue
        url = resolve(base, reference)
        path = urlsplit(url).path if url else ""
        if not url or _PLACEHOLDER_NAME.search(path):
            continue
        if path.lower().endswith((".svg", ".svgz")):
            reason = "vector_image"
        elif url not in found:
            found.append(url)
    if not found:
        raise Skipped(reason)
    if not _CHROME_WORDS.isdisjoint(_path_words(found[0])) and not is_captioned:
        raise Skipped("chrome_image")
    return ImageSource(found[0], None, tuple(found[1:]))


def _references(image: Element) -> Iterator[str]:
    """What the attributes refer to, best first; nothing is a placeholder yet unless it is certain."""
    parent = image.parent
    if parent is not None and parent.tag == "picture":
        sources = [s for s in parent.elements if s.tag == "source" and "svg" not in s.get("type")]
        # A source for narrow screens is a crop, AVIF is read by fewer: each only where there is nothing else.
        sources.sort(key=lambda s: ("max-width" in s.get("media"), "avif" in s.get("type")))
        for source in sources:
            for name in ("srcset", *_LAZY_SRCSET):
                yield from _best_of_srcset(source.get(name))
    for name in ("srcset", *_LAZY_SRCSET):
        yield from _best_of_srcset(image.get(name))
    lazy = [image.get(name) for name in _LAZY_SRC if image.get(name)]
    src = image.get("src")
    is_preview = bool(lazy) and not _LAZY_WORDS.isdisjoint(image.words)
    yield from (reference for reference in ([*lazy, src] if is_preview else [src, *lazy]) if reference)
    beside = image if parent is None or parent.tag != "picture" else parent
    for neighbour in beside.neighbours():
        if neighbour.tag == "noscript":
            for other in neighbour.descendants("img"):
                yield from _best_of_srcset(other.get("srcset"))
                yield other.get("src")


def _best_of_srcset(value: str) -> list[str]:
    """The widest candidate within the cap, else the narrowest; of densities the highest. Data URIs are placeholders."""
    candidates = [c for c in parse_srcset(value) if not c.reference.lower().startswith("data:")] if value else []
    wide = [c for c in candidates if c.width is not None]
    if wide:
        within = [c for c in wide if (c.width or 0) <= MAX_SRCSET_WIDTH]
        chosen = max(within, key=lambda c: c.width or 0) if within else min(wide, key=lambda c: c.width or 0)
        return [chosen.reference]
    return [max(candidates, key=lambda c: c.density or 0).reference] if candidates else []


def _refuse_chrome(image: Element, link: str | None) -> None:
    sides = [side for side in declared_size(image) if side is not None]
    if sides and min(sides) <= 2:
        raise Skipped("tracking_pixel")
    if sides and min(sides) <= MIN_SIDE:
        raise Skipped("small_image")
    around = [image, *image.ancestors()][:3]
    if (
        image.get("role") in ("presentation", "none")
        or image.get("aria-hidden") == "true"
        or (link and _SHARE_LINK.search(link))
        or any(not _CHROME_WORDS.isdisjoint(e.words) for e in around if e.tag not in ("body", "main", "article"))
    ):
        raise Skipped("chrome_image")
    # The sign beside a note: DocBook puts its name in brackets.
    if re.fullmatch(r"\[\w+\]", image.get("alt")) and any(a.classes & _ADMONITIONS for a in image.ancestors()):
        raise Skipped("chrome_image")


def words_of_icon(image: Element) -> str:
    """What an icon within a line says there, by its `alt`: "press the Save button", an emoji; empty where nothing.

    A file's name says nothing, nor what the text around says as well.
    """
    alt = clean_text(" ".join(image.get("alt").split()))
    block = next((a for a in image.ancestors() if a.tag not in INLINE), image)
    is_word = 0 < len(alt) <= MAX_ICON_CHARS and alt[0] != "[" and not re.search(r"\.\w{3,4}$|^https?:", alt)
    if not is_word or image.get("role") in ("presentation", "none") or image.get("aria-hidden") == "true":
        return ""
    if block.num_images > MAX_ICONS or alt.casefold() in block.text().casefold():
        return ""
    return alt


def _path_words(url: str) -> frozenset[str]:
    """Words of a URL's file name, and its folders' names whole."""
    *folders, name = urlsplit(url).path.split("/")
    return split_words(re.sub(r"[^A-Za-z0-9_-]|%[0-9A-F]{2}", " ", name)) | {folder.lower() for folder in folders}


def decode_data_uri(uri: str) -> bytes:
    """The bytes of a `data:` URI that holds an image worth having.

    Raises:
        Skipped: If it is SVG, of no known format, beyond `MAX_DATA_URI_BYTES`, or so small that it is a placeholder.
    """
    header, _, payload = uri[5:].partition(",")
    if "svg" in header.lower():
        raise Skipped("vector_image")
    if len(payload) > 3 * MAX_DATA_URI_BYTES:  # every byte may be written as three characters
        raise Skipped("invalid_data_uri")
    data = unquote_to_bytes(payload)
    if header.lower().rstrip().endswith(";base64"):
        try:
            data = base64.b64decode(re.sub(rb"\s", b"", data) + b"==")
        except binascii.Error as error:
            raise Skipped("invalid_data_uri") from error
    size = inline_size(data) if len(data) <= MAX_DATA_URI_BYTES else None
    if size is None:
        raise Skipped("invalid_data_uri")
    if min(size) <= MIN_SIDE:
        raise Skipped("placeholder_image")
    return data


def inline_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that the header of inline bytes states; None where they are no image."""
    image_format = sniff_format(data)
    try:
        return read_size(data, image_format) if image_format else None
    except (ValueError, Image.DecompressionBombError):
        return None


def area_regions(
    areas: Sequence[Element], size: tuple[int | None, int | None]
) -> tuple[list[PageRegion], list[Reason]]:
    """The regions of an image map, and why others were left out.

    Args:
        areas: Its `<area>` elements; what each is called stands in `alt`, else in `title`.
        size: The image's width and height in the pixels that the coordinates count.
    """
    regions: list[PageRegion] = []
    reasons: list[Reason] = []
    for area in areas[:MAX_REGIONS]:
        text = clean_text(" ".join((area.get("alt") or area.get("title") or area.get("aria-label")).split()))
        numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", area.get("coords"))[:200]]
        box = _shape_box(area.get("shape").lower() or "rect", numbers)
        if not text or box is None:
            reasons.append("invalid_region")
        elif size[0] is None or size[1] is None:
            reasons.append("region_without_size")
        elif (fraction := fraction_box(box, (size[0], size[1]))) is None:
            reasons.append("invalid_region")
        else:
            regions.append(PageRegion(text, fraction))
    return regions, reasons


def _shape_box(shape: str, numbers: list[float]) -> tuple[float, float, float, float] | None:
    """The box around an area's shape, in its own pixels."""
    if shape.startswith("rect") and len(numbers) >= 4:
        x0, y0, x1, y1 = numbers[:4]
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
    if shape.startswith("circ") and len(numbers) >= 3:
        x, y, radius = numbers[:3]
        return x - radius, y - radius, x + radius, y + radius
    if shape.startswith("poly") and len(numbers) >= 6:
        xs, ys = numbers[0::2], numbers[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    return None


def fraction_box(
    box: tuple[float, float, float, float], size: tuple[float, float]
) -> tuple[float, float, float, float] | None:
    """A box in pixels as fractions, cut at the image's border; None where nothing of it is inside."""
    if min(size) <= 0:
        return None
    x0, x1 = (min(max(x / size[0], 0.0), 1.0) for x in (box[0], box[2]))
    y0, y1 = (min(max(y / size[1], 0.0), 1.0) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def video_sources(video: Element, base: str) -> tuple[str, ...]:
    """Canonical URLs of a `<video>`, in the page's order of preference.

    Raises:
        Skipped: If there is none.
    """
    references = [video.get("src"), video.get("data-src")]
    references += [source.get("src") or source.get("data-src") for source in video.descendants("source")]
    urls = dict.fromkeys(url for reference in references if reference and (url := resolve(base, reference)))
    if not urls:
        raise Skipped("video_without_source")
    return tuple(urls)


def video_tracks(video: Element, base: str) -> tuple[Track, ...]:
    """The `<track>`s that hold spoken words; the default one first."""
    tracks = [
        t for t in video.descendants("track") if (t.get("kind").lower() or "subtitles") in ("subtitles", "captions")
    ]
    tracks.sort(key=lambda track: "default" not in track.attributes)
    return tuple(
        Track(
            url,
            lang=track.get("srclang").lower() or None,
            kind=track.get("kind").lower() or "subtitles",
            is_automatic=bool(re.search(r"\bauto(matic|-generated|matically)?\b", track.get("label"), re.IGNORECASE)),
        )
        for track in tracks
        if track.get("src") and (url := resolve(base, track.get("src")))
    )
