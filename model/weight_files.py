"""Files of tensors: checkpoints in the forms in which they are released, read into one mapping, and written whole."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import WeightsError


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


def _line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
