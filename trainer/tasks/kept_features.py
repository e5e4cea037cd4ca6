"""Features of frozen models that are computed once for each image: in memory, or in files that outlive the process."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.errors import UserError
from trainer.engine.distributed import World

Key = tuple[str | int, ...]
"""Shard, key of the sample, and the places of its images."""
Features = tuple[Tensor, ...]


class KeptFeatures:
    """Features by image. Those of all images have the same shapes.

    With a folder each process appends to two files of its own, and reads those of all processes when it begins:
    `<rank>.bin` has the bytes, `<rank>.jsonl` first what they were made by, then a key per record. A record counts
    when its key is written, so that a process may be killed at any time.

    Args:
        folder: Folder of the files; None: in memory.
        made_by: Hash of all that computes them; others are computed anew.
        rank: Rank of this process.
    """

    def __init__(self, folder: str | None, made_by: str, rank: int) -> None:
        self._memory: dict[Key, Features] = {}
        self._places: dict[Key, tuple[int, int, dict[str, Any]]] = {}  # descriptor, offset, header
        self._made_by = made_by
        self._own: tuple[Path, Path] | None = None
        self._header: dict[str, Any] | None = None
        if folder is None:
            return
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._own = Path(folder, f"{rank}.bin"), Path(folder, f"{rank}.jsonl")
            for keys in sorted(Path(folder).glob("*.jsonl")):
                self._open(keys)
        except OSError as error:
            raise UserError(f"engine.features_folder: {folder}: {error.strerror}") from error

    def __contains__(self, key: Key) -> bool:
        return key in self._memory or key in self._places

    def __getitem__(self, key: Key) -> Features:
        """Return the features of an image."""
        if key in self._memory:
            return self._memory[key]
        file, offset, header = self._places[key]
        size = _record_bytes(header)
        data = bytearray(os.pread(file, size, offset))
        found, begin = [], 0
        for shape, name in zip(header["shapes"], header["dtypes"], strict=True):
            dtype = getattr(torch, name)
            num = torch.Size(shape).numel()
            found.append(torch.frombuffer(data, dtype=dtype, count=num, offset=begin).view(shape))
            begin += num * dtype.itemsize
        return tuple(found)

    def add(self, rows: Iterable[tuple[Key, Features]]) -> None:
        """Keep the features of images.

        Raises:
            UserError: If they cannot be written, as on a full disk.
        """
        if self._own is None:
            self._memory.update(rows)
            return
        try:
            self._append(list(rows))
        except OSError as error:
            raise UserError(f"engine.features_folder: {self._own[0]}: {error.strerror}; free some space") from error

    def _append(self, rows: list[tuple[Key, Features]]) -> None:
        assert self._own is not None
        file, keys = self._own
        if self._header is None:
            self._begin(rows[0][1])
        assert self._header is not None
        with file.open("ab") as target:
            offset = target.tell()
            for _, features in rows:
                for tensor in features:
                    target.write(_bytes(tensor))
        with keys.open("a") as names:
            names.write("".join(json.dumps(key) + "\n" for key, _ in rows))
        size = _record_bytes(self._header)
        for number, (key, _) in enumerate(rows):
            self._places[key] = self._file, offset + number * size, self._header

    def _begin(self, features: Features) -> None:
        """Begin this process's own files anew."""
        assert self._own is not None
        self._header = {
            "made_by": self._made_by,
            "shapes": [list(tensor.shape) for tensor in features],
            "dtypes": [str(tensor.dtype).removeprefix("torch.") for tensor in features],
        }
        file, keys = self._own
        file.write_bytes(b"")
        keys.write_text(json.dumps(self._header) + "\n")
        self._file = os.open(file, os.O_RDONLY)

    def _open(self, keys: Path) -> None:
        """Read which images a process has kept, if by the same models."""
        header, *lines = _lines(keys)
        bytes_file = keys.with_suffix(".bin")
        if not isinstance(header, dict) or header.get("made_by") != self._made_by or not bytes_file.is_file():
            return
        size = _record_bytes(header)
        whole = bytes_file.stat().st_size // size
        file = os.open(bytes_file, os.O_RDONLY)
        for number, key in enumerate(lines[:whole]):
            self._places[tuple(key)] = file, number * size, header
        if self._own is not None and bytes_file == self._own[0]:
            self._header, self._file = header, file
            os.truncate(bytes_file, len(lines[:whole]) * size)  # what was written without a key
            keys.write_text("".join(json.dumps(line) + "\n" for line in (header, *lines[:whole])))


def shared_hash(world: World, modules: Iterable[nn.Module], *others: object) -> str:
    """Return `hash_of` as the first process has it, on all: the others may have no weights yet."""
    return str(world.broadcast(hash_of(modules, *others) if world.is_first else None))


def hash_of(modules: Iterable[nn.Module], *others: object) -> str:
    """Return a hash of all weights of modules, and of other things."""
    found = hashlib.blake2b(repr(others).encode(), digest_size=16)
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    found: memoryview = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return found


def _record_bytes(header: dict[str, Any]) -> int:
    sizes = (
        torch.Size(shape).numel() * getattr(torch, name).itemsize
        for shape, name in zip(header["shapes"], header["dtypes"], strict=True)
    )
    return sum(sizes)


def _lines(path: Path) -> Iterator[Any]:
    """Yield the JSON of each whole line; None for the first if there is none."""
    parsed: list[Any] = []
    for line in path.read_text().splitlines():
        try:
            parsed.append(json.loads(line))
        except ValueError:  # cut while it was written
            break
    yield from parsed or [None]
