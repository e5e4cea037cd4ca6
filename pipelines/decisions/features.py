"""Features of a document's images: the small rows that decisions read instead of images."""

from dataclasses import dataclass
from typing import Any, Self, TypedDict

import pyarrow as pa

from pipelines.document import plain

FEATURE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.string()),
        (
            "media",
            pa.list_(
                pa.struct(
                    [
                        ("stored_sha256", pa.string()),
                        ("phash", pa.uint64()),
                        ("blur", pa.float32()),
                        ("mean", pa.float32()),
                        ("std", pa.float32()),
                    ]
                )
            ),
        ),
        ("similarity", pa.list_(pa.list_(pa.float64()))),
        ("match_model", pa.string()),
    ]
)
_HEADS = pa.field(
    "heads", pa.list_(pa.struct([("name", pa.string()), ("origin", pa.string()), ("values", pa.list_(pa.float64()))]))
)
_EMBEDDING = pa.field("embedding", pa.binary())


def feature_schema(*, has_heads: bool, has_embeddings: bool) -> pa.Schema:
    """Return the columns of features: further ones where a source of the corpus asks for what they hold."""
    more = [*([_HEADS] if has_heads else []), *([_EMBEDDING] if has_embeddings else [])]
    return pa.schema([*FEATURE_SCHEMA, *more])


class HeadScores(TypedDict):
    """A score of each image of a document, and what gave it."""

    name: str
    origin: str
    values: list[float]


@dataclass(frozen=True, slots=True)
class MeasuredImage:
    """A stored image and its features, which `images.normalise.ImageFeatures` describes."""

    stored_sha256: str
    phash: int
    blur: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class MeasuredDocument:
    """The images of a document and, if its source names a CLIP model, their similarity to its texts."""

    images: tuple[MeasuredImage, ...]
    similarity: list[list[float]] | None = None  # (images, texts), 4 decimals
    match_model: str | None = None
    heads: tuple[HeadScores, ...] = ()
    embedding: bytes | None = None  # of its one image, if its source compares images by what they show

    def to_columns(self, source: str, key: str) -> dict[str, Any]:
        """Return the document's row in the parquet file."""
        return {
            "source": source,
            "key": key,
            "media": plain(self.images),
            "similarity": self.similarity,
            "match_model": self.match_model,
            "heads": list(self.heads) or None,
            "embedding": self.embedding,
        }

    @classmethod
    def from_columns(cls, row: dict[str, Any]) -> Self:
        """Return the features that `to_columns` wrote."""
        images = tuple(MeasuredImage(**image) for image in row["media"])
        heads = tuple(row.get("heads") or ())
        return cls(images, row["similarity"], row["match_model"], heads, row.get("embedding"))
