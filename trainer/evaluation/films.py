"""Held-out videos as the video decoder reconstructs and continues them, in figures and to look at.

Squared errors are those of pixels in 0..1, of all frames but the first, which a copy of itself always matches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.films import generate_frames
from model.finished_run import FinishedRun
from model.generation import Prompt
from model.segment import ImageSegment, Text
from trainer.evaluation.attributes import Values
from trainer.tasks.samples import Sample


@dataclass(frozen=True, slots=True)
class Film:
    """A film, and what the model makes of it; each (F, 3, S, S) uint8.

    Attributes:
        true: Its frames.
        alone: Drawn from their embeddings one by one by the image decoder; None without one of the same size.
        drawn: Drawn from the same embeddings by the video decoder.
        continued: Its first frame, then those that the model predicts from it and all texts.
        texts: What is said in it.
    """

    true: Tensor
    alone: Tensor | None
    drawn: Tensor
    continued: Tensor
    texts: str


def draw_films(run: FinishedRun, samples: Sequence[Sample], seed: int) -> list[Film]:
    """Draw the first frames of videos, as many as the video decoder was trained on; shorter videos are left out."""
    assert run.video_decoder is not None
    num, size = run.video_decoder.film.frames, run.video_decoder.config.image_size
    places = [[part for part in sample.segments if isinstance(part, ImageSegment)][:num] for sample in samples]
    long = [(sample, frames) for sample, frames in zip(samples, places, strict=True) if len(frames) == num]
    if not long:
        return []
    true, seen = (
        torch.stack([torch.stack([sample.image(frame.media, side) for frame in frames]) for sample, frames in long])
        for side in (size, run.image_size)
    )
    embeddings = run.embed(seen.flatten(0, 1)).unflatten(0, (-1, num))  # (B, F, N, E)
    drawn = run.draw_videos(embeddings, seed=seed, reconstructing=True)
    alone: Sequence[Tensor | None] = [None] * len(long)
    if run.decoder is not None and run.decoder.config.image_size == size:
        found = run.draw(embeddings.flatten(0, 1), seed=seed, reconstructing=True)
        alone = list(found.unflatten(0, (-1, num)))
    prompts = [_prompt(run, sample, frames[0], first) for (sample, frames), first in zip(long, seen[:, 0], strict=True)]
    following = generate_frames(run, prompts, num - 1)
    continued = run.draw_videos(torch.cat([embeddings[:, :1], following], dim=1), seed=seed)
    texts = [sample.text(run.tokenizer) for sample, _ in long]
    return [Film(*found) for found in zip(true, alone, drawn, continued, texts, strict=True)]


def _prompt(run: FinishedRun, sample: Sample, frame: ImageSegment, pixels: Tensor) -> Prompt:
    """Return a prompt of a video's texts and its first frame, which asks for the next one."""
    texts = [part for part in sample.segments if isinstance(part, Text)]
    return Prompt.of(run.layout, [*texts, frame], pixels[None], draw=True)


def film_figures(films: Sequence[Film]) -> dict[str, float]:
    """Return the mean squared errors of films, and of copies of their first frames."""
    true = torch.stack([film.true for film in films])
    kinds = {
        "film_error": torch.stack([film.drawn for film in films]),
        "film_continued_error": torch.stack([film.continued for film in films]),
        "film_copy_error": true[:, :1].expand_as(true),
    }
    alone = [film.alone for film in films if film.alone is not None]
    if alone:
        kinds["film_image_decoder_error"] = torch.stack(alone)
    errors = {
        name: float((found[:, 1:].float() - true[:, 1:].float()).div(255).square().mean())
        for name, found in kinds.items()
    }
    return errors | {"num_films": len(films)}


def judged_figures(films: Sequence[Film], judge: Callable[[Tensor], list[Values]]) -> dict[str, float]:
    """Return how often a judge sees in a frame what it sees in the true one, by attribute.

    Args:
        films: The films.
        judge: Function from frames (B, 3, S, S) uint8 to the attributes of each.
    """
    true = torch.stack([film.true for film in films])
    wanted = judge(true[:, 1:].flatten(0, 1))
    kinds = {
        "film": torch.stack([film.drawn for film in films]),
        "film_continued": torch.stack([film.continued for film in films]),
        "film_copy": true[:, :1].expand_as(true),
    }
    figures = {}
    for kind, found in kinds.items():
        seen = judge(found[:, 1:].flatten(0, 1))
        for name in wanted[0]:
            figures[f"{kind}_{name}"] = sum(s[name] == w[name] for s, w in zip(seen, wanted, strict=True)) / len(seen)
    return figures
