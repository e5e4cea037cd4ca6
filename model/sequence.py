"""Text, images and boxes as one sequence of tokens and slots, in windows that fit the model.

A sample is a list of `Text` and `ImageSegment` in source order. `split` cuts it into windows, which depend only on
the sample; `lay_out` writes a window as tokens, with random choices if wanted (an image before or after its
text, a box before or after its phrase) that never change the window's length. So a trainer knows every length before
it opens a sample.

    <s> text [IMG] <image>*64 [/IMG] text </s>                              an image
    <s> [VIDEO] [IMG] [gIMG]*64 [/IMG] text [IMG] ... </s>                  frames (Emu2)
    <s> <grounding> a <phrase>red boat</phrase><object>4 locations</object> </s>

Formats are Emu's (arXiv:2307.05222) and Emu2's (arXiv:2312.13286), with the released tokens.
"""

import random
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace

import numpy as np
from pydantic import Field

from model.config import BridgeConfig, Config
from model.segment import Box, ImageSegment, Segment, Text
from model.tokenizer import (
    FRAME_SLOT,
    GROUNDING,
    IMAGE_END,
    IMAGE_SLOT,
    IMAGE_START,
    LOCATIONS,
    NEXT_BOX,
    NO_BREAK,
    OBJECT_END,
    OBJECT_START,
    PAD,
    PARAGRAPH,
    PHRASE_END,
    PHRASE_START,
    SENTENCE,
    TOKEN,
    VIDEO,
    Tokenizer,
)

LAYOUT = "layout.json"
"""Name of the file of a model's layout settings, in its folder."""

NONE, TEXT, VISUAL = 0, 1, 2  # kinds of target at a position

_SPOKEN = ("subtitle", "transcript")


class LayoutConfig(Config):
    """Settings for writing samples as sequences."""

    image_first: float = Field(0.5, description="probability that an image comes before its text (both papers)")
    frame_first: float = Field(0.5, description="the same for video frames")
    phrase_first: float = Field(0.7, description="probability that a phrase comes before its boxes (Emu2)")
    max_location: int = Field(224, description="largest location; 257 tokens exist, the released models use 0 to 224")
    separate_across_images: bool = Field(
        True,
        description="write a line break or space between two texts also where images stand between them; the released "
        "models read none there",
    )
    frame_times: bool = Field(False, description="write each frame's time before it, as text; not in Emu or Emu2")
    ignored: tuple[str, ...] = Field(
        (PAD, IMAGE_SLOT, FRAME_SLOT, IMAGE_START, IMAGE_END),
        description="tokens that are never targets of cross-entropy, as released. Without `[IMG]` among them the model "
        "learns to begin an image by itself",
    )


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a sample that fits the model. `num_tokens` counts all positions, including slots."""

    segments: tuple[Segment, ...]
    num_tokens: int
    num_images: int
    last: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    """A window in the form in which the model reads it.

    Attributes:
        token_ids: (T,) int32.
        targets: (T,) uint8: NONE, TEXT or VISUAL: whether the token, or the embedding at its position, is predicted.
        slots: (T,) bool: the positions of visual embeddings.
        images: Index of each image among the sample's media, in the order of their slots.
        frames: True for each image that is a video frame.
        slot_counts: Number of slots of each image.
    """

    token_ids: np.ndarray
    targets: np.ndarray
    slots: np.ndarray
    images: tuple[int, ...]
    frames: tuple[bool, ...]
    slot_counts: tuple[int, ...]


class Layout:
    """Cuts samples into windows and writes these as tokens.

    Args:
        tokenizer: Tokenizer with the model's own tokens.
        bridge: Bridge settings, with the number of slots per image.
        config: Settings of the layout.

    Attributes:
        template: Further settings that determine the sequences, if samples are not used as they are; see tuning.
    """

    template: str | None = None

    def __init__(self, tokenizer: Tokenizer, bridge: BridgeConfig, config: LayoutConfig | None = None) -> None:
        self.tokenizer = tokenizer
        self.config = config or LayoutConfig()
        self.slots = {False: bridge.image_slots, True: bridge.frame_slots}
        self.emu2 = tokenizer.family == "emu2"
        self.ids = tokenizer.ids
        ignored = [i for name, i in self.ids.items() if name in self.config.ignored]
        self.ignored = np.array(ignored, np.int32)
        self.separators = {text: tokenizer.separator(text) for text in (" ", "\n")}

    def split(self, segments: Many[Segment], seq_len: int) -> list[Window]:
        """Cut a sample into windows of at most `seq_len` tokens.

        No image is cut; a text is cut after a paragraph, else after a sentence, else after a token. A
        better place is only chosen if it leaves the window at least half full. Nothing is lost or repeated.

        Raises:
            ValueError: If an image alone does not fit.
        """
        windows: list[Window] = []
        queue = [*self._separated(s for s in segments if not isinstance(s, Text) or len(s.ids))][::-1]
        parts: list[Segment] = []
        used = 2  # <s>, and room for </s>

        def close() -> None:
            nonlocal parts, used
            images = sum(isinstance(part, ImageSegment) for part in parts)
            windows.append(Window(tuple(parts), used - bool(queue), images, last=not queue))
            parts, used = [], 2

        while queue:
            segment = queue.pop()
            room = seq_len - used
            costs = self._costs(segment, parts)
            if costs[-1] <= room:
                parts.append(segment)
                used += int(costs[-1])
                continue
            queue.append(segment)
            if isinstance(segment, Text) and (count := self._cut(segment, costs, room, seq_len, empty=not parts)):
                queue[-1] = segment.part(count, len(segment.ids))
                parts.append(segment.part(0, count))
                used += int(self._costs(parts[-1], parts[:-1])[-1])
            elif not parts:
                what = "a phrase with its boxes" if isinstance(segment, Text) else "an image"
                raise ValueError(f"{what} takes {costs[-1]} tokens, but a window of {seq_len} has room for {room}")
            close()
        if parts:
            close()
        return windows

    def lay_out(
        self, window: Window, rng: random.Random | None = None, *, media_first: float | None = None
    ) -> Sequence:
        """Write a window as tokens.

        Args:
            window: From `split`.
            rng: Random numbers that choose what comes first; None keeps the order of the source.
            media_first: Probability that images and frames come before their text; None: the configured ones.
        """
        writer = _Writer(self.tokenizer.bos_id)
        self._write(self._ordered(window.segments, rng, media_first) if rng else window.segments, writer, rng)
        if window.last:
            writer.put([self.tokenizer.eos_id], TEXT)
        sequence = writer.sequence(self.ignored)
        assert len(sequence.token_ids) == window.num_tokens
        return sequence

    def prompt(self, segments: Many[Segment], *, draw: bool = False) -> Sequence:
        """Write the input from which a model continues: a sample without its end.

        Args:
            segments: In the order in which the model reads them.
            draw: Whether to end with `[IMG]`, which requests an image.
        """
        writer = _Writer(self.tokenizer.bos_id)
        self._write(self._separated(segments), writer, None)
        if draw:
            writer.put([self.ids[IMAGE_START]], NONE)
        return writer.sequence(self.ignored)

    def location_ids(self, box: Box) -> list[int]:
        """Return four location tokens: left, top, right, bottom, each rounded to 0..`max_location`."""
        top = self.config.max_location
        return [self.ids[LOCATIONS[min(top, max(0, round(value * top)))]] for value in box]

    def box(self, location_ids: Many[int]) -> Box:
        """Return the box of four location tokens."""
        first = self.ids[LOCATIONS[0]]
        x0, y0, x1, y1 = ((i - first) / self.config.max_location for i in location_ids)
        return (x0, y0, x1, y1)

    def _costs(self, segment: Segment, before: Many[Segment]) -> np.ndarray:
        """Return the tokens that a segment takes up to and including each of its own; an image has one entry."""
        if isinstance(segment, ImageSegment):
            cost = 2 + self.slots[segment.frame] + len(self._time(segment))
            cost += self.emu2 and segment.frame and not any(isinstance(s, ImageSegment) and s.frame for s in before)
            return np.array([cost])
        costs = np.ones(len(segment.ids), np.int64)
        costs[0] += len(self._separator(segment, before))
        if self.emu2 and segment.phrases:
            costs[0] += 1  # <grounding>
            for phrase in segment.phrases:
                costs[phrase.end - 1] += 4 + 5 * len(phrase.boxes) - 1
        return costs.cumsum()

    def _cut(self, segment: Text, costs: np.ndarray, room: int, seq_len: int, *, empty: bool) -> int:
        """Return how many of a text's tokens go into a window that cannot hold all of them."""
        fits = int(np.searchsorted(costs, room, side="right"))
        strengths = self.tokenizer.break_strengths(segment.ids)
        for phrase in segment.phrases:
            strengths[phrase.start : phrase.end - 1] = NO_BREAK
        strengths = strengths[:fits]
        left_over = room - costs[:fits]  # if cut after each token
        for wanted in (PARAGRAPH, SENTENCE, TOKEN):
            good = np.flatnonzero((strengths >= wanted) & ((left_over <= seq_len // 2) | (wanted == TOKEN)))
            if len(good):
                return int(good[-1]) + 1
            if wanted == PARAGRAPH and not empty and room <= seq_len // 2:
                return 0  # a cut between two segments is as good as one between two paragraphs
        return 0

    def _ordered(self, segments: Many[Segment], rng: random.Random, media_first: float | None) -> Iterator[Segment]:
        """Yield segments; images before a text may move behind it: a whole caption, or a body's first sentence."""
        run: list[Segment] = []
        for segment in segments:
            if isinstance(segment, ImageSegment):
                run.append(segment)
                continue
            if run and isinstance(run[0], ImageSegment):
                first = media_first
                if first is None:
                    first = self.config.frame_first if run[0].frame else self.config.image_first
                if rng.random() >= first:
                    unit = self._unit(segment)
                    yield segment.part(0, unit)
                    yield from run
                    run = []
                    if unit < len(segment.ids):
                        yield replace(segment.part(unit, len(segment.ids)), continued=True)
                    continue
            yield from run
            run = []
            yield segment
        yield from run

    def _separated(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        """Yield segments; no separator precedes a text after an image, if images take its place."""
        after_image = False
        for segment in segments:
            if isinstance(segment, Text) and after_image and not self.config.separate_across_images:
                segment = replace(segment, continued=True)
            after_image = isinstance(segment, ImageSegment)
            yield segment

    def _unit(self, segment: Text) -> int:
        """Return the number of a text's tokens to which an image before it belongs."""
        if segment.role != "body" or segment.phrases:
            return len(segment.ids)
        return int(np.flatnonzero(self.tokenizer.break_strengths(segment.ids) >= SENTENCE)[0]) + 1

    def _separator(self, segment: Text, before: Many[Segment]) -> list[int]:
        """Return the separator between a text and the one before it, with or without images between them."""
        if segment.continued or not any(isinstance(part, Text) for part in before):
            return []
        return self.separators[" " if segment.role in _SPOKEN else "\n"]

    def _time(self, image: ImageSegment) -> list[int]:
        if not self.config.frame_times or image.time is None:
            return []
        return self.tokenizer.encode(f"{int(image.time) // 60}:{int(image.time) % 60:02d}")

    def _write(self, segments: Many[Segment] | Iterator[Segment], writer: "_Writer", rng: random.Random | None) -> None:
        before: list[Segment] = []
        for segment in segments:
            if isinstance(segment, ImageSegment):
                self._write_image(segment, before, writer)
            else:
                self._write_text(segment, before, writer, rng)
            before.append(segment)

    def _write_image(self, image: ImageSegment, before: Many[Segment], writer: "_Writer") -> None:
        frame = image.frame
        if self.emu2 and frame and not any(isinstance(part, ImageSegment) and part.frame for part in before):
            writer.put([self.ids[VIDEO]], TEXT if image.learn else NONE)
        writer.put(self._time(image), TEXT if image.learn else NONE)
        slot = self.ids[FRAME_SLOT if self.emu2 and frame else IMAGE_SLOT]
        writer.put([self.ids[IMAGE_START]], TEXT if image.learn else NONE)
        writer.put_image(image, [slot] * self.slots[frame])
        # In Emu the hidden state of the last slot is regressed to the embedding of [/IMG] in the same way.
        ends_visual = not self.emu2 and image.learn
        writer.put([self.ids[IMAGE_END]], VISUAL if ends_visual else NONE)

    def _write_text(self, segment: Text, before: Many[Segment], writer: "_Writer", rng: random.Random | None) -> None:
        target = TEXT if segment.learn else NONE
        writer.put(self._separator(segment, before), target)
        if not (self.emu2 and segment.phrases):
            writer.put(segment.ids, target)
            return
        writer.put([self.ids[GROUNDING]], target)
        done = 0
        for phrase in segment.phrases:
            writer.put(segment.ids[done : phrase.start], target)
            named = [self.ids[PHRASE_START], *segment.ids[phrase.start : phrase.end], self.ids[PHRASE_END]]
            located: list[int] = []
            for box in phrase.boxes:
                located += [self.ids[NEXT_BOX] if located else self.ids[OBJECT_START], *self.location_ids(box)]
            located.append(self.ids[OBJECT_END])
            phrase_first = rng is None or rng.random() < self.config.phrase_first
            writer.put(named + located if phrase_first else located + named, target)
            done = phrase.end
        writer.put(segment.ids[done:], target)


@dataclass(slots=True)
class _Writer:
    """A sequence while it is written."""

    bos_id: int
    token_ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    images: list[tuple[ImageSegment, int, int]] = field(default_factory=list)  # with start and end of its slots

    def __post_init__(self) -> None:
        self.put([self.bos_id], NONE)

    def put(self, ids: Many[int] | np.ndarray, target: int) -> None:
        self.token_ids += [int(i) for i in ids]
        self.targets += [target] * len(ids)

    def put_image(self, image: ImageSegment, ids: Many[int]) -> None:
        start = len(self.token_ids)
        self.put(ids, VISUAL if image.learn else NONE)
        self.images.append((image, start, start + len(ids)))

    def sequence(self, ignored: np.ndarray) -> Sequence:
        token_ids, targets = np.array(self.token_ids, np.int32), np.array(self.targets, np.uint8)
        targets[(targets == TEXT) & np.isin(token_ids, ignored)] = NONE
        slots = np.zeros(len(token_ids), bool)
        for _, start, end in self.images:
            slots[start:end] = True
        return Sequence(
            token_ids,
            targets,
            slots,
            images=tuple(p.media for p, _, _ in self.images),
            frames=tuple(p.frame for p, _, _ in self.images),
            slot_counts=tuple(end - start for _, start, end in self.images),
        )
