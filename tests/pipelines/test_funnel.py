"""Tests of the funnel: all rows add up, each unit continues where it ended, and the last rows count the shards."""

from dataclasses import replace

import pytest

from pipelines.document import Drop
from pipelines.errors import RunError
from pipelines.funnel import CRAWL_ROWS, SOURCE_ROWS, FunnelRow, check_filled, check_funnel, checked_funnel, funnel_rows
from pipelines.layout import account_folder, candidates_folder, decisions_folder
from pipelines.parts import PartFolder, Tally

ROWS = [
    FunnelRow("pairs", "extract", "document", 20, 15, {"too_few_words": 5}),
    FunnelRow("pairs", "fetch", "document", 15, 12, {"not_found": 2, "robots_disallowed": 1}),
    FunnelRow("pairs", "shard", "sample", 12, 9, {"near_duplicate": 3}),
]


def test_a_funnel_that_adds_up_has_no_faults():
    assert check_funnel(ROWS, {"pairs": 9}) == []


def test_a_row_that_loses_something_is_named():
    rows = [replace(ROWS[0], dropped={})]
    assert check_funnel(rows) == ["pairs, extract: 20 documents in, but 15 kept + 0 dropped"]


def test_a_gap_between_stages_of_one_unit_is_named():
    rows = [ROWS[0], replace(ROWS[1], in_=14, kept=11)]
    assert check_funnel(rows) == ["pairs, fetch: 14 documents in, but extract kept 15"]


def test_shards_with_another_number_of_samples_are_named():
    rows = [replace(ROWS[2], in_=11, kept=8)]
    fault = "pairs: its shards contain 9 samples, its last row says"
    assert check_funnel(rows, {"pairs": 9}) == [f"{fault} 8 samples kept by shard"]
    assert check_funnel([], {"pairs": 9}) == [f"{fault} no row"]


def test_rows_are_named_once():
    assert len(set(CRAWL_ROWS)) == len(CRAWL_ROWS)
    assert len(set(SOURCE_ROWS)) == len(SOURCE_ROWS)
    assert SOURCE_ROWS[-1] == ("shard", "sample")


def finish(folder: PartFolder, tally: Tally) -> None:
    folder.finish(f"part-{len(folder.receipts())}", "", tally, {})


@pytest.fixture
def out(tmp_path) -> str:
    """Output with a crawl that has one dropped page, and a source that has one dropped document."""
    crawled, extracted = Tally("crawl"), Tally("extract")
    crawled.keep("web", "page", 2)
    crawled.drop(Drop(source="web", stage="crawl", reason="timeout", unit="page"))
    finish(account_folder(str(tmp_path), "web"), crawled)
    extracted.keep("web", "page", 2)
    extracted.keep("texts", "document")
    lost = Drop(source="texts", stage="extract", reason="no_text", unit="document", record="list.jsonl 3")
    extracted.drop(replace(lost, detail="found this"))
    finish(candidates_folder(str(tmp_path)), extracted)
    return str(tmp_path)


def test_rows_are_sums_over_receipts_in_the_order_of_stages(out):
    assert funnel_rows(out, ["web"], ["texts"]) == [
        FunnelRow("web", "crawl", "page", 3, 2, {"timeout": 1}),
        FunnelRow("web", "extract", "page", 2, 2, {}),
        FunnelRow("texts", "extract", "document", 2, 1, {"no_text": 1}),
        FunnelRow("texts", "shard", "sample", 0, 0, {}),
    ]


def emptied(out, *, crawls=("web",), stage="extract", rows=None) -> str:
    rows = checked_funnel(out, ["web"], ["texts"], stage) if rows is None else rows
    with pytest.raises(RunError, match="allow_empty") as caught:
        check_filled(out, ["web"], {"texts": crawls}, rows, stage)
    return str(caught.value).partition("no sample: ")[2].partition(". If it may")[0]


def test_a_source_that_ends_empty_is_named_with_what_became_of_it(out):
    rows = checked_funnel(out, ["web"], ["texts"], "extract")
    check_filled(out, ["web"], {"texts": ("web",)}, rows, "extract")
    check_filled(out, ["web"], {}, rows[:2], "extract")  # it may be empty
    check_filled(out, ["web"], {"texts": ("web",)}, rows[:1], "crawl")  # nothing is known yet
    none = [replace(rows[2], kept=0, dropped={"no_text": 2})]
    assert emptied(out, rows=none) == "extract dropped all 2 documents (no_text 2), such as list.jsonl 3: found this"
    later = [rows[2], FunnelRow("texts", "fetch", "document", 1, 0, {"http_404": 1})]
    assert emptied(out, rows=later, stage="fetch").startswith("fetch dropped its only document (http_404 1)")
    split = [rows[2], FunnelRow("texts", "shard", "sample", 1, 0, {"window_without_media": 1})]
    assert emptied(out, rows=split, stage="shard").startswith("shard dropped its only sample")


def test_a_source_may_end_empty_by_a_takedown(out):
    rows = checked_funnel(out, ["web"], ["texts"], "extract")
    needed = {"texts": ("web",)}
    taken = FunnelRow("texts", "shard", "sample", 2, 0, {"taken_down": 1, "window_without_media": 1})
    check_filled(out, ["web"], needed, [*rows[:3], taken], "shard")
    check_filled(out, ["web"], needed, [replace(rows[2], kept=0, dropped={"no_text": 1, "taken_down": 1})], "extract")
    check_filled(out, ["web"], needed, [replace(rows[0], dropped={"timeout": 1, "taken_down": 1}), rows[1]], "extract")
    later = [
        replace(rows[2], dropped={"taken_down": 1}),
        FunnelRow("texts", "filter", "document", 1, 0, {"no_text": 1}),
    ]
    assert emptied(out, rows=later, stage="filter").startswith("filter dropped its only document")  # not by it


def test_a_source_without_candidates_is_told_by_its_crawls(out):
    rows = checked_funnel(out, ["web"], ["texts"], "extract")
    assert emptied(out, rows=rows[:2]).startswith("none of the 2 pages of web holds what it takes")
    lost = [replace(rows[0], kept=0, dropped={"timeout": 2, "http_404": 1})]
    assert emptied(out, rows=lost).startswith("crawl of web dropped all 3 pages (timeout 2, http_404 1)")
    assert emptied(out, rows=[]).startswith("web has no page")
    assert emptied(out, rows=[], crawls=()).startswith("its files have no rows")


def test_a_stage_is_checked_without_what_later_ones_left(out):
    tally = Tally("filter")
    tally.keep("texts", "document", 7)  # from an earlier run
    finish(decisions_folder(out), tally)
    assert [row.stage for row in checked_funnel(out, ["web"], ["texts"], "extract")] == ["crawl", "extract", "extract"]
    with pytest.raises(RunError, match="does not add up: texts, filter: 7 documents in, but extract kept 1"):
        checked_funnel(out, ["web"], ["texts"], "filter")
