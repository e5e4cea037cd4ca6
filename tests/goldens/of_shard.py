"""Results of the shard stage for samples of all five kinds: shards, then the files that describe them."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pipelines
from pipelines.decisions.decided import DecidedSample, write_decided
from pipelines.document import SPLITS, Decision, Document, Drop, Kind, Region, Segment
from pipelines.media.raw_store import Blob
from pipelines.parts import PartFolder, Tally
from pipelines.running.runner import Runner
from pipelines.shard import run_shard
from pipelines.shards.tar_samples import tar_bytes
from pipelines.spec import CorpusSpec
from tests.goldens.contents import Contents, Golden, digest, parts, plain, rows
from tests.goldens.exact_files import JPEG, blocks, png
from tests.mini_web import paragraph
from tests.pipelines.stage_records import document, image, scores, spec, text

BLOBS = "g000-golden.blobs"
PNG = png(blocks("shard", (32, 24)))
KINDS: tuple[Kind, ...] = ("interleaved", "pair", "grounded", "video", "text")
NUM_SAMPLES = 7  # samples per kind


def _sample(kind: Kind, n: int) -> Document:
    """Return sample `n` of a kind; its images are the JPEG and the PNG in turn."""
    phrase = Region(2, 8, 0, (0.1, 0.2, 0.5, 0.9), 0.81, "noun_chunk")
    whole = Region(0, 13, 0, (0.0, 0.0, 1.0, 1.0), None, "ref_exp")
    caption = text(f"a wooden boat, café {n}", role="caption", regions=(phrase, whole) if kind == "grounded" else ())
    segments: list[Segment] = [image(0), caption]
    if kind == "interleaved":
        segments = [text("A title", role="heading"), image(0), text(paragraph(f"shard {n}")), image(1), caption]
    elif kind == "video":
        cue = text("A boat comes in.", t0=0.5, t1=1.5, role="subtitle")
        frames = (Segment("frame", media=i, t0=t, role="frame") for i, t in enumerate((0.5, 2.0)))
        segments = [next(frames), cue, next(frames)]
    elif kind == "text":
        segments = [text(paragraph(f"shard {n} {i}")) for i in range(2)]
    num_media = sum(s.media is not None for s in segments)
    page = f"https://www.example.co.uk/{kind}/{n}"
    made = document(kind, *segments, num_media=num_media, page=page, lang="en", scores=scores(0.3) if num_media else ())
    times = [s.t0 for s in segments if s.media is not None]
    media = (
        replace(
            m,
            mime=("image/jpeg", "image/png")[(n + i) % 2],
            width=32,
            height=24,
            source_width=64,
            source_height=48,
            source_sha256=f"{n:064x}",
            t=times[i],
            fetched_at="2026-01-05T10:11:12Z",
            license="CC-BY-4.0" if n % 3 == 0 else None,
        )
        for i, m in enumerate(made.media)
    )
    return replace(made, media=tuple(media), decision=Decision("strict", True, ()))


def _spec() -> CorpusSpec:
    sharding = {"sharding": {"max_samples": 2}}
    return spec({f"{kind}s": {"kind": kind, **sharding} for kind in KINDS}, seed=7, description="Golden")


def _write_work(out: Path) -> None:
    """Write decided samples in two parts, the bytes of their media, and counts and drops of earlier stages."""
    media = out / "work" / "raw" / "media"
    media.mkdir(parents=True)
    (media / BLOBS).write_bytes(JPEG + PNG)
    places = {
        "image/jpeg": Blob(BLOBS, 0, len(JPEG)),
        "image/png": Blob(BLOBS, len(JPEG), len(PNG)),
    }
    decisions = PartFolder(str(out / "work" / "decisions" / "samples"))
    for number, name in enumerate(("lists-00000", "web-r000-first")):
        tally, written = Tally("filter"), []
        for kind in KINDS:
            source = f"{kind}s"
            for n in range(number, NUM_SAMPLES, 2):
                made = _sample(kind, n)
                blobs = tuple(places[m.mime or ""] for m in made.media)
                members = [2 * len(made.to_json()) + 1024, *(blob.length for blob in blobs), len(made.text)]
                size = tar_bytes(members)
                written.append(DecidedSample(source, SPLITS[n % 5 % 3], made.key, size, made.to_json(), blobs))
                tally.keep(source, "document")
                tally.keep(source, "sample", stage="shard")
            tally.drop(
                Drop(
                    source=source,
                    stage="filter",
                    reason="exact_duplicate",
                    unit="document",
                    key=f"d{number}",
                    detail="x",
                )
            )
            tally.drop(
                Drop(source=source, stage="shard", reason="window_without_media", unit="sample", key=f"w{number}")
            )
        decisions.finish(name, "", tally, write_decided(decisions, name, written))
    account = Tally("crawl")
    account.keep("web", "page", 9)
    for reason in ("http_404", "http_404", "out_of_scope"):
        account.drop(Drop(source="web", stage="crawl", reason=reason, unit="page", url="https://www.example.co.uk/x"))
    PartFolder(str(out / "work" / "warc" / "web" / "account")).finish("00000", "", account, {})
    extracted = Tally("extract")
    extracted.keep("web", "page", 8)
    extracted.drop(
        Drop(source="web", stage="extract", reason="not_html", unit="page", url="https://www.example.co.uk/y")
    )
    PartFolder(str(out / "work" / "candidates")).finish("web-r000-first", "", extracted, {})


def goldens(folder: Path) -> dict[str, Golden]:
    """Write tars with indexes and sidecars, then manifest, drops, statistics and data card."""
    out = folder / "out"
    _write_work(out)
    with patch.object(pipelines, "__version__", "golden"):  # samples and manifest contain the version of the release
        run_shard(_spec(), str(out), Runner())
    work = out / "work"
    given: Contents = {name: parts(work / name) for name in ("decisions/samples", "candidates", "warc/web/account")}
    given |= {BLOBS: plain(JPEG + PNG), "spec": _spec().resolved()}
    shards: Contents = {}
    described: Contents = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and work not in path.parents):
        name = str(path.relative_to(out))
        is_of_shard = path.with_name(path.name.removesuffix(".idx")).with_suffix(".tar").exists()
        if is_of_shard:
            shards.setdefault(name.partition("/")[0], {})[name] = _content(path)
        else:
            described.setdefault(path.name, {})[name] = _content(path)
    for varying in ("tools", "code"):
        described["manifest.json"]["manifest.json"].pop(varying)
    return {"shard": Golden(given, shards), "manifest": Golden({**given, "shards": shards}, described)}


def _content(path: Path) -> Any:
    if path.suffix == ".parquet":
        return plain(rows(path))
    if path.suffix == ".json":
        return plain(json.loads(path.read_text()))
    if path.suffix in (".tar", ".idx"):
        return plain(path.read_bytes())
    if path.suffix == ".sqlite":  # its bytes depend on the library's version
        database = sqlite3.connect(path)
        found = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in ("samples", "sample_parts")}
        database.close()
        return plain(found)
    return digest(path.read_text())
