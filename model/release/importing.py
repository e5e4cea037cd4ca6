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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from model.config import EmuConfig, LayoutName
from model.emu import Emu
from model.errors import WeightsError
from model.generation import GENERATION
from model.image_decoder import ImageDecoder
from model.release.settings import RELEASES, Source, changed_settings, release_settings
from model.sequence import LAYOUT, LayoutConfig
from model.template import TEMPLATE, Form, TemplateSettings
from model.tokenizer import TOKENIZER_FILES
from model.weight_files import cannot_write, read, without_prefix, write
from model.weights import Fitted, fit, with_decoder

_CONFIG = "config.resolved.yaml"
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
        out: The run's folder; a model that was imported into it before is replaced.
        decoder: Folder with `unet/` and `vae/`.
        tokenizer: Tokenizer's file or folder; None: it lies beside the checkpoint.
        size: Named size of the model; None: the release's, with the sizes that the tensors have.
        changes: Settings of the model that differ from all of these, as a tree.
        dtype: Data type of the stored weights; None: that of the checkpoint.

    Raises:
        WeightsError: If anything does not fit or cannot be written; the folder is then as it was.
    """
    path, out = Path(path), Path(out)
    if layout not in RELEASES:
        raise WeightsError(
            f"layout {layout} is not one of whole models, which are {', '.join(RELEASES)}; parts are named in a config"
        )
    for trained in (out, out / "decoder"):
        if (trained / "checkpoints").exists():
            raise WeightsError(f"{trained}: a run that was trained here; choose another folder")
    tokenizer_file = _find_tokenizer(path, tokenizer)
    release = RELEASES[layout]
    tensors, layout = _open(path, layout)
    pipeline = Path(decoder) if decoder is not None else path if (path / "unet").is_dir() else None
    source = Source(path, tokenizer_file, pipeline, size, changes or {})
    config, form = release_settings(tensors, layout, source, release)
    try:
        with torch.device("meta"):
            model = Emu(config)
            image_decoder = ImageDecoder.for_model(config)
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: no model has these settings: {error}") from error
    decoder_tensors: dict[str, Tensor] | None = None
    if any(name.startswith("unet.") for name in tensors):
        whole = fit(with_decoder(model, image_decoder), tensors, layout)
        decoder_tensors = without_prefix("decoder.", whole.tensors)
        fitted = Fitted(without_prefix("emu.", whole.tensors), whole.unused)
    else:
        fitted = fit(model, tensors, layout)
    if pipeline is not None:
        decoder_tensors = _fitted_decoder(image_decoder, pipeline)

    def write_all(folder: Path) -> None:
        write(fitted.tensors, folder / "model" / "model.safetensors", dtype)
        if fitted.unused:
            write(fitted.unused, folder / "model" / UNUSED, dtype)
        kept = "tokenizer.model" if tokenizer_file.suffix == ".model" else "tokenizer.json"
        shutil.copyfile(tokenizer_file, folder / "model" / kept)
        _write(folder / "model" / LAYOUT, LayoutConfig(separate_across_images=False).model_dump_json(indent=1))
        _write(folder / "model" / GENERATION, release.generation.model_dump_json(indent=1))
        if form is not None:
            _write(folder / "model" / TEMPLATE, TemplateSettings(form=form).model_dump_json(indent=1))
        if decoder_tensors is not None:
            scale = torch.tensor(config.image_decoder.autoencoder.scaling_factor)
            write(decoder_tensors | {"latent_scale": scale}, folder / "decoder" / "model" / "model.safetensors", dtype)
            _write(folder / "decoder" / "model" / "config.json", config.model_dump_json(indent=1))
        _write(folder / _CONFIG, yaml.safe_dump({"model": changed_settings(config, size or release.size)}))
        _write(folder / "model" / "config.json", config.model_dump_json(indent=1))

    _replaced(out, write_all)
    count = sum(tensor.numel() for tensor in fitted.tensors.values())
    return Imported(config, count, form, decoder_tensors is not None, tuple(fitted.unused))


def _replaced(out: Path, write_all: Callable[[Path], None]) -> None:
    """Write an imported model beside one that is there, and put it in its place when it is complete.

    Nothing of the old one remains: its template, tokenizer and image decoder would be taken for the new one's.
    """
    temporary = out / ".importing"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an import that was killed
        temporary.mkdir(parents=True)
        write_all(temporary)
        for name in ("model", "decoder", _CONFIG):
            old, new = out / name, temporary / name
            if old.is_dir():
                shutil.rmtree(old)
            if new.exists():
                new.replace(old)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# --- finding files ---


def _find_tokenizer(path: Path, named: str | Path | None) -> Path:
    """Return the tokenizer's file. LLaMA's own is preferred, unlike in runs: the other may have more tokens."""
    folder = path if path.is_dir() else path.parent
    places = [Path(named)] if named is not None else [folder, folder / "tokenizer", folder / "multimodal_encoder"]
    for place in places:
        if place.is_file():
            return place
        for name in reversed(TOKENIZER_FILES):
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


def _write(path: Path, content: str) -> None:
    path.write_text(content.rstrip("\n") + "\n", encoding="utf-8")
