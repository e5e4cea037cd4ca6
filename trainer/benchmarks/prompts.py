"""Shots and a question as the model reads them, with as many shots as it has room for."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from model.box_text import Region, write_boxes
from model.config import Resampling
from model.errors import PromptError
from model.finished_run import FinishedRun
from model.generation import GenerationConfig, Prompt
from model.prompt_builder import PromptBuilder
from model.respond import check_room
from model.segment import Box
from model.sequence import Layout
from model.template_layout import ANSWER, TemplateLayout
from pipelines.errors import UserError
from trainer.benchmarks.formats.example import Example
from trainer.benchmarks.formats.questions import most_frequent
from trainer.benchmarks.settings import BenchmarkSettings
from trainer.evaluation.prompts import read_video, segment_middles
from trainer.reading.images import decode
from trainer.reading.shard_reader import DamagedSample

_PLACEHOLDER = re.compile(r"(\{\w+\})")
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_MARK = (255, 0, 0)  # red, the colour in which visual prompts work best (arXiv:2304.06712)
_MARK_WIDTH = 0.02  # of the image's side


@dataclass(frozen=True, slots=True)
class Shown:
    """An image or a video in a prompt, with a box that is drawn on it if one is given."""

    path: Path
    is_video: bool = False
    mark: Box | None = None

    def stamp(self) -> str:
        """Return what changes with the file.

        Raises:
            UserError: If there is none.
        """
        try:
            found = self.path.stat()
        except OSError as error:
            raise UserError(f"{self.path}: {(error.strerror or str(error)).lower()}; the benchmark names it") from error
        return f"{self.path.name} {found.st_size} {found.st_mtime_ns} {self.mark}"


Part = str | Region | Shown
Turn = tuple[list[Part], str]
"""What one side says, and its role: `body` or `answer`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the model reads it.

    Attributes:
        prompt: None if even the question alone is too long for the model.
        num_shots: Shots that there was room for.
        words: The prompt with the names of its files, to look at.
    """

    prompt: Prompt | None
    num_shots: int
    words: str


@dataclass(frozen=True, slots=True)
class PromptWriter:
    """Writes the prompts of a benchmark for a model.

    Attributes:
        run: The model.
        settings: The benchmark.
        config: Settings with which the model generates.
        show_shots: Whether shots have their images; off for text-only ones.
    """

    run: FinishedRun
    settings: BenchmarkSettings
    config: GenerationConfig
    show_shots: bool = True

    def write(self, example: Example, shots: Sequence[Example]) -> Asked:
        """Write a question after its shots, of which the first are left out if there is no room for all.

        Raises:
            UserError: If a file is missing or cannot be read, or the set lacks what the prompt names.
        """
        turns: list[Turn] = []
        for first in range(len(shots) + 1):
            turns = self._turns(example, shots[first:])
            if (prompt := self._build(turns)) is not None:
                return Asked(prompt, len(shots) - first, _words(turns))
        return Asked(None, 0, _words(turns))

    def digest(self, example: Example, shots: Sequence[Example]) -> str:
        """Return what changes with anything that the model is to read. Errors as in `write`; no image is read."""
        return _digest(self._turns(example, shots))

    def _turns(self, example: Example, shots: Sequence[Example]) -> list[Turn]:
        """Return what is said in turn; a model that holds no conversations reads it all as one text."""
        prompt, turns = self.settings.prompt, list[Turn]()
        for number, shot in enumerate(shots):
            ask = (prompt.begin if not number else "") + prompt.ask
            turns.append((list(self._filled(ask, shot, shows=self.show_shots)), "body"))
            turns.append((list(self._answer(shot)), ANSWER))
        ask = prompt.ask if shots or prompt.ask_without_shots is None else prompt.ask_without_shots
        turns.append((list(self._filled(("" if shots else prompt.begin) + ask, example)), "body"))
        if self._chats:
            return [*turns, ([prompt.begin_answer], ANSWER)] if prompt.begin_answer else turns
        flat: list[Part] = []
        for parts, role in turns:
            flat += [*parts, prompt.separator] if role == ANSWER else parts
        return [(flat, "body")]

    @property
    def _chats(self) -> bool:
        return self.run.template is not None and self.run.template.chats

    def _answer(self, shot: Example) -> Iterator[Part]:
        if self.settings.want == "text":
            yield from self._filled(self.settings.prompt.answer, shot, answer=most_frequent(shot.answers))
        elif self.show_shots:
            yield Shown(shot.references[0])

    def _filled(self, template: str, example: Example, *, shows: bool = True, answer: str = "") -> Iterator[Part]:
        """Yield a template's parts with what its placeholders stand for."""
        texts = {**example.texts, "answer": answer, "group": example.group or ""}
        for part in _PLACEHOLDER.split(template):
            name = part[1:-1] if _PLACEHOLDER.fullmatch(part) else None
            if name is None:
                yield part
            elif name == "image":
                if shows:
                    yield from _shown(example)
            elif name == "objects":
                for number, region in enumerate(example.objects):
                    yield from (", ", region) if number else (region,)
            elif name in texts:
                yield texts[name]
            else:
                known = ", ".join(f"{{{known}}}" for known in ("image", "objects", *texts))
                raise UserError(f"prompt: {part} is not in the example {example.id!r}, which has {known}")

    def _build(self, turns: Sequence[Turn]) -> Prompt | None:
        """Return turns as a prompt; None if there is no room for them and the answer.

        Raises:
            UserError: If a file is missing or cannot be read.
        """
        builder = PromptBuilder(self.run, self._layout())
        for parts, role in turns:
            for is_image, group in groupby(parts, key=lambda part: isinstance(part, Shown)):
                if is_image:
                    for part in group:
                        self._add(builder, part)  # type: ignore[arg-type]  # what groupby's key says
                else:
                    builder.add_text(group, role=role)  # type: ignore[arg-type]
        if "box_accuracy" in self.settings.metrics:
            builder.ask_for_boxes()
        try:
            prompt = builder.build(draw=self.settings.want == "image")
            check_room(self.run, prompt, "", self.settings.want, self.config)
        except PromptError:
            return None
        return prompt

    def _layout(self) -> Layout:
        """Return the model's layout, with the benchmark's own system turn if it has one."""
        layout, system = self.run.layout, self.settings.prompt.system
        if system is None or not isinstance(layout, TemplateLayout):
            return layout
        return layout.with_system(system)

    def _add(self, builder: PromptBuilder, shown: Shown) -> None:
        size, how = self.run.image_size, self.run.resampling
        if not shown.is_video:
            builder.add_image(read_image(shown.path, size, how, shown.mark))
            return
        for time, frame in _frames(shown.path, self.settings.num_frames, size, how):
            builder.add_image(frame, frame=True, time=time)


@lru_cache(maxsize=256)  # shots come again and again
def read_image(path: Path, size: int, resampling: Resampling, mark: Box | None = None) -> Tensor:
    """Return an image at the model's size, (3, size, size) uint8, with a box drawn on it if one is given.

    Raises:
        UserError: If the file is missing or cannot be decoded.
    """
    try:
        pixels = decode(path.read_bytes(), size, resampling)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; the benchmark names it") from error
    except DamagedSample as error:
        raise UserError(f"{path}: {error}") from error
    if mark is not None:
        x0, y0, x1, y1 = (min(size - 1, round(value * size)) for value in mark)
        pixels = cv2.rectangle(pixels.copy(), (x0, y0), (x1, y1), _MARK, max(1, round(_MARK_WIDTH * size)))
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


@lru_cache(maxsize=32)
def _frames(path: Path, num: int, size: int, resampling: Resampling) -> list[tuple[float | None, Tensor]]:
    """Return frames of a video, or of a folder of frames, from the middles of equal segments."""
    if not path.is_dir():
        return list(read_video(path, num, size, resampling))
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _IMAGES)
    if not files:
        raise UserError(f"{path}: a folder without frames")
    return [(None, read_image(files[i], size, resampling)) for i in segment_middles(len(files), num)]


def _shown(example: Example) -> Iterator[Shown]:
    for number, path in enumerate(example.images):
        yield Shown(path, mark=None if number else example.mark)
    if example.video is not None:
        yield Shown(example.video, is_video=True)


def _words(turns: Iterable[Turn]) -> str:
    """Return turns as they are written on a command line."""

    def word(part: Part) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, Region):
            return write_boxes(part)
        return f"[{'video' if part.is_video else 'image'}:{part.path.name}]"

    return "\n".join("".join(map(word, parts)) for parts, _ in turns)


def _digest(turns: Iterable[Turn]) -> str:
    found = hashlib.sha256()
    for parts, role in turns:
        for part in parts:
            found.update(f"{role}\0{part.stamp() if isinstance(part, Shown) else part!r}\0".encode())
    return found.hexdigest()
