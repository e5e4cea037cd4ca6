"""Heads of HTTP responses as browsers take them, rewritten for parsers that are stricter.

What is repaired is what Chromium's parser accepts (`net/http/http_response_headers.cc`, `http_stream_parser.cc`): loose
spaces and any version number in the status line, or none, lines that are no header field, a length that is no number,
or is stated twice or besides chunks, a transfer coding of no known name.
"""

import re

MAX_HEAD_BYTES = 256 << 10  # Chromium's limit: http_stream_parser.h, kMaxHeaderBufSize

HEAD_END = re.compile(rb"\r?\n\r?\n")
STARTS = (b"HTTP", b"ICY ")  # of heads; the second is SHOUTcast's
_STATUS_LINE = re.compile(
    rb"(?:HTTP(?:/[ \t]*(\d+)(?:\.(\d+))?)?|ICY)[ \t]+([1-9]\d{2})(?![0-9])([^\r\n]*)", re.IGNORECASE
)
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:(.*)", re.DOTALL)


def repaired_head(head: bytes) -> bytes:
    """Return a response's head in the form of RFC 9112; one without any status line is returned as it is.

    Args:
        head: Status line and header fields, with or without the empty line.
    """
    first, *lines = re.split(rb"\r?\n", head.strip(b"\r\n"))
    status = _STATUS_LINE.fullmatch(first)
    if status is None:
        return head
    major, minor, code, reason = status.groups()
    version = b"1.0" if (int((major or b"1")[:9]), int((minor or b"0")[:9])) < (1, 1) else b"1.1"
    fields = _without_false_lengths(_fields(lines))
    rows = [b"HTTP/%b %b %b" % (version, code, reason.strip()), *(b"%b: %b" % field for field in fields)]
    return b"\r\n".join(rows) + b"\r\n\r\n"


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return names and values, folded lines joined, without lines that are no field."""
    joined: list[list[bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and joined:
            joined[-1].append(line.strip())
        else:
            joined.append([line])
    found = (_FIELD.fullmatch(b" ".join(parts)) for parts in joined)
    return [(match[1], match[2].strip()) for match in found if match is not None]


def _without_false_lengths(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Leave one Content-Length of several equal ones, and none beside chunks (RFC 9112, 6.3); none that is no number.

    Without one, a body ends with the connection.
    """
    stated = [
        length.strip() for name, value in fields if name.lower() == b"content-length" for length in value.split(b",")
    ]
    codings = [field for field in fields if field[0].lower() == b"transfer-encoding" and b"chunked" in field[1].lower()]
    lengths = {length for length in stated if length.isdigit() and len(length) < 19}
    if len(lengths) > 1 and not codings:
        return fields  # which of them is right, nobody can tell
    others = [field for field in fields if field[0].lower() not in (b"content-length", b"transfer-encoding")]
    return [*others, *codings] if codings or not lengths else [*others, (b"Content-Length", lengths.pop())]
