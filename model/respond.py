"""What a finished run answers to prompts: text, an image, or both in turn."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from model.errors import PromptError, abbreviated
from model.finished_run import FinishedRun
from model.generation import Generated, GenerationConfig, Prompt, generate_steps
from model.segment import Text

Wanted = Literal["text", "image", "both"]
"""Kind of an answer. `both`: text, with images where the model begins them by itself or, if it has not learned to, one
image after the text."""


def respond(
    run: FinishedRun, prompts: Sequence[Prompt], wanted: Wanted, config: GenerationConfig, *, seed: int = 0
) -> list[Generated]:
    """Return the answer to each prompt, in batches.

    Args:
        run: The model.
        prompts: As read by its layout; ends with `[IMG]` if an image is wanted.
        wanted: Kind of the answers.
        config: Settings of generation; what `wanted` excludes is not generated.
        seed: Seed of sampling.
    """
    videos = [any(prompt.sequence.frames) for prompt in prompts]
    found: dict[int, Generated] = {}
    for video in sorted(set(videos)):
        chosen = [i for i, has_video in enumerate(videos) if has_video == video]
        settings = _settings(run, wanted, config, video=video)
        continued = run.continue_prompts([prompts[i] for i in chosen], settings, seed=seed)
        found |= dict(zip(chosen, continued, strict=True))
    results = [found[i] for i in range(len(prompts))]
    if wanted == "both":
        bare = [i for i, result in enumerate(results) if not result.images]
        asking = [_with_own_text(run, prompts[i], results[i]) for i in bare]
        for i, embeddings in zip(bare, run.generate_embeddings(asking) if asking else (), strict=True):
            results[i].parts.append(embeddings)
    return results


def respond_steps(
    run: FinishedRun, prompt: Prompt, wanted: Wanted, config: GenerationConfig, *, seed: int = 0
) -> Iterator[Generated]:
    """Yield the answer to one prompt as it grows, always the same object; without beam search.

    Arguments as in `respond`, whose answer the last one is.
    """
    settings = _settings(run, wanted, config, video=any(prompt.sequence.frames))
    generator = torch.Generator(run.device).manual_seed(seed)
    result = Generated()
    for [result] in generate_steps(run.model, run.tokenizer, [prompt], settings, generator):
        yield result
    if wanted == "both" and not result.images:
        result.parts += run.generate_embeddings([_with_own_text(run, prompt, result)])
        yield result


def check_able(run: FinishedRun, wanted: Wanted) -> None:
    """Refuse what a run cannot answer.

    Raises:
        PromptError: If it has no image decoder for an image, or was tuned to generate something else.
    """
    if wanted != "image" and not run.writes:
        raise PromptError(f"{run.folder}: was tuned to generate only images: ask for an image")
    if wanted == "text" or run.draws:
        return
    if run.decoder is not None:
        raise PromptError(f"{run.folder}: was tuned to generate only texts: ask for text")
    raise PromptError(f"{run.folder}: has no image decoder to generate images: run `python -m trainer decoder`")


def check_room(run: FinishedRun, prompt: Prompt, shown: str, wanted: Wanted, config: GenerationConfig) -> None:
    """Refuse a prompt whose answer may go beyond the positions of the model.

    Args:
        run: The model.
        prompt: The prompt.
        shown: The prompt's words, for the message.
        wanted: Kind of the answer.
        config: Settings of generation.

    Raises:
        PromptError: If so; says what would fit.
    """
    length, most = len(prompt.sequence.token_ids), run.model.config.language_model.max_positions
    several = config.max_images if run.begins_images else 1
    num_images = {"text": 0, "image": 1}.get(wanted, several)
    num_tokens = 0 if wanted == "image" else config.max_new_tokens
    of_images = num_images * (run.model.config.bridge.image_slots + 2)
    room = most - length - of_images
    if num_tokens <= room:
        return
    remedy = "shorten it"
    if num_tokens and room > 0:
        remedy += f", or give --max-new-tokens {room} or fewer"
    elif num_images > 1:
        remedy += ", or give fewer --max-images"
    raise PromptError(
        f"{abbreviated(shown)!r}: takes {length} of the model's {most} positions, and its continuation up to "
        f"{num_tokens + of_images} more: {remedy}"
    )


def _settings(run: FinishedRun, wanted: Wanted, config: GenerationConfig, *, video: bool) -> GenerationConfig:
    """Return the settings of generation for one kind of answer, to a prompt with or without a video."""
    changes: dict[str, Any] = {}
    if wanted == "image":
        changes = {"max_new_tokens": 0, "max_images": 1}
    elif wanted == "text" or not run.begins_images:
        changes = {"max_images": 0}
    if video and config.video_length_penalty is not None:
        changes["length_penalty"] = config.video_length_penalty
    return config.model_copy(update=changes)


def _with_own_text(run: FinishedRun, prompt: Prompt, result: Generated) -> Prompt:
    """Return a prompt with the model's text added, which ends by requesting an image."""
    ids = [token for part in result.parts if not isinstance(part, Tensor) for token in part]
    tail = run.layout.prompt([Text(np.array(ids, np.int32), continued=True)] if ids else [], draw=True)
    head = prompt.sequence
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(head, name), getattr(tail, name)[1:]])  # without the second <s>
        for name in ("token_ids", "targets", "slots")
    }
    return Prompt(replace(head, **joined), prompt.images)
