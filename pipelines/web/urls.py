"""URLs as identities: one canonical spelling, resolution as in browsers, and removal of credentials.

The project compares, fetches and keys by `canonical_url`. Only URLs `without_credentials` leave the machine, and texts
that may hold URLs only `without_secrets`.
"""

import functools
import ipaddress
import itertools
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple, overload
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

import idna
import tldextract

from pipelines.text.encoding_standard import percent_encoded

MAX_URL_CHARS = 8192  # servers commonly refuse longer request lines (RFC 9110: at least 8000 octets)

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PATH = _UNRESERVED | frozenset(b"!$&'()*+,;=:@/")  # RFC 3986, 3.3
_QUERY = _PATH | frozenset(b"?[]|")  # brackets and bars appear unescaped in too many working URLs
_ESCAPE_OR_BYTE = re.compile(rb"%[0-9A-Fa-f]{2}|.", re.DOTALL)
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# Most addresses, which are their own normal form: no default port, escape, parameter or dot segment
_PLAIN = re.compile(
    rf"https?://((?:[a-z0-9-]+\.)*[a-z][a-z0-9-]*|{_OCTET}(?:\.{_OCTET}){{3}})(?::[1-9][0-9]{{3}})?"
    r"/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*/)*(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*)?"
)
_MAX_PLAIN_CHARS = 200


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Parameters that track a visitor or name the visitor's session, never the page.
_TRACKING = _words(
    "gclid gclsrc dclid gbraid wbraid fbclid msclkid yclid ysclid twclid ttclid li_fat_id igshid igsh srsltid mc_cid "
    "mc_eid mkt_tok _ga _gl _hsenc _hsmi __hssc __hstc __hsfp hsctatracking vero_id vero_conv oly_anon_id oly_enc_id "
    "wickedid s_cid ref_src rb_clickid phpsessid jsessionid aspsessionid cfid cftoken"
)
_TRACKING_PREFIXES = ("utm_", "pk_", "mtm_", "hsa_")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label like this makes a host an IPv4 address
_PATH_SESSION = re.compile(r";jsessionid=[^/;?]*", re.IGNORECASE)

_SECRET_WORDS = _words(
    "token secret password passwd passphrase pwd apikey auth authorization signature sig sign hmac jwt credential "
    "credentials session sessionid accesskey accesskeyid awsaccesskeyid privatekey oauth bearer otp"
)
_SECRET_PAIRS = frozenset(
    {("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("key", "pair"), ("pass", "word")}
)

URL_IN_TEXT = re.compile(r"""https?:(?:\\?/){2}(?:\\/|[^\s"'<>,;|\\])+""", re.IGNORECASE)
"""An http(s) URL in a text, whose slashes may be escaped as in JSON."""

# Of a URL within the parameter of another, where every sign is escaped, and so are escapes, once for each URL around.
_ESCAPED = "%(?:25){0,4}"
_USERINFO = re.compile(r"""((?:\\?/){2})[^\s/\\?#"'<>]*@""")
_ESCAPED_USERINFO = re.compile(
    rf"""((?:{_ESCAPED}2F){{2}})(?:(?!{_ESCAPED}(?:2F|3F|23))[^\s/\\?#&"'<>])*{_ESCAPED}40""", re.IGNORECASE
)
_PARAMETER = re.compile(
    rf"""(?:[?&#;]|{_ESCAPED}(?:3F|26|23|3B))([^\s?&#;="'<>]{{1,100}}?)(?:=|{_ESCAPED}3D)""", re.IGNORECASE
)
_VALUE = re.compile("[^&]*")
_VALUE_IN_TEXT = re.compile(r"""[^\s&"'<>,|\\]*""")

_suffixes = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)


@functools.lru_cache(maxsize=1024)  # each stage of a document asks for the same again
def canonical_url(url: str) -> str:
    """Return the one canonical spelling of an absolute http(s) URL.

    Scheme and host in lower case, the host in IDNA's ASCII form, no userinfo, default port, dot segments, fragment,
    tracking parameter or session id; percent-escapes only where needed, in upper case. The order of parameters is kept:
    servers may depend on it.

    Raises:
        ValueError: If it is not an absolute http(s) URL with a valid host and port, or is longer than `MAX_URL_CHARS`.
    """
    if (plain := _plain(url)) is not None and canonical_host(plain[1]) == plain[1]:
        return url
    url = re.sub(r"[\t\r\n]", "", url.strip("".join(map(chr, range(33)))))
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"URL of {len(url)} characters; at most {MAX_URL_CHARS}")
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"no http(s) URL: {url[:100]!r}")
    host = canonical_host(parts.hostname or "")
    host = f"[{host}]" if ":" in host else host
    port = parts.port  # ValueError unless a number up to 65535
    netloc = host if port is None or port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    path = _PATH_SESSION.sub("", _percent_normal(parts.path.replace("\\", "/"), _PATH))
    path = _without_dot_segments(path) or "/"
    kept = [p for p in parts.query.split("&") if p and not _is_tracking(p)]
    found = urlunsplit((scheme, netloc, path, _percent_normal("&".join(kept), _QUERY), ""))
    if len(found) > MAX_URL_CHARS:  # an escape is longer than its character
        raise ValueError(f"URL of {len(found)} characters; at most {MAX_URL_CHARS}")
    return found


def join(base: str, reference: str) -> str:
    """Return the absolute URL of a reference, spelled as it is; to browsers (WHATWG URL) a backslash is a slash.

    Raises:
        ValueError: If it is not valid.
    """
    path, mark, rest = reference.partition("?")
    return urljoin(base, path.replace("\\", "/") + mark + rest)


def resolve(base: str, reference: str, encoding: str = "utf-8") -> str | None:
    """Return the canonical URL of a reference on a page; None if it is not fetched over http(s).

    Args:
        base: The page's base URL; empty for a reference that must be absolute.
        reference: As written in the attribute, entities decoded; empty for the base itself.
        encoding: The page's encoding, in which a query is written, as in browsers; a path is always in UTF-8.
    """
    reference = re.sub(r"[\t\r\n]", "", reference.strip())
    if len(reference) > MAX_URL_CHARS or re.fullmatch("(?i)https?:/*", reference):
        return None
    try:
        path, mark, rest = reference.partition("?")
        if encoding != "utf-8" and "#" not in path:
            rest = percent_encoded(rest, encoding)
        return canonical_url(join(base, path + mark + rest))
    except ValueError:
        return None


class BaseUrl(NamedTuple):
    """What the references of a page are relative to: its base URL, and its encoding."""

    url: str
    encoding: str = "utf-8"

    def resolve(self, reference: str) -> str | None:
        """Return the canonical URL of a reference; None if it is not fetched over http(s)."""
        return resolve(self.url, reference, self.encoding)


def authority(url: str) -> str:
    """Return the host, and the port if not the scheme's default: the unit of politeness and of robots.txt.

    Raises:
        ValueError: On the same errors as `canonical_url`.
    """
    return urlsplit(canonical_url(url)).netloc


def registered_domain(url: str) -> str:
    """Return the registrable domain below a public suffix (private section included); an IP or bare host unchanged.

    Raises:
        ValueError: On the same errors as `canonical_url`.
    """
    return _registered_domain_of_host(urlsplit(canonical_url(url)).hostname or "")


@functools.lru_cache(maxsize=100_000)
def _registered_domain_of_host(host: str) -> str:
    found = _suffixes(host)
    if found.domain and found.suffix:
        return f"{found.domain}.{found.suffix}"
    # An unknown suffix counts as public, by the list's own rule.
    is_name = not found.suffix and not found.ipv4 and ":" not in host
    return ".".join(host.split(".")[-2:]) if is_name else host


@functools.lru_cache(maxsize=1024)
def without_credentials(url: str) -> str:
    """Return a URL fit to store and publish: without userinfo and without parameters whose names suggest secrets.

    So are the URLs in its parameters, as those to which a login leads back.
    """
    if _plain(url) is not None:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2]
    netloc, path = _without_secret_values(parts.netloc.rpartition("@")[2]), _without_secret_values(parts.path)
    query, is_anchor = _without_secret_pairs(parts.query), "=" not in parts.fragment
    fragment = _without_secret_values(parts.fragment) if is_anchor else _without_secret_pairs(parts.fragment)
    return _without_userinfo(urlunsplit(SplitResult(parts.scheme, netloc, path, query, fragment)))


@overload
def without_secrets(text: str) -> str: ...
@overload
def without_secrets(text: None) -> None: ...
def without_secrets(text: str | None) -> str | None:
    """Return a text, if there is one, fit to store and publish: the URLs in it without credentials.

    They may be of any scheme or relative, cut, escaped as in JSON, or within the parameters of others.
    """
    if text is None:
        return None
    text = URL_IN_TEXT.sub(lambda match: without_credentials(match[0].replace("\\/", "/")), _without_userinfo(text))
    return _without_secret_values(text, _VALUE_IN_TEXT, is_masked=True)


def _without_userinfo(text: str) -> str:
    return _ESCAPED_USERINFO.sub(r"\1", _USERINFO.sub(r"\1", text))


def _without_secret_pairs(query: str) -> str:
    pairs = ((re.split("[=?]", pair, maxsplit=1)[0], pair) for pair in query.split("&"))
    return "&".join(_without_secret_values(pair) for name, pair in pairs if not _is_secret(name))


def _without_secret_values(text: str, value: re.Pattern[str] = _VALUE, *, is_masked: bool = False) -> str:
    """Return a text without parameters whose names suggest secrets, or with `…` as their values.

    Args:
        text: Any text.
        value: What a value consists of.
        is_masked: Whether the names stay.
    """
    kept: list[str] = []
    end = 0
    for match in _PARAMETER.finditer(text):
        if match.start() >= end and _is_secret(match[1]):
            kept += (text[end : match.end()], "…") if is_masked else (text[end : match.start()],)
            found = value.match(text, match.end())
            assert found is not None  # the pattern also matches the empty string
            end = found.end()
    return "".join((*kept, text[end:]))


def only_url(found: Iterable[str | None]) -> str | None:
    """Return the URL, without credentials, if it is the only one; else None."""
    different = set(found)
    only = different.pop() if len(different) == 1 else None
    return without_credentials(only) if only else None


def _plain(url: str) -> re.Match[str] | None:
    """Return the match of an address without userinfo, parameter, fragment and escape, group 1 its host; else None."""
    return _PLAIN.fullmatch(url) if len(url) <= _MAX_PLAIN_CHARS else None


def _is_tracking(parameter: str) -> bool:
    name = unquote(parameter.partition("=")[0]).lower()
    return name in _TRACKING or name.startswith(_TRACKING_PREFIXES)


def _is_secret(name: str) -> bool:
    for _ in range(5):  # of a URL in a URL
        if "%" not in name:
            break
        name = unquote(name)
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    words = [w.lower() for w in re.split(r"[^A-Za-z0-9]+", spaced) if w]
    return (
        not _SECRET_WORDS.isdisjoint(words)
        or "".join(words) in _SECRET_WORDS
        or any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words))
    )


@functools.lru_cache(maxsize=100_000)
def canonical_host(host: str) -> str:
    """Return a host as browsers ask for it (URL Standard, 3.5): by UTS 46, numbers as IPv4 addresses, IPv6 in short.

    Raises:
        ValueError: If no host can be called so. A zone of IPv6 is this machine's own, and no part of a URL.
    """
    host = unquote(host)
    if not host:
        raise ValueError("URL without a host")
    if ":" in host:
        if "%" in host:
            raise ValueError(f"no valid host: {host!r}")
        return str(ipaddress.IPv6Address(host))
    host = host.lower() if host.isascii() else _to_ascii(host)
    if not re.fullmatch(r"[a-z0-9_.-]+", host) or ".." in host or host.startswith(".") or len(host) > 254:
        raise ValueError(f"no valid host: {host!r}")
    host = host.rstrip(".")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            # 0x7f.1, 017700000001 and 2130706433 are 127.0.0.1; `0x` alone is zero.
            return socket.inet_ntoa(socket.inet_aton(re.sub(r"(?<![^.])0x(?![^.])", "0", host)))
        except OSError as error:
            raise ValueError(f"no valid IPv4 address: {host!r}") from error
    return host


def _to_ascii(host: str) -> str:
    """Return a host in the ASCII form of UTS 46, with what browsers allow beyond IDNA 2008: emoji, underscores.

    Raises:
        ValueError: If it holds a character that no host may hold.
    """
    try:
        mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
        labels = re.split("[.\u3002]", mapped)
        for label in labels:
            if not label.isascii():
                idna.check_initial_combiner(label)
                idna.check_bidi(label)
                is_bad = label.startswith("xn--") or any(
                    character in "\u200c\u200d" and not idna.valid_contextj(label, i)
                    for i, character in enumerate(label)
                )
                if is_bad:
                    raise idna.IDNAError(f"joiners or a prefix out of place in {label!r}")
    except idna.IDNAError as error:
        raise ValueError(f"no valid host: {host!r}: {error}") from error
    found = [label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}" for label in labels]
    if any(len(label) > 63 for label in found):
        raise ValueError(f"no valid host: {host!r}: a label is longer than 63 characters")
    return ".".join(found)


def _percent_normal(text: str, allowed: frozenset[int]) -> str:
    """Normalise escapes: upper case, unreserved octets unescaped, disallowed octets escaped."""
    if text.isascii() and "%" not in text and all(ord(c) in allowed for c in text):
        return text

    def one(match: re.Match[bytes]) -> bytes:
        token = match[0]
        octet = int(token[1:], 16) if len(token) == 3 else token[0]
        if octet in _UNRESERVED or (len(token) == 1 and octet in allowed):
            return bytes([octet])
        return b"%%%02X" % octet

    return _ESCAPE_OR_BYTE.sub(one, text.encode("utf-8", "replace")).decode("ascii")


def _without_dot_segments(path: str) -> str:
    """Remove dot segments (RFC 3986, 5.2.4)."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


_SRCSET_URL = re.compile(r"[\s,]*(\S+)")
_SRCSET_DESCRIPTORS = re.compile(r"(?:[^,(]|\([^)]*\)?)*")  # up to the next comma outside parentheses


class SrcsetCandidate(NamedTuple):
    """One candidate of a `srcset`: its reference, and `width` in pixels (`640w`) or `density` (`2x`)."""

    reference: str
    width: int | None
    density: float | None


def parse_srcset(value: str) -> tuple[SrcsetCandidate, ...]:
    """Parse a `srcset` by HTML's own algorithm: a comma inside a URL belongs to the URL.

    A candidate with an invalid descriptor is dropped; one without any has density 1.
    """
    candidates: list[SrcsetCandidate] = []
    position = 0
    while match := _SRCSET_URL.match(value, position):
        reference, position = match[1], match.end()
        descriptors: list[str] = []
        if reference.endswith(","):
            reference = reference.rstrip(",")
        else:
            end = _SRCSET_DESCRIPTORS.match(value, position)
            assert end is not None  # the pattern also matches the empty string
            descriptors, position = end[0].split(), end.end()
        size = _srcset_size(descriptors)
        if size is not None and reference:
            candidates.append(SrcsetCandidate(reference, *size))
    return tuple(candidates)


def _srcset_size(descriptors: list[str]) -> tuple[int | None, float | None] | None:
    """Return (width, density), or None if the descriptors are invalid."""
    width: int | None = None
    density: float | None = None
    for descriptor in descriptors:
        if re.fullmatch(r"\d{1,9}w", descriptor) and width is None and int(descriptor[:-1]):
            width = int(descriptor[:-1])
        elif re.fullmatch(r"\d{1,9}(\.\d{1,9})?x", descriptor) and density is None:
            density = float(descriptor[:-1])
        elif not re.fullmatch(r"\d{1,9}h", descriptor):
            return None
    if width is not None and density is not None:
        return None
    return width, (1.0 if width is None and density is None else density)
