"""Tests of finding what a host says on most of its pages, over all parts of a crawl, and of leaving it out."""

import hashlib
import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines.crawling.archived_robots import ROBOTS_SCHEMA
from pipelines.crawling.find_host_boilerplate import FindRepeated
from pipelines.crawling.ledger import LEDGER_SCHEMA, LedgerRow
from pipelines.extract import run_extract
from pipelines.funnel import funnel_rows
from pipelines.layout import candidates_folder, crawl_folder, robots_folder
from pipelines.pages.host_boilerplate import HostBoilerplate
from pipelines.parts import Tally, write_table
from pipelines.running.runner import Runner
from pipelines.spec import CorpusSpec

SETTINGS = {"web": HostBoilerplate(min_pages=4), "whole": None, "strict": HostBoilerplate(min_pages=2, min_share=0.9)}
PAGES = [
    *(("web a.example", (1, 2, 10 + i)) for i in range(3)),
    ("web a.example", (2, 13)),
    ("web b.example", (1, 2)),  # too few pages
    ("web b.example", (1, 2)),
    *(("web c.example", (i % 2, 9)) for i in range(4)),  # half of the pages
    *(("whole a.example", (1,)) for _ in range(9)),
    *(("strict a.example", (1, 2) if i else (1,)) for i in range(9)),
    ("web d.example", ()),
]
EXPECTED = [("web a.example", (1, 2)), ("web c.example", (9,)), ("strict a.example", (1,))]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blocks_on_most_pages_are_found_in_any_order_of_input(seed: int) -> None:
    pages = list(PAGES)
    random.Random(seed).shuffle(pages)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(pages) | beam.Reshuffle(num_buckets=seed + 1) | FindRepeated(SETTINGS)
        assert_that(found, equal_to(EXPECTED))


NOTICE = "This site is kept by the harbour office. Write to office@harbour.example about what is wrong."
SHOWN = NOTICE.replace("office@harbour.example", "<EMAIL>")
PROSE = "The boat {} lies at the quay, and the people who sail it in the morning know that the tide is on their side."


def page(i: int, extra: str = "") -> str:
    return (
        f"<html><head>{extra}</head><body><h1>Boat {i}</h1><p>{PROSE.format(i)}</p><img src=/boat-{i}.jpg>"
        f"<div><img src=/seal.png></div><p>{NOTICE}</p>"
    )


def write_crawl(out: Path, pages: dict[str, str], num_parts: int = 3) -> None:
    """Write the parts of a crawl named `web`."""
    folder = crawl_folder(str(out), "web")
    for part in range(num_parts):
        name, rows, file = f"r000-{part}", [], io.BytesIO()
        writer = WARCWriter(file, gzip=True)
        for url, html in list(pages.items())[part::num_parts]:
            http = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            offset = file.tell()
            writer.write_record(
                writer.create_warc_record(url, "response", io.BytesIO(html.encode()), http_headers=http)
            )
            canonical = url.partition("?")[0] if "?" in url else None
            rows.append(
                LedgerRow(
                    url,
                    0,
                    "fetched",
                    status=200,
                    mime="text/html",
                    canonical_url=canonical,
                    fetched_at="2026-01-05T10:11:12Z",
                    warc=f"{name}.warc.gz",
                    offset=offset,
                    length=file.tell() - offset,
                )
            )
        Path(folder.path).mkdir(parents=True, exist_ok=True)
        Path(folder.file(name, ".warc.gz")).write_bytes(file.getvalue())
        files = {".parquet": write_table(folder.file(name, ".parquet"), [r.to_columns() for r in rows], LEDGER_SCHEMA)}
        folder.finish(name, "", Tally("crawl"), files)


def extract(out: Path, crawl: dict[str, Any] | None = None) -> dict[str, str]:
    """Extract texts and pages; return the texts by the last part of their pages' URLs."""
    anything = {"language": None, "text": {}}
    spec = CorpusSpec.model_validate(
        {
            "name": "test",
            "version": "1.0.0",
            "policy": {"robots_of_others": "unasked", "user_agent": "Tests/1 (+http://127.0.0.1)"},
            "crawls": {"web": {"seeds": ["http://127.0.0.1:8000/"], **(crawl or {})}},
            "sources": {
                "texts": {"kind": "text", "input": {"crawl": "web"}, "filters": anything},
                "pages": {"kind": "interleaved", "input": {"crawl": "web"}, "filters": anything},
            },
        }
    )
    run_extract(spec, str(out), Runner())
    texts = {}
    for path in sorted(Path(candidates_folder(str(out)).path).glob("web-r*[0-9].parquet")):
        for row in pq.read_table(path).to_pylist():
            if row["source"] == "texts":
                document = json.loads(row["document"])
                texts[document["source"]["page_url"].rpartition("/")[2]] = document["segments"][0]["text"]
    return texts


def drops(out: Path) -> list[dict[str, Any]]:
    rows = [row for path in candidates_folder(str(out)).drops() for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if row["reason"] == "host_boilerplate"]


def site(num: int) -> dict[str, str]:
    return {f"http://127.0.0.1:8000/boat-{i}": page(i) for i in range(num)}


def test_what_a_host_says_on_every_page_is_dropped_and_counted(tmp_path: Path) -> None:
    write_crawl(tmp_path, site(12))
    texts = extract(tmp_path)
    assert texts == {f"boat-{i}": f"Boat {i}\n\n{PROSE.format(i)}" for i in range(12)}
    dropped = drops(tmp_path)
    assert Counter((row["unit"], row["stage"], row["source"]) for row in dropped) == {
        ("block", "extract", "web"): 12,
        ("element", "extract", "web"): 12,
    }
    first = next(row for row in dropped if row["unit"] == "block" and row["page_url"].endswith("/boat-0"))
    assert first["excerpt"] == SHOWN
    assert first["record"].startswith("r000-")
    assert {row["url"] for row in dropped if row["unit"] == "element"} == {"http://127.0.0.1:8000/seal.png"}
    rows = {(row.stage, row.unit): row for row in funnel_rows(str(tmp_path), ["web"], ["texts", "pages"])}
    assert (rows["extract", "block"].in_, rows["extract", "block"].kept) == (36, 24)
    assert (rows["extract", "element"].in_, rows["extract", "element"].kept) == (24, 12)


def test_below_the_floor_of_pages_nothing_is_decided(tmp_path: Path) -> None:
    write_crawl(tmp_path, site(9))
    assert all(text.endswith(SHOWN) for text in extract(tmp_path).values())
    assert drops(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "is_kept"), [(None, True), ({}, False), ({"min_pages": 12}, False), ({"min_pages": 13}, True)]
)
def test_settings_change_what_was_extracted_before(
    setting: dict[str, int] | None, is_kept: bool, tmp_path: Path
) -> None:
    write_crawl(tmp_path, site(12))
    extract(tmp_path, {"host_boilerplate": {"min_pages": 12 if is_kept else 13}})
    texts = extract(tmp_path, {"host_boilerplate": setting})
    assert {text.endswith(SHOWN) for text in texts.values()} == {is_kept}


def test_copies_of_a_page_and_refused_pages_are_not_counted(tmp_path: Path) -> None:
    pages = site(8)
    pages |= {f"http://127.0.0.1:8000/boat-0?copy={i}": page(0) for i in range(8)}
    pages |= {f"http://127.0.0.1:8000/no-{i}": page(i, "<meta name=robots content=noai>") for i in range(8)}
    write_crawl(tmp_path, pages)
    texts = extract(tmp_path)
    assert len(texts) == 8
    assert all(text.endswith(SHOWN) for text in texts.values())


def archive_robots(out: Path, text: str) -> dict[str, Any]:
    """Write the part of an archived robots.txt of the site; return the settings of a crawl that has it."""
    folder = robots_folder(str(out), "web")
    body = text.encode()
    row = {
        "host": "127.0.0.1:8000",
        "url": "http://127.0.0.1:8000/robots.txt",
        "status": 200,
        "fetched_at": "2026-01-05T10:11:12Z",
        "offset": 0,
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    Path(folder.file("robots-0", ".bodies")).write_bytes(body)
    files = {".parquet": write_table(folder.file("robots-0", ".parquet"), [row], ROBOTS_SCHEMA)}
    folder.finish("robots-0", "", Tally("crawl"), files)
    return {"seeds": [], "warc_files": ["a.warc.gz"], "robots_files": ["robots.warc.gz"]}


def test_pages_that_an_archives_robots_txt_refuses_are_not_counted(tmp_path: Path) -> None:
    refused = {f"http://127.0.0.1:8000/private/{i}": page(i) for i in range(20, 32)}
    own = {f"http://127.0.0.1:8000/own-{i}": page(i).replace(NOTICE, f"Note {i}.") for i in range(10)}
    write_crawl(tmp_path, refused | own | site(8))
    crawl = archive_robots(tmp_path, "User-agent: *\nDisallow: /private/\n")
    texts = extract(tmp_path, crawl)
    assert len(texts) == 18
    assert sum(text.endswith(SHOWN) for text in texts.values()) == 8  # of 18 pages; with the refused ones 20 of 30


def test_pages_that_an_archives_robots_txt_refuses_are_not_drawn(tmp_path: Path) -> None:
    refused = {f"http://127.0.0.1:8000/private/{i}": page(i) for i in range(20, 80)}
    write_crawl(tmp_path, refused | site(8))
    crawl = archive_robots(tmp_path, "User-agent: *\nDisallow: /private/\n")
    texts = extract(tmp_path, crawl | {"host_boilerplate": {"min_pages": 8, "max_pages": 10}})
    assert len(texts) == 8
    assert not any(text.endswith(SHOWN) for text in texts.values())


def test_hosts_are_apart_and_folders_of_a_host_have_boilerplate_of_their_own(tmp_path: Path) -> None:
    pages = {f"http://127.0.0.1:8000/en/{i}": page(i) for i in range(10)}
    pages |= {f"http://127.0.0.1:8000/de/{i}": page(i).replace(NOTICE, "Das Hafenamt.") for i in range(10, 21)}
    pages |= {f"http://127.0.0.1:8001/{i}": page(i) for i in range(30, 36)}
    write_crawl(tmp_path, pages)
    texts = extract(tmp_path)
    assert not any(SHOWN in texts[str(i)] for i in range(10))
    assert not any("Hafenamt" in texts[str(i)] for i in range(10, 21))
    assert all(SHOWN in texts[str(i)] for i in range(30, 36))


@pytest.mark.slow
def test_some_pages_of_a_large_host_are_enough(tmp_path: Path) -> None:
    write_crawl(tmp_path, site(40))
    texts = extract(tmp_path, {"host_boilerplate": {"max_pages": 12}})
    assert len(texts) == 40
    assert not any(SHOWN in text for text in texts.values())
