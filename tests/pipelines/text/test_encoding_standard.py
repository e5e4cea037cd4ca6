"""Tests of the decoders and encoders of the Encoding Standard, against those of Firefox (`encoding_rs` 0.8)."""

import hashlib
import itertools
import random
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pytest
import webencodings.labels

from pipelines.text.encoding_standard import decode, encoding_name, percent_encoded

# Beginnings of the sha256 of all `sequences` decoded, and of `CHARACTERS` percent-encoded, by encoding_rs 0.8.44: one
# a line, without a last line break.
DIGESTS: dict[str, tuple[str, str]] = {
    "big5": ("e7cde8dbb405317d", "513a1e3e45dfd2b1"),
    "euc-jp": ("3e084eb622b0e7bc", "5bc59feff433f5d7"),
    "euc-kr": ("eaf29abb06615ec1", "db268a6612511ba8"),
    "gb18030": ("f06cc86df262dd23", "580b1fbfb4e230f8"),
    "gbk": ("9400d7aa9d576231", "67f4bf55e19b04c8"),
    "ibm866": ("e4d6ff5ca5ada13a", "66983029ee35c111"),
    "iso-2022-jp": ("0048c2425c118126", "38e44e8c42262a67"),
    "iso-8859-10": ("4f9e6ea68a80234a", "10ca9b5bed93485e"),
    "iso-8859-13": ("e0dc2e83c4600e7f", "6f55118e787188a5"),
    "iso-8859-14": ("cc0467a122c68308", "ff17814dd0977b6b"),
    "iso-8859-15": ("02da73e6cb687359", "44b0a6c771b130d7"),
    "iso-8859-16": ("1695e6848a2fa540", "a3ca00ab6fb255fb"),
    "iso-8859-2": ("f06000761c8bcf26", "756dae92224361e8"),
    "iso-8859-3": ("202a1b363622d2ae", "5d6cb48e8b9cd083"),
    "iso-8859-4": ("f7076eceae60e496", "1ae77cddef2d7248"),
    "iso-8859-5": ("93b826201406f5c1", "10e7f450fe14077c"),
    "iso-8859-6": ("7bd8ab9b93da30d5", "f02a48aed94da522"),
    "iso-8859-7": ("6990b4f2c0f41585", "5b4cc118975f5dec"),
    "iso-8859-8": ("3fece254a648dccd", "bc085dbeb9261547"),
    "iso-8859-8-i": ("3fece254a648dccd", "bc085dbeb9261547"),
    "koi8-r": ("4864274e118185ef", "4a037e5b21ffb8f7"),
    "koi8-u": ("0fdfdda8e9261a58", "de4e88d63eaa933a"),
    "macintosh": ("07da6af6067c9558", "cdafdfb221997897"),
    "shift_jis": ("4d883c3b0320007b", "43506e31c2f1d480"),
    "windows-1250": ("01dd09bae2d209f4", "d2771eb5aab9d338"),
    "windows-1251": ("64bc96a197c74f59", "db98efdc897af036"),
    "windows-1252": ("d486335e5257b059", "b7bcbe66b02b060b"),
    "windows-1253": ("9e4c70ccbbd0778f", "869919c77115d9f0"),
    "windows-1254": ("390edd6fb0372487", "84f75c3647094fd5"),
    "windows-1255": ("eb0725777360879e", "dea0b83f5a503abb"),
    "windows-1256": ("5526d72d1fce45fa", "6f3c0cf18195c870"),
    "windows-1257": ("6df262bb978fac4d", "befd9b8daa9b3567"),
    "windows-1258": ("4744ca2fc1f4eb72", "b4cc2d4fcf556c17"),
    "windows-874": ("17408160a539642a", "bd8ba626f02a97f1"),
    "x-mac-cyrillic": ("ce302a812a98d7f3", "e458de1f3cfc4841"),
    "x-user-defined": ("eeb486ac8bd5c248", "46f618e416c82788"),
}
CHARACTERS = [chr(c) for c in (*range(0x80, 0x3400), *range(0x4E00, 0x9FA6, 7), *range(0xAC00, 0xD7A4, 11))]
CHARACTERS += [chr(c) for c in (*range(0xE000, 0xE900, 3), *range(0xF900, 0x10000, 2), 0x1F600, 0x20021, 0x2F9D4)]
CHARACTERS = [c for c in CHARACTERS if c not in "¥‾"]  # ISO-2022-JP has them in a third set, which is not written


def sequences(encoding: str) -> Iterator[bytes]:
    """Yield all single bytes and, in encodings of several bytes, all pairs and random sequences of up to nine."""
    yield from (bytes([byte]) for byte in range(256))
    if encoding not in ("big5", "euc-jp", "euc-kr", "gb18030", "gbk", "iso-2022-jp", "shift_jis"):
        return
    yield from map(bytes, itertools.product(range(0x80, 256), range(256)))
    rng = random.Random(encoding)
    escapes = [b"\x1b(B", b"\x1b$B", b"\x1b$@", b"\x1b(J", b"\x1b(I", b"\x1b", b"!!", b"0!", b"a"]
    for _ in range(20_000):
        if encoding == "iso-2022-jp":
            yield b"".join(rng.choice([*escapes, bytes([rng.randrange(256)])]) for _ in range(rng.randrange(2, 10)))
        else:
            bounds = ((0, 256), (0x80, 256), (0xA1, 0xFF), (0x30, 0x3A))
            yield bytes(rng.randrange(*rng.choice(bounds)) for _ in range(rng.randrange(3, 10)))
    if encoding == "iso-2022-jp":
        yield from (b"\x1b$B" + bytes(pair) for pair in itertools.product(range(0x20, 0x80), range(0x20, 0x80)))
    if encoding == "euc-jp":
        yield from (b"\x8f" + bytes(pair) for pair in itertools.product(range(0xA0, 256), range(0xA0, 256)))


@pytest.mark.parametrize("encoding", DIGESTS)
def test_every_sequence_is_what_browsers_make_of_it(encoding: str) -> None:
    text = "\n".join(decode(sequence, encoding) for sequence in sequences(encoding))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[encoding][0]


@pytest.mark.parametrize("encoding", DIGESTS)
def test_characters_are_written_as_browsers_write_them(encoding: str) -> None:
    text = "\n".join(percent_encoded(character, encoding) for character in CHARACTERS)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGESTS[encoding][1]


@pytest.mark.parametrize(
    ("label", "data", "text"),
    [
        ("euc-kr", "펲시".encode("cp949"), "펲시"),
        ("ks_c_5601-1987", "똠방각하".encode("cp949"), "똠방각하"),
        ("Shift_JIS", "㈱①髙".encode("cp932"), "㈱①髙"),
        ("x-sjis", b"\x80\xa0a", "\x80\ufffda"),
        ("gb2312", "镕".encode("gbk") + b"\x80", "镕€"),
        ("gbk", "㐀".encode("gb18030"), "㐀"),
        ("big5", b"\x9f\xd8\xa3\xe1\xc6\xe7\x88\x62", "弌€ぁÊ̄"),
        ("euc-jp", b"\xad\xa1\xad\xea\x8f\xb0\xa1", "①㈱丂"),
        ("iso-2022-jp", b"\x1b$B-!\x1b(B a", "① a"),
        ("iso-8859-1", b"\x93\xe9\x94\x81", "“é”\x81"),
        ("windows-1251", b"\xcf\x98", "П\x98"),
        ("iso-8859-11", b"\xa1\x85", "ก…"),
        ("koi8-ru", b"\xae", "ў"),
        ("x-user-defined", b"a\xff", "a\uf7ff"),
        ("hz-gb-2312", b"~{<:Ky~}", "\ufffd"),
        (" UTF8\n", "é".encode(), "é"),
        ("unicode", b"a\0\xac\x20", "a€"),
    ],
)
def test_labels_mean_the_decoders_of_the_standard(label: str, data: bytes, text: str) -> None:
    encoding = encoding_name(label)
    assert encoding is not None
    assert decode(data, encoding) == text


@pytest.mark.parametrize("label", [None, "", "nonsense", "utf-7", "rot13", "\u212a", "utf-32"])
def test_other_names_mean_nothing(label: str | None) -> None:
    assert encoding_name(label) is None


@pytest.mark.parametrize("encoding", ["euc-kr", "gbk", "shift_jis", "big5", "euc-jp"])
def test_one_bad_byte_is_one_replacement_character(encoding: str) -> None:
    words = {"euc-kr": "호수", "gbk": "湖边", "shift_jis": "湖の", "big5": "湖邊", "euc-jp": "湖の"}[encoding]
    data = unquote_to_bytes(percent_encoded(words, encoding))
    assert decode(data + b"\xff<p>" + data, encoding) == f"{words}\ufffd<p>{words}"
    assert decode(data + data[:1] + b"<p>" + data, encoding) == f"{words}\ufffd<p>{words}"
    assert decode(data + data[:1], encoding) == f"{words}\ufffd"


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("q=湖 a", "shift_jis", "q=%8C%CE a"),
        ("q=表", "shift_jis", "q=%95%5C"),
        ("q=мир", "windows-1251", "q=%EC%E8%F0"),
        ("q=мир", "iso-8859-2", "q=%26%231084%3B%26%231080%3B%26%231088%3B"),
        ("q=湖の", "iso-2022-jp", "q=%1B%24%42%38%50%24%4E%1B%28%42"),
        ("q=é", "utf-16le", "q=%C3%A9"),
        ("q=é", "replacement", "q=%C3%A9"),
        ("q=\U0001f600", "gb18030", "q=%94%39%FC%36"),
        ("q=\U0001f600", "gbk", "q=%26%23128512%3B"),
    ],
)
def test_queries_are_written_in_the_encoding(text: str, encoding: str, expected: str) -> None:
    assert percent_encoded(text, encoding) == expected


def test_every_label_of_the_standard_is_decoded() -> None:
    for encoding in set(webencodings.labels.LABELS.values()):
        assert decode(b"", encoding) == ""
        assert decode(b"abc", encoding) in ("abc", "\ufffd", "扡\ufffd", "慢\ufffd")
