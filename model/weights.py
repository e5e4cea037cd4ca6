"""Strict loading of released checkpoints into this model's modules, and export back.

A layout is the naming scheme of one kind of checkpoint (weight_layouts.py). Every tensor of a checkpoint must have a
place here and every place must be filled. What a release contains but does not use is returned by `load`, and may be
passed to `export`, which then writes the same keys again.

A `VisualEmbedder` can also be filled from the checkpoint of a whole `Emu`, whose language model is then not used.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from model.config import EmuConfig, LayoutName, LoraConfig
from model.emu import Emu
from model.errors import WeightsError
from model.image_decoder import ImageDecoder
from model.language_model import stock_weights, token_tables
from model.lora import merged
from model.shapes import shapes_only
from model.video_decoder import VideoDecoder
from model.vision_encoder import resize_positions
from model.weight_files import read
from model.weight_layouts import ADAPTER, LAYOUTS, ROTARY, Names

Decoder = TypeVar("Decoder", bound=ImageDecoder)


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
        module: A module of the table in weight_layouts.py.
        tensors: The checkpoint, from `read`.
        layout: The naming scheme of the checkpoint.

    Raises:
        WeightsError: If a key is missing, unknown, given twice, or of another shape.
    """
    names = Names(module, layout)
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
        elif merges and re.fullmatch(ADAPTER, ours) and _adapted(ours) in wanted:
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
        module: A module of the table in weight_layouts.py.
        layout: The naming scheme to use.
        unused: The result of `load`, for loaders that insist on these keys; the module's own take precedence.

    Raises:
        WeightsError: If the module has a weight for which the layout has no place.
    """
    return {**(unused or {}), **renamed(module, module.state_dict(), layout)}


def renamed(module: nn.Module, tensors: Mapping[str, Tensor], layout: LayoutName) -> dict[str, Tensor]:
    """Return weights of a module, which itself may be on the meta device, under a layout's names; see `export`."""
    names = Names(module, layout)
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
    names = Names(None, layout)
    foreign = {theirs for theirs in tensors if re.fullmatch(ROTARY, theirs) and not names.ours(theirs)}
    return [theirs for theirs in tensors if names.is_unused(theirs) and theirs not in foreign]


def named_here(tensors: Mapping[str, Tensor], layout: LayoutName) -> dict[str, Tensor]:
    """Return the tensors of a whole model's checkpoint under the names of `Emu`, before it is known what fits."""
    names = Names(None, layout)
    found = {names.ours(theirs): tensor for theirs, tensor in tensors.items()}
    return {ours.removeprefix("emu."): tensor for ours, tensor in found.items() if ours}


def num_rows(model: Emu, tensors: Mapping[str, Tensor], layout: LayoutName) -> int | None:
    """Return how many tokens the tables of a model's checkpoint have; None if it has none under this model's names."""
    tables = _vocabulary(model)
    return next((len(tensor) for name, tensor in named_here(tensors, layout).items() if name in tables), None)


def with_decoder(model: Emu, decoder: ImageDecoder) -> nn.ModuleDict:
    """Return both as one module, for `emu2-gen`."""
    return nn.ModuleDict({"emu": model, "decoder": decoder})


def read_for(module: nn.Module, path: str | Path, layout: LayoutName) -> dict[str, Tensor]:
    """Read a checkpoint for a module. Arguments and errors as for `read` and `load`.

    Files of layout `llama` whose names are not the module's are converted by transformers, which knows how families
    store their weights: experts one by one, or names without the prefix of the whole model.
    """
    tensors = read(path)
    if layout != "llama" or not isinstance(module, Emu) or not (Path(path) / "config.json").is_file():
        return tensors
    names, state = Names(module, layout), module.state_dict()
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
    return _load_decoder(ImageDecoder, Path(folder), "image decoder")


def load_video_decoder(folder: str | Path) -> VideoDecoder:
    """Load a video decoder. Argument and errors as for `load_image_decoder`."""
    return _load_decoder(VideoDecoder, Path(folder), "video decoder")


def _load_decoder(kind: type[Decoder], folder: Path, what: str) -> Decoder:
    try:
        config = EmuConfig.model_validate(json.loads((folder / "config.json").read_text()))
        with shapes_only():
            decoder = kind.for_model(config)
        _assign(decoder, fit(decoder, read(folder / "model.safetensors"), "ours").tensors, torch.float32)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder}: not a readable {what}: {error}") from error
    return decoder


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


def _fitted(ours: str, tensor: Tensor, module: nn.Module, names: Names) -> Tensor:
    """Apply the two changes that loading may make: positions to another grid, rows for the model's own tokens."""
    positions = ours.endswith(("tower.pos_embed", "tower.positional_embedding"))
    if names.layout.resize and positions and names.encoder is not None:
        return resize_positions(tensor, names.encoder.grid)
    if names.layout is LAYOUTS["llama"] and isinstance(module, Emu) and ours in _vocabulary(module):
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


def _odd_adapters(adapters: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: "Names") -> Iterator[str]:
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
