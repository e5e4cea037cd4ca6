"""A small corpus of five kinds, or of all, with real JPEG, PNG and WebP bytes, for the tests of the shard format."""

import io

from PIL import Image

from pipelines import storage
from pipelines.document import Build, Document, Kind, Media, Provenance, Region, Segment, Split, make_key
from pipelines.funnel import FunnelRow
from pipelines.shards.manifest import Manifest, ShardInfo, sort_shards, write_manifest
from pipelines.shards.reader_indexes import write_reader_indexes
from pipelines.shards.readme import corpus_readme
from pipelines.shards.writer import SampleParts, ShardWriter, finish_document

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
KINDS: tuple[Kind, ...] = ("interleaved", "pair", "grounded", "video", "text")
NUM_SAMPLES: dict[Split, int] = {"train": 7, "val": 2}


def image(number: int, form: str = "JPEG", size: tuple[int, int] = (32, 24)) -> bytes:
    """Return an image of one colour, which `number` determines."""
    image = Image.new("RGB", size, (number * 40 % 256, number * 70 % 256, 99))
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def media(number: int, form: str = "JPEG", t: float | None = None) -> Media:
    """Return the description of `image(number, form)` before it is packed."""
    return Media(
        url=f"https://images.example.co.uk/{number}.{form.lower()}",
        mime=MIME[form],
        width=32,
        height=24,
        source_width=64,
        source_height=48,
        source_sha256=f"{number:064x}",
        t=t,
        fetched_at="2026-01-05T10:11:12Z",
    )


def sample(kind: Kind, number: int) -> SampleParts:
    """Return sample `number` of a kind; interleaved ones have 1 to 3 images in different formats."""
    key = make_key(kind, "corpus_builder", number)
    caption = f"a dock beside boat {number}, café"
    forms = ["JPEG"]
    if kind == "interleaved":
        forms = ["JPEG", "WEBP", "PNG"][: 1 + number % 3]
        segments = [Segment("text", f"Title {number}", role="heading")]
        for i in range(len(forms)):
            segments += [Segment("image", media=i, role="content"), Segment("text", f"Paragraph {i}\n\nof {number}.")]
        items = [media(number * 3 + i, form) for i, form in enumerate(forms)]
    elif kind == "video":
        forms = ["JPEG"] * 2
        items = [media(number * 2, t=0.5), media(number * 2 + 1, t=2.0)]
        segments = [
            Segment("frame", media=0, t0=0.5, role="frame"),
            Segment("text", "hello", t0=0.5, t1=1.5, role="subtitle"),
            Segment("frame", media=1, t0=2.0, role="frame"),
        ]
    elif kind == "conversation":
        forms = ["JPEG", "PNG"]
        items = [media(number * 2), media(number * 2 + 1, "PNG")]
        segments = [
            Segment("image", media=0, role="user"),
            Segment("text", f"Move boat {number}.", role="user"),
            Segment("text", "Done:", role="assistant", origin="synthetic", generator="a model"),
            Segment("image", media=1, role="assistant"),
        ]
    elif kind == "text":
        forms, items = [], []
        segments = [Segment("text", f"Heading {number}", role="heading"), Segment("text", f"Body {number}. " * 5)]
    else:
        regions = (Region(0, 6, 0, (0.1, 0.2, 0.5, 0.9), 0.81, "noun_chunk"), Region(7, 13, 0, (0, 0, 1, 1)))
        items = [media(number)]
        segments = [
            Segment("image", media=0, role="content"),
            Segment("text", caption, role="caption", regions=regions if kind == "grounded" else ()),
        ]
    document = Document(
        kind,
        key,
        tuple(segments),
        tuple(items),
        Provenance("test-web", str(number), page_url=f"https://www.example.org/{kind}/{number}"),
        lang="en",
        build=Build(pipeline="test", dedup_group=f"group-{kind}-{max(number, 1)}"),
    )
    return finish_document(document, [image(number * len(forms) + i, form) for i, form in enumerate(forms)])


def write_shard(corpus: str, kind: Kind, split: Split, number: int, samples: list[SampleParts]) -> ShardInfo:
    """Write one shard of the source `<kind>s`."""
    with ShardWriter(corpus, f"{kind}s", kind, split, number) as writer:
        for item in samples:
            writer.add(item)
    assert writer.info is not None
    return writer.info


def build(corpus: str, kinds: tuple[Kind, ...] = KINDS) -> Manifest:
    """Write a complete corpus, one source per kind with two train shards and one val shard; return its manifest."""
    shards, funnel = [], []
    for kind in kinds:
        samples = [sample(kind, n) for n in range(sum(NUM_SAMPLES.values()))]
        shards.append(write_shard(corpus, kind, "train", 0, samples[:6]))
        shards.append(write_shard(corpus, kind, "train", 1, samples[6:7]))
        shards.append(write_shard(corpus, kind, "val", 0, samples[7:]))
        funnel.append(FunnelRow(f"{kind}s", "shard", "sample", len(samples), len(samples), {}))
    names = [f"{kind}s" for kind in kinds]
    manifest = Manifest(
        "tiny", "1", "0" * 64, sort_shards(shards, names), tuple(funnel), {"dromaius": "test"}, tuple(names)
    )
    write_reader_indexes(corpus, manifest)
    storage.write_bytes(storage.join(corpus, "README.md"), corpus_readme(corpus, manifest).encode())
    write_manifest(corpus, manifest)
    return manifest
