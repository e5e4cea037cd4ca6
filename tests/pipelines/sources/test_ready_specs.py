"""Tests of the ready specs: each builds a corpus from a few rows in the form of the real release, on loopback."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from PIL import Image

from pipelines.crawl import run_crawls
from pipelines.extract import run_extract
from pipelines.fetch import run_fetch
from pipelines.filter import run_filter
from pipelines.running.runner import Runner
from pipelines.shard import run_shard
from pipelines.spec import load_spec
from tests.pipelines.sources.storyboard_files import write_video
from tests.pipelines.stage_records import image_bytes
from tests.serving import Quiet, send, serving

SPECS = Path(__file__).parents[3] / "corpus_specs"
CONTACT = ("policy.user_agent=Test (mail@example.org)",)
ALONE = ("laion", "capsfusion", "coyo", "cc12m", "mmc4", "obelics", "grit", "webvid", "pile", "fineweb")
WORDS = "The harbour was quiet and the lantern was golden, and nobody knew who had lit it in the night. " * 9


def clip() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for number in range(10):
            pixels = np.random.default_rng(number // 5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file.getvalue()


class Answer(Quiet, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.endswith(".jpg"):
            send(self, 200, image_bytes(int(self.path.strip("/.jpg")), (400, 300)), "image/jpeg")
        elif self.path.endswith(".mp4"):
            send(self, 200, clip(), "video/mp4")
        else:
            send(self, 404, b"")


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.2.1", 0), Answer)) as server:
        yield f"http://127.0.2.1:{server.server_address[1]}"


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_list(name: str, path: Path, web: str) -> None:
    """Write two good rows of a release, and for those with conditions one that falls, in its own form."""
    urls = [f"{web}/{n}.jpg" for n in range(3)]
    captions = ["a lantern on the quay", "a boat beside a grey dock", "a tree behind the old mill"]
    page = f"{web}/page"
    if name == "laion":
        parquet(path, [{"url": u, "caption": c} for u, c in zip(urls[:2], captions, strict=False)])
    elif name == "capsfusion":
        rows = [
            {"image_url": u, "laion_2b": "x", "laion_coco": "y", "capsfusion": c}
            for u, c in zip(urls[:2], captions, strict=False)
        ]
        parquet(path, rows)
    elif name == "coyo":
        scores = {"num_faces": 0, "nsfw_score_opennsfw2": 0.01, "aesthetic_score_laion_v2": 5.4}
        rows = [
            {"id": n, "url": u, "text": c, "width": 400, "height": 300, "watermark_score": 0.4 * n, **scores}
            for n, (u, c) in enumerate(zip(urls, captions, strict=True))
        ]
        parquet(path, rows)
    elif name == "cc12m":
        path.write_text("".join(f"{u}\t{c}\n" for u, c in zip(urls[:2], captions, strict=False)))
    elif name == "mmc4":
        sims = (0.3, 0.25, 0.1)
        infos = [
            {
                "image_name": f"{n}.jpg",
                "raw_url": urls[n],
                "matched_text_index": n,
                "matched_sim": sims[n],
                "face_detections": None,
            }
            for n in range(3)
        ]
        row = {
            "url": page,
            "text_list": [f"{c}. {WORDS}" for c in captions],
            "image_info": infos,
            "could_have_url_duplicate": 0,
        }
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("docs_no_face_shard_0_v2.jsonl", json.dumps(row) + "\n")
    elif name == "obelics":
        info = [{"document_url": page, "unformatted_src": urls[0], "src": urls[0], "alt_text": "a lantern"}, None]
        general = json.dumps({"url": page, "warc_filename": "crawl-data/x.warc.gz"})
        parquet(
            path,
            [
                {
                    "images": [urls[0], None],
                    "texts": [None, WORDS],
                    "metadata": json.dumps(info),
                    "general_metadata": general,
                }
            ],
        )
    elif name == "grit":
        chunk = [[0.0, 6.0, 0.1, 0.1, 0.9, 0.9, 0.8]]
        rows = [
            {"id": n, "url": u, "caption": c, "width": 400, "height": 300, "clip_similarity_vitb32": 0.3,
             "clip_similarity_vitl14": 0.1 * n + 0.05, "noun_chunks": chunk, "ref_exps": chunk}
            for n, (u, c) in enumerate(zip(urls, captions, strict=True))
        ]  # fmt: skip
        parquet(path, rows)
    elif name == "webvid":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["videoid", "name", "page_idx", "page_dir", "duration", "contentUrl"])
            writer.writerow(
                ["7", "Slow motion of rain, on a roof", "1", "000001_000050", "PT00H00M02S", f"{web}/7.mp4"]
            )
    elif name == "pile":
        rows = [{"text": f"{n} {WORDS}", "meta": {"pile_set_name": n}} for n in ("Pile-CC", "Books3")]
        path.write_bytes(zstandard.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    elif name == "fineweb":
        rows = [
            {"text": f"{WORDS} {score}", "id": f"<urn:uuid:{score}>", "dump": "CC-MAIN-2024-10",
             "url": f"{page}/{score}",
             "date": "2024-03-01T00:00:00Z", "file_path": "s3://x", "language": "en", "language_score": score,
             "token_count": 99}
            for score in (0.9, 0.5)
        ]  # fmt: skip
        parquet(path, rows)


FILES = {
    "cc12m": "cc12m.tsv",
    "mmc4": "docs_no_face_shard_0_v2.jsonl.zip",
    "webvid": "results_10M_train.csv",
    "pile": "00.jsonl.zst",
}
REASONS = {"coyo": 1, "grit": 2, "mmc4": 1, "fineweb": 1}


def build(name: str, tmp_path: Path, *more: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the number of samples by source, and of drops of extract by reason."""
    loose = "{language: null, text: {}, images: {min_contrast: null}}"
    sources = load_spec(SPECS / f"{name}.yaml", CONTACT).sources
    given = load_spec(
        SPECS / f"{name}.yaml",
        (
            *CONTACT,
            "policy.allow_hosts=['127.0.2.*']",
            "http.delay_seconds=0",
            *(f"sources.{source}.filters={loose}" for source in sources),
            *more,
        ),
    )
    out = str(tmp_path / "out")
    for run in (run_crawls, run_extract, run_fetch, run_filter):
        run(given, out, Runner())
    manifest = run_shard(given, out, Runner())
    dropped: dict[str, int] = {}
    for row in manifest.funnel:
        if row.stage == "extract":
            dropped |= row.dropped
    samples = {row.source: row.kept for row in manifest.funnel if row.stage == "shard"}
    return samples, dropped


def basis(name: str) -> tuple[str, ...]:
    return ("sources.webvid.input.basis=held since 2022",) if name == "webvid" else ()


KEPT = {"laion", "mmc4", "grit", "fineweb"}
"""Tried by default: one of each form."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in KEPT else pytest.param(n, marks=pytest.mark.nightly) for n in ALONE])
def test_a_list_in_the_form_of_its_release_gives_samples(tmp_path: Path, web: str, name: str):
    file = tmp_path / FILES.get(name, "part-00000.parquet")
    write_list(name, file, web)
    samples, dropped = build(name, tmp_path, f"sources.{name}.input.files=['{file}']", *basis(name))
    assert samples == {name: 1 if name in ("mmc4", "obelics", "webvid", "pile", "fineweb", "grit") else 2}
    assert dropped.get("where_unmet", 0) == REASONS.get(name, 0)
    assert dropped.get("excluded_component", 0) == (name == "pile")


@pytest.mark.nightly
@pytest.mark.slow
def test_storyboards_of_yt_dlp_give_samples(tmp_path: Path, web: str):
    write_video(tmp_path, f"{web}/watch")
    samples, _ = build("youtube_storyboards", tmp_path, f"sources.storyboards.input.files=['{tmp_path}/*.mhtml']")
    assert samples == {"storyboards": 1}


@pytest.mark.slow
def test_pages_of_common_crawl_give_all_three_kinds(tmp_path: Path, web: str):
    def record(url: str, kind: str, body: bytes) -> bytes:
        block = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode() + body
        fields = f"WARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        return gzip.compress(f"WARC/1.0\r\n{fields}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n")

    figure = f"<figure><img src='{web}/5.jpg'><figcaption>a lantern on the quay</figcaption></figure>"
    body = f"<html lang=en><body><main><h1>Quay</h1><p>{WORDS}</p>{figure}<p>{WORDS}</p></main></body></html>"
    (tmp_path / "a.warc.gz").write_bytes(record(f"{web}/page", "text/html", body.encode()))
    (tmp_path / "r.warc.gz").write_bytes(record(f"{web}/robots.txt", "text/plain", b"User-agent: *\nAllow: /\n"))
    samples, _ = build(
        "common_crawl",
        tmp_path,
        f"crawls.archive.warc_files=['{tmp_path}/a.warc.gz']",
        f"crawls.archive.robots_files=['{tmp_path}/r.warc.gz']",
    )
    assert samples == {"pages": 1, "pairs": 1, "texts": 1}


@pytest.mark.nightly
@pytest.mark.slow
def test_webpages_and_documents_of_mint_give_samples(tmp_path: Path, web: str):
    row = {"texts": [None, WORDS], "images": [f"{web}/8.jpg", None], "url": f"{web}/page"}
    parquet(tmp_path / "shard_0000.parquet", [row | {"language_id_whole_page_fasttext": {"en": 0.9}}])
    tiff = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tiff, "TIFF", compression="tiff_lzw")
    record = row | {"images": ["page_0_image_85", None], "image_metadata": [{"page": 0}], "pdf_name": "a.pdf"}
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name, data in (("ef8e.json", json.dumps(record).encode()), ("ef8e.tiff", tiff.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    html, pdf = (f"sources.mint-{name}.input.files=['{tmp_path}/{file}']" for name, file in
                 (("html", "shard_0000.parquet"), ("pdf", "00000.tar")))  # fmt: skip
    samples, _ = build("mint", tmp_path, html, pdf)
    assert samples == {"mint-html": 1, "mint-pdf": 1}


@pytest.mark.nightly
@pytest.mark.slow
def test_records_of_common_crawls_index_give_pages_and_texts(tmp_path: Path, web: str):
    figure = f"<figure><img src='{web}/6.jpg'><figcaption>a lantern on the quay</figcaption></figure>"
    body = f"<html lang=is><body><main><h1>Quay</h1><p>{WORDS}</p>{figure}<p>{WORDS}</p></main></body></html>"
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body.encode()
    fields = f"WARC-Type: response\r\nWARC-Target-URI: {web}/page\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
    record = f"WARC/1.0\r\n{fields}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"
    data = gzip.compress(record)
    (tmp_path / "a.warc.gz").write_bytes(data)
    rows = [
        {"url": f"{web}/page", "fetch_status": 200, "content_languages": languages, 
         "content_mime_detected": "text/html",
         "warc_filename": "a.warc.gz", "warc_record_offset": 0, "warc_record_length": len(data)}
        for languages in ("isl,eng", "eng,isl", None)
    ]  # fmt: skip
    parquet(tmp_path / "part-00000.parquet", rows)
    samples, _ = build(
        "common_crawl_index",
        tmp_path,
        f"crawls.icelandic.index.files=['{tmp_path}/part-00000.parquet']",
        f"crawls.icelandic.warc_base={tmp_path}",
    )
    assert samples == {"pages": 1, "texts": 1}


def instructions(tmp_path: Path, web: str) -> dict[str, tuple[str, ...]]:
    """Write rows of each set of instructions in its own form; return the overrides by source."""
    images, videos = tmp_path / "images", tmp_path / "videos"
    for folder in (images, videos):
        folder.mkdir()
    names = ("000000000009.jpg", "COCO_train2014_000000000009.jpg", "2375429.jpg", "0054c91397f2fe05.jpg")
    for number, name in enumerate(names):
        (images / name).write_bytes(image_bytes(number, (400, 300)))
    with zipfile.ZipFile(tmp_path / "train2017.zip", "w") as archive:
        archive.write(images / names[0], names[0])
    for name in ("010801_010850/1.mp4", "v_k_ZXmr8pmrs.mp4"):
        (videos / name).parent.mkdir(exist_ok=True)
        (videos / name).write_bytes(clip())
    said = [{"from": "human", "value": "<image>\nWhat is on the quay?"}, {"from": "gpt", "value": "A lantern."}]
    text = [{"from": "human", "value": "Say hello."}, {"from": "gpt", "value": "Hello there."}]
    vqa = {"image_id": 9, "question": "Is it lit?", "question_id": 9000}
    answer = {"question_id": 9000, "multiple_choice_answer": "yes", "answers": [{"answer": "yes"}]}
    rows: dict[str, Any] = {
        "llava": [{"id": "000000000009", "image": names[0], "conversations": said}],
        "llavar": [{"id": "9", "image": names[0], "conversations": said}],
        "sharegpt": [{"id": "a_0", "conversations": text}, {"id": "a_1", "conversations": text[1:]}],
        "alpaca": [{"instruction": "Say hello.", "input": "", "output": "Hello there."}],
        "videochat": [
            {"video": "010801_010850/1.mp4", "QA": [{"i": "Answer briefly.", "q": "What falls?", "a": "Rain."}]}
        ],
        "video-chatgpt": [{"video_id": "v_k_ZXmr8pmrs", "q": "What falls?", "a": "Rain, on a roof."}],
        "vqav2": {"info": {}, "questions": [vqa]},
        "okvqa": {"info": {}, "questions": [vqa]},
        "gqa": {"07333408": {"imageId": "2375429", "question": "What is on the wall?", "answer": "pipe"}},
        "textvqa": {"data": [vqa | {"image_id": "0054c91397f2fe05", "answers": ["nokia", "nokia", "no"]}]},
    }
    given: dict[str, tuple[str, ...]] = {}
    for source, content in rows.items():
        path = tmp_path / f"{source}.json"
        path.write_text(json.dumps(content))
        given[source] = (f"sources.{source}.input.files=['{path}']",)
        if source not in ("sharegpt", "alpaca"):
            where = "train2017.zip" if source == "llava" else "videos" if "video" in source else "images"
            given[source] += (f"sources.{source}.input.images={tmp_path / where}",)
    (tmp_path / "annotations.json").write_text(json.dumps({"info": {}, "annotations": [answer]}))
    for source in ("vqav2", "okvqa"):
        given[source] += (f"sources.{source}.input.annotations=['{tmp_path}/annotations.json']",)
    return given


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llava", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("emu_instruct", "emu2_chat"))]
)
def test_instructions_in_the_form_of_their_releases_give_conversations(tmp_path: Path, web: str, name: str):
    given = instructions(tmp_path, web)
    sources = load_spec(SPECS / f"{name}.yaml", CONTACT).sources
    samples, dropped = build(name, tmp_path, *(override for source in sources for override in given[source]))
    assert samples == dict.fromkeys(sources, 1)
    assert dropped == ({"turns_out_of_order": 1} if "sharegpt" in sources else {})


@pytest.mark.slow
@pytest.mark.nightly
def test_edits_give_conversations(tmp_path: Path, web: str):
    row = {"original_prompt": "a quay", "edit_prompt": "light the lantern", "edited_prompt": "a lit quay"}
    row |= {name: {"bytes": image_bytes(n, (400, 300))} for n, name in enumerate(("original_image", "edited_image"))}
    parquet(tmp_path / "train.parquet", [row])
    samples, _ = build(
        "instruct_pix2pix", tmp_path, f"sources.instruct_pix2pix.input.files=['{tmp_path}/train.parquet']"
    )
    assert samples == {"instruct_pix2pix": 1}


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("emu_instruct", ["sharegpt", "alpaca", "llava", "videochat", "video-chatgpt"]),
        (
            "emu2_chat",
            ["vqav2", "okvqa", "gqa", "textvqa", "llava", "llavar", "sharegpt", "alpaca", "videochat"],
        ),
        ("emu", ["laion", "laion-coco", "webvid", "mmc4", "storyboards"]),
        ("emu2", ["laion", "capsfusion", "webvid", "mmc4", "storyboards", "grit", "pile"]),
    ],
)
def test_a_papers_mixture_has_the_sources_of_the_other_specs(name: str, sources: list[str]):
    mixture = load_spec(SPECS / f"{name}.yaml", CONTACT).sources
    assert list(mixture) == sources
    for source in sources:
        own = "youtube_storyboards" if source == "storyboards" else source
        if (path := SPECS / f"{own}.yaml").exists():
            assert mixture[source].input == load_spec(path, CONTACT).sources[source].input
