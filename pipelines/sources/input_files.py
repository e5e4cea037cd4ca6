"""The files that a corpus is made from: their sizes and hashes, for the manifest and to tell when one has changed.

A file is hashed when it is first seen, and again if its size, time or tag is another. Of a file in a store that names
its content itself, by an ETag or a checksum, that is taken: hashing it would fetch it twice.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from itertools import repeat

from pipelines import storage
from pipelines.document import canonical_json
from pipelines.layout import inputs_folder
from pipelines.shards.manifest import InputFile, hash_file

_THREADS = 8  # hashing releases the interpreter


def record_inputs(out: str, listed: Mapping[str, Iterable[tuple[str, str]]]) -> dict[tuple[str, str], InputFile]:
    """Hash the input files of sources and crawls, note them below `work/inputs`, and return them by source and path.

    Args:
        out: The corpus's folder.
        listed: Path and name of each file, by source or crawl.

    Raises:
        OSError: If one cannot be read, or an error of its store.
    """
    found: dict[tuple[str, str], InputFile] = {}
    for source, files in listed.items():
        path = _path(out, source)
        known = json.loads(storage.read_bytes(path)) if storage.exists(path) else {}
        paths = dict(files)
        with ThreadPoolExecutor(_THREADS) as pool:
            rows = pool.map(_row, repeat(source), paths, paths.values(), map(known.get, paths))
            noted = dict(zip(paths, rows, strict=True))
        found |= {(source, file): _input_file(row) for file, row in noted.items()}
        storage.write_bytes(path, canonical_json(noted).encode())
    return found


def recorded_inputs(out: str, names: Iterable[str]) -> list[InputFile]:
    """Return the input files that were recorded for crawls and sources, in that order, then by name."""
    found: list[InputFile] = []
    for name in names:
        path = _path(out, name)
        if storage.exists(path):
            rows = json.loads(storage.read_bytes(path)).values()
            found += sorted(map(_input_file, rows), key=lambda file: file.file)
    return found


def forget_inputs(out: str, names: Iterable[str]) -> None:
    """Remove what was recorded of other sources and crawls than these, left by an earlier spec."""
    kept = {_path(out, name) for name in names}
    for path in storage.list_files(inputs_folder(out), ".json"):
        if path not in kept:
            storage.remove(path)


def _path(out: str, source: str) -> str:
    return storage.join(inputs_folder(out), f"{source}.json")


def _row(source: str, path: str, name: str, known: dict[str, object] | None) -> dict[str, object]:
    stamp = json.loads(json.dumps(storage.stamp(path)))
    if known is not None and known["stamp"] == stamp and known["file"] == name:
        return known
    tag = None if storage.is_local(path) else stamp[1]
    digest = hash_file(path) if tag is None else None
    return asdict(InputFile(source, name, storage.size(path), digest, tag)) | {"stamp": stamp}


def _input_file(row: Mapping[str, object]) -> InputFile:
    return InputFile(**{field.name: row[field.name] for field in fields(InputFile)})  # type: ignore[arg-type]
