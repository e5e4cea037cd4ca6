"""Hostile files that a spec may name: lists, tars, storyboards, as somebody else has made them."""

import functools
import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import zstandard

from tests.hostile.media import HIDDEN, saved
from tests.pipelines.sources.storyboard_files import INFO, storyboard

URL = "http://{host}/image.jpg"
_CAPTION = "A lantern beside the harbour"


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of a source, and one of the reasons that must be counted for it; none: all of it is used.

    `refusal` is what the command says, with exit code 2, where a file is none of its format at all.
    """

    name: str
    file: str
    make: Callable[[], bytes]
    reasons: tuple[str, ...] = ()
    format: str = "url_table"
    kind: str = "pair"
    beside: dict[str, bytes] = field(default_factory=dict)
    refusal: str | None = None


def _csv(*lines: str | bytes) -> Callable[[], bytes]:
    data = b"".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    return lambda: b"url,caption\n" + data


def _row(text: str = _CAPTION) -> str:
    return f"http://127.0.0.1/a.jpg,{text}\n"


def _delimited() -> list[FileRow]:
    zeros = bytes(1 << 24)

    def zipped(num: int = 1, *, is_encrypted: bool = False) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            for i in range(num):
                file.writestr(f"{i}.csv", b"url,caption\n" + zeros * 20)
        data = bytearray(out.getvalue())
        for start in (b"PK\x03\x04", b"PK\x01\x02"):
            data[data.index(start) + (6 if start[2] == 3 else 8)] |= is_encrypted
        return bytes(data)

    bomb = b"url\tcaption\n" + b"http://127.0.0.1/a.jpg\t"
    return [
        FileRow("csv-open-quote", "open.csv", _csv(_row('"never closed'), _row() * 3), ("malformed_row",)),
        FileRow("csv-cells", "cells.csv", _csv(_row(), "a,b,c,d\n", "alone\n"), ("malformed_row",)),
        FileRow("csv-nul", "nul.csv", _csv(_row("a \0 b"), _row() * 50), ("private_address",)),  # the NUL is left out, the address is asked
        FileRow("csv-not-utf8", "bytes.csv", _csv(_row("Un \u00e9t\u00e9 \u00e0 la mer") * 50, b"http://127.0.0.1/b.jpg,\xff\xfe\xfa\n"), ("not_utf8",)),
        FileRow("csv-long-cell", "long.csv", _csv(_row("x" * 200_000), _row()), ("malformed_row",)),
        FileRow("csv-binary", "binary.csv", lambda: b"url,caption\n" + bytes(range(256)) * 99, ("malformed_row", "bad_url", "not_utf8")),
        FileRow("tsv-gzip-bomb", "bomb.tsv.gz", lambda: gzip.compress(bomb + zeros * 20, mtime=0), ("record_too_long",)),
        FileRow("tsv-zstd-bomb", "bomb.tsv.zst", lambda: zstandard.compress(bomb + zeros * 20), ("record_too_long",)),
        FileRow("csv-cut-gzip", "cut.csv.gz", lambda: gzip.compress(_csv(_row() * 999)(), mtime=0)[:60], ("truncated_file",)),
        FileRow("csv-zip-encrypted", "encrypted.csv.zip", lambda: zipped(is_encrypted=True), refusal="encrypted"),
        FileRow("csv-zip-of-two", "two.csv.zip", lambda: zipped(2), refusal="contains 2 files; expected one"),
        FileRow("csv-empty", "empty.csv", lambda: b"", refusal="empty, or not text"),
        FileRow("csv-of-parquet", "parquet.csv", lambda: _parquet({"a": [1]}), refusal="is a parquet file"),
    ]  # fmt: skip


def _json() -> list[FileRow]:
    def lines(*rows: str) -> Callable[[], bytes]:
        good = json.dumps({"url": "http://127.0.0.1/a.jpg", "caption": _CAPTION})
        return lambda: "\n".join([good, *rows]).encode()

    return [
        FileRow("jsonl-deep", "deep.jsonl", lines("[" * 100_000, '{"a":' * 100_000), ("malformed_row",)),
        FileRow("jsonl-huge-number", "number.jsonl", lines('{"url": ' + "9" * 10_000 + "}"), ("malformed_row",)),
        FileRow("jsonl-infinity", "inf.jsonl", lines('{"url": 1e999, "caption": NaN}'), ("bad_url",)),
        FileRow("jsonl-surrogate", "half.jsonl", lines('{"url": "http://\\ud800/", "caption": "\\udc00"}'), ("bad_url",)),
        FileRow("jsonl-keys", "keys.jsonl", lines("{" + ",".join(f'"k{i}":{i}' for i in range(50_000)) + "}"), ("missing_url",)),
        FileRow("jsonl-of-html", "page.jsonl", lambda: b"<html></html>", refusal="not a JSON Lines file"),
    ]  # fmt: skip


def _parquet(columns: dict[str, Any], **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **options)
    return out.getvalue()


class _Keys(encryption.KmsClient):
    """A service of keys that keeps none."""

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return key

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return key


def _encrypted() -> bytes:
    keys = encryption.EncryptionConfiguration(footer_key="k", column_keys={"k": ["url"]}, plaintext_footer=True)
    made = encryption.CryptoFactory(lambda _: _Keys()).file_encryption_properties(
        encryption.KmsConnectionConfig(), keys
    )
    out, table = io.BytesIO(), pa.table({"url": ["http://127.0.0.1/a.jpg"], "caption": [_CAPTION]})
    with pq.ParquetWriter(out, table.schema, encryption_properties=made) as writer:
        writer.write_table(table)
    return out.getvalue()


def _tables() -> list[FileRow]:
    num = 20_000
    urls, captions = ["http://127.0.0.1/a.jpg"] * 3, [_CAPTION] * 3
    good = _parquet({"url": urls, "caption": captions})
    damaged = bytearray(
        _parquet({"url": urls * 99, "caption": captions * 99}, compression="none", use_dictionary=False)
    )
    damaged[4:60] = b"\xff" * 56

    def huge_group() -> bytes:
        return _parquet({"url": [None] * num, "caption": [_CAPTION] * num}, row_group_size=num, compression="zstd")

    def huge_cells() -> bytes:
        cells = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), ["x" * (100 << 10)])
        return _parquet({"url": cells, "caption": [_CAPTION] * 300}, compression="zstd")

    return [
        FileRow("parquet-huge-row-group", "group.parquet", huge_group, ("missing_url",)),
        FileRow("parquet-huge-cells", "cells.parquet", huge_cells, ("bad_url", "record_too_long")),
        FileRow("parquet-nulls", "nulls.parquet", lambda: _parquet({"url": pa.nulls(3), "caption": captions}), ("missing_url",)),
        FileRow("parquet-damaged-page", "damaged.parquet", lambda: bytes(damaged), ("truncated_file",)),
        FileRow("parquet-encrypted-column", "encrypted.parquet", _encrypted, ("truncated_file",)),
        FileRow("parquet-numbers", "numbers.parquet", lambda: _parquet({"url": [1, 2], "caption": [3, 4]}), refusal="holds numbers"),
        FileRow("parquet-lists", "lists.parquet", lambda: _parquet({"url": [["a"]], "caption": [["b"]]}), refusal="holds lists"),
        FileRow("parquet-other-columns", "other.parquet", lambda: _parquet({"a": [1]}), refusal="no column is known as the url"),
        FileRow("parquet-cut", "cut.parquet", lambda: good[:-9], refusal="not a complete parquet file"),
        FileRow("parquet-encrypted-footer", "footer.parquet", lambda: good[:-4] + b"PARE", refusal="not a complete parquet file"),
        FileRow("parquet-huge-footer", "length.parquet", lambda: good[:-8] + b"\xff\xff\xff\x7fPAR1", refusal="not a complete parquet file"),
    ]  # fmt: skip


def _tar(*members: tuple[str, bytes, bytes], end: bool = True) -> bytes:
    """Return a tar of (name, type, content or name of what is linked to)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as file:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            is_file = kind == tarfile.REGTYPE
            info.size, info.linkname = (len(content), "") if is_file else (0, content.decode())
            file.addfile(info, io.BytesIO(content) if is_file else None)
    return out.getvalue() if end else out.getvalue()[:-9000]


def _sized(size: bytes) -> bytes:
    """Return a tar whose first header says another size, with a right checksum."""
    data = bytearray(_tar(("a.jpg", tarfile.REGTYPE, saved())))
    data[124:136], data[148:156] = size.ljust(12, b"\0"), b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def _tars() -> list[FileRow]:
    file, image, words = tarfile.REGTYPE, saved(), _CAPTION.encode()

    def tar(name: str, data: Callable[[], bytes], *reasons: str) -> FileRow:
        return FileRow(f"tar-{name}", f"{name}.tar", data, reasons, "webdataset")

    def pair(stem: str) -> tuple[tuple[str, bytes, bytes], ...]:
        return ((f"{stem}.jpg", file, image), (f"{stem}.txt", file, words))

    def linked(kind: bytes, target: bytes) -> Callable[[], bytes]:
        return lambda: _tar(("a.jpg", kind, target), ("a.txt", file, words))

    no_image = ("missing_member", "missing_images", "malformed_sample", "other_kind")
    return [
        tar("parent-folder", lambda: _tar(*pair("../../etc/cron"))),
        tar("absolute-path", lambda: _tar(*pair("/etc/passwd"))),
        tar("windows-path", lambda: _tar(*pair("C:\\windows\\..\\x")), "malformed_sample"),
        tar("long-name", lambda: _tar(*pair("a/" * 5000 + "k"))),
        tar("control-characters", lambda: _tar(*pair("a\n\x1b[2J\u202e"))),
        tar("symbolic-link", linked(tarfile.SYMTYPE, b"/etc/passwd"), *no_image),
        tar("hard-link", linked(tarfile.LNKTYPE, b"../../etc/passwd"), *no_image),
        tar("device", linked(tarfile.CHRTYPE, b""), *no_image),
        tar("pipe", linked(tarfile.FIFOTYPE, b""), *no_image),
        tar("sparse", lambda: _tar(("a.jpg", b"S", b"")), "truncated_file"),
        tar("cut", lambda: _tar(*pair("a"), end=False)[:1500], "truncated_file"),
        tar("joined", lambda: _tar(*pair("a")) * 2, "truncated_file"),
        tar("two-parts", lambda: _tar(*pair("a"), *pair("a")), "duplicate_part"),
        tar("size-negative", lambda: _sized(b"-0000001000"), "truncated_file"),
        tar("size-of-a-petabyte", lambda: _sized(b"\x80" + (1 << 50).to_bytes(11, "big")), "truncated_file"),
        tar("not-one", lambda: b"not a tar" * 999, "truncated_file"),
        tar("polyglot", lambda: _tar(("a.jpg", file, saved() + HIDDEN), ("a.txt", file, words))),
        tar("bomb-inside", lambda: _tar(("a.jpg", file, _png_bomb()), ("a.txt", file, words)), "too_many_pixels"),
        tar("json-deep", lambda: _tar(("a.jpg", file, image), ("a.json", file, b"[" * 100_000)), "malformed_sample"),
        FileRow("tar-gzip-bomb", "bomb.tar.gz", _zeros_in_gzip, ("truncated_file",), "webdataset"),
    ]


def _png_bomb() -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + bytes(99)


@functools.cache
def _zeros_in_gzip() -> bytes:
    """Return a compressed tar whose only member has a billion bytes and is never whole."""
    head = _sized(b"10000000000")[:512]
    return gzip.compress(head, mtime=0) + gzip.compress(bytes(1 << 24), 9, mtime=0) * 32


def _storyboards() -> list[FileRow]:
    info = json.dumps(INFO).encode()

    def board(name: str, data: Callable[[], bytes], *reasons: str, about: bytes = info) -> FileRow:
        beside = {f"{name}.info.json": about, f"{name}.en.vtt": b"WEBVTT\n\n00:01.000 --> 00:02.000\nwords\n"}
        return FileRow(f"mhtml-{name}", f"{name}.mhtml", data, reasons, "storyboard", "video", beside)

    def nested() -> bytes:
        data = saved()
        for _ in range(2000):
            data = (
                b"--b\r\nContent-Type: multipart/related; boundary=b\r\nContent-Length: %d\r\n\r\n" % len(data) + data
            )
        return data

    lost = ("storyboard_malformed", "sheet_unreadable", "sheet_grid_mismatch", "too_few_images", "missing_images")
    infinite = json.dumps(INFO).replace('"width": 64', '"width": 1e999').encode()
    return [
        board("nested", nested, *lost),
        board("bomb", lambda: storyboard((0, _png_bomb())), *lost),
        board("length", lambda: b"--b\r\nContent-Length: 99999999999\r\n\r\nx", *lost),
        board("sheets", lambda: storyboard(*((i, b"") for i in range(5000))), *lost),
        board("infinite", lambda: storyboard((0, saved())), *lost, about=infinite),
        board("info-deep", lambda: storyboard((0, saved())), "malformed_row", about=b"[" * 100_000),
    ]


def file_rows() -> list[FileRow]:
    """Return all rows of files."""
    return [*_delimited(), *_json(), *_tables(), *_tars(), *_storyboards()]
