"""Tests of removing the codings of bodies that are whole, end early, have bytes behind them, or have no coding."""

import gzip
import random
import time
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from pipelines.web.content_coding import DamagedBodyError, Decoded, decode_body, is_coded

BODY = b"<html><body>" + b"".join(b"<p>Boat %d lies at the dock.</p>" % n for n in range(200)) + b"</body></html>"
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


def decoded(coding: str, body: bytes, max_bytes: int = 1 << 20, is_archived: bool = False) -> Decoded:
    return decode_body(body, [("Content-Encoding", coding)], max_bytes, is_archived=is_archived)


both = pytest.mark.parametrize("is_archived", [False, True], ids=["received", "archived"])
each = pytest.mark.parametrize("coding", ENCODERS)


@both
@each
def test_whole_data_give_the_whole_body(coding: str, is_archived: bool) -> None:
    data = ENCODERS[coding](BODY)
    assert decoded(coding, data, is_archived=is_archived) == Decoded(BODY)
    assert decoded(coding.upper(), data, is_archived=is_archived) == Decoded(BODY)


@both
@each
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, -1])
def test_data_that_end_early_are_told_from_data_that_end(coding: str, is_archived: bool, keep: float) -> None:
    data = ENCODERS[coding](BODY)
    cut = data[:-1] if keep < 0 else data[: int(len(data) * keep)]
    found = decoded(coding, cut, is_archived=is_archived)
    assert found.early_end == coding
    assert BODY.startswith(found.body)


@both
@each
@pytest.mark.parametrize("tail", [b"\0", b"\r\n", b"<!-- served by a proxy -->", bytes(100_000)])
def test_bytes_after_the_end_are_ignored(coding: str, is_archived: bool, tail: bytes) -> None:
    assert decoded(coding, ENCODERS[coding](BODY) + tail, is_archived=is_archived) == Decoded(BODY)


@both
@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_members_or_frames_are_all_read(coding: str, is_archived: bool) -> None:
    one, two = ENCODERS[coding](BODY[:2000]), ENCODERS[coding](BODY[2000:])
    assert decoded(coding, one + two, is_archived=is_archived) == Decoded(BODY)
    assert decoded(coding, one + two + b"\0\0", is_archived=is_archived) == Decoded(BODY)
    cut = decoded(coding, one + two[:-9], is_archived=is_archived)
    assert cut.early_end == coding
    assert BODY.startswith(cut.body)


@both
@pytest.mark.parametrize("num_zeros", [1, 5, 511, 100_000])
def test_zeros_between_members_are_padding(num_zeros: int, is_archived: bool) -> None:
    data = gzip.compress(BODY[:99]) + bytes(num_zeros) + gzip.compress(BODY[99:]) + bytes(num_zeros)
    assert decoded("gzip", data, is_archived=is_archived) == Decoded(BODY)


@each
def test_of_data_that_are_cut_nearly_all_is_read(coding: str) -> None:
    body = bytes(random.Random(1).choices(b"abcdefgh \n", k=300_000))
    cut = decoded(coding, ENCODERS[coding](body)[:-20])
    assert cut.early_end == coding
    assert body.startswith(cut.body)
    assert len(cut.body) > (0.5 if coding == "zstd" else 0.99) * len(body)  # zstd's blocks are of 128 KB


def test_frames_that_hold_no_data_part_others() -> None:
    skippable = b"\x51\x2a\x4d\x18\x03\0\0\0abc"
    assert decoded("zstd", zstandard.compress(BODY[:99]) + skippable + zstandard.compress(BODY[99:])) == Decoded(BODY)


def test_deflate_is_with_or_without_a_wrapper() -> None:
    assert decoded("deflate", zlib.compress(BODY)[2:-4]) == Decoded(BODY)
    assert decoded("deflate", zlib.compress(BODY)[2:-9]).early_end == "deflate"


@both
@pytest.mark.parametrize("coding", ["utf-8", "identity", "none", "text/html", "rot13", "", "compress", "aes128gcm"])
def test_an_unknown_coding_is_none(coding: str, is_archived: bool) -> None:
    assert decoded(coding, BODY, is_archived=is_archived) == Decoded(BODY)
    assert not is_coded([("Content-Encoding", coding)])


@both
def test_codings_are_removed_from_the_last_to_the_first(is_archived: bool) -> None:
    body = gzip.compress(brotli.compress(BODY))
    assert decoded("br, utf-8, GZIP", body, is_archived=is_archived) == Decoded(BODY)
    headers = [("content-encoding", "br"), ("Content-Encoding", "gzip")]
    assert decode_body(body, headers, 1 << 20, is_archived=is_archived) == Decoded(BODY)
    assert is_coded(headers)


@each
def test_only_an_archive_may_have_removed_what_the_header_says(coding: str) -> None:
    assert decoded(coding, BODY, is_archived=True) == Decoded(BODY)
    with pytest.raises(DamagedBodyError):
        decoded(coding, BODY)


@both
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])  # zstd's checksum is off by default
def test_damaged_data_are_no_text(coding: str, is_archived: bool) -> None:
    data = bytearray(ENCODERS[coding](BODY))
    data[20:60] = bytes(40)
    with pytest.raises(DamagedBodyError):
        decoded(coding, bytes(data), is_archived=is_archived)


@pytest.mark.slow
@each
def test_no_more_is_decoded_than_is_wanted(coding: str) -> None:
    bomb = ENCODERS[coding](bytes(8 << 20))
    assert decoded(coding, bomb, 1000) == Decoded(bytes(1000), is_over_limit=True)
    assert decoded(coding, ENCODERS[coding](BODY), len(BODY)) == Decoded(BODY)
    assert decoded(coding, ENCODERS[coding](BODY), len(BODY) - 1) == Decoded(BODY[:-1], is_over_limit=True)


@both
def test_a_body_has_a_handful_of_codings(is_archived: bool) -> None:
    data = BODY
    for _ in range(5):
        data = gzip.compress(data)
    assert decoded(", ".join(["gzip"] * 5), data, is_archived=is_archived).body == BODY
    with pytest.raises(DamagedBodyError, match="80000 content codings; at most 5"):
        decoded("br," * 80_000, b"x", is_archived=is_archived)


def test_an_empty_body_is_whole() -> None:
    assert decoded("gzip", b"") == Decoded(b"")


def test_many_members_take_no_longer_than_their_bytes() -> None:
    begun = time.process_time()
    assert decoded("gzip", gzip.compress(b"") * 50_000) == Decoded(b"")  # a megabyte
    assert time.process_time() - begun < 5


def archived(body: bytes, **headers: str) -> Decoded:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return decode_body(body, named, 1 << 20, is_archived=True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"6\r\n<p>two\r\n3;x=y\r\n</p\r\n1 \r\n>\r\n0\r\n\r\n", Decoded(b"<p>two</p>")),
        (b"6\n<p>two\n4\n</p>\n0\n\n", Decoded(b"<p>two</p>")),
        (b"A\r\n<p>two</p>\r\n0\r\nTrailer: x\r\n\r\njunk", Decoded(b"<p>two</p>")),
        (b"0\r\n\r\n", Decoded(b"")),
        (b"<p>two</p>", Decoded(b"<p>two</p>")),  # joined before
        (b"", Decoded(b"")),
        (b"6\r\n<p>two\r\n4\r\n</p", Decoded(b"<p>two</p", early_end="chunked")),
        (b"6\r\n<p>two\r\n4\r\n</p>\r\n", Decoded(b"<p>two</p>", early_end="chunked")),  # the last chunk is missing
        (b"20\r\n<p>two", Decoded(b"<p>two", early_end="chunked")),
        (b"6\r\n<p>two\r\nrest", Decoded(b"<p>two", early_end="chunked")),
    ],
)
def test_chunks_of_an_archive_are_joined_and_their_end_is_known(body: bytes, expected: Decoded) -> None:
    assert archived(body, Transfer_Encoding="chunked") == expected


def test_a_coding_is_within_the_chunks() -> None:
    data = gzip.compress(BODY)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
    assert archived(chunks, Transfer_Encoding="chunked", Content_Encoding="gzip") == Decoded(BODY)
    cut = archived(chunks[:-20], Transfer_Encoding="chunked", Content_Encoding="gzip")
    assert cut.early_end == "chunked"


@pytest.mark.parametrize(
    ("body", "coding", "length", "early_end"),
    [
        (BODY, "", len(BODY), None),
        (BODY, "", len(BODY) - 1, None),  # more than stated: not cut
        (BODY, "", len(BODY) + 1, "Content-Length"),
        (gzip.compress(BODY), "gzip", len(gzip.compress(BODY)), None),
        (gzip.compress(BODY) + b"\0", "gzip", len(gzip.compress(BODY)) + 9, "Content-Length"),
        (b"short", "gzip", 25, None),  # the crawler removed the coding, under which it was longer
        (b"short", "br", 9, None),
    ],
)
def test_an_archived_body_shorter_than_its_length_is_cut(
    body: bytes, coding: str, length: int, early_end: str | None
) -> None:
    assert archived(body, Content_Encoding=coding, Content_Length=str(length)).early_end == early_end
    assert archived(body, Content_Encoding=coding, Content_Length="12, 13").early_end is None
