"""Tests of the templates of tuning, for samples and for prompts."""

import dataclasses
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from model.config import BridgeConfig
from model.segment import ImageSegment, Segment, grounded_text, text
from model.sequence import TEXT, VISUAL, Layout, LayoutConfig, Sequence
from model.template import TemplateSettings
from model.template_layout import ANSWER, TemplateLayout, box_image
from model.tokenizer import Family, Tokenizer
from pipelines.text.byte_level_bpe import train_bpe

SLOTS = "[IMG]" + "<image>" * 4 + "[/IMG]"
SYSTEM = "You are a helpful assistant, dedicated to delivering comprehensive and meticulous responses."
BOX = (0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(train_bpe(["a red boat"], 259))
    return path


def layouts(tokenizer_file: Path) -> Callable[..., TemplateLayout]:
    """Return a function that builds the layout of templates by a family and settings."""

    def build(family: Family = "emu2", **settings: object) -> TemplateLayout:
        chosen = TemplateSettings.model_validate(settings)
        tokenizer = Tokenizer.load(tokenizer_file, family, chat=chosen.chats)
        return TemplateLayout(tokenizer, BridgeConfig(image_slots=4, frame_slots=4), LayoutConfig(), chosen)

    return build


@pytest.fixture
def layout(tokenizer_file):
    return layouts(tokenizer_file)


def shown(layout: TemplateLayout, sequence: Sequence, kind: int | None = None) -> str:
    ids = sequence.token_ids if kind is None else sequence.token_ids[sequence.targets == kind]
    return layout.tokenizer.decode(ids, with_own=True)


def written(layout: TemplateLayout, *segments: Segment, seq_len: int = 512) -> list[Sequence]:
    return [layout.lay_out(window, random.Random(0)) for window in layout.split(segments, seq_len)]


def pair(layout: TemplateLayout, number: int = 0, caption: str = "a cat") -> list[Segment]:
    return [ImageSegment(number), text(caption, layout.tokenizer, role="caption")]


def test_a_captioned_image_becomes_a_question_and_its_answer(layout):
    chat = layout(instructions=["What is it?"])
    (sequence,) = written(chat, *pair(chat))
    assert shown(chat, sequence) == f"<s>{SYSTEM} [USER]: {SLOTS}What is it? [ASSISTANT]: a cat</s>"
    assert shown(chat, sequence, TEXT) == " a cat</s>"
    assert VISUAL not in sequence.targets


def test_each_captioned_image_is_a_turn_and_all_answers_are_learned(layout):
    chat = layout(system="", instructions=["What is it?"])
    body = text("elsewhere", chat.tokenizer)
    (sequence,) = written(chat, *pair(chat), body, *pair(chat, 1, "a dog"))
    question = f"[USER]: {SLOTS}What is it? [ASSISTANT]:"
    assert shown(chat, sequence) == f"<s>{question} a cat</s>{question} a dog</s>"
    assert shown(chat, sequence, TEXT) == " a cat</s> a dog</s>"
    assert sequence.images == (0, 1)


def test_emu_instruct_says_what_it_is_given(layout):
    emu = layout("emu", form="emu")
    (sequence,) = written(emu, *pair(emu))
    system = (
        "You will be presented with an image: [IMG]ImageContent[/IMG]. You will be able to see the image after I "
        "provide it to you. Please answer my questions based on the given image."
    )
    assert shown(emu, sequence) == f"<s>{system} [USER]: {SLOTS}Describe the image. [ASSISTANT]: a cat</s>"
    assert shown(emu, sequence, TEXT) == " a cat</s>"
    start, end = emu.ids["[IMG]"], emu.ids["[/IMG]"]
    assert [int(np.sum(sequence.token_ids == i)) for i in (start, end)] == [2, 2]


def test_a_video_is_asked_about_as_such(layout):
    emu = layout("emu", form="emu")
    caption = text("a cat runs", emu.tokenizer, role="caption")
    (sequence,) = written(emu, ImageSegment(0, frame=True), ImageSegment(1, frame=True), caption)
    assert "a video consisting of multiple chronological images" in shown(emu, sequence)
    chat = layout()
    (sequence,) = written(chat, ImageSegment(0, frame=True), ImageSegment(1, frame=True), caption)
    assert f"[USER]: [VIDEO]{SLOTS.replace('<image>', '[gIMG]') * 2}Describe" in shown(chat, sequence)
    assert shown(chat, sequence, TEXT) == " a cat runs</s>"


def test_boxes_are_asked_for_and_learned(layout):
    chat = layout(instructions=["What is it?"])
    caption = grounded_text("a cat here", [(2, 5, BOX)], chat.tokenizer)
    (window,) = chat.split([ImageSegment(0), caption], 512)
    sequence = chat.lay_out(window)
    system = "You are a helpful assistant, dedicated to provide concise and efficient answers."
    located = "".join(f"<patch_index_{n:04d}>" for n in (56, 112, 168, 224))
    answer = f" a <phrase>cat</phrase><object>{located}</object> here</s>"
    assert shown(chat, sequence) == f"<s>{system} [USER]: {SLOTS}What is it? [ASSISTANT]:<grounding>{answer}"
    assert shown(chat, sequence, TEXT) == answer


def test_the_caption_decides_what_is_asked(layout):
    chat = layout(instructions=[f"Question {n}" for n in range(5)])
    asked = [shown(chat, written(chat, *pair(chat, caption=f"cat {n}"))[0]) for n in range(40)]
    again = [shown(chat, written(chat, *pair(chat, caption=f"cat {n}"))[0]) for n in range(40)]
    assert asked == again
    assert len({line.partition("Question ")[2][0] for line in asked}) == 5


def test_a_long_conversation_loses_turns_then_the_end_of_its_answer(layout):
    chat = layout(system="", instructions=["What?"])
    segments = [*pair(chat), *pair(chat, 1, "a dog")]
    one, both = (written(chat, *segments, seq_len=seq_len)[0] for seq_len in (30, 120))
    assert shown(chat, both, TEXT) == " a cat</s> a dog</s>"
    assert shown(chat, one, TEXT) == " a cat</s>"
    (cut,) = written(chat, *segments, seq_len=len(one.token_ids) - 3)
    assert shown(chat, cut, TEXT) == " a c"
    assert len(cut.token_ids) == len(one.token_ids) - 3
    with pytest.raises(ValueError, match="a window has 15"):
        chat.split(segments, 15)


def test_a_sample_without_captioned_images_is_none(layout):
    chat = layout()
    assert chat.split([text("a page", chat.tokenizer), ImageSegment(0)], 512) == []


def test_of_a_drawing_the_image_alone_is_learned(layout):
    gen = layout(form="generation")
    first, second = written(gen, *pair(gen), *pair(gen, 1, "a dog"))
    assert shown(gen, first) == f"<s>a cat{SLOTS}</s>"
    assert shown(gen, second) == f"<s>a dog{SLOTS}</s>"
    assert shown(gen, first, TEXT) == ""
    assert shown(gen, first, VISUAL) == "<image>" * 4


def test_boxes_of_a_drawing_are_images(layout):
    gen = layout(form="generation")
    caption = grounded_text("a cat here", [(2, 5, BOX), (2, 5, (0, 0, 0.5, 0.5))], gen.tokenizer)
    (sequence,) = written(gen, ImageSegment(0), caption)
    objects = f"<object>{SLOTS}</delimiter_of_multi_objects/>{SLOTS}</object>"
    assert shown(gen, sequence) == f"<s><grounding>a <phrase>cat</phrase>{objects} here{SLOTS}</s>"
    assert sequence.images == (-1, -2, 0)
    assert np.flatnonzero(sequence.targets == VISUAL).tolist() == np.flatnonzero(sequence.slots)[-4:].tolist()


def test_a_box_is_a_white_outline_on_black():
    canvas = box_image(BOX, 448)
    assert canvas.shape == (448, 448, 3)
    assert (canvas[224, 112:337] == 255).all()
    assert (canvas[230:440, 120:330] == 0).all()
    assert (canvas[:220] == 0).all()


def asked(layout: TemplateLayout, *segments: Segment) -> str:
    return shown(layout, layout.prompt(segments))


def test_a_prompt_is_a_conversation_without_its_last_answer(layout):
    chat = layout(instructions=["What is it?"])
    (sequence,) = written(chat, *pair(chat))
    prompt = chat.prompt([ImageSegment(0), text("What is it?", chat.tokenizer)])
    size = len(prompt.token_ids)
    assert prompt.token_ids.tolist() == sequence.token_ids[:size].tolist()
    assert shown(chat, sequence)[len(shown(chat, prompt)) :] == " a cat</s>"
    assert prompt.images == (0,)
    assert chat.prompt([ImageSegment(0)]).token_ids.tolist() == prompt.token_ids.tolist()


def test_a_prompt_continues_a_conversation(layout):
    chat = layout(system="")
    said = [text("[IMG]?", chat.tokenizer), text("No.", chat.tokenizer, role=ANSWER)]
    more = [text("And", chat.tokenizer), ImageSegment(0), ImageSegment(1)]
    begin, later = "<s>[USER]: [IMG]? [ASSISTANT]: No.", f"</s>[USER]: And{SLOTS}{SLOTS} [ASSISTANT]:"
    assert asked(chat, *said, *more) == begin + later
    assert asked(chat, *said, *more, text("It is", chat.tokenizer, role=ANSWER)) == begin + later + " It is"
    prompt = chat.prompt(said)
    assert chat.ids["[IMG]"] not in prompt.token_ids  # what a user types is text


def test_a_prompt_for_a_drawing_is_a_sample_up_to_its_image(layout):
    gen = layout(form="generation")
    caption = grounded_text("a cat here", [(2, 5, BOX), (2, 5, (0, 0, 0.5, 0.5))], gen.tokenizer)
    for words in (caption, text("a cat", gen.tokenizer, role="caption")):
        (sequence,) = written(gen, ImageSegment(0), words)
        prompt = gen.prompt([words], draw=True)
        assert prompt.token_ids.tolist() == sequence.token_ids[: len(prompt.token_ids)].tolist()
        assert prompt.images == sequence.images[:-1]
        assert shown(gen, prompt).endswith("[IMG]")
    example = gen.prompt([ImageSegment(0), text("on the beach", gen.tokenizer)], draw=True)
    assert shown(gen, example) == f"<s>{SLOTS}on the beach[IMG]"


# --- as the released models' own tokenizer writes prompts ---


@pytest.fixture(scope="module")
def llama_file(tmp_path_factory):
    """A sentencepiece model of LLaMA's kind."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "text.txt").write_text("You are a helpful assistant. What is it? A red boat beside the grey dock.\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=340, model_type="bpe",
        byte_fallback=True, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )  # fmt: skip
    return folder / "tokenizer.model"


@pytest.fixture
def released(llama_file):
    return layouts(llama_file)


def slow_ids(content: str, tokenizer: Tokenizer) -> list[int]:
    """Ids as of transformers 4.31: split at special tokens, white space beside these stripped, each part by itself."""
    special = {**tokenizer.ids, "</s>": tokenizer.eos_id}
    ids = [tokenizer.bos_id]
    for part in re.split("(" + "|".join(map(re.escape, special)) + ")", content):
        ids += [special[part]] if part in special else tokenizer.base.model.encode(part.strip()) if part.strip() else []
    return ids


FRAME = SLOTS.replace("<image>", "[gIMG]")
EMU_SYSTEM = (
    "You will be presented with an image: [IMG]ImageContent[/IMG]. You will be able to see the image after I provide "
    "it to you. Please answer my questions based on the given image."
)
EMU_VIDEO = (
    "You are a helpful assistant and you will be presented with a video consisting of multiple chronological images: "
    "[IMG]ImageContent[/IMG]. You will be able to see the video after I provide it to you. Please answer my questions "
    "based on the given video."
)


@pytest.mark.parametrize(
    ("family", "settings", "parts", "expected"),
    [
        ("emu2", {}, ["What is it?"], f"{SYSTEM} [USER]: What is it? [ASSISTANT]:"),
        ("emu2", {}, [0, "What is it?"], f"{SYSTEM} [USER]: {SLOTS}What is it? [ASSISTANT]:"),
        ("emu2", {}, ["Is", 0, "beside", 1, "?"], f"{SYSTEM} [USER]: Is{SLOTS}beside{SLOTS}? [ASSISTANT]:"),
        ("emu2", {}, [0j, 1j, "What?"], f"{SYSTEM} [USER]: [VIDEO]{FRAME * 2}What? [ASSISTANT]:"),
        (
            "emu2",
            {},
            [0, "What is it?", ("A red boat.",), "Where?"],
            f"{SYSTEM} [USER]: {SLOTS}What is it? [ASSISTANT]: A red boat.</s>[USER]: Where? [ASSISTANT]:",
        ),
        (
            "emu2",
            {},
            [0, "What is it?\n", 1, "\n and this?"],
            f"{SYSTEM} [USER]: {SLOTS}What is it?\n{SLOTS}\n and this? [ASSISTANT]:",
        ),
        ("emu2", {}, ["two\n lines ", 0], f"{SYSTEM} [USER]: two\n lines {SLOTS} [ASSISTANT]:"),
        ("emu2", {"system": " Answer.\n"}, ["What?"], " Answer.\n [USER]: What? [ASSISTANT]:"),
        ("emu", {"form": "emu"}, [0, "What?"], f"{EMU_SYSTEM} [USER]: {SLOTS}What? [ASSISTANT]:"),
        ("emu", {"form": "emu"}, [0, "a", 1, "b"], f"[USER]: {SLOTS}a{SLOTS}b [ASSISTANT]:"),
        ("emu", {"form": "emu"}, ["What?"], "[USER]: What? [ASSISTANT]:"),
        ("emu", {"form": "emu"}, [0j, 1j, "What?"], f"{EMU_VIDEO} [USER]: {SLOTS * 2}What? [ASSISTANT]:"),
        (
            "emu",
            {"form": "emu"},
            [0, "What?", ("The image depicts",)],
            f"{EMU_SYSTEM} [USER]: {SLOTS}What? [ASSISTANT]: The image depicts",
        ),
        ("emu2", {"form": "generation"}, ["A red boat"], "A red boat"),
        ("emu2", {"form": "generation"}, [0, "beside the dock."], f"{SLOTS}beside the dock."),
    ],
)
def test_prompts_are_those_of_the_released_tokenizer(released, family, settings, parts, expected):
    layout = released(family, **settings)
    segments: list[Segment] = []
    for part in parts:
        if isinstance(part, int | complex):
            segments.append(ImageSegment(int(abs(part)), frame=isinstance(part, complex)))
        else:
            role = ANSWER if isinstance(part, tuple) else "body"
            segments.append(text(part[0] if isinstance(part, tuple) else part, layout.tokenizer, role=role))
    assert layout.prompt(segments).token_ids.tolist() == slow_ids(expected, layout.tokenizer)


def test_phrases_of_a_released_prompt_have_no_lone_space_before_them(released):
    layout = released(form="generation")
    words = grounded_text("A red boat beside the dock.", [(2, 10, BOX)], layout.tokenizer)
    expected = f"<grounding>A<phrase>red boat</phrase><object>{SLOTS}</object>beside the dock.[IMG]"
    assert layout.prompt([words], draw=True).token_ids.tolist() == slow_ids(expected, layout.tokenizer)


def test_images_take_the_place_of_line_breaks_if_the_layout_says_so(llama_file):
    tokenizer = Tokenizer.load(llama_file, "emu2")
    bridge = BridgeConfig(image_slots=4, frame_slots=4)
    parts: list[Segment] = [text("a red boat", tokenizer), ImageSegment(0), text("the dock", tokenizer)]
    for separate, between in ((True, "\n"), (False, "")):
        layout = Layout(tokenizer, bridge, LayoutConfig(separate_across_images=separate))
        joined = [*parts, text("A boat", tokenizer)]
        shown_ids = layout.prompt(joined).token_ids
        found = tokenizer.decode(shown_ids, with_own=True)
        assert found == f"<s>a red boat{SLOTS}{between}{' ' * bool(between)}the dock\n A boat"
        (window,) = layout.split(joined, 256)
        lengths = {len(layout.lay_out(window, random.Random(seed)).token_ids) for seed in range(8)}
        assert lengths == {window.num_tokens} == {len(shown_ids) + 1}


# --- conversations --------------------------------------------------------------------------------------------------


def said(layout: TemplateLayout, *turns: tuple[str, object]) -> list[Segment]:
    """Return the segments of turns: texts as strings, images by their number."""
    return [
        ImageSegment(part, role=role) if isinstance(part, int) else text(str(part), layout.tokenizer, role=role)
        for role, part in turns
    ]


def targets(layout: TemplateLayout, sequence: Sequence) -> list[tuple[str, int]]:
    """Return each token with what is learned at it."""
    names = [shown(layout, dataclasses.replace(sequence, token_ids=np.array([i]))) for i in sequence.token_ids]
    return list(zip(names, sequence.targets.tolist(), strict=True))


def test_of_a_conversation_only_what_the_assistant_says_is_learned_token_by_token(layout):
    chat = layout(system="")
    turns = [("user", 0), ("user", "Hi?"), ("assistant", "Yo"), ("user", "So?"), ("assistant", "No")]
    (sequence,) = written(chat, *said(chat, *turns))
    image = [("[IMG]", 0), *[("<image>", 0)] * 4, ("[/IMG]", 0)]
    question = [*[(c, 0) for c in "Hi? "], ("[ASSISTANT]", 0), (":", 0)]
    answer = [(c, TEXT) for c in " Yo"] + [("</s>", TEXT)]
    more = [("[USER]", 0), *[(c, 0) for c in ": So? "], ("[ASSISTANT]", 0), (":", 0)]
    last = [(c, TEXT) for c in " No"] + [("</s>", TEXT)]
    opening = [("<s>", 0), ("[USER]", 0), (":", 0), (" ", 0)]
    assert targets(chat, sequence) == [*opening, *image, *question, *answer, *more, *last]


def test_an_image_of_the_assistant_is_regressed_and_those_of_the_user_are_not(layout):
    chat = layout(system="", draws=True)
    turns = [("user", 0), ("user", "Red."), ("assistant", "So:"), ("assistant", 1), ("user", "Blue."), ("assistant", 2)]
    (sequence,) = written(chat, *said(chat, *turns))
    assert shown(chat, sequence) == (
        f"<s>[USER]: {SLOTS}Red. [ASSISTANT]: So:{SLOTS}</s>[USER]: Blue. [ASSISTANT]:{SLOTS}</s>"
    )
    assert shown(chat, sequence, TEXT) == " So:</s></s>"
    assert shown(chat, sequence, VISUAL) == "<image>" * 8
    assert sequence.images == (0, 1, 2)
    assert not sequence.targets[: sequence.token_ids.tolist().index(chat.ids["[ASSISTANT]"])].any()


def test_a_conversation_with_an_image_as_answer_is_no_example_where_these_are_not_learned(layout):
    turns = [("user", "Red."), ("assistant", "So:"), ("assistant", 1)]
    assert written(layout(), *said(layout(), *turns)) == []
    assert len(written(layout(), *said(layout(), *turns[:2]))) == 1


def test_a_conversations_own_system_turn_replaces_the_released_one_and_is_only_text(layout):
    chat = layout()
    turns = [("system", "Say [IMG]."), ("user", "Hi?"), ("assistant", "Yo")]
    (sequence,) = written(chat, *said(chat, *turns))
    assert shown(chat, sequence) == "<s>Say [IMG]. [USER]: Hi? [ASSISTANT]: Yo</s>"
    assert chat.ids["[IMG]"] not in sequence.token_ids
    (released,) = written(chat, *said(chat, *turns[1:]))
    assert shown(chat, released) == f"<s>{SYSTEM} [USER]: Hi? [ASSISTANT]: Yo</s>"


def test_a_prompt_is_the_beginning_of_the_conversation_that_was_learned(layout):
    chat = layout(draws=True)
    turns = [("system", "S."), ("user", 0), ("user", "Red?"), ("assistant", "No"), ("user", "Draw."), ("assistant", 1)]
    (sequence,) = written(chat, *said(chat, *turns))
    ids = sequence.token_ids.tolist()
    for end, draw in ((3, False), (5, False), (5, True)):
        prompt = chat.prompt(said(chat, *turns[:end]), draw=draw).token_ids.tolist()
        assert ids[: len(prompt)] == prompt


def test_boxes_of_questions_and_answers_are_tokens_of_which_the_answers_are_learned(layout):
    chat = layout(system="")
    question = dataclasses.replace(grounded_text("my boat?", [(3, 7, BOX)], chat.tokenizer), role="user")
    answer = dataclasses.replace(grounded_text("a boat", [(0, 6, BOX)], chat.tokenizer), role="assistant")
    (window,) = chat.split([ImageSegment(0, role="user"), question, answer], 512)
    sequence = chat.lay_out(window)
    place = "<object>" + "".join(f"<patch_index_{v:04d}>" for v in (56, 112, 168, 224)) + "</object>"
    asked = f"<grounding>my <phrase>boat</phrase>{place}?"
    assert shown(chat, sequence) == (
        f"<s>[USER]: {SLOTS}{asked} [ASSISTANT]:<grounding> <phrase>a boat</phrase>{place}</s>"
    )
    assert shown(chat, sequence, TEXT) == f" <phrase>a boat</phrase>{place}</s>"


def test_a_long_conversation_loses_whole_turns_and_one_that_never_fits_is_refused(layout):
    chat = layout(system="", draws=True)
    turns = [("user", 0), ("user", "Hi?"), ("assistant", "Yo"), ("user", 1), ("user", "So?"), ("assistant", "No")]
    (whole,) = written(chat, *said(chat, *turns))
    (cut,) = written(chat, *said(chat, *turns), seq_len=len(whole.token_ids) - 1)
    assert shown(chat, cut) == f"<s>[USER]: {SLOTS}Hi? [ASSISTANT]: Yo</s>"
    assert cut.images == (0,)
    with pytest.raises(ValueError, match="a question takes 17 tokens, a window has 12"):
        written(chat, *said(chat, *turns), seq_len=12)
    with pytest.raises(ValueError, match="a question with its answer takes"):
        written(chat, *said(chat, ("user", "Draw."), ("assistant", 0)), seq_len=18)


def test_image_generation_learns_the_last_image_of_an_edit(layout):
    gen = layout(form="generation")
    turns = [("system", "S."), ("user", 0), ("user", "Red."), ("assistant", "So:"), ("assistant", 1)]
    (sequence,) = written(gen, *said(gen, *turns))
    assert shown(gen, sequence) == f"<s>{SLOTS}Red.{SLOTS}</s>"
    assert shown(gen, sequence, VISUAL) == "<image>" * 4
    assert sequence.targets[:10].sum() == 0
    assert gen.split(said(gen, *turns[:4]), 512) == []  # nothing is drawn
