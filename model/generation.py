"""Text, images, or both in turn, from any interleaved prompt.

One loop for all: at each step a row of the batch is either in a text, and the next token is chosen, or in an image,
and the predicted visual embedding is fed back as it is. Keys and values are cached; the released code runs the whole
prefix again for each of the 32 or 64 embeddings.

B prompts, L tokens, D width of the language model, N visual embeddings per image, E their width
"""

import warnings
from collections.abc import Iterator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import PreTrainedModel

from model.attention import use_kernel
from model.batch import collate
from model.config import Config
from model.emu import Emu
from model.language_model import family_of, token_logits
from model.segment import Segment
from model.sequence import Layout, Sequence
from model.step_runner import StepRunner
from model.tokenizer import FRAME_SLOT, IMAGE_END, IMAGE_SLOT, IMAGE_START, PAD, VIDEO, Tokenizer

GENERATION = "generation.json"
"""Name of the file of a model's own settings of generation, in its folder."""


class GenerationConfig(Config):
    """Settings for generating from a prompt."""

    max_new_tokens: int = Field(128, ge=0, description="text tokens at most; 0 for images only")
    max_images: int = Field(0, ge=0, description="images at most, including the one that a prompt requests")
    num_frames: int = Field(
        1, ge=1, description="images that follow each other where a prompt requests one: the frames of a video"
    )
    temperature: float | None = Field(None, gt=0, description="sampling temperature; null chooses the likeliest token")
    top_k: int | None = Field(None, ge=1, description="sample among this many likeliest tokens")
    top_p: float | None = Field(
        None, gt=0, le=1, description="sample among the likeliest tokens with this total probability"
    )
    num_beams: int = Field(1, ge=1, description="beams of beam search (5 in both papers); text only")
    min_new_tokens: int = Field(
        0, ge=0, description="text tokens before the end is allowed; with images only, none is meant"
    )
    length_penalty: float = Field(
        1.0,
        description="exponent of the length in a beam's score; beam search only (Emu 0.0; Emu2 -1.0)",
    )
    video_length_penalty: float | None = Field(
        None, description="the same for prompts with a video (Emu 1.0); null: as for others"
    )
    repetition_penalty: float = Field(
        1.0, gt=0, description="divisor of the logits of tokens that the continuation already contains (CTRL); 1: none"
    )
    use_cache: bool = Field(
        True, description="cache keys and values; off: run the whole prefix at each step, as the released code"
    )
    fixed_cache: bool = Field(
        False,
        description="cache in memory of a fixed size, with which a GPU runs each step as one CUDA graph, where the "
        "language model can",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if 0 < self.max_new_tokens < self.min_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}")
        return self


@dataclass(frozen=True, slots=True)
class Prompt:
    """The input from which a model continues.

    Attributes:
        sequence: As written by `Layout.prompt`. Ends with `[IMG]` to request an image.
        images: (images, 3, S, S) uint8, in the order of the sequence; None if there are none.
    """

    sequence: Sequence
    images: Tensor | None = None

    @classmethod
    def of(
        cls, layout: Layout, segments: Many[Segment], images: Tensor | None = None, *, draw: bool = False
    ) -> "Prompt":
        """Build a prompt from texts and images in the order in which the model reads them; `draw` requests an image."""
        return cls(layout.prompt(segments, draw=draw), images)


@dataclass(slots=True)
class Generated:
    """The continuation of a prompt.

    Attributes:
        parts: Runs of token ids, and images as visual embeddings (N, E), in order.
        ended: True if the model ended it, rather than a limit.
    """

    parts: list[list[int] | Tensor] = field(default_factory=list)
    ended: bool = False

    @property
    def images(self) -> list[Tensor]:
        """Return only the images."""
        return [part for part in self.parts if isinstance(part, Tensor)]

    @property
    def num_tokens(self) -> int:
        """Return the number of text tokens, without the end."""
        return sum(len(part) for part in self.parts if isinstance(part, list))

    def text(self, tokenizer: Tokenizer, *, with_own: bool = False) -> str:
        """Return only the text."""
        return "".join(tokenizer.decode(part, with_own=with_own) for part in self.parts if isinstance(part, list))


@torch.no_grad()
def generate(
    model: Emu,
    tokenizer: Tokenizer,
    prompts: Many[Prompt],
    config: GenerationConfig,
    generator: torch.Generator | None = None,
) -> list[Generated]:
    """Continue prompts, all in one batch.

    A row ends with its end of text, or when it has reached its limits on tokens and images. Images begin if a
    prompt requests one, or if a model that has learned to begins one by itself.

    Args:
        model: In evaluation mode.
        tokenizer: The model's tokenizer.
        prompts: Prompts of any length.
        config: Limits and choice of tokens.
        generator: Random numbers for sampling.

    Raises:
        ValueError: If there is no prompt, or beam search is to generate images.
    """
    if config.num_beams > 1:
        if config.max_images:
            raise ValueError("beam search generates text only; set num_beams to 1 or max_images to 0")
        x, lengths = _embed(model, tokenizer, prompts)
        return _beams(model.language_model, tokenizer, x, lengths, config)
    *_, results = generate_steps(model, tokenizer, prompts, config, generator)
    return results


@torch.no_grad()
def generate_steps(
    model: Emu,
    tokenizer: Tokenizer,
    prompts: Many[Prompt],
    config: GenerationConfig,
    generator: torch.Generator | None = None,
) -> Iterator[list[Generated]]:
    """Yield the results of `generate`, always the same objects, before the first step and as they grow with each.

    Arguments and errors as in `generate`, without beam search.
    """
    x, lengths = _embed(model, tokenizer, prompts)  # (B, L, D), padded on the left
    ids = tokenizer.ids
    num_slots = model.config.bridge.image_slots
    rows = [_Row() for _ in prompts]
    results = [row.result for row in rows]
    for row, prompt in zip(rows, prompts, strict=True):
        if int(prompt.sequence.token_ids[-1]) == ids[IMAGE_START] and config.max_images:
            row.frames_left = config.num_frames
            row.begin_image(num_slots)
        row.settle(config)
    most_images = max(config.max_images, config.num_frames)
    room = config.max_new_tokens + most_images * (num_slots + 2) if config.fixed_cache else None
    runner = StepRunner(model.language_model, lengths, use_cache=config.use_cache, room=room)
    embed = model.language_model.get_input_embeddings()
    never = torch.tensor(never_chosen(tokenizer), device=x.device)

    yield results
    while not all(row.done for row in rows):
        hidden = runner.step(x)  # (B, D)
        if all(row.slots_left and not row.done for row in rows):  # nothing to choose: no indices for the device
            embeddings = model.bridge.project_down(hidden)
            x = model.bridge.project_up(embeddings)[:, None].to(x.dtype)
            for row, embedding in zip(rows, embeddings, strict=True):
                row.take_embedding(embedding)
                row.settle(config)
            yield results
            continue
        tokens = torch.full((len(rows),), tokenizer.pad_id, device=x.device)  # input of finished rows
        in_image = [i for i, row in enumerate(rows) if not row.done and row.slots_left]
        in_text = [i for i, row in enumerate(rows) if row.in_text]
        for i, row in enumerate(rows):
            if row.closing:
                tokens[i] = ids[IMAGE_END]
                row.closing = False
            elif row.frames_left and not row.slots_left:
                tokens[i] = ids[IMAGE_START]
                row.begin_image(num_slots)
        if in_text:
            logits = token_logits(model.language_model, hidden[in_text]).float()
            logits[:, never] = float("-inf")
            full = [j for j, i in enumerate(in_text) if len(rows[i].result.images) >= config.max_images]
            logits[full, ids[IMAGE_START]] = float("-inf")
            for j, i in enumerate(in_text):
                _repeat_less(logits[j], rows[i].result, config.repetition_penalty)
                if rows[i].num_tokens < config.min_new_tokens:
                    logits[j, tokenizer.eos_id] = float("-inf")
            chosen = _choose(logits, config, generator)
            tokens[in_text] = chosen
            for i, token in zip(in_text, chosen.tolist(), strict=True):
                rows[i].take_token(token, tokenizer.eos_id, ids[IMAGE_START], num_slots)
        following = embed(tokens)  # (B, D)
        if in_image:
            embeddings = model.bridge.project_down(hidden[in_image])
            following[in_image] = model.bridge.project_up(embeddings).to(following.dtype)
            for i, embedding in zip(in_image, embeddings, strict=True):
                rows[i].take_embedding(embedding)
        for row in rows:
            row.settle(config)
        x = following[:, None]  # (B, 1, D)
        yield results


def generate_embeddings(model: Emu, tokenizer: Tokenizer, prompts: Many[Prompt]) -> Tensor:
    """Return the visual embeddings (B, N, E) of the images that prompts request."""
    found = generate(model, tokenizer, prompts, GenerationConfig(max_new_tokens=0, max_images=1))
    return torch.stack([result.images[0] for result in found])


@dataclass(slots=True)
class _Row:
    """State of one prompt's continuation."""

    result: Generated = field(default_factory=Generated)
    slots_left: int = 0
    frames_left: int = 0  # images that follow each other, including the one that is begun
    closing: bool = False  # the image is complete, [/IMG] comes next
    num_tokens: int = 0
    drawn: list[Tensor] = field(default_factory=list)
    done: bool = False

    @property
    def in_text(self) -> bool:
        return not (self.done or self.slots_left or self.frames_left or self.closing)

    def begin_image(self, num_slots: int) -> None:
        self.slots_left = num_slots

    def take_token(self, token: int, eos_id: int, image_start_id: int, num_slots: int) -> None:
        self.num_tokens += 1
        if token == eos_id:
            self.result.ended = True
        elif token == image_start_id:
            self.begin_image(num_slots)
        else:
            last = self.result.parts[-1] if self.result.parts else None
            if isinstance(last, list):
                last.append(token)
            else:
                self.result.parts.append([token])

    def take_embedding(self, embedding: Tensor) -> None:
        self.drawn.append(embedding)
        self.slots_left -= 1
        if not self.slots_left:
            self.result.parts.append(torch.stack(self.drawn))
            self.drawn = []
            self.closing = True
            self.frames_left = max(0, self.frames_left - 1)

    def settle(self, config: GenerationConfig) -> None:
        waits = self.slots_left or self.frames_left
        self.done = self.result.ended or (not waits and self.num_tokens >= config.max_new_tokens)
        self.closing &= not self.done


def _embed(model: Emu, tokenizer: Tokenizer, prompts: Many[Prompt]) -> tuple[Tensor, Tensor]:
    """Return inputs (B, L, D) padded on the left, and lengths (B,)."""
    if not prompts:
        raise ValueError("no prompts")
    images = [image for prompt in prompts if prompt.images is not None for image in prompt.images]
    lengths = [len(prompt.sequence.token_ids) for prompt in prompts]
    device = model.language_model.device
    batch = collate([[p.sequence] for p in prompts], images, seq_len=max(lengths), pad_id=tokenizer.pad_id).to(device)
    x = model.inputs(batch.token_ids, batch.slots, model.embed_images(batch))
    rows = [row.roll(max(lengths) - seq_len, 0) for row, seq_len in zip(x, lengths, strict=True)]
    return torch.stack(rows), torch.tensor(lengths, device=device)


def never_chosen(tokenizer: Tokenizer) -> list[int]:
    """Return tokens that are never chosen as text: they follow from others, only precede it, or stand for nothing."""
    own = [i for name in (PAD, IMAGE_END, IMAGE_SLOT, FRAME_SLOT, VIDEO) if (i := tokenizer.ids.get(name)) is not None]
    return [*own, tokenizer.bos_id, *tokenizer.holes]


def _choose(logits: Tensor, config: GenerationConfig, generator: torch.Generator | None) -> Tensor:
    """Choose a token for each row of (B, vocabulary)."""
    if config.temperature is None:
        return logits.argmax(-1)
    logits = logits / config.temperature
    if config.top_k is not None:
        least = logits.topk(min(config.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if config.top_p is not None:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        cut = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= config.top_p)
        logits = logits.masked_fill(cut, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _repeat_less(logits: Tensor, result: Generated, penalty: float) -> None:
    """Make the tokens of a continuation less likely, in place: (vocabulary,), as in CTRL (arXiv:1909.05858)."""
    if penalty == 1.0:
        return
    if used := sorted({token for part in result.parts if isinstance(part, list) for token in part}):
        logits[used] = torch.where(logits[used] < 0, logits[used] * penalty, logits[used] / penalty)


def _beams(
    language_model: PreTrainedModel, tokenizer: Tokenizer, x: Tensor, lengths: Tensor, config: GenerationConfig
) -> list[Generated]:
    """Run the beam search of transformers."""
    search: Any = language_model.generate  # from a mixin that PreTrainedModel does not declare
    columns = torch.arange(x.shape[1], device=x.device)
    use_kernel(language_model, "sdpa", family_of(language_model.config).masked)
    with warnings.catch_warnings():
        # The penalty is meant for what is generated, not for the prompt.
        warnings.filterwarnings("ignore", "Passing `repetition_penalty` with `inputs_embeds`")
        found: Tensor = search(
            inputs_embeds=x,
            attention_mask=(columns >= x.shape[1] - lengths[:, None]).long(),
            num_beams=config.num_beams,
            do_sample=False,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            length_penalty=config.length_penalty,
            repetition_penalty=config.repetition_penalty,
            suppress_tokens=[*never_chosen(tokenizer), tokenizer.ids[IMAGE_START]],
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.eos_id,
        )
    rows = []
    for row in found.tolist():
        ended = tokenizer.eos_id in row
        text = row[: row.index(tokenizer.eos_id)] if ended else row
        rows.append(Generated([text] if text else [], ended))
    return rows
