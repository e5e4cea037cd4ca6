"""Tests of the model as it is used from Python, on a run of the debug size with random weights."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import model
from model import Frames, LoadedModel, Region
from model.errors import PromptError, WeightsError
from model.generation import Generated
from model.sequence import LayoutConfig
from model.template import TemplateSettings
from model.template_layout import TemplateLayout
from model.tokenizer import IMAGE_START, Tokenizer
from tests.trainer.finished_runs import write_run
from trainer.evaluation.generate import Request, generate
from trainer.evaluation.prompts import read_prompt

SAMPLED = {"temperature": 1.0, "max_new_tokens": 12}
BOX = (0.25, 0.25, 0.75, 0.75)


@pytest.fixture(scope="module")
def folder(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loaded")
    write_run(folder, training_corpus)
    return folder


@pytest.fixture(scope="module")
def emu(folder: Path) -> LoadedModel:
    return model.load(folder, batch=2)


@pytest.fixture
def tuned(emu: LoadedModel) -> Callable[..., LoadedModel]:
    """A function that returns the model as if it had been tuned with a template."""

    def build(form: str) -> LoadedModel:
        template = TemplateSettings.model_validate({"form": form, "system": "Answer."})
        tokenizer = Tokenizer(emu.run.tokenizer.base, "emu2", chat=template.chats)
        layout = TemplateLayout(tokenizer, emu.run.model.config.bridge, LayoutConfig(), template)
        return LoadedModel(replace(emu.run, tokenizer=tokenizer, layout=layout))

    return build


@pytest.fixture
def red() -> Image.Image:
    return Image.new("RGB", (20, 10), "red")


@pytest.fixture
def path(tmp_path: Path, red: Image.Image) -> Path:
    red.save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_it_answers_as_the_command_does(emu: LoadedModel, path: Path, tmp_path: Path):
    config = emu.run.generation.model_copy(update={**SAMPLED, "max_images": 1})
    for want in ("text", "image", "both"):
        [row] = generate(emu.run, [f"one [image:{path}] two"], Request(want, config, seed=3), str(tmp_path))
        found = emu.generate("one ", path, " two", want=want, seed=3, **SAMPLED)
        assert "".join(part for part in found if isinstance(part, str)) == row["text"]
        drawn = [np.asarray(part) for part in found if isinstance(part, Image.Image)]
        assert len(drawn) == len(row["images"]) == (want != "text")
        assert all((a == np.asarray(Image.open(tmp_path / b))).all() for a, b in zip(drawn, row["images"], strict=True))


def test_an_image_may_be_given_in_any_form(emu: LoadedModel, red: Image.Image, path: Path):
    clear = Image.new("RGBA", (20, 10), (255, 0, 0, 255))
    forms = [red, np.asarray(red), path.read_bytes(), path, str(path), clear]
    pixels = {emu._pixels(form).numpy().tobytes() for form in forms}
    assert pixels == {np.array([255, 0, 0], np.uint8).repeat(16 * 16).tobytes()}
    assert emu.caption(str(path), **SAMPLED) == emu.generate(red, **SAMPLED)[0]


def test_transparency_is_white_and_turned_photos_are_upright(emu: LoadedModel):
    clear = emu._pixels(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert (clear == 255).all()
    halves = Image.fromarray(np.repeat(np.array([[[0]], [[255]]], np.uint8), 3, 2).repeat(8, 0).repeat(16, 1))
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # upside down
    halves.save(turned, "PNG", exif=exif)
    upright = emu._pixels(Image.open(turned))
    assert (upright[0, 0] == 255).all()
    assert (upright[0, -1] == 0).all()


def test_prompts_have_boxes_and_frames(emu: LoadedModel, red: Image.Image):
    prompt = emu._prompt(["a ", Region("red boat", BOX), " here", Frames([red, red], [0.5, 1.5])])
    asked = read_prompt("a [box:red boat:0.25,0.25,0.75,0.75] here", emu.run, num_frames=2)
    length = len(asked.sequence.token_ids)
    assert (prompt.sequence.token_ids[:length] == asked.sequence.token_ids).all()
    assert prompt.sequence.frames == (True, True)


def test_a_box_keeps_its_words_where_spaces_are_left_out(emu: LoadedModel):
    inner = emu._prompt(["  a ", Region("red boat", BOX), "  "]).sequence.token_ids
    assert (inner == emu._prompt(["a ", Region("red boat", BOX)]).sequence.token_ids).all()


def test_many_prompts_are_answered_as_one_by_one(emu: LoadedModel, red: Image.Image):
    prompts: list[list] = [["one"], [red, "two"], ["three and four"]]
    together = emu.generate_all(prompts, max_new_tokens=6)
    assert together == [emu.generate(*parts, max_new_tokens=6) for parts in prompts]


@pytest.mark.parametrize("want", ["text", "both"])
@pytest.mark.parametrize("begins_images", [False, True])
def test_pieces_of_a_stream_are_the_answer(emu: LoadedModel, want: str, begins_images: bool):
    config = emu.run.layout.config
    ignored = tuple(name for name in config.ignored if not begins_images or name != IMAGE_START)
    layout = type(emu.run.layout)(
        emu.run.tokenizer, emu.run.model.config.bridge, config.model_copy(update={"ignored": ignored})
    )
    loaded = LoadedModel(replace(emu.run, layout=layout))
    options = {**SAMPLED, "max_new_tokens": 40, "max_images": 2}
    for seed in range(4):
        pieces = list(loaded.stream("a red", want=want, seed=seed, **options))
        whole = loaded.generate("a red", want=want, seed=seed, **options)
        assert len(pieces) > len(whole)
        assert joined(pieces) == joined(whole)


def joined(parts: Sequence[str | Image.Image]) -> list[str | bytes]:
    found: list[str | bytes] = []
    for part in parts:
        if isinstance(part, Image.Image):
            found.append(part.tobytes())
        elif found and isinstance(found[-1], str):
            found[-1] += part
        else:
            found.append(part)
    return found


@pytest.mark.parametrize(
    "text", ["a <phrase>red boat</phrase><object><patch_index_0010><patch_index_0020><patch_index_0030>"]
)
def test_a_box_is_streamed_whole(emu: LoadedModel, text: str):
    ids = [i for part in (text + "<patch_index_0040></object> on é", " a lake") for i in tokens(part, emu)]
    states = (Generated([ids[:n]]) for n in range(1, len(ids) + 1))
    pieces = list(emu._pieces(states, 0, None))
    assert "".join(map(str, pieces)) == "a [box:red boat:0.0446,0.0893,0.134,0.179] on é a lake"
    assert any(str(piece).count("[box:") and str(piece).count("0.179]") for piece in pieces)


def tokens(text: str, emu: LoadedModel) -> list[int]:
    import re

    parts = re.split("(" + "|".join(map(re.escape, emu.run.tokenizer.ids)) + ")", text)
    ids = emu.run.tokenizer.ids
    return [i for part in parts if part for i in ([ids[part]] if part in ids else emu.run.tokenizer.encode(part))]


def test_a_stream_that_is_left_ends(emu: LoadedModel):
    stream = emu.stream("a red", max_new_tokens=100, temperature=1.0)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []


def test_a_conversation_is_written_by_its_template(tuned: Callable[..., LoadedModel], red: Image.Image):
    chat = tuned("chat")
    messages = [
        {"role": "user", "content": [red, "What is this?"]},
        {"role": "assistant", "content": "A square."},
        {"role": "user", "content": "Which colour?"},
    ]
    text = chat.run.tokenizer.decode(chat.conversation(messages).sequence.token_ids, with_own=True)
    slots = "<image>" * 4
    assert text == (
        f"<s>Answer. [USER]: [IMG]{slots}[/IMG]What is this? [ASSISTANT]: A square.</s>"
        "[USER]: Which colour? [ASSISTANT]:"
    )
    other = chat.conversation([{"role": "system", "content": "Be brief."}, *messages])
    assert chat.run.tokenizer.decode(other.sequence.token_ids, with_own=True) == text.replace("Answer.", "Be brief.")


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "messages: there are none"),
        ([{"role": "assistant", "content": "x"}], "message 1: its role is 'assistant', and 'user' is due"),
        ([{"role": "user", "content": ""}], "message 1: has no content"),
        ([{"role": "user"}], "message 1: has no content"),
        ([{"role": "user", "content": "x"}] * 2, "message 2: its role is 'user', and 'assistant' is due"),
        (
            [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}],
            "message 2: its role is 'system', and 'assistant' is due",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
            "messages: the last one must be the user's",
        ),
        (
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": [b"y"]}],
            "message 2: the assistant's messages may contain only words",
        ),
    ],
)
def test_a_conversation_out_of_order_is_refused(tuned: Callable[..., LoadedModel], messages: list, error: str):
    with pytest.raises(PromptError, match=f"^{error}"):
        tuned("chat").chat(messages)


def test_a_model_without_conversations_continues_one_message(emu: LoadedModel, red: Image.Image):
    assert emu.chat([{"role": "user", "content": [red]}], **SAMPLED) == emu.caption(red, **SAMPLED)
    with pytest.raises(PromptError, match="was not tuned for conversations"):
        emu.chat([{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])


def test_a_model_for_conversations_that_has_learned_to_draw_edits(
    training_corpus: str, tmp_path: Path, red: Image.Image
):
    write_run(tmp_path, training_corpus, template=TemplateSettings(form="chat", system="Answer.", draws=True))
    chatting = model.load(tmp_path)
    edited = chatting.edit(red, "Make it blue.", seed=1)
    again = chatting.edit(red, "Make it blue.", seed=1)
    other = chatting.edit(Image.new("RGB", (20, 10), "blue"), "Make it blue.", seed=1)
    assert np.asarray(edited).tobytes() == np.asarray(again).tobytes() != np.asarray(other).tobytes()
    turns = [{"role": "user", "content": ["Draw."]}, {"role": "assistant", "content": [red]}]
    shown = chatting.conversation([*turns, {"role": "user", "content": "What is it?"}])
    assert shown.images is not None
    assert len(shown.images) == 1
    assert chatting.chat(shown, **SAMPLED) == chatting.chat(
        [*turns, {"role": "user", "content": "What is it?"}], **SAMPLED
    )


def test_what_a_model_cannot_do_is_refused(tuned: Callable[..., LoadedModel], emu: LoadedModel, red: Image.Image):
    with pytest.raises(PromptError, match="was tuned to generate only texts"):
        tuned("chat").draw("a boat")
    with pytest.raises(PromptError, match="was tuned to generate only images"):
        tuned("generation").caption(red)
    with pytest.raises(PromptError, match="has no image decoder"):
        LoadedModel(replace(emu.run, decoder=None)).draw("a boat")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda emu: emu.caption(b"no image"), "not a readable image"),
        (lambda emu: emu.caption("none.png"), r"none\.png: not a readable image: No such file"),
        (lambda emu: emu.caption(np.zeros((4, 4, 9), np.uint8)), "not a readable image"),
        (lambda emu: emu.draw(Region("x", (0.5, 0, 0.2, 1))), r"the box of 'x': \(0\.5, 0, 0\.2, 1\) is not"),
        (lambda emu: emu.generate("x", max_tokens=3), "max_tokens: Extra inputs are not permitted"),
        (lambda emu: emu.generate("x", temperature=0), "temperature: Input should be greater than 0"),
        (lambda emu: emu.generate("word " * 4000), "a prompt takes"),
        (lambda emu: emu.generate("a" * 1_000_000), "a prompt takes"),
        (lambda emu: emu.generate(*[Image.new("RGB", (4, 4))] * 60), "a prompt takes .* or give fewer"),
        (lambda emu: emu.generate("word", max_new_tokens=100_000), "give --max-new-tokens"),
        (lambda emu: emu.generate(Frames([b"x"], [0.0, 1.0])), "frames: 1 images and 2 times"),
        (lambda emu: emu.stream("x", num_beams=4), "num_beams: beam search has no pieces"),
    ],
)
def test_mistakes_are_one_line(emu: LoadedModel, call: Callable[[LoadedModel], object], error: str):
    with pytest.raises(PromptError, match=f"^'?.*{error}") as found:
        call(emu)
    assert "\n" not in str(found.value)


def test_a_cut_image_is_refused(emu: LoadedModel, tmp_path: Path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "whole.png")
    with pytest.raises(PromptError, match=r"^not a readable image: broken PNG: "):
        emu.caption((tmp_path / "whole.png").read_bytes()[:4000])


def test_seeds_decide(emu: LoadedModel):
    images = [np.asarray(emu.draw("a red", seed=seed)) for seed in (0, 0, 1)]
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


def test_an_edit_is_drawn_from_image_and_instruction(emu: LoadedModel, red: Image.Image):
    edited = emu.edit(red, "make it blue", seed=2)
    assert edited == emu.draw(red, "make it blue", seed=2)
    assert edited.size == (emu.run.image_size,) * 2


def test_a_folder_without_weights_is_named(tmp_path: Path):
    with pytest.raises(WeightsError, match="no weights in"):
        model.load(tmp_path)
    assert torch.is_grad_enabled()
