"""Documents and drops of the rows of any format, with their keys and provenance."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipelines.candidate import Candidate
from pipelines.document import Build, Document, Drop, Kind, Media, Provenance, Score, Segment, make_key
from pipelines.drop_reasons import Reason, Unit
from pipelines.faults import refusal_of, unless_fault
from pipelines.sources.files import Files, Part
from pipelines.sources.row_contents import RowContents, contents_of_row
from pipelines.web import urls


class RowError(Exception):
    """A row that cannot become a document: the reason, the details, and its text where it could not be parsed."""

    def __init__(
        self, reason: Reason, detail: str | None = None, url: str | None = None, *, text: str | None = None
    ) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.url, self.text = reason, detail, url, text


class UnwantedRowError(RowError):
    """A row that does not meet a condition of the source's `where`; of it nothing else is read or told."""


class BrokenFileError(Exception):
    """A file that ends early or is damaged from here on."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The part that rows come from; gives their documents and drops key and provenance."""

    source: str
    kind: Kind
    part: Part
    settings: Files

    def document(
        self,
        locator: str,
        segments: Iterable[Segment],
        media: Iterable[Media] = (),
        *,
        group: str | None = None,
        record: str | None = None,
        lang: str | None = None,
        scores: Iterable[Score] = (),
        **provenance: Any,
    ) -> Document:
        """Return the document of the row at `locator`, which is unique in the file and gives the row's position.

        Args:
            locator: The row's position in its file.
            segments: The sequence.
            media: Its media, without bytes.
            group: Value shared by rows that must stay in one split: the page's URL, else the media's.
            record: The data set's own id of the row, if it has one.
            lang: Language, if upstream states one.
            scores: Upstream's numbers.
            provenance: Additional fields of `Provenance`, such as `page_url`.
        """
        return Document(
            kind=self.kind,
            key=self.key(locator),
            segments=tuple(segments),
            media=tuple(media),
            source=Provenance(
                dataset=self.settings.dataset or self.source,
                record=record or locator,
                release=self.settings.release,
                file=self.part.name,
                license=self.settings.license,
                **provenance,
            ),
            lang=lang,
            scores=tuple(scores),
            build=Build(dedup_group=dedup_group(group or f"{self.source}\x1f{self.part.name}\x1f{locator}")),
        )

    def key(self, locator: str) -> str:
        """Return the key of the row's document."""
        return make_key(self.kind, self.source, self.part.name, locator)

    def record(self, locator: str) -> str:
        """Return the row's file and its position in it."""
        return f"{self.part.name} {locator}"

    def drop(
        self,
        reason: Reason,
        locator: str,
        *,
        unit: Unit = "document",
        url: str | None = None,
        page_url: str | None = None,
        excerpt: str | None = None,
        detail: str | None = None,
    ) -> Drop:
        """Return a drop of the extract stage; `detail` says what was found.

        `excerpt` is a text that was judged; the stage masks and shortens it. URLs are shown without their secrets.
        """
        return Drop(
            source=self.source,
            stage="extract",
            reason=reason,
            unit=unit,
            key=self.key(locator),
            url=urls.without_credentials(url) if url else None,
            page_url=urls.without_credentials(page_url) if page_url else None,
            record=self.record(locator),
            excerpt=urls.without_secrets(excerpt),
            detail=urls.without_secrets(detail),
        )

    def unwanted(self, row: UnwantedRowError, locator: str) -> Drop:
        """Return the drop of a row by `where`: of 10^9 most may fall, so it has no key, which would not compress."""
        return Drop(
            source=self.source,
            stage="extract",
            reason=row.reason,
            unit="document",
            record=self.record(locator),
            detail=row.detail,
        )


Rows = Iterable[tuple[str, Any]]
Outcome = Candidate | Drop


def convert_rows(
    origin: Origin, rows: Rows, convert: Callable[[Origin, str, Any], Iterable[Outcome]]
) -> Iterator[Outcome]:
    """Convert every row; a rejected one becomes a drop, as does one on which our code fails, or the rest of a file.

    Args:
        origin: The part.
        rows: (locator, row), where a row that could not even be parsed is a `RowError`.
        convert: Returns a row's candidates, or raises `RowError`.
    """
    try:
        for locator, row in rows:
            if isinstance(row, UnwantedRowError):
                yield origin.unwanted(row, locator)
                continue
            try:
                if isinstance(row, RowError):
                    raise row
                for outcome in list(convert(origin, locator, row)):  # whole, or not at all
                    if isinstance(outcome, Drop):
                        yield _completed(outcome, row, origin)
                    else:
                        yield replace(outcome, record=origin.record(locator))
            except RowError as reject:
                drop = origin.drop(reject.reason, locator, url=reject.url, excerpt=reject.text, detail=reject.detail)
                yield _completed(drop, row, origin)
            except Exception as error:
                refusal = refusal_of(error)
                drop = origin.drop(refusal.reason, locator, detail=refusal.detail)
                yield _completed(drop, row, origin)
    except BrokenFileError as error:
        yield origin.drop("truncated_file", "end", detail=str(error))
    except Exception as error:  # of the reader: what follows in the file is lost
        refusal = refusal_of(error)
        yield origin.drop(refusal.reason, "end", detail=refusal.detail)


def _completed(drop: Drop, row: Any, origin: Origin) -> Drop:
    """Return a drop with what it does not state itself; a part of a document has its page, but not its text."""
    columns = getattr(origin.settings, "columns", {})
    shown = row.text or "" if isinstance(row, RowError) else row
    held = unless_fault(contents_of_row, shown, origin.kind, columns) or RowContents()
    page = drop.page_url or held.page_url
    if drop.unit != "document":
        return replace(drop, page_url=page)
    text = drop.excerpt or urls.without_secrets(held.text)
    return replace(drop, url=drop.url or held.url, page_url=page, excerpt=text)


def dedup_group(what: str) -> str:
    """Return the name of a duplicate group: 64 bits of the hash of what its members share, mostly a page's URL."""
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def media_url(value: Any) -> str:
    """Return the canonical form of an absolute http(s) URL.

    Raises:
        RowError: `missing_url` if there is none, `bad_url` if it is not absolute http(s), `not_utf8` if it is no text.
    """
    if isinstance(value, bytes):
        raise RowError("not_utf8", "the URL")
    if value is None or not str(value).strip():
        raise RowError("missing_url")
    url = urls.resolve("", str(value))
    if url is None:
        raise RowError("bad_url", urls.without_credentials(str(value))[:200])
    return url


def page_url(value: Any) -> str | None:
    """Return the canonical URL of a page, or None if it is not usable."""
    return urls.resolve("", value) if isinstance(value, str) else None


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else: unknown is never 0."""
    if value is None or isinstance(value, bool | list | dict):
        return None
    try:
        parsed = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) else None


def upstream(name: str, target: str, value: Any) -> Score:
    """Return a score that came with the data."""
    return Score(name, target, number(value), "upstream")


def as_list(value: Any, what: str) -> list[Any]:
    """Return a list of the row.

    Raises:
        RowError: `malformed_row` if it is anything else.
    """
    if not isinstance(value, list):
        raise RowError("malformed_row", f"{what} is no list")
    return value


def as_dict(value: Any, what: str) -> dict[str, Any]:
    """Return a mapping of the row.

    Raises:
        RowError: `malformed_row` if it is anything else.
    """
    if not isinstance(value, dict):
        raise RowError("malformed_row", f"{what} is no mapping")
    return value
