"""Rounds of a crawl, and its accounts, as Beam transforms, of which several may be in one pipeline.

What a round leaves is read from its files, so that what a lost worker or a killed run has stored counts as well. It is
read once the round has ended: its result is a side input, which runners give only when it is complete.
"""

from collections.abc import Iterator, Sequence

import apache_beam as beam

from pipelines.block_list import BlockList
from pipelines.crawling.accounts import (
    MIN_PARTS,
    Mention,
    Verdict,
    gone_pages,
    ledger_mentions,
    link_mentions,
    num_account_parts,
    verdicts,
    write_account,
)
from pipelines.crawling.frontier import (
    Mark,
    cap_host,
    failed_site_files,
    ledger_marks,
    link_marks,
    requested_before,
    scoped_urls,
)
from pipelines.crawling.known_urls import carried_marks
from pipelines.crawling.ledger import ledger_parts, round_of
from pipelines.layout import account_folder, crawl_folder
from pipelines.parts import PartFolder
from pipelines.running.record_coder import shuffle_by_fields
from pipelines.running.shuffle import CoGroupByKey, GroupByKey, ShuffleFiles
from pipelines.spec import CorpusSpec
from pipelines.web import urls

shuffle_by_fields(Mark, Mention, Verdict)  # one per link of every page


class FindFrontier(beam.PTransform):
    """Find what a round requests: (authority, `FrontierUrl`), from (URL, `Mark`) of all that is known before it.

    Args:
        spec: The corpus.
        crawl: Name of the crawl.
        block: What was taken down.
        files: As of `GroupByKey`.
        retries_site_files: Whether site files that failed for a reason that can pass are requested again.
    """

    def __init__(
        self, spec: CorpusSpec, crawl: str, block: BlockList, files: ShuffleFiles | None, *, retries_site_files: bool
    ) -> None:
        super().__init__()
        self._settings, self._block, self._files = spec.crawls[crawl], block, files
        self._retries_site_files = retries_site_files

    def expand(self, marks: tuple[beam.PCollection, ...]) -> dict[str, beam.PCollection]:
        """Return the frontier, and as `known` the marks of each URL together."""
        by_url = marks | "ByUrl" >> GroupByKey(self._files)
        frontier = (
            {
                "num_before": by_url | "CountRequested" >> beam.FlatMap(requested_before),
                "others": by_url | "KeepNew" >> beam.FlatMap(scoped_urls, self._settings, self._block),
            }
            | "ByHost" >> CoGroupByKey(self._files)
            | "CapHosts" >> beam.FlatMap(cap_host, self._settings.max_pages_per_host)
        )
        if self._retries_site_files:
            again = by_url | "KeepFailedSiteFiles" >> beam.FlatMap(failed_site_files)
            frontier = (frontier, again) | "JoinFrontier" >> beam.Flatten()
        return {"frontier": frontier, "known": by_url}


class MarksAfter(beam.PTransform):
    """Find the marks of all that is known after a round, from what `FindFrontier` knew before it.

    Args:
        spec: The corpus.
        crawl: Name of the crawl.
        out: The corpus's folder.
        round_: The round.
        closed: What the round yielded, which is waited for.
    """

    def __init__(self, spec: CorpusSpec, crawl: str, out: str, round_: int, closed: beam.PCollection) -> None:
        super().__init__()
        self._settings, self._crawl, self._out = spec.crawls[crawl], crawl, out
        self._round, self._closed = round_, closed

    def expand(self, known: beam.PCollection) -> tuple[beam.PCollection, ...]:
        """Return collections of (URL, `Mark`)."""
        folder = crawl_folder(self._out, self._crawl)
        carried = known | "KeepMarks" >> beam.FlatMap(carried_marks, self._settings)
        parts = (
            known.pipeline
            | "Round" >> beam.Create([self._round])
            | "ListParts" >> beam.FlatMap(parts_of_round, beam.pvalue.AsList(self._closed), self._out, self._crawl)
            | "Spread" >> beam.Reshuffle()
        )
        ledgers, links = _files(parts, folder)
        requested = ledgers | "ReadLedgers" >> beam.FlatMap(ledger_marks, "requested_before", 0)
        return carried, requested, links | "ReadLinks" >> beam.FlatMap(link_marks)


def _files(parts: beam.PCollection, folder: PartFolder) -> tuple[beam.PCollection, beam.PCollection]:
    """Return the ledgers and the links of parts."""
    ledgers = parts | "Ledgers" >> beam.Map(folder.file, ".parquet")
    return ledgers, parts | "Links" >> beam.Map(folder.file, ".links.parquet")


def parts_of_round(round_: int, closed: Sequence[str], out: str, crawl: str) -> list[str]:
    """Return the names of all finished parts of a round; those that it closed itself are among them."""
    return [name for name in ledger_parts(out, crawl) if round_of(name) == round_]


def ended_by(round_: int, closed: Sequence[str], out: str, crawl: str) -> Iterator[bool]:
    """Yield True if a round found nothing to request, with which a crawl has ended."""
    if not parts_of_round(round_, closed, out, crawl):
        yield True


class WriteAccounts(beam.PTransform):
    """Write what became of each URL over all rounds: kept, or dropped with its reason.

    Takes one element if the crawl has ended, and none if not; then nothing is written.

    Args:
        spec: The corpus.
        crawl: Name of the crawl.
        out: The corpus's folder.
        block: What was taken down.
        retry_round: Round in which transient failures of earlier ones are requested again.
        files: As of `GroupByKey`.
    """

    def __init__(
        self, spec: CorpusSpec, crawl: str, out: str, block: BlockList, retry_round: int, files: ShuffleFiles | None
    ) -> None:
        super().__init__()
        self._settings, self._crawl, self._out, self._block = spec.crawls[crawl], crawl, out, block
        self._retry_round, self._files = retry_round, files

    def expand(self, ended: beam.PCollection) -> beam.PCollection:
        crawl, out, seeds = self._crawl, self._out, self._settings.seeds
        parts = (
            ended | "ListAllParts" >> beam.FlatMap(lambda _: ledger_parts(out, crawl)) | "Spread" >> beam.Reshuffle()
        )
        num_parts = ended | "NumParts" >> beam.Map(lambda _: num_account_parts(len(ledger_parts(out, crawl))))
        ledgers, links = _files(parts, crawl_folder(out, crawl))
        rows = ledgers | "ReadMentions" >> beam.FlatMap(ledger_mentions, self._retry_round)
        found = links | "ReadFound" >> beam.FlatMap(link_mentions)
        judged = (
            (rows, found, ended | "Seeds" >> beam.FlatMap(_mentioned, seeds))
            | "ByUrl" >> GroupByKey(self._files)
            | "Judge"
            >> beam.FlatMap(verdicts, self._settings, self._block, beam.pvalue.AsSingleton(num_parts, MIN_PARTS))
        )
        gone = ledgers | "ReadPurged" >> beam.FlatMap(gone_pages)
        return (
            (judged, gone)
            | "ByPart" >> GroupByKey(self._files)
            | "WriteAccounts" >> beam.Map(write_account, account_folder(out, crawl), crawl)
        )


def _mentioned(_: bool, seeds: Sequence[str]) -> Iterator[tuple[str, Mention]]:
    """Yield (URL, mention) for each seed."""
    for seed in seeds:
        yield urls.canonical_url(seed), Mention(None, 0)
