"""Strict loading of released checkpoints into this model's modules, and export back.

A layout is the naming scheme of one kind of checkpoint. Every tensor of a checkpoint must have a place here and every
place must be filled. What a release contains but does not use is listed with the layout, returned by `load`, and may be
passed to `export`, which then writes the same keys again.

| layout     | module                        | checkpoint                                                   |
|------------|-------------------------------|--------------------------------------------------------------|
| `emu`      | `Emu`, family emu             | Emu's `multimodal_encoder/pytorch_model.bin`                 |
| `emu-i`    | the same with adapters        | Emu-I's `Emu-instruct.pt`, adapters as PEFT names them       |
| `emu2`     | `Emu`, family emu2            | Emu2, native                                                 |
| `emu2-hf`  | `Emu`, family emu2            | Emu2, Hugging Face                                           |
| `emu2-gen` | `with_decoder(emu, decoder)`  | Emu2-Gen, native: all in one file                            |
| `diffusers`| `ImageDecoder`                | `unet/` and `vae/` of a pipeline's folder                    |
| `eva-clip` | `Encoder` of kind eva         | EVA-CLIP as its authors released it                          |
| `open-clip`| `Encoder`                     | open_clip's format, for its own vision towers and timm's     |
| `llama`    | `Emu`: its language model     | LLaMA or another in transformers' format, base tokens only   |
| `ours`     | any                           | the format of `save_emu` and the trainer                     |

A `VisualEmbedder` can also be filled from the checkpoint of a whole `Emu`, whose language model is then not used.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from model.config import EmuConfig
from model.emu import Emu, VisualEmbedder
from model.image_decoder import ImageDecoder
from model.language_model import stock_weights, token_tables
from model.lora import LoraConfig, merged
from model.vision_encoder import Encoder, resize_positions

LayoutName = Literal[
    "emu", "emu-i", "emu2", "emu2-hf", "emu2-gen", "diffusers", "eva-clip", "open-clip", "llama", "ours"
]


class WeightsError(ValueError):
    """A checkpoint and a module that do not fit; the message names every key."""

    @property
    def brief(self) -> str:
        """The message in one line, with the first keys only."""
        first, *lines = [line.strip() for line in str(self).splitlines()]
        more = f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
        return " ".join([first, *lines[:2]]) + more


@dataclass(frozen=True)
class _Layout:
    """Prefixes there and here, of which the first that fits is used. `unused`: keys that a release has but not uses."""

    prefixes: tuple[tuple[str, str], ...]
    unused: tuple[str, ...] = ()
    lacks: str = r".*(latent_scale|feature_mean|feature_std)"  # set from settings instead
    aliases: tuple[tuple[str, str], ...] = ()  # read but never written
    resize: bool = False  # positions may be interpolated to another grid
    peft: bool = False  # adapters are named as in a PEFT model
    anew: str = ""  # weights that stay random if their inputs have another width
    part: str = ""  # the part of the module that the layout covers, if not all


_ROTARY = r".*rotary_emb\.inv_freq"  # buffers of transformers 4.31
_EMU2 = (("visual.", "encoder.tower."), ("project_", "bridge.project_"), ("decoder.lm.", "language_model."))
_CLIP_TEXT = (r"text\..*", r"logit_(scale|bias)", r"transformer\..*", r"token_embedding\..*", "positional_embedding",
              r"ln_final\..*", "text_projection", "attn_mask")  # fmt: skip
# Attention of autoencoders before diffusers 0.17.
_OLD_ATTENTION = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))


def _emu(language_model: str, *, peft: bool) -> _Layout:
    return _Layout(
        (
            ("visual.", "encoder.tower."),
            ("ln_visual.", "bridge.ln_visual."),
            ("cformer.", "bridge.cformer."),
            (f"{language_model}stu_regress_head.", "bridge.stu_regress_head."),
            (language_model, "language_model."),
        ),
        unused=(r"visual\.(norm|head)\..*", r"cformer\.cformer\.embed_tokens\.weight", _ROTARY),
        peft=peft,
    )


_LAYOUTS: dict[LayoutName, _Layout] = {
    "emu": _emu("decoder.lm.", peft=False),
    "emu-i": _emu("decoder.lm.base_model.model.", peft=True),
    "emu2": _Layout(
        _EMU2,
        unused=(_ROTARY,),
        aliases=(  # in files from before the release
            ("decoder.lm.project_", "bridge.project_"),
            ("decoder.lm.stu_regress_head.", "bridge.project_down."),
            ("vl_adapter.projection.", "bridge.project_up."),
        ),
    ),
    "emu2-hf": _Layout(
        (
            ("model.visual.", "encoder.tower."),
            ("project_", "bridge.project_"),
            ("model.decoder.lm.", "language_model."),
        ),
        unused=(_ROTARY,),
    ),
    "emu2-gen": _Layout(
        (
            *((f"multimodal_encoder.{theirs}", f"emu.{ours}") for theirs, ours in _EMU2),
            ("unet.", "decoder.unet."),
            ("vae.", "decoder.autoencoder."),
        ),
        unused=(_ROTARY, r"safety_checker\..*"),
    ),
    # Emu's decoder begins as Stable Diffusion 1.5 with new projections in its cross-attention (arXiv:2307.05222): Emu
    # has 5120 channels where text has 768. Emu2's begins as SDXL; as released it reads 1792 and a pooled 1792, where
    # text had 2048 and 1280.
    "diffusers": _Layout(
        (("unet.", "unet."), ("vae.", "autoencoder.")),
        anew=r"unet\.(.*\.attn2\.to_[kv]|add_embedding\.linear_1)\.weight",
    ),
    "eva-clip": _Layout(
        (("visual.", "tower."),),
        unused=(r"visual\.(norm|head)\..*", r"visual\.(.*\.)?rope\..*", *_CLIP_TEXT),
        resize=True,
    ),
    "open-clip": _Layout(
        (("visual.trunk.", "tower."), ("visual.", "tower.")),
        unused=(r"visual\.trunk\.(norm|fc_norm|head)\..*", r"visual\.(ln_post|head)\..*", r"visual\.proj", *_CLIP_TEXT),
        resize=True,
    ),
    "llama": _Layout((("", "language_model."),), unused=(_ROTARY,), part="language_model."),
    "ours": _Layout((("", ""),), lacks="", resize=True),
}
# PEFT's names of an adapter called `default`; since its version 0.6 the layer itself is one level deeper.
_PEFT = ((".lora_A.default.", ".lora_A."), (".lora_B.default.", ".lora_B."))
_PEFT_BASE = (".base_layer.", ".")
_ADAPTER = r".*\.lora_[AB]\.weight"
# EVA-02's names where timm's differ, in the variant with norms inside the branches.
_EVA_02 = (
    (".attn.inner_attn_ln.", ".attn.norm."),
    (".mlp.ffn_ln.", ".mlp.norm."),
    (".mlp.w1.", ".mlp.fc1_g."),
    (".mlp.w2.", ".mlp.fc1_x."),
    (".mlp.w3.", ".mlp.fc2."),
    (".attn.q_bias", ".attn.q_proj.bias"),
    (".attn.v_bias", ".attn.v_proj.bias"),
)


@dataclass(frozen=True)
class Fitted:
    """A checkpoint that fits a module.

    Attributes:
        tensors: Tensors by the module's names.
        unused: The other tensors, by the checkpoint's names: unused ones of the release, and those replaced by random
            weights here.
    """

    tensors: dict[str, Tensor]
    unused: dict[str, Tensor]


def fit(module: nn.Module, tensors: Mapping[str, Tensor], layout: LayoutName) -> Fitted:
    """Find the place of each tensor of a checkpoint; the module itself may be on the meta device.

    Adapters (`emu-i`) are merged into the layers of a module that has none.

    Args:
        module: A module of the table above.
        tensors: The checkpoint, from `read`.
        layout: The naming scheme of the checkpoint.

    Raises:
        WeightsError: If a key is missing, unknown, given twice, or of another shape.
    """
    names = _Names(module, layout)
    wanted = {name: tensor for name, tensor in module.state_dict().items() if names.has_place(name)}
    merges = names.layout.peft and not any(".lora_A." in name for name in wanted)
    found: dict[str, Tensor] = {}
    adapters: dict[str, Tensor] = {}
    unused: dict[str, Tensor] = {}
    problems: list[str] = []
    for theirs, tensor in tensors.items():
        ours = names.ours(theirs)
        if ours in wanted and ours not in found:
            found[ours] = tensor
        elif merges and re.fullmatch(_ADAPTER, ours) and _adapted(ours) in wanted:
            adapters[ours] = tensor
        elif names.is_unused(theirs):
            unused[theirs] = tensor
        else:
            problems.append(f"{theirs}: {'a second tensor for ' + ours if ours in found else 'unexpected'}")
    for ours in wanted:
        if ours not in found:
            if not any(name in found for name in _same(module, ours)):  # tied ones need only one key
                problems.append(f"{names.theirs(ours)}: missing")
            continue
        original = found[ours]
        try:
            found[ours] = _fitted(ours, original, module, names)
        except WeightsError as error:
            problems.append(str(error))
            continue
        is_, should = tuple(found[ours].shape), tuple(wanted[ours].shape)
        if is_ == should:
            continue
        if found[ours] is not original:  # name sizes that are in the file
            changed = zip(original.shape, is_, should, strict=True)
            is_, should = tuple(original.shape), tuple(o if o != f else s for o, f, s in changed)
        if is_[:-1] == should[:-1] and re.fullmatch(names.layout.anew, names.theirs(ours)):
            unused[names.theirs(ours)] = found.pop(ours)
        else:
            problems.append(f"{names.theirs(ours)}: has shape {is_}, should have {should}")
    problems += _odd_adapters(adapters, wanted, names)
    if problems:
        raise WeightsError(f"not a checkpoint of layout {layout} for this model:\n  " + "\n  ".join(problems))
    if adapters:
        rank = next(len(tensor) for name, tensor in adapters.items() if ".lora_A." in name)
        found = merged(found | adapters, LoraConfig(rank=rank))  # a checkpoint does not say alpha: as released
    return Fitted(found, unused)


def load(module: nn.Module, tensors: Mapping[str, Tensor], layout: LayoutName) -> dict[str, Tensor]:
    """Fill a module from a checkpoint. Arguments as for `fit`.

    Returns:
        The tensors that are not used.

    Raises:
        WeightsError: If the checkpoint does not fit; the module is then unchanged.
    """
    fitted = fit(module, tensors, layout)
    state = module.state_dict()
    with torch.no_grad():
        for ours, tensor in fitted.tensors.items():
            state[ours].copy_(tensor)
    return fitted.unused


def export(module: nn.Module, layout: LayoutName, unused: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return a module's weights under a layout's names.

    Args:
        module: A module of the table above.
        layout: The naming scheme to use.
        unused: The result of `load`, for loaders that insist on these keys; the module's own take precedence.

    Raises:
        WeightsError: If the module has a weight for which the layout has no place.
    """
    return {**(unused or {}), **renamed(module, module.state_dict(), layout)}


def renamed(module: nn.Module, tensors: Mapping[str, Tensor], layout: LayoutName) -> dict[str, Tensor]:
    """Return weights of a module, which itself may be on the meta device, under a layout's names; see `export`."""
    names = _Names(module, layout)
    exported = {}
    for ours, tensor in tensors.items():
        if not ours.startswith(names.layout.part):
            continue
        if not names.has_place(ours):
            if "feature" in ours and not torch.equal(tensor, torch.full_like(tensor, float(ours.endswith("std")))):
                raise WeightsError(f"{ours}: standardised features have no place in layout {layout}")
            continue
        if layout == "llama" and isinstance(module, Emu) and ours in _vocabulary(module):
            tensor = tensor[: module.config.base_vocab_size].clone()  # writers refuse a part of a storage
        exported[names.theirs(ours)] = tensor
    return exported


def unused_names(tensors: Mapping[str, Tensor], layout: LayoutName) -> list[str]:
    """Return the names of those tensors that a release of this layout contains without using them."""
    names = _Names(None, layout)
    foreign = {theirs for theirs in tensors if re.fullmatch(_ROTARY, theirs) and not names.ours(theirs)}
    return [theirs for theirs in tensors if names.is_unused(theirs) and theirs not in foreign]


def named_here(tensors: Mapping[str, Tensor], layout: LayoutName) -> dict[str, Tensor]:
    """Return the tensors of a whole model's checkpoint under the names of `Emu`, before it is known what fits."""
    names = _Names(None, layout)
    found = {names.ours(theirs): tensor for theirs, tensor in tensors.items()}
    return {ours.removeprefix("emu."): tensor for ours, tensor in found.items() if ours}


def num_rows(model: Emu, tensors: Mapping[str, Tensor], layout: LayoutName) -> int | None:
    """Return how many tokens the tables of a model's checkpoint have; None if it has none under this model's names."""
    tables = _vocabulary(model)
    return next((len(tensor) for name, tensor in named_here(tensors, layout).items() if name in tables), None)


def with_decoder(model: Emu, decoder: ImageDecoder) -> nn.ModuleDict:
    """Return both as one module, for `emu2-gen`."""
    return nn.ModuleDict({"emu": model, "decoder": decoder})


def read(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint, mapped from disk if the format allows.

    Args:
        path: A `.safetensors`, `.bin` or `.pt` file, or a folder: with one such file or several shards, or a diffusers
            pipeline, whose `unet/` and `vae/` then become prefixes.

    Raises:
        WeightsError: If there is none, it cannot be read, or two shards contain the same key.
    """
    path = Path(path)
    if (path / "unet").is_dir() and (path / "vae").is_dir():
        return {name: it for part in ("unet", "vae") for name, it in with_prefix(f"{part}.", read(path / part)).items()}
    files = [path] if path.is_file() else _files(path)
    if not files:
        raise WeightsError(f"{path}: no checkpoint; give a .safetensors, .bin or .pt file, or a folder of them")
    tensors: dict[str, Tensor] = {}
    for file in files:
        part = _read_file(file)
        if twice := sorted(set(part) & set(tensors)):
            raise WeightsError(f"{file}: keys that are also in another file of {path}: {', '.join(twice)}")
        tensors |= part
    return tensors


def write(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None = None) -> None:
    """Write a file of tensors, which appears under its name only when complete.

    Args:
        tensors: The tensors; they may be mapped from other files.
        path: A `.safetensors`, `.bin` or `.pt` file.
        dtype: Data type of the stored floating-point tensors; None: as they are.

    Raises:
        WeightsError: If it cannot be written, as on a full disk.
    """
    stored = {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in stored.items()}, temporary)
        else:  # of a view, torch would write the whole file that it is mapped from
            torch.save({name: tensor.clone() for name, tensor in stored.items()}, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's writer of zip files
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: Exception) -> WeightsError:
    """Return the error for a file or folder that could not be written."""
    why = getattr(error, "strerror", None) or _line(error)
    return WeightsError(f"{path}: cannot be written: {why}; free some space, or choose another place")


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, without it."""
    return {name.removeprefix(prefix): it for name, it in tensors.items() if name.startswith(prefix)}


def read_for(module: nn.Module, path: str | Path, layout: LayoutName) -> dict[str, Tensor]:
    """Read a checkpoint for a module. Arguments and errors as for `read` and `load`.

    Files of layout `llama` whose names are not the module's are converted by transformers, which knows how families
    store their weights: experts one by one, or names without the prefix of the whole model.
    """
    tensors = read(path)
    if layout != "llama" or not isinstance(module, Emu) or not (Path(path) / "config.json").is_file():
        return tensors
    names, state = _Names(module, layout), module.state_dict()
    if all(names.ours(theirs) in state or names.is_unused(theirs) for theirs in tensors):
        return tensors
    try:
        return stock_weights(str(path))
    except ValueError as error:
        raise WeightsError(str(error)) from error


def save_emu(model: Emu, folder: str | Path) -> None:
    """Write a model as `config.json` and `model.safetensors`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.config.model_dump_json(indent=1) + "\n")
    save_model(model, str(folder / "model.safetensors"))


def load_emu(folder: str | Path, dtype: torch.dtype = torch.float32) -> Emu:
    """Load a model written by `save_emu`.

    Only its weights take memory, once: no random ones are made before.

    Args:
        folder: The model's folder.
        dtype: Data type of its parameters; buffers are in float32.

    Raises:
        WeightsError: If the folder has none, or its weights are of another model.
    """
    folder = Path(folder)
    try:
        config = EmuConfig.model_validate(json.loads((folder / "config.json").read_text()))
        with shapes_only():
            model = Emu(config)
        _assign(model, fit(model, read(folder / "model.safetensors"), "ours").tensors, dtype)
        model.language_model.tie_weights()
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}: not a readable model: {error}") from error
    return model


def load_image_decoder(folder: str | Path) -> ImageDecoder:
    """Load an image decoder: its weights, and `config.json`, which is that of the model it belongs to.

    Raises:
        WeightsError: If the folder has none, or its weights are of another decoder.
    """
    folder = Path(folder)
    try:
        config = EmuConfig.model_validate(json.loads((folder / "config.json").read_text()))
        with shapes_only():
            decoder = ImageDecoder.for_model(config)
        _assign(decoder, fit(decoder, read(folder / "model.safetensors"), "ours").tensors, torch.float32)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}: not a readable image decoder: {error}") from error
    return decoder


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Context in which modules get parameters without values, on the meta device, but buffers as always.

    Unlike under `torch.device("meta")`, tables that no checkpoint holds, as those of rotary positions, are computed.
    """

    def without_values(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or parameter.is_meta:  # the second time it is tied to another layer
            return parameter
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(without_values)
    try:
        yield
    finally:
        hook.remove()


def _assign(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Give a module without values its tensors, in place of copies of them."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    state = {
        name: tensor.to(dtype if name in parameters else torch.float32) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    for name in parameters.keys() - state.keys():  # tied: only one of both is in the file
        state[name] = state[next(other for other in _same(module, name) if other in state)]
    module.load_state_dict(state, assign=True)


class _Names:
    """Maps a checkpoint's keys to this module's and back, for one module and layout."""

    def __init__(self, module: nn.Module | None, layout: LayoutName) -> None:
        self.layout = _LAYOUTS[layout]
        parts = () if module is None else module.modules()
        self.encoder = next((part.config for part in parts if isinstance(part, Encoder)), None)
        renamed = self.encoder is not None and self.encoder.sub_norm and layout != "open-clip"
        self.renamed = _EVA_02 if renamed else ()
        self.prefixes = self.layout.prefixes
        if layout == "open-clip" and self.encoder is not None and self.encoder.kind == "clip":
            self.prefixes = self.prefixes[1:]
        self.absent = ("language_model.",) if isinstance(module, VisualEmbedder) and not isinstance(module, Emu) else ()

    def ours(self, theirs: str) -> str:
        for there, here in (*self.layout.aliases, *self.prefixes):
            if not theirs.startswith(there):
                continue
            name = here + theirs[len(there) :]
            changes: tuple[tuple[str, str], ...]
            changes = self.renamed if "tower." in here else _OLD_ATTENTION if "autoencoder." in here else ()
            if self.layout.peft and here == "language_model.":
                changes = (*_PEFT, _PEFT_BASE)
            for old, new in changes:
                name = name.replace(old, new)
            return name
        return ""

    def theirs(self, ours: str) -> str:
        for there, here in self.prefixes:
            if ours.startswith(here):
                changes = self.renamed if "tower." in here else _PEFT if self.layout.peft else ()
                for old, new in changes:
                    ours = ours.replace(new, old)
                return there + ours[len(here) :]
        raise WeightsError(f"{ours}: has no place in this layout")

    def has_place(self, ours: str) -> bool:
        return ours.startswith(self.layout.part) and not re.fullmatch(self.layout.lacks, ours)

    def is_unused(self, theirs: str) -> bool:
        listed = any(re.fullmatch(pattern, theirs) for pattern in self.layout.unused)
        return listed or self.ours(theirs).startswith(self.absent)


def _fitted(ours: str, tensor: Tensor, module: nn.Module, names: _Names) -> Tensor:
    """Apply the two changes that loading may make: positions to another grid, rows for the model's own tokens."""
    positions = ours.endswith(("tower.pos_embed", "tower.positional_embedding"))
    if names.layout.resize and positions and names.encoder is not None:
        return resize_positions(tensor, names.encoder.grid)
    if names.layout is _LAYOUTS["llama"] and isinstance(module, Emu) and ours in _vocabulary(module):
        base = module.config.base_vocab_size
        if len(tensor) < base:
            raise WeightsError(f"{names.theirs(ours)} has {len(tensor)} rows, fewer than the tokenizer's {base} tokens")
        tensor = tensor[:base]  # rows beyond are padding to a round number
        mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        more = module.config.vocab_size - base
        return torch.cat(
            [tensor, mean.expand(more, *tensor.shape[1:])]
        )  # new rows start at the old ones' mean, as in Emu
    return tensor


def _adapted(adapter: str) -> str:
    """Return the name of the weight to which an adapter belongs."""
    return re.sub(r"\.lora_[AB]\.weight$", ".weight", adapter)


def _odd_adapters(adapters: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: "_Names") -> Iterator[str]:
    """Yield what is wrong with adapters that are to be merged."""
    for name, tensor in adapters.items():
        kind, other = ("A", "B") if ".lora_A." in name else ("B", "A")
        partner = name.replace(f".lora_{kind}.", f".lora_{other}.")
        rows, columns = wanted[_adapted(name)].shape
        fits = tensor.shape[1] == columns if kind == "A" else tensor.shape[0] == rows
        if partner not in adapters:
            yield f"{names.theirs(partner)}: missing"
        elif not fits or tensor.shape[kind == "B"] != adapters[partner].shape[kind == "A"]:
            yield f"{names.theirs(name)}: has shape {tuple(tensor.shape)}, which does not fit its layer"


def _vocabulary(model: Emu) -> set[str]:
    """Return the names of a model's tables with one row per token."""
    tables = tuple(token_tables(model.language_model))
    return {name for name, value in model.named_parameters(remove_duplicate=False) if any(value is t for t in tables)}


def _same(module: nn.Module, ours: str) -> list[str]:
    """Return all names of the parameter with this name."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return [name for name, parameter in named.items() if parameter is named.get(ours)]


def _files(folder: Path) -> list[Path]:
    """Return the files that an index names; else all of the safest kind, and of diffusers' variants the plain one."""
    for index in sorted(folder.glob("*.index*.json")):  # with its variant in diffusers' pipelines: index.bf16.json
        try:
            return sorted({folder / name for name in json.loads(index.read_bytes())["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{index}: not an index of shards, with a weight_map: {_line(error)}") from error
    for pattern in ("diffusion_pytorch_model.safetensors", "*.safetensors", "*.bin", "*.pt"):
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(str(file))
        try:
            loaded = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError:  # files from before torch 1.6 cannot be mapped
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise many kinds for a broken file
        empty = file.is_file() and not file.stat().st_size
        raise WeightsError(f"{file}: cannot be read: {'it is empty' if empty else _line(error)}") from error
    for wrapper in ("module", "state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{file}: not a state dict of tensors")
    return loaded
