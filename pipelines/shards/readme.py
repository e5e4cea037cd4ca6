"""The corpus's `README.md`, with the front matter that `datasets.load_dataset(<corpus>, <source>)` needs.

Without it Hugging Face `datasets` guesses columns from the first five samples, and fails if samples have different
numbers of images, or silently drops a key that those five lack. So every source's columns are listed here, derived
from the types of the record.
"""

import glob
import re
import types
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from pipelines import storage
from pipelines.document import CAPTIONED, Document, Kind, OtherCaption, Split
from pipelines.shards.manifest import Manifest, ShardInfo
from pipelines.shards.tar_samples import read_samples

_DTYPES = {str: "string", int: "int64", float: "float64", bool: "bool"}
_IMAGES = ("jpg", "png", "webp")

# Keys at the root of the JSON beside seq/1: those that finish_document adds, and what lists have of more captions
_PAIR_EXTRAS: dict[str, Any] = {
    **dict.fromkeys(("url", "caption", "status", "error_message", "exif", "sha256"), str),
    **dict.fromkeys(("width", "height", "original_width", "original_height"), int),
}
_GROUNDED_EXTRAS: dict[str, Any] = {"noun_chunks": list[list[float]], "ref_exps": list[list[float]]}


def feature_list(
    kind: Kind, parts: Iterable[str], *, has_other_captions: bool = False, has_faces: bool = False
) -> list[dict[str, Any]]:
    """Return the columns of a source, in the form of the card's `dataset_info.features`.

    Args:
        kind: Kind of the source.
        parts: All names of parts that occur in it (`json`, `jpg`, `000.webp` ...), see `part_names`.
        has_other_captions: Whether its samples have more captions than the one that is used.
        has_faces: Whether faces were searched in its images.
    """
    hints = {"schema": str, **get_type_hints(Document)}
    del hints["extras"]
    if kind in CAPTIONED:
        hints |= _PAIR_EXTRAS
    if kind == "grounded":
        hints |= _GROUNDED_EXTRAS
    if has_other_captions:
        hints["other_captions"] = list[OtherCaption]
    columns: list[dict[str, Any]] = [{"name": "json", "struct": _struct(hints)}]
    if not has_faces:
        media = next(column for column in columns[0]["struct"] if column["name"] == "media")
        media["list"] = [column for column in media["list"] if column["name"] != "faces"]
    for part in sorted(set(parts) - {"json"}):
        columns.append({"name": part, "dtype": "image" if part.rpartition(".")[2] in _IMAGES else "string"})
    return [*columns, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def features(kind: Kind, parts: Iterable[str]) -> Any:
    """Return the same columns as `datasets.Features`: the `features` of `load_dataset("webdataset", ...)`."""
    import datasets  # needed only by callers of this function

    def column(spec: Any) -> Any:
        if isinstance(spec, str):
            return datasets.Value(spec)
        if isinstance(spec, list):
            return {child["name"]: column(child) for child in spec}
        if "dtype" in spec:
            return datasets.Image() if spec["dtype"] == "image" else datasets.Value(spec["dtype"])
        return column(spec["struct"]) if "struct" in spec else datasets.List(column(spec["list"]))

    return datasets.Features(column(feature_list(kind, parts)))


def part_names(corpus: str, shards: Sequence[ShardInfo]) -> list[str]:
    """Return all names of parts in these shards, sorted; from their sidecars."""
    found: set[str] = set()
    for shard in shards:
        with storage.open_read(storage.join(corpus, shard.sidecar)) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=["parts"]):
                found.update(pc.unique(batch.column(0).flatten().field("name")).to_pylist())
    return sorted(found)


def front_matter(corpus: str, manifest: Manifest) -> dict[str, Any]:
    """Return `configs` and `dataset_info` of a dataset card: one configuration per source, the first is the default.

    The columns of tars that others wrote are not known: `datasets` guesses them.
    """
    is_foreign = manifest.spec_sha256 is None
    configs: list[dict[str, Any]] = []
    infos = []
    for i, source in enumerate(manifest.sources):
        files: list[dict[str, Any]] = [
            {"split": p, "path": _paths(manifest, source.name, p) if is_foreign else f"{source.name}/{p}/*.tar"}
            for p in source.splits
        ]
        configs.append({"config_name": source.name, **({"default": True} if i == 0 else {}), "data_files": files})
        if is_foreign:
            continue
        shards = manifest.shards_of(source.name)
        has_more = source.kind in CAPTIONED and _has_key(corpus, shards, "other_captions")
        has_faces = source.kind != "text" and _has_key(corpus, shards, "faces")
        parts = part_names(corpus, shards)
        columns = feature_list(source.kind, parts, has_other_captions=has_more, has_faces=has_faces)
        infos.append({"config_name": source.name, "features": columns})
    front = {"pretty_name": manifest.name, "configs": configs}
    return front if is_foreign else {**front, "dataset_info": infos}


def _paths(manifest: Manifest, source: str, split: Split) -> list[str]:
    """Return patterns for the tars of a source and split: a folder's, if it holds no others, else each tar's path."""
    owners: dict[str, set[tuple[str, Split]]] = {}
    for shard in manifest.shards:
        owners.setdefault(_folder(shard.path), set()).add((shard.source, shard.split))
    found = []
    for shard in manifest.shards_of(source, split):
        folder = _folder(shard.path)
        found.append(f"{glob.escape(folder)}*.tar" if len(owners[folder]) == 1 else glob.escape(shard.path))
    return list(dict.fromkeys(found))


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]


def _has_key(corpus: str, shards: Sequence[ShardInfo], name: str) -> bool:
    """Return whether the JSON of the first sample of a shard has a key."""
    firsts = (next(iter(read_samples(storage.join(corpus, shard.path)))) for shard in shards)
    return any(f'"{name}":'.encode() in sample.parts["json"] for sample in firsts)


def corpus_readme(corpus: str, manifest: Manifest) -> str:
    """Return `README.md`: the front matter, the contents, and how four libraries read them.

    `tools card` writes a longer one in its place, with the same front matter and recipes; a build that changes the
    corpus writes this one again.
    """
    title = f"# {manifest.name} {manifest.version}"
    parts = [title, _ABOUT, contents_table(manifest), _BESIDE, reading_recipes(manifest)]
    return with_front_matter(front_matter(corpus, manifest), "\n" + "\n\n".join(parts) + "\n")


def is_of_build(text: str) -> bool:
    """Return whether a README is one of `corpus_readme`, of this or of another version of a corpus."""
    _, _, body = text.partition("\n---\n")
    body = re.sub("(?s)```python.*?```", "", body)
    words = [line for line in body.splitlines() if line and not line.startswith(("|", "# "))]
    return words == [*_ABOUT.splitlines(), *_BESIDE.splitlines()]


def with_front_matter(front: dict[str, Any], body: str) -> str:
    """Return a Markdown text with front matter in YAML."""
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=110)}---\n{body}"


def contents_table(manifest: Manifest) -> str:
    """Return a Markdown table of the sources and splits with their sizes."""
    lines = ["| source | kind | split | shards | samples | bytes |", "|---|---|---|---:|---:|---:|"]
    for source in manifest.sources:
        for split in source.splits:
            shards = manifest.shards_of(source.name, split)
            num_samples, num_bytes = sum(s.samples for s in shards), sum(s.bytes for s in shards)
            lines.append(
                f"| {source.name} | {source.kind} | {split} | {len(shards)} | {num_samples:,} | {num_bytes:,} |"
            )
    return "\n".join(lines)


def reading_recipes(manifest: Manifest) -> str:
    """Return Markdown code that reads the first source with four libraries."""
    first = manifest.sources[0]
    shards = manifest.shards_of(first.name, first.splits[0])
    numbers = f"{{000000..{len(shards) - 1:06d}}}" if len(shards) > 1 else "000000"
    return _RECIPES.format(
        source=first.name,
        split=first.splits[0],
        shards=f"{first.name}/{first.splits[0]}/{first.name}-{numbers}.tar",
    )


_ABOUT = """\
Samples in WebDataset tars. `<key>.json` of a sample (schema `seq/1`) holds its segments in order: texts, and images
by the name of their member, with the origin and the permission of each."""
_BESIDE = """\
`manifest.json` lists every tar with its hash and, stage by stage, how many candidates became these samples; `drops/`
has the reason for every other candidate. Beside each tar lie the offsets of its samples (`.tar.idx`) and a table with
one row per sample (`.parquet`)."""
_RECIPES = """\
```python
# in this folder
import webdataset
webdataset.WebDataset("{shards}", shardshuffle=False).decode("pil")

import os, datasets
datasets.load_dataset(os.getcwd(), "{source}", split="{split}")

import megatron.energon as energon  # .nv-meta/cookers.py has cookers for interleaved, video and grounded sources
energon.get_train_dataset("{source}", batch_size=1, shuffle_buffer_size=None, max_samples_per_sequence=None,
                          worker_config=energon.WorkerConfig.default_worker_config())

import wids  # part of webdataset 0.2
wids.ShardListDataset("{source}/wids-{split}.json", transformations=[])
```"""


def _struct(hints: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **_column(hint)} for name, hint in hints.items()]


def _column(hint: Any) -> dict[str, Any]:
    """Return a Python type as a column: nullable, as every column is."""
    spec = _spec(hint)
    return {"dtype": spec} if isinstance(spec, str) else spec


def _spec(hint: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (a for a in arguments if a is not type(None))
        return _spec(inner)
    if origin is Literal:
        return "string"
    if origin in (tuple, list):
        item = _spec(arguments[0])
        return {"list": item["struct"] if isinstance(item, dict) and "struct" in item else item}
    if hint in _DTYPES:
        return _DTYPES[hint]
    names = {field.name for field in fields(hint)}
    return {"struct": _struct({name: h for name, h in get_type_hints(hint).items() if name in names})}
