"""URLs that a crawl knows, carried from round to round, so that no round reads the ledgers and links of all before it.

What is carried is a function of the files of earlier rounds alone, one mark per URL and state: links repeat a URL on
every page of a site. It may be removed at any time; the next round then reads all earlier rounds again.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from pipelines import storage
from pipelines.crawling.frontier import Mark, State, scope_reason
from pipelines.document import canonical_json
from pipelines.parts import read_rows, write_table
from pipelines.spec import CrawlSettings

ROWS_PER_FILE = 200_000
_SCHEMA = pa.schema([("url", pa.string()), ("state", pa.string()), ("depth", pa.int32())])
_LATEST = "latest.json"


@dataclass(frozen=True, slots=True)
class KnownUrls:
    """Files of the marks that all rounds before `round` have left."""

    round: int = 0
    files: tuple[str, ...] = ()


def known_before(folder: str, inputs: str, round_: int) -> KnownUrls:
    """Return what is carried for a round; nothing if it was made of other inputs.

    Args:
        folder: Of what is carried.
        inputs: Hash of what marks depend on beside the files of earlier rounds.
        round_: The round that is about to run.
    """
    path = storage.join(folder, _LATEST)
    if not storage.exists(path):
        return KnownUrls()
    latest = json.loads(storage.read_bytes(path))
    if latest["inputs"] != inputs or latest["round"] > round_:
        return KnownUrls()
    return KnownUrls(latest["round"], tuple(storage.join(folder, name) for name in latest["files"]))


def carry(folder: str, inputs: str, round_: int, run: str) -> None:
    """Make what a run of `WriteMarks` has written known to the next round, and remove what was carried before."""
    names = sorted(path.rpartition("/")[2] for path in storage.list_files(folder, ".parquet"))
    files = [name for name in names if name.startswith(f"{run}-")]
    latest = {"inputs": inputs, "round": round_, "files": files}
    storage.write_bytes(storage.join(folder, _LATEST), canonical_json(latest).encode())
    for name in set(names) - set(files):
        storage.remove(storage.join(folder, name))


def known_marks(path: str) -> Iterator[tuple[str, Mark]]:
    """Yield (URL, mark) for each row of a file of `WriteMarks`."""
    for row in read_rows(path):
        yield row["url"], Mark(row["state"], row["depth"])


def carried_marks(grouped: tuple[str, Iterable[Mark]], settings: CrawlSettings) -> Iterator[tuple[str, Mark]]:
    """Yield the marks by which later rounds decide on a URL: the nearest of each state.

    What this round requests is read from its ledger. A URL that is out of scope, or too far from a seed by the links
    found so far, is not carried unless it was requested.
    """
    url, nearest = grouped[0], dict[State, int]()
    for mark in grouped[1]:
        nearest[mark.state] = min(mark.depth, nearest.get(mark.state, mark.depth))
    nearest.pop("requested_now", None)
    found = nearest.get("found")
    if found is not None and ("requested_before" in nearest or scope_reason(url, found, settings) is not None):
        del nearest["found"]
    for state, depth in sorted(nearest.items()):
        yield url, Mark(state, depth)


class WriteMarks(beam.DoFn):
    """Write (URL, mark) rows into files of the folder, whose names begin with the run."""

    def __init__(self, folder: str, run: str) -> None:
        self._folder, self._run = folder, run

    def start_bundle(self) -> None:
        self._rows: list[dict[str, object]] = []

    def process(self, row: tuple[str, Mark]) -> None:
        url, mark = row
        self._rows.append({"url": url, "state": mark.state, "depth": mark.depth})
        if len(self._rows) >= ROWS_PER_FILE:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._rows:
            name = f"{self._run}-{uuid.uuid4().hex[:16]}.parquet"
            write_table(storage.join(self._folder, name), self._rows, _SCHEMA)
            self._rows = []
