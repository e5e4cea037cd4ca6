"""Images of a sample: there, decoded, of the size and hash that its JSON states, without metadata of a camera."""

import hashlib
from collections.abc import Iterator, Sequence

from PIL import Image

from pipelines.document import Document, Media
from pipelines.images.metadata import MIME, Format, Metadata, read_metadata, read_size, sniff_format
from pipelines.images.pixels import MAX_PIXELS, decode
from pipelines.shards.tar_samples import TarSample
from pipelines.shards.writer import EXTENSIONS
from tools.audit.samples import SampleFault


def image_hashes(sample: TarSample, document: Document) -> list[str | None]:
    """Return the sha256 of each image of a sample; None for one that is missing."""
    found = (sample.parts.get(str(media.part).lower()) for media in document.media)
    return [None if data is None else hashlib.sha256(data).hexdigest() for data in found]


def media_faults(
    sample: TarSample, document: Document, hashes: Sequence[str | None], *, is_ours: bool
) -> Iterator[SampleFault]:
    """Yield the faults of a sample's images.

    Args:
        sample: With all its parts.
        document: What its JSON or its parts say of them.
        hashes: By `image_hashes`.
        is_ours: Whether the images were stored by this project: then format, hash and size must be stated, and there
            is no EXIF or XMP.
    """
    for i, (media, digest) in enumerate(zip(document.media, hashes, strict=True)):
        data = sample.parts.get(str(media.part).lower())
        if data is None:
            yield SampleFault("media_missing", f"media {i}: no member {media.part!r}")
            continue
        for kind, words in _faults(data, media, digest, is_ours=is_ours):
            yield SampleFault(kind, f"media {i}: {words}")


def _faults(data: bytes, media: Media, digest: str | None, *, is_ours: bool) -> Iterator[tuple[str, str]]:
    if digest != media.stored_sha256 and (is_ours or media.stored_sha256 is not None):
        yield "media_hash", f"sha256 {digest}, its JSON says {media.stored_sha256}"
    if is_ours and len(data) != media.bytes:
        yield "media_size", f"{len(data)} bytes, its JSON says {media.bytes}"
    format = sniff_format(data)
    if format is None:
        yield "media_broken", f"not an image: begins with {data[:16]!r}"
        return
    # In foreign tars a name is often wrong; readers go by the bytes.
    if is_ours and (not str(media.part).endswith(EXTENSIONS.get(MIME[format], "-")) or media.mime != MIME[format]):
        yield "media_format", f"a {MIME[format]} named {media.part!r}, its JSON says {media.mime}"
    metadata = read_metadata(data, format)
    size = _decoded(data, format, metadata)
    if isinstance(size, str):
        yield "media_broken", size
        return
    if (is_ours or (media.width, media.height) != (None, None)) and size != (media.width, media.height):
        yield "media_size", f"{size[0]}x{size[1]} pixels, its JSON says {media.width}x{media.height}"
    if metadata.exif or metadata.xmp:
        names = " and ".join(n for n, held in (("EXIF", metadata.exif), ("XMP", metadata.xmp)) if held)
        yield "media_metadata", f"it carries {names} of {len(metadata.exif) + len(metadata.xmp)} bytes"


def _decoded(data: bytes, format: Format, metadata: Metadata) -> tuple[int, int] | str:
    """Return width and height of the decoded pixels, or why they cannot be decoded."""
    try:
        width, height = read_size(data, format)
        if width * height > MAX_PIXELS:
            return f"{width}x{height} pixels, more than are ever decoded"
        # All coefficients of a JPEG are read, and one pixel in 64 is computed of them, in which nothing can fail.
        pixels = decode(data, format, (1, 1), metadata=metadata).pixels
    except (ValueError, Image.DecompressionBombError) as error:
        return f"broken {format}: {error}"
    return (width, height) if format == "jpeg" else (pixels.shape[1], pixels.shape[0])
