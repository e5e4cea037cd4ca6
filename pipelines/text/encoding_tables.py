"""Characters of the Encoding Standard's encodings: those of Python's codecs, with what these lack.

`tests/pipelines/text/test_encoding_standard.py` holds every sequence against `encoding_rs`, the decoders of Firefox.
"""

import contextlib
import functools
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator

BAD = "\ufffd"
_SINGLE_BYTE = {  # where Python's codec has another name
    "ibm866": "cp866",
    "iso-8859-8-i": "iso8859-8",
    "macintosh": "mac-roman",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac-cyrillic",
}
_SINGLE_BYTE_MORE = {"koi8-u": {0xAE: "ў", 0xBE: "Ў"}, "windows-1255": {0xCA: "\u05ba"}}

# What the Standard's GB18030 has where Python's of 2000 has private characters: bytes of the last, by the character.
_GB18030_MORE = {
    0xA3A0: "\u3000", 0xA6D9: "\ufe10", 0xA6DA: "\ufe12", 0xA6DB: "\ufe11", 0xA6DC: "\ufe13", 0xA6DD: "\ufe14",
    0xA6DE: "\ufe15", 0xA6DF: "\ufe16", 0xA6EC: "\ufe17", 0xA6ED: "\ufe18", 0xA6F3: "\ufe19", 0xA8BC: "\u1e3f",
    0xFE59: "\u9fb4", 0xFE61: "\u9fb5", 0xFE66: "\u9fb6", 0xFE67: "\u9fb7", 0xFE6D: "\u9fb8", 0xFE7E: "\u9fb9",
    0xFE90: "\u9fba", 0xFEA0: "\u9fbb",
}  # fmt: skip
_PRIVATE_PAIRS = [pair.to_bytes(2, "big") for pair in _GB18030_MORE if pair not in (0xA3A0, 0xA8BC)]  # still written so
# What the Standard's Big5 has beyond Python's HKSCS-2004: runs of characters behind the bytes of the first (HKSCS-2008,
# the points that HKSCS keeps for compatibility, and ETEN's), and what it reads as CP950 does.
_BIG5_RUNS = """
877A㡵𡵓𣚞𦀡㻬𥣞㫵竼龗𤅡𨤍𣇪𠪊𣉞䌊蒄龖鐯䤰蘓墖靊鈘秐稲晠
87B6権袝瑌篅枂稬剏遆㓦珄𥶹瓆鿇垳䤯呌䄱𣚎堘穲𧭥讏䚮𦺈䆁𥶙
87D0箮𢒼鿈𢓁𢓉𢓌鿉蔄𣖻䂴鿊䓡𪷿拁灮鿋
8E69箸 8E6F簆 8E7E糎 8EAB緒 8EB4縝 8ECD者 8ED0耨 8F57菁 8F69蒨 8F6E萏 8FCB覦覩 8FFE起 906D都 907A銹
90DC靜 90F1響 91BF鼖 9244蔃 92AF兙兛兝兞 92C8鍮 92D1瑹 9447浧 94CA禛 95D9邗 9644靝 96ED瀞 96FC嬨
9B76爁 9B78矗 9B7B纇 9BC6駖 9BDE釔 9BEC惞 9BF6澶 9C42輶 9C53侻 9C62營 9C68鄄 9C6B鷰 9C77菏 9CBC尐秣
9CD0婧 9D57輋 9D5A筑 9DC4拐 9EA9恢 9EEF痹 9EFD汊 9F60鬮 9F66鼗 9FCB僭 9FD8弌 A063蠏 A077拎 A0D5瑨
A0DF煢 A0E4牐 A3C0␀␁␂␃␄␅␆␇␈␉␊␋␌␍␎␏␐␑␒␓␔␕␖␗␘␙␚␛␜␝␞␟␡ C6CF廴 C6D3无 C6D5癶 C6D7隶 C6DE〃仝 FA5F倩
FA66偽 FABD包 FAC5卄 FAD5卿 FB48嘅 FBB8婷 FBF3幵 FBF9廐 FC4F彘 FC6C悤 FCB9撐 FCE2晴 FCF1杞 FDB7沜渝
FDBB港 FDF1煮 FE52猪 FE6F瑜 FEAA瓩 FEDD砉
"""
_BIG5_AS_CP950 = (0xA145, 0xA14E, 0xA1C2, 0xA1E3, 0xA1F2, 0xA1F3, 0xA241, 0xA242, 0xA244, 0xA246, 0xA247, 0xA3E1)
_BIG5_TRAILS = [*range(0x40, 0x7F), *range(0xA1, 0xFF)]


@functools.cache
def single_byte_table(encoding: str) -> str:
    """Return the characters of all bytes; in windows-12xx those without one stand for the C1 controls."""
    if encoding == "x-user-defined":
        return "".join(chr(byte if byte < 0x80 else 0xF700 + byte) for byte in range(256))
    codec, more = _SINGLE_BYTE.get(encoding, encoding), _SINGLE_BYTE_MORE.get(encoding, {})
    table = []
    for byte in range(256):
        character = more.get(byte) or bytes([byte]).decode(codec, "replace")
        is_control = character == BAD and encoding.startswith("windows-") and byte < 0xA0
        table.append(chr(byte) if is_control else character)
    return "".join(table)


@functools.cache
def sequence_table(encoding: str) -> dict[bytes, str]:
    """Return the characters of an encoding's sequences of one to three bytes."""
    return dict(_TABLES[encoding]())


def _read(codec: str, sequences: Iterable[bytes]) -> Iterator[tuple[bytes, str]]:
    """Yield the sequences that a codec of Python knows, with their characters."""
    for sequence in sequences:
        with contextlib.suppress(UnicodeDecodeError):
            yield sequence, sequence.decode(codec)


def _pairs(leads: Iterable[int], trails: Iterable[int]) -> Iterator[bytes]:
    return (bytes(pair) for pair in itertools.product(leads, trails))


def _euc_kr() -> Iterator[tuple[bytes, str]]:
    yield from _read("cp949", _pairs(range(0x81, 0xFF), range(0x41, 0xFF)))


def _shift_jis() -> Iterator[tuple[bytes, str]]:
    yield from _read("cp932", (bytes([byte]) for byte in [0x80, *range(0xA1, 0xE0)]))
    yield from _read("cp932", _pairs([*range(0x81, 0xA0), *range(0xE0, 0xFD)], range(0x40, 0xFD)))


def _gb18030() -> Iterator[tuple[bytes, str]]:
    yield b"\x80", "€"
    yield from _read("gb18030", _pairs(range(0x81, 0xFF), range(0x40, 0xFF)))
    yield from ((pair.to_bytes(2, "big"), character) for pair, character in _GB18030_MORE.items())


def _big5() -> Iterator[tuple[bytes, str]]:
    yield from _read("big5hkscs", _pairs(range(0x81, 0xFF), _BIG5_TRAILS))
    yield from _read("cp950", (pair.to_bytes(2, "big") for pair in _BIG5_AS_CP950))
    order = list(_pairs(range(0x81, 0xFF), _BIG5_TRAILS))
    for run in _BIG5_RUNS.split():
        yield from zip(order[order.index(bytes.fromhex(run[:4])) :], run[4:], strict=False)


@functools.cache
def jis0208() -> dict[bytes, str]:
    """Return the characters of JIS X 0208 with the rows of NEC and IBM by two bytes from 0xA1 on, as CP932 has them."""
    found = {}
    for row, cell in itertools.product(range(94), range(94)):
        lead = (row >> 1) + (0x81 if row < 62 else 0xC1)
        trail = cell + 0x9F if row % 2 else cell + (0x40 if cell < 63 else 0x41)
        with contextlib.suppress(UnicodeDecodeError):
            found[bytes([row + 0xA1, cell + 0xA1])] = bytes([lead, trail]).decode("cp932")
    return found


def _euc_jp() -> Iterator[tuple[bytes, str]]:
    yield from ((bytes([0x8E, byte]), chr(0xFEC0 + byte)) for byte in range(0xA1, 0xE0))
    yield from jis0208().items()
    yield from _read("euc_jp", (b"\x8f" + pair for pair in _pairs(range(0xA1, 0xFF), range(0xA1, 0xFF))))
    yield b"\x8f\xa2\xb7", "～"


_TABLES: dict[str, Callable[[], Iterable[tuple[bytes, str]]]] = {
    "big5": _big5,
    "euc-kr": _euc_kr,
    "shift_jis": _shift_jis,
    "gbk": _gb18030,
    "gb18030": _gb18030,
    "euc-jp": _euc_jp,
}


@functools.cache
def written_sequences(encoding: str) -> dict[str, bytes]:
    """Return the bytes of an encoding's characters: of several sequences the one that the Standard writes."""
    found: dict[str, bytes] = {}
    last = "═╞╡╪卅十" if encoding == "big5" else ""
    for sequence, character in _written(encoding):
        if character not in found or character in last:
            found[character] = sequence
    return found


def _written(encoding: str) -> Iterator[tuple[bytes, str]]:
    """Yield the sequences that the Standard writes, in its order."""
    if encoding in ("shift_jis", "euc-jp", "iso-2022-jp"):
        yield from _written_in_japanese(encoding)
    elif encoding not in _TABLES:
        yield from ((bytes([b]), c) for b, c in enumerate(single_byte_table(encoding)) if b > 0x7F and c != BAD)
    else:
        # Hong Kong's characters are read but never written, and of the euro sign's two places each has its own.
        unwritten = {"gbk": b"\xa2\xe3", "gb18030": b"\x80", "big5": b"\xa1"}.get(encoding, b"")
        for sequence, character in sorted(sequence_table(encoding).items()):
            is_hong_kong = encoding == "big5" and sequence < unwritten
            if not is_hong_kong and sequence != unwritten and (encoding == "euc-kr" or sequence != b"\xa3\xa0"):
                yield sequence, character
        if encoding in ("gbk", "gb18030"):
            yield from ((pair, pair.decode("gb18030")) for pair in _PRIVATE_PAIRS)


def _written_in_japanese(encoding: str) -> Iterator[tuple[bytes, str]]:
    if encoding == "shift_jis":
        # Without NEC's copies of IBM's characters (0xED, 0xEE) and the rows of users (0xF0 to 0xF9).
        table = {
            s: c for s, c in sequence_table(encoding).items() if not (0xED <= s[0] <= 0xEE or 0xF0 <= s[0] <= 0xF9)
        }
    else:
        mask = 0x7F if encoding == "iso-2022-jp" else 0xFF
        table = {bytes(byte & mask for byte in pair): c for pair, c in jis0208().items()}
        if encoding == "euc-jp":
            table |= {s: c for s, c in sequence_table(encoding).items() if s[0] == 0x8E}
    if encoding == "iso-2022-jp":
        yield from ((table_of, c) for c, table_of in _half_width_katakana(table))
    else:
        yield from ((b"\x5c", "¥"), (b"\x7e", "‾"))
    yield from sorted(table.items())
    yield from ((sequence, "−") for sequence, character in table.items() if character == "－")


def _half_width_katakana(table: dict[bytes, str]) -> Iterator[tuple[str, bytes]]:
    """Yield half-width katakana with the bytes of the full-width ones, which ISO-2022-JP writes in their place."""
    inverse = {character: sequence for sequence, character in table.items()}
    marks = {"ﾞ": "゛", "ﾟ": "゜"}
    for character in map(chr, range(0xFF61, 0xFFA0)):
        yield character, inverse[marks.get(character) or unicodedata.normalize("NFKC", character)]
