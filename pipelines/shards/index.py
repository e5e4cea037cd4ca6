"""`python -m pipelines index`: an index, sidecars and a manifest for foreign tars, which are not modified.

Supported layouts: img2dataset's output, folders that Energon prepared, and any WebDataset tars of pairs, texts, images
alone or seq/1 samples. A tar's source is the first folder below the corpus; its split follows from its path.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml
from braceexpand import braceexpand

from pipelines import storage
from pipelines.code_version import code_version
from pipelines.document import Decision, Document, Kind, Provenance, Split
from pipelines.errors import UserError
from pipelines.funnel import FunnelRow
from pipelines.layout import takedown_folder, work_folder
from pipelines.parts import stable_hash
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.manifest import (
    FILE_NAME,
    Manifest,
    ShardInfo,
    load_manifest,
    sort_shards,
    write_manifest,
)
from pipelines.shards.sidecar import read_sidecar, sidecar_row, write_sidecar
from pipelines.shards.tar_samples import ForwardReader, TarSample, walk_samples, write_index

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd", ".tar.lz4")

SIDECAR_SUFFIX = ".sidecar.parquet"

# Reasons why a sample of a foreign tar may not be used; a second reason gives details
OTHER_KIND = "other_kind"
UNREADABLE = "unreadable"
EXCLUDED = "excluded_by_energon"

_SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class Indexed:
    """Result of `index_corpus`, with notes for the user, one line each."""

    manifest: Manifest
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Source:
    """State of a source while its tars are read."""

    kind: Kind | None = None
    has_texts: bool = True  # otherwise it is one of images alone
    key_hashes: list[np.ndarray[Any, Any]] = field(default_factory=list)
    num_odd: int = 0
    first_odd: str = ""


@dataclass(slots=True)
class _Prepared:
    """Contents of Energon's `split.yaml` files: the split of each tar, and the exclusions (tars, `<tar>/<key>`)."""

    splits: dict[str, Split] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)


def index_corpus(corpus: str, tools: Mapping[str, str] | None = None) -> Indexed:
    """Give every uncompressed tar below a folder its `.tar.idx` and sidecar, and the folder its `manifest.json`.

    Each tar is read once, from start to end. An unusable sample (not of its source's kind, damaged, excluded by
    Energon's `split.yaml`) stays in the index, since readers find samples by number; in the sidecar it has `allowed`
    false and the reason. The kind of a source is the most frequent one in its first tar.

    Args:
        corpus: The folder.
        tools: Versions to record in the manifest.

    Raises:
        UserError: If there are no tars, one is damaged, a key is repeated within a source, a source contains nothing
            readable, or the corpus was built by this project.
    """
    corpus = corpus.rstrip("/") or "/"
    if storage.exists(storage.join(corpus, FILE_NAME)) and load_manifest(corpus).spec_sha256 is not None:
        raise UserError(f"{corpus}: was built from a spec and is already indexed; `index` is for foreign tars")
    others = (work_folder(corpus) + "/", takedown_folder(corpus) + "/")
    files = [path for path in storage.list_files(corpus) if not path.startswith(others)]
    notes = [f"{p}: skipped: compressed, so its members have no offsets. Unpack it" for p in files if _is_packed(p)]
    prepared = _read_energon(files)
    sources: dict[str, _Source] = {}
    shards = []
    for path in files:
        if not path.lower().endswith(".tar"):
            continue
        name = path[len(corpus) + 1 :]
        if path in prepared.excluded:
            notes.append(f"{path}: skipped: Energon's split.yaml excludes it")
            continue
        source = _source_of(corpus, name)
        split = prepared.splits.get(path) or _split_of(name)
        state = sources.setdefault(source, _Source())
        shard = _index_tar(path, name, source, split, state, prepared.excluded)
        if shard is None:
            notes.append(f"{path}: skipped: no samples in it")
        else:
            shards.append(shard)
    if not shards:
        raise UserError("; ".join([f"{corpus}: no tar with samples in this folder", *notes[:1]]))
    names = sorted({shard.source for shard in shards})
    for name in names:
        _refuse_repeated_keys(corpus, sources[name], [s for s in shards if s.source == name])
        if sources[name].num_odd:
            notes.append(
                f"{name}: {sources[name].num_odd} samples cannot be used, the first: {sources[name].first_odd}"
            )
    notes += _keys_in_two_sources({name: sources[name] for name in names})
    manifest = Manifest(
        name=_folder_name(corpus),
        version="foreign",
        spec_sha256=None,
        shards=sort_shards(shards, names),
        funnel=tuple(_funnel_row(name, shards) for name in names),
        tools=dict(tools or {}),
        source_names=tuple(names),
        code=code_version(),
    )
    write_manifest(corpus, manifest)
    return Indexed(manifest, tuple(notes))


def _index_tar(path: str, name: str, source: str, split: Split, state: _Source, excluded: set[str]) -> ShardInfo | None:
    """Read a tar, write its index and sidecar; returns None if it contains no samples."""
    rows: list[dict[str, Any]] = []
    without_text: dict[int, str] = {}  # why a row is none of a source with texts
    end = 0
    with storage.open_read(path) as file:
        reader = _HashingReader(file)
        try:
            for sample in walk_samples(reader.read, path, 0, storage.size(path), is_whole=True):
                document, why = _document(sample, source, f"{path}/{sample.key}" in excluded)
                if why is not None:
                    without_text[len(rows)] = why
                rows.append(sidecar_row(document, sample))
                end = sample.end
        except ValueError as error:
            remedy = (
                "Download that tar again, or move it elsewhere"
                if "broken tar" in str(error)
                else "Or move it elsewhere"
            )
            raise UserError(f"{error}. {remedy}") from error
        sha256, num_bytes = reader.finish()
    if not rows:
        return None
    if state.kind is None:
        usable = [(number, row["kind"]) for number, row in enumerate(rows) if row["allowed"]]
        # Captions are missing in many a set of pairs: its images alone do not decide its kind.
        kinds = Counter(kind for number, kind in usable if number not in without_text)
        if not kinds:
            kinds, state.has_texts = Counter(kind for _, kind in usable), False
        if not kinds:
            raise UserError(f"{path}: no readable sample: the first one, {rows[0]['key']}: {rows[0]['reasons'][-1]}")
        state.kind = kinds.most_common(1)[0][0]
    for number, row in enumerate(rows):
        if row["allowed"] and number in without_text and state.has_texts:
            row |= {"allowed": False, "reasons": [UNREADABLE, without_text[number]]}
        elif row["allowed"] and row["kind"] != state.kind:
            row |= {"allowed": False, "reasons": [OTHER_KIND, f"a {row['kind']} among {state.kind}"]}
        if not row["allowed"]:
            state.num_odd += 1
            state.first_odd = state.first_odd or f"{name} {row['key']}: {': '.join(row['reasons'])}"
        row["kind"] = state.kind
    state.key_hashes.append(np.array([stable_hash(row["key"]) for row in rows], np.uint64))
    write_index(path, [*(row["byte_offset"] for row in rows), end])
    # img2dataset's own table of the shard has the name that our sidecar would have
    write_sidecar(path[: -len(".tar")] + SIDECAR_SUFFIX, rows)
    sidecar = name[: -len(".tar")] + SIDECAR_SUFFIX
    return ShardInfo(name, source, state.kind, split, sha256, num_bytes, len(rows), sidecar)


def _document(sample: TarSample, source: str, is_excluded: bool) -> tuple[Document, str | None]:
    """Return the document of a sample; if it has none, an empty one that gives the reason.

    Returns:
        The document and, if it is one of images alone, why it is none with a text.
    """
    without_text: str | None = None
    try:
        document = read_document(sample, source)
    except ValueError as error:
        without_text = str(error)
        try:
            document = read_document(sample, source, images_alone=True)
        except ValueError:
            refusal = Decision(allowed=False, reasons=(UNREADABLE, without_text))
            return Document("text", sample.key, (), (), Provenance(source, sample.key), decision=refusal), None
    if is_excluded:
        return replace(document, decision=replace(document.decision, allowed=False, reasons=(EXCLUDED,))), without_text
    media = (
        replace(m, stored_sha256=m.stored_sha256 or hashlib.sha256(sample.parts[str(m.part)]).hexdigest())
        for m in document.media
    )
    return replace(document, media=tuple(media)), without_text


class _HashingReader(ForwardReader):
    """Reader of a file's ranges at increasing offsets, which hashes every byte on the way."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._digest = hashlib.sha256()

    def finish(self) -> tuple[str, int]:
        """Return sha256 and size of the whole file."""
        self.drain()
        return self._digest.hexdigest(), self._at

    def _take(self, length: int) -> bytes:
        data = super()._take(length)
        self._digest.update(data)
        return data


# --- what paths and Energon say -------------------------------------------------------------------------------------


def _is_packed(path: str) -> bool:
    return path.lower().endswith(COMPRESSED)


def _folder_name(corpus: str) -> str:
    name = corpus.rpartition("/")[2]
    return name if name not in ("", ".", "..") else Path(corpus).resolve().name


def _source_of(corpus: str, name: str) -> str:
    """Return the first folder below the corpus that is no split; the corpus's own name if there is none."""
    folders = (f for f in name.split("/")[:-1] if f.lower() not in _SPLIT_WORDS)
    return next(folders, _folder_name(corpus))


def _split_of(name: str) -> Split:
    """Return the split that a path names: a folder, else a word in the file's name; else `train`."""
    *folders, file = name.lower().split("/")
    words = [*reversed(folders), *re.split(r"[^a-z]+", file)]
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), "train")


def _read_energon(files: Sequence[str]) -> _Prepared:
    """Read the `.nv-meta/split.yaml` files among these."""
    prepared = _Prepared()
    for path in files:
        if not path.endswith("/.nv-meta/split.yaml"):
            continue
        folder = path.removesuffix("/.nv-meta/split.yaml")
        try:
            tree = yaml.safe_load(storage.read_bytes(path))
            for split, patterns in tree["split_parts"].items():
                for tar in (t for p in patterns for t in braceexpand(p)):
                    prepared.splits[storage.join(folder, tar)] = _SPLIT_WORDS.get(split, "train")
            for pattern in tree.get("exclude") or ():
                prepared.excluded.update(storage.join(folder, name) for name in braceexpand(pattern))
        except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not in Energon's format: {error!r}. Repair it or remove .nv-meta") from error
    return prepared


# --- keys and counts ------------------------------------------------------------------------------------------------


def _refuse_repeated_keys(corpus: str, state: _Source, shards: Sequence[ShardInfo]) -> None:
    """Check that keys are unique in a source: they name samples in the trainer's records and in Energon."""
    hashes, counts = np.unique(np.concatenate(state.key_hashes), return_counts=True)
    repeated = set(hashes[counts > 1].tolist())
    if not repeated:
        return
    seen: dict[str, str] = {}
    for shard in shards:
        for row in read_sidecar(storage.join(corpus, shard.sidecar), ("key",)):
            key = row["key"]
            if key in seen:
                more = f" ({len(repeated) - 1} more keys are repeated)" if len(repeated) > 1 else ""
                raise UserError(
                    f"{storage.join(corpus, shard.path)}: key {key} is already in {seen[key]}{more}. Keys must be "
                    "unique in a source: put tars of different runs into separate folders, one source each"
                )
            if stable_hash(key) in repeated:
                seen[key] = shard.path


def _keys_in_two_sources(sources: Mapping[str, _Source]) -> list[str]:
    """Return a note if sources share keys: (source, key) still identifies a sample, the key alone does not."""
    found = np.concatenate([np.unique(np.concatenate(s.key_hashes)) for s in sources.values()])
    num_shared = len(found) - len(np.unique(found))
    return [f"{num_shared} keys are in several sources: name samples by source and key"] if num_shared else []


def _funnel_row(source: str, shards: Sequence[ShardInfo]) -> FunnelRow:
    num_samples = sum(s.samples for s in shards if s.source == source)
    return FunnelRow(source, "shard", "sample", num_samples, num_samples, {})
