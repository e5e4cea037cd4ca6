"""A corpus with samples that attack a page, for the tests of browsing."""

import json
from dataclasses import replace
from typing import Any

from pipelines import storage
from pipelines.document import Build, Document, Drop, Provenance, Score, Segment, Signal, make_key
from pipelines.funnel import FunnelRow
from pipelines.shards.drops import write_drops
from pipelines.shards.manifest import Manifest, sort_shards, write_manifest
from pipelines.shards.tar_samples import read_index
from pipelines.shards.writer import SampleParts, ShardWriter, finish_document
from tests.pipelines.corpus_builder import build, image, media

SCRIPT = "<script>alert(1)</script>"
SVG = '"><svg onload=alert(2)>'
BIDI = "evil\u202egpj.exe\u2066"
HOSTILE_TEXT = f"{SCRIPT} {SVG} {BIDI} </textarea>{{{{ 7 * 7 }}}} \x1b[2J"
HOSTILE_URL = "javascript:alert(3)//https://x.example/"
TALL_TABLE = "\n".join(f"| row {n} | <b>{n}</b> |" for n in range(100_000))
KEYS = {name: make_key("pair", "hostile", name) for name in ("script", "table", "group")}
TURNS = make_key("conversation", "turns")
RTL = make_key("text", "arabic")


def hostile_corpus(corpus: str) -> Manifest:
    """Write a small corpus of all kinds, with drops, and a source `hostile` of pairs; return its manifest."""
    manifest = build(corpus)
    shards, funnel = list(manifest.shards), list(manifest.funnel)
    for source, kind, samples in (
        ("hostile", "pair", [_script(), _table(), _group()]),
        ("talks", "conversation", [_turns()]),
        ("arabic", "text", [_arabic()]),
    ):
        with ShardWriter(corpus, source, kind, "train", 0) as writer:  # type: ignore[arg-type]  # kinds of seq/1
            for sample in samples:
                writer.add(sample)
        assert writer.info is not None
        shards.append(writer.info)
        funnel.append(FunnelRow(source, "shard", "sample", len(samples), len(samples), {}))
    funnel.insert(0, FunnelRow("pairs", "extract", "document", 70, 9, {"too_few_words": 60, "noai": 1}))
    drops = [
        Drop(source="pairs", stage="extract", reason="too_few_words", unit="document", url=f"https://drop.example/{n}")
        for n in range(60)
    ]
    refused = Drop(
        source="pairs",
        stage="extract",
        reason="noai",
        unit="document",
        key="p00",
        url=HOSTILE_URL,
        page_url="https://refused.example/page",
        record="crawl.warc.gz 12",
        excerpt=HOSTILE_TEXT,
        detail=SCRIPT,
    )
    write_drops(corpus, "pairs", [*drops, refused])
    names = [*manifest.source_names, "hostile", "talks", "arabic"]
    changed = replace(manifest, shards=sort_shards(shards, names), funnel=tuple(funnel), source_names=tuple(names))
    write_manifest(corpus, changed)
    return changed


def _pair(name: str, caption: str, **more: Any) -> SampleParts:
    kept = {"lang": "en", "build": Build("test", dedup_group="group-hostile"), **more}
    document = Document(
        "pair",
        KEYS[name],
        (Segment("image", media=0, role="content"), Segment("text", caption, role="caption")),
        (replace(media(50), alt=SVG, credit=SCRIPT),),
        Provenance("evil", SCRIPT, page_url=HOSTILE_URL, license=SVG),
        **kept,
    )
    return finish_document(document, [image(50)])


def _script() -> SampleParts:
    signals = (Signal("meta-robots", "page", HOSTILE_TEXT, "2026-01-01T00:00:00Z", HOSTILE_URL),)
    scores = (Score("<i>clip</i>", "media:0", 0.25, "upstream"), Score("aesthetic", "media:0", 7.5, "derived"))
    return _pair("script", HOSTILE_TEXT, lang=SCRIPT, signals=signals, scores=scores)


def _table() -> SampleParts:
    return _pair("table", TALL_TABLE, scores=(Score("aesthetic", "media:0", 2.5, "derived"),))


def _group() -> SampleParts:
    return _pair("group", "a lone surrogate", extras={"other_captions": [{"name": SCRIPT, "text": SVG}]})


def _turns() -> SampleParts:
    segments = (
        Segment("text", "Answer briefly.", role="system"),
        Segment("text", "What is on it?", role="user"),
        Segment("image", media=0, role="user"),
        Segment("text", "A lighthouse.", role="assistant", generator="some-model"),
    )
    return finish_document(
        Document("conversation", TURNS, segments, (media(60),), Provenance("talks", "1")), [image(60)]
    )


def _arabic() -> SampleParts:
    segments = (Segment("text", "منارة فوق الرصيف", role="heading"), Segment("text", "灯台は港の上にある。 Ångström"))
    return finish_document(Document("text", RTL, segments, (), Provenance("arabic", "1"), lang="ar"))


def with_json(corpus: str, path: str, number: int, change: Any) -> None:
    """Change the JSON of a sample in a tar, in its own length: what is left over is filled with spaces."""
    tar = storage.join(corpus, path)
    data = bytearray(storage.read_bytes(tar))
    begin = int(read_index(tar)[number])
    size = int(data[begin + 124 : begin + 135], 8)
    record = json.loads(data[begin + 512 : begin + 512 + size])
    change(record)
    changed = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()
    assert len(changed) <= size, "a change must not lengthen the JSON"
    data[begin + 512 : begin + 512 + size] = changed.ljust(size)
    storage.write_bytes(tar, bytes(data))
