"""Tests of heads on embeddings: LAION's published shapes with tiny weights, computed a second time by torch."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from pipelines.errors import UserError
from pipelines.images.heads import HeadFilter, HeadSettings, head_scores

CLIP = {"model": "ViT-B-32", "weights": "w.pt"}


def vectors(num, width, seed=0):
    found = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def saved(tmp_path, state, name="head.pth"):
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


class Improved(torch.nn.Module):
    """The shape of LAION's improved aesthetic predictor: linear layers with dropout between."""

    def __init__(self, width):
        super().__init__()
        sizes = (width, 16, 8, 4, 2)
        layers = []
        for before, after in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(before, after), torch.nn.Dropout(0.2)]
        self.layers = torch.nn.Sequential(*layers[:-1], torch.nn.Linear(2, 1))

    def forward(self, x):
        return self.layers(x)


class Detector(torch.nn.Module):
    """The shape of LAION's NSFW detector for H/14: ReLU and dropout after each layer but the last."""

    def __init__(self, width):
        super().__init__()
        sizes = (width, 16, 32, 8)
        layers = []
        for before, after in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x)


def test_a_linear_head_is_a_product_and_a_bias(tmp_path):
    weights = saved(tmp_path, {"weight": torch.tensor([[1.0, 2.0, -3.0]]), "bias": torch.tensor([0.5])})
    found = head_scores(np.eye(3, dtype=np.float32), HeadSettings(weights=weights))
    assert found == [1.5, 2.5, -2.5]
    sigmoid = head_scores(np.eye(3, dtype=np.float32), HeadSettings(weights=weights, output="sigmoid"))
    assert sigmoid == pytest.approx([0.8176, 0.9241, 0.0759], abs=5e-5)


@pytest.mark.parametrize(("shape", "activation"), [(Improved, "none"), (Detector, "relu")])
@pytest.mark.parametrize("name", ["head.pth", "head.safetensors"])
def test_published_shapes_give_the_numbers_of_torch(tmp_path, shape, activation, name):
    torch.manual_seed(3)
    model = shape(24).eval()
    weights = saved(tmp_path, model.state_dict(), name)
    given = vectors(5, 24)
    with torch.no_grad():
        expected = model(torch.from_numpy(given))[:, 0].tolist()
    found = head_scores(given, HeadSettings(weights=weights, activation=activation))
    assert found == pytest.approx(expected, abs=6e-5)
    assert len(set(found)) == 5
    assert head_scores(given[3:], HeadSettings(weights=weights, activation=activation)) == found[3:]


def test_more_than_ten_layers_are_in_order_of_their_numbers(tmp_path):
    state = {}
    for number in (10, 2, 0):  # the last makes of the rest what no other order does
        state[f"layers.{number}.weight"] = torch.tensor([[1.0]]) if number else torch.tensor([[1.0, 1.0]])
        state[f"layers.{number}.bias"] = torch.tensor([{0: -1.0, 2: 2.0, 10: -3.0}[number]])
    settings = HeadSettings(weights=saved(tmp_path, state), activation="relu")
    assert head_scores(np.ones((1, 2), np.float32), settings) == [0.0]  # relu(relu(2 - 1) + 2) - 3
    assert head_scores(np.zeros((1, 2), np.float32), settings) == [-1.0]  # relu(relu(-1) + 2) - 3


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv.weight": torch.zeros(1, 3, 3, 3)}, "conv.weight is no part of a linear layer"),
        ({"0.running_mean": torch.zeros(3)}, "0.running_mean is no part of a linear layer"),
        ({"weight": torch.zeros(2, 3)}, "gives 2 numbers for an image, not one score"),
        ({"0.weight": torch.zeros(4, 3), "1.weight": torch.zeros(1, 5)}, "layers do not fit one another"),
        ({"weight": torch.zeros(1, 5)}, "embeddings of 5 numbers; the model gives 3"),
        ({"weight": torch.full((1, 3), float("nan"))}, "scores are not finite"),
        ({"bias": torch.zeros(1)}, "has no weights of linear layers"),
        ([1, 2], "holds a list, not named weights"),
    ],
)
def test_what_is_no_head_is_refused_in_one_line(tmp_path, state, message):
    with pytest.raises(UserError, match=message):
        head_scores(np.ones((1, 3), np.float32), HeadSettings(weights=saved(tmp_path, state)))


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        head_scores(np.ones((1, 3), np.float32), HeadSettings(weights=str(tmp_path / "none.pth")))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        head_scores(np.ones((1, 3), np.float32), HeadSettings(weights=str(tmp_path / "text.pth")))


def test_limits_that_leave_nothing_are_refused():
    with pytest.raises(ValidationError, match="no image would be left"):
        HeadFilter.model_validate({"model": CLIP, "heads": {"a": {"weights": "x", "min": 2, "max": 1}}})
    with pytest.raises(ValidationError, match="at least 1 item"):
        HeadFilter.model_validate({"model": CLIP, "heads": {}})
