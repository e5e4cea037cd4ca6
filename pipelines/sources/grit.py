"""GRIT: captions whose phrases are grounded by boxes, in JSON Lines or parquet.

Offsets index the caption as published and boxes are 0..1 from the top left, so both are checked against the published
caption and then adjusted when the caption is cleaned. Several boxes of one phrase are several regions.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from pipelines.candidate import Candidate
from pipelines.document import Kind, Region, Score
from pipelines.sources.captions import clean_spans
from pipelines.sources.files import Part
from pipelines.sources.origin import Origin, Outcome, RowError, convert_rows, number
from pipelines.sources.tables import open_table, require_text, table_parts, with_first_rows
from pipelines.sources.url_table import ALIASES, find_columns, pair_of
from pipelines.sources.where import ListFiles

KINDS: tuple[Kind, ...] = ("grounded", "pair")
_LISTS = (("noun_chunks", "noun_chunk"), ("ref_exps", "ref_exp"))
_ALIASES = ALIASES | {name: (name,) for name, _ in _LISTS}
_OVERSHOOT = 0.01  # boxes are predictions: up to this far outside they are clamped, further is an error


class GritSettings(ListFiles):
    """GRIT: captions with grounded phrases."""

    format: Literal["grit"] = "grit"
    columns: dict[str, str] = Field(
        default={}, description="Column for url, caption, width, noun_chunks, ... if several match or none is known"
    )
    ref_exps: bool = Field(True, description="Keep the expanded expressions as well as their noun chunks")


def parts(settings: GritSettings) -> list[Part]:
    """Split the list at row groups or lines."""
    return table_parts(settings)


def read(part: Part, settings: GritSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one grounded pair per row; a plain pair if the source's kind is `pair`.

    Raises:
        UserError: If a needed column is missing.
    """
    head, table = with_first_rows(open_table(part, where=settings.where, has_header_setting=False))
    columns: dict[str, str] = {}
    if table.columns:
        needed = ("url", "caption", "noun_chunks") if kind == "grounded" else ("url", "caption")
        columns = find_columns(part.path, table.columns, settings.columns, needed, _ALIASES)
        require_text(part.path, head, [columns[role] for role in ("url", "caption")])

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        pair = pair_of(origin, locator, row, columns)
        if kind == "pair":
            return [pair]
        lists = {name: row.get(columns.get(name, name)) for name, _ in _LISTS}
        return [grounded(pair, lists, str(row[columns["caption"]]), settings.ref_exps)]

    return convert_rows(Origin(source_name, kind, part, settings), table.rows, convert)


def grounded(pair: Candidate, lists: Mapping[str, Any], caption: str, with_ref_exps: bool = True) -> Candidate:
    """Return a pair with the regions of its lists on its caption.

    Damaged regions of a row are removed; their number is the document's score `num_bad_regions`.

    Raises:
        RowError: `missing_regions`, or, if all are damaged, `bad_span` or `bad_box` like the first.
    """
    document = pair.document
    regions: list[Region] = []
    bad: list[RowError] = []
    for name, label in _LISTS[: 2 if with_ref_exps else 1]:
        for item in _items(lists.get(name)):
            try:
                region = _region(item, caption, label)
            except RowError as error:
                bad.append(error)
            else:
                if replace(region, label="noun_chunk") not in regions:  # many expressions equal their chunk
                    regions.append(region)
    text, spans = clean_spans(caption, [(r.start, r.end) for r in regions])
    moved = [replace(r, start=span[0], end=span[1]) for r, span in zip(regions, spans, strict=True) if span]
    bad += [RowError("bad_span", "cuts through what cleaning joins")] * (len(regions) - len(moved))
    if not moved:
        url = document.media[0].url
        raise RowError(bad[0].reason, bad[0].detail, url) if bad else RowError("missing_regions", url=url)
    segments = tuple(replace(s, text=text, regions=tuple(moved)) if s.type == "text" else s for s in document.segments)
    scores = (*document.scores, Score("num_bad_regions", "document", float(len(bad)), "derived"))
    return replace(pair, document=replace(document, segments=segments, scores=scores))


def _items(value: Any) -> list[Any]:
    """Return the regions of a cell; in csv a list is written as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return value if isinstance(value, list) else []


def _region(item: Any, caption: str, label: str) -> Region:
    """Return the region of seven numbers: start, end, x0, y0, x1, y1, score; in parquet the offsets are floats."""
    values = item if isinstance(item, list) else []
    start, end, *box = [number(v) for v in values[:6]] if len(values) >= 6 else [None] * 6
    if start is None or end is None or start != int(start) or end != int(end) or not 0 <= start < end <= len(caption):
        raise RowError("bad_span", f"{values[:2]} in a caption of {len(caption)} characters")
    x0, y0, x1, y1 = [min(max(v, 0.0), 1.0) if v is not None and -_OVERSHOOT <= v <= 1 + _OVERSHOOT else None
                      for v in box]  # fmt: skip
    if x0 is None or y0 is None or x1 is None or y1 is None or x0 >= x1 or y0 >= y1:
        raise RowError("bad_box", f"{values[2:6]}")
    return Region(int(start), int(end), 0, (x0, y0, x1, y1), number(values[6]) if len(values) > 6 else None, label)
