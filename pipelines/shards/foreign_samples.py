"""Documents from samples in foreign tars: img2dataset's, Energon's, plain WebDataset pairs and texts.

Nothing is inferred beyond the sample: sizes that its JSON does not state are None, permission is neither known nor
denied.
"""

import json
from typing import Any

from pipelines.document import Document, Kind, Media, Provenance, Segment
from pipelines.shards.tar_samples import TarSample

MIME_TYPES = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpe": "image/jpeg",
    "jfif": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "tiff": "image/tiff",
}
"""MIME types of images by the last component of their part's name, in lower case."""

_UNREAD_IMAGES = frozenset({"heic", "heif", "jxl", "jp2", "svg", "ico", "psd", "dng"})  # a caption of one is no text

TEXT_PARTS = ("txt", "text", "caption", "transcript")
_CAPTION_KEYS = ("caption", "text", "txt", "TEXT")


def read_document(sample: TarSample, source: str, *, images_alone: bool = False) -> Document:
    """Return the document in a tar's sample, ours or foreign.

    A JSON of schema `seq/1` is used as it is. Otherwise one image with a caption (a text part, or a key of the JSON) is
    a pair; parallel lists `images` and `texts` that name parts, as in Energon, are interleaved; text alone is text.

    Args:
        sample: With all its parts.
        source: Default of `source.dataset`.
        images_alone: Whether images without any text are a sample too, interleaved with nothing: an image decoder is
            trained on them.

    Raises:
        ValueError: If it is none of these, or its JSON or text is damaged.
    """
    if sample.fault is not None:
        raise ValueError(sample.fault)
    record: Any = {}
    if "json" in sample.parts:
        try:
            record = json.loads(sample.parts["json"])
        except ValueError as error:
            raise ValueError(f"its JSON is damaged: {error}") from error
    if isinstance(record, dict) and record.get("schema") == "seq/1":
        document = Document.from_json(sample.parts["json"])
        if document.key != sample.key:
            raise ValueError(f"its JSON is that of {document.key}")
        return document
    record = record if isinstance(record, dict) else {}
    kind, segments, media = _content(sample, record, images_alone)
    provenance = Provenance(
        dataset=source,
        record=sample.key,
        page_url=_text_or_none(record.get("page_url")),
        license=_text_or_none(record.get("license")),
    )
    return Document(kind, sample.key, tuple(segments), tuple(media), provenance, lang=_text_or_none(record.get("lang")))


def _content(sample: TarSample, record: dict[str, Any], images_alone: bool) -> tuple[Kind, list[Segment], list[Media]]:
    image_parts = [part for part in sample.parts if part.rpartition(".")[2].lower() in MIME_TYPES]
    images, texts = record.get("images"), record.get("texts")
    if isinstance(images, list) and isinstance(texts, list) and len(images) == len(texts) and image_parts:
        return _parallel_lists(sample, images, texts)
    text = _caption(sample, record)
    if len(image_parts) == 1 and text is not None:
        media = _media(sample, image_parts[0], record)
        return "pair", [Segment("image", media=0, role="content"), Segment("text", text, role="caption")], [media]
    if not image_parts and text is not None:
        if unread := [part for part in sample.parts if part.rpartition(".")[2].lower() in _UNREAD_IMAGES]:
            raise ValueError(f"parts {', '.join(unread)}: images of a format that is not read")
        return "text", [Segment("text", text)], []
    if images_alone and image_parts and text is None:
        segments = [Segment("image", media=number, role="content") for number in range(len(image_parts))]
        return "interleaved", segments, [_media(sample, part, record) for part in image_parts]
    raise ValueError(f"parts {', '.join(sample.parts)}: neither an image with a caption nor a text")


def _parallel_lists(sample: TarSample, images: list[Any], texts: list[Any]) -> tuple[Kind, list[Segment], list[Media]]:
    segments: list[Segment] = []
    media: list[Media] = []
    for image, text in zip(images, texts, strict=True):
        if isinstance(image, str):
            named = image.lower()
            part = named if named in sample.parts else named.removeprefix(f"{sample.key.lower()}.")
            if part not in sample.parts:
                raise ValueError(f"its list of images names {image!r}, which is not among its parts")
            segments.append(Segment("image", media=len(media), role="content"))
            media.append(_media(sample, part, {}))
        if isinstance(text, str) and text.strip():
            segments.append(Segment("text", text))
    if not media:
        raise ValueError("its list of images names none")
    return "interleaved", segments, media


def _media(sample: TarSample, part: str, record: dict[str, Any]) -> Media:
    return Media(
        url=_text_or_none(record.get("url")),
        part=part,
        mime=MIME_TYPES[part.rpartition(".")[2].lower()],
        width=_int_or_none(record.get("width")),
        height=_int_or_none(record.get("height")),
        source_width=_int_or_none(record.get("original_width")),
        source_height=_int_or_none(record.get("original_height")),
        bytes=len(sample.parts[part]),
        source_sha256=_text_or_none(record.get("sha256")),
        license=_text_or_none(record.get("license")),
    )


def _caption(sample: TarSample, record: dict[str, Any]) -> str | None:
    """Return the text of a sample: from a part, else from the JSON; None if there is none but spaces."""
    found = next((sample.parts[part] for part in TEXT_PARTS if part in sample.parts), None)
    if found is not None:
        try:
            text = found.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"its text is not UTF-8: {error}") from error
    else:
        text = next((record[k] for k in _CAPTION_KEYS if isinstance(record.get(k), str)), "")
    return text.strip() or None


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _int_or_none(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value else None
