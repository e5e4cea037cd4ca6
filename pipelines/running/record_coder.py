"""Coder of the small named tuples that stages shuffle: their fields are written, not a pickle of each."""

from typing import Any, NamedTuple

from apache_beam.coders import Coder, FastPrimitivesCoder, registry

_FIELDS = FastPrimitivesCoder()


class RecordCoder(Coder):
    """Writes a record as the plain tuple of its fields, and makes the record again where it is read.

    A row of a duplicate band (key, id of 21 characters, 112 bytes) takes 195 bytes and 5.4 + 4.1 µs to write and read
    by Beam's default, which pickles it; 161 bytes and 1.2 + 1.5 µs by this; 156 bytes and 1.1 + 1.3 µs as a plain
    tuple. Beam's own `RowCoder` costs as little, but worker processes read an anonymous class with the same fields.
    """

    def __init__(self, record: Any) -> None:
        self._record = record

    def encode(self, value: tuple[Any, ...]) -> bytes:
        encoded: bytes = _FIELDS.encode(tuple(value))
        return encoded

    def decode(self, encoded: bytes) -> Any:
        return self._record._make(_FIELDS.decode(encoded))

    def to_type_hint(self) -> Any:
        return self._record

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: Any) -> "RecordCoder":
        return cls(typehint)


def shuffle_by_fields(*records: type[NamedTuple]) -> None:
    """Let Beam write these records by their fields, wherever a transform's type hints name them."""
    for record in records:
        registry.register_coder(record, RecordCoder)
