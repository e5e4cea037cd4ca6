"""Tests of the facts: what they say of a known corpus, and that each query gives the fact that names it."""

import json
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from pipelines.layout import drops_folder
from pipelines.parts import DROP_SCHEMA
from pipelines.shards.manifest import load_manifest
from pipelines.shards.stats import SIDES, collect_stats
from pipelines.storage import list_files
from tests.pipelines import corpus_builder
from tests.sources import ROOT
from tools.card import queries
from tools.card.facts import DROPS, SIDECARS, read_facts, shown
from tools.queries.tables import Tables


def test_totals_are_those_of_the_samples(facts, corpus):
    counted = collect_stats(corpus, load_manifest(corpus).shards)
    assert facts["num_samples"] == counted["totals"]["samples"] == 45
    assert facts["totals"]["images"] == counted["totals"]["num_media"]
    assert facts["totals"]["text_chars"] == counted["totals"]["num_text_chars"]
    assert facts["totals"]["frames"] == 18
    assert facts["repeated_images"] == counted["duplicates"]["num_repeated_images"]
    assert facts["duplicate_groups"]["groups"] == counted["duplicates"]["num_dedup_groups"]
    assert facts["duplicate_groups"]["samples_sharing"] == counted["duplicates"]["num_samples_sharing_a_group"]
    assert {row["value"]: row["samples"] for row in facts["languages"]} == counted["languages"]
    assert {row["domain"]: row["samples"] for row in facts["domains"]} == counted["domains"]["top"]
    assert queries.SIDES == SIDES


def test_the_funnel_is_the_manifests_and_says_what_was_refused(facts):
    assert facts["funnel"][0] == {
        "source": "sites",
        "stage": "crawl",
        "unit": "page",
        "in": 60,
        "kept": 50,
        "dropped": {"http_404": 6, "noai": 4},
    }
    (refused,) = facts["refusals"]
    assert (refused["reason"], refused["page"]) == ("noai", 4)
    assert facts["duplicate_drops"][0]["document"] == 5
    assert {row["source"]: row["candidates"] for row in facts["candidates"]} == dict.fromkeys(
        (f"{kind}s" for kind in corpus_builder.KINDS), 12
    )
    assert facts["num_drops"] == 4


def test_every_query_gives_its_fact(facts, corpus):
    num = 0
    with Tables() as fresh:
        fresh.add_sidecars("samples", corpus, load_manifest(corpus).shards, queries.COLUMNS)
        fresh.add_files("drops", list_files(drops_folder(corpus), ".parquet"), DROP_SCHEMA.names)
        for name in facts:
            files, _, sql = facts.origin(name).partition(": ")
            if files in (SIDECARS, DROPS):
                rows = shown(list(fresh.records(sql)))
                value = facts[name]
                assert value in (rows, rows[0] if rows else None, next(iter(rows[0].values())) if rows else None), name
                num += 1
    assert num == len(queries.SAMPLES) + len(queries.DROPS) + 4


def test_facts_are_json(facts):
    assert json.loads(json.dumps(facts.to_record(), allow_nan=False)) == facts.to_record()


def test_quantiles_and_bins_of_known_numbers(facts):
    (row,) = (row for row in facts["images_per_sample"] if row["name"] == "interleaved")
    # samples 0 to 8 have 1 + n % 3 images
    assert [row[name] for name in ("num", "min", "p25", "p50", "p75", "max")] == [9, 1, 1, 2, 3, 3]
    bins = [row for row in facts["text_length_bins"] if row["kind"] == "video"]
    assert bins == [{"kind": "video", "from_chars": 4, "samples": 9}]  # "hello"


def test_many_values_are_counted_as_the_rest(tmp_path):
    with Tables() as tables:
        tables.run("CREATE TABLE samples AS SELECT 'l' || (i % 100) AS lang FROM range(1000) AS t(i)")
        query = queries._limited("lang", "count(*) AS samples", "samples")
        rows = list(tables.records(query.sql))
    assert len(rows) == queries.MAX_ROWS + 1
    assert rows[0] == {"value": "l0", "is_rest": False, "num_values": 1, "samples": 10}
    assert rows[-1] == {"value": None, "is_rest": True, "num_values": 60, "samples": 600}


def test_texts_are_cut_and_controls_shown(hostile_facts):
    found = hostile_facts
    domains = [row["domain"] for row in found["domains"]]
    assert max(map(len, domains)) <= 260
    assert any("\\u202e" in domain for domain in domains)
    assert not any("\u202e" in text for text in (json.dumps(found[name], ensure_ascii=False) for name in found))


def test_tokens_of_an_earlier_build_are_left_out(corpus, tmp_path):
    folder = Path(corpus, "tokens/old")
    folder.mkdir(parents=True)
    (folder / "tokens.json").write_text('{"fingerprint": "of another build"}')
    found = read_facts(corpus)
    assert found["tokens"] is None
    assert found["stale_tokenizers"] == ["old"]
    (folder / "tokens.json").unlink()
    folder.rmdir()
    folder.parent.rmdir()


def facts_of_media(*media: str) -> dict[str, list[dict[str, int]]]:
    """Return the facts of image sizes of media, each given as SQL of its width and height."""
    with Tables() as tables:
        tables.run(
            "CREATE TABLE images AS SELECT width, height, 1 AS num FROM (VALUES "
            + ", ".join(f"({size})" for size in media)
            + ") AS t(width, height)"
        )
        names = ("image_sides", "images_of_unknown_size")
        return {name: list(tables.records(queries.SAMPLES[name].sql)) for name in names}


def test_an_image_of_one_known_side_is_of_unknown_size_and_in_no_class():
    found = facts_of_media("100, 200", "NULL, 100", "300, NULL", "NULL::INT, NULL::INT")
    assert found["image_sides"] == [{"class": 1, "min": 100, "max": 100, "images": 1}]
    assert found["images_of_unknown_size"] == [{"images": 3}]


def test_the_least_and_the_greatest_are_exact_where_others_have_three_digits():
    with Tables() as tables:
        tables.run(
            "CREATE TABLE samples AS SELECT 'text' AS kind, 12344 + i AS num_text_chars, 12344 + i AS num_media,"
            " [{'name': 'clip', 'target': 'text', 'value': 0.9991 + i / 10000.0}] AS scores FROM range(4) AS t(i)"
        )
        tables.run(f"CREATE TABLE numbers AS {queries.TABLES['numbers']}")
        for name in ("text_lengths", "images_per_sample"):
            (row,) = tables.records(queries.SAMPLES[name].sql)
            assert (row["num"], row["min"], row["max"]) == (4, 12344, 12347)
            assert row["min"] <= row["p5"] <= row["p50"] <= row["p95"] <= row["max"]
        (row,) = tables.records(queries.SAMPLES["scores"].sql)
        assert (row["min"], row["max"]) == (0.9991, pytest.approx(0.9994))
        assert row["min"] <= row["p50"] <= row["max"]


def test_the_recipe_of_the_docs_gives_every_fact_of_tables(facts, corpus):
    code = (ROOT / "docs/card.md").read_text().split("```python\n")[1].split("fact = json")[0]
    with duckdb.connect() as connection:
        ours = code.replace("import duckdb, json", "").replace("build/corpus/demo", corpus)
        exec(ours, {"duckdb": SimpleNamespace(sql=connection.sql)})
        num = 0
        for name in facts:
            files, _, sql = facts.origin(name).partition(": ")
            if files in (SIDECARS, DROPS):
                rows = shown(connection.sql(sql).to_arrow_table().to_pylist())
                assert facts[name] in (rows, rows[0] if rows else None, *(rows[0].values() if rows else ())), name
                num += 1
    assert num == len(queries.SAMPLES) + len(queries.DROPS) + 4
