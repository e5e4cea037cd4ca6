"""What a row of any format holds, for its drop: its URLs and its text, by the names of its columns."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipelines.document import Kind
from pipelines.shards.foreign_samples import TEXT_PARTS
from pipelines.shards.tar_samples import TarSample
from pipelines.web import urls

_URL_COLUMNS = ("url", "image_url", "contenturl", "sample_url", "video_url", "video", "raw_url")
_PAGE_COLUMNS = ("page_url", "document_url")
_TEXT_COLUMNS = ("top_caption", "capsfusion", "caption", "text", "name", "alt", "title")
_TEXTS_COLUMNS = ("text_list", "texts", "text")
_MAX_CHARS = 2_000  # characters; a drop's excerpt is shorter


class RowContents(NamedTuple):
    """The URLs and the text that a row holds, whether it can be used or not."""

    url: str | None = None
    page_url: str | None = None
    text: str | None = None


def contents_of_row(row: Any, kind: Kind, columns: Mapping[str, str]) -> RowContents:
    """Return the URLs and the text of a row of any format, as far as they can be told by the names of its columns.

    Args:
        row: As it was read, or the text of a row that could not be parsed.
        kind: Of the source's samples, which says whether a row's URL is that of a page.
        columns: Names of columns that the spec gives, by what they hold.
    """
    if isinstance(row, str):
        shown = urls.without_secrets(row[:_MAX_CHARS])
        found = urls.URL_IN_TEXT.search(shown)
        url = found[0] if found else None
        return RowContents(url, url if kind in ("interleaved", "text") else None, shown or None)
    if isinstance(row, TarSample):
        return _contents_of_sample(row, kind, columns)
    if not isinstance(row, Mapping):
        return RowContents()
    lowered = {str(name).lower(): value for name, value in row.items() if name}  # the index of pandas has no name
    url = _first(lowered, (columns.get("url", "").lower(), *_URL_COLUMNS))
    page = _first(lowered, (columns.get("page_url", "").lower(), *_PAGE_COLUMNS)) or _page_of(lowered)
    if kind in ("interleaved", "text"):
        url, page = page or url, page or url
    text = _first(lowered, (columns.get("caption", "").lower(), *_TEXT_COLUMNS))
    if text is None:
        texts: list[Any] = next((lowered[name] for name in _TEXTS_COLUMNS if isinstance(lowered.get(name), list)), [])
        text = "\n\n".join(part for part in texts if isinstance(part, str))
    shown_url, shown_page = (urls.without_credentials(u)[:_MAX_CHARS] if u else None for u in (url, page))
    return RowContents(shown_url, shown_page, text[:_MAX_CHARS] or None)


def _contents_of_sample(sample: TarSample, kind: Kind, columns: Mapping[str, str]) -> RowContents:
    try:
        record = json.loads(sample.parts.get("json", b"{}"))
    except (ValueError, RecursionError):
        record = {}
    found = contents_of_row(record if isinstance(record, dict) else {}, kind, columns)
    text = next((data for part, data in sample.parts.items() if part in TEXT_PARTS), None)
    return found if text is None else found._replace(text=text.decode("utf-8", "replace")[:_MAX_CHARS])


def _first(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    found = (row.get(name) for name in names)
    texts = (value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in found)
    return next((value for value in texts if isinstance(value, str) and value.strip()), None)


def _page_of(row: Mapping[str, Any]) -> str | None:
    """Return the page's URL in OBELICS' and OmniCorpus' metadata."""
    general = row.get("general_metadata")
    if isinstance(general, str):
        try:
            general = json.loads(general)
        except (ValueError, RecursionError):
            return None
    return _first(general, ("url",)) if isinstance(general, Mapping) else None
