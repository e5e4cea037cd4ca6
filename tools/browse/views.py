"""What templates draw of a sample: its segments as blocks, phrases with their boxes, and cues on a timeline.

Numbers of regions are those of the whole sample, so that a phrase and its box find each other.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pipelines.document import Document, Region, Segment
from tools.browse.reading import Sample

NUM_COLOURS = 6
"""Colours of boxes and phrases that the style sheet has."""

MAX_CHARS = 20_000
MAX_SEGMENTS = 300
"""What is drawn of a sample at most; the raw JSON has all."""

MAX_RAW_CHARS = 200_000
SNIPPET_CHARS = 220
NUM_THUMBNAILS = 4

_TURNS = ("system", "user", "assistant")
_WIDTH, _LANE, _MAX_LANES = 1000, 18, 6


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text, and the regions it names; `colour` is that of the shortest, None if there are none."""

    text: str
    regions: tuple[int, ...] = ()
    colour: int | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A box on an image, in the units of `Image.width` and `Image.height`."""

    region: int
    x: float
    y: float
    width: float
    height: float
    phrase: str
    score: float | None
    label: str | None
    colour: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a sample: the part that it is, its size (or 1000 by 1000 if unknown), and what is known of it."""

    part: str | None
    width: int
    height: int
    alt: str
    time: float | None
    boxes: tuple[Box, ...] = ()
    is_video: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A segment to draw: a text, in spans, or an image.

    Args:
        role: That of the segment.
        speaker: Role of the turn that begins with it; None where none begins.
        note: What is unusual about its origin.
    """

    role: str
    spans: tuple[Span, ...] = ()
    image: Image | None = None
    speaker: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cue:
    """A cue on the timeline: times in seconds, and its place in the drawing."""

    number: int
    start: float
    end: float
    text: str
    x: float
    width: float
    lane: int


@dataclass(frozen=True, slots=True)
class Film:
    """Frames and cues of a video on a timeline of `length` seconds, drawn 1000 wide and `height` high."""

    frames: tuple[tuple[Image, float], ...]
    cues: tuple[Cue, ...]
    ticks: tuple[tuple[float, float], ...]
    length: float
    height: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample as it is drawn. `form` is `film`, `turns`, `pair`, `page` or `text`."""

    form: str
    blocks: list[Block] = field(default_factory=list)
    film: Film | None = None
    num_more_segments: int = 0
    num_more_chars: int = 0

    @property
    def images(self) -> list[Image]:
        """The images, in order."""
        if self.film is not None:
            return [image for image, _ in self.film.frames]
        return [block.image for block in self.blocks if block.image is not None]


@dataclass(frozen=True, slots=True)
class Card:
    """A sample in a list: first images, title and the beginning of its text."""

    images: list[Image]
    title: str
    snippet: str
    num_more_images: int


def draw(document: Document) -> Drawn:
    """Return a sample's segments as they are drawn, by what the sample is."""
    regions = [region for segment in document.segments for region in segment.regions]
    numbers = {id(region): number for number, region in enumerate(regions)}
    boxes = _boxes(document, numbers)
    shown = document.segments[:MAX_SEGMENTS]
    is_turns = str(document.kind) == "conversation" or any(s.role in _TURNS for s in document.segments)
    blocks: list[Block] = []
    num_chars, num_more_chars, speaker = 0, 0, ""
    for segment in shown:
        new_speaker = segment.role if is_turns and segment.role in _TURNS and segment.role != speaker else None
        speaker = new_speaker or speaker
        note = _note(segment)
        if segment.media is not None:
            blocks.append(
                Block(segment.role, image=_image(document, segment.media, boxes), speaker=new_speaker, note=note)
            )
        elif segment.text is not None:
            text = segment.text[: max(0, MAX_CHARS - num_chars)]
            num_chars += len(text)
            num_more_chars += len(segment.text) - len(text)
            if text:
                blocks.append(
                    Block(segment.role, tuple(_spans(text, segment.regions, numbers)), None, new_speaker, note)
                )
    return Drawn(
        form=_form(document, is_turns),
        blocks=blocks,
        film=_film(document, shown) if document.kind == "video" else None,
        num_more_segments=len(document.segments) - len(shown),
        num_more_chars=num_more_chars,
    )


def card(document: Document) -> Card:
    """Return what a list shows of a sample."""
    media = [s.media for s in document.segments if s.media is not None]
    title = next((s.text for s in document.segments if s.text and s.role in ("heading", "title")), "")
    texts = (s.text for s in document.segments if s.text and s.role not in ("heading", "title"))
    snippet = ""
    for text in texts:
        snippet = f"{snippet} {text[:SNIPPET_CHARS]}".strip()
        if len(snippet) >= SNIPPET_CHARS:
            break
    snippet = " ".join(snippet.split())
    return Card(
        images=[_image(document, number, {}) for number in media[:NUM_THUMBNAILS]],
        title=_cut(title, 90),
        snippet=_cut(snippet, SNIPPET_CHARS),
        num_more_images=max(0, len(media) - NUM_THUMBNAILS),
    )


def pretty_json(sample: Sample) -> str:
    """Return the JSON of a sample with indents, cut; what cannot be parsed as it is."""
    if sample.json is None:
        return ""
    try:
        text = json.dumps(json.loads(sample.json), indent=2, ensure_ascii=False, sort_keys=True)
    except (ValueError, RecursionError):
        text = sample.json.decode("utf-8", "replace")
    return _cut(text, MAX_RAW_CHARS)


def _form(document: Document, is_turns: bool) -> str:
    if is_turns:
        return "turns"
    return {"video": "film", "pair": "pair", "grounded": "pair", "text": "text"}.get(document.kind, "page")


def _note(segment: Segment) -> str:
    words = [segment.origin] if segment.origin != "source" and segment.type == "text" else []
    return ", ".join([*words, *([f"by {segment.generator}"] if segment.generator else [])])


def _image(document: Document, number: int, boxes: dict[int, list[Box]]) -> Image:
    if not 0 <= number < len(document.media):
        return Image(None, 1000, 1000, "", None)
    media = document.media[number]
    return Image(
        part=media.part,
        width=media.width or 1000,
        height=media.height or 1000,
        alt=_cut(media.alt or "", 300),
        time=media.t,
        boxes=tuple(boxes.get(number, ())),
        is_video=(media.mime or "").startswith("video/"),
    )


def _boxes(document: Document, numbers: dict[int, int]) -> dict[int, list[Box]]:
    """Return the boxes of each image, the largest first: a smaller one lies above it, where it can be pointed at."""
    found: dict[int, list[Box]] = {}
    for segment in document.segments:
        for region in segment.regions:
            if not 0 <= region.media < len(document.media):
                continue
            media, number = document.media[region.media], numbers[id(region)]
            width, height = media.width or 1000, media.height or 1000
            x0, y0, x1, y1 = region.box
            box = Box(
                region=number,
                x=round(x0 * width, 2),
                y=round(y0 * height, 2),
                width=round((x1 - x0) * width, 2),
                height=round((y1 - y0) * height, 2),
                phrase=_cut((segment.text or "")[region.start : region.end], 120),
                score=region.score,
                label=region.label,
                colour=number % NUM_COLOURS,
            )
            found.setdefault(region.media, []).append(box)
    return {media: sorted(boxes, key=lambda box: -box.width * box.height) for media, boxes in found.items()}


def _spans(text: str, regions: Sequence[Region], numbers: dict[int, int]) -> Iterator[Span]:
    """Yield a text in pieces, each inside the same regions."""
    within = [r for r in regions if 0 <= r.start < r.end and r.start < len(text)]
    cuts = sorted({0, len(text), *(r.start for r in within), *(min(r.end, len(text)) for r in within)})
    for begin, end in pairwise(cuts):
        covering = sorted((r for r in within if r.start <= begin and end <= r.end), key=lambda r: r.end - r.start)
        found = tuple(numbers[id(r)] for r in covering)
        yield Span(text[begin:end], found, found[0] % NUM_COLOURS if found else None)


def _film(document: Document, segments: Sequence[Segment]) -> Film:
    """Return frames and cues in order of time, and cues that overlap in lanes below each other."""
    frames = [(_image(document, s.media, {}), s.t0 or 0.0) for s in segments if s.media is not None]
    texts = [(s.t0, s.t1, s.text) for s in segments if s.text is not None and s.t0 is not None]
    times = [*(t for _, t in frames), *(t for t0, t1, _ in texts for t in (t0, t1) if t is not None)]
    length = max([*times, 0.1])
    cues: list[Cue] = []
    ends: list[float] = []
    for number, (t0, t1, text) in enumerate(texts):
        end = max(t0, t1 if t1 is not None else t0)
        lane = next((i for i, last in enumerate(ends) if last <= t0), min(len(ends), _MAX_LANES - 1))
        ends[lane : lane + 1] = [end]
        x = round(t0 / length * _WIDTH, 2)
        width = max(4.0, round((end - t0) / length * _WIDTH, 2))
        cues.append(Cue(number, t0, end, _cut(text, MAX_CHARS // 10), x, width, lane))
    ticks = tuple((t, round(t / length * _WIDTH, 2)) for t in _ticks(length))
    return Film(tuple(frames), tuple(cues), ticks, length, 30 + _LANE * max(1, len(ends)))


def _ticks(length: float) -> Iterator[float]:
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 36_000)
    step = next((s for s in steps if length / s <= 10), length / 10)
    for number in range(int(length / step + 1e-9) + 1):
        yield round(number * step, 3)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
