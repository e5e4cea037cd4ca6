import random

import numpy as np
import pytest

from model.config import BridgeConfig
from model.segment import ImageSegment, Segment, Text, grounded_text, text
from model.sequence import NONE, TEXT, VISUAL, Layout, LayoutConfig, Sequence
from model.tokenizer import Tokenizer

BRIDGE = BridgeConfig(image_slots=4, frame_slots=3)


@pytest.fixture
def emu(tokenizers: dict[str, Tokenizer]) -> Layout:
    return Layout(tokenizers["emu"], BridgeConfig(image_slots=4, frame_slots=4))


@pytest.fixture
def emu2(tokenizers: dict[str, Tokenizer]) -> Layout:
    return Layout(tokenizers["emu2"], BRIDGE)


def _whole(layout: Layout, segments: list[Segment], seed: int | None = None, seq_len: int = 512) -> Sequence:
    (window,) = layout.split(segments, seq_len)
    return layout.lay_out(window, None if seed is None else random.Random(seed))


def _shown(layout: Layout, sequence: Sequence) -> str:
    return layout.tokenizer.decode(sequence.token_ids, with_own=True)


def _targets(layout: Layout, sequence: Sequence, kind: int) -> str:
    return layout.tokenizer.decode(sequence.token_ids[sequence.targets == kind], with_own=True)


def test_a_pair_in_emu(emu: Layout) -> None:
    sequence = _whole(emu, [ImageSegment(0), text("a cat", emu.tokenizer, role="caption")])
    assert _shown(emu, sequence) == "<s>[IMG]" + "<image>" * 4 + "[/IMG]a cat</s>"
    assert _targets(emu, sequence, TEXT) == "a cat</s>"
    assert _targets(emu, sequence, VISUAL) == "<image>" * 4 + "[/IMG]"
    assert sequence.images == (0,)
    assert sequence.slot_counts == (4,)
    assert np.flatnonzero(sequence.slots).tolist() == [2, 3, 4, 5]


def test_a_pair_in_emu2_has_no_target_after_the_slots(emu2: Layout) -> None:
    sequence = _whole(emu2, [ImageSegment(0), text("a cat", emu2.tokenizer, role="caption")])
    assert _targets(emu2, sequence, VISUAL) == "<image>" * 4
    assert _targets(emu2, sequence, TEXT) == "a cat</s>"
    assert _targets(emu2, sequence, NONE) == "<s>[IMG][/IMG]"


def test_a_model_may_learn_to_begin_images(tokenizers: dict[str, Tokenizer]) -> None:
    ignored = tuple(name for name in LayoutConfig().ignored if name != "[IMG]")
    layout = Layout(tokenizers["emu2"], BRIDGE, LayoutConfig(ignored=ignored))
    sequence = _whole(layout, [text("a", layout.tokenizer), ImageSegment(0)])
    assert _targets(layout, sequence, TEXT) == "a[IMG]</s>"


def test_video_frames_and_subtitles(emu2: Layout) -> None:
    say = [text(t, emu2.tokenizer, role="subtitle") for t in ("one", "two")]
    sequence = _whole(emu2, [ImageSegment(0, True, 0.0), say[0], ImageSegment(1, True, 65.0), say[1]])
    frame = "[IMG]" + "[gIMG]" * 3 + "[/IMG]"
    assert _shown(emu2, sequence) == f"<s>[VIDEO]{frame}one{frame} two</s>"
    assert sequence.frames == (True, True)


def test_frames_in_emu_are_images(emu: Layout) -> None:
    assert _shown(emu, _whole(emu, [ImageSegment(0, True)])) == "<s>[IMG]" + "<image>" * 4 + "[/IMG]</s>"


def test_frame_times_are_text_where_wanted(tokenizers: dict[str, Tokenizer]) -> None:
    layout = Layout(tokenizers["emu2"], BRIDGE, LayoutConfig(frame_times=True))
    frame = "[IMG]" + "[gIMG]" * 3 + "[/IMG]"
    sequence = _whole(layout, [ImageSegment(0, True, 5.2), ImageSegment(1, True, 65.0), ImageSegment(2, True)])
    assert _shown(layout, sequence) == f"<s>[VIDEO]0:05{frame}1:05{frame}{frame}</s>"


def test_texts_are_separated_images_between_them_or_not(emu2: Layout) -> None:
    parts = [text(t, emu2.tokenizer) for t in ("a", "b", "c")]
    shown = _shown(emu2, _whole(emu2, [parts[0], parts[1], ImageSegment(0), parts[2]]))
    assert shown == "<s>a\nb[IMG]" + "<image>" * 4 + "[/IMG]\nc</s>"


@pytest.mark.parametrize(("role", "behind"), [("caption", "One. Two."), ("body", "One.")])
def test_an_image_comes_before_or_behind_its_text(emu2: Layout, role: str, behind: str) -> None:
    segments = [ImageSegment(0), text("One. Two.", emu2.tokenizer, role=role)]
    image = "[IMG]" + "<image>" * 4 + "[/IMG]"
    shown = [_shown(emu2, _whole(emu2, segments, seed)) for seed in range(200)]
    first, second = f"<s>{image}One. Two.</s>", f"<s>{behind}{image}{'One. Two.'[len(behind) :]}</s>"
    assert set(shown) == {first, second}
    assert 70 < shown.count(first) < 130


def test_order_is_drawn_per_image_and_keeps_length_and_content(emu2: Layout) -> None:
    say = [text(t, emu2.tokenizer) for t in ("Aa. bb.", "Cc.", "Dd. ee")]
    segments = [say[0], ImageSegment(0), say[1], ImageSegment(1), ImageSegment(2), say[2], ImageSegment(3)]
    (window,) = emu2.split(segments, 512)
    plain = emu2.lay_out(window)
    orders = set()
    for seed in range(40):
        sequence = emu2.lay_out(window, random.Random(seed))
        assert len(sequence.token_ids) == window.num_tokens
        assert sequence.images == (0, 1, 2, 3)
        assert sorted(sequence.token_ids) == sorted(plain.token_ids)
        assert emu2.tokenizer.decode(sequence.token_ids) == emu2.tokenizer.decode(plain.token_ids)
        orders.add(_shown(emu2, sequence))
    assert len(orders) == 4


def test_grounded_phrases(emu2: Layout) -> None:
    caption = "a red boat, two ducks"
    regions = [(0, 10, (0.0, 0.25, 0.5, 1.0)), (12, 21, (0, 0, 1, 1)), (12, 21, (0.1, 0, 1, 1)), (2, 8, (0, 0, 1, 1))]
    segment = grounded_text(caption, regions, emu2.tokenizer)
    assert len(segment.phrases) == 2  # the third overlaps the first
    first = [f"<patch_index_{i:04d}>" for i in (0, 56, 112, 224)]
    second = [f"<patch_index_{i:04d}>" for i in (0, 0, 224, 224)]
    third = [f"<patch_index_{i:04d}>" for i in (22, 0, 224, 224)]
    one = f"<object>{''.join(first)}</object>"
    two = f"<object>{''.join(second)}</delimiter_of_multi_objects/>{''.join(third)}</object>"
    shown = _shown(emu2, _whole(emu2, [segment]))
    assert shown == f"<s><grounding><phrase>a red boat</phrase>{one}, <phrase>two ducks</phrase>{two}</s>"
    swapped = {_shown(emu2, _whole(emu2, [segment], seed)) for seed in range(60)}
    assert f"<s><grounding>{one}<phrase>a red boat</phrase>, {two}<phrase>two ducks</phrase></s>" in swapped
    assert len(swapped) == 4


def test_boxes_come_back_from_their_tokens(emu2: Layout) -> None:
    box = (0.1, 0.2, 0.85, 1.0)
    assert emu2.box(emu2.location_ids(box)) == pytest.approx(box, abs=0.5 / 224)


def test_emu_reads_grounded_captions_as_text(emu: Layout) -> None:
    segment = grounded_text("a red boat", [(2, 5, (0, 0, 1, 1))], emu.tokenizer)
    assert _shown(emu, _whole(emu, [segment])) == "<s>a red boat</s>"


def _random_sample(layout: Layout, rng: random.Random) -> list[Segment]:
    words = ["boat", "a", "lighthouse", "is.", "sea.", "red\n", "end.\n\n", "of"]
    segments: list[Segment] = []
    for i in range(rng.randint(1, 8)):
        if rng.random() < 0.4:
            segments.append(ImageSegment(i, frame=rng.random() < 0.3))
        elif rng.random() < 0.2:
            boxes = [(2, 6, (0.0, 0.0, 0.5, 0.5)), (7, 11, (0.0, 0.0, 1.0, 1.0))]
            segments.append(grounded_text("a boat here and more of it", boxes, layout.tokenizer))
        else:
            content = " ".join(rng.choice(words) for _ in range(rng.randint(0, 60)))
            segments.append(text(content, layout.tokenizer))
    return segments


def test_windows_fit_and_lose_nothing(emu2: Layout) -> None:
    rng = random.Random(0)
    for _ in range(150):
        segments = _random_sample(emu2, rng)
        seq_len = rng.randint(40, 120)
        windows = emu2.split(segments, seq_len)
        expected = [s for s in segments if isinstance(s, ImageSegment) or len(s.ids)]
        joined: list[Segment] = []
        for i, window in enumerate(windows):
            assert window.num_tokens <= seq_len
            assert window.last == (i == len(windows) - 1)
            sequence = emu2.lay_out(window, rng)
            assert len(sequence.token_ids) == window.num_tokens
            assert len(sequence.images) == window.num_images
            for part in window.segments:
                if isinstance(part, Text) and part.continued:
                    before = joined.pop()
                    joined.append(Text(np.concatenate([before.ids, part.ids]), before.role))
                else:
                    joined.append(part)
        assert len(joined) == len(expected)
        for got, wanted in zip(joined, expected, strict=True):
            same = got == wanted if isinstance(got, ImageSegment) else np.array_equal(got.ids, wanted.ids)
            assert same
        phrases = sum(len(p.phrases) for w in windows for p in w.segments if isinstance(p, Text))
        assert phrases == sum(len(s.phrases) for s in segments if isinstance(s, Text))


@pytest.mark.parametrize(
    ("content", "first"),
    [
        ("One one one. Two two two\n\nThree three three. Four four", "One one one. Two two two\n\n"),
        ("One one one. Two two two three three three. Four four", "One one one. Two two two three three three."),
        ("One one one two two two three three three four four four", "One one one two two two three three three fo"),
        ("One. Two two two three three three four four four five five", "One. Two two two three three three four four"),
    ],
)
def test_text_is_cut_at_a_paragraph_then_a_sentence_then_a_token(emu2: Layout, content: str, first: str) -> None:
    windows = emu2.split([text(content, emu2.tokenizer)], 46)  # 44 of them are left for text
    assert emu2.tokenizer.decode(emu2.lay_out(windows[0]).token_ids) == first
    assert len(windows) == 2


def test_a_window_ends_between_segments_rather_than_within_a_sentence(emu2: Layout) -> None:
    segments = [text("word " * 6, emu2.tokenizer), text("longer " * 5, emu2.tokenizer)]
    windows = emu2.split(segments, 50)
    assert [len(w.segments) for w in windows] == [1, 1]


def test_only_the_last_window_ends_the_text(emu2: Layout) -> None:
    windows = emu2.split([text("word " * 40, emu2.tokenizer)], 64)
    shown = [_shown(emu2, emu2.lay_out(w)) for w in windows]
    assert all(s.startswith("<s>") for s in shown)
    assert [s.endswith("</s>") for s in shown] == [False] * (len(shown) - 1) + [True]


def test_an_image_too_large_for_any_window_is_an_error(emu2: Layout) -> None:
    with pytest.raises(ValueError, match="an image takes 6 tokens, but a window of 7 has room for 5"):
        emu2.split([ImageSegment(0)], 7)


def test_nothing_gives_no_window(emu2: Layout) -> None:
    assert emu2.split([text("", emu2.tokenizer)], 32) == []


def test_prompts_have_no_end_and_may_ask_for_an_image(emu2: Layout) -> None:
    segments = [ImageSegment(0), text("more", emu2.tokenizer)]
    assert _shown(emu2, emu2.prompt(segments)) == "<s>[IMG]" + "<image>" * 4 + "[/IMG]more"
    assert _shown(emu2, emu2.prompt(segments, draw=True)).endswith("more[IMG]")


def test_what_is_not_learned_is_no_target(emu2: Layout) -> None:
    segments = [ImageSegment(0, learn=False), text("ask", emu2.tokenizer, learn=False), text("answer", emu2.tokenizer)]
    sequence = _whole(emu2, segments)
    assert _targets(emu2, sequence, TEXT) == "\nanswer</s>"
    assert VISUAL not in sequence.targets
