"""Characters of a page: which encoding its bytes are in, by mark, header, markup or detector, as browsers tell it."""

import re
from typing import NamedTuple

from pipelines.text.encoding_standard import decode, encoding_name
from pipelines.text.encodings import charset_of, detected_encoding, is_utf_8

_MAX_HEAD_BYTES = 1 << 16  # in which a page's own declaration is looked for
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META_CHARSET = re.compile(rb"""<meta[\s/][^>]{0,500}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.+-]+)""", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""\s*<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_:.+-]+)["']""")
_BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be"))


class Decoded(NamedTuple):
    """The text of a page, and the Encoding Standard's name of the encoding that it was written in."""

    text: str
    encoding: str


def decode_html(body: bytes, content_type: str | None = None, *, detected_charset: str | None = None) -> Decoded:
    """Decode a page by byte order mark, else as UTF-8 if it is, else by header, its own declaration, or a detector.

    Text that is valid UTF-8 beyond ASCII is UTF-8 whatever is declared: it almost never is by chance, and declarations
    are often wrong. Bytes that do not fit are one U+FFFD each: a few of them never make a page one of another encoding.

    Args:
        body: The page's bytes.
        content_type: The HTTP header, if any.
        detected_charset: What a crawler took the encoding for, which counts only if nobody declares one.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return Decoded(decode(body[len(mark) :], encoding), encoding)
    declared = _declared(body, content_type)
    # UTF-16 by header, or without any word. Markup begins with `<`, which has a zero beside it there.
    is_utf_16 = b"\0" in body[:2] if declared in ("utf-16le", "utf-16be") else body[:2] in (b"\0<", b"<\0")
    if is_utf_16:
        encoding = "utf-16be" if body[:1] == b"\0" else "utf-16le"
        return Decoded(decode(body, encoding), encoding)
    if declared in ("utf-16le", "utf-16be"):
        declared = None
    if body.isascii():
        # ISO-2022-JP is ASCII with escapes.
        encoding = declared or (detected_encoding(body) if b"\x1b" in body else "utf-8")
        return Decoded(decode(body, encoding), encoding)
    text = decode(body, "utf-8")
    if is_utf_8(text, declared):
        return Decoded(text, "utf-8")
    if declared in (None, "utf-8"):
        found = encoding_name(detected_charset)
        declared = found if found not in (None, "utf-8", "utf-16le", "utf-16be") else detected_encoding(body)
    return Decoded(decode(body, declared), declared)


def _declared(body: bytes, content_type: str | None) -> str | None:
    """Return the encoding that the header, a `<meta>` or the XML declaration names: the first known one.

    A page that could be read as far as a declaration of UTF-16 is in UTF-8 (HTML Standard, 13.2.3.2).
    """
    if encoding := encoding_name(charset_of(content_type)):
        return encoding
    head = _COMMENT.sub(b"", body[:_MAX_HEAD_BYTES])
    for found in (_META_CHARSET.search(head), _XML_ENCODING.match(head)):
        if found and (encoding := encoding_name(found[1].decode("ascii"))):
            return {"utf-16le": "utf-8", "utf-16be": "utf-8", "x-user-defined": "windows-1252"}.get(encoding, encoding)
    return None
