"""Features of a document's images: the small rows that decisions read instead of images."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

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

    def to_columns(self, source: str, key: str) -> dict[str, Any]:
        """Return the document's row in the parquet file."""
        return {
            "source": source,
            "key": key,
            "media": [asdict(image) for image in self.images],
            "similarity": self.similarity,
            "match_model": self.match_model,
        }

    @classmethod
    def from_columns(cls, row: dict[str, Any]) -> Self:
        """Return the features that `to_columns` wrote."""
        return cls(tuple(MeasuredImage(**image) for image in row["media"]), row["similarity"], row["match_model"])
