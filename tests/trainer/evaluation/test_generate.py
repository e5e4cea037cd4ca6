import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from model.generation import GenerationConfig
from model.segment import grounded_text
from model.sequence import LayoutConfig
from model.tokenizer import Tokenizer
from pipelines.errors import UserError
from pipelines.images.normalise import ImageSettings
from pipelines.video.frames import FrameSettings, extract_frames
from tests.trainer.finished_runs import write_run
from trainer.__main__ import commands
from trainer.config import TemplateSettings
from trainer.evaluation.finished_run import FinishedRun
from trainer.evaluation.generate import Request, generate, read_prompts
from trainer.evaluation.prompts import read_prompt, read_video, written
from trainer.reading.images import decode
from trainer.tasks.templates import TemplateLayout

CHOICE = GenerationConfig(max_new_tokens=4, max_images=2, temperature=1.0)


@pytest.fixture(scope="module")
def run_folder(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    write_run(folder, training_corpus)
    return folder


@pytest.fixture(scope="module")
def run(run_folder: Path) -> FinishedRun:
    return FinishedRun.open(str(run_folder), LayoutConfig(), batch=2)


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
    with pytest.raises(UserError, match=f"was tuned to generate only {able}s: use --want {able}"):
        generate(tuned(form=form), ["a dock"], Request(wanted, CHOICE), str(tmp_path))  # type: ignore[arg-type]


def test_frames_are_spread_evenly_over_a_video(video: Path):
    frames = read_video(video, 4, 16)
    assert [time for time, _ in frames] == pytest.approx([0.0, 0.5, 1.0, 1.5], abs=0.11)
    levels = [float(frame.float().mean()) for _, frame in frames]
    assert levels == pytest.approx([0, 50, 100, 150], abs=15)


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_frames_of_a_turned_video_are_upright(tmp_path: Path, degrees: int):
    """Phones store lying frames and by how much players turn them, as the reader of corpora does."""
    plain, turned = str(tmp_path / "plain.mp4"), tmp_path / "turned.mp4"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=1", "-pix_fmt", "yuv420p"]
    subprocess.run([*ffmpeg, *source, plain], check=True)
    subprocess.run([*ffmpeg, "-display_rotation", str(degrees), "-i", plain, "-c", "copy", str(turned)], check=True)
    ((_, seen),) = read_video(turned, 1, 32)
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
    run = FinishedRun.open(str(tmp_path), LayoutConfig(), batch=2)
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
        (["--prompt", "a", "--beams", "2", "--want", "both"], "--beams works only with --want text"),
        (["--prompt", "a", "--top-p", "0.9"], "--top-p needs --temperature"),
    ):
        found = CliRunner().invoke(commands, [*base, *options])
        assert isinstance(found.exception, UserError)
        assert message in str(found.exception)
