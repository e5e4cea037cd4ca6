"""Sheets of a model's results to look at: captions, images, a continued page, videos, and one sheet with all of them.

The model's own words are blue, wrong ones red; its input and the truth are black or grey.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from model.finished_run import FinishedRun
from model.generation import GenerationConfig
from model.segment import ImageSegment, Text
from pipelines import storage
from pipelines.images.lettering import Run
from pipelines.images.paper import BODY, GAP, GREY, HEADING, INK, SMALL, Column, side_by_side, stacked
from pipelines.images.pixels import decode_upright
from trainer.evaluation.continuation import Continuation
from trainer.evaluation.films import Film

WIDTH = 1200
MARGIN = 26
OWN, WRONG = "#1d64d8", "#d6293e"
TITLES = {"seen": "combinations seen in training", "held_out": "combinations never seen in training", "all": ""}

_CELL = 128  # side in pixels to which small images are enlarged
_COLUMNS = 7
_MAX_HEIGHT = 4000
_NUM_VIDEOS = 3
_NUM_FILMS = 4
_FRAME_GAP = 4
_NUM_FRAMES = 3  # frames of a video before the predicted one
_PAGE_TOKENS = 80
_PAGE_IMAGES = 2  # most images that the model may generate on its page


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image (3, S, S), the model's caption, the true one, and the places where the model's is wrong."""

    image: Tensor
    generated: str
    true: str
    wrong: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A caption, its true image, and the model's image: (3, S, S)."""

    caption: str
    true: Tensor
    generated: Tensor


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A question with an answer, by files of images.

    Attributes:
        shown: Images of the question.
        question: Its words.
        answer: The model's words.
        drawn: The model's image, if one was asked for.
        true: True answers.
        references: True images.
        score: What the answer is worth; None if single answers have no score.
    """

    shown: Sequence[Path]
    question: str
    answer: str
    drawn: Path | None
    true: str
    references: Sequence[Path]
    score: float | None


@dataclass(frozen=True, slots=True)
class DrawnAnswer:
    """What a tuned model was shown and told, the image that it drew, and the true one; images (3, S, S)."""

    shown: Sequence[Tensor]
    words: str
    generated: Tensor
    true: Tensor


def write_samples(
    run: FinishedRun,
    folder: str,
    captioned: dict[str, list[Captioned]],
    drawings: dict[str, list[Drawing]],
    pages: Sequence[Continuation],
    videos: Sequence[Continuation],
    films: Sequence[Film] = (),
) -> None:
    """Write one sheet per kind of result, and one with all of them.

    Args:
        run: The model, which continues a page and videos.
        folder: Folder of the sheets.
        captioned: Captioned images of each set of samples.
        drawings: Generated images of each set of samples.
        pages: Pages, of which one is continued.
        videos: Videos, of which some are continued.
        films: Films that the video decoder has drawn.
    """
    sheets = {"captions": captions_sheet(captioned)} if captioned else {}
    if run.decoder is not None:
        if drawings:
            sheets["images"] = images_sheet(drawings)
        if pages:
            sheets["page"] = page_sheet(run, min(pages, key=_places))
        if videos:
            sheets["video"] = video_sheet(run, _chosen(videos))
    if films:
        sheets["films"] = films_sheet(films)
    for name, sheet in sheets.items():
        _write(stacked([sheet], WIDTH, MARGIN), storage.join(folder, f"{name}.png"))
    if sheets:
        _write(stacked([*sheets.values()], WIDTH, MARGIN), storage.join(folder, "contact_sheet.png"))


def write_answers(path: str, title: str, answered: Sequence[AnsweredQuestion]) -> None:
    """Write a sheet of answers to questions: what scores 0 is red."""
    bands = [_title(title, "what the model answers; below it the truth")]
    for start in range(0, len(answered), _COLUMNS):
        bands.append(_row([_answer_cell(cell) for cell in answered[start : start + _COLUMNS]]))
    _write(stacked(bands, WIDTH, MARGIN), path)


def write_drawn_answers(path: str, answers: dict[str, list[DrawnAnswer]]) -> None:
    """Write the sheet of images with which a tuned model answers, by source."""
    bands = [_title("Request → image", "what is shown and said; what the model draws; a true image of it")]
    for source, cells in answers.items():
        column = Column(_inner(), 100)
        column.text([(source, INK)], BODY)
        bands += [column.done(), _row([_drawn_answer_cell(cell) for cell in cells[:_COLUMNS]])]
    _write(stacked(bands, WIDTH, MARGIN), path)


def captions_sheet(captioned: dict[str, list[Captioned]]) -> Image.Image:
    """Return the sheet of images above the model's caption and the true one."""
    bands = [_title("Image → caption", "what the model writes, wrong words in red; below it the true caption")]
    for name, cells in captioned.items():
        bands += _heading(name)
        bands.append(_row([_caption_cell(cell) for cell in cells[:_COLUMNS]]))
    return stacked(bands, _inner())


def images_sheet(drawings: dict[str, list[Drawing]]) -> Image.Image:
    """Return the sheet of the model's images, above their captions and small true images."""
    bands = [_title("Caption → image", "what the model generates; below it the caption, and a true image of it")]
    for name, cells in drawings.items():
        bands += _heading(name)
        bands.append(_row([_drawing_cell(cell) for cell in cells[:_COLUMNS]]))
    return stacked(bands, _inner())


def page_sheet(run: FinishedRun, page: Continuation) -> Image.Image:
    """Return the sheet of a page: the model's input, its continuation, and the true continuation."""
    prompt = page.prompt(run.layout)
    room = run.model.config.language_model.max_positions - len(prompt.sequence.token_ids)
    slots = run.model.config.bridge.image_slots + 2
    tokens = max(1, min(_PAGE_TOKENS, room - _PAGE_IMAGES * slots))
    settings = GenerationConfig(max_new_tokens=tokens, max_images=_PAGE_IMAGES)
    result = run.continue_prompts([prompt], settings)[0]
    columns = [Column(_third(), _MAX_HEIGHT) for _ in range(3)]
    given, own, true = columns
    for column, heading in zip(columns, ("Given", "The model's continuation", "The true continuation"), strict=True):
        column.text([(heading, GREY)], SMALL)
    images = iter(page.context_images)
    for part in page.context:
        if isinstance(part, Text):
            given.text([(run.tokenizer.decode(part.ids), INK)], BODY)
        else:
            given.image(_image(next(images)))
    for chunk in result.parts:
        if isinstance(chunk, Tensor):
            own.image(_image(run.draw(chunk[None])[0]))
        else:
            own.text([(run.tokenizer.decode(chunk), OWN)], BODY)
    if isinstance(result.parts[-1], Tensor):
        own.text([("(ends here)", GREY)], SMALL)
    true.image(_image(page.truth))
    for text in page.rest:
        true.text([(run.tokenizer.decode(text.ids), INK)], BODY)
    sheet = side_by_side([column.done() for column in columns], _third(), 2 * GAP)
    return stacked([_title("A page continued", "images and text in turn"), sheet], _inner())


def video_sheet(run: FinishedRun, videos: Sequence[Continuation]) -> Image.Image:
    """Return the sheet of videos: frames and texts, the next frame as predicted without and with text, the true one."""
    drawn = [
        run.draw(run.generate_embeddings([v.prompt(run.layout, with_text=with_text) for v in videos]))
        for with_text in (False, True)
    ]
    bands = [_title("Video → next frame", "predicted from the frames to the left; then also from the text about it")]
    for video, without_text, with_text in zip(videos, *drawn, strict=True):
        cells = [Column(_cell_width(), _MAX_HEIGHT)]
        images = iter(video.context_images)
        for part in video.context:
            if isinstance(part, ImageSegment):
                cells.append(Column(_cell_width(), _MAX_HEIGHT))
                cells[-1].image(_image(next(images)))
            else:
                cells[-1].text([(run.tokenizer.decode(part.ids), INK)], SMALL)
        said = " ".join(run.tokenizer.decode(text.ids) for text in video.rest)
        for image, label, colour, words in (
            (without_text, "predicted", OWN, ""),
            (with_text, "predicted with:", OWN, said),
            (video.truth, "the next frame", GREY, said),
        ):
            if image is with_text and not said:
                continue
            cells.append(Column(_cell_width(), _MAX_HEIGHT))
            cells[-1].image(_image(image))
            cells[-1].text([(label, colour), (f" {words}", INK)], SMALL)
        filled = [cell.done() for cell in cells]
        title, shown = filled[0], filled[1:][-_NUM_FRAMES - 3 :]
        bands.append(_row([title, *shown] if title.height > 1 else shown))
    return stacked(bands, _inner())


def films_sheet(films: Sequence[Film]) -> Image.Image:
    """Return the sheet of films: their frames, and what the decoders and the whole model make of them."""
    bands = [_title("Frames → film", "held-out videos, drawn from the visual embeddings of their frames")]
    for film in films[:_NUM_FILMS]:
        rows = [("the video", film.true), ("drawn by the video decoder", film.drawn)]
        rows += [("drawn frame by frame by the image decoder", film.alone)] if film.alone is not None else []
        rows += [("its first frame, then as the model predicts from all its words", film.continued)]
        strips = []
        for label, frames in rows:
            strip = Column(_quarter(), _MAX_HEIGHT)
            side = (_quarter() + _FRAME_GAP) // len(frames) - _FRAME_GAP
            strip.image(side_by_side([_image(frame, side) for frame in frames], side, _FRAME_GAP))
            strip.text([(label, GREY if frames is film.true else OWN)], SMALL)
            strips.append(strip.done())
        words = Column(_inner(), 100)
        words.text([(film.texts.replace("\n", " "), INK)], SMALL)
        bands += [words.done(), side_by_side(strips, _quarter())]
    return stacked(bands, _inner())


def _chosen(videos: Sequence[Continuation]) -> list[Continuation]:
    """Choose long videos, with and without text about the predicted frame."""
    longest = sorted(videos, key=lambda video: -len(video.context_images))
    spoken, silent = [v for v in longest if v.rest], [v for v in longest if not v.rest]
    return [*spoken[: _NUM_VIDEOS - 1], *silent, *spoken[_NUM_VIDEOS - 1 :]][:_NUM_VIDEOS]


def _caption_cell(cell: Captioned) -> Image.Image:
    column = Column(_cell_width(), _MAX_HEIGHT)
    column.image(_image(cell.image))
    column.text(_marked(cell.generated, cell.wrong) or [("(nothing)", GREY)], BODY - 2)
    column.text([(cell.true, GREY)], SMALL)
    return column.done()


def _drawing_cell(cell: Drawing) -> Image.Image:
    column = Column(_cell_width(), _MAX_HEIGHT)
    column.image(_image(cell.generated))
    column.text([(cell.caption, INK)], BODY - 2)
    column.image(_image(cell.true, _CELL // 2))
    return column.done()


def _drawn_answer_cell(cell: DrawnAnswer) -> Image.Image:
    column = Column(_cell_width(), _MAX_HEIGHT)
    for image in cell.shown:
        column.image(_image(image, _CELL // 2))
    column.text([(cell.words, INK)], SMALL)
    column.image(_image(cell.generated))
    column.image(_image(cell.true, _CELL // 2))
    return column.done()


def _answer_cell(cell: AnsweredQuestion) -> Image.Image:
    column = Column(_cell_width(), _MAX_HEIGHT)
    for path in cell.shown:
        column.image(_opened(path))
    if cell.question:
        column.text([(cell.question, INK)], SMALL)
    if cell.drawn is not None:
        column.image(_opened(cell.drawn))
    else:
        own = WRONG if cell.score == 0 else OWN
        column.text([(cell.answer, own)] if cell.answer else [("(nothing)", GREY)], BODY - 2)
    if cell.true:
        column.text([(cell.true, GREY)], SMALL)
    for path in cell.references:
        column.image(_opened(path, _CELL // 2))
    return column.done()


def _opened(path: Path, side: int = _CELL) -> Image.Image:
    pixels = decode_upright(path.read_bytes())[:, :, ::-1]  # RGB
    return _image(torch.from_numpy(pixels.copy()).permute(2, 0, 1), side)


def _marked(text: str, wrong: Sequence[tuple[int, int]]) -> list[Run]:
    colours = [OWN] * len(text)
    for start, end in wrong:
        colours[start:end] = [WRONG] * (end - start)
    return list(zip(text, colours, strict=True))


def _image(image: Tensor, side: int = _CELL) -> Image.Image:
    """Convert (3, S, S) uint8 to an image; a small one is enlarged with visible pixels."""
    shown = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    if shown.width <= side:
        return ImageOps.scale(shown, max(1, side // shown.width), Image.Resampling.NEAREST)
    return ImageOps.contain(shown, (side, side), Image.Resampling.LANCZOS)


def _places(page: Continuation) -> int:
    """Return the approximate room that a page's context takes: its tokens, and 40 per image."""
    return sum(len(part.ids) if isinstance(part, Text) else 40 for part in page.context)


def _title(title: str, explanation: str) -> Image.Image:
    column = Column(_inner(), 200)
    column.rule()
    column.text([(title, INK)], HEADING)
    column.text([(explanation, GREY)], SMALL)
    return column.done()


def _heading(name: str) -> list[Image.Image]:
    column = Column(_inner(), 100)
    column.text([(TITLES[name], INK)], BODY)
    return [column.done()] if TITLES[name] else []


def _row(cells: Sequence[Image.Image]) -> Image.Image:
    return side_by_side(cells, _cell_width())


def _inner() -> int:
    return WIDTH - 2 * MARGIN


def _cell_width() -> int:
    return (_inner() - (_COLUMNS - 1) * GAP) // _COLUMNS


def _quarter() -> int:
    return (_inner() - 3 * GAP) // 4


def _third() -> int:
    return (_inner() - 4 * GAP) // 3


def _write(sheet: Image.Image, path: str) -> None:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)  # in full colour: with 256 colours, orange turns to red
    storage.write_bytes(path, buffer.getvalue())
