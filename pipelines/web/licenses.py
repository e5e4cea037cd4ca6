"""Licence statements mapped to SPDX ids."""

import re

# https://creativecommons.org/licenses/<kind>/<version>[/<jurisdiction>]/ and /publicdomain/<zero|mark>/1.0/
_CC_URL = re.compile(
    r"\bcreativecommons\.org/licen[sc]es/([a-z]+(?:-[a-z]+)*)/(\d\.\d)(?:/([a-z]{2,3})(?=[/?#\s\"'<).,]|$))?",
    re.IGNORECASE,
)
_CC_PUBLIC_DOMAIN = re.compile(
    r"\bcreativecommons\.org/(?:publicdomain|licen[sc]es)/(zero|mark|publicdomain)\b", re.IGNORECASE
)
_CC_SHORT = re.compile(r"\bCC[\s_-]*(BY(?:[\s_-]*(?:NC|ND|SA))*)[\s_-]*v?(\d\.\d)(?:[\s_-]([A-Z]{2}))?\b")
_CC_LONG = re.compile(
    r"\bcreative\s+commons\s+attribution((?:[\s-]+(?:non-?commercial|no-?deriv(?:ative)?s?|share-?alike))*)"
    r"\s+(\d\.\d)(?:\s+(?:international|unported|generic))?",
    re.IGNORECASE,
)
# YouTube's only licence besides its own, in the two spellings of English: CC BY 3.0 by its help.
_YOUTUBE = re.compile(r"creative commons attribution licen[sc]e \(reuse allowed\)")
_CC0 = re.compile(r"\bCC0\b|\bCC[\s_-]Zero\b")
_GFDL_URL = re.compile(r"\bgnu\.org/(?:licenses|copyleft)/(?:old-licenses/)?fdl-(\d\.\d)", re.IGNORECASE)

_ELEMENTS = ("by", "nc", "nd", "sa")  # in the order of SPDX; URLs of version 1.0 say by-nd-nc
_WORDS = {"noncommercial": "nc", "noderiv": "nd", "sharealike": "sa"}


def license_id(url_or_text: str) -> str | None:
    """Return the SPDX id of the Creative Commons or GNU FDL licence that a URL or phrase names; None if uncertain.

    Ports to a jurisdiction are separate licences (`CC-BY-SA-3.0-DE`). A phrase without a version names none.
    """
    text = url_or_text
    if match := _CC_PUBLIC_DOMAIN.search(text):
        return {"zero": "CC0-1.0", "mark": "CC-PDM-1.0", "publicdomain": "CC-PDDC"}[match[1].lower()]
    if match := _CC_URL.search(text):
        return _cc_id(match[1].lower().split("-"), match[2], match[3])
    if match := _GFDL_URL.search(text):
        return f"GFDL-{match[1]}"
    if _CC0.search(text):
        return "CC0-1.0"
    if match := _CC_SHORT.search(text):
        return _cc_id(re.findall("by|nc|nd|sa", match[1].lower()), match[2], match[3])
    if match := _CC_LONG.search(text):
        words = re.sub(r"[\s-]", "", match[1].lower())
        return _cc_id(["by", *(short for word, short in _WORDS.items() if word in words)], match[2], None)
    return "CC-BY-3.0" if _YOUTUBE.fullmatch(" ".join(text.lower().split())) else None


def _cc_id(elements: list[str], version: str, jurisdiction: str | None) -> str | None:
    if not set(elements) <= set(_ELEMENTS):
        return None  # `sampling+` and other retired kinds
    ordered = "-".join(e for e in _ELEMENTS if e in elements).upper()
    return f"CC-{ordered}-{version}" + (f"-{jurisdiction.upper()}" if jurisdiction else "")
