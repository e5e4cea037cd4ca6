"""A trained model to use from Python: captions, conversations, drawings, edits, or any of it in turn.

    import model

    emu = model.load("build/runs/demo")
    print(emu.caption("photo.png"))
    emu.draw("A photo of ", model.Region("a red circle", (0.1, 0.1, 0.5, 0.5))).save("circle.png")

A prompt is a list of parts, in the order in which the model reads them: texts, images, boxes, frames of a video.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from model.box_text import Region, written
from model.errors import PromptError
from model.films import check_draws_videos, check_room_for_video, generate_frames
from model.finished_run import FinishedRun
from model.generation import Generated, GenerationConfig, Prompt
from model.images import decode
from model.parts import Frames, ImageLike, Message, Part, turns_of
from model.prompt_builder import PromptBuilder
from model.resizing import pixels_of
from model.respond import Wanted, check_able, check_room, respond, respond_steps
from model.template_layout import ANSWER, TemplateLayout
from model.text_pieces import TextPieces


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in a conversation, or what is new of it.

    Attributes:
        text: Its text.
        num_tokens: Tokens of the answer so far, without its end.
        ended: True if the model ended it, rather than the limit on tokens.
    """

    text: str
    num_tokens: int
    ended: bool


class LoadedModel:
    """A trained model, ready to answer.

    Options that all methods take by name are those of `GenerationConfig`: `max_new_tokens`, `temperature`, `top_p`,
    `num_beams` and so on; what is not given is as the model carries it.

    Args:
        run: The model.
    """

    def __init__(self, run: FinishedRun) -> None:
        self.run = run

    @property
    def chats(self) -> bool:
        """True for a model that was tuned to hold conversations."""
        return self.run.template is not None and self.run.template.chats

    @property
    def draws(self) -> bool:
        """True for a model that generates images."""
        return self.run.draws

    @property
    def guidance(self) -> float:
        """Strength of classifier-free guidance with which it draws if none is given; 1 for one that does not draw."""
        return self.run.decoder.config.guidance if self.run.decoder is not None else 1.0

    def caption(self, image: ImageLike | str, *, seed: int = 0, **options: Any) -> str:
        """Return a caption of an image; a model for conversations is asked its first instruction.

        Raises:
            PromptError: If the image cannot be read, or the model cannot answer.
        """
        return self._text_of(self._generated([self._prompt([_path(image)])], seed, options)[0])

    def chat(self, messages: Sequence[Message] | Prompt, *, seed: int = 0, **options: Any) -> str:
        """Return the assistant's answer to a conversation.

        Args:
            messages: They take turns, the user first, after at most one message of the system; the user's may hold
                images. A model that was not tuned for conversations continues the only message. Or what
                `conversation` makes of them.
            seed: Seed of sampling.
            **options: Settings of generation.

        Raises:
            PromptError: If they do not, if a part cannot be read, or the conversation is too long for the model.
        """
        return self.answer(messages, seed=seed, **options).text

    def answer(self, messages: Sequence[Message] | Prompt, *, seed: int = 0, **options: Any) -> Answer:
        """Return the assistant's answer, and how it ended. Arguments and errors as in `chat`."""
        [result] = self._generated([self._given(messages)], seed, options)
        return Answer(self._text_of(result), result.num_tokens, result.ended)

    def draw(self, *parts: Part, seed: int = 0, guidance: float | None = None) -> Image.Image:
        """Return the image that a prompt asks for.

        Args:
            *parts: Texts, boxes, images of subjects or of a style, in any order.
            seed: Seed of the image's initial noise.
            guidance: Strength of classifier-free guidance; None: the decoder's own.

        Raises:
            PromptError: If a part cannot be read, the prompt is too long, or the model does not draw.
        """
        [[image]] = self.generate_all([parts], want="image", seed=seed, guidance=guidance)
        assert isinstance(image, Image.Image)
        return image

    def draw_video(
        self, *parts: Part, frames: int | None = None, seed: int = 0, guidance: float | None = None
    ) -> Frames:
        """Return the film that a prompt asks for; `Frames.save` writes it.

        Args:
            *parts: As in `draw`; frames at the end (`Frames`) are continued.
            frames: Number of frames; None: as many as the video decoder was trained on.
            seed: Seed of the film's initial noise.
            guidance: Strength of classifier-free guidance; None: the decoder's own.

        Raises:
            PromptError: If a part cannot be read, the prompt is too long, or the model has no video decoder.
        """
        check_draws_videos(self.run)
        assert self.run.video_decoder is not None
        film = self.run.video_decoder.film
        num_frames = film.frames if frames is None else frames
        if num_frames < 1:
            raise PromptError(f"frames: {num_frames}; a video has at least one")
        prompt = self._prompt(parts, draw=True)
        check_room_for_video(self.run, prompt, self._words(prompt), num_frames)
        embeddings = generate_frames(self.run, [prompt], num_frames)
        [drawn] = self.run.draw_videos(embeddings, guidance=guidance, seed=seed)
        times = [number / film.frames_per_second for number in range(num_frames)]
        return Frames([to_pillow(image) for image in drawn], times)

    def edit(
        self, image: ImageLike | str, instruction: str, *, seed: int = 0, guidance: float | None = None
    ) -> Image.Image:
        """Return an image changed as an instruction says. Errors as in `draw`."""
        return self.draw(_path(image), instruction, seed=seed, guidance=guidance)

    def generate(
        self, *parts: Part, want: Wanted = "text", seed: int = 0, guidance: float | None = None, **options: Any
    ) -> list[str | Image.Image]:
        """Return the continuation of a prompt: texts and images in order. See `generate_all`."""
        return self.generate_all([parts], want=want, seed=seed, guidance=guidance, **options)[0]

    def generate_all(
        self,
        prompts: Sequence[Sequence[Part]],
        *,
        want: Wanted = "text",
        seed: int = 0,
        guidance: float | None = None,
        **options: Any,
    ) -> list[list[str | Image.Image]]:
        """Return the continuations of several prompts, which are computed in batches.

        Args:
            prompts: The parts of each.
            want: `text`, `image`, or `both`: text, with images where the model begins one, or one after the text.
            seed: Seed of sampling and of the images' initial noise.
            guidance: Strength of classifier-free guidance; None: the decoder's own.
            **options: Settings of generation.

        Raises:
            PromptError: If a part cannot be read, a prompt with its answer is too long, or the model cannot answer.
        """
        check_able(self.run, want)
        config = self._config(options, want)
        asked = [self._prompt(parts, draw=want == "image") for parts in prompts]
        results = self._respond(asked, want, config, seed)
        embeddings = [image for result in results for image in result.images]
        drawn = iter(self.run.draw(torch.stack(embeddings), guidance=guidance, seed=seed) if embeddings else ())
        return [[part for part in self._shown(result, drawn) if part != ""] for result in results]

    def stream(
        self, *parts: Part, want: Wanted = "text", seed: int = 0, guidance: float | None = None, **options: Any
    ) -> Iterator[str | Image.Image]:
        """Yield the continuation of a prompt as it is generated: pieces of text, and whole images.

        Together the pieces are what `generate` returns. Beam search has no pieces: set `num_beams` to 1.
        Arguments and errors as in `generate_all`.
        """
        steps = self._steps(self._prompt(parts, draw=want == "image"), want, seed, options)
        return self._pieces(steps, seed, guidance)

    def stream_chat(self, messages: Sequence[Message] | Prompt, *, seed: int = 0, **options: Any) -> Iterator[str]:
        """Yield the assistant's answer piece by piece. Arguments and errors as in `chat`."""
        return (answer.text for answer in self.stream_answer(messages, seed=seed, **options) if answer.text)

    def stream_answer(self, messages: Sequence[Message] | Prompt, *, seed: int = 0, **options: Any) -> Iterator[Answer]:
        """Yield each new piece of the assistant's answer with its state; at last that in which it ended, without text.

        Arguments and errors as in `chat`.
        """
        return self._answers(self._steps(self._given(messages), "text", seed, options))

    def conversation(self, messages: Sequence[Message]) -> Prompt:
        """Return a conversation as a prompt. Errors as in `chat`."""
        system, turns = turns_of(messages, draws=self.draws)
        layout = self.run.layout
        if not isinstance(layout, TemplateLayout) or not layout.settings.chats:
            if system is not None or len(turns) != 1:
                raise PromptError(
                    f"{self.run.folder}: was not tuned for conversations: give one user message, or run `tune` first"
                )
        elif system is not None:
            layout = layout.with_system(system)
        builder = PromptBuilder(self.run, layout)
        for number, parts in enumerate(turns):
            self._add(builder, parts, ANSWER if number % 2 else "body")
        return builder.build()

    def _prompt(self, parts: Sequence[Part], *, draw: bool = False) -> Prompt:
        builder = PromptBuilder(self.run)
        self._add(builder, parts, "body")
        return builder.build(draw=draw)

    def _add(self, builder: PromptBuilder, parts: Sequence[Part], role: str) -> None:
        """Add parts to a prompt: texts and boxes that follow each other are one text."""
        for is_text, group in groupby(parts, key=lambda part: isinstance(part, str | Region)):
            if is_text:
                builder.add_text(group, role=role)  # type: ignore[arg-type]  # what groupby's key says
                continue
            for part in group:
                self._add_images(builder, part, role)  # type: ignore[arg-type]

    def _add_images(self, builder: PromptBuilder, part: Frames | ImageLike, role: str) -> None:
        if not isinstance(part, Frames):
            builder.add_image(self._pixels(part), role=role)
            return
        times = part.times if part.times is not None else [None] * len(part.images)
        if len(times) != len(part.images):
            raise PromptError(f"frames: {len(part.images)} images and {len(times)} times")
        for image, time in zip(part.images, times, strict=True):
            builder.add_image(self._pixels(image), role=role, frame=True, time=time)

    def _pixels(self, image: ImageLike | str) -> Tensor:
        """Return an image at the model's size: (3, S, S) uint8.

        Raises:
            PromptError: If it is none, or damaged.
        """
        shown = f"{image}: " if isinstance(image, str | Path) else ""
        size, resampling = self.run.image_size, self.run.resampling
        try:
            if isinstance(image, np.ndarray):
                image = Image.fromarray(image)
            if isinstance(image, Image.Image):
                pixels = pixels_of(image, size, resampling)
            else:
                data = image if isinstance(image, bytes) else Path(image).read_bytes()
                pixels = decode(data, size, resampling)
        except (OSError, TypeError, ValueError, SyntaxError) as error:  # SyntaxError: of Pillow, for a damaged file
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise PromptError(f"{shown}not a readable image: {why}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _config(self, options: Mapping[str, Any], want: Wanted) -> GenerationConfig:
        """Return the model's own settings of generation with what is given.

        Without beams unless they are asked for, where they cannot be: for images and with a temperature.
        """
        given = dict(options)
        if want != "text" or given.get("temperature") is not None:
            given.setdefault("num_beams", 1)
        given.setdefault("max_images", 0 if want == "text" else 1)
        try:
            return GenerationConfig.model_validate(self.run.generation.model_dump() | given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "options"
            raise PromptError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from error

    def _respond(self, prompts: Sequence[Prompt], want: Wanted, config: GenerationConfig, seed: int) -> list[Generated]:
        for prompt in prompts:
            check_room(self.run, prompt, self._words(prompt), want, config)
        return respond(self.run, prompts, want, config, seed=seed)

    def _generated(self, prompts: Sequence[Prompt], seed: int, options: Mapping[str, Any]) -> list[Generated]:
        check_able(self.run, "text")
        return self._respond(prompts, "text", self._config(options, "text"), seed)

    def _text_of(self, result: Generated) -> str:
        return "".join(written(part, self.run.layout) for part in _texts(result)).strip()

    def _given(self, messages: Sequence[Message] | Prompt) -> Prompt:
        return messages if isinstance(messages, Prompt) else self.conversation(messages)

    def _words(self, prompt: Prompt) -> str:
        return self.run.tokenizer.decode(prompt.sequence.token_ids)

    def _shown(self, result: Generated, drawn: Iterator[Tensor]) -> Iterator[str | Image.Image]:
        for part in result.parts:
            yield to_pillow(next(drawn)) if isinstance(part, Tensor) else written(part, self.run.layout).strip()

    def _steps(self, prompt: Prompt, want: Wanted, seed: int, options: Mapping[str, Any]) -> Iterator[Generated]:
        """Return the states of an answer as it grows, once it is clear that there can be one."""
        check_able(self.run, want)
        config = self._config({"num_beams": 1, **options}, want)
        if config.num_beams > 1:
            raise PromptError("num_beams: beam search has no pieces to stream; set it to 1")
        check_room(self.run, prompt, self._words(prompt), want, config)
        return respond_steps(self.run, prompt, want, config, seed=seed)

    def _pieces(self, results: Iterable[Generated], seed: int, guidance: float | None) -> Iterator[str | Image.Image]:
        """Yield what each state of a growing result has more than the one before."""
        num_done, pieces, result = 0, TextPieces(self.run.layout), Generated()
        for result in results:
            for part in result.parts[num_done:]:
                whole = part is not result.parts[-1] or isinstance(part, Tensor)
                if isinstance(part, Tensor):
                    yield to_pillow(self.run.draw(part[None], guidance=guidance, seed=seed)[0])
                elif piece := pieces.take(part, whole=whole):
                    yield piece
                if whole:
                    num_done, pieces = num_done + 1, TextPieces(self.run.layout)
        for part in _texts(result, num_done):
            if piece := pieces.take(part, whole=True):
                yield piece

    def _answers(self, results: Iterator[Generated]) -> Iterator[Answer]:
        result = next(results)  # always the same object
        for piece in self._pieces(chain([result], results), 0, None):
            assert isinstance(piece, str)
            yield Answer(piece, result.num_tokens, result.ended)
        yield Answer("", result.num_tokens, result.ended)


def _texts(result: Generated, start: int = 0) -> list[list[int]]:
    return [part for part in result.parts[start:] if isinstance(part, list)]


def _path(image: ImageLike | str) -> ImageLike:
    """Return what is an image and no text as a part of a prompt."""
    return Path(image) if isinstance(image, str) else image


def to_pillow(image: Tensor) -> Image.Image:
    """Return a drawn image (3, H, W) uint8 as Pillow's."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())
