"""Tests of boundaries around records, pages and media: an exception of any type is a counted drop, the rest is kept."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import extract, part_candidates, part_documents
from pipelines.crawl import run_crawls
from pipelines.crawling import fetched_pages, warc_ledger
from pipelines.document import Document, Drop
from pipelines.extract import run_extract
from pipelines.fetch import run_fetch
from pipelines.funnel import checked_funnel
from pipelines.layout import candidates_folder, documents_folder, traceback_folder
from pipelines.media import requests
from pipelines.parts import PartFolder, read_rows
from pipelines.running.runner import Runner
from pipelines.sources import jsonl_text, mmc4, obelics, url_table, video_list, warc, webdataset
from pipelines.sources import origin as origin_module
from pipelines.sources.files import Part
from pipelines.sources.origin import Origin, RowError, convert_rows
from pipelines.spec import CorpusSpec
from tests.pipelines.crawling.test_visits import made_error
from tests.pipelines.crawling.test_warc_ledger import page, write_warc
from tests.pipelines.stage_records import candidate, document, image_bytes, spec, text

PROSE = "The harbour was quiet and the lantern was golden, and nobody knew who had lit it in the night. " * 9


def failing(work: Callable[..., Any], seed: object, at: int = 1) -> Callable[..., Any]:
    """A function that fails at its second call, or another, with a random exception."""
    rng, calls = random.Random(str(seed)), itertools.count()

    def run(*args: Any, **options: Any) -> Any:
        if next(calls) == at:
            raise made_error(rng)
        return work(*args, **options)

    return run


def archive(tmp_path: Path, num_pages: int = 3) -> CorpusSpec:
    """A spec of texts of an archive."""
    pages = [(f"https://a.example/{n}", page(f"Page {n}. {PROSE}".encode())) for n in range(num_pages)]
    path = write_warc(tmp_path / "a.warc.gz", *pages)
    source = {"kind": "text", "input": {"crawl": "web"}, "filters": {"duplicates": {"exact": False}, "text": {}}}
    tree = {
        "name": "test",
        "version": "1.0.0",
        "policy": {"robots_of_others": "unasked"},
        "crawls": {"web": {"warc_files": [path]}},
        "sources": {"texts": source},
    }
    return CorpusSpec.model_validate(tree)


def drops(folder: PartFolder) -> list[dict[str, Any]]:
    return [row for path in folder.drops() for row in read_rows(path)]


def kept_urls(out: str) -> set[str]:
    folder = candidates_folder(out)
    rows = [row for r in folder.receipts() for row in read_rows(folder.file(r.part, ".parquet"))]
    return {row["document"].split('"page_url":"')[1].split('"')[0] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "stage", "unit"),
    [
        (warc, "decode_body", "crawl", "page"),
        (warc_ledger, "parse_record_links", "crawl", "page"),
        (extract, "parse_record", "extract", "page"),
        (fetched_pages, "page_verdict", "extract", "page"),
        (part_candidates, "judge_text", "extract", "document"),
        (Document, "to_json", "extract", "document"),
    ],
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_page_of_an_archive_on_which_our_code_fails_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, stage: str, unit: str, seed: int
) -> None:
    spec, out = archive(tmp_path), str(tmp_path / "out")
    if stage == "extract":
        run_crawls(spec, out, Runner())
    monkeypatch.setattr(module, name, failing(getattr(module, name), seed))
    if stage == "crawl":
        run_crawls(spec, out, Runner())
        monkeypatch.undo()
    run_extract(spec, out, Runner())
    assert kept_urls(out) == {"https://a.example/0", "https://a.example/2"}
    rows = [row for row in checked_funnel(out, ["web"], ["texts"], "extract") if row.dropped]
    assert [(row.stage, row.unit, row.dropped) for row in rows] == [(stage, unit, {"internal_error": 1})]
    (traceback,) = Path(traceback_folder(out)).iterdir()
    assert "in run" in traceback.read_text()


@pytest.mark.parametrize("name", ["judge_text", "excerpt", "masked_excerpt"])
@pytest.mark.parametrize("seed", range(4))
def test_an_excerpt_on_which_our_code_fails_ends_nothing_and_a_document_on_which_it_fails_has_one(
    monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    found = part_candidates.PartCandidates(spec({"texts": {"kind": "text", "filters": {"language": None}}}))
    monkeypatch.setattr(part_candidates, name, failing(getattr(part_candidates, name), seed, at=0))
    lost = Drop(source="texts", stage="extract", reason="malformed_cue", unit="cue", excerpt="one")
    found.add("texts", [lost, candidate(document("text", text("two"))), replace(lost, excerpt="three")])
    given = [(drop.reason, drop.excerpt) for drop in found.tally.drops]
    second = "internal_error" if name == "judge_text" else "too_few_words"
    expected = [("malformed_cue", "one"), (second, "two"), ("malformed_cue", "three")]
    if name == "masked_excerpt":
        expected[0] = ("malformed_cue", None)
    elif name == "excerpt":
        expected[1] = (second, None)
    assert given == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_row_on_which_our_code_fails_is_dropped(seed: int) -> None:
    settings = jsonl_text.JsonlTextSettings(files=["a.jsonl"])
    origin = Origin("list", "text", Part("a.jsonl", "a.jsonl"), settings)

    def convert(_: Origin, __: str, row: str) -> list[Any]:
        return [candidate(document("text", text(row)))]

    rows = [("0", "one"), ("1", "two"), ("2", "three")]
    first, lost, last = convert_rows(origin, rows, failing(convert, seed))
    assert [x.document.text for x in (first, last)] == ["one", "three"]
    assert (lost.reason, lost.record) == ("internal_error", "a.jsonl 1")
    assert "traceback" in lost.detail


def test_a_drop_for_which_our_code_fails_to_show_the_row_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_module, "contents_of_row", failing(origin_module.contents_of_row, 0, at=0))
    origin = Origin("list", "pair", Part("a", "a"), url_table.UrlTableSettings(files=["a"]))
    rows = [(str(n), RowError("malformed_row", text=f"row {n}")) for n in range(2)]
    shown = [(drop.reason, drop.record, drop.excerpt) for drop in convert_rows(origin, rows, lambda *_: [])]
    assert shown == [("malformed_row", "a 0", "row 0"), ("malformed_row", "a 1", "row 1")]


@pytest.mark.parametrize("seed", range(20))
def test_a_file_on_which_our_code_fails_is_dropped_from_there_on(seed: int) -> None:
    settings = jsonl_text.JsonlTextSettings(files=["a.jsonl"])
    origin = Origin("list", "text", Part("a.jsonl", "a.jsonl"), settings)

    def rows() -> Any:
        yield "0", "one"
        raise made_error(random.Random(seed))

    first, lost = convert_rows(origin, rows(), lambda *_: [candidate(document("text", text("one")))])
    assert first.document.text == "one"
    assert (lost.reason, lost.record) == ("internal_error", "a.jsonl end")


def test_every_format_converts_its_rows_within_the_boundary() -> None:
    for module in (jsonl_text, mmc4, obelics, url_table, video_list, webdataset):
        assert module.convert_rows is convert_rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "reason"),
    [
        (requests, "normalise", "internal_error"),
        (part_documents, "complete", "internal_error"),
        (part_documents.PartDocuments, "_permitted", "internal_error"),
        (Document, "to_json", "internal_error"),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_media_on_which_our_code_fails_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, reason: str, seed: int
) -> None:
    from tests.pipelines.test_fetch import Site, of, write

    out = str(tmp_path)
    tree = {
        "name": "test",
        "version": "1.0.0",
        "crawls": {"web": {"seeds": ["http://127.0.0.1:8000/"]}},
        "sources": {"pairs": {"kind": "pair", "input": {"crawl": "web"}, "filters": {"language": None}}},
    }
    site = Site()  # closed: all images are inline
    site.server_close()
    write(out, "a", pairs=[of(site, "pair", inline=(image_bytes(n),)) for n in range(3)])
    monkeypatch.setattr(module, name, failing(getattr(module, name), seed))
    run_fetch(CorpusSpec.model_validate(tree), out, Runner())
    assert [receipt.counts[0].kept for receipt in documents_folder(out).receipts()] == [2]
    found = drops(documents_folder(out))
    (gone,) = (row for row in found if row["unit"] == "document")
    assert (gone["reason"], gone["excerpt"]) == (reason, "A caption of an image.")
    assert len(list(Path(traceback_folder(out)).iterdir())) == 1
