import dataclasses
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from model.box_text import written
from model.errors import PromptError
from model.films import check_draws_videos, generate_frames
from model.finished_run import FinishedRun
from model.generation import Generated, GenerationConfig, Prompt
from model.segment import grounded_text
from model.sequence import Layout, LayoutConfig
from model.template import TemplateSettings
from model.template_layout import TemplateLayout
from model.tokenizer import Tokenizer
from pipelines.errors import UserError
from pipelines.images.normalise import ImageSettings
from pipelines.video.frames import FrameSettings, extract_frames
from tests.trainer.finished_runs import write_run
from trainer.__main__ import commands
from trainer.evaluation.generate import Request, generate, read_prompts
from trainer.evaluation.open_run import open_run
from trainer.evaluation.prompts import read_prompt, read_video, segment_middles
from trainer.reading.images import decode

CHOICE = GenerationConfig(max_new_tokens=4, max_images=2, temperature=1.0)


@pytest.fixture(scope="module")
def run_folder(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    write_run(folder, training_corpus)
    return folder


@pytest.fixture(scope="module")
def run(run_folder: Path) -> FinishedRun:
    return FinishedRun.open(str(run_folder), batch=2)


@pytest.fixture
def tuned(run: FinishedRun) -> Callable[..., FinishedRun]:
    """A function that returns the run as if it had been tuned with a template."""

    def build(**settings: object) -> FinishedRun:
        template = TemplateSettings.model_validate({"system": "Answer.", **settings})
        tokenizer = Tokenizer(run.tokenizer.base, "emu2", chat=template.chats)
        layout = TemplateLayout(tokenizer, run.model.config.bridge, LayoutConfig(), template)
        return replace(run, tokenizer=tokenizer, layout=layout)

    return build


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for number in range(20):
            level = np.full((32, 32, 3), 10 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_prompt_holds_texts_images_and_frames_in_order(run: FinishedRun, image: Path, video: Path):
    prompt = read_prompt(f"one [image:{image}] two [video:{video}]", run, draw=True, num_frames=2)
    text = run.tokenizer.decode(prompt.sequence.token_ids, with_own=True)
    slots = "<image>" * 4
    frames = "".join(f"[IMG]{'[gIMG]' * 4}[/IMG]" for _ in range(2))
    assert text == f"<s>one[IMG]{slots}[/IMG]\ntwo[VIDEO]{frames}[IMG]"
    assert prompt.images is not None
    assert prompt.images.shape == (3, 3, 16, 16)
    assert prompt.images[0, 0].float().mean() > 250


@pytest.mark.parametrize(
    "name", ["a[1].png", "[x].png", "a].png", "a]b]c.png", "red (1) [final].png", "[[.png", "é:ü].png"]
)
@pytest.mark.parametrize("after", ["", " what is [this]?", "] and ]"])
def test_a_file_name_may_hold_brackets(run: FinishedRun, image: Path, name: str, after: str):
    path = image.rename(image.with_name(name))
    prompt = read_prompt(f"one [image:{path}]{after}", run, draw=False, num_frames=2)
    assert prompt.images is not None
    assert len(prompt.images) == 1
    text = run.tokenizer.decode(prompt.sequence.token_ids, with_own=True)
    assert text == f"<s>one[IMG]{'<image>' * 4}[/IMG]" + (f"\n{after.strip()}" if after else "")


def test_a_phrase_may_hold_brackets(run: FinishedRun):
    whole = "".join(f"<patch_index_{n:04d}>" for n in (0, 0, 224, 224))
    for phrase in ("red [big] boat", "a] b", "x: [1,2]"):
        named = f"<s><grounding><phrase>{phrase}</phrase><object>{whole}</object> here]"
        assert shown(f"[box:{phrase}:0,0,1,1] here]", run) == named


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("look at [img:a.png]", r"^\[img:: unknown: files and boxes in a prompt are \[image:FILE\], \[video:FILE\]"),
        ("[Image:a.png] is", r"^\[Image:: unknown"),
        ("[images:a.png]", r"^\[images:: unknown"),
        ("[picture:a.png]", r"^\[picture:: unknown"),
        ("a [VIDEO:a.mp4]", r"^\[VIDEO:: unknown"),
        ("a [movie:a.mp4]", r"^\[movie:: unknown"),
        ("a [bbox:dog:0,0,1,1]", r"^\[bbox:: unknown"),
        ("a [Box:dog:0,0,1,1]", r"^\[Box:: unknown"),
        ("[img: a.png] is", r"^\[img: a\.png\]: unknown"),
        ("a [Image: a.PNG ]", r"^\[Image: a\.PNG \]: unknown"),
        ("[image=a.jpeg] is", r"^\[image=a\.jpeg\]: unknown"),
        ("[video a clip.mp4] is", r"^\[video a clip\.mp4\]: unknown"),
        ("[Box: dog:0,0,1,1] is", r"^\[Box: dog:0,0,1,1\]: unknown"),
        (f"[image:none.png] {'word ' * 60} and ] the end", r"^\[image:none\.png\]: there is no file none\.png$"),
        (f"[video:{'long' * 80}]", r"^\[video:(long)+\]: there is no file (long)+$"),
        ("what is [image:a.png", r"^\[image:a\.png: without a closing bracket"),
        ("a [box:dog:0,0,1,1 there", r"^\[box:dog:0,0,1,1 there: without a closing bracket"),
        ("[image:none[1].png] and [2]", r"^\[image:none\[1\]\.png\]: there is no file none\[1\]\.png"),
        ("[image:none].png", r"^\[image:none\]: there is no file none"),
    ],
)
def test_what_is_almost_a_file_or_a_box_is_a_mistake(run: FinishedRun, content: str, message: str):
    with pytest.raises(UserError, match=message):
        read_prompt(content, run, draw=False, num_frames=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("word " * 200_000, r"^a prompt takes \d+ of the model's 256 positions: shorten it"),
        ("a" * 1_000_000, r"^a prompt takes \d+ of the model's 256 positions: shorten it"),
        ("[image " + " " * 1_000_000 + "x", r"^a prompt takes"),
        ("[image:" + "a" * 1_000_000, r"^\[image:a{53}\.\.\.: without a closing bracket$"),
        ("[image:" + "]" * 1_000_000, r"^\[image:\]: there is no file \.$"),
        ("[box:" + "a" * 2_000 + ":1]", r"^\[box:a{55}\.\.\.: not \[box:PHRASE"),
    ],
)
def test_a_prompt_of_a_million_characters_is_one_line(run: FinishedRun, content: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        read_prompt(content, run, num_frames=2)
    assert len(str(caught.value)) < 500


def test_prompts_that_are_not_utf_8_are_one_line(tmp_path: Path):
    (tmp_path / "prompts.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(UserError, match=r"prompts\.jsonl: prompts must be in UTF-8"):
        read_prompts(str(tmp_path / "prompts.jsonl"))


def test_a_file_is_known_by_its_place_whatever_its_name(run: FinishedRun, image: Path):
    path = image.rename(image.with_name("image"))
    for content in (f"[img: {path}]", f"[Image {path}]"):
        with pytest.raises(UserError, match="unknown: files and boxes"):
            read_prompt(content, run, draw=False, num_frames=2)
    assert read_prompt(f"[image: {path} ]", run, draw=False, num_frames=2).images is not None


@pytest.mark.parametrize(
    "content",
    [
        "see [1] and [note: a b]",
        "[Image: a dog]",
        "[image 3]",
        "[Box: a, b]",
        "[note a.png]",
        "x[i:j]",
        "[http://x.y]",
        "a [box",
        "img:x",
    ],
)
def test_other_brackets_are_text(run: FinishedRun, content: str):
    prompt = read_prompt(content, run, draw=False, num_frames=2)
    assert run.tokenizer.decode(prompt.sequence.token_ids) == content


def shown(content: str, run: FinishedRun, *, draw: bool = False) -> str:
    sequence = read_prompt(content, run, draw=draw, num_frames=2).sequence
    slots = run.tokenizer.decode(sequence.token_ids, with_own=True)
    return slots.replace("<image>" * 4, "<image>").replace("[gIMG]" * 4, "[gIMG]")


def test_a_tuned_model_is_asked(tuned: Callable[..., FinishedRun], image: Path, video: Path):
    chat, asked_of = tuned(), f"[image:{image}]"
    begin = "<s>Answer. [USER]: [IMG]<image>[/IMG]What is it? [ASSISTANT]:"
    assert shown(f"{asked_of} What is it?", chat) == begin
    assert shown(f"[USER]: {asked_of} What is it? [ASSISTANT]:", chat) == begin
    assert shown(f"{asked_of} What is it? <grounding>", chat) == f"{begin}<grounding>"
    assert shown(f"{asked_of} What is it? [ASSISTANT]: A dock [USER]: Where? [ASSISTANT]: At", chat) == (
        f"{begin} A dock</s>[USER]: Where? [ASSISTANT]: At"
    )
    located = "<patch_index_0000>" * 2 + "<patch_index_0224>" * 2
    asked = f"<grounding><phrase>It</phrase><object>{located}</object> is? [ASSISTANT]:"
    assert shown(f"{asked_of} [box:It:0,0,1,1] is?", chat).endswith(f"[/IMG]{asked}")
    frames = "[VIDEO]" + "[IMG][gIMG][/IMG]" * 2
    assert shown(f"[video:{video}] And this?", chat) == f"<s>Answer. [USER]: {frames}And this? [ASSISTANT]:"


def test_boxes_are_locations_to_read_and_images_to_draw(run: FinishedRun, tuned: Callable[..., FinishedRun]):
    content = "a [box:red boat:0,0,0.5,1;0.5,0,1,1] here"
    first, second = ("".join(f"<patch_index_{n:04d}>" for n in box) for box in ((0, 0, 112, 224), (112, 0, 224, 224)))
    named, apart = "<s><grounding>a <phrase>red boat</phrase><object>", "</delimiter_of_multi_objects/>"
    assert shown(content, run) == f"{named}{first}{apart}{second}</object> here"
    slots = "[IMG]<image>[/IMG]"
    assert shown(content, tuned(form="generation"), draw=True) == f"{named}{slots}{apart}{slots}</object> here[IMG]"
    prompt = read_prompt(content, tuned(form="generation"), draw=True, num_frames=2)
    assert prompt.images is not None
    left, right = prompt.images[:, 0].float()
    assert left[:, 12:].max() == right[:, :4].max() == 0
    assert left[:, 0].min() == right[:, 15].min() == 255


def test_boxes_are_written_as_they_are_read(run: FinishedRun):
    caption = grounded_text("a red boat here", [(2, 10, (0, 0, 0.5, 1)), (2, 10, (0.5, 0, 1, 1))], run.tokenizer)
    ids = run.layout.prompt([caption]).token_ids
    assert written(ids[1:], run.layout) == "a [box:red boat:0,0,0.5,1;0.5,0,1,1] here"
    broken = np.delete(ids, np.flatnonzero(ids == run.layout.ids["<patch_index_0112>"])[0])
    assert written(broken[1:], run.layout) == "a red boat here"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("[ASSISTANT]: Hello", "an empty message"),
        ("", "an empty message"),
        ("Hello [USER]: Hello", "must take turns"),
        ("a [ASSISTANT]: b [USER]: [ASSISTANT]: c", "an empty message"),
        ("a [ASSISTANT]: [image:{image}]", "may contain only words"),
    ],
)
def test_a_conversation_that_is_none_is_refused(
    tuned: Callable[..., FinishedRun], image: Path, prompt: str, message: str
):
    with pytest.raises(UserError, match=message):
        shown(prompt.replace("{image}", str(image)), tuned())


@pytest.mark.parametrize(("form", "wanted", "able"), [("chat", "both", "text"), ("generation", "text", "image")])
def test_a_tuned_model_is_not_asked_for_what_it_cannot_do(
    tuned: Callable[..., FinishedRun], tmp_path: Path, form: str, wanted: str, able: str
):
    with pytest.raises(UserError, match=f"was tuned to generate only {able}s: ask for"):
        generate(tuned(form=form), ["a dock"], Request(wanted, CHOICE), str(tmp_path))  # type: ignore[arg-type]


def test_frames_are_the_middles_of_equal_segments_of_a_video(video: Path):
    frames = read_video(video, 4, 16)
    assert [time for time, _ in frames] == pytest.approx([0.2, 0.7, 1.2, 1.6], abs=1e-3)
    levels = [float(frame.float().mean()) for _, frame in frames]
    assert levels == pytest.approx([20, 70, 120, 160], abs=15)
    assert len(read_video(video, 50, 16)) == 50


def test_a_recording_that_was_cut_gives_all_frames_of_what_is_left(tmp_path: Path):
    path = tmp_path / "clip.avi"  # whose header promises all of them
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-f", "lavfi"]
    subprocess.run([*ffmpeg, "-i", "testsrc=size=64x48:rate=10:duration=4", "-c:v", "mjpeg", str(path)], check=True)
    whole = [time for time, _ in read_video(path, 4, 16)]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    times = [time for time, _ in read_video(path, 4, 16)]
    assert len(times) == 4
    assert sorted(set(times)) == times
    assert times[-1] < whole[-1]


@pytest.mark.parametrize(
    ("num_frames", "expected"), [(20, [1, 3, 6, 8, 11, 13, 15, 18]), (8, [0, 1, 2, 3, 4, 4, 5, 6]), (1, [0] * 8)]
)
def test_eight_frames_are_those_of_emus_own_code(num_frames: int, expected: list[int]):
    assert segment_middles(num_frames, 8) == expected


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_frames_of_a_turned_video_are_upright(tmp_path: Path, degrees: int):
    """Phones store lying frames and by how much players turn them, as the reader of corpora does."""
    plain, turned = str(tmp_path / "plain.mp4"), tmp_path / "turned.mp4"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=1", "-pix_fmt", "yuv420p"]
    subprocess.run([*ffmpeg, *source, plain], check=True)
    subprocess.run([*ffmpeg, "-display_rotation", str(degrees), "-i", plain, "-c", "copy", str(turned)], check=True)
    (_, seen), *_ = read_video(turned, 5, 32)
    lossless = ImageSettings(resize_mode="no", encode_format="png", encode_quality=1)
    (frame,) = extract_frames(str(turned), [0.0], FrameSettings(min_seconds=0.0, image=lossless))
    shown = decode(frame.image.data, 32).astype(int)
    assert np.abs(seen.permute(1, 2, 0).numpy().astype(int) - shown).mean() < 6


@pytest.mark.parametrize(("wanted", "kinds"), [("text", {"text"}), ("image", {"image"}), ("both", {"text", "image"})])
def test_texts_are_written_as_json_lines_and_images_as_png(
    run: FinishedRun, tmp_path: Path, wanted: str, kinds: set[str]
):
    rows = generate(run, ["a dock", "a boat", "a long way home"], Request(wanted, CHOICE), str(tmp_path))  # type: ignore[arg-type]
    assert [json.loads(line) for line in (tmp_path / "generated.jsonl").read_text().splitlines()] == rows
    assert [row["prompt"] for row in rows] == ["a dock", "a boat", "a long way home"]
    assert {kind for row in rows for part in row["parts"] for kind in part} == kinds
    names = [name for row in rows for name in row["images"]]
    assert len(names) == (3 if "image" in kinds else 0)
    assert all(Image.open(tmp_path / name).size == (16, 16) for name in names)


def test_the_same_seed_gives_the_same(run: FinishedRun, tmp_path: Path):
    first, again, other = (
        generate(run, ["a dock"], Request("both", CHOICE, seed=seed), str(tmp_path / str(number)))
        for number, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert first != other
    assert (tmp_path / "0" / first[0]["images"][0]).read_bytes() == (
        tmp_path / "1" / first[0]["images"][0]
    ).read_bytes()


@pytest.mark.parametrize("leads_from", ["zeros", "model"])
def test_guidance_leads_away_from_what_the_decoder_was_made_with(run: FinishedRun, image: Path, leads_from: str):
    assert run.decoder is not None
    given = run.decoder.config
    run.decoder.config = given.model_copy(update={"null_conditioning": leads_from, "guidance": 4.0})
    run = replace(run, batch=2)  # without what was cached
    try:
        prompts = [read_prompt(content, run, draw=True, num_frames=1) for content in ("a dock", "a boat", "")]
        *wanted, empty = run.generate_embeddings(prompts)
        shown = read_prompt(f"[image:{image}]", run, draw=False, num_frames=1).images
        assert shown is not None
        seen = run.embed(shown)
        grey = run.model.encode_images(torch.zeros(1, 3, 16, 16))  # normalised pixels of the mean colour
        for embeddings, null, reconstructing in ((torch.stack(wanted), empty[None], False), (seen, grey, True)):
            null = null if leads_from == "model" else torch.zeros_like(null)
            generator = torch.Generator().manual_seed(3)
            expected = run.decoder.sample(embeddings, null=null, generator=generator)
            assert torch.equal(run.draw(embeddings, seed=3, reconstructing=reconstructing), expected)
    finally:
        run.decoder.config = given


def test_prompts_with_a_video_have_a_length_penalty_of_their_own(
    run: FinishedRun, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    used: list[tuple[int, float]] = []

    def recorded(self: FinishedRun, prompts: list[Prompt], config: GenerationConfig, **named: int) -> list[Generated]:
        used.append((len(prompts), config.length_penalty))
        return [Generated([prompt.sequence.token_ids[1:3].tolist()]) for prompt in prompts]

    monkeypatch.setattr(FinishedRun, "continue_prompts", recorded)
    config = GenerationConfig(num_beams=2, length_penalty=-1.0, video_length_penalty=1.0, max_new_tokens=2)
    prompts = ["a dock", f"[video:{video}]", "the boat"]
    rows = generate(run, prompts, Request("text", config, num_frames=2), str(tmp_path))
    assert used == [(2, -1.0), (1, 1.0)]
    assert [row["prompt"] for row in rows] == prompts
    assert rows[0]["text"] in "a dock"
    assert rows[2]["text"] in "the boat"
    same = config.model_copy(update={"video_length_penalty": None})
    generate(run, prompts[1:2], Request("text", same, num_frames=2), str(tmp_path))
    assert used[-1] == (1, -1.0)


def test_an_image_with_brackets_in_its_name_is_reconstructed(run: FinishedRun, image: Path, tmp_path: Path):
    path = image.rename(image.with_name("a[1].png"))
    assert generate(run, [f"[image:{path}]"], Request("reconstruction", CHOICE), str(tmp_path))[0]["images"]
    for prompt in (f"[image:{path}] [1]", f"[1] [image:{path}]"):
        with pytest.raises(UserError, match="nothing else"):
            generate(run, [prompt], Request("reconstruction", CHOICE), str(tmp_path))


def test_an_image_is_reconstructed_from_its_own_embeddings(run: FinishedRun, image: Path, tmp_path: Path):
    (row,) = generate(run, [f" [image:{image}] "], Request("reconstruction", CHOICE, seed=1), str(tmp_path))
    (drawn,) = row["images"]
    shown = read_prompt(f"[image:{image}]", run, draw=False, num_frames=1).images
    assert shown is not None
    expected = run.draw(run.embed(shown), seed=1, reconstructing=True)[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / drawn)), expected.permute(1, 2, 0).numpy())
    for prompt in ("a dock", f"[image:{image}] a dock", f"[image:{image}][image:{image}]"):
        with pytest.raises(UserError, match="and nothing else"):
            generate(run, [prompt], Request("reconstruction", CHOICE), str(tmp_path))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("[image:nowhere.png]", "there is no file nowhere.png"),
        ("[image:{text}]", "broken image"),
        ("[video:{text}]", "not a readable video"),
        ("word " * 400, "positions: shorten it"),
        ("a [box:boat:0.5,0,0.1,1]", "not .box:PHRASE:LEFT,TOP,RIGHT,BOTTOM. with numbers in 0..1"),
        ("a [box:boat]", "not .box:PHRASE"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(run: FinishedRun, tmp_path: Path, prompt: str, message: str):
    (tmp_path / "text").write_text("no image")
    with pytest.raises(UserError, match=message):
        read_prompt(prompt.replace("{text}", str(tmp_path / "text")), run, draw=False, num_frames=2)


def test_an_image_of_a_run_without_decoder_is_refused(training_corpus: str, tmp_path: Path):
    write_run(tmp_path, training_corpus, decoder=False)
    run = FinishedRun.open(str(tmp_path), batch=2)
    with pytest.raises(UserError, match="has no image decoder"):
        generate(run, ["a dock"], Request("image", CHOICE), str(tmp_path / "out"))


def test_prompts_come_from_json_lines(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n\n{"prompt": "two", "note": 1}\n')
    assert read_prompts(str(path)) == ["one", "two"]
    path.write_text('{"prompt": "one"}\n{"text": "two"}\n')
    with pytest.raises(UserError, match='line 2: not a JSON object with a "prompt"'):
        read_prompts(str(path))
    with pytest.raises(UserError, match="no such file"):
        read_prompts(str(tmp_path / "none.jsonl"))


def test_the_command_writes_beside_the_run_and_refuses_what_does_not_fit(run_folder: Path, tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text("model: {size: debug}\n")
    base = ["generate", "--config", str(config), "--out", str(run_folder)]
    result = CliRunner().invoke(commands, [*base, "--prompt", "a dock", "--want", "image"])
    assert result.exit_code == 0, result.output
    assert (run_folder / "generated/image-0000-0.png").exists()
    for options, message in (
        ([], "no prompt"),
        (["--prompt", "a", "--want", "video"], "has no video decoder to generate videos"),
        (["--prompt", "a", "--beams", "2", "--want", "both"], "--beams works only with --want text"),
        (["--prompt", "a", "--beams", "2", "--temperature", "1"], "without --temperature"),
        (["--prompt", "a", "--top-p", "0.9"], "--top-p needs --temperature"),
        (["--prompt", "a", "--top-k", "3"], "--top-k needs --temperature"),
        (["--prompt", "a", "--min-new-tokens", "9", "--max-new-tokens", "8"], "min_new_tokens 9 is more than max_new"),
        (["--prompt", "a", "--want", "reconstruction"], "a prompt is one [image:FILE] and nothing else"),
    ):
        found = CliRunner().invoke(commands, [*base, *options])
        assert isinstance(found.exception, UserError)
        assert message in str(found.exception)


@pytest.mark.slow
def test_a_model_that_carries_its_own_settings_is_used_with_them(
    training_corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = write_run(tmp_path, training_corpus)
    (tmp_path / "config.resolved.yaml").write_text("model: {size: debug}\n")
    layout = LayoutConfig(separate_across_images=False)
    (tmp_path / "model/layout.json").write_text(layout.model_dump_json())
    own = GenerationConfig(num_beams=2, length_penalty=-1.0, max_new_tokens=3)
    (tmp_path / "model/generation.json").write_text(own.model_dump_json())
    opened = open_run(str(tmp_path), config)
    assert (opened.layout.config, opened.generation) == (layout, own)
    used: list[GenerationConfig] = []
    continue_prompts = FinishedRun.continue_prompts

    def recorded(self: FinishedRun, prompts: list[Prompt], config: GenerationConfig, **named: int) -> list[Generated]:
        used.append(config)
        return continue_prompts(self, prompts, config, **named)

    monkeypatch.setattr(FinishedRun, "continue_prompts", recorded)
    for options, changes in (
        ([], {}),
        (["--beams", "1", "--repetition-penalty", "1.5"], {"num_beams": 1, "repetition_penalty": 1.5}),
        (["--temperature", "0.5", "--top-k", "3"], {"num_beams": 1, "temperature": 0.5, "top_k": 3}),
        (
            ["--length-penalty", "0.5", "--min-new-tokens", "2"],
            {"length_penalty": 0.5, "video_length_penalty": 0.5, "min_new_tokens": 2},
        ),
        (["--want", "image"], {"num_beams": 1}),
    ):
        result = CliRunner().invoke(commands, ["generate", "--out", str(tmp_path), "--prompt", "a dock", *options])
        assert result.exit_code == 0, result.output
        found = used.pop().model_dump(exclude={"max_images", "max_new_tokens"})
        assert found == own.model_copy(update=changes).model_dump(exclude={"max_images", "max_new_tokens"})


@pytest.mark.parametrize(
    ("wanted", "tokens", "images", "more", "remedy"),
    [
        ("text", 255, 0, 255, r"shorten it, or give --max-new-tokens \d+ or fewer"),
        ("both", 250, 20, 370, r"shorten it, or give --max-new-tokens \d+ or fewer"),
        ("both", 250, 50, 550, r"shorten it, or give fewer --max-images"),
    ],
)
def test_a_continuation_that_does_not_fit_is_refused(run, tmp_path, wanted, tokens, images, more, remedy):
    """Images count in full for a model that begins them by itself."""
    begins = replace(run, layout=Layout(run.tokenizer, run.model.config.bridge, LayoutConfig(ignored=())))
    assert begins.begins_images
    config = GenerationConfig(max_new_tokens=tokens, max_images=images)
    message = rf"takes \d+ of the model's 256 positions, and its continuation up to {more} more: {remedy}$"
    with pytest.raises(UserError, match=message):
        generate(begins, ["a dock beside a boat"] * 2, Request(wanted, config), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_long_prompt_for_an_image_is_refused(run, tmp_path):
    long, length = "", 0
    while length < 252:
        long += "boat "
        length = len(read_prompt(long, run, draw=True, num_frames=1).sequence.token_ids)
    message = rf"^'boat .*\.\.\.': takes {length} of the model's 256 .* up to 6 more: shorten it$"
    with pytest.raises(UserError, match=message):
        generate(run, [long], Request("image", CHOICE), str(tmp_path))


def test_what_just_fits_is_continued(run, tmp_path):
    length = len(read_prompt("a dock", run, draw=False, num_frames=1).sequence.token_ids)
    chosen = GenerationConfig(max_new_tokens=256 - length)
    (row,) = generate(run, ["a dock"], Request("text", chosen), str(tmp_path))
    assert row["prompt"] == "a dock"
    with pytest.raises(UserError, match=f"give --max-new-tokens {256 - length} or fewer"):
        generate(run, ["a dock"], Request("text", GenerationConfig(max_new_tokens=257 - length)), str(tmp_path))


@pytest.fixture(scope="module")
def filming(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run with a video decoder of two frames, two per second."""
    folder = tmp_path_factory.mktemp("filming")
    write_run(folder, training_corpus, video_decoder=True)
    return FinishedRun.open(str(folder), batch=2)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 2
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_videos_are_written_as_mp4_and_webp(filming: FinishedRun, tmp_path: Path, image: Path):
    prompts = ["a dock", f"[image:{image}] a boat"]
    rows = generate(filming, prompts, Request("video", CHOICE), str(tmp_path))
    assert [json.loads(line) for line in (tmp_path / "generated.jsonl").read_text().splitlines()] == rows
    assert [row["videos"] for row in rows] == [["video-0000.mp4"], ["video-0001.mp4"]]
    read = [read_prompt(prompt, filming, draw=True, num_frames=1) for prompt in prompts]
    drawn = filming.draw_videos(generate_frames(filming, read, 2))
    for row, film in zip(rows, drawn.permute(0, 1, 3, 4, 2).numpy(), strict=True):
        path = tmp_path / row["videos"][0]
        shown = frames_of(path)
        assert len(shown) == 2
        assert all(frame.shape == (16, 16, 3) for frame in shown)
        with Image.open(path.with_suffix(".webp")) as webp:
            assert webp.n_frames == 2
            for number, frame in enumerate(film):
                webp.seek(number)
                np.testing.assert_array_equal(np.asarray(webp.convert("RGB")), frame)
    generate(filming, prompts[:1], Request("video", CHOICE, film_frames=5), str(tmp_path))
    assert len(frames_of(tmp_path / "video-0000.mp4")) == 5


def test_frames_follow_each_other_as_in_the_films_of_training(filming: FinishedRun, video: Path):
    """Two prompts of different lengths, whose frames must be those that follow when each is shown the one before."""
    read = [
        read_prompt(f"{text} [video:{video}]", filming, draw=True, num_frames=1) for text in ("a dock", "a boat here")
    ]
    found = generate_frames(filming, read, 3)
    assert found.shape[:2] == (2, 3)
    for number, prompt in enumerate(read):
        embeddings = filming.generate_embeddings([prompt])
        torch.testing.assert_close(found[number, 0], embeddings[0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found[number, 0], found[number, 1])
    whole = dataclasses.replace(filming, batch=1)
    torch.testing.assert_close(generate_frames(whole, read, 3), found, rtol=1e-4, atol=1e-5)


def test_a_first_frame_is_announced_as_in_training(filming: FinishedRun, monkeypatch: pytest.MonkeyPatch, video: Path):
    asked: list[str] = []

    def continued(self: FinishedRun, prompts: list[Prompt], config: GenerationConfig, **named: int) -> list[Generated]:
        assert (config.max_images, config.num_frames, config.max_new_tokens) == (2, 2, 0)
        asked.extend(self.tokenizer.decode(p.sequence.token_ids, with_own=True) for p in prompts)
        return [Generated([torch.zeros(4, 24)] * 2) for _ in prompts]

    monkeypatch.setattr(FinishedRun, "continue_prompts", continued)
    read = [read_prompt(f"one{more}", filming, draw=True, num_frames=1) for more in ("", f" [video:{video}]")]
    generate_frames(filming, read, 2)
    assert asked == ["<s>one[VIDEO][IMG]", f"<s>one[VIDEO][IMG]{'[gIMG]' * 4}[/IMG][IMG]"]


def test_a_video_is_reconstructed_from_its_own_embeddings(filming: FinishedRun, tmp_path: Path, video: Path):
    (row,) = generate(filming, [f"[video:{video}]"], Request("reconstruction", CHOICE, num_frames=4), str(tmp_path))
    shown = read_prompt(f"[video:{video}]", filming, draw=False, num_frames=4).images
    assert shown is not None
    expected = filming.draw_videos(filming.embed(shown)[None], reconstructing=True)[0]
    with Image.open((tmp_path / row["videos"][0]).with_suffix(".webp")) as webp:
        for number, frame in enumerate(expected.permute(0, 2, 3, 1).numpy()):
            webp.seek(number)
            np.testing.assert_array_equal(np.asarray(webp.convert("RGB")), frame)


@pytest.mark.parametrize("wanted", ["video", "reconstruction"])
def test_a_video_of_a_run_without_video_decoder_is_refused(
    run: FinishedRun, tmp_path: Path, video: Path, wanted: Literal["video", "reconstruction"]
):
    with pytest.raises(UserError, match=r"has no video decoder to generate videos: run .*video-decoder"):
        generate(run, [f"[video:{video}]"], Request(wanted, CHOICE, num_frames=2), str(tmp_path))


@pytest.mark.parametrize("draws", [True, False])
def test_a_model_for_conversations_makes_films_if_it_has_learned_to_draw(filming: FinishedRun, draws: bool):
    tokenizer = Tokenizer(filming.tokenizer.base, "emu2", chat=True)
    layout = TemplateLayout(
        tokenizer, filming.model.config.bridge, filming.layout.config, TemplateSettings(form="chat", draws=draws)
    )
    tuned = dataclasses.replace(filming, layout=layout)
    if draws:
        check_draws_videos(tuned)
        return
    with pytest.raises(PromptError, match=r"was tuned to generate only texts: ask for text$"):
        check_draws_videos(tuned)


def test_videos_that_do_not_fit_the_model_are_refused(filming: FinishedRun, tmp_path: Path):
    with pytest.raises(UserError, match=r"'a dock': takes \d+ .* video of 99 frames .*: ask for 4\d frames or fewer"):
        generate(filming, ["a dock"], Request("video", CHOICE, film_frames=99), str(tmp_path))
