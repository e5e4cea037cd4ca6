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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor

from model.config import MODEL_LAYOUTS, EmuConfig, LayoutName, LoraConfig
from model.emu import Emu
from model.errors import WeightsError
from model.image_decoder import ImageDecoder, build_sampler
from model.lora import add_adapters
from model.release.importing import UNUSED
from model.template import TEMPLATE, TemplateSettings
from model.tokenizer import TOKENIZER_FILES
from model.weight_files import cannot_write, read, with_prefix, without_prefix, write
from model.weights import renamed, unused_names

_FILES = (".safetensors", ".bin", ".pt")
_FOLDERS: tuple[LayoutName, ...] = ("emu2-hf", "llama", "diffusers")
_ENCODERS: tuple[LayoutName, ...] = ("eva-clip", "open-clip")
SHARD, _SHARDS = "10GB", "model*.safetensors*"  # size of each, and their names and their index's


@dataclass(frozen=True)
class Exported:
    """What was exported: the number of parameters, and the files and folders that were written."""

    num_parameters: int
    written: tuple[Path, ...]


@dataclass(frozen=True)
class Opened:
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
        layout: One of `EXPORTED_LAYOUTS`.
        out: A `.safetensors`, `.bin` or `.pt` file, or a folder.

    Raises:
        WeightsError: If the run lacks what the layout holds, the layout has no place for what the run has, or it cannot
            be written. What there is under a name is always complete.
    """
    out = Path(out)
    to_file = out.suffix in _FILES
    if to_file and layout in _FOLDERS:
        raise WeightsError(f"{out}: layout {layout} is several files; give a folder")
    if not to_file and layout in _ENCODERS:
        raise WeightsError(f"{out}: layout {layout} is one file; give a {', '.join(_FILES)} file")
    opened = open_run(Path(run))
    if opened.decoder_config is None and layout in ("diffusers", "emu2-gen"):
        raise WeightsError(f"{run}: has no image decoder, which belongs to layout {layout}")
    if layout == "diffusers":
        return _counted(_decoder_tensors(opened), published(out, lambda folder: _write_pipeline(opened, folder)))
    tensors = _model_tensors(opened, "emu2-hf" if layout == "emu2-gen" and not to_file else layout)
    if to_file:
        write(tensors, out)
        return _counted(tensors, (out,))
    return _counted(tensors, published(out, lambda folder: _write_folder(opened, tensors, layout, folder)))


def open_run(run: Path) -> Opened:
    """Open a run's model, and its image decoder if it has one.

    Raises:
        WeightsError: If it has none.
    """
    config, tensors = _model_in(run / "model")
    decoder = run / "decoder" / "model"
    if not (decoder / "config.json").is_file():
        return Opened(run, config, tensors, None, {})
    return Opened(run, config, tensors, *_model_in(decoder))


def _model_in(folder: Path) -> tuple[EmuConfig, dict[str, Tensor]]:
    try:
        config = EmuConfig.model_validate_json((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise WeightsError(f"{folder}: not the model of a run: {line}") from error
    return config, read(folder / "model.safetensors")


# --- tensors by the names of a release ---


def _model_tensors(run: Opened, layout: LayoutName) -> dict[str, Tensor]:
    """Return the model's tensors, and for `emu2-gen` the decoder's, by a layout's names."""
    tensors = dict(run.tensors)
    model = _model(run)
    if odd := _misfit(model, layout):
        raise WeightsError(f"{run.folder}: its {odd}, which no loader of layout {layout} reads")
    with torch.device("meta"):
        if layout == "emu-i":  # the run's own adapters are merged: the release's are then without effect
            add_adapters(model.language_model, LoraConfig())
    if layout in _ENCODERS:
        return renamed(model.encoder, without_prefix("encoder.", tensors), layout)
    if layout == "emu-i":
        dtype = next(iter(tensors.values())).dtype
        missing = {name: it for name, it in model.state_dict().items() if name not in tensors}
        tensors |= {name: torch.zeros(it.shape, dtype=dtype) for name, it in missing.items()}
    if layout == "emu2-gen":
        named = with_prefix("multimodal_encoder.", renamed(model, tensors, "emu2")) | _decoder_tensors(run)
    else:
        named = renamed(model, tensors, layout)
    kept = run.folder / "model" / UNUSED
    filler = _filler(run.config) if layout in ("emu", "emu-i") else {}
    unused = read(kept) if kept.is_file() else {}
    return filler | {name: unused[name] for name in unused_names(unused, layout)} | named


def _model(run: Opened) -> Emu:
    try:
        with torch.device("meta"):
            return Emu(run.config)
    except ValueError as error:  # the folder of its language model's configuration is gone
        raise WeightsError(f"{run.folder}: {error}") from error


def _misfit(model: Emu, layout: LayoutName) -> str:
    """Return the part of a model that is not that of the releases of a layout, which have EVA encoders and LLaMAs."""
    encoder, language_model = model.config.encoder, model.language_model.config
    if layout == "eva-clip" or layout in MODEL_LAYOUTS:
        if encoder.kind != "eva":
            return f"vision encoder is of kind {encoder.kind}"
        if layout in MODEL_LAYOUTS and encoder.sub_norm:
            return "vision encoder has norms inside its branches"
        if layout in ("emu", "emu-i") and encoder.post_norm:
            return "vision encoder normalises its branches"
    if layout in MODEL_LAYOUTS:
        if language_model.model_type != "llama":
            return f"language model is of type {language_model.model_type}"
        if (kind := (language_model.rope_parameters or {}).get("rope_type", "default")) != "default":
            return f"language model has rotary positions of type {kind}"
        if language_model.attention_bias or language_model.mlp_bias:
            return "language model has biases"
    return ""


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


def _decoder_tensors(run: Opened) -> dict[str, Tensor]:
    assert run.decoder_config is not None
    return renamed(_decoder(run), run.decoder_tensors, "diffusers")


def _decoder(run: Opened) -> ImageDecoder:
    assert run.decoder_config is not None
    with torch.device("meta"):
        return ImageDecoder.for_model(run.decoder_config)


# --- files ---


def _write_folder(run: Opened, tensors: dict[str, Tensor], layout: LayoutName, out: Path) -> tuple[Path, ...]:
    """Write the model, and what else is in a release's folder."""
    one = {"emu": "multimodal_encoder/pytorch_model.bin", "emu-i": "Emu-instruct.pt", "emu2": "pytorch_model.bin"}
    if layout in one:
        write(tensors, out / one[layout])
        written: tuple[Path, ...] = (out / one[layout],)
        return (*written, *_write_pipeline(run, out)) if layout == "emu" and run.decoder_config is not None else written
    folder = out / "multimodal_encoder" if layout == "emu2-gen" else out
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(tensors, folder, max_shard_size=SHARD)
    settings = _llama_settings(run) if layout == "llama" else _emu2_settings(run)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        if (path := run.folder / "model" / name).is_file():
            place = out / "tokenizer" if layout == "emu2-gen" else out
            place.mkdir(exist_ok=True)
            shutil.copyfile(path, place / name)
    return (folder, *_write_pipeline(run, out)) if layout == "emu2-gen" else (folder,)


def _write_pipeline(run: Opened, out: Path) -> tuple[Path, ...]:
    """Write an image decoder as diffusers reads it."""
    tensors, decoder = _decoder_tensors(run), _decoder(run)
    parts: dict[str, Any] = {"unet": decoder.unet, "vae": decoder.autoencoder}
    for name, part in parts.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "vae":  # fitted to the images where the autoencoder was trained here
            part.register_to_config(scaling_factor=float(run.decoder_tensors["latent_scale"]))
        part.save_config(folder)
        write(without_prefix(f"{name}.", tensors), folder / "diffusion_pytorch_model.safetensors")
    build_sampler(decoder.config).save_pretrained(out / "scheduler")
    return out / "unet", out / "vae", out / "scheduler"


def published(out: Path, write_all: Callable[[Path], tuple[Path, ...]]) -> tuple[Path, ...]:
    """Write a folder beside its place, and put it there when it is complete; return what was written.

    If the place is a folder already, its shards are removed and other files stay: remote code may lie there.
    """
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
        written = [out / path.relative_to(temporary) for path in write_all(temporary)]
        for folder in sorted(path.parent for path in temporary.rglob(_SHARDS)):
            for old in (out / folder.relative_to(temporary)).glob(_SHARDS):
                old.unlink()
        for new in sorted(path for path in temporary.rglob("*") if path.is_file()):
            place = out / new.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            new.replace(place)
    except (OSError, SafetensorError) as error:
        raise cannot_write(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tuple(written)


def _counted(tensors: Mapping[str, Tensor], written: tuple[Path, ...]) -> Exported:
    return Exported(sum(tensor.numel() for tensor in tensors.values()), written)


# --- config.json ---


def _llama_settings(run: Opened) -> dict[str, Any]:
    """Return transformers' settings of the language model, with the vocabulary of the base tokenizer."""
    settings: dict[str, Any] = _model(run).language_model.config.to_dict()
    return settings | {"vocab_size": run.config.base_vocab_size}


def _chats(run: Opened) -> bool:
    """Return whether the model was tuned to chat, by its template."""
    path = run.folder / "model" / TEMPLATE
    try:
        return path.is_file() and TemplateSettings.model_validate_json(path.read_bytes()).chats
    except ValueError as error:
        raise WeightsError(f"{path}: not the settings of a template: {str(error).partition(chr(10))[0]}") from error


def _emu2_settings(run: Opened) -> dict[str, Any]:
    """Return the settings that Emu2's remote code reads; that code itself lies in the release."""
    config = run.config
    lm, vision, stock = config.language_model, config.encoder, _model(run).language_model.config
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
        "model_version": "chat" if _chats(run) else "base",
        "num_attention_heads": lm.heads,
        "num_hidden_layers": lm.layers,
        "num_key_value_heads": lm.kv_heads or lm.heads,
        "pad_token_id": config.base_vocab_size,
        "rms_norm_eps": stock.rms_norm_eps,
        "rope_theta": stock.rope_parameters["rope_theta"],
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
