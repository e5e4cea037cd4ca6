"""Tests of figures of images, with small models of the kinds that they need and random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from transformers import CLIPTokenizer, OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor

from model.box_text import Region
from model.finished_run import FinishedRun
from pipelines.errors import UserError
from pipelines.images.text_match import ImageTextMatch, MatchSettings
from tests.tiny_clip import write_clip
from tests.trainer.finished_runs import write_run
from trainer.benchmarks import drawings as module
from trainer.benchmarks.drawings import Drawn
from trainer.benchmarks.formats.example import Example
from trainer.benchmarks.metrics.figure import Answered, Figure
from trainer.benchmarks.settings import MetricModels, ModelPath

BOX = (0.25, 0.25, 0.75, 0.75)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(4):
        low = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        found.append(tmp_path / f"{number}.png")
        Image.fromarray(low).resize((64, 64)).save(found[-1])
    return found


@pytest.fixture(scope="module")
def run(training_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("judged")
    write_run(folder, training_corpus)
    return FinishedRun.open(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> MatchSettings:
    return MatchSettings.model_validate(write_clip(tmp_path_factory.mktemp("clip"), "tiny-judge") | {"batch_size": 4})


def drawn(run: FinishedRun, pairs: list[tuple[Path, Example]], **models: object) -> Drawn:
    answered = [Answered(example, image=path) for path, example in pairs]
    return Drawn(answered, MetricModels.model_validate(models), run)


def test_a_drawing_that_is_the_true_image_has_the_cosine_1(run: FinishedRun, clip: MatchSettings, files: list[Path]):
    same = [
        (path, Example(str(i), texts={"caption": f"an image {i}"}, references=(path,))) for i, path in enumerate(files)
    ]
    found = drawn(run, same, clip_i=clip, clip_t=clip).scores(["clip_i", "clip_t"])
    assert found["clip_i"].scores == pytest.approx([1.0] * 4, abs=1e-5)
    expected = ImageTextMatch(clip).similarities([p.read_bytes() for p in files], [f"an image {i}" for i in range(4)])
    assert found["clip_t"].scores == pytest.approx(expected, abs=1e-4)
    several = [(files[0], Example("0", references=(files[0], files[1])))]
    vectors = ImageTextMatch(clip).embed_images([path.read_bytes() for path in files[:2]])
    [value] = drawn(run, several, clip_i=clip).scores(["clip_i"])["clip_i"].scores
    assert value == pytest.approx((1 + float(vectors[0] @ vectors[1])) / 2, abs=1e-5)


def test_dino_with_weights_from_a_path(run: FinishedRun, files: list[Path], tmp_path: Path):
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "dino.pth")
    dino = ModelPath(weights=str(tmp_path / "dino.pth"), model="test_vit")
    pairs = [(files[0], Example("0", references=(files[0],))), (files[1], Example("1", references=(files[0],)))]
    found = drawn(run, pairs, dino=dino).scores(["dino"])["dino"]
    assert found.scores[0] == pytest.approx(1.0, abs=1e-5)
    assert found.scores[1] < found.scores[0]
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    other = ModelPath(weights=str(tmp_path / "other.pth"), model="test_vit")
    with pytest.raises(UserError, match=r"models.dino.weights: .*other.pth: not weights of test_vit"):
        drawn(run, pairs, dino=other).scores(["dino"])


def test_the_nearest_image_is_right_and_guessing_is_chance(run: FinishedRun, files: list[Path]):
    right = (files[0], Example("0", references=(files[0],), candidates=(files[1], files[2])))
    wrong = (files[1], Example("1", references=(files[0],), candidates=(files[1],)))
    found = drawn(run, [right, wrong]).scores(["nearest"])["nearest"]
    assert found.scores == (1.0, 0.0)
    assert found.chance == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_boxes_overlap_as_where_a_detector_finds_their_phrases(
    run: FinishedRun, files: list[Path], monkeypatch: pytest.MonkeyPatch
):
    places = {"0.png": [("a cat", BOX), ("a cat", (0.0, 0.0, 0.1, 0.1)), ("a dog", BOX)], "1.png": []}
    monkeypatch.setattr(module, "_detector", lambda *_: lambda path, _: places[path.name])
    half = (0.25, 0.25, 0.75, 0.5)
    asked = (Region("a cat", BOX), Region("a dog", half))
    pairs = [(path, Example(path.stem, objects=asked)) for path in files[:2]]
    found = drawn(run, pairs, box_iou={"weights": "d"}).scores(["box_iou"])["box_iou"]
    assert found.scores == pytest.approx((0.75, 0.0))  # 1 and one half; nothing found


def test_a_detector_of_transformers_is_read_from_its_folder(files: list[Path], tmp_path: Path):
    letters = [chr(i) for i in range(97, 123)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokens), "max_position_embeddings": 16, "bos_token_id": 52, "eos_token_id": 53}
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    OwlViTForObjectDetection(config).save_pretrained(tmp_path / "detector")
    OwlViTProcessor(OwlViTImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(
        tmp_path / "detector"
    )
    detect = module._detector(ModelPath(weights=str(tmp_path / "detector")), torch.device("cpu"))
    found = detect(files[0], ["cat", "dog"])
    assert found, "some of the four places of a random detector"
    assert {phrase for phrase, _ in found} <= {"cat", "dog"}
    assert all(-0.5 <= value <= 1.5 for _, box in found for value in box), "in 0..1 of the image, but for its edges"
    with pytest.raises(UserError, match="not a detector's folder in transformers' form"):
        module._detector(ModelPath(weights=str(tmp_path)), torch.device("cpu"))


@pytest.mark.nightly
def test_fid_of_equal_sets_is_zero(
    run: FinishedRun, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights = tmp_path / "inception.pth"
    torch.save({}, weights)
    with monkeypatch.context() as patched:  # random weights of the right shapes
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=str(weights))
    for part in network.modules():  # so that features neither vanish nor explode
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    torch.save(network.state_dict(), weights)
    same = [(path, Example(str(i), references=(path,))) for i, path in enumerate(files)]
    other = [(files[0], Example(str(i), references=(path,))) for i, path in enumerate(files)]
    fid = {"weights": str(weights)}
    equal, different = (drawn(run, pairs, fid=fid).scores(["fid"])["fid"] for pairs in (same, other))
    assert isinstance(equal, Figure)
    assert abs(equal.value) < 1e-3 < different.value
    with pytest.raises(UserError, match=r"models.fid.weights: nowhere: no such file; nothing is downloaded"):
        drawn(run, same, fid={"weights": "nowhere"}).scores(["fid"])


def test_what_an_example_lacks_is_named(run: FinishedRun, files: list[Path], clip: MatchSettings):
    bare = [(files[0], Example("7"))]
    for name, message in {
        "clip_i": "clip_i: the example 7 has no true image",
        "clip_t": "clip_t: the example 7 has no `caption`",
        "nearest": "nearest: the example 7 has no true image",
        "box_iou": "box_iou: the example 7 has no `objects`",
    }.items():
        with pytest.raises(UserError, match=message):
            drawn(run, bare, clip_i=clip, clip_t=clip, box_iou={"weights": "d"}).scores([name])
