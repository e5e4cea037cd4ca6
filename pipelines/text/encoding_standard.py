"""Decoders and encoders of the Encoding Standard (encoding.spec.whatwg.org), as in browsers.

A label means what the Standard says, often more than its name: `euc-kr` is CP949, `shift_jis` Windows-31J, `gb2312`
GB18030, `big5` has the Hong Kong extensions, `iso-8859-1` is windows-1252. `webencodings` knows the labels, but leaves
the characters to Python's codecs, which lack some and replace other bytes than the Standard does. A sequence that
cannot be decoded is one U+FFFD, and the text goes on behind it.
"""

import codecs
import contextlib
import functools
import itertools
import re
from collections.abc import Iterator

import webencodings

from pipelines.text.encoding_tables import (
    BAD,
    jis0208,
    sequence_table,
    single_byte_table,
    written_sequences,
)

# One token a character. A token that is in no table is one bad sequence; where its last byte is ASCII, that byte is not
# part of it.
_TWO_BYTES = rb"[\x00-\x7f]+|[\x81-\xfe][\x00-\xff]|[\x80-\xff]"
_TOKENS = {
    "big5": _TWO_BYTES,
    "euc-kr": _TWO_BYTES,
    "shift_jis": rb"[\x00-\x7f]+|[\x81-\x9f\xe0-\xfc][\x00-\xff]|[\x80-\xff]",
    "gb18030": rb"[\x00-\x7f]+|[\x81-\xfe][0-9][\x81-\xfe][0-9]|[\x81-\xfe][\x00-\xff]|[\x80-\xff]",
    "euc-jp": rb"[\x00-\x7f]+|\x8f[\xa1-\xfe](?:[\x00-\xff]|\Z)|[\x8e\x8f\xa1-\xfe][\x00-\xff]|[\x80-\xff]",
}
_TOKENS["gbk"] = _TOKENS["gb18030"]
_PRIVATE = b"\x81\x35\xf4\x37"  # U+E7C7, where Python's GB18030 of 2000 has U+1E3F


def encoding_name(label: str | None) -> str | None:
    """Return the Standard's name of the encoding that a label means, or None if it means none."""
    found = webencodings.lookup(label) if label and label.isascii() else None
    return found.name if found is not None else None


def decode(data: bytes, encoding: str) -> str:
    """Return the text of bytes; a byte order mark is a character like any other.

    Args:
        data: The bytes.
        encoding: The Standard's name of an encoding.
    """
    if encoding in ("utf-8", "utf-16le", "utf-16be"):
        return data.decode(encoding, "replace")
    if encoding == "replacement":
        return BAD if data else ""
    if encoding == "iso-2022-jp":
        return "".join(_decoded_iso_2022_jp(data))
    if encoding not in _TOKENS:
        return codecs.charmap_decode(data, "replace", single_byte_table(encoding))[0]
    tokens: list[bytes] = _pattern(encoding).findall(data)
    if encoding in ("gbk", "gb18030"):
        _join_cut_character(tokens)
    table = sequence_table(encoding)
    return "".join([token.decode() if token.isascii() else table.get(token) or _rare(token) for token in tokens])


def percent_encoded(text: str, encoding: str) -> str:
    """Return text whose characters beyond ASCII are percent-encoded in an encoding, as in the query of a link.

    A character that the encoding lacks becomes `&#1234;`, percent-encoded as well. UTF-16 and the replacement encoding
    are never written: UTF-8 takes their place.
    """
    if encoding in ("utf-8", "utf-16le", "utf-16be", "replacement"):
        return re.sub(r"[^\x00-\x7f]+", lambda run: _percent(run[0].encode("utf-8", "replace")), text)
    written = _bytes_of_gb18030 if encoding == "gb18030" else written_sequences(encoding).get
    begin, end = (b"\x1b$B", b"\x1b(B") if encoding == "iso-2022-jp" else (b"", b"")

    def one_run(run: re.Match[str]) -> str:
        pieces = []
        for is_known, characters in itertools.groupby(run[0], lambda character: written(character) is not None):
            if is_known:
                pieces.append(_percent(begin + b"".join(written(c) or b"" for c in characters) + end))
            else:
                pieces += [f"%26%23{ord(character)}%3B" for character in characters]
        return "".join(pieces)

    return re.sub(r"[^\x00-\x7f]+", one_run, text)


@functools.cache
def _pattern(encoding: str) -> re.Pattern[bytes]:
    return re.compile(_TOKENS[encoding], re.DOTALL)


def _rare(token: bytes) -> str:
    """Return the character of a token that is in no table: four bytes of GB18030, or bad ones and what follows them."""
    if len(token) == 4:
        return "\ue7c7" if token == _PRIVATE else token.decode("gb18030", "replace")[:1]
    return BAD + (chr(token[-1]) if len(token) > 1 and token[-1] < 0x80 else "")


def _join_cut_character(tokens: list[bytes]) -> None:
    """Make two or three of four bytes at the end of a text in GB18030 one bad sequence: the digit is part of it."""
    if len(tokens) > 1 and len(tokens[-1]) == 1 and 0x81 <= tokens[-1][0] <= 0xFE and _begins_four(tokens[-2]):
        del tokens[-1]
    if tokens and _begins_four(tokens[-1]):
        tokens[-1] = tokens[-1][:1]


def _begins_four(token: bytes) -> bool:
    return len(token) == 2 and token[0] >= 0x81 and 0x30 <= token[1] <= 0x39


def _percent(data: bytes) -> str:
    return "".join(f"%{byte:02X}" for byte in data)


def _bytes_of_gb18030(character: str) -> bytes | None:
    found = written_sequences("gb18030").get(character)
    if found is None and character != "\ue5e5":  # which nothing stands for any more
        with contextlib.suppress(UnicodeEncodeError):
            return _PRIVATE if character == "\ue7c7" else character.encode("gb18030")
    return found


# --- ISO-2022-JP ----------------------------------------------------------------------------------------------------

_ESCAPES = {b"\x1b(B": "ascii", b"\x1b(J": "roman", b"\x1b(I": "katakana", b"\x1b$@": "jis0208", b"\x1b$B": "jis0208"}
_ESCAPE = re.compile(rb"(\x1b(?:\([BJI]|\$[@B]))")


def _decoded_iso_2022_jp(data: bytes) -> Iterator[str]:
    """Yield the characters between escape sequences, each in its set; two escapes with nothing between are bad."""
    state, is_empty = "ascii", False
    for piece in _ESCAPE.split(data):
        if piece in _ESCAPES:
            if is_empty:
                yield BAD
            state, is_empty = _ESCAPES[piece], True
        elif piece:
            is_empty = False
            yield from _decoded_set(piece, state)


def _decoded_set(piece: bytes, state: str) -> Iterator[str]:
    if state == "jis0208":
        for token in re.findall(rb"[\x21-\x7e][^\x1b]|[\x00-\xff]", piece, re.DOTALL):
            is_pair = len(token) == 2 and 0x21 <= token[1] <= 0x7E
            yield jis0208().get(bytes(byte | 0x80 for byte in token), BAD) if is_pair else BAD
        return
    for byte in piece:
        if state == "katakana":
            yield chr(0xFF40 + byte) if 0x21 <= byte <= 0x5F else BAD
        elif byte in (0x0E, 0x0F, 0x1B) or byte > 0x7F:
            yield BAD
        else:
            yield {0x5C: "¥", 0x7E: "‾"}.get(byte, chr(byte)) if state == "roman" else chr(byte)
