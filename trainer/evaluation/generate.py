"""`generate`: continuations of prompts by a finished run: texts in JSON lines, images in PNG, films in MP4 and WebP."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from model.box_text import written
from model.errors import PromptError, abbreviated
from model.films import check_draws_videos, check_room_for_video, generate_frames
from model.finished_run import FinishedRun
from model.generation import Generated, GenerationConfig, Prompt
from model.loaded_model import to_pillow
from model.respond import Wanted, check_able, check_room, respond
from model.video_file import FORMATS, encode_video
from pipelines import storage
from pipelines.errors import UserError
from trainer.evaluation.prompts import is_one_image, is_one_video, read_prompt

RESULTS = "generated.jsonl"


@dataclass(frozen=True, slots=True)
class Request:
    """Options of generation.

    Attributes:
        wanted: Kind of output. `reconstruction`: the prompt's only image or video, from its own embeddings.
        config: Settings of sampling.
        num_frames: Frames read per video.
        film_frames: Frames of each generated video; None: as many as the video decoder was trained on.
        guidance: Strength of classifier-free guidance; None: the decoder's own.
        seed: Seed of sampling and of the initial noise of images.
    """

    wanted: Wanted | Literal["video", "reconstruction"]
    config: GenerationConfig
    num_frames: int = 8
    film_frames: int | None = None
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
        The rows of `generated.jsonl`: `prompt`, `text`, `images` (their files) and `parts` (texts and images in order);
        of films also `videos` (MP4 files, with an animated WebP beside each).

    Raises:
        UserError: If a prompt cannot be read, if an image or video is requested from a run without such a decoder, or
            if the model was not tuned to generate what is requested.
    """
    try:
        if request.wanted == "video" or (request.wanted == "reconstruction" and all(map(is_one_video, prompts))):
            rows = _generate_videos(run, prompts, request, folder)
        else:
            rows = _generate(run, prompts, request, folder)
    except PromptError as error:
        raise UserError(str(error)) from error
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(storage.join(folder, RESULTS), lines.encode())
    return rows


def _generate_videos(run: FinishedRun, prompts: Sequence[str], request: Request, folder: str) -> list[dict[str, Any]]:
    """Write a film for each prompt; return the rows."""
    check_draws_videos(run)
    assert run.video_decoder is not None
    film, reconstructing = run.video_decoder.film, request.wanted == "reconstruction"
    read = [read_prompt(p, run, draw=not reconstructing, num_frames=request.num_frames) for p in prompts]
    if reconstructing:
        embeddings = torch.stack([run.embed(found.images) for found in read if found.images is not None])
    else:
        num_frames = request.film_frames or film.frames
        for prompt, found in zip(prompts, read, strict=True):
            check_room_for_video(run, found, prompt, num_frames)
        embeddings = generate_frames(run, read, num_frames)
    drawn = run.draw_videos(embeddings, guidance=request.guidance, seed=request.seed, reconstructing=reconstructing)
    rows = []
    for number, (prompt, frames) in enumerate(zip(prompts, drawn, strict=True)):
        for form in FORMATS:
            data = encode_video(frames, form, film.frames_per_second)
            storage.write_bytes(storage.join(folder, f"video-{number:04d}.{form}"), data)
        name = f"video-{number:04d}.mp4"
        rows.append({"prompt": prompt, "text": "", "images": [], "videos": [name], "parts": [{"video": name}]})
    return rows


def _generate(run: FinishedRun, prompts: Sequence[str], request: Request, folder: str) -> list[dict[str, Any]]:
    """Continue prompts with texts and images, which are written; return the rows."""
    results = _results(run, prompts, request)
    images = _draw(run, results, request)
    rows = []
    for number, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        parts: list[dict[str, str]] = []
        for part in result.parts:
            if isinstance(part, Tensor):
                name = f"image-{number:04d}-{sum('image' in p for p in parts)}.png"
                write_png(next(images), storage.join(folder, name))
                parts.append({"image": name})
            else:
                parts.append({"text": written(part, run.layout)})
        texts = [part["text"] for part in parts if "text" in part]
        names = [part["image"] for part in parts if "image" in part]
        rows.append({"prompt": prompt, "text": "".join(texts).strip(), "images": names, "parts": parts})
    return rows


def read_prompts(path: str) -> list[str]:
    """Read prompts from a JSON-lines file, whose lines are objects with a `prompt`.

    Raises:
        UserError: If the file is missing, or a line is anything else.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file of prompts")
    prompts = []
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # not at U+2028, which JSON may hold
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: prompts must be in UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
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


def _results(run: FinishedRun, prompts: Sequence[str], request: Request) -> list[Generated]:
    """Return the continuation of each prompt, or the embeddings of its image."""
    if request.wanted == "reconstruction":
        check_able(run, "image")
        return _reconstruct(run, prompts, [read_prompt(p, run, num_frames=request.num_frames) for p in prompts])
    assert request.wanted != "video"
    check_able(run, request.wanted)
    draw = request.wanted == "image"
    read = [read_prompt(prompt, run, draw=draw, num_frames=request.num_frames) for prompt in prompts]
    for prompt, found in zip(prompts, read, strict=True):
        check_room(run, found, prompt, request.wanted, request.config)
    return respond(run, read, request.wanted, request.config, seed=request.seed)


def _reconstruct(run: FinishedRun, prompts: Sequence[str], read: Sequence[Prompt]) -> list[Generated]:
    """Return the embeddings of each prompt's image."""
    images = []
    for prompt, found in zip(prompts, read, strict=True):
        if found.images is None or len(found.images) != 1 or not is_one_image(prompt):
            raise UserError(
                f"{abbreviated(prompt)!r}: to be reconstructed, a prompt is one [image:FILE] and nothing else; or all "
                "are one [video:FILE] each"
            )
        images.append(found.images)
    return [Generated([embeddings]) for embeddings in run.embed(torch.cat(images))]


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


def write_png(image: Tensor, path: str) -> None:
    """Write a drawn image (3, H, W) uint8 as a file."""
    with storage.write_whole(path) as file:
        to_pillow(image).save(file, "PNG")
