"""The documents of a part: each candidate completed with its media, judged again and kept, or dropped with a reason."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.block_list import NOTHING, BlockList
from pipelines.candidate import Candidate
from pipelines.document import Document, Drop, plain
from pipelines.drop_reasons import Refusal, Unit
from pipelines.faults import refusal_of, unless_fault
from pipelines.media.completion import complete, failed_completion
from pipelines.media.missing import Renditions, is_blocked_request, store_key
from pipelines.media.raw_store import Blob, StoredFeatures, StoredMedia
from pipelines.media.site_files import PagePermission
from pipelines.part_candidates import shown_url, without_words
from pipelines.parts import Tally
from pipelines.spec import CorpusSpec
from pipelines.text.judging import excerpt, judge_spoken, masked_excerpt
from pipelines.web import urls


class PartDocuments:
    """Collector of a part's results: rows of completed documents and the tally.

    Args:
        spec: The corpus.
        renditions: Of its sources.
        stored: The results of requests that the part's candidates need, by store key.
        permission: What the hosts of their pages say today.
        block: What was taken down, which the store does not have.
    """

    def __init__(
        self,
        spec: CorpusSpec,
        renditions: Renditions,
        stored: Mapping[str, StoredMedia],
        permission: PagePermission,
        block: BlockList = NOTHING,
    ) -> None:
        self._spec, self._renditions, self._stored, self._permission = spec, renditions, stored, permission
        self._block = block
        self.tally = Tally("fetch")
        self.rows: list[dict[str, Any]] = []

    def add(self, source: str, candidate: Candidate) -> None:
        """Complete a source's candidate, and keep or drop its document and each of its media."""
        names = self._renditions[source]
        filters = self._spec.sources[source].filters
        document, about = candidate.document, candidate.document
        features: dict[Blob, StoredFeatures | None] = {}
        try:
            permitted = self._permitted(candidate)
            if isinstance(permitted, Candidate):
                results = {r.key: self._result(names[r.type], r.key) for r in permitted.requests}
                features = {item.blob: item.features for found in results.values() for item in found.items}
                result = complete(permitted, results, filters.min_images, self._spec.policy.allows_license)
                judged = result.document or result.refusal
            else:
                result, judged = failed_completion(candidate), permitted
            if isinstance(judged, Document) and judged.kind == "video":
                judged = judge_spoken(judged, filters)
            if isinstance(judged, Refusal):
                about = result.document or document
            else:
                assert judged is not None
                completed = judged.to_json()
        except Exception as error:
            result, judged = failed_completion(candidate), refusal_of(error)
        # A video is one request and becomes many images, which the filter counts as media.
        unit: Unit = "video" if any(r.type == "video" for r in candidate.requests) else "media"
        gone = Drop(
            source=source,
            stage="fetch",
            reason="document_dropped",
            unit=unit,
            key=document.key,
            page_url=document.source.page_url,
            record=candidate.record,
        )
        for lost in result.lost:
            drop = replace(gone, reason=lost.reason, url=lost.url, detail=urls.without_secrets(lost.detail))
            self.tally.drop(drop if lost.reason != "taken_down" else without_words(drop))
        for gap in result.lost_texts:
            said = unless_fault(masked_excerpt, gap.text, filters)
            self.tally.drop(
                replace(
                    gone,
                    unit=gap.unit,
                    reason=gap.reason,
                    url=gap.url,
                    excerpt=said,
                    detail=urls.without_secrets(gap.detail),
                )
            )
        if isinstance(judged, Refusal):
            text = unless_fault(excerpt, about, filters)
            drop = replace(
                gone, reason=judged.reason, unit="document", excerpt=text, detail=urls.without_secrets(judged.detail)
            )
            drop = replace(drop, url=shown_url(candidate))
            self.tally.drop(drop if judged.reason != "taken_down" else without_words(drop))
            for url in result.found:
                self.tally.drop(replace(gone, url=url))
            return
        self.tally.keep(source, "document")
        if result.found:
            self.tally.keep(source, unit, len(result.found))
        if unit == "video" and document.kind == "conversation":  # others of the source have images, counted as media
            self.tally.keep(source, "media", len(result.blobs))
        if result.num_cues:
            self.tally.keep(source, "track")
            self.tally.keep(source, "cue", result.num_cues)
        self.rows.append(
            {
                "source": source,
                "key": document.key,
                "record": candidate.record,
                "document": completed,
                "blobs": plain(result.blobs),
                "features": [plain(features.get(blob)) for blob in result.blobs],
            }
        )

    def _result(self, rendition: str, key: str) -> StoredMedia:
        """Return the result of a request; of one that is not made, since it was taken down, that."""
        if is_blocked_request(key, self._block):
            return StoredMedia(key, "taken_down")
        return self._stored[store_key(rendition, key)]

    def _permitted(self, candidate: Candidate) -> Candidate | Refusal:
        """Return the candidate with what its page's host says today, or the refusal."""
        site, page_url = candidate.site, candidate.document.source.page_url
        if site is None or page_url is None:
            return candidate
        verdict = self._permission.verdict(site, page_url)
        if verdict.reason is not None:
            return Refusal(verdict.reason, ", ".join(verdict.reasons))
        document = candidate.document
        signals = tuple(dict.fromkeys((*document.signals, *verdict.signals)))
        return replace(candidate, document=replace(document, signals=signals), requests=candidate.media_requests)
