"""Lists of image URLs with captions: LAION, Re-LAION, LAION-COCO, CapsFusion, COYO, CC3M, CC12M and similar lists.

Columns are found by name, never by position. Upstream's measurements (similarity, size at its crawl, watermark and
safety scores) are kept as scores of origin `upstream`; unknown is None. A list gives no page, so no page's opt-out can
be known from it; its licence does not cover the images.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from pydantic import Field

from pipelines.candidate import Candidate, MediaRequest
from pipelines.document import Kind, Media, OtherCaption, Score, Segment
from pipelines.errors import UserError
from pipelines.sources import lines
from pipelines.sources.captions import clean_caption
from pipelines.sources.files import CompanionFile, Part, explain_open_errors
from pipelines.sources.origin import Origin, Outcome, RowError, convert_rows, media_url, page_url, upstream
from pipelines.sources.tables import open_table, require_text, table_parts, with_first_rows
from pipelines.sources.where import ListFiles
from pipelines.web.licenses import license_id

KINDS: tuple[Kind, ...] = ("pair",)

# Content of a column, by the lower-case names that data sets give it.
ALIASES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "contenturl", "sample_url"),
    "caption": ("text", "caption", "name", "alt"),
    "width": ("original_width", "width"),  # img2dataset lists both: the image as published, and as stored
    "height": ("original_height", "height"),
    "lang": ("language", "lang"),
    "page_url": ("page_url", "document_url"),
    "license": ("license",),
    "nsfw": ("nsfw",),
}
_FIRST_WINS = frozenset({"width", "height"})
ID_COLUMNS = ("id", "sample_id", "hash", "key")  # the first one present; 64 bits, so kept as text

# Captions that a model wrote, and which: they take precedence over the alt text next to them.
SYNTHETIC = {
    "top_caption": "BLIP, best of several by CLIP (LAION-COCO)",
    "capsfusion": "CapsFusion-LLaMA",
    "laion_coco": "BLIP, best of several by CLIP (LAION-COCO)",
}

# Columns of captions beside the one that is used; the first is the alt text as published.
OTHER_CAPTIONS = ("laion_2b", "laion_coco", "capsfusion")

SCORES = (
    "similarity",
    "punsafe",
    "pwatermark",
    "aesthetic",
    "aesthetic_score",
    "clip_similarity_vitb32",
    "clip_similarity_vitl14",
    "nsfw_score_opennsfw2",
    "nsfw_score_gantman",
    "watermark_score",
    "aesthetic_score_laion_v2",
    "num_faces",
)
_NSFW = {"UNLIKELY": 0.0, "UNSURE": 0.5, "NSFW": 1.0}  # LAION's coarse tag

_WITHDRAWN_COLUMNS = {"URL", "TEXT", "similarity"}  # in this case, as the original lists have them


class UrlTableSettings(ListFiles):
    """A list of image URLs with captions."""

    format: Literal["url_table"] = "url_table"
    columns: dict[str, str] = Field(
        default={}, description="Column for url, caption, width, ... if several match or none is known"
    )
    header: list[str] | None = Field(
        None, description="Names of the columns of csv and tsv files without a header; null: as the first line shows"
    )
    generator: str | None = Field(None, description="Model that wrote the captions; null: none did")
    accept_withdrawn: bool = Field(
        False, description="Read the original LAION lists although they were withdrawn for Re-LAION"
    )
    block_list: str | None = Field(
        None,
        description="File of URLs or ids to drop, one per line; it allows the original LAION lists; null: none",
    )


def parts(settings: UrlTableSettings) -> list[Part]:
    """Split the list at row groups or lines."""
    return table_parts(settings)


def companion_files(settings: UrlTableSettings) -> list[CompanionFile]:
    """Return the block list, if there is one."""
    path = settings.block_list
    return [CompanionFile(path, path.rpartition("/")[2])] if path else []


def read(part: Part, settings: UrlTableSettings, source_name: str, kind: Kind) -> Iterator[Outcome]:
    """Yield one pair per row.

    Raises:
        UserError: If a needed column is missing or ambiguous, or the list was withdrawn and is not accepted.
    """
    head, table = with_first_rows(open_table(part, settings.header, settings.where))
    columns = find_columns(part.path, table.columns, settings.columns, ("url", "caption")) if table.columns else {}
    require_text(part.path, head, [columns[role] for role in ("url", "caption") if role in columns])
    if _is_withdrawn(part.name, set(table.columns), settings):
        raise UserError(
            f"{part.path}: is one of the original LAION lists, which were withdrawn: use Re-LAION, give a block_list, "
            "or set accept_withdrawn: true"
        )
    blocked = _block_list(settings.block_list) if settings.block_list else frozenset()

    def convert(origin: Origin, locator: str, row: dict[str, Any]) -> list[Outcome]:
        return [pair_of(origin, locator, row, columns, settings.generator, blocked)]

    return convert_rows(Origin(source_name, kind, part, settings), table.rows, convert)


def pair_of(
    origin: Origin,
    locator: str,
    row: Mapping[str, Any],
    columns: Mapping[str, str],
    generator: str | None = None,
    blocked: frozenset[str] = frozenset(),
) -> Candidate:
    """Return the pair of a row: the image, then its caption.

    Raises:
        RowError: If it has no usable URL or caption, or is on the block list.
    """
    url = media_url(row.get(columns["url"]))
    record = record_id(row)
    if blocked and not blocked.isdisjoint({url, str(row[columns["url"]]).strip(), record or ""}):
        raise RowError("block_listed", url=url)
    text = row.get(columns["caption"])
    if isinstance(text, bytes):
        raise RowError("not_utf8", url=url)
    caption = clean_caption(text) if isinstance(text, str) else ""
    if not caption:
        raise RowError("missing_caption", url=url)
    generator = SYNTHETIC.get(columns["caption"].lower(), generator)
    others = _other_captions(row, columns["caption"], caption)
    alt = row.get(columns["alt"]) if "alt" in columns else others.get(OTHER_CAPTIONS[0])
    licence = row.get(columns["license"]) if "license" in columns else None
    has_licence = isinstance(licence, str) and licence.strip() not in ("", "?")
    page = page_url(row.get(columns["page_url"])) if "page_url" in columns else None
    media = Media(
        url=url,
        alt=clean_caption(alt) or None if isinstance(alt, str) else None,
        license=(license_id(str(licence)) or str(licence).strip()) if has_licence else None,
        license_evidence="upstream" if has_licence else "none-found",
    )
    lang = row.get(columns["lang"]) if "lang" in columns else None
    document = origin.document(
        locator,
        (
            Segment("image", media=0, role="content"),
            Segment(
                "text",
                text=caption,
                role="caption",
                origin="source" if generator is None else "synthetic",
                generator=generator,
            ),
        ),
        (media,),
        group=page or url,
        record=record,
        lang=lang if isinstance(lang, str) and re.fullmatch(r"[a-z]{2,3}", lang) else None,
        scores=row_scores(row, columns),
        page_url=page,
    )
    if others:
        listed = [asdict(OtherCaption(name, caption)) for name, caption in others.items()]
        document = replace(document, extras={"other_captions": listed})
    return Candidate(document, (MediaRequest("image", url, page),))


def _other_captions(row: Mapping[str, Any], used: str, caption: str) -> dict[str, str]:
    """Return CapsFusion's captions that are not the one used, cleaned, by column."""
    lowered = {str(name).lower(): value for name, value in row.items()}
    texts = {name: lowered.get(name) for name in OTHER_CAPTIONS if name != used.lower()}
    cleaned = {name: clean_caption(text) for name, text in texts.items() if isinstance(text, str)}
    return {name: text for name, text in cleaned.items() if text not in ("", caption)}


def find_columns(
    path: str,
    names: Iterable[str],
    chosen: Mapping[str, str],
    needed: tuple[str, ...],
    aliases: Mapping[str, tuple[str, ...]] = ALIASES,
) -> dict[str, str]:
    """Return the column of each role, as the file spells it.

    Args:
        path: The file, for messages.
        names: Its columns.
        chosen: Roles whose column the settings name.
        needed: Roles that must have a column.
        aliases: Possible names of a role's column, in lower case.

    Raises:
        UserError: If a role matches two columns, or a needed one matches none.
    """
    names = tuple(names)
    found: dict[str, str] = {}
    for role, name in chosen.items():
        if name not in names:
            raise UserError(f"{path}: columns.{role}: no column {name!r}; the file has {', '.join(names)}")
        found[role] = name
    for role, known in aliases.items():
        if role in found:
            continue
        matches = [name for name in names if name.lower() in known]
        if role == "caption":
            synthetic = [name for alias in ("top_caption", "capsfusion") for name in names if name.lower() == alias]
            if synthetic:  # the alt text next to it is not the caption
                found["caption"] = synthetic[0]
                if len(matches) == 1:
                    found["alt"] = matches[0]
                continue
        if role in _FIRST_WINS:
            matches = sorted(matches, key=lambda name: known.index(name.lower()))[:1]
        if len(matches) > 1:
            raise UserError(f"{path}: {' and '.join(matches)} could both be the {role}: choose one in columns.{role}")
        if matches:
            found[role] = matches[0]
    for role in needed:
        if role not in found:
            raise UserError(f"{path}: no column is known as the {role}: name one in columns.{role}; "
                            f"the file has {', '.join(names)}")  # fmt: skip
    return found


def record_id(row: Mapping[str, Any]) -> str | None:
    """Return the data set's own id of a row, as text."""
    lowered = {str(name).lower(): value for name, value in row.items()}
    found = next((lowered[name] for name in ID_COLUMNS if lowered.get(name) is not None), None)
    return str(found) if isinstance(found, str | int) and str(found) else None


def row_scores(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[Score]:
    """Return upstream's numbers on the image, in a fixed order; None if the column exists but has no number."""
    lowered = {str(name).lower(): value for name, value in row.items()}
    scores = [upstream(name, "media:0", lowered[name]) for name in SCORES if name in lowered]
    for role in ("width", "height"):
        if role in columns:
            scores.append(upstream(f"upstream_{role}", "media:0", row.get(columns[role])))
    if "nsfw" in columns:
        scores.append(upstream("nsfw_tag", "media:0", _NSFW.get(str(row.get(columns["nsfw"])).upper())))
    return scores


def _is_withdrawn(name: str, columns: set[str], settings: UrlTableSettings) -> bool:
    if settings.accept_withdrawn or settings.block_list:
        return False
    if re.search(r"re-?laion", f"{name} {settings.dataset}", re.IGNORECASE):
        return False
    return columns >= _WITHDRAWN_COLUMNS or re.search(r"laion-?(2b|5b|400m)", name, re.IGNORECASE) is not None


@functools.lru_cache(maxsize=2)
def _block_list(path: str) -> frozenset[str]:
    with explain_open_errors(path):
        return frozenset(line.strip() for _, line in lines.read_text_lines(Part(path, path)) if isinstance(line, str))
