import io
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from pipelines.errors import UserError
from pipelines.images.text_match import ImageTextMatch, MatchSettings
from tests.tiny_clip import write_clip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return MatchSettings(**write_clip(tmp_path_factory.mktemp("clip"), "tiny-test"), batch_size=4)


@pytest.fixture(scope="module")
def match(settings):
    return ImageTextMatch(settings)


def photos(num):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(num):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(out, "PNG")
        found.append(out.getvalue())
    return found


TEXTS = [f"an image of {i} red boats" for i in range(6)]


def test_similarities_are_cosines_of_the_model_rounded(match, settings):
    values = match.similarities(photos(6), TEXTS)
    model, preprocess = open_clip.create_model_from_pretrained("tiny-test", settings.weights)
    model.eval()
    images = torch.stack([preprocess(Image.open(io.BytesIO(p)).convert("RGB")) for p in photos(6)])
    with torch.no_grad():
        expected = (
            model.encode_image(images, normalize=True)
            * model.encode_text(open_clip.get_tokenizer("tiny-test")(TEXTS), normalize=True)
        ).sum(-1)
    assert values == pytest.approx(expected.tolist(), abs=6e-5)
    assert all(value == round(value, 4) for value in values)
    assert len(set(values)) == 6


def test_the_matrix_holds_the_pairs_on_its_diagonal(match):
    matrix = match.similarity_matrix(photos(5), TEXTS)
    assert matrix.shape == (5, 6)
    assert np.diag(matrix).tolist() == pytest.approx(match.similarities(photos(5), TEXTS[:5]), abs=1e-4)


def test_a_number_does_not_depend_on_its_neighbours(match):
    whole = match.similarities(photos(6), TEXTS)
    assert match.similarities(photos(6)[5:], TEXTS[5:]) == whole[5:]
    assert match.similarities(photos(6), TEXTS) == whole
    assert match.similarities([], []) == []


def test_the_model_and_its_weights_are_named(match, settings):
    assert match.model_id == "tiny-test/fp32"
    out = subprocess.run(["sha256sum", settings.weights], capture_output=True, text=True, check=True).stdout
    assert out.split()[0] == match.weights_sha256


def test_lower_precision_is_close(match, settings):
    low = ImageTextMatch(settings.model_copy(update={"precision": "bf16"}))
    assert low.similarities(photos(3), TEXTS[:3]) == pytest.approx(match.similarities(photos(3), TEXTS[:3]), abs=0.05)
    assert low.model_id == "tiny-test/bf16"


def test_weights_of_another_shape_are_refused(settings, tmp_path):
    state = torch.load(settings.weights, weights_only=True)
    state.pop("text_projection")
    torch.save(state, tmp_path / "lacking.pt")
    with pytest.raises(UserError, match=r"lacking\.pt: not weights of"):
        ImageTextMatch(settings.model_copy(update={"weights": str(tmp_path / "lacking.pt")}))


def test_a_file_that_is_no_checkpoint_is_refused(settings, tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt"):
        ImageTextMatch(settings.model_copy(update={"weights": str(tmp_path / "text.pt")}))


def test_weights_that_give_no_number_are_refused(settings, tmp_path):
    state = torch.load(settings.weights, weights_only=True)
    torch.save({k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "nan.pt")
    broken = ImageTextMatch(settings.model_copy(update={"weights": str(tmp_path / "nan.pt")}))
    with pytest.raises(UserError, match="not finite"):
        broken.similarities(photos(1), TEXTS[:1])


def test_missing_files_and_unknown_names_are_refused(settings):
    for change, message in (
        ({"weights": "no.pt"}, "no.pt: no such file"),
        ({"model": "no.json"}, "no.json: no such file"),
        ({"model": "ViT-Z-99"}, "does not know 'ViT-Z-99'"),
    ):
        with pytest.raises(UserError, match=message):
            ImageTextMatch(settings.model_copy(update=change))


def test_weights_must_be_named_and_models_local():
    with pytest.raises(ValidationError, match="weights"):
        MatchSettings()
    with pytest.raises(ValidationError, match="would be downloaded"):
        MatchSettings(model="hf-hub:someone/some-model", weights="w.pt")


def test_images_and_texts_come_in_pairs(match):
    with pytest.raises(ValueError, match="2 images but 1 texts"):
        match.similarities(photos(2), ["one"])


def test_the_module_itself_needs_no_torch():
    code = "import sys, pipelines.images.text_match; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
