"""Funnel of a corpus: what each stage took in, kept and dropped, by source and unit, and the check that it adds up.

The counts are in the receipts of parts (`parts.py`); the funnel is their sum, in the order of the stages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipelines.errors import RunError
from pipelines.layout import account_folder, candidates_folder, decisions_folder, documents_folder, robots_folder
from pipelines.parts import PartFolder, read_rows, sum_counts

STAGES = ("crawl", "extract", "fetch", "filter", "shard")
CRAWL_ROWS = (
    ("crawl", "page"),
    ("crawl", "site_file"),
    ("extract", "page"),
    ("extract", "block"),
    ("extract", "element"),
)
"""Stage and unit of a crawl's rows, in order (`drop_reasons.Unit`)."""
SOURCE_ROWS = (
    ("extract", "document"),
    ("extract", "element"),
    ("extract", "track"),
    ("extract", "cue"),
    ("fetch", "video"),
    ("fetch", "track"),
    ("fetch", "cue"),
    ("fetch", "media"),
    ("fetch", "document"),
    ("filter", "media"),
    ("filter", "document"),
    ("shard", "sample"),
)
"""Stage and unit of a source's rows, in order. A video is one request and gives many media, its frames."""


@dataclass(frozen=True, slots=True)
class FunnelRow:
    """Numbers of a source's units that a stage took in, kept, and dropped by reason."""

    source: str
    stage: str
    unit: str
    in_: int
    kept: int
    dropped: dict[str, int]

    def to_record(self) -> dict[str, Any]:
        """Return the row as it is written to the manifest."""
        record = asdict(self)
        record["in"] = record.pop("in_")
        return {name: record[name] for name in ("source", "stage", "unit", "in", "kept", "dropped")} | {
            "dropped": dict(sorted(self.dropped.items()))
        }


def counting_folders(out: str, crawls: Iterable[str]) -> list[PartFolder]:
    """Return the folders whose receipts and drops make the funnel: those of crawls, then of the stages in order."""
    accounts = [folder(out, crawl) for crawl in crawls for folder in (account_folder, robots_folder)]
    return [*accounts, candidates_folder(out), documents_folder(out), decisions_folder(out)]


def funnel_rows(out: str, crawls: Iterable[str], sources: Iterable[str]) -> list[FunnelRow]:
    """Return the rows of crawls, then those of sources, each in the order of the stages."""
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
    *,
    is_appended: bool = False,
) -> list[FunnelRow]:
    """Return the funnel up to a stage that was completed; what an earlier run left of later stages is ignored.

    Args:
        out: The corpus's folder.
        crawls: Names of the spec's crawls.
        sources: Names of its sources.
        last_stage: One of `STAGES`.
        num_samples: Number of samples in the shards of each source, once they are written.
        is_appended: Whether shards of earlier builds are among them, whose samples count as they were decided for.

    Raises:
        RunError: If it does not add up: a bug, and the results must not be used.
    """
    done = STAGES[: STAGES.index(last_stage) + 1]
    funnel = [row for row in funnel_rows(out, crawls, sources) if row.stage in done]
    if is_appended and num_samples is not None:
        funnel = [_with_kept(row, num_samples) for row in funnel]
    if faults := check_funnel(funnel, num_samples):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RunError(f"the funnel does not add up: {faults[0]}{more}. Please report this bug")
    return funnel


def _with_kept(row: FunnelRow, num_samples: Mapping[str, int]) -> FunnelRow:
    """Return a source's row of samples, of which those in its shards were kept."""
    if (row.stage, row.unit) != ("shard", "sample"):
        return row
    kept = num_samples.get(row.source, 0)
    return replace(row, in_=kept + sum(row.dropped.values()), kept=kept)


def check_filled(
    out: str, crawls: Iterable[str], needed: Mapping[str, Sequence[str]], rows: Sequence[FunnelRow], last_stage: str
) -> None:
    """Check that no source has ended empty by the end of a stage.

    Args:
        out: The corpus's folder.
        crawls: Names of the spec's crawls.
        needed: The crawls, if any, of each source that must have samples.
        rows: The funnel up to that stage.
        last_stage: One of `STAGES`.

    Raises:
        RunError: If one has, with what became of its candidates and an example.
    """
    if last_stage == "crawl":
        return
    for source, drawn_on in needed.items():
        if (why := _emptied(source, drawn_on, rows)) is None:
            continue
        example = _example(out, crawls, {source}) or _example(out, crawls, set(drawn_on))
        raise RunError(
            f"sources.{source}: no sample: {why}{f', such as {example}' if example else ''}. "
            f"If it may end empty, set sources.{source}.allow_empty: true"
        )


def _emptied(source: str, crawls: Sequence[str], rows: Sequence[FunnelRow]) -> str | None:
    """Return what became of the candidates of a source that has none left; None if it has some, or had.

    It had some if what was left of it was taken down at request, which must not stop later builds.
    """
    own = [row for row in rows if row.source == source and row.unit in ("document", "sample")]
    if own and own[-1].kept:
        return None
    if dropped := next((row for row in own if row.in_ and not row.kept), None):
        return f"{dropped.stage} dropped {_all(dropped)}" if "taken_down" not in dropped.dropped else None
    if any("taken_down" in row.dropped for row in rows if row.source in crawls and row.unit == "page"):
        return None
    if not crawls:
        return "its files have no rows"
    found = []
    for crawl in crawls:
        pages = [row for row in rows if row.source == crawl and row.unit == "page"]
        if dropped := next((row for row in pages if row.in_ and not row.kept), None):
            found.append(f"{dropped.stage} of {crawl} dropped {_all(dropped)}")
        elif pages and pages[-1].kept:
            found.append(f"none of the {pages[-1].kept} pages of {crawl} holds what it takes")
        else:
            found.append(f"{crawl} has no page")
    return "; ".join(found)


def _all(row: FunnelRow) -> str:
    reasons = sorted(row.dropped.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{reason} {num}" for reason, num in reasons[:4]) + (", ..." if len(reasons) > 4 else "")
    return f"all {row.in_} {row.unit}s ({shown})" if row.in_ > 1 else f"its only {row.unit} ({shown})"


def _example(out: str, crawls: Iterable[str], sources: set[str]) -> str | None:
    """Return where a drop of one of the sources came from, and what was found."""
    for folder in counting_folders(out, crawls):
        for path in folder.drops():
            for row in read_rows(path, ["source", "record", "url", "detail"]):
                if row["source"] in sources:
                    told = [row["record"] or row["url"], row["detail"]]
                    if example := ": ".join(dict.fromkeys(text[:200] for text in told if text)):
                        return example
    return None


def check_funnel(rows: Sequence[FunnelRow], num_samples: Mapping[str, int] | None = None) -> list[str]:
    """Return what does not add up, one line each.

    In each row `in = kept + dropped`; a row takes in what the last row before it with its source and unit kept; the
    last row of a source counts the samples in its shards, which `num_samples` states.
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
