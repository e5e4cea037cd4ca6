"""Decoding of files whose encoding is not sure: what a label means, and a guess where nothing says it.

Labels mean the decoders of the Encoding Standard, as in browsers: ISO-8859-1 is windows-1252, EUC-KR is CP949. A byte
that cannot be decoded becomes one U+FFFD and never makes the file one of another encoding.
"""

import codecs
import re

import charset_normalizer
from resiliparse.parse.encoding import detect_encoding

from pipelines.text.encoding_standard import decode, encoding_name

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Python's codecs that charset-normalizer chooses from, by the Standard's name.
_LEGACY = {
    "cp874": "windows-874",
    "cp866": "ibm866",
    "koi8_r": "koi8-r",
    "koi8_u": "koi8-u",
    "cp932": "shift_jis",
    "euc_jp": "euc-jp",
    "cp949": "euc-kr",
    "gb18030": "gb18030",
    "big5hkscs": "big5",
    **{f"cp125{i}": f"windows-125{i}" for i in range(9)},
    **{f"iso8859_{i}": f"iso-8859-{i}" for i in (2, 5, 6, 7, 8, 16)},
}
_UCHARDET = {"cp949": "euc-kr", "cp932": "shift_jis", "iso2022-jp": "iso-2022-jp", "mac-roman": "macintosh"}
_SAMPLE_BYTES = 1 << 16  # as much as a detector reads
_MIN_BYTES = 6  # beyond ASCII: of fewer a detector takes French for Polish
_FALLBACK = "windows-1252"
_MIN_GOOD_PER_BAD = 10  # sequences of UTF-8 in a text that declares another encoding; in text of one they are rare
_UTF_16 = ("utf-16le", "utf-16be")
_UNICODE = ("utf-8", *_UTF_16)  # a label of these does not count where the bytes are of another encoding
_IN_ANY_SCRIPT = b"\n\r\t ,.-:123456789"  # without 0, whose bytes are those of the ideographic space, swapped
_HEADER_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([A-Za-z0-9_:.+-]+)""", re.IGNORECASE)


def charset_of(content_type: str | None) -> str | None:
    """Return the charset that a Content-Type header names, of a list the first; None if it names none."""
    found = _HEADER_CHARSET.search(content_type or "")
    return found[1] if found else None


def decode_text(data: bytes, *labels: str | None) -> str:
    """Return the text of a file, without a byte order mark.

    A byte order mark decides. Then zero bytes tell UTF-16. Then UTF-8 is tried, which text in another encoding hardly
    ever is by chance, then the labels, then what a detector finds.

    Args:
        data: The file.
        labels: Names of encodings, such as the one that the server states; the first known one counts.
    """
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, "replace")
    return decode(data, text_encoding(data, *labels))


def text_encoding(data: bytes, *labels: str | None, is_beginning: bool = False) -> str:
    """Return the Standard's name of the encoding of a text without a byte order mark.

    Args:
        data: The text.
        labels: Names of encodings; the first known one counts.
        is_beginning: Whether more of the text follows, so that the last character may be cut.
    """
    known = [name for label in labels if (name := encoding_name(label))]
    if utf16 := _utf16_without_mark(data, is_stated=any(name in _UTF_16 for name in known)):
        return utf16
    stated = next((name for name in known if name not in _UNICODE), None)
    if data.isascii():
        # ISO-2022-JP is ASCII with escapes.
        return (stated or detected_encoding(data)) if b"\x1b" in data else "utf-8"
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=not is_beginning)
    if is_utf_8(text, stated or next(iter(known), None)):
        return "utf-8"
    return stated or detected_encoding(data)


def is_utf_8(text: str, declared: str | None) -> bool:
    """Return whether a text that was decoded as UTF-8 was written in it, although some of its bytes are bad.

    Text that is valid UTF-8 beyond ASCII is: it almost never is by chance, and declarations are often wrong.

    Args:
        text: The text, with one U+FFFD for each bad sequence.
        declared: The Standard's name of the encoding that it is said to have, if any.
    """
    num_bad = text.count("\ufffd")
    num_good = sum(1 for character in text if character > "\x7f") - num_bad if num_bad else 0
    if declared == "utf-8":
        return num_bad <= max(1, num_good)
    return num_bad <= num_good if declared is None else num_bad * _MIN_GOOD_PER_BAD <= num_good


def detected_encoding(data: bytes) -> str:
    """Return the Standard's name of the encoding that fits best, windows-1252 if none does; never a Unicode encoding.

    Of 32 short texts in 19 languages uchardet identifies 27, charset-normalizer 24; of ten times as much text 27 and
    26. But uchardet takes much Polish for CP852, which is no encoding of the web: then the other one decides (28, 29).
    """
    sample = data[:_SAMPLE_BYTES]
    if not sample.isascii() and sum(byte > 0x7F for byte in sample) < _MIN_BYTES:
        return _FALLBACK
    label = (detect_encoding(sample, html5_compatible=False) or "").replace("_", "-")
    label = re.sub("^iso-?8859", "iso-8859", _UCHARDET.get(label, label))
    if label.startswith("utf"):
        return _FALLBACK
    found = encoding_name(label)
    if found is None and label:
        best = charset_normalizer.from_bytes(sample, cp_isolation=list(_LEGACY)).best()
        found = _LEGACY.get(best.encoding) if best is not None else None
    return found or _FALLBACK


def _utf16_without_mark(data: bytes, *, is_stated: bool) -> str | None:
    """Return the byte order of UTF-16 that its zero bytes show.

    In Latin text at least half of the even or of the odd bytes are zeros. In text of other scripts those of line ends,
    spaces and digits are, one in a hundred characters or more, and hardly any of the other parity.
    """
    if b"\0" not in data[:_SAMPLE_BYTES]:
        return None
    sample = data[:1024]
    num_even, num_odd = sample[::2].count(0), sample[1::2].count(0)
    if max(num_even, num_odd) * 4 >= len(sample) and min(num_even, num_odd) * 16 <= len(sample):
        return "utf-16be" if num_even > num_odd else "utf-16le"
    even, odd = data[:_SAMPLE_BYTES:2], data[1:_SAMPLE_BYTES:2]
    little = sum(high == 0 and low in _IN_ANY_SCRIPT for low, high in zip(even, odd, strict=False))
    big = sum(high == 0 and low in _IN_ANY_SCRIPT for high, low in zip(even, odd, strict=False))
    if max(little, big) <= (0 if is_stated else len(even) // 100) or min(little, big) * 4 > max(little, big):
        return None
    return "utf-16be" if big > little else "utf-16le"
