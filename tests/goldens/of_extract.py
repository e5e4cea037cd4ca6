"""Results of the extract stage for pages in two WARC files and for lists in several formats."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.crawling.ledger import LEDGER_SCHEMA, LedgerRow
from pipelines.extract import run_extract
from pipelines.parts import PartFolder, Tally, write_table
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec
from tests.goldens.contents import Golden, parts, plain, without_offsets
from tests.goldens.exact_files import blocks, png, tar
from tests.mini_web import NORTH, MiniWeb, paragraph

PORT = 8000  # port in the pages' addresses; nothing listens there
FETCHED_AT = "2026-01-05T10:11:12Z"
OWN = f"http://{NORTH}:{PORT}/own/"

INLINE = base64.b64encode(png(blocks("inline"))).decode()
VIDEO = {"@type": "ImageObject", "contentUrl": "boat.jpg", "license": "https://creativecommons.org/licenses/by/4.0/"}
RICH = f"""<!doctype html><html lang="en"><head><title>A rich page</title>
<link rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">
<script type="application/ld+json">{json.dumps(VIDEO)}</script><script type="application/ld+json">{{</script></head>
<body><nav><a href="/">Home</a><img src="logo.png"></nav><article><h1>Boats and docks</h1>
<p>{paragraph("rich-1")} Write to jane.doe@example.org or call +1 202 555 0143 before noon.</p>
<figure><img src="boat.jpg" alt="a wooden boat" width="640" height="480"><figcaption>Figure 3.1. A wooden boat at a
grey dock</figcaption></figure><p>{paragraph("rich-2")}<br>And a line<sup>2</sup> more.</p>
<picture><source srcset="dock-400.webp 400w, dock-1600.webp 1600w"><img src="dock.jpg" alt="the dock at dawn"></picture>
<ul><li>the first item of a list</li><li>the second <b>item</b><ol><li>inside it</li></ol></li></ul>
<table><tr><th>Boat</th><th>Length</th></tr><tr><td>Heron</td><td>7 m</td></tr></table>
<p>{paragraph("rich-3")}</p><img data-src="late.jpg" src="placeholder.gif" alt="an image that comes late">
<img src="data:image/png;base64,{INLINE}" alt="an image written into the page"><img src="dot.gif" width="1" height="1">
<svg></svg><canvas></canvas><iframe src="https://other.example/"></iframe><blockquote>{paragraph("rich-4")}</blockquote>
<pre>code = {{1: 2}}</pre><p hidden>Nobody sees this.</p><video><source src="silent.mp4" type="video/mp4"></video>
<video></video></article><footer>All rights reserved</footer></body></html>"""
GERMAN = (
    "Das Boot liegt am Ufer, und niemand weiß, wer es in der Nacht dorthin gebracht und angebunden hat. Am Morgen war"
    " der Steg noch nass vom Regen. Die Kinder liefen hinunter zum See, um die Ruder zu suchen, fanden aber nichts."
)
MORE_PAGES = {
    "rich": RICH,
    "repeated": f"<main><p>{'the same words again and again and ' * 30}</p></main>",
    "german": f'<html lang="de"><main><p>{GERMAN}</p></main></html>',
    "images-refused": f'<meta name="robots" content="noimageai"><main><p>{paragraph("x")}</p><img src="a.jpg"></main>',
    "latin-1": f'<meta charset="iso-8859-1"><main><p>Ein Caf\xe9 am See. {paragraph("latin")}</p></main>',
}

U = "https://img.example/"
LISTED = [
    {"url": U + "1.jpg", "caption": "brown leather boots &amp; laces", "width": 800, "height": 600, "similarity": 0.32},
    {"url": U + "2.jpg", "caption": "", "width": 64, "height": 64, "similarity": None},
    {"url": "no address", "caption": "a red car on a road", "width": 64, "height": 64, "similarity": 0.25},
    {
        "url": U + "4.jpg",
        "caption": "mail jane.doe@example.org about a red car",
        "width": 9,
        "height": 9,
        "similarity": 1,
    },
]
GROUNDED = [
    {"id": 7, "url": U + "h.jpg", "caption": "a wooden boat beside a grey dock", "width": 1024, "height": 682,
     "clip_similarity_vitb32": 0.34, "noun_chunks": [[0, 13, 0.08, 0.41, 0.55, 0.93, 0.81]],
     "ref_exps": [[0, 32, 0.08, 0.41, 0.55, 0.93, 0.81]]},
    {"id": 8, "url": U + "i.jpg", "caption": "a boat", "width": 10, "height": 10, "clip_similarity_vitb32": 0.1,
     "noun_chunks": [[0, 99, 0, 0, 1, 1, 0.5]], "ref_exps": []},
]  # fmt: skip
IMAGES = [
    {"image_name": f"{n}.jpg", "raw_url": url, "matched_text_index": at, "matched_sim": 0.2 + n / 100}
    for n, (url, at) in enumerate([(U + "late.jpg", 2), (U + "loaf.jpg", 1), (None, 1), (U + "far.jpg", 9)])
]
MATCHED = [
    {"url": "https://blog.example/bread", "could_have_url_duplicate": 0, "image_info": IMAGES,
     "text_list": [paragraph(f"mmc4-{n}", 2) for n in range(3)], "similarity_matrix": None},
    {"url": "https://blog.example/none", "text_list": ["Too short."], "image_info": []},
]  # fmt: skip
PAGES = [
    {"images": [U + "a.jpg", None], "texts": [None, paragraph("obelics") + "\n\n" + paragraph("obelics-2")],
     "metadata": json.dumps([{"src": U + "a.jpg", "alt_text": "a kayak", "original_width": 10}, None]),
     "general_metadata": json.dumps({"url": "https://site.example/p", "warc_filename": "a.warc.gz"})},
]  # fmt: skip
FILMS = (
    "videoid,name,page_idx,page_dir,duration,contentUrl\n"
    '17,"Slow rain, on a ""tin"" roof",1,1_50,PT00H01M14S,https://media.example/rain.mp4\n'
    "18,No address of a film,1,1_50,PT00H00M14S,\n"
)
BOOKS = [
    {"text": paragraph("book-1", 12), "meta": {"pile_set_name": "Pile-CC"}},
    {"text": paragraph("book-2", 12), "meta": {"pile_set_name": "Books3"}},
    {"text": "Who is it?", "meta": {"pile_set_name": "Pile-CC"}},
]


def goldens(folder: Path) -> dict[str, Golden]:
    """Extract all five kinds from a crawl's two parts, and the candidates of seven lists."""
    pages = _pages(folder)
    out = folder / "out"
    _write_crawl(PartFolder(str(out / "work" / "warc" / "web")), pages)
    lists = _write_lists(folder)
    anything = {"language": None}
    few_words = {"text": {"min_words": 8, "rules": None}}
    crawled = {
        "stories": {"kind": "interleaved"},
        "figures": {"kind": "pair", "filters": anything},
        "maps": {"kind": "grounded", "filters": anything},
        "films": {"kind": "video", "filters": anything},
        "texts": {"kind": "text", "filters": {"language": {"languages": ["en"]}}},
        "german": {"kind": "text", "filters": {"language": {"languages": ["de"]}, **few_words}},
    }
    spec = CorpusSpec.model_validate(
        {
            "name": "golden",
            "version": "1.0.0",
            "policy": {"user_agent": "golden (+https://example.org/bot)"},
            "crawls": {"web": {"seeds": [OWN]}},
            "sources": {name: {"input": {"crawl": "web"}, **source} for name, source in crawled.items()} | lists,
        }
    )
    run_extract(spec, str(out), Runner())
    files = {path.name: plain(path.read_bytes()) for path in sorted(folder.glob("list*")) if path.suffix != ".parquet"}
    inputs = {"pages": plain([list(page) for page in pages]), **files, "listed": LISTED, "read": PAGES}
    return {"extract": Golden(inputs, parts(out / "work" / "candidates", scrub=without_offsets))}


_Page = tuple[str, bytes, str, dict[str, str]]  # URL, body, type, headers


def _pages(folder: Path) -> list[_Page]:
    """Return the pages of the small web, and some more with features that those lack."""
    for number in range(2):
        (folder / f"film-{number}.mp4").touch()  # pages only name them, so they may be empty
    answers = MiniWeb(PORT, folder).answers.items()
    found: list[_Page] = [
        (f"http://{host}:{PORT}{path}", body, mime, headers)
        for (host, path), (body, mime, status, headers) in sorted(answers, key=lambda item: item[0])
        if status == 200 and ("html" in mime or "json" in mime)
    ]
    found += [
        (OWN + name, page.encode("iso-8859-1" if name == "latin-1" else "utf-8"), "text/html", {})
        for name, page in MORE_PAGES.items()
    ]
    return found


def _write_crawl(folder: PartFolder, pages: list[_Page]) -> None:
    """Write two parts of a crawl, with failed requests and a page that is missing in its WARC file."""
    names = ("r000-first", "r001-second")
    for depth, name in enumerate(names):
        rows = [LedgerRow(f"{OWN}gone-{depth}", depth, "http_404")]
        file = io.BytesIO()
        writer = WARCWriter(file, gzip=True)
        for url, body, mime, headers in pages[depth::2]:
            http = StatusAndHeaders("200 OK", [("Content-Type", mime), *headers.items()], protocol="HTTP/1.1")
            record = writer.create_warc_record(
                url, "response", io.BytesIO(body), http_headers=http, warc_headers_dict={"WARC-Date": FETCHED_AT}
            )
            offset = file.tell()
            writer.write_record(record)
            row = LedgerRow(
                url,
                depth,
                "fetched",
                status=200,
                mime=mime,
                canonical_url=url.partition("?")[0] if "/twin" in url else None,
                fetched_at=FETCHED_AT,
                warc=f"{name}.warc.gz",
                offset=offset,
                length=file.tell() - offset,
            )
            rows.append(row)
        rows.append(replace(row, url=f"{OWN}lost-{depth}", offset=file.tell() + 10, canonical_url=None))
        Path(folder.path).mkdir(parents=True, exist_ok=True)
        Path(folder.file(name, ".warc.gz")).write_bytes(file.getvalue())
        files = {".parquet": write_table(folder.file(name, ".parquet"), [r.to_columns() for r in rows], LEDGER_SCHEMA)}
        folder.finish(name, "", Tally("crawl"), files)


def _write_lists(folder: Path) -> dict[str, Any]:
    """Write lists in several formats; return the sources that read them."""

    def lines(rows: list[dict[str, Any]]) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    pq.write_table(pa.Table.from_pylist(LISTED), folder / "list-urls.parquet", row_group_size=2)
    pq.write_table(pa.Table.from_pylist(PAGES), folder / "list-pages.parquet")
    described = json.dumps({"caption": "a green boat", "url": U + "9.png", "width": 64, "height": 48}).encode()
    members = [
        ("0.png", png(blocks("first"))),
        ("0.txt", b"a wooden boat"),
        ("1.json", described),
        ("1.png", png(blocks("second"))),
        ("1.txt", b"a green boat"),
        ("2.txt", b"an image that is missing"),
    ]
    for name, data in {
        "list-boxes.jsonl": lines(GROUNDED),
        "list-docs_shard_0_v2.jsonl": lines(MATCHED),
        "list-results_2M_val.csv": FILMS.encode(),
        "list-books.jsonl": lines(BOOKS),
        "list-00000.tar": tar(members),
    }.items():
        (folder / name).write_bytes(data)

    def source(kind: str, format_: str, file: str, **more: Any) -> dict[str, Any]:
        filters = {"language": None, "text": {"min_words": 2, "rules": None}}
        return {"kind": kind, "filters": filters, "input": {"format": format_, "files": [str(folder / file)], **more}}

    return {
        "listed": source("pair", "url_table", "list-urls.parquet", part_rows=2),
        "boxes": source("grounded", "grit", "list-boxes.jsonl"),
        "matched": source("interleaved", "mmc4", "list-docs_shard_0_v2.jsonl"),
        "read": source("interleaved", "obelics", "list-pages.parquet"),
        "rain": source("video", "video_list", "list-results_2M_val.csv", basis="research"),
        "books": source("text", "jsonl_text", "list-books.jsonl", exclude_components="default", part_bytes=700),
        "tars": source("pair", "webdataset", "list-00000.tar"),
    }
