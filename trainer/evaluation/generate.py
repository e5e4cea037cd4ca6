"""`generate`: continuations of prompts by a finished run, as texts in JSON lines and images in PNG."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.finished_run import FinishedRun
from model.generation import Generated, GenerationConfig, Prompt
from model.segment import Text
from pipelines import storage
from pipelines.errors import UserError
from trainer.evaluation.prompts import is_one_image, read_prompt, written

Wanted = Literal["text", "image", "both", "reconstruction"]
RESULTS = "generated.jsonl"


@dataclass(frozen=True, slots=True)
class Request:
    """Options of generation.

    Attributes:
        wanted: Kind of output. `both`: text, with images where the model begins them by itself or, if it has not
            learned to, one image after the text. `reconstruction`: the prompt's only image, from its own embeddings.
        config: Settings of sampling.
        num_frames: Frames read per video.
        guidance: Strength of classifier-free guidance; None: the decoder's own.
        seed: Seed of sampling and of the initial noise of images.
    """

    wanted: Wanted
    config: GenerationConfig
    num_frames: int = 8
    guidance: float | None = None
    seed: int = 0


def generate(run: FinishedRun, prompts: Sequence[str], request: Request, folder: str) -> list[dict[str, Any]]:
    """Continue prompts and write the results.

    Args:
        run: The model.
        prompts: Texts with file names of images and videos; see prompts.py.
        request: Options of generation.
        folder: Folder for `generated.jsonl` and the images.

    Returns:
        The rows of `generated.jsonl`: `prompt`, `text`, `images` (their files) and `parts` (texts and images in order).

    Raises:
        UserError: If a prompt cannot be read, if an image is requested from a run without an image decoder, or if the
            model was not tuned to generate what is requested.
    """
    if run.template is not None:
        able = "text" if run.template.chats else "image"
        if request.wanted != able and (able == "text" or request.wanted != "reconstruction"):
            raise UserError(f"{run.folder}: was tuned to generate only {able}s: use --want {able}")
    if run.decoder is None and request.wanted != "text":
        raise UserError(
            f"{run.folder}: has no image decoder to generate images: run `python -m trainer decoder`, or use "
            "--want text"
        )
    read = [
        read_prompt(prompt, run, draw=request.wanted == "image", num_frames=request.num_frames) for prompt in prompts
    ]
    if request.wanted == "reconstruction":
        results = _reconstruct(run, prompts, read)
    else:
        for prompt, found in zip(prompts, read, strict=True):
            _check_room(run, prompt, len(found.sequence.token_ids), request)
        results = _continue(run, read, request, videos=["[video:" in prompt for prompt in prompts])
    images = _draw(run, results, request)
    rows = []
    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        parts: list[dict[str, str]] = []
        for part in result.parts:
            if isinstance(part, Tensor):
                name = f"image-{number:04d}-{sum('image' in p for p in parts)}.png"
                _write_png(next(images), storage.join(folder, name))
                parts.append({"image": name})
            else:
                parts.append({"text": written(part, run.layout)})
        texts = [part["text"] for part in parts if "text" in part]
        names = [part["image"] for part in parts if "image" in part]
        rows.append({"prompt": prompt, "text": "".join(texts).strip(), "images": names, "parts": parts})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(storage.join(folder, RESULTS), lines.encode())
    return rows


def read_prompts(path: str) -> list[str]:
    """Read prompts from a JSON-lines file, whose lines are objects with a `prompt`.

    Raises:
        UserError: If the file is missing, or a line is anything else.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file of prompts")
    prompts = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path}, line {number}: not a JSON object with a "prompt"') from error
        if not isinstance(prompt, str):
            raise UserError(f'{path}, line {number}: "prompt" is not a text')
        prompts.append(prompt)
    return prompts


def _check_room(run: FinishedRun, prompt: str, length: int, request: Request) -> None:
    """Refuse a prompt of some positions whose continuation may go beyond those of the model."""
    config, most = request.config, run.model.config.language_model.max_positions
    several = config.max_images if run.begins_images else 1
    num_images = {"text": 0, "image": 1}.get(request.wanted, several)
    num_tokens = 0 if request.wanted == "image" else config.max_new_tokens
    of_images = num_images * (run.model.config.bridge.image_slots + 2)
    room = most - length - of_images
    if num_tokens <= room:
        return
    shown = prompt if len(prompt) <= 60 else f"{prompt[:60]}..."
    remedy = "shorten it"
    if num_tokens and room > 0:
        remedy += f", or give --max-new-tokens {room} or fewer"
    elif num_images > 1:
        remedy += ", or give fewer --max-images"
    raise UserError(
        f"{shown!r}: takes {length} of the model's {most} positions, and its continuation up to "
        f"{num_tokens + of_images} more: {remedy}"
    )


def _continue(run: FinishedRun, prompts: Sequence[Prompt], request: Request, videos: Sequence[bool]) -> list[Generated]:
    """Return the continuation of each prompt; `videos`: whether it has a video."""
    config = request.config
    if request.wanted == "image":
        config = config.model_copy(update={"max_new_tokens": 0, "max_images": 1})
    elif request.wanted == "text" or not run.begins_images:
        config = config.model_copy(update={"max_images": 0})
    found: dict[int, Generated] = {}
    for video in sorted(set(videos)):
        chosen = [i for i, has_video in enumerate(videos) if has_video == video]
        penalty = config.video_length_penalty if video else None
        settings = config if penalty is None else config.model_copy(update={"length_penalty": penalty})
        continued = run.continue_prompts([prompts[i] for i in chosen], settings, seed=request.seed)
        found |= dict(zip(chosen, continued, strict=True))
    results = [found[i] for i in range(len(prompts))]
    if request.wanted == "both":
        bare = [i for i, result in enumerate(results) if not result.images]
        asking = [_with_own_text(run, prompts[i], results[i]) for i in bare]
        for i, embeddings in zip(bare, run.generate_embeddings(asking) if asking else (), strict=True):
            results[i].parts.append(embeddings)
    return results


def _reconstruct(run: FinishedRun, prompts: Sequence[str], read: Sequence[Prompt]) -> list[Generated]:
    """Return the embeddings of each prompt's image."""
    images = []
    for prompt, found in zip(prompts, read, strict=True):
        if found.images is None or len(found.images) != 1 or not is_one_image(prompt):
            raise UserError(f"{prompt!r}: to be reconstructed, a prompt is one [image:FILE] and nothing else")
        images.append(found.images)
    return [Generated([embeddings]) for embeddings in run.embed(torch.cat(images))]


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


def _draw(run: FinishedRun, results: Sequence[Generated], request: Request) -> Iterator[Tensor]:
    """Generate all images of all results together, and return them in order."""
    embeddings = [image for result in results for image in result.images]
    if not embeddings:
        return iter(())
    reconstructing = request.wanted == "reconstruction"
    drawn = run.draw(
        torch.stack(embeddings), guidance=request.guidance, seed=request.seed, reconstructing=reconstructing
    )
    return iter(drawn)


def _write_png(image: Tensor, path: str) -> None:
    with storage.write_whole(path) as file:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
