"""Plain text: The Pile and other JSON Lines, parquet with a column of texts such as FineWeb's, and text files."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from pipelines.candidate import Candidate
from pipelines.document import Kind, Segment, clean_text
from pipelines.errors import UserError
from pipelines.sources import lines
from pipelines.sources.files import Part, expand
from pipelines.sources.origin import Origin, Outcome, RowError, Rows, convert_rows, page_url
from pipelines.sources.tables import read_parquet, require_columns, row_group_parts, suffix, with_where
from pipelines.sources.where import ListFiles
from pipelines.text.encodings import decode_text

KINDS: tuple[Kind, ...] = ("text",)

# Components of The Pile that are excluded by default, and why.
PILE_EXCLUDED = {
    "Books3": "books under copyright, taken from a pirate library; withdrawn after notices",
    "BookCorpus2": "books under copyright, collected without their authors' permission",
    "OpenSubtitles": "subtitles are derivatives of films under copyright",
    "YoutubeSubtitles": "collected against the site's terms",
    "Enron Emails": "private letters of named people",
    "Ubuntu IRC": "conversations of named people",
}
PUBLISHED_COMPONENT_KEY = "pile_set_name"
MAX_TEXT_BYTES = 64 << 20  # of one document; longer ones are dropped, not truncated


class JsonlTextSettings(ListFiles):
    """JSON Lines (.jsonl, .json, also compressed), parquet, or text files (.txt)."""

    format: Literal["jsonl_text"] = "jsonl_text"
    text_field: str = Field("text", description="Key of the text; the column in parquet")
    id_field: str | None = Field(None, description="Key of the row's id; the first of id, doc_id and _id if null")
    txt_documents: Literal["file", "line"] = Field("file", description="One document per .txt file, or per line")
    exclude_components: Literal["default"] | list[str] | None = Field(
        None,
        description="Components of The Pile to exclude: 'default' (Books3 and others with known objections), or a "
        "list, which may be empty. Required if the rows name their component; null: they do not.",
    )

    @property
    def excluded(self) -> frozenset[str]:
        """Components that are excluded."""
        return frozenset(PILE_EXCLUDED if self.exclude_components == "default" else self.exclude_components or ())


def parts(settings: JsonlTextSettings) -> list[Part]:
    """Split parquet at row groups and plain line files into byte ranges; compressed files and texts are whole parts."""
    found: list[Part] = []
    for path, name in expand(settings.files, missing=settings.missing):
        if suffix(path) == ".parquet":
            found += row_group_parts(path, name, settings.part_rows)
            continue
        if suffix(path) not in (".jsonl", ".json", ".ndjson", ".txt"):
            raise UserError(
                f"{path}: its name should end in .parquet, .jsonl, .json or .txt, then .gz or .zst if compressed"
            )
        is_whole = suffix(path) == ".txt" and settings.txt_documents == "file"
        found += [Part(path, name)] if is_whole else lines.line_parts(path, name, settings.part_bytes)
    return [replace(part, index=i) for i, part in enumerate(found)]


def read(part: Part, settings: JsonlTextSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one text per row.

    Raises:
        UserError: If the file is of another format, or is part of The Pile and `exclude_components` is not set.
    """
    is_text = suffix(part.path) == ".txt"

    def convert(origin: Origin, locator: str, row: Any) -> list[Outcome]:
        return [_document(origin, locator, {settings.text_field: row} if is_text else row, settings)]

    return convert_rows(Origin(source_name, kind, part, settings), _rows(part, settings, is_text), convert)


def _rows(part: Part, settings: JsonlTextSettings, is_text: bool) -> Rows:
    if suffix(part.path) == ".parquet":
        require_columns(part, [settings.text_field])
        return read_parquet(part, where=settings.where)
    if is_text and settings.where:
        raise UserError(f"{part.path}: a text file has no columns that 'where' could judge")
    if not is_text:
        return with_where(part, lines.read_json_lines(part, MAX_TEXT_BYTES), settings.where)
    if settings.txt_documents == "line":
        return lines.read_text_lines(part, MAX_TEXT_BYTES)
    return _whole_text(part)


def _whole_text(part: Part) -> Iterator[tuple[str, str | RowError]]:
    with lines.open_stream(part.path) as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        yield "0", RowError("record_too_long", f"over {MAX_TEXT_BYTES} bytes; txt_documents: line reads it by lines")
    else:
        yield "0", decode_text(data)


def _document(origin: Origin, locator: str, row: Mapping[str, Any], settings: JsonlTextSettings) -> Candidate:
    """Return the document of a row.

    Raises:
        RowError: `missing_text`, `excluded_component` or `unknown_component`.
        UserError: If a component is named and `exclude_components` is not set.
    """
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else row.get("metadata")
    meta = meta if isinstance(meta, dict) else {}
    component = meta.get(PUBLISHED_COMPONENT_KEY)
    if component is not None and not isinstance(component, str):
        raise RowError("malformed_row", f"{PUBLISHED_COMPONENT_KEY} is no text")
    if component is not None and settings.exclude_components is None:
        raise UserError(
            f"{origin.part.path}: is part of The Pile: set exclude_components: default, which excludes "
            f"{', '.join(PILE_EXCLUDED)}, or a list of your own"
        )
    if component in settings.excluded:
        raise RowError("excluded_component", str(component))
    if component is None and settings.excluded:
        raise RowError("unknown_component", "a re-upload without meta: its component is unknown")
    text = row.get(settings.text_field)
    cleaned = clean_text(text) if isinstance(text, str) else ""
    if not cleaned:
        raise RowError("missing_text")
    page = page_url(row.get("url")) or page_url(meta.get("url"))
    names = [settings.id_field] if settings.id_field else ["id", "doc_id", "_id"]
    own = next((row[name] for name in names if isinstance(row.get(name), str | int)), None)
    record = str(own) if own is not None else locator
    document = origin.document(
        locator,
        (Segment("text", text=cleaned),),
        group=page,
        record=f"{component}:{record}" if component is not None else record,
        page_url=page,
    )
    return Candidate(document)
