"""Personal data in text, masked by typed placeholders (`<EMAIL>`); the spans of grounded phrases move with the text.

Masking depends on the text alone, without invented values or counters, so that order and parallelism change nothing.
Where a pattern alone would match dates, versions, prices or ISBNs, a checksum or the context decides. Names and street
addresses are not searched for.
"""

import bisect
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from stdnum import luhn
from stdnum.iso7064 import mod_97_10

from pipelines.document import Document, Segment

MASK = "mask-v1"
"""Value of `build.pii_text` for masked text; a change of the rules below is a new version."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Masked:
    """Masked text, the number of findings by type, and the requested spans in the masked text."""

    text: str
    hits: dict[str, int]
    spans: tuple[Span, ...] = ()

    @property
    def num_hits(self) -> int:
        """Number of findings of all types."""
        return sum(self.hits.values())


class _Finding(NamedTuple):
    """Personal data in a text: its half-open range and type."""

    start: int
    end: int
    type: str


class _Shift(NamedTuple):
    """A range of a text that is masked, and the range of its placeholder in the masked text."""

    start: int
    end: int
    new_start: int
    new_end: int


# Every pattern is bounded in length and anchored at the beginning of a run, so that no text takes quadratic time.
_EMAIL = re.compile(r"(?<![\w+%-])\w[\w.+%-]{0,63}@(?:[\w-]{1,63}\.){1,8}(?P<top>[^\W\d_]{2,24})(?!\w)")
_FILE_EXTENSIONS = {"png", "jpg", "jpeg", "gif", "webp", "svg", "css", "js"}  # icon@2x.png
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.,+-])[2-6][0-9]{3}(?:[ -]?[0-9]){10,15}(?![\w]|[.,][0-9])")
_CARD_ISSUERS = re.compile(  # issuer prefixes and the lengths in use; 13 digits are left to EANs and timestamps
    r"4(?:.{15}|.{18})|(?:5[1-5]|2[2-7]).{14}|3[47].{13}|3(?:0[0-5]|[689]).{11,16}|35.{14,17}|6[0-9].{14,17}|5[06-8].{14,17}"
)
# By their form alone: a form as specific as these still identifies a person if the number is mistyped. `stdnum` would
# not find a mistyped one, and does not know the British form.
_NATIONAL_ID = re.compile(
    r"(?<![\w.-])(?:"
    r"(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}"  # United States: social security number
    r"|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"  # Brazil: CPF
    r"|[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"  # United Kingdom: NINO
    r"|[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]"  # Italy: codice fiscale
    r")(?![\w-])"
)
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_IPV4 = re.compile(rf"(?<![\w.,-]){_OCTET}(?:\.{_OCTET}){{3}}(?!\w|[.-][0-9])")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_NUMBERED = re.compile(
    r"(?:\b(?:v|ver|version|release|build|firmware|section|chapter|table|figure)|§)\W{0,2}$", re.IGNORECASE
)
_LINE_START = re.compile(r"(?:^|\n)[ \t]*$")
_HEADING = re.compile(r"\.\s+\W?[^\W\d_]")  # after its number: "13.3.3.1. Options"

_NOT_INSIDE = r"(?<![\w.,:/$€£¥#+-])"
_NOT_CONTINUED = r"(?!\w|[.,:/-][0-9])"
# Not `phonenumbers`: it needs a region for all but the first of these, takes 0.1 ms per candidate, and rejects hardly
# any of the numbers with a country code that these find. A test compares these with its examples.
_PHONES = [
    re.compile(pattern + _NOT_CONTINUED, re.IGNORECASE)
    for pattern in (
        # International: +49 (0)30 1234-567
        r"(?<![\w+.,-])\(?\+[0-9]++\)?(?:[ .\-/]?\(?[0-9]++\)?){0,7}",
        # North America: (212) 555-0123, 1-212-555-0123, 212.555.0123; with spaces alone it is often a row of a table
        _NOT_INSIDE + r"(?:1[ .-])?(?:\([2-9][0-9]{2}\)[ .-]?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[ .-][0-9]{4}",
        # Trunk prefix 0: in pairs (01 23 45 67 89), or area code and number (020 7946 0958, 0171/1234567)
        _NOT_INSIDE + r"0[1-9]([ .-])[0-9]{2}(?:\1[0-9]{2}){3}",
        _NOT_INSIDE + r"\(?0[1-9][0-9]{1,4}\)?(?:[ /-][0-9]{2,8}){1,4}",
        # Any number after a word for telephone
        r"(?<!\w)(?:(?:tele)?(?:phone|fax)|tel|t[eé]l[eé]fon[eo]?|telefoon|whatsapp|(?:mobile?|cell|handy|hotline)(?=:)"
        r"|call(?: us)?(?: at| on|(?=:)))(?: (?:no|number)\b)?[.:]{0,2} {0,2}"
        r"(?P<number>\(?[0-9](?:[ ().\-/]{0,2}[0-9]){6,14})",
    )
]
_DATE = re.compile(
    r"(?<![0-9])(?:[12][0-9]{3}([-./])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-./])[0-9]{1,2}\2[12][0-9]{3})(?![0-9])"
)
# What is in every finding, and is found faster than the finding: one of these decides whether to look, or where.
_DIGIT_RUN = re.compile(r"[0-9](?:\W{0,3}[0-9])*+")  # holds all digits of a telephone or card number
_MAX_LEAD, _MAX_LOOKAHEAD = 45, 3  # characters of a telephone number before its first digit, and looked at behind it
_MIN_PHONE_DIGITS, _MIN_CARD_DIGITS = 7, 14
_IPV4_PART = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_IPV6_PART = re.compile(r":[0-9A-Fa-f]{0,4}:")
_NATIONAL_ID_PARTS = [re.compile(pattern) for pattern in (r"-[0-9]{2}-[0-9]{4}", r"\.[0-9]{3}-[0-9]{2}")]
_LETTERED_ID_DIGITS = re.compile(r"[0-9]{2}(?: ?[0-9]{2}){2} ?[A-D]|[0-9]{2}[A-Z][0-9]{2}[A-Z]")  # behind its letters
_MAX_EMAIL_NAME, _MAX_EMAIL_CHARS = 64, 1 + 8 * 64 + 24 + 1  # before its `@`; from there on, and one behind


def mask(text: str, spans: Sequence[Span] = ()) -> Masked:
    """Mask e-mail addresses, telephone, card and account numbers, IP addresses and national IDs.

    Public and private IP addresses are masked (a private one identifies a device within its network), except loopback,
    netmasks, the number of a heading, and addresses of four single digits, which are numbers of versions or sections.

    Args:
        text: Any text.
        spans: Half-open ranges of `text` to move with it; one that begins or ends inside a finding covers its whole
            placeholder.
    """
    found = _find(text)
    if not found:
        return Masked(text, {}, tuple(spans))
    pieces: list[str] = []
    shifts: list[_Shift] = []
    position = length = 0
    for start, end, name in found:
        placeholder = f"<{name}>"
        pieces += [text[position:start], placeholder]
        length += start - position
        shifts.append(_Shift(start, end, length, length + len(placeholder)))
        length += len(placeholder)
        position = end
    pieces.append(text[position:])
    moved = [(_moved(a, shifts, is_end=False), _moved(b, shifts, is_end=True)) for a, b in spans]
    return Masked("".join(pieces), dict(Counter(finding.type for finding in found)), tuple(moved))


def mask_document(document: Document) -> Document:
    """Return the document with all its text masked: text segments, alt texts, credits, and the caption in its extras.

    Regions, and the ranges of the caption in GRIT's `noun_chunks` and `ref_exps`, move with their phrases.
    """
    num_hits = 0
    segments: list[Segment] = []
    for segment in document.segments:
        if segment.text is not None:
            masked = mask(segment.text, [(r.start, r.end) for r in segment.regions])
            regions = (replace(r, start=a, end=b) for r, (a, b) in zip(segment.regions, masked.spans, strict=True))
            segment = replace(segment, text=masked.text, regions=tuple(regions))
            num_hits += masked.num_hits
        segments.append(segment)
    media = []
    for medium in document.media:
        alt, credit = mask(medium.alt or ""), mask(medium.credit or "")
        medium = replace(medium, alt=medium.alt and alt.text, credit=medium.credit and credit.text)
        num_hits += alt.num_hits + credit.num_hits
        media.append(medium)
    return replace(
        document,
        segments=tuple(segments),
        media=tuple(media),
        extras=_mask_extras(document.extras),
        build=replace(document.build, pii_text=MASK, pii_hits=document.build.pii_hits + num_hits),
    )


def _mask_extras(extras: dict[str, Any]) -> dict[str, Any]:
    """Return the extras with masked captions; what is found in `caption` is counted in the segment that it repeats."""
    if others := extras.get("other_captions"):
        masked_others = [{**other, "text": mask(str(other["text"])).text} for other in others]
        extras = {**extras, "other_captions": masked_others}
    caption = extras.get("caption")
    if not isinstance(caption, str):
        return extras
    rows = [(name, row) for name in ("noun_chunks", "ref_exps") for row in extras.get(name) or ()]
    masked = mask(caption, [(int(row[0]), int(row[1])) for _, row in rows])
    changed: dict[str, Any] = {name: [] for name, _ in rows}
    for (name, row), (start, end) in zip(rows, masked.spans, strict=True):
        changed[name].append([type(row[0])(start), type(row[1])(end), *row[2:]])
    return {**extras, "caption": masked.text, **changed}


def _find(text: str) -> list[_Finding]:
    """Return the findings in order, without overlap; of two that overlap, the one by the stricter rule."""
    runs = [match.span() for match in _DIGIT_RUN.finditer(text)]
    found: list[_Finding] = []
    for name, find in _FINDERS.items():
        for start, end in find(text, runs):
            at = bisect.bisect(found, (start, end))
            is_free = (at == 0 or found[at - 1].end <= start) and (at == len(found) or end <= found[at].start)
            if is_free:
                found.insert(at, _Finding(start, end, name))
    return found


def _moved(offset: int, shifts: list[_Shift], *, is_end: bool) -> int:
    shift = 0
    for start, end, new_start, new_end in shifts:
        if offset <= start:
            break
        if offset < end:
            return new_end if is_end else new_start
        shift = new_end - end
    return offset + shift


def _emails(text: str, _: list[Span]) -> Iterator[Span]:
    end, at = 0, text.find("@")
    while at >= 0:
        match = _EMAIL.search(text, max(end, at - _MAX_EMAIL_NAME), at + _MAX_EMAIL_CHARS)
        if match:
            end = match.end()
            if match["top"].lower() not in _FILE_EXTENSIONS:
                yield match.span()
        at = text.find("@", max(at + 1, end))


def _ibans(text: str, runs: list[Span]) -> Iterator[Span]:
    end = 0
    for start, _ in runs:  # which an account number's first digits begin, since letters stand before them
        if start - 2 >= end and text[start - 1].isupper() and (match := _IBAN.match(text, start - 2)):
            end = match.end()
            yield from _longest_valid(match, _is_iban)


def _is_iban(text: str) -> bool:
    """Return whether the check digits are right (ISO 13616: with the first four characters moved to the end).

    `stdnum.iban` also requires the country's own format, and so misses accounts of countries that it does not list yet.
    """
    characters = text.replace(" ", "")
    if not 15 <= len(characters) <= 34 or sum(c.isdigit() for c in characters) < 8:
        return False
    return mod_97_10.is_valid(characters[4:] + characters[:4])


def _cards(text: str, runs: list[Span]) -> Iterator[Span]:
    for start, end in _number_windows(text, runs, _MIN_CARD_DIGITS):
        for match in _CARD.finditer(text, start, end):
            yield from _longest_valid(match, _is_card)


def _number_windows(text: str, runs: list[Span], min_digits: int) -> Iterator[Span]:
    """Yield the ranges around each run of so many digits in which a pattern of numbers is looked for."""
    last_end = 0
    for start, end in runs:
        if end - start >= min_digits and sum(map(str.isdigit, text[start:end])) >= min_digits:
            yield max(start - _MAX_LEAD, last_end), end + _MAX_LOOKAHEAD
        last_end = end


def _is_card(text: str) -> bool:
    """Return whether it has a known issuer's prefix and length, and Luhn's checksum is right (ISO/IEC 7812)."""
    digits = re.sub("[ -]", "", text)
    return bool(_CARD_ISSUERS.fullmatch(digits)) and luhn.is_valid(digits)


def _longest_valid(match: re.Match[str], is_valid: Callable[[str], bool], group: str | int = 0) -> Iterator[Span]:
    """Yield the range of the longest valid beginning of a match: `4111 1111 1111 1111` of `4111 1111 1111 1111 123`."""
    text, start = match[group], match.start(group)
    for end in (len(text), *(i for i in range(len(text) - 1, 0, -1) if text[i] in " -./")):
        if is_valid(text[:end]):
            yield start, start + end
            return


def _national_ids(text: str, runs: list[Span]) -> Iterator[Span]:
    if any(_is_behind_letters(text, start) for start, _ in runs) or any(p.search(text) for p in _NATIONAL_ID_PARTS):
        yield from (m.span() for m in _NATIONAL_ID.finditer(text))


def _is_behind_letters(text: str, start: int) -> bool:
    """Return whether digits may be the first ones of a national ID that begins with letters."""
    before = text[max(start - 2, 0) : start].rstrip(" ")
    return before[-1:].isupper() and _LETTERED_ID_DIGITS.match(text, start) is not None


def _ip_addresses(text: str, _: list[Span]) -> Iterator[Span]:
    for match in _IPV4.finditer(text) if _IPV4_PART.search(text) else ():
        octets = [int(octet) for octet in match[0].split(".")]
        before = text[max(match.start() - 12, 0) : match.start()]
        is_heading = _HEADING.match(text, match.end()) and _LINE_START.search(before)
        if octets[0] not in (0, 127, 255) and max(octets) > 9 and not _NUMBERED.search(before) and not is_heading:
            yield match.span()
    if _IPV6_PART.search(text) and ("::" in text or text.count(":") >= 7):
        yield from (m.span() for m in _IPV6.finditer(text) if _is_ipv6(m[0]))


def _is_ipv6(text: str) -> bool:
    groups = [group for group in text.split(":") if group]
    if len(groups) < 2 or not any(c.isdigit() for c in text) or max(map(len, groups)) < 3:
        return False  # a clock, `std::max`, `a1::b2`
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _phones(text: str, runs: list[Span]) -> Iterator[Span]:
    windows = list(_number_windows(text, runs, _MIN_PHONE_DIGITS))
    for pattern in _PHONES:
        for start, end in windows:
            for match in pattern.finditer(text, start, end):
                yield from _longest_valid(match, _is_phone, "number" if "number" in pattern.groupindex else 0)


def _is_phone(text: str) -> bool:
    """Return whether it has as many digits as a number with area code (at most 15, E.164), and is no date."""
    num_digits = sum(map(str.isdigit, text))
    fewest = 9 if text.lstrip("(")[0] == "0" else 7
    return fewest <= num_digits <= 15 and not _DATE.search(text)


# The stricter rule first: of two findings that overlap, it decides.
_FINDERS: dict[str, Callable[[str, list[Span]], Iterator[Span]]] = {
    "EMAIL": _emails,
    "IBAN": _ibans,
    "CARD_NUMBER": _cards,
    "NATIONAL_ID": _national_ids,
    "IP_ADDRESS": _ip_addresses,
    "PHONE": _phones,
}
TYPES = tuple(_FINDERS)
"""Types of personal data that are masked, each as `<TYPE>`."""
