"""What a finished run generates as a film: the visual embeddings of its frames one after another, for any prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.errors import PromptError, abbreviated
from model.finished_run import FinishedRun
from model.generation import GenerationConfig, Prompt
from model.tokenizer import VIDEO


def check_draws_videos(run: FinishedRun) -> None:
    """Refuse a run that cannot generate films.

    Raises:
        PromptError: If it has no video decoder, or was tuned to generate only texts.
    """
    if not run.learned_images:
        raise PromptError(f"{run.folder}: was tuned to generate only texts: ask for text")
    if run.video_decoder is None:
        raise PromptError(
            f"{run.folder}: has no video decoder to generate videos: run `python -m trainer video-decoder`, or ask for "
            "an image"
        )


def check_room_for_video(run: FinishedRun, prompt: Prompt, shown: str, num_frames: int) -> None:
    """Refuse a prompt whose film goes beyond the positions of the model.

    Args:
        run: The model.
        prompt: A prompt that requests an image.
        shown: The prompt's words, for the message.
        num_frames: Frames of the film.

    Raises:
        PromptError: If so; says how many frames would fit.
    """
    length, most = len(prompt.sequence.token_ids), run.model.config.language_model.max_positions
    of_frame = run.model.config.bridge.image_slots + 2
    if length + 1 + num_frames * of_frame <= most:
        return
    room = max(0, (most - length - 1) // of_frame)
    raise PromptError(
        f"{abbreviated(shown)!r}: takes {length} of the model's {most} positions, and a video of {num_frames} frames "
        f"{num_frames * of_frame + 1} more: " + (f"ask for {room} frames or fewer" if room else "shorten it")
    )


def generate_frames(run: FinishedRun, prompts: Sequence[Prompt], num_frames: int) -> Tensor:
    """Return the visual embeddings (B, F, N, E) of the films that prompts request.

    Args:
        run: The model.
        prompts: Each requests an image, which becomes the first frame; or the next one, after frames at its end.
        num_frames: Frames of each film, at least 1.
    """
    config = GenerationConfig(max_new_tokens=0, max_images=num_frames, num_frames=num_frames)
    found = run.continue_prompts([_of_film(run, prompt) for prompt in prompts], config)
    return torch.stack([torch.stack(result.images) for result in found])


def _of_film(run: FinishedRun, prompt: Prompt) -> Prompt:
    """Return a prompt that requests a film, which `[VIDEO]` precedes as in training; one with frames is within one."""
    video = run.tokenizer.ids.get(VIDEO)
    if video is None or any(prompt.sequence.frames):
        return prompt
    sequence = prompt.sequence
    added: dict[str, Any] = {
        name: np.insert(getattr(sequence, name), -1, value)  # before [IMG]
        for name, value in (("token_ids", video), ("targets", 0), ("slots", False))
    }
    return Prompt(replace(sequence, **added), prompt.images)
