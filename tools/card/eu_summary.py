"""The data rows of the EU's public summary of training content (AI Act, Art. 53(1)(d); template of July 2025).

The summary describes a model's training; these are the rows that a corpus can fill in. Rules and ranges are those of
the Commission's template as law firms describe it; check them against the official text before you publish.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tools.card import view
from tools.card.answers import Answers
from tools.card.facts import Fact, Facts, shown
from tools.queries.tables import Tables

SCHEMA = "dromaius-eu-summary/1"
SHARE, SMALLER_SHARE, SMALLER_MOST = 0.10, 0.05, 1000
"""Share of the domain names, by size of what was taken from them, to be listed; that of smaller providers, at most."""

MAX_LISTED = 1000
"""Domain names in the Markdown form; the JSON has all."""

_TEXT_RANGES = ((10**9, "less than 1 billion tokens"), (10**13, "1 billion to 10 trillion tokens"))
_IMAGE_RANGES = ((10**6, "less than 1 million images"), (10**9, "1 million to 1 billion images"))
_VIDEO_RANGES = ((10_000 * 3600, "less than 10,000 hours"), (1_000_000 * 3600, "10,000 to 1 million hours"))
_OVER = ("more than 10 trillion tokens", "more than 1 billion images", "more than 1 million hours")
_DOMAINS = (
    "SELECT left(domain, 260) AS domain, sum(bytes)::BIGINT AS bytes, count(*) AS samples,"
    " sum(num_media)::BIGINT AS images, sum(num_text_chars)::BIGINT AS text_chars"
    " FROM samples WHERE domain IS NOT NULL{where} GROUP BY 1"
)


@dataclass(frozen=True, slots=True)
class Domains:
    """Domain names that a crawl took from, largest first, and how many of them each rule lists."""

    num: int
    num_listed: int
    num_listed_smaller: int
    tables: Tables

    def rows(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the domain names to be listed, one in memory at a time."""
        num = self.num_listed if limit is None else min(limit, self.num_listed)
        sql = f"SELECT * FROM eu_domains ORDER BY bytes DESC, domain LIMIT {num}"
        return (shown(row) for row in self.tables.records(sql))


def crawled_domains(tables: Tables, facts: Facts) -> tuple[Domains, dict[str, Fact]]:
    """Count the domain names of what was crawled; of tars that others wrote, of all samples.

    Args:
        tables: Has the corpus's `samples`.
        facts: Its facts.

    Returns:
        The domain names, and facts about them.
    """
    where = ""
    if facts["inputs_of_sources"] is not None:
        names = [row["source"] for row in facts["inputs_of_sources"] if row["format"] == "crawled"]
        quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
        where = f" AND source IN ({quoted})" if names else " AND false"
    sql = _DOMAINS.format(where=where)
    tables.run(f"CREATE TABLE eu_domains AS {sql}")
    num = tables.value("SELECT count(*) FROM eu_domains")
    listed, smaller = math.ceil(SHARE * num), min(SMALLER_MOST, math.ceil(SMALLER_SHARE * num))
    found = Domains(num, listed, smaller, tables)
    origin = f"<source>/<split>/*.parquet as samples: WITH eu_domains AS ({sql}) SELECT "
    return found, {
        "eu_num_domains": Fact(num, f"{origin}count(*) AS domains FROM eu_domains"),
        "eu_num_listed": Fact(listed, f"{origin}ceil({SHARE} * count(*))::BIGINT AS domains FROM eu_domains"),
        "eu_num_listed_smaller": Fact(
            smaller,
            f"{origin}least({SMALLER_MOST}, ceil({SMALLER_SHARE} * count(*)))::BIGINT AS domains FROM eu_domains",
        ),
        "eu_top_domains": Fact(
            list(found.rows(20)), f"{origin}* FROM eu_domains ORDER BY bytes DESC, domain LIMIT {min(20, listed)}"
        ),
    }


def size_ranges(facts: Facts) -> list[tuple[str, str]]:
    """Return each modality with the template's range of its size; text is estimated where no tokenizer has counted."""
    totals = facts["totals"]
    found = []
    if totals["text_chars"]:
        tokens = view.num_tokens(facts)
        words = _range(tokens if tokens is not None else totals["text_chars"] / 4, _TEXT_RANGES, _OVER[0])
        found.append(("text", words if tokens is not None else f"{words} (estimated: 4 characters a token)"))
    if totals["still_images"]:
        found.append(("images", _range(totals["still_images"], _IMAGE_RANGES, _OVER[1])))
    if facts["videos"]["samples"]:
        found.append(("video", _range(facts["videos"]["seconds"] or 0, _VIDEO_RANGES, _OVER[2])))
    return found


def _range(value: float, ranges: tuple[tuple[int, str], ...], over: str) -> str:
    return next((words for limit, words in ranges if value < limit), over)


def summary_record(facts: Facts, answers: Answers, domains: Domains) -> dict[str, Any]:
    """Return the summary for programs; its list of domain names is an iterator."""
    policy = facts["policy"] or {}
    return {
        "schema": SCHEMA,
        "provider": answers.text("eu_provider"),
        "model": answers.text("eu_model"),
        "corpus": {name: facts[name] for name in ("name", "version", "fingerprint")},
        "size_ranges": dict(size_ranges(facts)),
        "text_tokens": facts["num_tokens"],
        "text_chars": facts["totals"]["text_chars"],
        "images": facts["totals"]["still_images"],
        "video_seconds": facts["videos"]["seconds"],
        "languages": facts["languages"],
        "acquired_from": facts["time_span"]["first"],
        "acquired_to": facts["time_span"]["last"],
        "crawler": {"product_token": policy.get("product_token"), "user_agent": policy.get("user_agent")},
        "data_sets": facts["datasets"],
        "synthetic_segments": facts["totals"]["synthetic_segments"],
        "segments": facts["totals"]["segments"],
        "refusals": facts["refusals"],
        "other_data": answers.text("eu_other_data"),
        "illegal_content": answers.text("illegal_content"),
        "num_domains": domains.num,
        "num_listed": domains.num_listed,
        "num_listed_by_smaller_providers": domains.num_listed_smaller,
        "rule": "the top 10 % of domain names by bytes of their samples; smaller providers: 5 %, at most 1,000",
        "domains": domains.rows(),
    }
