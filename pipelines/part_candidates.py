"""The candidates of a part: each judged by its text and kept or dropped, and the drops of the pages they stand on."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from pipelines.block_list import NOTHING, BlockList
from pipelines.candidate import Candidate, site_request
from pipelines.crawling.ledger import LedgerRow
from pipelines.document import CAPTIONED, Document, Drop, Signal
from pipelines.drop_reasons import Reason, Refusal
from pipelines.faults import refusal_of, unless_fault
from pipelines.pages.blocks import Block, PageImage, PageText, SkippedElement
from pipelines.parts import Tally
from pipelines.spec import CorpusSpec, CrawlInput, SourceSpec
from pipelines.text.judging import EXCERPT_CHARS, excerpt, judge_text, masked_excerpt
from pipelines.text.personal_data import mask
from pipelines.web import urls
from pipelines.web.permission import UNASKED

Asks = Literal["nobody", "unasked", "all"]
"""Whose robots.txt is asked for: of no page, as our own crawl has asked; of those of which no signal says what it said;
or of all, whatever was said when another crawler fetched them."""


class PartCandidates:
    """Collector of a part's results: judged candidates and the tally.

    Args:
        spec: The corpus.
        block: What was taken down of it.
    """

    def __init__(self, spec: CorpusSpec, block: BlockList = NOTHING) -> None:
        self._spec, self._block = spec, block
        self.tally = Tally("extract")
        self.rows: list[dict[str, Any]] = []
        self.num_bytes = 0  # of the rows' documents, and of what came with them

    def add(self, source: str, found: Iterable[Candidate | Drop], *, asks: Asks = "nobody") -> None:
        """Judge the text of a source's candidates, and keep or drop each.

        Args:
            source: Its name.
            found: What was read.
            asks: Whose robots.txt is asked for, of pages that others fetched.
        """
        settings = self._spec.sources[source]
        for candidate in found:
            if isinstance(candidate, Drop):
                if candidate.url is candidate.page_url is candidate.excerpt is None:
                    self.tally.drop(candidate)  # nothing to mask: of a list, `where` may let most rows fall
                    continue
                said = unless_fault(masked_excerpt, candidate.excerpt, settings.filters)
                is_told = not (self._block.url(candidate.url) or self._block.url(candidate.page_url))
                self.tally.drop(replace(candidate, excerpt=said) if is_told else without_words(candidate))
                continue
            if not isinstance(settings.input, CrawlInput):
                self._count_contents(source, candidate.document)
            refusal: Refusal | None = None
            try:
                judged = judge_text(candidate.document, settings.filters, settings.kind)
                if self._is_taken_down(candidate) or (isinstance(judged, Document) and self._block.text(judged)):
                    judged = Refusal("taken_down")
                if self._is_unlicensed(candidate.document, settings):
                    judged = Refusal("license_not_allowed", candidate.document.source.license)
                if isinstance(judged, Document):
                    self._keep(source, self._with_site(replace(candidate, document=judged), asks))
                else:
                    refusal = judged
            except Exception as error:
                refusal = refusal_of(error)
            if refusal is not None:
                drop = Drop(
                    source=source,
                    stage="extract",
                    reason=refusal.reason,
                    unit="document",
                    key=candidate.document.key,
                    url=shown_url(candidate),
                    page_url=candidate.document.source.page_url,
                    record=candidate.record,
                    excerpt=unless_fault(excerpt, candidate.document, settings.filters),
                    detail=refusal.detail,
                )
                self.tally.drop(drop if refusal.reason != "taken_down" else without_words(drop))

    def _is_taken_down(self, candidate: Candidate) -> bool:
        videos = (request.url for request in candidate.requests if request.type == "video")
        return self._block.document(candidate.document, videos)

    def _count_contents(self, source: str, document: Document) -> None:
        """Count what a list's document has of that of which lists may lose a part."""
        num_cues = sum(s.type == "text" and s.t0 is not None for s in document.segments)
        counts = {"element": len(document.media) if document.kind not in CAPTIONED else 0, "cue": num_cues}
        for unit, num in (counts | {"track": min(num_cues, 1)}).items():
            if num:
                self.tally.keep(source, unit, num)

    def absorb(self, other: "PartCandidates") -> None:
        """Add what was collected elsewhere for the same part."""
        self.tally.absorb(other.tally)
        self.rows += other.rows
        self.num_bytes += other.num_bytes

    def _with_site(self, candidate: Candidate, asks: Asks) -> Candidate:
        """Return a candidate that asks for its page's robots.txt, or says that by the policy nobody is asked."""
        document, page = candidate.document, candidate.document.source.page_url
        # A video that is to be fetched is asked for like any media; of its page a list has nothing but the address.
        if asks == "nobody" or page is None or any(request.type == "video" for request in candidate.requests):
            return candidate
        about = [signal for signal in document.signals if signal.kind == "robots.txt" and signal.target == "page"]
        if asks == "unasked" and any(signal.value != UNASKED for signal in about):
            return candidate
        others = tuple(signal for signal in document.signals if signal not in about or signal.value != UNASKED)
        if self._spec.policy.robots_of_others == "asked":
            asking = (*candidate.requests, site_request(page))
            return replace(candidate, document=replace(document, signals=others), requests=asking)
        signal = Signal("robots.txt", "page", UNASKED, None, urls.resolve(page, "/robots.txt"))
        return replace(candidate, document=replace(document, signals=(*others, signal)))

    def _is_unlicensed(self, document: Document, settings: SourceSpec) -> bool:
        """Return whether the policy forbids the licence of a page's text; images have licences of their own."""
        is_page_text = settings.kind in ("interleaved", "text") and isinstance(settings.input, CrawlInput)
        return is_page_text and not self._spec.policy.allows_license(document.source.license)

    def _keep(self, source: str, candidate: Candidate) -> None:
        text = candidate.document.to_json()
        self.num_bytes += len(text) + sum(len(data) for _, data in candidate.inline)
        self.rows.append(
            {
                "source": source,
                "key": candidate.document.key,
                "document": text,
                "requests": candidate.requests_json(),
                "record": candidate.record,
                "inline": [{"sha256": name, "data": data} for name, data in candidate.inline],
            }
        )
        self.tally.keep(source, "document")


def without_words(drop: Drop) -> Drop:
    """Return a drop that says nothing of what was taken down but where it was read."""
    return replace(drop, url=None, page_url=None, excerpt=None, detail=None)


def shown_url(candidate: Candidate) -> str | None:
    """Return the URL by which a drop names a candidate: of its only image or video, else of its page."""
    return urls.only_url(request.url for request in candidate.media_requests) or candidate.document.source.page_url


def page_drop(source: str, row: LedgerRow, reason: Reason, detail: str | None = None) -> Drop:
    """Return the drop of a page of a ledger."""
    shown = urls.without_credentials(row.url)
    return Drop(
        source=source,
        stage="extract",
        reason=reason,
        unit="page",
        url=shown,
        page_url=shown,
        record=row.record,
        detail=detail,
    )


def block_drop(crawl: str, row: LedgerRow, block: Block) -> Drop:
    """Return the drop of a block of a page that is its host's boilerplate."""
    if isinstance(block, PageText):
        drop = page_drop(crawl, row, "host_boilerplate")
        return replace(drop, unit="block", url=None, excerpt=mask(block.text).text[:EXCERPT_CHARS])
    url = block.url if isinstance(block, PageImage) else block.sources[0]
    return element_drop(crawl, row, SkippedElement("host_boilerplate", url))


def element_drop(crawl: str, row: LedgerRow, element: SkippedElement) -> Drop:
    """Return the drop of an element of a page."""
    url = urls.without_credentials(element.url) if element.url else None
    return replace(page_drop(crawl, row, element.reason), unit="element", url=url)
