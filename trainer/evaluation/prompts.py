"""Prompts on a command line: texts with images and videos, by their files, and with boxes between the words.

    The first image shows a red circle. [image:circle.png] The second one shows
    What happens in [video:clip.mp4] is that
    A photo of [box:a red boat:0.1,0.4,0.5,0.9] on a lake

Boxes are left, top, right, bottom in 0..1; several boxes of one phrase are separated by `;`. After `<grounding>` a
model writes boxes in the same form. The prompt of a chat model may contain earlier turns and the beginning of the
answer:

    [image:boat.png] Where is the boat? <grounding>
    [image:boat.png] What is this? [ASSISTANT]: A boat. [USER]: Which colour does it have? [ASSISTANT]: It is
"""

import re
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from model.box_text import BOX_FORM, Region, boxes_in, end_of_bracket, read_boxes
from model.config import Resampling
from model.errors import PromptError, abbreviated
from model.finished_run import FinishedRun
from model.generation import Prompt
from model.prompt_builder import PromptBuilder
from model.resizing import resize
from model.template_layout import ANSWER
from model.tokenizer import (
    CHAT,
    GROUNDING,
)
from pipelines.errors import UserError
from trainer.reading.images import decode
from trainer.reading.micro_batches import as_tensor
from trainer.reading.shard_reader import DamagedSample

_FILE = re.compile(r"\[(image|video):")
_FORMS = ("[image:FILE]", "[video:FILE]", BOX_FORM)
_MISTAKEN = re.compile(
    r"\[(?:img|images?|pic|pictures?|photos?|vid|videos?|movie|clip|bbox|box(?:es)?)"
    r"(?:(?P<plain>:)(?=\S)|[:=\s](?P<inside>[^\[\]]*)\])",
    re.IGNORECASE,
)
_MEDIA = re.compile(r".*\.(png|jpe?g|webp|gif|bmp|tiff?|avif|mp4|webm|mkv|mov|avi|m4v)\s*", re.IGNORECASE)
_SIDE = re.compile(f"({'|'.join(map(re.escape, CHAT))}):")


def read_prompt(content: str, run: FinishedRun, *, draw: bool = False, num_frames: int) -> Prompt:
    """Read a prompt, with the images and frames of the files that it names.

    Args:
        content: Text in the form above.
        run: The run, for its tokenizer, layout and image size.
        draw: Whether to request an image.
        num_frames: Frames per video.

    Raises:
        UserError: If a file is missing or cannot be read, a box is not valid, the two sides do not take turns, or the
            prompt is too long for the model.
    """
    reader = _Reader(PromptBuilder(run), num_frames)
    chats = run.template is not None and run.template.chats
    said = content.rstrip().removesuffix(GROUNDING)
    try:
        for number, message in enumerate(_messages(said) if chats else [said]):
            reader.read(message, ANSWER if number % 2 else "body")
        if said != content.rstrip():
            reader.prompt.ask_for_boxes()
        return reader.prompt.build(draw=draw)
    except PromptError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads files and boxes of messages into a prompt."""

    prompt: PromptBuilder
    num_frames: int

    def read(self, content: str, role: str) -> None:
        """Read the message of one side."""
        end = 0
        while match := _FILE.search(content, end):
            self._read_text(content[end : match.start()], role)
            end = end_of_bracket(content, match, _is_file)
            self._read_file(match[1] == "video", content[match.end() : end - 1], role)
        self._read_text(content[end:], role)

    def _read_text(self, content: str, role: str) -> None:
        """Add the text between two images as one segment, without the spaces around it, which the layout adds."""
        parts = list(read_boxes(content))
        words = "".join(part.phrase if isinstance(part, Region) else part for part in parts)
        if mistaken := next((match for match in _MISTAKEN.finditer(words) if _is_meant(match)), None):
            raise PromptError(
                f"{abbreviated(mistaken[0])}: unknown: files and boxes in a prompt are {', '.join(_FORMS)}"
            )
        self.prompt.add_text(parts, role=role)

    def _read_file(self, video: bool, name: str, role: str) -> None:
        path, written = Path(name.strip()), f"[{'video' if video else 'image'}:{name}]"
        if role == ANSWER and not self.prompt.run.draws:
            raise UserError(f"{written}: the model's turns may contain only words")
        if not _is_file(name):
            raise UserError(f"{written}: there is no file {path}")
        size, how = self.prompt.run.image_size, self.prompt.run.resampling
        for time, image in read_video(path, self.num_frames, size, how) if video else [(None, _image(path, size, how))]:
            self.prompt.add_image(image, role=role, frame=video, time=time)


def _messages(content: str) -> list[str]:
    """Split a conversation into the messages of the two sides, in turn, the user first."""
    first, *rest = _SIDE.split(content)
    if not first.strip() and rest[:1] == [CHAT[0]]:
        first, rest = rest[1], rest[2:]
    messages = [first, *rest[1::2]]
    if any(side != CHAT[1 - number % 2] for number, side in enumerate(rest[::2])):
        raise UserError(f"{abbreviated(content)!r}: {CHAT[0]}: and {CHAT[1]}: must take turns, the user first")
    if not all(message.strip() for message in messages[:-1] or messages):
        raise UserError(f"{abbreviated(content)!r}: an empty message")
    return messages


def is_one_image(content: str) -> bool:
    """Return whether a prompt is the file of an image and nothing else."""
    return _is_one(content, "image")


def is_one_video(content: str) -> bool:
    """Return whether a prompt is the file of a video and nothing else."""
    return _is_one(content, "video")


def _is_one(content: str, kind: str) -> bool:
    content = content.strip()
    match = _FILE.match(content)
    return match is not None and match[1] == kind and end_of_bracket(content, match, _is_file) == len(content)


def _is_file(name: str) -> bool:
    try:
        return Path(name.strip()).is_file()
    except OSError:  # too long for a name
        return False


def _is_meant(match: re.Match[str]) -> bool:
    """Return whether a bracket is meant as a file or a box: `[Image: a.png]`, but not `[Image: a dog]`."""
    if match["plain"]:
        return True
    inside = match["inside"]
    return _MEDIA.fullmatch(inside) is not None or _is_file(inside) or boxes_in(inside) is not None


def _image(path: Path, size: int, resampling: Resampling) -> Tensor:
    try:
        return as_tensor(decode(path.read_bytes(), size, resampling))
    except DamagedSample as error:
        raise UserError(f"{path}: {error}") from error


def read_video(path: Path, num_frames: int, size: int, resampling: Resampling = "area") -> list[tuple[float, Tensor]]:
    """Read frames from the middles of equal segments of a video: their times in seconds, and (3, size, size) uint8.

    A short video gives some of its frames several times; of one that was cut, only what can be decoded counts.

    Raises:
        UserError: If the video cannot be read.
    """
    found: list[tuple[float, Tensor]] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            total = stream.frames or sum(packet.pts is not None for packet in container.demux(stream))
        while len(found) < num_frames:
            found, wanted, total = [], segment_middles(total, num_frames), 0
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    if total in wanted:
                        found += [(frame.time or 0.0, _frame(frame, size, resampling))] * wanted.count(total)
                    total += 1
                    if total > wanted[-1]:
                        break
            if not total:
                break
    except (av.FFmpegError, IndexError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable video: {error}") from error
    if not found:
        raise UserError(f"{path}: a video without frames")
    return found


def segment_middles(num_frames: int, num_segments: int) -> list[int]:
    """Return the numbers of the frames in the middles of equal segments of a video, as in Emu's code."""
    length = max(0, num_frames - 1) / num_segments
    return [int(length / 2) + round(length * number) for number in range(num_segments)]


def _frame(frame: av.VideoFrame, size: int, resampling: Resampling) -> Tensor:
    """Return a frame as players show it, turned as the video says, as ffmpeg does for the frames of corpora."""
    upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return as_tensor(resize(np.ascontiguousarray(upright), size, size, resampling))
