"""Outcomes of a request: an answer, or a failure with its reason; and which of them a later attempt may change."""

import re
from dataclasses import dataclass, field

from pipelines.document import Signal
from pipelines.drop_reasons import Outcome, Reason, http_reason
from pipelines.web.permission import TRANSIENT_REASONS, Verdict

Headers = tuple[tuple[str, str], ...]

# 408, 425, 429, and the statuses of a server, or a proxy in front of it, that is overloaded or down.
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_BEYOND_ASCII = re.compile(rb"[^\x00-\x7f]")

_TRANSIENT_FAILURES: frozenset[Reason] = frozenset(
    {
        "timeout",
        "dns_failure",
        "connection_failed",
        "incomplete_body",
        "retry_after_too_long",
        "host_error_budget",
        "internal_error",  # which a release may mend
    }
)
TRANSIENT = _TRANSIENT_FAILURES | {http_reason(status) for status in _TRANSIENT_STATUSES} | TRANSIENT_REASONS


def is_transient(reason: Outcome) -> bool:
    """Return whether a later attempt may succeed, so that `--retry transient` requests it again."""
    return reason in TRANSIENT


@dataclass(frozen=True, slots=True)
class Fetched:
    """One response. `headers` are as sent; `body` has its Content-Encoding removed, and is cut if `truncated`.

    `redirects` are the URLs requested before `final_url`; `fetched_at` is UTC, `2026-01-05T10:11:12Z`; `verdict` has
    the evidence of every hop.
    """

    url: str
    final_url: str
    status: int
    reason: str
    http_version: str
    headers: Headers
    body: bytes
    request_headers: Headers
    ip: str | None
    fetched_at: str
    truncated: bool = False
    redirects: tuple[str, ...] = ()
    verdict: Verdict = field(default_factory=Verdict)

    def header(self, name: str) -> str | None:
        """Return the first header of a name, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def is_transient(self) -> bool:
        """True if a later attempt may have another answer."""
        return self.status in _TRANSIENT_STATUSES

    @property
    def location(self) -> str | None:
        """The target of a redirect, perhaps relative; browsers read its bytes as UTF-8."""
        return _as_utf8(self.header("location"))

    @property
    def refresh(self) -> str | None:
        """Value of the `Refresh` header, its bytes read as UTF-8."""
        return _as_utf8(self.header("refresh"))


def _as_utf8(value: str | None) -> str | None:
    """Return a header's bytes as UTF-8; where they are not, those beyond ASCII are escaped, as browsers do."""
    if value is None:
        return None
    data = value.strip().encode("latin-1", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _BEYOND_ASCII.sub(lambda byte: b"%%%02X" % byte[0][0], data).decode("ascii")


class FetchFailure(Exception):  # noqa: N818 - it becomes a drop, not a failed run
    """Failure to get something usable, with the reason."""

    def __init__(self, reason: Reason, url: str, detail: str = "", signals: tuple[Signal, ...] = ()) -> None:
        super().__init__(reason, url, detail)
        self.reason = reason
        self.url = url
        self.detail = detail
        self.signals = signals

    def __str__(self) -> str:
        return ": ".join(part for part in (self.url, self.reason, self.detail) if part)

    @property
    def is_transient(self) -> bool:
        """True if a later attempt may succeed."""
        return is_transient(self.reason)
