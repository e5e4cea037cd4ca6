"""The manifest: the shards of a corpus, and how many candidates became its samples.

`manifest.json` is written last: if it exists, the corpus is complete. Its fingerprint identifies the tars' bytes, and
with them everything that training reads.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipelines import storage
from pipelines.document import SPLITS, Kind, Split
from pipelines.errors import UserError
from pipelines.funnel import FunnelRow, check_funnel
from pipelines.layout import takedown_folder
from pipelines.shards.tar_samples import index_path, read_index

SCHEMA = "dromaius-manifest/1"
FILE_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """A finished tar. `path` is relative to the manifest, `bytes` and `sha256` are of the whole file.

    `sidecar_file` is set only if it is not the tar's name with `.parquet`: next to img2dataset's own tables.
    """

    path: str
    source: str
    kind: Kind
    split: Split
    sha256: str
    bytes: int
    samples: int
    sidecar_file: str | None = None

    @property
    def sidecar(self) -> str:
        """Path of the sidecar, relative to the manifest."""
        return self.sidecar_file or sidecar_path(self.path)

    def to_record(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "sidecar_file" or value is not None}


@dataclass(frozen=True, slots=True)
class Source:
    """A source of the corpus: its name, its one kind, and its splits in the order train, val, test."""

    name: str
    kind: Kind
    splits: tuple[Split, ...]


@dataclass(frozen=True, slots=True)
class InputFile:
    """An input file of a source or crawl: its name in samples, its bytes, and its sha256, or else its store's tag."""

    source: str
    file: str
    bytes: int
    sha256: str | None
    tag: str | None = None

    @property
    def content(self) -> list[str | int | None]:
        """What tells the content of the file."""
        return [self.file, self.bytes, self.sha256, self.tag]


class Totals(NamedTuple):
    """Numbers of shards and samples, and bytes of tars."""

    shards: int
    samples: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents of `manifest.json`. Foreign tars have no spec, so `spec_sha256` is None.

    `code` is the version and the commit of what made it, `inputs` are the files of lists and archives.
    """

    name: str
    version: str
    spec_sha256: str | None
    shards: tuple[ShardInfo, ...]
    funnel: tuple[FunnelRow, ...]
    tools: dict[str, str]
    source_names: tuple[str, ...] = ()
    code: dict[str, str | None] = field(default_factory=dict)
    inputs: tuple[InputFile, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash (sha256) of the lines `<path> <sha256>` of all shards in order."""
        return hashlib.sha256("".join(f"{s.path} {s.sha256}\n" for s in self.shards).encode()).hexdigest()

    @property
    def sources(self) -> tuple[Source, ...]:
        """Sources that have shards, in the order of `source_names`, then of the shards."""
        kinds = {s.source: s.kind for s in self.shards}
        order = [n for n in self.source_names if n in kinds]
        order += [n for n in kinds if n not in order]
        have = {(s.source, s.split) for s in self.shards}
        return tuple(Source(n, kinds[n], tuple(p for p in SPLITS if (n, p) in have)) for n in order)

    @property
    def num_samples(self) -> int:
        return sum(s.samples for s in self.shards)

    def shards_of(self, source: str, split: Split | None = None) -> tuple[ShardInfo, ...]:
        """Return the shards of a source, or of one of its splits, in order."""
        return tuple(s for s in self.shards if s.source == source and split in (None, s.split))

    def starts(self) -> list[int]:
        """Return the number of samples before each shard, and at the end that of all."""
        return list(itertools.accumulate((shard.samples for shard in self.shards), initial=0))

    def totals(self) -> dict[tuple[str, Split], "Totals"]:
        """Return the totals of each source's splits, found in one pass over the shards."""
        found: dict[tuple[str, Split], list[int]] = {}
        for shard in self.shards:
            sums = found.setdefault((shard.source, shard.split), [0, 0, 0])
            sums[0] += 1
            sums[1] += shard.samples
            sums[2] += shard.bytes
        return {which: Totals(*sums) for which, sums in found.items()}

    def to_json(self) -> str:
        """Return the content of the manifest file: equal manifests are equal bytes."""
        record = {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "spec_sha256": self.spec_sha256,
            "fingerprint": self.fingerprint,
            "sources": [{"name": s.name, "kind": s.kind, "splits": list(s.splits)} for s in self.sources],
            "shards": [s.to_record() for s in self.shards],
            "funnel": [row.to_record() for row in self.funnel],
            "tools": dict(sorted(self.tools.items())),
            "code": self.code,
            "inputs": [asdict(file) for file in self.inputs],
        }
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Parse the content of a manifest file.

        Raises:
            ValueError: If it is not valid JSON, of another schema, lacks a key, or has the fingerprint of other shards.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            found = record.get("schema") if isinstance(record, dict) else None
            raise ValueError(f"its schema is {found!r}, not {SCHEMA!r}")
        try:
            manifest = cls(
                name=record["name"],
                version=record["version"],
                spec_sha256=record["spec_sha256"],
                shards=tuple(ShardInfo(**s) for s in record["shards"]),
                funnel=tuple(
                    FunnelRow(**{("in_" if k == "in" else k): v for k, v in r.items()}) for r in record["funnel"]
                ),
                tools=record["tools"],
                source_names=tuple(s["name"] for s in record["sources"]),
                code=record.get("code", {}),
                inputs=tuple(InputFile(**file) for file in record.get("inputs", ())),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"a key is missing or unknown: {error}") from error
        if record.get("fingerprint") != manifest.fingerprint:
            raise ValueError("its fingerprint does not fit its shards")
        return manifest


def shard_path(source: str, split: Split, number: int) -> str:
    """Return a shard's path relative to the manifest."""
    return f"{source}/{split}/{source}-{number:06d}.tar"


def sidecar_path(path: str) -> str:
    """Return the sidecar's path of a tar of ours; `ShardInfo.sidecar` also knows those of foreign tars."""
    return path.removesuffix(".tar") + ".parquet"


def sort_shards(shards: Iterable[ShardInfo], sources: Sequence[str]) -> tuple[ShardInfo, ...]:
    """Sort shards in the manifest's order: by source as given, by split train, val, test, by path."""
    place = {name: i for i, name in enumerate(sources)}
    return tuple(sorted(shards, key=lambda s: (place[s.source], SPLITS.index(s.split), s.path)))


def samples_per_source(shards: Iterable[ShardInfo]) -> dict[str, int]:
    """Return the number of samples in the shards of each source."""
    counted: Counter[str] = Counter()
    for shard in shards:
        counted[shard.source] += shard.samples
    return dict(counted)


def write_manifest(corpus: str, manifest: Manifest) -> None:
    """Write `manifest.json`, the last file of a build."""
    storage.write_bytes(storage.join(corpus, FILE_NAME), manifest.to_json().encode())


def manifest_path(corpus: str) -> str:
    """Return the path of a corpus's manifest.

    Raises:
        UserError: If there is none.
    """
    path = storage.join(corpus, FILE_NAME)
    if not storage.exists(path):
        if storage.exists(takedown_folder(corpus)):
            raise UserError(
                f"{path}: missing: new files are being put in place, or that was interrupted; the next build or "
                "takedown first brings it to its end"
            )
        raise UserError(
            f"{path}: missing: no finished corpus here. `make corpus` builds one; "
            f"`python -m pipelines index --corpus {corpus}` makes one from foreign tars"
        )
    return path


def load_manifest(corpus: str) -> Manifest:
    """Read the manifest of a corpus.

    Raises:
        UserError: If there is none, or it is not valid.
    """
    path = manifest_path(corpus)
    try:
        return Manifest.from_json(storage.read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path}: not a valid manifest: {error}") from error


def verify(corpus: str, *, hashes: bool = False) -> list[str]:
    """Return the differences between disk and manifest, one line each: sizes, indexes, sidecars, optionally all bytes.

    Raises:
        UserError: If there is no manifest.
    """
    manifest = load_manifest(corpus)
    faults = check_funnel(manifest.funnel, samples_per_source(manifest.shards))
    for shard in manifest.shards:
        faults += (f"{shard.path}: {fault}" for fault in _shard_faults(corpus, shard, hashes))
    return faults


def _shard_faults(corpus: str, shard: ShardInfo, hashes: bool) -> list[str]:
    path = storage.join(corpus, shard.path)
    if not storage.exists(path):
        return ["missing"]
    if (found := storage.size(path)) != shard.bytes:
        return [f"{found} bytes, the manifest says {shard.bytes}: one of them is from another build"]
    faults = []
    if hashes and (digest := hash_file(path)) != shard.sha256:
        faults.append(f"sha256 {digest}, the manifest says {shard.sha256}: the bytes were changed")
    try:
        index = read_index(path)
    except UserError as error:
        faults.append(str(error))
    else:
        if len(index) - 1 != shard.samples:
            faults.append(f"{index_path(path)} lists {len(index) - 1} samples, the manifest says {shard.samples}")
        elif index[-1] > shard.bytes:
            faults.append(f"{index_path(path)} ends at byte {index[-1]} of {shard.bytes}: a stale index")
    sidecar = storage.join(corpus, shard.sidecar)
    if not storage.exists(sidecar):
        faults.append(f"its sidecar {sidecar} is missing")
    else:
        with storage.open_read(sidecar) as file:
            num_rows = pq.ParquetFile(file).metadata.num_rows
        if num_rows != shard.samples:
            faults.append(f"its sidecar has {num_rows} rows, the manifest says {shard.samples} samples")
    return faults


def hash_file(path: str) -> str:
    """Return the sha256 of a file in hex."""
    digest = hashlib.sha256()
    with storage.open_read(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
