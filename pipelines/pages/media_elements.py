"""Images and videos of a page: the URL of each, which are page furniture, and the regions named on them."""

import base64
import binascii
import itertools
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
from pipelines.pages.image_references import best_of_srcset, held_references
from pipelines.pages.references import References
from pipelines.pages.tree import Element, split_words

MIN_SIDE = 48  # pixels, declared or of inline bytes; icons come in sizes from 16 to 48, so 48 itself is excluded
MAX_DATA_URI_BYTES = 10_000_000  # of an inline image
MAX_REGIONS = 200  # of one image
MAX_ICON_CHARS = 40  # of the alt text of an icon within a sentence
MAX_ICONS = 50  # images in one block: each searches the block's text
MAX_NOSCRIPT_IMAGES = 10  # of one `<noscript>`, which stands in for one image; nested ones hold all that follow

_PLACEHOLDER_NAME = re.compile(
    r"(^|/)(blank|spacer|placeholder|transparent|loading|loader|lazy|lazyload|empty|grey|gray|dummy|pixel|clear|px|1x1)"
    r"([._-]?(\d|x|img|image|gif|bg|placeholder|loader|pixel))*\.(gif|png|jpe?g|webp)$",
    re.IGNORECASE,
)
_LAZY_WORDS = frozenset({"lazy", "lazyload", "lazyloaded", "lazyloading", "lqip", "blur", "placeholder", "unveil"})
_CHROME_WORDS = frozenset(
    {"logo", "logos", "icon", "icons", "favicon", "sprite", "sprites", "avatar", "avatars", "gravatar", "badge"}
    | {"badges", "pixel", "spacer", "emoji", "emojis", "smiley", "smilies", "btn", "guiicon", "spinner"}
)
_VIDEO_ENDINGS = (".mp4", ".m4v", ".webm", ".ogv", ".mov")
_ADMONITIONS = frozenset({"note", "tip", "warning", "caution", "important", "admonition"})
_SHARE_LINK = re.compile(
    r"//(www\.)?(facebook\.com/(sharer|share)|(twitter|x)\.com/(intent|share)|pinterest\.\w+/pin/create"
    r"|linkedin\.com/share|reddit\.com/submit|t\.me/share|api\.whatsapp\.com/send)|^(mailto|whatsapp):",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Location of an image's bytes: at a URL, or in the page; `others` are further URLs, all canonical."""

    url: str | None
    data: bytes | None = None
    others: tuple[str, ...] = ()


class Skipped(Exception):  # noqa: N818 - a verdict on the element, not a failure of ours
    """An image or video that is skipped, for one of `drop_reasons.ELEMENTS`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def declared_size(element: Element) -> tuple[int | None, int | None]:
    """Return width and height in pixels by attribute, else by style; None if not stated in pixels."""
    width, height = (_pixels(element, side) for side in ("width", "height"))
    return width, height


def _pixels(element: Element, side: str) -> int | None:
    if match := re.match(r"(\d{1,6})(\.\d*)?(px)?\s*$", element.get(side)):
        return int(match[1])
    style = re.search(rf"(?:^|[;\s]){side}\s*:\s*(\d{{1,6}})(\.\d*)?px", element.attributes.get("style", ""))
    return int(style[1]) if style else None


def choose_source(image: Element, base: References, link: str | None, *, is_captioned: bool = False) -> ImageSource:
    """Return where to get the image that an `<img>` shows, alone or in a `<picture>`.

    In order: the sources of `<picture>`, `srcset`, `src` unless a placeholder, attributes of lazy loaders, the
    adjacent `<noscript>`.

    Args:
        image: The `<img>`.
        base: The page's base URL.
        link: Target of the image's link, if any.
        is_captioned: Whether it is in a figure with a caption, so that it is content whatever its file's name.

    Raises:
        Skipped: If it is page furniture, or has no usable source.
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
        url = base.resolve(reference)
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


def image_url(image: Element, base: References) -> str | None:
    """Return the URL of an `<img>` whether it is used or not: the best, that of a placeholder if it has no other."""
    found: str | None = None
    for reference in _references(image):
        url = base.resolve(reference)
        if url and not _PLACEHOLDER_NAME.search(urlsplit(url).path):
            return url
        found = found or url
    return found


def _references(image: Element) -> Iterator[str]:
    """Yield the references in the attributes, best first; only certain placeholders are excluded so far."""
    parent = image.parent
    if parent is not None and parent.tag == "picture":
        sources = [s for s in parent.elements if s.tag == "source" and "svg" not in s.get("type")]
        # A source for narrow screens is a crop, and fewer readers know AVIF: each is a last resort.
        sources.sort(key=lambda s: ("max-width" in s.get("media"), "avif" in s.get("type")))
        for source in sources:
            yield from best_of_srcset(source.get("srcset"))
            yield from held_references(source)
    yield from best_of_srcset(image.get("srcset"))
    late = held_references(image)
    src = image.get("src")
    is_preview = bool(late) and (src[:5].lower() == "data:" or not _LAZY_WORDS.isdisjoint(image.words))
    yield from (reference for reference in ([*late, src] if is_preview else [src, *late]) if reference)
    beside = image if parent is None or parent.tag != "picture" else parent
    for neighbour in beside.neighbours():
        if neighbour.tag == "noscript":
            for other in itertools.islice(neighbour.descendants("img"), MAX_NOSCRIPT_IMAGES):
                yield from best_of_srcset(other.get("srcset"))
                if reference := other.get("src"):
                    yield reference


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
    # The sign next to a note: DocBook puts its name in brackets.
    if re.fullmatch(r"\[\w+\]", image.get("alt")) and any(a.classes & _ADMONITIONS for a in image.ancestors()):
        raise Skipped("chrome_image")


def words_of_icon(image: Element) -> str:
    """Return the text that an icon within a line stands for, by its `alt`: "press the Save button", an emoji.

    Empty for a file name, and for text that the surrounding text repeats.
    """
    alt = clean_text(" ".join(image.get("alt").split()))
    block = next((a for a in image.ancestors() if a.is_block), image)
    is_word = 0 < len(alt) <= MAX_ICON_CHARS and alt[0] != "[" and not re.search(r"\.\w{3,4}$|^https?:", alt)
    if not is_word or image.get("role") in ("presentation", "none") or image.get("aria-hidden") == "true":
        return ""
    if block.num_images > MAX_ICONS or alt.casefold() in block.text().casefold():
        return ""
    return alt


def _path_words(url: str) -> frozenset[str]:
    """Return the words of a URL's file name, and the names of its folders as single words."""
    *folders, name = urlsplit(url).path.split("/")
    return split_words(re.sub(r"[^A-Za-z0-9_-]|%[0-9A-F]{2}", " ", name)) | {folder.lower() for folder in folders}


def decode_data_uri(uri: str) -> bytes:
    """Return the bytes of a `data:` URI that contains a usable image.

    Raises:
        Skipped: If it is SVG, of no known format, larger than `MAX_DATA_URI_BYTES`, or as small as a placeholder.
    """
    header, _, payload = uri[5:].partition(",")
    if "svg" in header.lower():
        raise Skipped("vector_image")
    if len(payload) > 3 * MAX_DATA_URI_BYTES:  # a byte takes up to three characters
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
    """Return width and height by the header of inline bytes; None if they are not an image."""
    image_format = sniff_format(data)
    try:
        return read_size(data, image_format) if image_format else None
    except (ValueError, Image.DecompressionBombError):
        return None


def area_regions(
    areas: Sequence[Element], size: tuple[int | None, int | None]
) -> tuple[list[PageRegion], list[Reason]]:
    """Return the regions of an image map, and the reasons for skipping others.

    Args:
        areas: Its `<area>` elements; the name of each is in `alt`, else in `title`.
        size: The image's width and height in the pixels of the coordinates.
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
    """Return the bounding box of an area's shape, in its own pixels."""
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
    """Return a box in pixels as fractions, clipped to the image; None if nothing of it is inside."""
    if min(size) <= 0:
        return None
    x0, x1 = (min(max(x / size[0], 0.0), 1.0) for x in (box[0], box[2]))
    y0, y1 = (min(max(y / size[1], 0.0), 1.0) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def video_sources(video: Element, base: References) -> tuple[str, ...]:
    """Return the canonical URLs of a `<video>`, in the page's order of preference.

    Raises:
        Skipped: If there is none.
    """
    references = [video.get("src"), *_late_videos(video)]
    for source in video.descendants("source"):
        references += [source.get("src")] if source.get("src") else _late_videos(source)
    urls = dict.fromkeys(url for reference in references if reference and (url := base.resolve(reference)))
    if not urls:
        raise Skipped("video_without_source")
    return tuple(urls)


def _late_videos(element: Element) -> list[str]:
    """Return the references to videos in attributes other than `src`, which scripts set when the video is seen."""
    others = [value.strip() for name, value in element.attributes.items() if name not in ("src", "poster", "title")]
    known = element.get("data-src")
    return ([known] if known else []) + [value for value in others if value != known and _is_video_name(value)]


def _is_video_name(value: str) -> bool:
    path = value.partition("?")[0].partition("#")[0]
    return path.lower().endswith(_VIDEO_ENDINGS) and len(path.split()) == 1


def video_tracks(video: Element, base: References) -> tuple[Track, ...]:
    """Return the `<track>` elements with spoken words; the default one first."""
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
        if track.get("src") and (url := base.resolve(track.get("src")))
    )
