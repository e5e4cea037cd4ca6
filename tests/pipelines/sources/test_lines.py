import bz2
import gzip
import io
import json
import lzma
import tracemalloc
import zipfile

import pytest
import zstandard

from pipelines.errors import UserError
from pipelines.sources.files import Part
from pipelines.sources.lines import (
    line_parts,
    open_stream,
    read_json_items,
    read_json_lines,
    read_lines,
    read_text_lines,
)
from pipelines.sources.origin import BrokenFileError, RowError

TEXT = "".join(f'{{"n": {n}}}\n' for n in range(50)).encode()


def _zip(*contents):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.jsonl", content)
    return file.getvalue()


def _write(tmp_path, data, name="x.jsonl"):
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        b"\xef\xbb\xbf" + TEXT,
        gzip.compress(TEXT),
        gzip.compress(TEXT[:60]) + gzip.compress(TEXT[60:]) + bytes(100),
        zstandard.compress(TEXT[:60]) + zstandard.compress(TEXT[60:]),
        b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstandard.compress(TEXT),
        bz2.compress(TEXT),
        lzma.compress(TEXT),
        _zip(TEXT),
    ],
    ids=["plain", "bom", "gzip", "gzip members", "zstd frames", "zstd skippable", "bz2", "xz", "zip"],
)
def test_all_of_a_compressed_file_is_read(tmp_path, data):
    rows = [row for _, row in read_json_lines(Part(_write(tmp_path, data), "x"))]
    assert rows == [{"n": n} for n in range(50)]


@pytest.mark.parametrize("part_bytes", [1, 7, 9, 64, 10_000])
def test_ranges_give_every_line_once_at_any_size(tmp_path, part_bytes):
    path = _write(tmp_path, TEXT)
    parts = line_parts(path, "x", part_bytes)
    found = [item for part in parts for item in read_lines(part)]
    assert found == list(read_lines(Part(path, "x")))
    assert len(found) == 50


def test_a_compressed_file_is_not_cut(tmp_path):
    assert len(line_parts(_write(tmp_path, gzip.compress(TEXT)), "x", 10)) == 1


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(TEXT, 0)[:-20],
        zstandard.compress(b"") + zstandard.compress(TEXT)[:-3],
        gzip.compress(TEXT) + b"junk",
    ],
    ids=["gzip", "zstd", "junk"],
)
def test_a_truncated_file_breaks_after_what_could_be_read(tmp_path, data):
    with pytest.raises(BrokenFileError):
        list(read_lines(Part(_write(tmp_path, data), "x")))


def test_what_precedes_the_break_is_read(tmp_path):
    found = []
    with pytest.raises(BrokenFileError):
        found.extend(read_lines(Part(_write(tmp_path, gzip.compress(TEXT * 10_000)[:-400]), "x")))
    assert len(found) > 100_000


def test_zips_of_two_files_and_parquet_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="contains 2 files"):
        open_stream(_write(tmp_path, _zip(TEXT, TEXT))).read()
    with pytest.raises(UserError, match="is a parquet file"):
        open_stream(_write(tmp_path, b"PAR1...."))


def test_a_line_that_is_too_long_is_passed_over(tmp_path):
    path = _write(tmp_path, b'{"a":1}\n{"b":"' + b"x" * 100 + b'"}\n{"c":3}\n')
    rows = [row for _, row in read_lines(Part(path, "x"), max_bytes=20)]
    assert rows[0] == b'{"a":1}'
    assert isinstance(rows[1], RowError)
    assert rows[1].reason == "record_too_long"
    assert rows[2] == b'{"c":3}'


def test_damaged_lines_are_rejected_with_their_reason(tmp_path):
    path = _write(tmp_path, b'{"a":"\xc3\xa9"}\n{"b":\n"\xff"\n[1]\n' + b'{"x":' * 100_000 + b"\n")
    rows = [row for _, row in read_json_lines(Part(path, "x"))]
    reasons = [row.reason for row in rows if isinstance(row, RowError)]
    assert reasons == ["malformed_row", "not_utf8", "malformed_row", "malformed_row"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (
            "Au bord du lac, près d’une forêt, où l’on aperçoit un bateau à côté du château",
            "cp1252",
        ),
        ("У озера стоит старый дом, и видна лодка", "cp1251"),
        ("湖边有一座老房子，可以看到一条船。我们沿着路回家。", "gb18030"),
        ("湖のそばに古い家があって、ボートが見えます。", "cp932"),
        ("湖边有一座老房子，可以看到一条船。", "utf-16-le"),
        ("У озера стоит старый дом", "utf-16-be"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_files_in_other_encodings_are_read_whole(tmp_path, text, encoding, pack):
    lines = [json.dumps({"n": n, "text": f"{text} {n}"}, ensure_ascii=False) for n in range(100)]
    path = _write(tmp_path, pack("\r\n".join(lines).encode(encoding)))
    (part,) = line_parts(path, "x", 1000)
    assert [line for _, line in read_text_lines(part)] == lines


def test_a_bad_byte_in_a_file_of_utf_8_is_that_rows(tmp_path):
    data = "".join(f'{{"text": "été {n}"}}\n' for n in range(100)).encode() + b'{"text": "\xe9"}\n'
    assert len(line_parts(_write(tmp_path, data), "x", 1000)) > 1
    *rows, last = [row for _, row in read_text_lines(Part(_write(tmp_path, data), "x"))]
    assert rows[99] == '{"text": "été 99"}'
    assert last.reason == "not_utf8"


def test_a_file_that_is_no_json_lines_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a JSON Lines file"):
        list(read_json_lines(Part(_write(tmp_path, b"url,caption\n"), "x")))


def test_items_of_a_large_json_come_one_by_one(tmp_path):
    value = {f"k{n}": {"text": ["ü" * 9_000, '[{"'], "n": n} for n in range(30)}
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False)):
        assert dict(read_json_items(_write(tmp_path, text.encode()))) == value
    assert list(read_json_items(_write(tmp_path, b" [1, 22 ,\n333]"))) == [("0", 1), ("1", 22), ("2", 333)]
    assert list(read_json_items(_write(tmp_path, b"{}"))) == []


@pytest.mark.parametrize(
    "data", [b'[{"a": 1}, {"b"', b'[{"a": 1}, nonsense]', b'[{"a": 1} {"b": 2}]', b'{"a": 1, 2: 3}']
)
def test_items_before_a_break_are_kept(tmp_path, data):
    items = read_json_items(_write(tmp_path, data))
    assert next(items)[1] in ({"a": 1}, 1)
    with pytest.raises(BrokenFileError):
        list(items)


def test_a_file_without_array_or_object_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a JSON array"):
        list(read_json_items(_write(tmp_path, b'"text"')))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_compressed_file_is_unpacked_a_few_megabytes_at_a_time(tmp_path, pack):
    stream = open_stream(_write(tmp_path, pack(bytes(200 << 20))))
    tracemalloc.start()
    num = sum(map(len, iter(lambda: stream.read(1 << 20), b"")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num == 200 << 20
    assert peak < 90 << 20


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(_zip(TEXT))
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UserError, match=r"x.jsonl: cannot be unpacked: File .* is encrypted"):
        list(read_lines(Part(_write(tmp_path, bytes(data)), "x")))
