"""Prompts on a command line: texts with pictures and videos between them, by their files.

The first picture shows a red circle. [image:circle.png] The second one shows
What happens in [video:clip.mp4] is that
"""

import re
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import torch
from torch import Tensor

from model.generate import Prompt
from model.segment import Picture, Segment, text
from pipelines.errors import UserError
from trainer.batch import as_tensor
from trainer.finished_run import FinishedRun
from trainer.images import decode
from trainer.shard_reader import DamagedSample

_FILE = re.compile(r"\[(image|video):([^\]]+)\]")


def read_prompt(content: str, run: FinishedRun, *, draw: bool, num_frames: int) -> Prompt:
    """A prompt with the pictures and frames of the files that it names.

    Args:
        content: Text with `[image:<path>]` and `[video:<path>]`.
        run: Whose tokenizer, layout and picture size are taken.
        draw: Whether to ask for a picture.
        num_frames: Frames of a video, spread over it evenly.

    Raises:
        UserError: If a file is missing or cannot be read, or the prompt is too long for the model.
    """
    segments: list[Segment] = []
    images: list[Tensor] = []
    end = 0
    for match in _FILE.finditer(content):
        segments += _text(content[end : match.start()], run)
        kind, path = match[1], Path(match[2].strip())
        if not path.is_file():
            raise UserError(f"{match[0]}: there is no file {path}")
        found = read_video(path, num_frames, run.image_size) if kind == "video" else [(None, _image(path, run))]
        for time, image in found:
            segments.append(Picture(len(images), frame=kind == "video", time=time))
            images.append(image)
        end = match.end()
    segments += _text(content[end:], run)
    prompt = Prompt.of(run.layout, segments, torch.stack(images) if images else None, draw=draw)
    length, longest = len(prompt.sequence.token_ids), run.model.config.language_model.max_positions
    if length >= longest:
        raise UserError(f"a prompt takes {length} of the model's {longest} positions: shorten it, or give fewer frames")
    return prompt


def _text(content: str, run: FinishedRun) -> Iterator[Segment]:
    """What stands between two pictures, as a segment of its own; spaces around it are the layout's matter."""
    if content.strip():
        yield text(content.strip(), run.tokenizer)


def _image(path: Path, run: FinishedRun) -> Tensor:
    try:
        return as_tensor(decode(path.read_bytes(), run.image_size))
    except DamagedSample as error:
        raise UserError(f"{path}: {error}") from error


def read_video(path: Path, num_frames: int, size: int) -> list[tuple[float, Tensor]]:
    """Frames spread evenly over a video: their times in seconds, and (3, size, size) uint8.

    Raises:
        UserError: If it cannot be read.
    """
    found: list[tuple[float, Tensor]] = []
    try:
        with av.open(str(path)) as container:
            duration = (container.duration or 0) / av.time_base
            wanted = (i * duration / num_frames for i in range(num_frames))
            due = next(wanted)
            for frame in container.decode(video=0):
                if frame.time is None or frame.time + 1e-3 < due:
                    continue
                pixels = cv2.resize(frame.to_ndarray(format="rgb24"), (size, size), interpolation=cv2.INTER_AREA)
                found.append((frame.time, as_tensor(pixels)))
                later = (time for time in wanted if time > frame.time)
                if (following := next(later, None)) is None:
                    break
                due = following
    except (av.FFmpegError, IndexError, OSError) as error:
        raise UserError(f"{path}: not a video that can be read: {error}") from error
    if not found:
        raise UserError(f"{path}: a video without frames")
    return found
