"""Templates of tuning, for samples and prompts: conversations (Emu-I, Emu2-Chat) or image generation (Emu2-Gen).

    <s>system [USER]: [IMG]...[/IMG]question [ASSISTANT]: answer</s>[USER]: question [ASSISTANT]: answer</s>
    <s><grounding>a <phrase>red boat</phrase><object>[IMG]...[/IMG]</object>[IMG]...[/IMG]</s>

Only the answers are learned in the first, text and images, only the last image in the second. All strings are those of
the releases. A sample is a conversation of turns, or captioned images, before which an instruction is put.
"""

import random
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import cv2
import numpy as np

from model.config import BridgeConfig
from model.segment import Box, ImageSegment, Phrase, Segment, Text
from model.sequence import NONE, TEXT, Layout, LayoutConfig, Window
from model.sequence import Sequence as TokenSequence
from model.template import Form, TemplateSettings
from model.tokenizer import (
    CHAT,
    GROUNDING,
    NEXT_BOX,
    OBJECT_END,
    OBJECT_START,
    PHRASE_END,
    PHRASE_START,
    Tokenizer,
)

ANSWER = "assistant"
"""Role of the model's own turns, in samples and in prompts."""

_SIDES = ("user", ANSWER)

SYSTEM: dict[Form, str] = {
    "chat": "You are a helpful assistant, dedicated to delivering comprehensive and meticulous responses.",
    "emu": "You will be presented with an image: [IMG]ImageContent[/IMG]. You will be able to see the image after I "
    "provide it to you. Please answer my questions based on the given image.",
}
GROUNDED_SYSTEM = "You are a helpful assistant, dedicated to provide concise and efficient answers."
VIDEO_SYSTEM = (
    "You are a helpful assistant and you will be presented with a video consisting of multiple chronological images: "
    "[IMG]ImageContent[/IMG]. You will be able to see the video after I provide it to you. Please answer my questions "
    "based on the given video."
)
USER, ASSISTANT = CHAT

_OUTLINE = 3 / 448  # line width of a drawn box, as a fraction of the canvas (Emu2's demo)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, and its answer, which may be empty or incomplete."""

    question: tuple["str | Segment", ...]
    answer: tuple[Segment, ...] = ()


class TemplateLayout(Layout):
    """Layout that cuts samples by a template and writes them as tokens.

    Args:
        tokenizer: Tokenizer with the model's own tokens, and for conversations those of the two sides.
        bridge: Settings of the bridge, for the number of slots per image.
        config: Settings of every layout.
        settings: Settings of the template.
    """

    def __init__(
        self, tokenizer: Tokenizer, bridge: BridgeConfig, config: LayoutConfig, settings: TemplateSettings
    ) -> None:
        super().__init__(tokenizer, bridge, config)
        self.settings, self._bridge = settings, bridge
        self.template = settings.model_dump_json()
        if self.emu2:  # the question asks for boxes, so the answer need not learn <grounding>
            self.ignored = np.append(self.ignored, np.int32(self.ids[GROUNDING]))

    def with_system(self, system: str) -> "TemplateLayout":
        """Return the layout with another message before each conversation."""
        settings = self.settings.model_copy(update={"system": system})
        return TemplateLayout(self.tokenizer, self._bridge, self.config, settings)

    def split(self, segments: Sequence[Segment], seq_len: int) -> list[Window]:
        """Return one window with a sample's conversation, or one per image to be drawn; none without captioned images.

        There is none either for a conversation whose answers have images where these are not learned. A conversation
        that is too long loses its last turns, then the end of its first answer.

        Raises:
            ValueError: If the first question alone does not fit, an answer with an image, or an image request.
        """
        if any(segment.role in _SIDES for segment in segments):
            return self._split_conversation(segments, seq_len)
        captioned = list(captioned_images(segments))
        if self.settings.chats:
            turns = [self._turn(images, caption) for images, caption in captioned]
            return [self._talk(turns, seq_len)] if turns else []
        boxes = boxes_of(segments)
        return [
            self._window([*self._wish([caption], boxes), images[0]], seq_len)
            for images, caption in captioned
            if len(images) == 1 and not images[0].frame
        ]

    def lay_out(
        self, window: Window, rng: random.Random | None = None, *, media_first: float | None = None
    ) -> TokenSequence:
        """Write a window as tokens."""
        sequence = super().lay_out(window, rng)
        if not self.settings.chats:
            sequence.targets[sequence.targets == TEXT] = NONE
        return sequence

    def prompt(self, segments: Sequence[Segment], *, draw: bool = False) -> TokenSequence:
        """Return the prompt that the tuned model continues: a conversation up to its answer, or an image request.

        Args:
            segments: Those with the role `ANSWER` are the model's, all others the user's, who begins, but for a text
                of the role `system` at the beginning. Images without text are followed by the first instruction. A box
                in an image request becomes image -1 - i: a canvas with the i-th of `boxes_of`.
            draw: Whether to end with `[IMG]`, which asks for an image.
        """
        if self.settings.chats:
            system, spoken = self._system_turn(segments)
            return super().prompt(self._conversation(self._turns(spoken, instruct=True), system), draw=draw)
        return super().prompt(self._wish(segments, boxes_of(segments)), draw=draw)

    def _ordered(self, segments: Sequence[Segment], rng: random.Random, media_first: float | None) -> Iterator[Segment]:
        yield from segments

    def _turn(self, images: Sequence[ImageSegment], caption: Text) -> Turn:
        choices = self.settings.instructions
        choice = choices[zlib.crc32(caption.ids.astype(np.int32).tobytes()) % len(choices)]
        seen = [replace(image, learn=False) for image in images]
        return Turn((*seen, choice), (answer_text(caption, self.tokenizer),))

    def _split_conversation(self, segments: Sequence[Segment], seq_len: int) -> list[Window]:
        system, spoken = self._system_turn(segments)
        if self.settings.chats:
            if not self.settings.draws and any(isinstance(p, ImageSegment) and p.role == ANSWER for p in spoken):
                return []
            return [self._talk(self._turns(spoken), seq_len, system)]
        windows = []
        for number, image in enumerate(spoken):
            if isinstance(image, ImageSegment) and image.role == ANSWER:
                before = [part for part in spoken[:number] if isinstance(part, ImageSegment) or part.role != ANSWER]
                seen = [replace(part, learn=False) for part in before]
                windows.append(self._window([*self._wish(seen, boxes_of(segments)), image], seq_len))
        return windows

    def _system_turn(self, segments: Sequence[Segment]) -> tuple[str | None, list[Segment]]:
        """Return the text of a conversation's system turn, if it has one, and the other turns."""
        texts = [part for part in segments if isinstance(part, Text) and part.role == "system"]
        spoken = [part for part in segments if part.role != "system"]
        return "\n".join(self.tokenizer.decode(text.ids) for text in texts) if texts else None, spoken

    def _turns(self, segments: Sequence[Segment], *, instruct: bool = False) -> list[Turn]:
        """Return the turns of a conversation; `instruct` asks about images that are shown without a word."""
        turns: list[Turn] = []
        for answers, group in groupby(segments, key=lambda part: part.role == ANSWER):
            if answers:
                turns[-1] = replace(turns[-1], answer=tuple(self._answer(group)))
            else:
                turns.append(Turn(self._question(list(group), instruct=instruct)))
        return turns

    def _question(self, segments: Sequence[Segment], *, instruct: bool) -> tuple[str | Segment, ...]:
        parts: list[str | Segment] = []
        for part in segments:
            if isinstance(part, ImageSegment):
                parts.append(replace(part, learn=False))
            elif part.phrases:
                parts.append(replace(part, learn=False, continued=True))
            else:  # as a string, since it is encoded together with the text around it
                words = self.tokenizer.decode(part.ids)
                parts.append(f"\n{words}" if parts and isinstance(parts[-1], str) else words)
        if instruct and all(isinstance(part, ImageSegment) for part in segments):
            parts.append(self.settings.instructions[0])
        return tuple(parts)

    def _answer(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        for number, part in enumerate(segments):
            is_opening = isinstance(part, Text) and not number and not part.continued
            yield answer_text(part, self.tokenizer) if isinstance(part, Text) and is_opening else part

    def _talk(self, turns: Sequence[Turn], seq_len: int, system: str | None = None) -> Window:
        kept = len(turns)
        while kept > 1 and self._size(self._conversation(turns[:kept], system)) > seq_len:
            kept -= 1
        whole = self._conversation(turns[:kept], system)
        if kept > 1 or self._size(whole) <= seq_len:
            return self._window(whole, seq_len)
        *question, answer = whole
        if not isinstance(answer, Text):
            raise ValueError(f"a question with its answer takes {self._size(whole)} tokens, a window has {seq_len}")
        room = seq_len - self._size(question) + 1  # no </s> follows
        fits = int(np.searchsorted(self._costs(answer, question), room, side="right"))
        if fits <= 0:
            raise ValueError(f"a question takes {self._size(question)} tokens, a window has {seq_len}")
        return self._window([*question, answer.part(0, fits)], seq_len, last=False)

    def _conversation(self, turns: Sequence[Turn], system: str | None = None) -> list[Segment]:
        """Return a conversation as input of the model, which learns only the answers.

        Args:
            turns: The turns.
            system: Text of its own system turn, in which nothing is a token of the model; None: the template's.
        """
        ids = self.ids
        said = [part for turn in turns for part in turn.answer if isinstance(part, Text)]
        grounded = self.emu2 and any(text.phrases or ids[GROUNDING] in text.ids for text in said)
        images = [part for turn in turns for part in turn.question if isinstance(part, ImageSegment)]
        released = _system(self.settings, images, grounded=grounded) if system is None else ""
        parts: list[str | int | Segment] = [*_named(self.tokenizer, released), *([system] if system else [])]
        for number, turn in enumerate(turns):
            if number:
                parts.append(Text(np.array([self.tokenizer.eos_id], np.int32), continued=True))
            parts += [" "] if parts and not number else []
            parts += [ids[USER], ": ", *turn.question, " ", ids[ASSISTANT], ":", *turn.answer]
        return fixed(self.tokenizer, parts)

    def _wish(self, segments: Sequence[Segment], boxes: Sequence[Box]) -> list[Segment]:
        """Return an image request: words, images, and boxes as images."""
        ids = self.ids
        grounded = self.emu2 and any(isinstance(segment, Text) and segment.phrases for segment in segments)
        parts: list[str | int | Segment] = [ids[GROUNDING]] if grounded else []
        for number, segment in enumerate(segments):
            if isinstance(segment, ImageSegment):
                parts.append(segment)
                continue
            parts += self.separators["\n"] if number and isinstance(segments[number - 1], Text) else []
            done = 0
            for phrase in segment.phrases if grounded else ():
                parts += [*segment.ids[done : phrase.start].tolist(), ids[PHRASE_START]]
                parts += [*segment.ids[phrase.start : phrase.end].tolist(), ids[PHRASE_END], ids[OBJECT_START]]
                for number, box in enumerate(phrase.boxes):
                    parts += [ids[NEXT_BOX]] if number else []
                    parts.append(ImageSegment(-1 - boxes.index(box), learn=False))
                parts.append(ids[OBJECT_END])
                done = phrase.end
            parts += segment.ids[done:].tolist()
        return fixed(self.tokenizer, parts)

    def _size(self, segments: Sequence[Segment]) -> int:
        """Return the number of tokens of a whole window."""
        return 2 + sum(int(self._costs(segment, segments[:i])[-1]) for i, segment in enumerate(segments))

    def _window(self, segments: Sequence[Segment], seq_len: int, *, last: bool = True) -> Window:
        size = self._size(segments) - (not last)
        if size > seq_len:
            raise ValueError(f"a sample with its images takes {size} tokens, a window has {seq_len}")
        return Window(tuple(segments), size, sum(isinstance(part, ImageSegment) for part in segments), last=last)


def captioned_images(segments: Iterable[Segment]) -> Iterator[tuple[list[ImageSegment], Text]]:
    """Yield images, or the frames of a video, with the caption that follows them."""
    run: list[ImageSegment] = []
    for segment in segments:
        if isinstance(segment, ImageSegment):
            run.append(segment)
            continue
        if run and segment.role == "caption" and len(segment.ids):
            yield run, segment
        run = []


def answer_text(caption: Text, tokenizer: Tokenizer) -> Text:
    """Return a caption as an answer: a space follows the colon, which some tokenizers include in the first token."""
    caption = replace(caption, continued=True)
    if tokenizer.writes_space or tokenizer.base.piece(int(caption.ids[0])).startswith(" "):
        return caption
    space = tokenizer.encode(" ")
    phrases = tuple(Phrase(p.start + len(space), p.end + len(space), p.boxes) for p in caption.phrases)
    return replace(caption, ids=np.append(np.array(space, np.int32), caption.ids), phrases=phrases)


def fixed(tokenizer: Tokenizer, parts: Iterable["str | int | Segment"]) -> list[Segment]:
    """Convert strings and ids to texts that are not learned, and keep the segments between them.

    With a tokenizer that writes a space before each text itself, no white space stands beside ids and images: the
    released models' tokenizer strips it.
    """
    out: list[Segment] = []
    for kind, group in groupby(parts, key=lambda part: type(part) if isinstance(part, str | int) else Segment):
        found: list[Any] = list(group)
        if kind is Segment:
            out += found
            continue
        if kind is str:
            words = "".join(found)
            found = tokenizer.encode(words.strip() if tokenizer.writes_space else words, continued=True, followed=True)
        if found:
            out.append(Text(np.array(found, np.int32), learn=False, continued=True))
    return out


def boxes_of(segments: Iterable[Segment]) -> list[Box]:
    """Return all boxes of a sample: image -1 - i of an image request is a canvas with box i."""
    return [box for part in segments if isinstance(part, Text) for phrase in part.phrases for box in phrase.boxes]


def box_image(box: Box, size: int) -> np.ndarray:
    """Draw an object's place: the white outline of its box on a black canvas, (size, size, 3) uint8."""
    canvas = np.zeros((size, size, 3), np.uint8)
    x0, y0, x1, y1 = (min(size - 1, max(0, round(value * size))) for value in box)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), (255, 255, 255), max(1, round(_OUTLINE * size)))
    return canvas


def _system(settings: TemplateSettings, images: Sequence[ImageSegment], *, grounded: bool) -> str:
    if settings.system is not None:
        return settings.system
    if settings.form == "emu":  # as its authors do: none for several images
        return VIDEO_SYSTEM if any(image.frame for image in images) else SYSTEM["emu"] if len(images) == 1 else ""
    return GROUNDED_SYSTEM if grounded else SYSTEM["chat"]


def _named(tokenizer: Tokenizer, text: str) -> Iterator[str | int]:
    """Split a text at the names of the model's own tokens, and yield these as ids."""
    for part in re.split("(" + "|".join(map(re.escape, tokenizer.ids)) + ")", text):
        if part:
            yield tokenizer.ids.get(part, part)
