"""The corpus's `README.md`, with the front matter that `datasets.load_dataset(<corpus>, <source>)` needs.

Without it Hugging Face `datasets` guesses columns from the first five samples, and fails if samples have different
numbers of images, or silently drops a key that those five lack. So every source's columns are listed here, derived
from the types of the record.
"""

import types
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from pipelines import storage
from pipelines.document import CAPTIONED, Document, Kind, OtherCaption
from pipelines.shards.manifest import Manifest, ShardInfo
from pipelines.shards.sidecar import read_sidecar
from pipelines.shards.tar_samples import read_samples

_DTYPES = {str: "string", int: "int64", float: "float64", bool: "bool"}
_IMAGES = ("jpg", "png", "webp")

# Keys at the root of the JSON beside seq/1: those that finish_document adds, and what lists have of more captions
_PAIR_EXTRAS: dict[str, Any] = {
    **dict.fromkeys(("url", "caption", "status", "error_message", "exif", "sha256"), str),
    **dict.fromkeys(("width", "height", "original_width", "original_height"), int),
}
_GROUNDED_EXTRAS: dict[str, Any] = {"noun_chunks": list[list[float]], "ref_exps": list[list[float]]}


def feature_list(kind: Kind, parts: Iterable[str], *, has_other_captions: bool = False) -> list[dict[str, Any]]:
    """Return the columns of a source, in the form of the card's `dataset_info.features`.

    Args:
        kind: Kind of the source.
        parts: All names of parts that occur in it (`json`, `jpg`, `000.webp` ...), see `part_names`.
        has_other_captions: Whether its samples have more captions than the one that is used.
    """
    hints = {"schema": str, **get_type_hints(Document)}
    del hints["extras"]
    if kind in CAPTIONED:
        hints |= _PAIR_EXTRAS
    if kind == "grounded":
        hints |= _GROUNDED_EXTRAS
    if has_other_captions:
        hints["other_captions"] = list[OtherCaption]
    columns = [{"name": "json", "struct": _struct(hints)}]
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
        for row in read_sidecar(storage.join(corpus, shard.sidecar), ("parts",)):
            found.update(part["name"] for part in row["parts"])
    return sorted(found)


def front_matter(corpus: str, manifest: Manifest) -> dict[str, Any]:
    """Return `configs` and `dataset_info` of a dataset card: one configuration per source, the first is the default."""
    configs, infos = [], []
    for i, source in enumerate(manifest.sources):
        files = [{"split": split, "path": f"{source.name}/{split}/*.tar"} for split in source.splits]
        configs.append({"config_name": source.name, **({"default": True} if i == 0 else {}), "data_files": files})
        shards = manifest.shards_of(source.name)
        has_more = source.kind in CAPTIONED and any(_first_has_other_captions(corpus, shard) for shard in shards)
        columns = feature_list(source.kind, part_names(corpus, shards), has_other_captions=has_more)
        infos.append({"config_name": source.name, "features": columns})
    return {"pretty_name": manifest.name, "configs": configs, "dataset_info": infos}


def _first_has_other_captions(corpus: str, shard: ShardInfo) -> bool:
    sample = next(iter(read_samples(storage.join(corpus, shard.path))))
    return b'"other_captions"' in sample.parts["json"]


def corpus_readme(corpus: str, manifest: Manifest) -> str:
    """Return `README.md`: the front matter, the contents, and how four libraries read them."""
    lines = ["| source | kind | split | shards | samples | bytes |", "|---|---|---|---:|---:|---:|"]
    for source in manifest.sources:
        for split in source.splits:
            shards = manifest.shards_of(source.name, split)
            num_samples, num_bytes = sum(s.samples for s in shards), sum(s.bytes for s in shards)
            lines.append(
                f"| {source.name} | {source.kind} | {split} | {len(shards)} | {num_samples:,} | {num_bytes:,} |"
            )
    first = manifest.sources[0]
    shards = manifest.shards_of(first.name, first.splits[0])
    numbers = f"{{000000..{len(shards) - 1:06d}}}" if len(shards) > 1 else "000000"
    text = _BODY.format(
        name=manifest.name,
        version=manifest.version,
        table="\n".join(lines),
        source=first.name,
        split=first.splits[0],
        shards=f"{first.name}/{first.splits[0]}/{first.name}-{numbers}.tar",
    )
    front = yaml.safe_dump(front_matter(corpus, manifest), sort_keys=False, allow_unicode=True, width=110)
    return f"---\n{front}---\n{text}"


_BODY = """
# {name} {version}

Samples in WebDataset tars. `<key>.json` of a sample (schema `seq/1`) holds its segments in order: texts, and images
by the name of their member, with the origin and the permission of each.

{table}

`manifest.json` lists every tar with its hash and, stage by stage, how many candidates became these samples; `drops/`
has the reason for every other candidate. Beside each tar lie the offsets of its samples (`.tar.idx`) and a table with
one row per sample (`.parquet`).

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
```
"""


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
