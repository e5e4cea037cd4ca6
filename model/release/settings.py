"""Settings of a released model, as its tensors and the `config.json` files beside them show.

What neither shows (numbers of heads, of embeddings per image) is that of the release's named size.
"""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from torch import Tensor

from model.config import AutoencoderConfig, EmuConfig, LayoutName, merged, named_size
from model.errors import WeightsError
from model.generation import GenerationConfig
from model.template import Form
from model.tokenizer import Tokenizer
from model.weights import named_here

_HEAD_WIDTH = 128  # of both releases' language models
_CHAT_SLOTS = 256  # embeddings of an image in Emu2-Chat; 64 of a frame
_SAMPLERS = {"PNDMScheduler": "pndm", "EulerDiscreteScheduler": "euler", "DDIMScheduler": "ddim"}
_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@dataclass(frozen=True)
class Release:
    """What is common to all models of a layout.

    Attributes:
        size: Their named size.
        form: Form of the template with which they were tuned, if they were.
        generation: Settings with which their authors generate text.
    """

    size: str
    generation: GenerationConfig
    form: Form | None = None


_EMU = GenerationConfig(num_beams=5, min_new_tokens=1, length_penalty=0.0, video_length_penalty=1.0)
_EMU2 = GenerationConfig(num_beams=5, length_penalty=-1.0, max_new_tokens=64)
RELEASES: dict[LayoutName, Release] = {
    "emu": Release("emu-14b", _EMU),
    "emu-i": Release("emu-14b", _EMU, "emu"),
    "emu2": Release("emu2-37b", _EMU2),
    "emu2-hf": Release("emu2-37b", _EMU2),
    "emu2-gen": Release("emu2-37b", _EMU2, "generation"),
}
"""Layouts of whole models, which can be imported."""


@dataclass(frozen=True)
class Source:
    """Where a release lies, and what was asked of its import.

    Attributes:
        path: Its file or folder.
        tokenizer: File of its tokenizer.
        pipeline: Folder with `unet/` and `vae/`, or None.
        size: Named size of the model; None: the release's, with the sizes that the tensors have.
        changes: Settings that differ from all of these, as a tree.
    """

    path: Path
    tokenizer: Path
    pipeline: Path | None = None
    size: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def release_settings(
    tensors: Mapping[str, Tensor], layout: LayoutName, source: Source, release: Release
) -> tuple[EmuConfig, Form | None]:
    """Return the settings of a released model, and the form of its template.

    Args:
        tensors: Its tensors.
        layout: The scheme of their names.
        source: Where it lies, and what was asked.
        release: Which release it is.

    Raises:
        WeightsError: If it is none, its tokenizer is another's, or its settings do not fit each other.
    """
    ours = named_here(tensors, layout)
    rows = _shape(ours, "language_model.model.embed_tokens.weight", layout)[0]
    try:
        base = named_size(source.size or release.size)
        plain, chat = (Tokenizer.load(source.tokenizer, base.family, chat=chat) for chat in (False, True))
    except ValueError as error:
        raise WeightsError(str(error).partition("\n")[0]) from error
    if rows not in (plain.vocab_size, chat.vocab_size):
        raise WeightsError(
            f"{source.path}: its embedding has {rows} rows, but {source.tokenizer} has {plain.base_vocab_size} tokens, "
            f"with those of {base.family} {plain.vocab_size}, in a chat model {chat.vocab_size}: name its own tokenizer"
        )
    chats = rows == chat.vocab_size
    tree = base.model_dump() | {"base_vocab_size": plain.base_vocab_size, "vocab_size": rows}
    if source.size is None:
        described = _described(source.path)
        vision = described.group("vision_config")
        tree["encoder"] |= _encoder_sizes(ours, base, vision, layout)
        tree["language_model"] |= _language_model_sizes(ours, tensors, described, layout)
        tree["bridge"] |= _bridge_sizes(ours, base, vision, chats=chats)
    if source.pipeline is not None:
        try:
            tree["image_decoder"] |= _decoder_settings(source.pipeline)
        except WeightsError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{source.pipeline}: unet/config.json or vae/config.json is not that of such a part: {error!r}"
            ) from error
    tree["image_decoder"]["null_conditioning"] = "model"  # of whatever decoder is imported
    try:
        config = EmuConfig.model_validate(merged(tree, source.changes))
    except ValidationError as error:
        raise WeightsError(f"{source.path}: {_explained(error)}") from error
    form = release.form
    if chats and form is None:
        form = "emu" if base.family == "emu" else "chat"
    return config, form


def _explained(error: ValidationError) -> str:
    """Return the first mistake in a model's settings, and what would be right."""
    first = error.errors()[0]
    *groups, last = map(str, first["loc"]) if first["loc"] else ("",)
    where = ".".join([*groups, last])
    if first["type"] == "extra_forbidden":
        kind: Any = EmuConfig
        for group in groups:
            kind = kind.model_fields[group].annotation
            kind = next(iter(get_args(kind)), kind)  # of a group that may be left out
        near = difflib.get_close_matches(last, kind.model_fields, n=1, cutoff=0.5)
        return f"{where}: unknown setting. " + (
            f"Did you mean '{near[0]}'?" if near else f"Known here: {', '.join(kind.model_fields)}"
        )
    message = first["msg"].removeprefix("Value error, ")
    return (
        f"{where + ': ' if where else ''}{message}: set what its tensors do not show, as in --set encoder.heads=16, or "
        "name its --size"
    )


@dataclass(frozen=True)
class _Described:
    """The contents of a Hugging Face `config.json`, or of a group in it."""

    path: Path
    values: Mapping[str, Any]

    def group(self, name: str) -> "_Described":
        """Return a group; one that is missing or null is empty."""
        found = self.values.get(name) or {}
        if not isinstance(found, dict):
            raise WeightsError(f"{self.path}: {name} is {found!r}, not a group of settings")
        return _Described(self.path, found)

    def number(self, name: str, default: Any = None) -> Any:
        """Return a positive number, or the default if there is none."""
        found = self.values.get(name)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, int | float) or not found > 0:
            raise WeightsError(f"{self.path}: {name} is {found!r}, not a positive number")
        return found


def _encoder_sizes(
    ours: Mapping[str, Tensor], base: EmuConfig, described: _Described, layout: LayoutName
) -> dict[str, Any]:
    *_, positions, width = _shape(ours, "encoder.tower.pos_embed", layout)
    patch_size = _shape(ours, "encoder.tower.patch_embed.proj.weight", layout)[-1]
    grid = math.isqrt(positions - 1)
    head_width = described.number("head_width")
    return {
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "width": width,
        "layers": _count(ours, "encoder.tower.blocks."),
        "heads": base.encoder.heads if head_width is None else width // head_width,
        "mlp_hidden": _shape(ours, "encoder.tower.blocks.0.mlp.fc1.weight", layout)[0],
    }


def _language_model_sizes(
    ours: Mapping[str, Tensor], tensors: Mapping[str, Tensor], described: _Described, layout: LayoutName
) -> dict[str, Any]:
    layer = "language_model.model.layers."
    width = _shape(ours, "language_model.model.embed_tokens.weight", layout)[1]
    tables = (2 * len(tensor) for name, tensor in tensors.items() if name.endswith("rotary_emb.inv_freq"))
    head_width = next(tables, min(width, _HEAD_WIDTH))
    heads = described.number("num_attention_heads", width // head_width)
    kv_heads = _shape(ours, f"{layer}0.self_attn.k_proj.weight", layout)[0] * heads // width
    sizes: dict[str, Any] = {
        "width": width,
        "layers": _count(ours, layer),
        "heads": heads,
        "kv_heads": None if kv_heads == heads else kv_heads,
        "mlp_hidden": _shape(ours, f"{layer}0.mlp.gate_proj.weight", layout)[0],
    }
    for name, theirs in (
        ("max_positions", "max_position_embeddings"),
        ("norm_eps", "rms_norm_eps"),
        ("rope_theta", "rope_theta"),
    ):
        if (found := described.number(theirs)) is not None:
            sizes[name] = found
    return sizes


def _bridge_sizes(ours: Mapping[str, Tensor], base: EmuConfig, described: _Described, *, chats: bool) -> dict[str, Any]:
    if base.family == "emu2":
        slots = _CHAT_SLOTS if chats else base.bridge.image_slots
        return {
            "image_slots": described.number("n_query", slots),
            "frame_slots": described.number("v_query", base.bridge.frame_slots),
        }
    former, block = "bridge.cformer.", "bridge.cformer.cformer.block."
    slots, width = _shape(ours, f"{former}causal_tokens", "emu")[-2:]
    buckets, heads = _shape(ours, f"{block}0.layer.0.SelfAttention.relative_attention_bias.weight", "emu")
    return {
        "image_slots": slots,
        "frame_slots": slots,
        "former_width": width,
        "former_layers": _count(ours, block),
        "former_heads": heads,
        "former_mlp_hidden": _shape(ours, f"{block}0.layer.2.DenseReluDense.wi.weight", "emu")[0],
        "former_buckets": buckets,
    }


def _decoder_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a pipeline's U-Net, autoencoder and sampler, as far as it has their `config.json`."""
    unet, vae = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    found: dict[str, Any] = {}
    if vae:
        found["autoencoder"] = {
            "channels": tuple(vae["block_out_channels"]),
            "layers_per_block": vae["layers_per_block"],
            "latent_channels": vae["latent_channels"],
            "norm_groups": vae["norm_num_groups"],
            "scaling_factor": vae["scaling_factor"],
        }
    if unet:
        channels = unet["block_out_channels"]
        attends = ["CrossAttn" in kind for kind in unet["down_block_types"]]
        layers, heads = (
            value if isinstance(value, list) else [value] * len(channels)
            for value in (unet.get("transformer_layers_per_block", 1), unet["attention_head_dim"])
        )
        downscale = AutoencoderConfig(**found.get("autoencoder", {})).downscale
        found |= {
            "image_size": unet["sample_size"] * downscale,
            "channels": tuple(channels),
            "layers_per_block": unet["layers_per_block"],
            "transformer_layers": tuple(n if a else 0 for n, a in zip(layers, attends, strict=True)),
            "heads": tuple(heads),
            "norm_groups": unet["norm_num_groups"],
            "linear_projection": unet.get("use_linear_projection", False),
            "micro_conditions": unet.get("addition_embed_type") == "text_time",
        }
    if schedule:
        if odd := [name for name, value in _SCHEDULE.items() if schedule.get(name, value) != value]:
            raise WeightsError(
                f"{folder}/scheduler/scheduler_config.json: {odd[0]} is {schedule[odd[0]]}, not Stable Diffusion's "
                f"{_SCHEDULE[odd[0]]}"
            )
        sampler = schedule.get("_class_name")
        if sampler not in _SAMPLERS:
            raise WeightsError(f"{folder}/scheduler: {sampler} is unknown; known are {', '.join(_SAMPLERS)}")
        found |= {"sampler": _SAMPLERS[sampler], "prediction": schedule.get("prediction_type", "epsilon")}
    return found


def _described(path: Path) -> _Described:
    """Return the contents of a Hugging Face `config.json` of the model, or nothing."""
    for file in (path / "multimodal_encoder" / "config.json", path / "config.json"):
        if found := read_json(file):
            return _Described(file, found)
    return _Described(path, {})


def changed_settings(config: EmuConfig, size: str) -> dict[str, Any]:
    """Return the section `model:` of a trainer's config: a named size, and what differs from it.

    A decoder that is trained from there is guided away from zeros again.
    """
    labels: dict[str, Any] = {
        "name": True,
        "base_vocab_size": True,
        "vocab_size": True,
        "image_decoder": {"null_conditioning"},
    }
    tree, base = (it.model_dump(mode="json", exclude=labels) for it in (config, named_size(size)))
    changes = _difference(tree, base)
    return {"size": size} | ({"changes": changes} if changes else {})


def _difference(tree: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            if inner := _difference(value, base[name]):
                out[name] = inner
        elif value != base.get(name):
            out[name] = value
    return out


def _shape(ours: Mapping[str, Tensor], name: str, layout: LayoutName) -> Sequence[int]:
    if name not in ours:
        raise WeightsError(f"not a checkpoint of layout {layout}: it has nothing for {name}")
    return tuple(ours[name].shape)


def _count(ours: Mapping[str, Tensor], beginning: str) -> int:
    """Return the number of blocks, which are numbered after a common beginning of their names."""
    return len({name.removeprefix(beginning).partition(".")[0] for name in ours if name.startswith(beginning)})


def read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file, or nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path}: not a JSON file: {error}") from error
    return found if isinstance(found, dict) else {}
