"""Scores of images by small networks on their CLIP embeddings: aesthetics, NSFW, watermarks.

A head is a chain of linear layers, as LAION publishes them: its linear aesthetic predictor (`weight`, `bias`), the
improved one (`layers.0`, `.2`, `.4`, `.6`, `.7`, without activations: what stands between is dropout) and the NSFW
detector for H/14 (`layers.0`, `.3`, ... `.18`, with ReLU between). Each is computed by NumPy in 32 bits, and rounded.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipelines import storage
from pipelines.errors import UserError
from pipelines.images.text_match import ImageTextMatch, MatchSettings, load_arrays
from pipelines.settings import Settings

DECIMALS = 4
_LAYER_NAME = re.compile(r"(?:(?P<layer>.*)\.)?(?P<what>weight|bias)")

Array = NDArray[np.float32]


class HeadSettings(Settings):
    """A head and the limits of its score."""

    weights: str = Field(description="Path of its checkpoint (.pth, .pt, .safetensors), on every worker")
    activation: Literal["none", "relu"] = Field("none", description="Between layers; LAION's NSFW detector: relu")
    output: Literal["linear", "sigmoid"] = Field("linear", description="Of the last layer")
    min: float | None = Field(None, description="Lowest score (LAION-Aesthetics: 4.5 to 6.5); null: none")
    max: float | None = Field(None, description="Highest score (LAION: 0.5 unsafe, 0.8 watermark); null: none")

    def takes(self, value: float) -> bool:
        """Return whether a score is within the limits."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class HeadFilter(Settings):
    """Scores of images by heads on the embeddings of one CLIP model."""

    model: MatchSettings
    heads: dict[str, HeadSettings] = Field(min_length=1, description="By the name of the score")

    @model_validator(mode="after")
    def _are_ordered(self) -> Self:
        for name, head in self.heads.items():
            if head.min is not None and head.max is not None and head.min > head.max:
                raise ValueError(f"heads.{name}: min is higher than max: no image would be left")
        return self


def head_scores(embeddings: Array, settings: HeadSettings) -> list[float]:
    """Return the score of each image.

    Args:
        embeddings: (N, width) unit vectors.
        settings: The head.

    Raises:
        UserError: If its checkpoint is not a chain of linear layers from this width to one number.
    """
    layers = _layers(settings.weights, storage.sha256(settings.weights))
    width = layers[0][0].shape[1]
    if embeddings.shape[1] != width:
        raise UserError(
            f"{settings.weights}: a head on embeddings of {width} numbers; the model gives {embeddings.shape[1]}"
        )
    values = embeddings
    for number, (weight, bias) in enumerate(layers):
        if number and settings.activation == "relu":
            values = np.maximum(values, 0)
        # One row after another: a product of matrices may depend on the number of rows
        values = np.stack([weight @ row for row in values]) + bias
    scores = values[:, 0].astype(np.float64)
    if settings.output == "sigmoid":
        scores = 1 / (1 + np.exp(-scores))
    if not np.isfinite(scores).all():
        raise UserError(f"{settings.weights}: scores are not finite; are these trained weights?")
    return [round(float(score), DECIMALS) for score in scores]


def head_origin(settings: HeadSettings, name: str, model: ImageTextMatch) -> str:
    """Return what is stored as the origin of a score: the model and its weights, the head and its weights."""
    head = storage.sha256(settings.weights)
    return f"{model.model_id}@{model.weights_sha256[:16]}+{name}@{head[:16]}"


@functools.lru_cache(maxsize=32)
def _layers(path: str, _: str) -> Sequence[tuple[Array, Array]]:
    """Return (weight, bias) of the layers in order, once per process and content."""
    found = _ordered(path, load_arrays(path))
    width = found[0][0].shape[1]
    for weight, bias in found:
        if weight.shape[1] != width or bias.shape != (weight.shape[0],):
            raise UserError(f"{path}: its layers do not fit one another: {weight.shape} after {width} numbers")
        width = weight.shape[0]
    if width != 1:
        raise UserError(f"{path}: gives {width} numbers for an image, not one score")
    return found


def _ordered(path: str, arrays: Mapping[str, NDArray[np.generic]]) -> list[tuple[Array, Array]]:
    layers: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        match = _LAYER_NAME.fullmatch(name)
        if match is None or array.ndim != (2 if match["what"] == "weight" else 1):
            raise UserError(f"{path}: {name} is no part of a linear layer, of which a head is a chain")
        layers.setdefault(match["layer"] or "", {})[match["what"]] = array.astype(np.float32)
    numbers = {layer: tuple(map(int, re.findall(r"\d+", layer))) for layer in layers}
    ordered = [layers[layer] for layer in sorted(layers, key=lambda layer: numbers[layer])]
    if not ordered or any("weight" not in layer for layer in ordered):
        raise UserError(f"{path}: has no weights of linear layers")
    return [(layer["weight"], layer.get("bias", np.zeros(len(layer["weight"]), np.float32))) for layer in ordered]
