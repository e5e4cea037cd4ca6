"""robots.txt files that another crawler stored with its pages, such as Common Crawl's `robotstxt` subset.

A part per WARC file: the bodies end to end, and a table with a row per host, the latest answer of each. Redirects are
followed within the file, since crawlers store the whole chain there.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict
from urllib.parse import urljoin, urlsplit

import apache_beam as beam
import pyarrow as pa

from pipelines import storage
from pipelines.document import Signal
from pipelines.faults import keep_tracebacks
from pipelines.parts import PartFolder, Receipt, Tally, read_rows, stage_inputs, write_table
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.sources.warc import CrawledPage, read_pages
from pipelines.web import urls
from pipelines.web.permission import PolicySettings, SiteFile, SiteRules, Verdict
from pipelines.web.robots import MAX_BYTES

MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
ROBOTS_SCHEMA = pa.schema(
    [
        ("host", pa.string()),
        ("url", pa.string()),
        ("status", pa.int32()),  # null if a redirect leads out of the file
        ("fetched_at", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)


class ArchivedRobots(NamedTuple):
    """An archived robots.txt, in order of time, and the place of its body; `status` -1: not in the archive."""

    fetched_at: str
    url: str
    status: int
    file: str
    offset: int
    length: int

    def rules(self, policy: PolicySettings) -> SiteRules:
        """Return the rules of the host by this file alone."""
        body = storage.read_range(self.file, self.offset, self.length) if self.length else b""
        file = SiteFile(self.url, self.status if self.status >= 0 else None, body, self.fetched_at)
        return SiteRules(policy, file)


shuffle_by_fields(ArchivedRobots)


class IndexRobots(beam.DoFn):
    """Write the part of a WARC file of robots.txt answers, given with the hash of its content; yields its name."""

    def __init__(self, folder: PartFolder, version: int, tracebacks: str) -> None:
        self._folder, self._version, self._tracebacks = folder, version, tracebacks

    def process(self, file: tuple[str, str]) -> Iterator[str]:
        keep_tracebacks(self._tracebacks)
        path, content = file
        part = robots_part(path)
        inputs = stage_inputs(self._version, path, content)
        yield self._folder.once(part, inputs, lambda: self._index(path, part, inputs)).part

    def _index(self, path: str, part: str, inputs: str) -> Receipt:
        answers: dict[str, CrawledPage] = {}
        for record in read_pages(path):
            url = urls.resolve(record.url, "")
            if url is not None and (url not in answers or answers[url].fetched_at <= record.fetched_at):
                answers[url] = record
        rows: list[dict[str, Any]] = []
        with storage.write_whole(self._folder.file(part, ".bodies")) as bodies:
            for url, asked in sorted(answers.items()):
                if urlsplit(url).path != "/robots.txt":
                    continue
                answer = _final_answer(asked, answers)
                body = answer.body[:MAX_BYTES] if answer is not None and 200 <= answer.status < 300 else b""
                row = {"host": urls.authority(url), "url": url, "status": answer.status if answer else None}
                row |= {"fetched_at": asked.fetched_at, "offset": bodies.tell(), "length": len(body)}
                bodies.write(body)
                rows.append(row)
        files = {".parquet": write_table(self._folder.file(part, ".parquet"), rows, ROBOTS_SCHEMA)}
        return self._folder.finish(part, inputs, Tally("crawl"), files, num=len(rows))


def _final_answer(answer: CrawledPage, answers: dict[str, CrawledPage]) -> CrawledPage | None:
    """Return the answer at the end of a chain of redirects; None if it leads out of the file."""
    for _ in range(MAX_REDIRECTS + 1):
        if not 300 <= answer.status < 400:
            return answer
        target = urls.resolve("", urljoin(answer.url, answer.header("location") or ""))
        if target is None or target not in answers:
            return None
        answer = answers[target]
    return answer  # a longer chain counts as no file


def robots_part(path: str) -> str:
    """Return the name of the part of a WARC file."""
    return f"robots-{hashlib.sha256(path.encode()).hexdigest()[:16]}"


# --- what they say of pages ------------------------------------------------------------------------------------------


class HostRobots(TypedDict):
    """Archived robots.txt files of a host, and the tasks that have pages of it."""

    robots: list[ArchivedRobots]
    tasks: list[str]


def robots_of_table(table: tuple[str, str]) -> Iterator[tuple[str, ArchivedRobots]]:
    """Yield (crawl and host, place) for every row of a part's table, which is given as (crawl, path)."""
    crawl, path = table
    bodies = path.removesuffix(".parquet") + ".bodies"
    for row in read_rows(path):
        status = -1 if row["status"] is None else row["status"]
        place = ArchivedRobots(row["fetched_at"], row["url"], status, bodies, row["offset"], row["length"])
        yield f"{crawl} {row['host']}", place


def robots_for_tasks(joined: tuple[str, HostRobots]) -> Iterator[tuple[str, ArchivedRobots]]:
    """Yield (task, place) for every task that has pages of a host: of each scheme the latest file."""
    latest = {urlsplit(place.url).scheme: place for place in sorted(joined[1]["robots"])}
    for task in joined[1]["tasks"]:
        for place in latest.values():
            yield task, place


class ArchivedRules:
    """What robots.txt said of pages when another crawler fetched them, by the files that it stored.

    Args:
        policy: What counts as a refusal.
        found: The files of the hosts of a part; None if none were given, so that there is nothing to judge by.
    """

    def __init__(self, policy: PolicySettings, found: list[ArchivedRobots] | None) -> None:
        self._policy = policy
        self._is_given = found is not None
        self._found: dict[str, dict[str, ArchivedRobots]] = {}
        for place in sorted(found or []):
            self._found.setdefault(urls.authority(place.url), {})[urlsplit(place.url).scheme] = place
        self._rules: dict[ArchivedRobots, SiteRules] = {}

    def verdict(self, url: str) -> Verdict:
        """Return the verdict on a URL, by the file of its own scheme if there is one."""
        if not self._is_given:
            return Verdict()
        by_scheme = self._found.get(urls.authority(url), {})
        place = by_scheme.get(urlsplit(url).scheme) or max(by_scheme.values(), default=None)
        if place is None:
            signal = Signal("robots.txt", "page", "not in the archive", None, urls.resolve(url, "/robots.txt"))
            return Verdict(("robots_unreachable",) if self._policy.unknown == "refuse" else (), (signal,))
        if place not in self._rules:
            self._rules[place] = place.rules(self._policy)
        return self._rules[place].verdict(url, "page")
