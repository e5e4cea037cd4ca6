"""Export of a run's model, or of a part of it, in the files of a release.

| layout                  | to a file          | to a folder                                                        |
|-------------------------|--------------------|--------------------------------------------------------------------|
| `emu`                   | the model          | `multimodal_encoder/pytorch_model.bin`; the decoder as `diffusers` |
| `emu-i`                 | the model          | `Emu-instruct.pt`                                                  |
| `emu2`                  | the model          | `pytorch_model.bin`                                                |
| `emu2-hf`               |                    | shards, `config.json`, the tokenizer                               |
| `emu2-gen`              | model and decoder  | `multimodal_encoder/` as `emu2-hf`, `tokenizer/`, the decoder      |
| `llama`                 |                    | the language model: shards, `config.json`, the tokenizer           |
| `eva-clip`, `open-clip` | the vision encoder |                                                                    |
| `diffusers`             |                    | the image decoder: `unet/`, `vae/`, `scheduler/`                   |

What a release contains without using it comes from the import, or is filled with zeros: its loader insists on it.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from model.config import EmuConfig
from model.emu import Emu
from model.image_decoder import ImageDecoder, build_sampler
from model.lora import LoraConfig, add_adapters
from model.release.importing import UNUSED
from model.tokenizer import TOKENIZER_FILES
from model.weights import LayoutName, WeightsError, read, renamed, unused_names

_FILES = (".safetensors", ".bin", ".pt")
_FOLDERS: tuple[LayoutName, ...] = ("emu2-hf", "llama", "diffusers")
_ENCODERS: tuple[LayoutName, ...] = ("eva-clip", "open-clip")
_SHARD = "10GB"
EXPORTED: tuple[LayoutName, ...] = ("emu", "emu-i", "emu2", "emu2-hf", "emu2-gen", "diffusers", "llama", *_ENCODERS)
"""Layouts to which a run can be exported."""


@dataclass(frozen=True)
class Exported:
    """What was exported: the number of parameters, and the files and folders that were written."""

    num_parameters: int
    written: tuple[Path, ...]


@dataclass(frozen=True)
class _Run:
    """A run's model and image decoder: settings, and tensors mapped from their files."""

    folder: Path
    config: EmuConfig
    tensors: dict[str, Tensor]
    decoder_config: EmuConfig | None
    decoder_tensors: dict[str, Tensor]


def export_run(run: str | Path, layout: LayoutName, out: str | Path) -> Exported:
    """Write a run's model, or a part of it, in the files of a release.

    Args:
        run: The run's folder.
        layout: One of `EXPORTED`.
        out: A `.safetensors`, `.bin` or `.pt` file, or a folder.

    Raises:
        WeightsError: If the run lacks what the layout holds, or the layout has no place for what the run has.
    """
    out = Path(out)
    to_file = out.suffix in _FILES
    if to_file and layout in _FOLDERS:
        raise WeightsError(f"{out}: layout {layout} is several files; give a folder")
    if not to_file and layout in _ENCODERS:
        raise WeightsError(f"{out}: layout {layout} is one file; give a {', '.join(_FILES)} file")
    opened = _open(Path(run))
    if opened.decoder_config is None and layout in ("diffusers", "emu2-gen"):
        raise WeightsError(f"{run}: has no image decoder, which belongs to layout {layout}")
    if layout == "diffusers":
        return _counted(_decoder_tensors(opened), _write_pipeline(opened, out))
    tensors = _model_tensors(opened, "emu2-hf" if layout == "emu2-gen" and not to_file else layout)
    if to_file:
        _write_file(tensors, out)
        return _counted(tensors, (out,))
    return _counted(tensors, _write_folder(opened, tensors, layout, out))


def _open(run: Path) -> _Run:
    config, tensors = _model_in(run / "model")
    decoder = run / "decoder" / "model"
    if not (decoder / "config.json").is_file():
        return _Run(run, config, tensors, None, {})
    return _Run(run, config, tensors, *_model_in(decoder))


def _model_in(folder: Path) -> tuple[EmuConfig, dict[str, Tensor]]:
    try:
        config = EmuConfig.model_validate_json((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise WeightsError(f"{folder}: not the model of a run: {line}") from error
    return config, read(folder / "model.safetensors")


# --- tensors by the names of a release ---


def _model_tensors(run: _Run, layout: LayoutName) -> dict[str, Tensor]:
    """Return the model's tensors, and for `emu2-gen` the decoder's, by a layout's names."""
    tensors = dict(run.tensors)
    with torch.device("meta"):
        model = Emu(run.config)
        if layout == "emu-i":  # the run's own adapters are merged: the release's are then without effect
            add_adapters(model.language_model, LoraConfig())
    if layout in _ENCODERS:
        prefix = "encoder."
        encoder = {name.removeprefix(prefix): it for name, it in tensors.items() if name.startswith(prefix)}
        return renamed(model.encoder, encoder, layout)
    if layout == "emu-i":
        dtype = next(iter(tensors.values())).dtype
        missing = {name: it for name, it in model.state_dict().items() if name not in tensors}
        tensors |= {name: torch.zeros(it.shape, dtype=dtype) for name, it in missing.items()}
    if layout == "emu2-gen":
        named = _native("multimodal_encoder.", renamed(model, tensors, "emu2")) | _decoder_tensors(run)
    else:
        named = renamed(model, tensors, layout)
    kept = run.folder / "model" / UNUSED
    filler = _filler(run.config) if layout in ("emu", "emu-i") else {}
    unused = read(kept) if kept.is_file() else {}
    return filler | {name: unused[name] for name in unused_names(unused, layout)} | named


def _native(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _filler(config: EmuConfig) -> dict[str, Tensor]:
    """Return what Emu's loader insists on and never uses: the vision tower's head, and T5's table of tokens."""
    width = config.encoder.width
    shapes = {
        "visual.norm.weight": (width,),
        "visual.norm.bias": (width,),
        "visual.head.weight": (1024, width),
        "visual.head.bias": (1024,),
        "cformer.cformer.embed_tokens.weight": (32128, config.bridge.former_width),
    }
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def _decoder_tensors(run: _Run) -> dict[str, Tensor]:
    assert run.decoder_config is not None
    return renamed(_decoder(run), run.decoder_tensors, "diffusers")


def _decoder(run: _Run) -> ImageDecoder:
    assert run.decoder_config is not None
    with torch.device("meta"):
        return ImageDecoder.for_model(run.decoder_config)


# --- files ---


def _write_folder(run: _Run, tensors: dict[str, Tensor], layout: LayoutName, out: Path) -> tuple[Path, ...]:
    """Write the model, and what else is in a release's folder."""
    one = {"emu": "multimodal_encoder/pytorch_model.bin", "emu-i": "Emu-instruct.pt", "emu2": "pytorch_model.bin"}
    if layout in one:
        _write_file(tensors, out / one[layout])
        written: tuple[Path, ...] = (out / one[layout],)
        return (*written, *_write_pipeline(run, out)) if layout == "emu" and run.decoder_config is not None else written
    folder = out / "multimodal_encoder" if layout == "emu2-gen" else out
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(tensors, folder, max_shard_size=_SHARD)
    settings = _llama_settings(run.config) if layout == "llama" else _emu2_settings(run.config)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        if (path := run.folder / "model" / name).is_file():
            place = out / "tokenizer" if layout == "emu2-gen" else out
            place.mkdir(exist_ok=True)
            shutil.copyfile(path, place / name)
    return (folder, *_write_pipeline(run, out)) if layout == "emu2-gen" else (folder,)


def _write_pipeline(run: _Run, out: Path) -> tuple[Path, ...]:
    """Write an image decoder as diffusers reads it."""
    tensors, decoder = _decoder_tensors(run), _decoder(run)
    parts: dict[str, Any] = {"unet": decoder.unet, "vae": decoder.autoencoder}
    for name, part in parts.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        own = {key.removeprefix(f"{name}."): it for key, it in tensors.items() if key.startswith(f"{name}.")}
        if name == "vae":  # fitted to the images where the autoencoder was trained here
            part.register_to_config(scaling_factor=float(run.decoder_tensors["latent_scale"]))
        part.save_config(folder)
        _write_file(own, folder / "diffusion_pytorch_model.safetensors")
    build_sampler(decoder.config).save_pretrained(out / "scheduler")
    return out / "unet", out / "vae", out / "scheduler"


def _write_file(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file of tensors, which appears under its name only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if path.suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        else:  # of a view, torch would write the whole file that it is mapped from
            torch.save({name: tensor.clone() for name, tensor in tensors.items()}, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _counted(tensors: Mapping[str, Tensor], written: tuple[Path, ...]) -> Exported:
    return Exported(sum(tensor.numel() for tensor in tensors.values()), written)


# --- config.json ---


def _llama_settings(config: EmuConfig) -> dict[str, Any]:
    """Return transformers' settings of the language model, with the vocabulary of the base tokenizer."""
    with torch.device("meta"):
        settings: dict[str, Any] = Emu(config).language_model.config.to_dict()
    return settings | {"vocab_size": config.base_vocab_size}


def _emu2_settings(config: EmuConfig) -> dict[str, Any]:
    """Return the settings that Emu2's remote code reads; that code itself lies in the release."""
    lm, vision = config.language_model, config.encoder
    return {
        "architectures": ["EmuForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_emu.EmuConfig",
            "AutoModelForCausalLM": "modeling_emu.EmuForCausalLM",
        },
        "bos_token_id": 1,
        "d_model": vision.width,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": lm.width,
        "initializer_range": 0.02,
        "intermediate_size": lm.mlp_hidden,
        "max_position_embeddings": lm.max_positions,
        "model_type": "emu",
        "model_version": "chat" if config.bridge.image_slots != config.bridge.frame_slots else "base",
        "num_attention_heads": lm.heads,
        "num_hidden_layers": lm.layers,
        "num_key_value_heads": lm.kv_heads or lm.heads,
        "pad_token_id": config.base_vocab_size,
        "rms_norm_eps": lm.norm_eps,
        "rope_theta": lm.rope_theta,
        "tie_word_embeddings": lm.tie_embeddings,
        "use_cache": True,
        "vision_config": {
            "drop_path_rate": 0,
            "eva_model_name": "eva-clip-E-14-plus",
            "head_width": vision.width // vision.heads,
            "image_size": vision.image_size,
            "intermediate_size": vision.mlp_hidden,
            "layer_norm_eps": 1e-6,
            "layers": vision.layers,
            "mlp_ratio": vision.mlp_hidden / vision.width,
            "n_query": config.bridge.image_slots,
            "patch_size": vision.patch_size,
            "postnorm": vision.post_norm,
            "qkv_bias": True,
            "v_query": config.bridge.frame_slots,
            "width": vision.width,
            "xattn": False,
        },
        "vocab_size": config.vocab_size,
    }
