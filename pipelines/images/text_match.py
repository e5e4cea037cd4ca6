"""Similarity of an image and a text: cosine of their CLIP embeddings, by open_clip.

Needs torch, and only if a spec uses it. Batches have one fixed size and the number of threads is set, so that the same
part gives the same numbers; they are rounded to 4 decimals, beyond which kernels and machines differ.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator, model_validator

from pipelines.errors import UserError
from pipelines.images.pixels import decode_upright
from pipelines.settings import Settings

DECIMALS = 4


class MatchSettings(Settings):
    """CLIP model that judges, and how it runs. Its weights are never downloaded."""

    model: str = Field(
        default="ViT-B-32-quickgelu",
        description="An open_clip model name, the path of a model config (.json) in its form, or a folder with "
        "config, weights and tokenizer, as `python -m trainer encoder` writes it.",
    )
    weights: str | None = Field(
        default=None, description="Path of the checkpoint, loaded strictly; null if `model` is a folder."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Arithmetic of the towers.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Device of the towers.")
    batch_size: int = Field(default=32, gt=0, description="Items per batch; the last one is padded to it.")
    num_threads: int = Field(default=1, gt=0, description="CPU threads of torch; fixed, so that numbers repeat.")

    @field_validator("model")
    @classmethod
    def _is_local(cls, value: str) -> str:
        if ":" in value:
            raise ValueError(f"model: {value!r} would be downloaded; give a name or .json file, and the weights' path")
        return value

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.weights is None and not os.path.isdir(self.model):
            raise ValueError(f"weights: required, since {self.model!r} is not a folder that contains them")
        return self

    @property
    def checkpoint(self) -> str:
        return self.weights or os.path.join(self.model, "open_clip_model.safetensors")


class ImageTextMatch:
    """A CLIP model, loaded once.

    `model_id` and `weights_sha256` must be stored with every score: numbers of two models are not comparable.
    """

    def __init__(self, settings: MatchSettings) -> None:
        """Load the model.

        Raises:
            UserError: If the config or the weights are missing or do not fit together.
        """
        self.weights_sha256 = weights_sha256(settings)
        import open_clip
        import torch

        torch.set_num_threads(settings.num_threads)
        name = settings.model
        if name.endswith(".json"):
            if not os.path.isfile(name):
                raise UserError(f"{name}: no such file; 'model' must be an open_clip name or a config in its form")
            open_clip.add_model_config(name)
            name = os.path.splitext(os.path.basename(name))[0]
        if settings.weights is None:
            name = f"local-dir:{settings.model}"
            if not os.path.isfile(os.path.join(settings.model, "open_clip_config.json")):
                raise UserError(f"{settings.model}: not a model: a folder must contain an open_clip_config.json")
        elif name not in open_clip.list_models():
            raise UserError(f"model: open_clip does not know {settings.model!r}; see open_clip.list_models()")
        try:
            self._model, self._preprocess = open_clip.create_model_from_pretrained(
                name, settings.weights, precision=settings.precision, device=settings.device, pretrained_text=False
            )
        except (RuntimeError, KeyError, ValueError, EOFError, AttributeError, StopIteration) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise UserError(f"{settings.checkpoint}: not weights of {settings.model}: {first_line}") from error
        except Exception as error:  # torch.load and safetensors raise their own types, not all of them public
            raise UserError(f"{settings.checkpoint}: cannot be read as a checkpoint: {type(error).__name__}") from error
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(name)
        self._settings = settings
        self._dtype = open_clip.get_input_dtype(settings.precision)
        self.model_id = f"{settings.model if settings.weights is None else name}/{settings.precision}"

    def similarities(self, images: Sequence[bytes], texts: Sequence[str]) -> list[float]:
        """Return the cosine of each image with the text of the same index."""
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images but {len(texts)} texts")
        products = (self.embed_images(images) * self.embed_texts(texts)).sum(axis=1)
        return [round(float(value), DECIMALS) for value in products]

    def similarity_matrix(self, images: Sequence[bytes], texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (images, texts) cosines of each image with each text."""
        return np.round(self.embed_images(images) @ self.embed_texts(texts).T, DECIMALS)

    def embed_images(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Return (N, width) unit vectors of image files."""
        return self._embed(images, lambda batch: [self._preprocess(_open(data)) for data in batch], "encode_image")

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (N, width) unit vectors of texts, truncated to the context length."""
        return self._embed(texts, lambda batch: list(self._tokenizer(list(batch))), "encode_text")

    def _embed(
        self, items: Sequence[Any], prepare: Callable[[Sequence[Any]], list[Any]], tower: str
    ) -> NDArray[np.float32]:
        import torch

        size = self._settings.batch_size
        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(items), size):
            rows = prepare(items[start : start + size])
            tensor = torch.stack(rows + [rows[-1]] * (size - len(rows))).to(self._settings.device)
            if tensor.is_floating_point():
                tensor = tensor.to(self._dtype)
            with torch.inference_mode():
                output = getattr(self._model, tower)(tensor, normalize=False)[: len(rows)].float()
                vectors.append(torch.nn.functional.normalize(output, dim=-1).cpu().numpy())
        if not vectors:
            return np.zeros((0, 1), np.float32)
        result = np.concatenate(vectors)
        if not np.isfinite(result).all():
            raise UserError(f"{self._settings.weights}: embeddings are not finite; are these trained weights?")
        return result


def load_arrays(path: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a checkpoint of PyTorch or safetensors by name, in 32 bits where they are floats.

    Raises:
        UserError: If it is none.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    import torch

    state: Any
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise their own types, not all of them public
        raise UserError(f"{path}: cannot be read as a checkpoint: {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, not named weights")
    state = state.get("state_dict", state)  # as PyTorch Lightning writes it
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: holds other things than weights")
    return {name: (v.float() if v.is_floating_point() else v).numpy() for name, v in state.items()}


def weights_sha256(settings: MatchSettings) -> str:
    """Return the hash of the checkpoint that the settings name.

    Raises:
        UserError: If there is none.
    """
    if not os.path.isfile(settings.checkpoint):
        raise UserError(f"{settings.checkpoint}: no such file; 'weights' must be the checkpoint of {settings.model}")
    return _sha256(settings.checkpoint)


@functools.cache
def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(data: bytes) -> Image.Image:
    return Image.fromarray(decode_upright(data)[:, :, ::-1])
