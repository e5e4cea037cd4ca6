"""A small corpus with a spec, evidence and drops, and a way to change its samples and keep all that describes them."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from pipelines.document import Build, Document, Drop, Kind, Provenance, Region, Role, Segment, Signal, Split, make_key
from pipelines.funnel import FunnelRow
from pipelines.shards.drops import write_drops
from pipelines.shards.manifest import Manifest, ShardInfo, hash_file, load_manifest, sort_shards, write_manifest
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.sidecar import SCHEMA, read_sidecar, sidecar_row, write_sidecar
from pipelines.shards.tar_samples import TarSample, member_header, padded, read_samples, tar_end, write_index
from pipelines.shards.writer import SampleParts, ShardWriter, finish_document
from pipelines.spec import CorpusSpec
from tests.pipelines.corpus_builder import media
from tests.pipelines.stage_records import spec

KINDS: tuple[Kind, ...] = ("interleaved", "pair", "grounded", "text")
ROBOTS = "User-agent: *\nDisallow: /private/"
SPLITS: dict[Split, range] = {"train": range(3), "val": range(3, 5)}
WORDS = "amber birch cedar delta ember fjord grove heath islet jetty knoll ledge marsh north oasis plain quarry ridge"


def corpus_spec(**more: Any) -> CorpusSpec:
    return spec({f"{kind}s": {"kind": kind} for kind in KINDS}, **more)


def noise(seed: int, form: str = "JPEG", **options: Any) -> bytes:
    """Return an image of 64 x 48 pixels, which `seed` determines."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(buffer, form, **options)
    return buffer.getvalue()


def signal(target: str, url: str, kind: str = "robots.txt", value: str = ROBOTS) -> Signal:
    return Signal(kind, target, value, "2026-01-05T10:11:12Z", url)


def sample(kind: Kind, number: int) -> SampleParts:
    """Return a sample that differs from all others in text and images, with evidence that it may be used."""
    words = WORDS.split()
    text = " ".join(words[(KINDS.index(kind) * 5 + number * (i + 3)) % len(words)] for i in range(14))
    page = f"https://www.example.org/{kind}/{number}"
    num_images = {"interleaved": 2, "text": 0}.get(kind, 1)
    items = [dataclasses.replace(media(number * 2 + i), width=64, height=48) for i in range(num_images)]
    items = [
        dataclasses.replace(m, url=f"https://img.example.net/{kind}/{number}/{i}.jpg") for i, m in enumerate(items)
    ]
    segments = [Segment("image", media=i, role="content") for i in range(num_images)]
    regions = (Region(0, 5, 0, (0.1, 0.2, 0.5, 0.9), 0.8, "noun_chunk"),) if kind == "grounded" else ()
    role: Role = "caption" if kind in ("pair", "grounded") else "body"
    segments.append(Segment("text", text, role=role, regions=regions))
    signals = [signal("page", "https://www.example.org/robots.txt")]
    signals += [signal(f"media:{i}", "https://img.example.net/robots.txt") for i in range(num_images)]
    document = Document(
        kind,
        make_key(kind, "audit", number),
        tuple(segments),
        tuple(items),
        Provenance("web", str(number), page_url=page, crawl="web"),
        lang="en",
        signals=tuple(signals),
        build=Build("test", "0" * 64, "mask-v1", 0, f"group-{kind}-{number}"),
    )
    seed = KINDS.index(kind) * 100 + number * 2
    finished = dataclasses.replace(document, decision=dataclasses.replace(document.decision, policy="strict"))
    return finish_document(finished, [noise(seed + i) for i in range(num_images)])


def build(folder: str, made: CorpusSpec | None = None) -> Manifest:
    """Write a corpus with one shard per kind and split; grounded samples are for training only."""
    made = made or corpus_spec()
    shards, funnel = [], []
    for kind in KINDS:
        numbers_of: dict[Split, range] = SPLITS if kind != "grounded" else {"train": range(3)}
        for split, numbers in numbers_of.items():
            with ShardWriter(folder, f"{kind}s", kind, split, 0) as writer:
                for number in numbers:
                    writer.add(sample(kind, number))
            assert writer.info is not None
            shards.append(writer.info)
        num = sum(map(len, numbers_of.values()))
        funnel += [
            FunnelRow(f"{kind}s", "filter", "document", num + 1, num, {"too_few_images": 1}),
            FunnelRow(f"{kind}s", "shard", "sample", num, num, {}),
        ]
        drop = Drop(source=f"{kind}s", stage="filter", reason="too_few_images", unit="document", excerpt="a text")
        write_drops(folder, f"{kind}s", [drop])
    Path(folder, "spec.resolved.yaml").write_text(made.resolved())
    names = [f"{kind}s" for kind in KINDS]
    manifest = Manifest(
        "tiny",
        "1",
        made.sha256,
        sort_shards(shards, names),
        tuple(funnel),
        {"dromaius": "test"},
        tuple(names),
    )
    write_reader_indexes(folder, manifest)
    write_manifest(folder, manifest)
    return manifest


class Shard:
    """The members of a shard, to be changed; what describes it follows when it is written.

    Members are those of each sample, by part.
    """

    def __init__(self, folder: Path, source: str, split: str) -> None:
        self._folder = folder
        self.path = f"{source}/{split}/{source}-000000.tar"
        self.samples: list[tuple[str, dict[str, bytes]]] = [
            (sample.key, dict(sample.parts)) for sample in read_samples(str(folder / self.path))
        ]

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.samples]

    def record(self, number: int) -> dict[str, Any]:
        """Return the JSON of a sample."""
        found: dict[str, Any] = json.loads(self.samples[number][1]["json"])
        return found

    def set_record(self, number: int, record: dict[str, Any]) -> Self:
        """Give a sample another JSON, in canonical form."""
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.samples[number][1]["json"] = text.encode()
        return self

    def change(self, number: int, change: Callable[[dict[str, Any]], object]) -> Self:
        """Change the JSON of a sample in place."""
        record = self.record(number)
        change(record)
        return self.set_record(number, record)

    def set_image(self, number: int, data: bytes, **fields: Any) -> Self:
        """Give the first image of a sample other bytes, which its JSON describes, but for `fields`."""
        record = self.record(number)
        part = record["media"][0]["part"]
        self.samples[number][1][part] = data
        digest = hash_of(data)
        record["media"][0] |= {"bytes": len(data), "stored_sha256": digest} | fields
        return self.set_record(number, record)

    def write(self, header: Callable[[str, int], bytes] = member_header, *, stray: bytes = b"") -> None:
        """Write the tar with its index, sidecar and manifest, and the indexes of other readers.

        Args:
            header: Makes the header of a member.
            stray: What stands between the first sample and the second.
        """
        data, rows, offsets = b"", [], []
        old = {row["key"]: row for row in read_sidecar(str(self._folder / self.path.replace(".tar", ".parquet")))}
        for key, parts in self.samples:
            place = TarSample(key, len(data), 0)
            offsets.append(len(data))
            for part, content in parts.items():
                data += header(f"{key}.{part}", len(content))
                place.parts[part], place.places[part] = content, len(data)
                data += content + bytes(padded(len(content)) - len(content))
            data += stray if len(offsets) == 1 else b""
            place.end = len(data)
            try:
                rows.append(sidecar_row(Document.from_json(parts["json"]), place))
            except (KeyError, ValueError, TypeError, AttributeError):  # its JSON is damaged
                rows.append({name: old[key][name] for name in SCHEMA.names} | position(place))
        path = self._folder / self.path
        write_index(str(path), [*offsets, len(data)])
        path.write_bytes(data + tar_end(len(data)))
        write_sidecar(str(path).replace(".tar", ".parquet"), rows)
        follow(self._folder, self.path, len(rows))


def position(sample: TarSample) -> dict[str, Any]:
    """Return the columns of a sidecar that say where a sample is."""
    parts = [{"name": n, "offset": sample.places[n], "bytes": len(b)} for n, b in sample.parts.items()]
    return {"byte_offset": sample.offset, "bytes": sample.end - sample.offset, "parts": parts}


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def follow(folder: Path, path: str, num_samples: int) -> None:
    """Let the manifest, the funnel and the indexes of other readers describe a shard as it is now."""
    manifest = load_manifest(str(folder))
    whole = folder / path
    shards = tuple(
        dataclasses.replace(s, sha256=hash_file(str(whole)), bytes=whole.stat().st_size, samples=num_samples)
        if s.path == path
        else s
        for s in manifest.shards
    )
    rewrite(folder, shards)


def rewrite(folder: Path, shards: tuple[ShardInfo, ...], **changes: Any) -> None:
    """Write the manifest with these shards; the last row of each source counts their samples."""
    manifest = load_manifest(str(folder))
    numbers = {row.source: sum(s.samples for s in shards if s.source == row.source) for row in manifest.funnel}
    funnel = tuple(
        dataclasses.replace(row, in_=numbers[row.source], kept=numbers[row.source]) if row.stage == "shard" else row
        for row in manifest.funnel
    )
    changed = dataclasses.replace(manifest, shards=shards, funnel=funnel)
    changed = dataclasses.replace(changed, **changes)
    write_reader_indexes(str(folder), changed)
    write_manifest(str(folder), changed)
