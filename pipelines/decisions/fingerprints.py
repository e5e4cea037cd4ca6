"""Values by which duplicates of a document are found, from the document and the features of its images."""

from collections.abc import Sequence

from pipelines.decisions.duplicates import DuplicateSettings, Fingerprint, minhash
from pipelines.decisions.features import MeasuredImage
from pipelines.decisions.semantic import Clusters
from pipelines.document import CAPTIONED, Document
from pipelines.parts import digest


def fingerprint(
    scope: str,
    settings: DuplicateSettings,
    document: Document,
    images: Sequence[MeasuredImage],
    embedding: bytes | None = None,
    clusters: Clusters | None = None,
) -> Fingerprint:
    """Return the fingerprint of a document.

    Args:
        scope: Name of its source, or of any other set of documents that are compared with each other.
        settings: Those of the scope.
        document: Any; a text has no images, only captioned images are compared by what they show.
        images: All its images, in order.
        embedding: Of its one image, if the scope compares images by what they show.
        clusters: Those of the scope; None without embeddings.
    """
    is_single = document.kind in CAPTIONED
    content = [image.stored_sha256 for image in images] + [s.text for s in document.segments if s.text]
    size = sum((m.source_width or 0) * (m.source_height or 0) for m in document.media)
    wants_text = document.kind in ("text", "interleaved")
    return Fingerprint(
        id=document.key,
        scope=scope,
        sha256=digest(content),
        phash=images[0].phash if is_single else None,
        signature=minhash(document.text, settings) if wants_text else None,
        embedding=embedding,
        places=() if embedding is None or clusters is None else clusters.places(document.key, embedding),
        priority=size + document.num_text_chars,
    )
