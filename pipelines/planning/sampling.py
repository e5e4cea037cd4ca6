"""Samples of the input of sources: a bounded number of rows of a few files, read and judged as the build would.

Of a list the format's own reader is used, so that a row that the build will drop is dropped here for the same reason.
Nothing is fetched: of a remote list the beginnings of some files are read, of parquet files some row groups.
"""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from pipelines import storage
from pipelines.candidate import Candidate, requests_of
from pipelines.document import Drop
from pipelines.errors import UserError
from pipelines.part_candidates import PartCandidates
from pipelines.sources import FORMATS, lines
from pipelines.sources.files import Part, expand, explain_read_errors
from pipelines.sources.tables import suffix
from pipelines.spec import CorpusSpec, CrawlInput
from pipelines.web import urls

SAMPLED_FILES = 4
JUDGED_ROWS = 400  # per file; a text takes milliseconds
SAMPLED_BYTES = 4 << 20  # of the beginning of a file of lines or a tar
MAX_SIZES = 256  # files whose sizes are asked for; those of more are taken for as large on average
_THREADS = 16


@dataclass(slots=True)
class Sample:
    """What was found in a sample of a source's input, and how much of the input that is.

    `num_rows` is that of the whole input, None if unknown; `how` says how it is known. The counts below it are of the
    `num_judged` rows that were judged: pages that were parsed, candidates whose text was judged, documents that fetch
    would get, drops by reason, distinct requests by type and by host, and images whose bytes the input has.
    """

    num_files: int = 0
    num_bytes: int = 0
    num_rows: int | None = None
    how: str = ""
    num_judged: int = 0
    num_documents: int = 0
    document_bytes: int = 0  # as JSON
    dropped: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    num_inline: int = 0
    film_seconds: float = 0.0  # of the videos whose length the list states,
    num_timed: int = 0  # and the number of these
    num_candidates: int = 0
    num_pages: int = 0

    @property
    def is_whole(self) -> bool:
        """True if every row of the input was judged."""
        return self.num_rows is not None and self.num_judged >= self.num_rows


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Rows that were read of a file, of how many of its bytes they are, and whether these are all."""

    num: int
    num_bytes: int
    is_all: bool


def sample_list(spec: CorpusSpec, source: str) -> Sample:
    """Return a sample of a source that reads a list.

    Raises:
        UserError: If its files are missing or not of its format, as the build would raise it.
    """
    settings = spec.sources[source].input
    assert not isinstance(settings, CrawlInput)
    files = expand(settings.files, missing=settings.missing)
    chosen = spread(files, SAMPLED_FILES)
    found = PartCandidates(spec)
    sample = Sample(num_files=len(files), num_bytes=num_bytes([path for path, _ in files]))
    read = [_read_file(spec, source, path, name, found, sample) for path, name in chosen]
    fill(sample, found, source)
    if settings.format == "storyboard":
        sample.num_rows, sample.how = len(files), f"counted: one a file, {len(files):,} files"
    else:
        extrapolate(sample, read)
    return sample


def extrapolate(sample: Sample, read: list[ReadRows]) -> None:
    """Set the number of rows of the whole input, by those of the files that were read."""
    rows, of_bytes = sum(each.num for each in read), sum(each.num_bytes for each in read)
    if len(read) == sample.num_files and all(each.is_all for each in read):
        sample.num_rows, sample.how = rows, f"counted in {_files(sample.num_files)}"
        return
    sample.num_rows = round(rows / max(of_bytes, 1) * sample.num_bytes)
    sample.how = (
        f"extrapolated from {rows:,} rows in {of_bytes / 1e6:,.1f} MB of {_files(len(read))} "
        f"to {sample.num_bytes / 1e6:,.1f} MB of {_files(sample.num_files)}"
    )


def _read_file(spec: CorpusSpec, source: str, path: str, name: str, found: PartCandidates, sample: Sample) -> ReadRows:
    """Judge rows of a file, and count those that it has, or those of its beginning."""
    settings, kind = spec.sources[source].input, spec.sources[source].kind
    assert not isinstance(settings, CrawlInput)
    size = storage.size(path)
    reader = FORMATS[settings.format].read
    with explain_read_errors(path):
        if suffix(path) == ".parquet":
            group = Part(path, name, 0, 1)
            _judge(found, sample, source, reader(group, settings, source, kind), counts_on=False)
            return ReadRows(_num_parquet_rows(path), size, is_all=True)
        with beginning(path, is_cut=settings.format != "storyboard") as (part_path, read_bytes):
            part = Part(part_path, name)
            try:
                rows = _judge(found, sample, source, reader(part, settings, source, kind), counts_on=True)
            except UserError as error:
                raise UserError(str(error).replace(part_path, path)) from error
            return ReadRows(rows, read_bytes, is_all=read_bytes == size)


def _judge(
    found: PartCandidates, sample: Sample, source: str, outcomes: Iterator[Candidate | Drop], *, counts_on: bool
) -> int:
    """Judge the first rows of a file, and go on counting if asked; returns the number of rows that were read."""
    rows, last = 0, None
    for outcome in outcomes:
        if isinstance(outcome, Drop) and outcome.reason == "truncated_file":
            continue  # the sample ends there
        if outcome.record is not None and (row := row_of(outcome.record)) != last:
            if rows == JUDGED_ROWS and not counts_on:
                break
            rows, last = rows + 1, row
            sample.num_judged += rows <= JUDGED_ROWS
        if rows <= JUDGED_ROWS:
            sample.num_candidates += isinstance(outcome, Candidate)
            found.add(source, [outcome], asks="unasked")
    return rows


def row_of(record: str) -> str:
    """Return the row that a record names: of `<file> <row> image 3` and `<file> <row>#d01` the file and the row."""
    name, _, locator = record.rpartition(" ")
    while locator and name.endswith((" image", " sheet", " tile")):
        name, _, locator = name.rpartition(" ")[0].rpartition(" ")
    return f"{name} {locator.partition('#')[0]}"


def fill(sample: Sample, found: PartCandidates, source: str) -> None:
    """Take what was kept and dropped into the sample."""
    seen: set[str] = set()
    for row in found.rows:
        if row["source"] != source:
            continue
        sample.num_documents += 1
        sample.document_bytes += len(row["document"].encode("utf-8", "surrogatepass"))
        sample.num_inline += len(row["inline"])
        for request in requests_of(row["requests"]):
            if request.url is None or request.key in seen:
                continue
            seen.add(request.key)
            sample.requests[request.type] += 1
            if request.type != "site":
                sample.hosts[urls.authority(request.url)] += 1
            if request.type == "video" and (seconds := _stated_length(row["document"])) is not None:
                sample.film_seconds += seconds
                sample.num_timed += 1
    for drop in found.tally.drops:
        if drop.source == source and drop.unit == "document":
            sample.dropped[drop.reason] += 1


def _stated_length(document: str) -> float | None:
    """Return the length of a document's video in seconds, if the list states it."""
    scores = json.loads(document)["scores"]
    return next((score["value"] for score in scores if score["name"] == "duration_seconds"), None)


# --- files ----------------------------------------------------------------------------------------------------------


def spread(items: list[tuple[str, str]], num: int) -> list[tuple[str, str]]:
    """Return at most so many items at even distances."""
    return items if len(items) <= num else [items[i * len(items) // num] for i in range(num)]


def num_bytes(paths: list[str]) -> int:
    """Return the bytes in all files; of many, those of some at even distances times their number."""
    asked = paths if len(paths) <= MAX_SIZES else [paths[i * len(paths) // MAX_SIZES] for i in range(MAX_SIZES)]
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(storage.size, asked))
    return round(sum(sizes) / max(len(sizes), 1) * len(paths))


@contextlib.contextmanager
def beginning(path: str, *, is_cut: bool = True) -> Iterator[tuple[str, int]]:
    """Return the path of a file, or of a copy of its beginning under the same name, and the bytes that it has.

    A cut zip is unreadable, and single files of a video belong together: of these the whole is read.
    """
    size = storage.size(path)
    if size <= SAMPLED_BYTES or not is_cut or lines.compression(path) == "zip":
        yield path, size
        return
    with tempfile.TemporaryDirectory(prefix="dromaius-plan-") as folder:
        copy = Path(folder, path.partition("://")[2] or path.lstrip("/"))  # folders can name columns
        copy.parent.mkdir(parents=True, exist_ok=True)
        head = storage.read_range(path, 0, SAMPLED_BYTES)
        copy.write_bytes(head)
        yield str(copy), len(head)


def _num_parquet_rows(path: str) -> int:
    with storage.open_read(path) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _files(num: int) -> str:
    return f"{num:,} files" if num != 1 else "1 file"
