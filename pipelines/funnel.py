"""The funnel: what each stage took in, kept and dropped, by source and unit, and the check that it adds up.

Receipts of parts hold the counts (`parts.py`); a funnel is their sum, in the order of the stages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.errors import RunError
from pipelines.layout import account_folder, candidates_folder, decisions_folder, documents_folder
from pipelines.parts import PartFolder, sum_counts

STAGES = ("crawl", "extract", "fetch", "filter", "shard")
CRAWL_ROWS = (("crawl", "page"), ("extract", "page"), ("extract", "element"))
"""Stage and unit of a crawl's rows, in order. An element is what a page embeds: an image, a video, a frame."""
SOURCE_ROWS = (
    ("extract", "document"),
    ("fetch", "video"),
    ("fetch", "media"),
    ("fetch", "document"),
    ("filter", "media"),
    ("filter", "document"),
    ("shard", "sample"),
)
"""Stage and unit of a source's rows, in order. A video is one request and becomes many media, which are its frames."""


@dataclass(frozen=True, slots=True)
class FunnelRow:
    """How many of a source's `unit`s a stage took in, kept and dropped, by reason."""

    source: str
    stage: str
    unit: str
    in_: int
    kept: int
    dropped: dict[str, int]

    def to_record(self) -> dict[str, Any]:
        """The row as it stands in the manifest."""
        record = asdict(self)
        record["in"] = record.pop("in_")
        return {name: record[name] for name in ("source", "stage", "unit", "in", "kept", "dropped")} | {
            "dropped": dict(sorted(self.dropped.items()))
        }


def counting_folders(out: str, crawls: Iterable[str]) -> list[PartFolder]:
    """Folders whose receipts and drops make the funnel: those of crawls first, then of the stages in order."""
    accounts = [account_folder(out, crawl) for crawl in crawls]
    return [*accounts, candidates_folder(out), documents_folder(out), decisions_folder(out)]


def funnel_rows(out: str, crawls: Iterable[str], sources: Iterable[str]) -> list[FunnelRow]:
    """Rows of crawls first, then of sources, each in the order of the stages."""
    crawls = list(crawls)
    receipts = [receipt for folder in counting_folders(out, crawls) for receipt in folder.receipts()]
    counts = {(c.source, c.stage, c.unit): c for c in sum_counts(receipts)}
    order = [(crawl, stage, unit) for crawl in crawls for stage, unit in CRAWL_ROWS]
    order += [(source, stage, unit) for source in sources for stage, unit in SOURCE_ROWS]
    rows = []
    for which in order:
        if which in counts or which[1:] == ("shard", "sample"):
            count = counts.get(which)
            kept, dropped = (count.kept, count.dropped) if count is not None else (0, {})
            rows.append(FunnelRow(*which, in_=kept + sum(dropped.values()), kept=kept, dropped=dropped))
    return rows


def checked_funnel(
    out: str,
    crawls: Iterable[str],
    sources: Iterable[str],
    last_stage: str,
    num_samples: Mapping[str, int] | None = None,
) -> list[FunnelRow]:
    """The funnel up to a stage that came to its end; what later stages left of an earlier run is not looked at.

    Args:
        out: The corpus's folder.
        crawls: Names of the spec's crawls.
        sources: Names of its sources.
        last_stage: One of `STAGES`.
        num_samples: How many samples the shards of each source hold, once they are written.

    Raises:
        RunError: If it does not add up: a bug, and what was made must not be used.
    """
    done = STAGES[: STAGES.index(last_stage) + 1]
    funnel = [row for row in funnel_rows(out, crawls, sources) if row.stage in done]
    if faults := check_funnel(funnel, num_samples):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RunError(f"the funnel does not add up: {faults[0]}{more}. Please report this bug")
    return funnel


def check_funnel(rows: Sequence[FunnelRow], num_samples: Mapping[str, int] | None = None) -> list[str]:
    """What does not add up, a line each; nothing where all does.

    In each row `in = kept + dropped`; a row takes in what the last row before it of its source and unit kept; with
    `num_samples`, the samples in each source's shards, a source's last row counts those.
    """
    faults = []
    last: dict[str, FunnelRow] = {}
    last_of_unit: dict[tuple[str, str], FunnelRow] = {}
    for row in rows:
        name = f"{row.source}, {row.stage}"
        num_dropped = sum(row.dropped.values())
        if row.in_ != row.kept + num_dropped:
            faults.append(f"{name}: {row.in_} {row.unit}s in, but {row.kept} kept + {num_dropped} dropped")
        before = last_of_unit.get((row.source, row.unit))
        if before is not None and before.kept != row.in_:
            faults.append(f"{name}: {row.in_} {row.unit}s in, but {before.stage} kept {before.kept}")
        last[row.source] = last_of_unit[row.source, row.unit] = row
    for source, num in (num_samples or {}).items():
        end = last.get(source)
        if end is None or (end.stage, end.unit, end.kept) != ("shard", "sample", num):
            said = f"{end.kept} {end.unit}s kept by {end.stage}" if end is not None else "no row"
            faults.append(f"{source}: its shards contain {num} samples, its last row says {said}")
    return faults
