"""SQL of the facts, over `samples` (the rows of all sidecars), `drops` and `tokens`.

Whatever a corpus can have any number of (languages, licences, domains ...) is limited here, with the number of the
rest beside it. Numbers whose quantiles or bins are given are first counted at three significant digits, so that memory
does not depend on how many samples there are, and the result not on the order in which they are read; the least and
the greatest are exact.
"""

from dataclasses import dataclass
from typing import Literal

COLUMNS = (
    *("key", "kind", "lang", "num_media", "num_text_chars", "num_segments", "num_synthetic_segments", "num_regions"),
    *("domain", "dataset", "release", "license", "dedup_group", "policy", "allowed", "reasons", "pii_hits", "bytes"),
    *("byte_offset", "media", "scores", "signals"),
)
"""Columns of sidecars that the queries use."""

MAX_ROWS = 40
"""Rows of a fact about languages, licences and so on; what is beyond is counted as one."""

SIDES = (64, 128, 224, 256, 384, 448, 512, 768, 1024, 2048)
"""Lower bounds of the classes of an image's shorter side, pixels; 224 and 448 are Emu's and Emu2's input."""

_THREE_DIGITS = "CASE WHEN value = 0 THEN 0 ELSE round(value, (2 - floor(log10(abs(value))))::INT) END"
_QUANTILES = ", ".join(
    f"least(greatest(min(value) FILTER (up_to >= {q} * total), min(lowest)), max(highest)) AS p{q * 100:g}"
    for q in (0.05, 0.25, 0.5, 0.75, 0.95)
)

_IS_TIME = r"regexp_full_match({}, '\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z?')"

TABLES = {
    "groups": (
        "SELECT source, split, kind, left(lang, 200) AS lang, left(concat_ws(' ', dataset, release), 200) AS dataset,"
        " left(license, 200) AS license, left(policy, 80) AS policy, allowed,"
        " CASE WHEN NOT allowed THEN left(reasons[1], 80) END AS reason, count(*) AS samples,"
        " sum(num_media)::BIGINT AS images, sum(num_text_chars)::BIGINT AS text_chars,"
        " sum(num_segments)::BIGINT AS segments, sum(num_synthetic_segments)::BIGINT AS synthetic_segments,"
        " sum(num_regions)::BIGINT AS regions, sum(bytes)::BIGINT AS bytes, sum(pii_hits)::BIGINT AS masked,"
        " count(*) FILTER (pii_hits > 0) AS samples_masked FROM samples GROUP BY ALL"
    ),
    "observations": (
        "SELECT left(s.kind, 80) AS kind, split_part(s.target, ':', 1) AS target, count(*) AS observations,"
        " count(DISTINCT hash(s.url)) AS urls, min(s.observed_at) AS first, max(s.observed_at) AS last,"
        f" min(s.observed_at) FILTER ({_IS_TIME.format('s.observed_at')}) AS first_time,"
        f" max(s.observed_at) FILTER ({_IS_TIME.format('s.observed_at')}) AS last_time"
        " FROM (SELECT unnest(signals) AS s FROM samples) GROUP BY ALL"
    ),
    "first_seen": (
        r"SELECT CASE WHEN regexp_full_match(seen, '\d{4}-\d\d-.*') THEN left(seen, 7) END AS month, has_signals,"
        " count(*) AS samples FROM (SELECT list_min([s.observed_at FOR s IN signals]) AS seen,"
        " coalesce(len(signals), 0) > 0 AS has_signals FROM samples) GROUP BY ALL"
    ),
    "domains": (
        "SELECT left(domain, 260) AS domain, count(*) AS samples, sum(num_media)::BIGINT AS images,"
        " sum(num_text_chars)::BIGINT AS text_chars, sum(bytes)::BIGINT AS bytes"
        " FROM samples GROUP BY ALL"
    ),
    "images": (
        "SELECT left(m.mime, 100) AS mime, left(m.license, 200) AS license,"
        " left(m.license_evidence, 100) AS evidence, m.width AS width, m.height AS height,"
        " count(*) AS num, sum(m.bytes)::BIGINT AS bytes"
        " FROM (SELECT unnest(media) AS m FROM samples) GROUP BY ALL"
    ),
    "numbers": (
        "WITH all_numbers AS ("
        "SELECT 'text length' AS what, kind AS of, num_text_chars::DOUBLE AS value FROM samples"
        " WHERE num_text_chars > 0"
        " UNION ALL SELECT 'images per sample', kind, num_media::DOUBLE FROM samples WHERE num_media > 0"
        " UNION ALL SELECT CASE WHEN isfinite(s.value) THEN 'score' ELSE 'unknown score' END,"
        " left(s.name, 80) || ' of ' || split_part(s.target, ':', 1), CASE WHEN isfinite(s.value) THEN s.value END"
        " FROM (SELECT unnest(scores) AS s FROM samples)"
        ") "
        f"SELECT what, of, {_THREE_DIGITS} AS value, count(*) AS num,"
        " min(all_numbers.value) AS lowest, max(all_numbers.value) AS highest FROM all_numbers GROUP BY ALL"
    ),
}
"""Tables that several queries ask, each made in one pass over the sidecars."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query over `samples`, `drops` or one of `TABLES`, and whether it gives rows, one row, or one value."""

    sql: str
    shape: Literal["rows", "row", "value"] = "rows"

    @property
    def whole(self) -> str:
        """Return the query with the table of `TABLES` that it uses, so that it can be run as it is."""
        used = [name for name in TABLES if f"FROM {name} " in f"{self.sql} " or f"FROM {name})" in self.sql]
        return "".join(f"WITH {name} AS ({TABLES[name]}) " for name in used) + self.sql


def _limited(column: str, counts: str, table: str) -> Query:
    """Return a query for the most frequent values of a column, and one last row for all others.

    Args:
        column: SQL that gives the value.
        counts: Sums, the first of which ranks.
        table: Where they are counted.
    """
    names = [part.rpartition(" AS ")[2] for part in counts.split(", ")]
    sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in names)
    return Query(
        f"SELECT any_value(value) FILTER (place <= {MAX_ROWS}) AS value, min(place) > {MAX_ROWS} AS is_rest,"
        f" count(*) AS num_values, {sums} FROM ("
        f"SELECT *, row_number() OVER (ORDER BY {names[0]} DESC, value NULLS LAST) AS place FROM ("
        f"SELECT left({column}, {MAX_ROWS * 5}) AS value, {counts} FROM {table} GROUP BY 1)) "
        f"GROUP BY least(place, {MAX_ROWS + 1}) ORDER BY least(place, {MAX_ROWS + 1})"
    )


_DISTRIBUTION = (
    f"SELECT of AS name, total AS num, min(lowest) AS min, {_QUANTILES}, max(highest) AS max FROM ("
    "SELECT *, sum(num) OVER (PARTITION BY of ORDER BY value)::BIGINT AS up_to,"
    " sum(num) OVER (PARTITION BY of)::BIGINT AS total FROM numbers WHERE what = '{what}') "
    f"GROUP BY of, total ORDER BY total DESC, of LIMIT {MAX_ROWS}"
)
_SIDE_CLASS = (
    "CASE " + " ".join(f"WHEN side < {low} THEN {i}" for i, low in enumerate(SIDES)) + f" ELSE {len(SIDES)} END"
)

SAMPLES: dict[str, Query] = {
    "totals": Query(
        "SELECT sum(samples)::BIGINT AS samples, sum(images)::BIGINT AS images,"
        " coalesce(sum(images) FILTER (kind <> 'video'), 0)::BIGINT AS still_images,"
        " coalesce(sum(images) FILTER (kind = 'video'), 0)::BIGINT AS frames,"
        " sum(text_chars)::BIGINT AS text_chars, sum(segments)::BIGINT AS segments,"
        " sum(synthetic_segments)::BIGINT AS synthetic_segments, sum(regions)::BIGINT AS regions,"
        " sum(bytes)::BIGINT AS bytes, coalesce(sum(samples) FILTER (NOT allowed), 0)::BIGINT AS refused FROM groups",
        "row",
    ),
    "sources": Query(
        "SELECT source, any_value(kind) AS kind, split, sum(samples)::BIGINT AS samples, sum(images)::BIGINT AS images,"
        " sum(text_chars)::BIGINT AS text_chars, sum(regions)::BIGINT AS regions, sum(bytes)::BIGINT AS bytes,"
        " coalesce(sum(samples) FILTER (NOT allowed), 0)::BIGINT AS refused FROM groups GROUP BY source, split"
        " ORDER BY source, array_position(['train', 'val', 'test'], split)"
    ),
    "kinds": Query(
        "SELECT kind, sum(samples)::BIGINT AS samples, sum(images)::BIGINT AS images,"
        " sum(text_chars)::BIGINT AS text_chars, sum(regions)::BIGINT AS regions, sum(bytes)::BIGINT AS bytes"
        " FROM groups GROUP BY kind ORDER BY samples DESC, kind"
    ),
    "languages": _limited(
        "lang", "sum(samples) AS samples, sum(text_chars) AS text_chars, sum(images) AS images", "groups"
    ),
    "datasets": _limited("dataset", "sum(samples) AS samples, sum(images) AS images", "groups"),
    "licenses": _limited("license", "sum(samples) AS samples, sum(images) AS images", "groups"),
    "image_licenses": _limited("concat_ws(', ', license, evidence)", "sum(num) AS images", "images"),
    "image_types": _limited("mime", "sum(num) AS images, sum(bytes) AS bytes", "images"),
    "image_sides": Query(
        f"SELECT {_SIDE_CLASS} AS class, min(side) AS min, max(side) AS max, sum(num)::BIGINT AS images"
        " FROM (SELECT least(width, height) AS side, num FROM images"
        " WHERE width IS NOT NULL AND height IS NOT NULL)"
        " GROUP BY class ORDER BY class"
    ),
    "image_shapes": Query(
        "SELECT CASE WHEN width * 3 < height * 2 THEN 'tall (under 2:3)' WHEN width * 8 < height * 7 THEN 'upright'"
        " WHEN width * 7 <= height * 8 THEN 'square (within 8:7)' WHEN width * 2 <= height * 3 THEN 'lying'"
        " ELSE 'wide (over 3:2)' END AS shape, sum(num)::BIGINT AS images FROM images"
        " WHERE width IS NOT NULL AND height IS NOT NULL GROUP BY shape ORDER BY min(width / height)"
    ),
    "images_of_unknown_size": Query(
        "SELECT coalesce(sum(num), 0)::BIGINT AS images FROM images WHERE width IS NULL OR height IS NULL", "value"
    ),
    "text_lengths": Query(_DISTRIBUTION.format(what="text length")),
    "text_length_bins": Query(
        "SELECT of AS kind, round(pow(2, floor(2 * log2(value) + 1e-9) / 2))::BIGINT AS from_chars,"
        " sum(num)::BIGINT AS samples FROM numbers"
        " WHERE what = 'text length' GROUP BY ALL ORDER BY ALL"
    ),
    "images_per_sample": Query(_DISTRIBUTION.format(what="images per sample")),
    "scores": Query(_DISTRIBUTION.format(what="score")),
    "score_bins": Query(
        "SELECT of AS name, least(23, floor(24 * (value - low) / nullif(high - low, 0))::INT) AS bin,"
        " any_value(low) AS low, any_value(high) AS high, sum(num)::BIGINT AS num FROM ("
        "SELECT *, min(value) OVER (PARTITION BY of) AS low,"
        " max(value) OVER (PARTITION BY of) AS high, sum(num) OVER (PARTITION BY of) AS total FROM numbers"
        " WHERE what = 'score') GROUP BY of, total, bin"
        f" QUALIFY dense_rank() OVER (ORDER BY total DESC, of) <= {MAX_ROWS} ORDER BY of, bin"
    ),
    "unknown_scores": Query(
        "SELECT coalesce(sum(num), 0)::BIGINT AS num FROM numbers WHERE what = 'unknown score'", "value"
    ),
    "num_domains": Query("SELECT count(domain) AS domains FROM domains", "value"),
    "samples_without_domain": Query(
        "SELECT coalesce(sum(samples), 0)::BIGINT AS samples FROM domains WHERE domain IS NULL", "value"
    ),
    "domains": Query(f"SELECT * FROM domains WHERE domain IS NOT NULL ORDER BY samples DESC, domain LIMIT {MAX_ROWS}"),
    "domain_sizes": Query(
        "SELECT pow(10, floor(log10(samples)))::BIGINT AS from_samples, count(*) AS domains,"
        " sum(samples)::BIGINT AS samples FROM domains WHERE domain IS NOT NULL GROUP BY 1 ORDER BY 1"
    ),
    "domain_shares": Query(
        "SELECT top, sum(samples)::BIGINT AS samples FROM (SELECT samples,"
        " row_number() OVER (ORDER BY samples DESC, domain) AS place FROM domains WHERE domain IS NOT NULL)"
        " JOIN (VALUES (1), (10), (100), (1000), (10000)) AS t(top)"
        " ON place <= top GROUP BY top ORDER BY top"
    ),
    "signals": Query(
        "SELECT kind, target, observations, urls, first, last FROM observations ORDER BY kind, target LIMIT 100"
    ),
    "samples_without_signals": Query(
        "SELECT coalesce(sum(samples), 0)::BIGINT AS samples FROM first_seen WHERE NOT has_signals", "value"
    ),
    "decisions": Query(
        "SELECT policy, allowed, sum(samples)::BIGINT AS samples FROM groups GROUP BY policy, allowed"
        f" ORDER BY samples DESC, policy, allowed LIMIT {MAX_ROWS}"
    ),
    "reasons": Query(
        "SELECT reason, sum(samples)::BIGINT AS samples FROM groups WHERE NOT allowed GROUP BY reason"
        f" ORDER BY samples DESC, reason LIMIT {MAX_ROWS}"
    ),
    "time_span": Query("SELECT min(first_time) AS first, max(last_time) AS last FROM observations", "row"),
    "months": Query(
        "SELECT month, sum(samples)::BIGINT AS samples FROM first_seen WHERE month IS NOT NULL"
        " GROUP BY month ORDER BY month DESC LIMIT 120"
    ),
    "personal_data": Query(
        "SELECT coalesce(sum(masked), 0)::BIGINT AS masked, coalesce(sum(samples_masked), 0)::BIGINT AS samples"
        " FROM groups",
        "row",
    ),
    "videos": Query(
        "SELECT count(*) AS samples, coalesce(sum(num_media), 0)::BIGINT AS frames,"
        " round(sum(list_max([m.t FOR m IN media])), 1) AS seconds FROM samples WHERE kind = 'video'",
        "row",
    ),
    "repeated_images": Query(
        "SELECT count(m.stored_sha256) - count(DISTINCT hash(m.stored_sha256)) AS images"
        " FROM (SELECT unnest(media) AS m FROM samples) WHERE m.stored_sha256 IS NOT NULL",
        "value",
    ),
    "duplicate_groups": Query(
        "SELECT count(*) AS groups, count(*) FILTER (num > 1) AS shared,"
        " coalesce(sum(num) FILTER (num > 1), 0)::BIGINT AS samples_sharing, max(num) AS largest"
        " FROM (SELECT hash(dedup_group) AS id, count(*) AS num FROM samples WHERE dedup_group <> '' GROUP BY 1)",
        "row",
    ),
}
"""Facts from the sidecars."""

DROPS: dict[str, Query] = {
    "num_drops": Query("SELECT count(*) AS drops FROM drops", "value"),
    "drop_reasons": Query(
        "SELECT stage, unit, reason, count(*) AS drops FROM drops GROUP BY ALL"
        " ORDER BY drops DESC, stage, unit, reason LIMIT 400"
    ),
}
"""Facts from the drops."""

TOKENS = Query(
    "SELECT source, split, sum(num_tokens)::BIGINT AS tokens FROM tokens GROUP BY source, split ORDER BY source, split"
)
"""Text tokens of one tokenizer."""
