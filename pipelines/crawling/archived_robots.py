"""robots.txt files that another crawler stored with its pages, such as Common Crawl's `robotstxt` subset.

A part per WARC file: the bodies end to end, and a table with a row per host, the latest answer of each. Redirects are
followed within the file, since crawlers store the whole chain there.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, Self, TypedDict
from urllib.parse import urlsplit

import pyarrow as pa

from pipelines import storage
from pipelines.crawling.archive_files import path_hash
from pipelines.crawling.index_archive import Index
from pipelines.crawling.ledger import warc_record
from pipelines.document import Drop, Signal
from pipelines.drop_reasons import Refusal
from pipelines.faults import refusal_of
from pipelines.parts import PartFolder, Tally, read_rows, write_table
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.sources.warc import CrawledPage, UnreadableRecord, read_records
from pipelines.spec import CorpusSpec
from pipelines.web import urls
from pipelines.web.permission import NOT_ARCHIVED, PolicySettings, Verdict
from pipelines.web.robots import MAX_BYTES
from pipelines.web.site_rules import MAX_KEPT_HOSTS, SiteFile, SiteRules

MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
ROBOTS_SCHEMA = pa.schema(
    [
        ("host", pa.string()),
        ("url", pa.string()),
        ("status", pa.int32()),  # null if a redirect leads out of the file
        ("fetched_at", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("sha256", pa.string()),
    ]
)


class ArchivedRobots(NamedTuple):
    """An archived robots.txt, in order of time, and the place of its body; without status if it is not there."""

    fetched_at: str
    url: str
    file: str
    offset: int
    length: int
    sha256: str
    status: int | None

    def rules(self, policy: PolicySettings) -> SiteRules:
        """Return the rules of the host by this file alone."""
        body = storage.read_range(self.file, self.offset, self.length) if self.length else b""
        return SiteRules(policy, SiteFile(self.url, self.status, body, self.fetched_at))

    @property
    def content(self) -> tuple[str, str, str, int | None]:
        """What verdicts depend on, wherever the file is stored."""
        return self.fetched_at, self.url, self.sha256, self.status


shuffle_by_fields(ArchivedRobots)


class _Answer(NamedTuple):
    """An answer in a WARC file: the place of its body, and the target if it is a redirect."""

    fetched_at: str
    host: str | None = None  # if it is of a robots.txt
    status: int | None = None
    target: str | None = None
    offset: int = 0
    length: int = 0
    sha256: str = ""


def index_robots(crawl: str, folder: PartFolder, part: str, path: str) -> Index:
    """Write the part of a WARC file of a crawl's robots.txt answers; records that cannot be read are dropped."""
    answers: dict[str, _Answer] = {}
    tally = Tally("crawl")
    with storage.write_whole(folder.file(part, ".bodies")) as bodies:
        for record in read_records(path):
            refusal = None
            try:
                url = urls.resolve(record.url or "", "")
                if isinstance(record, UnreadableRecord):
                    refusal = Refusal(record.reason, record.detail)
                elif url is not None and (url not in answers or answers[url].fetched_at <= record.fetched_at):
                    answers[url] = _answer(url, record, bodies)
            except Exception as error:
                refusal = refusal_of(error)
            if refusal is not None:
                tally.drop(
                    Drop(
                        source=crawl,
                        stage="crawl",
                        reason=refusal.reason,
                        unit="site_file",
                        url=urls.without_credentials(record.url) if record.url else None,
                        record=warc_record(path, record.warc_offset),
                        detail=urls.without_secrets(refusal.detail),
                    )
                )
    rows: list[dict[str, Any]] = []
    for url, asked in sorted(answers.items()):
        if asked.host is not None:
            final = _final_answer(asked, answers) or _Answer(asked.fetched_at)
            row = {"host": asked.host, "url": url, "status": final.status, "fetched_at": asked.fetched_at}
            rows.append(row | {"offset": final.offset, "length": final.length, "sha256": final.sha256})
    files = {".parquet": write_table(folder.file(part, ".parquet"), rows, ROBOTS_SCHEMA)}
    return Index(files, tally, len(rows))


def _answer(url: str, record: CrawledPage, bodies: IO[bytes]) -> _Answer:
    """Return what counts of a record, and write its body, of which the memory of a worker could not hold all."""
    host = urls.authority(url) if urlsplit(url).path == "/robots.txt" else None
    location = record.header("location")
    target = urls.resolve(url, location) if location and 300 <= record.status < 400 else None
    body = record.body[:MAX_BYTES] if 200 <= record.status < 300 else b""
    offset = bodies.tell()
    bodies.write(body)
    return _Answer(record.fetched_at, host, record.status, target, offset, len(body), hashlib.sha256(body).hexdigest())


def _final_answer(answer: _Answer, answers: dict[str, _Answer]) -> _Answer | None:
    """Return the answer at the end of a chain of redirects; None if it leads out of the file."""
    for _ in range(MAX_REDIRECTS + 1):
        if not 300 <= (answer.status or 0) < 400:
            return answer
        if answer.target is None or answer.target not in answers:
            return None
        answer = answers[answer.target]
    return answer  # a longer chain counts as no file


def robots_part(path: str) -> str:
    """Return the name of the part of a WARC file."""
    return f"robots-{path_hash(path)}"


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
        host = row.pop("host")
        yield f"{crawl} {host}", ArchivedRobots(file=bodies, **row)


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
        self._rules: Callable[[ArchivedRobots], SiteRules] = functools.lru_cache(MAX_KEPT_HOSTS)(
            lambda place: place.rules(policy)
        )

    @classmethod
    def of_crawl(cls, spec: CorpusSpec, crawl: str, found: list[ArchivedRobots]) -> Self:
        """Return the rules by the files of one part of a crawl, if the spec names such files for it."""
        return cls(spec.request_policy, found if spec.crawls[crawl].robots_files else None)

    def verdict(self, url: str) -> Verdict:
        """Return the verdict on a URL, by the file of its own scheme if there is one."""
        if not self._is_given:
            return Verdict()
        by_scheme = self._found.get(urls.authority(url), {})
        place = by_scheme.get(urlsplit(url).scheme) or max(by_scheme.values(), default=None)
        if place is None:
            signal = Signal("robots.txt", "page", NOT_ARCHIVED, None, urls.resolve(url, "/robots.txt"))
            return Verdict(("robots_unreachable",) if self._policy.unknown == "refuse" else (), (signal,))
        return self._rules(place).verdict(url, "page")
