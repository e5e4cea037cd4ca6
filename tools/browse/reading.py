"""Samples and their media, read from tars at the places that the look-up knows, each by one read.

What is read is checked: a tar that was cut, or is not that of the manifest, gives an error that says so.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from jinja2 import TemplateError

from pipelines import storage
from pipelines.document import SCHEMA, Document
from pipelines.errors import UserError
from pipelines.shards.foreign_samples import read_document
from pipelines.shards.tar_samples import BLOCK, TarSample, read_sample, size_in_header
from tools.browse.catalogue import Row

NUM_THREADS = 16
"""Reads at once: on a store, each takes as long as an answer."""

BYTES_AT_ONCE = 1 << 20
"""Bytes of a member that are read at once, and held in memory for a page."""

_SNIFFED = 32
_BRANDS = {b"avif": "image/avif", b"avis": "image/avif"}
_VIDEO_BRANDS = (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ", b"dash")


class UnreadableError(UserError):
    """A sample or one of its media cannot be read."""


class UnusableError(UnreadableError):
    """A sample of a foreign tar is none that can be read, as `index` has found; nothing is damaged since."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample that was read: its document, and its JSON as it is in the tar; None if it has none."""

    row: Row
    document: Document
    json: bytes | None

    @property
    def fault(self) -> str | None:
        """What does not fit the sidecar, in one line."""
        if self.document.key == self.row.key:
            return None
        path = self.row.shard.path
        return (
            f"{path}: sample {self.row.key} of the sidecar is {self.document.key} in the tar: one is of another build"
        )


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar.

    Args:
        path: The tar.
        offset, size: Its range in the tar, bytes.
        head: Its first bytes, `BYTES_AT_ONCE` at most.
    """

    path: str
    offset: int
    size: int
    head: bytes

    def whole(self) -> bytes:
        """Return all its bytes."""
        return b"".join(self.pieces(0, self.size))

    def pieces(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield its bytes from one up to another, `BYTES_AT_ONCE` in memory."""
        if begin < len(self.head):
            yield self.head[begin:end]
            begin = len(self.head)
        while begin < end:
            size = min(BYTES_AT_ONCE, end - begin)
            yield storage.read_range(self.path, self.offset + begin, size)
            begin += size


class Reader:
    """Reader of a corpus's samples; may be used by several threads.

    Args:
        corpus: Folder of the corpus.
        is_foreign: Whether others have written its tars, of which `index` marks samples that cannot be used.
    """

    def __init__(self, corpus: str, *, is_foreign: bool = False) -> None:
        self._corpus, self._is_foreign = corpus, is_foreign
        self._pool = ThreadPoolExecutor(NUM_THREADS, "read")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self, row: Row) -> Sample:
        """Return a sample.

        Raises:
            UnreadableError: If it cannot be read.
        """
        sample = TarSample(row.key, row.byte_offset, row.byte_offset + row.bytes)
        try:
            if "json" in row.parts:
                sample.parts["json"] = self.part(row, "json")
                record = json.loads(sample.parts["json"])
                if isinstance(record, dict) and record.get("schema") == SCHEMA:
                    return Sample(row, Document.from_json(sample.parts["json"]), sample.parts["json"])
            sample = read_sample(storage.join(self._corpus, row.shard.path), row.byte_offset, sample.end)
            document = read_document(sample, row.shard.source, images_alone=True)
            return Sample(row, document, sample.parts.get("json"))
        except FileNotFoundError as error:
            raise self._unreadable(row, "the tar is missing") from error
        except (OSError, ValueError, RecursionError) as error:
            if self._is_foreign and not row.allowed and not isinstance(error, OSError):
                line = f"{row.shard.path}, sample {row.key}: no sample that can be used: {storage.error_line(error)}"
                raise UnusableError(line) from error
            raise self._unreadable(row, storage.error_line(error)) from error

    def read_all(self, rows: Sequence[Row]) -> list[Sample | UnreadableError]:
        """Return samples, or why they cannot be read."""

        def attempt(row: Row) -> Sample | UnreadableError:
            try:
                return self.read(row)
            except UnreadableError as error:
                return error

        if storage.is_local(self._corpus):
            return [attempt(row) for row in rows]
        return list(self._pool.map(attempt, rows))

    def part(self, row: Row, name: str) -> bytes:
        """Return the bytes of a member.

        Raises:
            UnreadableError: If there is no such member, or it cannot be read.
        """
        return self.member(row, name).whole()

    def member(self, row: Row, name: str) -> "Member":
        """Return a member by its beginning; the rest is read by ranges.

        Raises:
            UnreadableError: If there is no such member, or it cannot be read to its end.
        """
        if name not in row.parts:
            raise self._unreadable(row, f"it has no part {name!r}")
        offset, size = row.parts[name]
        path = storage.join(self._corpus, row.shard.path)
        try:
            data = storage.read_range(path, offset - BLOCK, BLOCK + min(size, BYTES_AT_ONCE))
            if size > BYTES_AT_ONCE:
                storage.read_range(path, offset + size - 1, 1)
        except FileNotFoundError as error:
            raise self._unreadable(row, "the tar is missing") from error
        except (OSError, EOFError) as error:
            raise self._unreadable(row, f"the tar is cut off: {storage.error_line(error)}") from error
        if size_in_header(data[:BLOCK]) != size:
            raise self._unreadable(row, f"broken tar: no member of {size:,} bytes at byte {offset - BLOCK:,}")
        return Member(path, offset, size, data[BLOCK:])

    def _unreadable(self, row: Row, why: str) -> UnreadableError:
        path = storage.join(self._corpus, row.shard.path)
        return UnreadableError(
            f"{path}, sample {row.key}: {why}. Restore the shard, or run `python -m tools audit` for all that is wrong"
        )


@contextmanager
def malformed(sample: Sample) -> Iterator[None]:
    """Turn what fails inside for a value of another type than seq/1 says into an error about the sample."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TemplateError, TypeError, ValueError) as error:
        path = sample.row.shard.path
        raise UnreadableError(
            f"{path}, sample {sample.row.key}: its JSON is not of the form {SCHEMA}: {storage.error_line(error)}"
        ) from error


def media_type(data: bytes) -> str | None:
    """Return the MIME type of an image or a video by its first bytes; None if it is none that a page may show.

    What a sample says of its media is not asked: a browser would run scripts in an SVG.
    """
    head = data[:_SNIFFED]
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "image/bmp"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return _BRANDS.get(brand) or ("video/mp4" if brand in _VIDEO_BRANDS else None)
    return "video/webm" if head.startswith(b"\x1a\x45\xdf\xa3") else None
