"""Import of a released model into a run's folder.

    R/config.resolved.yaml      the model's named size and what differs from it
    R/model/                    config.json, model.safetensors, the tokenizer; layout.json and generation.json: how its
                                authors write prompts and generate; template.json of a tuned model;
                                unused.safetensors: what the release contains without using it
    R/decoder/model/            config.json, model.safetensors, if there is an image decoder

A release is one file, Hugging Face shards, or a pipeline of folders (`multimodal_encoder/`, `unet/`, `vae/`). Weights
are mapped from disk and written as they are read: no more than one copy of them is ever in memory.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from model.config import EmuConfig
from model.emu import Emu
from model.generation import GENERATION
from model.image_decoder import ImageDecoder
from model.release.settings import RELEASES, Source, changed_settings, release_settings
from model.sequence import LAYOUT, LayoutConfig
from model.template import TEMPLATE, Form, TemplateSettings
from model.weights import Fitted, LayoutName, WeightsError, fit, read, with_decoder

UNUSED = "unused.safetensors"
"""Name of the file of tensors that a release contains without using them, in the folder of an imported model."""


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        config: Settings of the model.
        num_parameters: Parameters of the model.
        form: Form of its template; None for a pretrained model.
        has_decoder: Whether there is an image decoder.
        unused: Names of tensors that are not used.
    """

    config: EmuConfig
    num_parameters: int
    form: Form | None
    has_decoder: bool
    unused: tuple[str, ...]


def import_release(
    layout: LayoutName,
    path: str | Path,
    out: str | Path,
    *,
    decoder: str | Path | None = None,
    tokenizer: str | Path | None = None,
    size: str | None = None,
    changes: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Imported:
    """Import a released model into a run's folder.

    Args:
        layout: One of `RELEASES`.
        path: A checkpoint's file or folder, or a pipeline's folder, which is then also that of the decoder.
        out: The run's folder.
        decoder: Folder with `unet/` and `vae/`.
        tokenizer: Tokenizer's file or folder; None: it lies beside the checkpoint.
        size: Named size of the model; None: the release's, with the sizes that the tensors have.
        changes: Settings of the model that differ from all of these, as a tree.
        dtype: Data type of the stored weights; None: that of the checkpoint.

    Raises:
        WeightsError: If anything does not fit; no model is then left in the folder.
    """
    path, out = Path(path), Path(out)
    if layout not in RELEASES:
        raise WeightsError(
            f"layout {layout} is not one of whole models, which are {', '.join(RELEASES)}; parts are named in a config"
        )
    if (out / "checkpoints").exists():
        raise WeightsError(f"{out}: a run that was trained here; choose another folder")
    tokenizer_file = _find_tokenizer(path, tokenizer)
    release = RELEASES[layout]
    tensors, layout = _open(path, layout)
    pipeline = Path(decoder) if decoder is not None else path if (path / "unet").is_dir() else None
    source = Source(path, tokenizer_file, pipeline, size, changes or {})
    config, form = release_settings(tensors, layout, source, release)
    with torch.device("meta"):
        model = Emu(config)
        image_decoder = ImageDecoder.for_model(config)
    (out / "model").mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Tensor] | None = None
    if any(name.startswith("unet.") for name in tensors):
        whole = fit(with_decoder(model, image_decoder), tensors, layout)
        drawn = _beginning_with("decoder.", whole.tensors)
        fitted = Fitted(_beginning_with("emu.", whole.tensors), whole.unused)
    else:
        fitted = fit(model, tensors, layout)
    if pipeline is not None:
        drawn = _fitted_decoder(image_decoder, pipeline)
    _save(fitted.tensors, out / "model" / "model.safetensors", dtype)
    if fitted.unused:
        _save(fitted.unused, out / "model" / UNUSED, dtype)
    shutil.copyfile(tokenizer_file, out / "model" / tokenizer_file.name)
    _write(out / "model" / LAYOUT, LayoutConfig(separate_across_images=False).model_dump_json(indent=1))
    _write(out / "model" / GENERATION, release.generation.model_dump_json(indent=1))
    if form is not None:
        _write(out / "model" / TEMPLATE, TemplateSettings(form=form).model_dump_json(indent=1))
    if drawn is not None:
        folder = out / "decoder" / "model"
        folder.mkdir(parents=True, exist_ok=True)
        scale = torch.tensor(config.image_decoder.autoencoder.scaling_factor)
        _save(drawn | {"latent_scale": scale}, folder / "model.safetensors", dtype)
        _write(folder / "config.json", config.model_dump_json(indent=1))
    _write(out / "config.resolved.yaml", yaml.safe_dump({"model": changed_settings(config, size or release.size)}))
    _write(out / "model" / "config.json", config.model_dump_json(indent=1))
    count = sum(tensor.numel() for tensor in fitted.tensors.values())
    return Imported(config, count, form, drawn is not None, tuple(fitted.unused))


# --- finding files ---


def _find_tokenizer(path: Path, named: str | Path | None) -> Path:
    """Return the tokenizer's file. LLaMA's own is preferred: a `tokenizer.json` beside it may hold other tokens too."""
    folder = path if path.is_dir() else path.parent
    places = [Path(named)] if named is not None else [folder, folder / "tokenizer", folder / "multimodal_encoder"]
    for place in places:
        if place.is_file():
            return place
        for name in ("tokenizer.model", "tokenizer.json"):
            if (place / name).is_file():
                return place / name
    raise WeightsError(f"{places[0]}: no tokenizer.model or tokenizer.json: name the tokenizer of the release")


def _open(path: Path, layout: LayoutName) -> tuple[dict[str, Tensor], LayoutName]:
    """Read a checkpoint, and return the layout that its names follow: a pipeline's folder may hold either of Emu2's."""
    folder = path / "multimodal_encoder"
    tensors = read(folder if folder.is_dir() else path)
    if layout in ("emu2", "emu2-hf", "emu2-gen"):
        for beginning, found in (
            ("multimodal_encoder.", "emu2-gen"),
            ("model.visual.", "emu2-hf"),
            ("visual.", "emu2"),
        ):
            if any(name.startswith(beginning) for name in tensors):
                return tensors, found  # type: ignore[return-value] # a literal of the table
    return tensors, layout


# --- reading and writing ---


def _fitted_decoder(decoder: ImageDecoder, folder: Path) -> dict[str, Tensor]:
    fitted = fit(decoder, read(folder), "diffusers")
    if fitted.unused:
        name, tensor = next(iter(fitted.unused.items()))
        width = decoder.get_parameter(name).shape[-1]
        raise WeightsError(f"{folder}: {name} has {tensor.shape[-1]} inputs, not {width}: the decoder of another model")
    return fitted.tensors


def _beginning_with(beginning: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): tensor for name, tensor in tensors.items() if name.startswith(beginning)}


def _save(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None) -> None:
    """Write a `.safetensors` file, which appears under its name only when complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    stored = {
        name: (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in tensors.items()
    }
    try:
        save_file(stored, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, content: str) -> None:
    path.write_text(content.rstrip("\n") + "\n", encoding="utf-8")
