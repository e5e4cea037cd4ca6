"""A warning when few of the latest requests succeed: a name server or a line that fails, or a list that has died.

Each worker looks at its own requests. It leaves the warning as a file, which the command prints wherever workers run.
"""

import uuid
from collections import Counter, deque

from pydantic import Field

from pipelines import storage
from pipelines.drop_reasons import FETCHED, Outcome
from pipelines.errors import RunError
from pipelines.settings import Settings

_FAILURES = frozenset(
    {
        "timeout",
        "dns_failure",
        "host_not_found",
        "connection_failed",
        "incomplete_body",
        "tls_failure",
        "bad_response",
        "retry_after_too_long",
        "robots_unreachable",
        "tdm_unreachable",
        "ai_txt_unreachable",
    }
)
"""Reasons of requests that failed, beside those of a status. What is refused without a request counts for neither."""
_RECOVERY = 1.1  # times `min_success`, from which a worker may warn again
_SHOWN_REASONS = 4


class AlarmSettings(Settings):
    """When a build warns that requests fail."""

    min_success: float = Field(
        default=0.5, ge=0, le=1, description="Share of a worker's latest requests that must succeed, else it warns"
    )
    window: int = Field(default=1000, ge=1, description="How many requests these are")
    stops: bool = Field(
        default=False,
        description="Whether the build then ends, with what it has; a rerun continues, and --retry transient asks "
        "again for what failed",
    )


class SuccessAlarm:
    """The latest outcomes of a worker's requests.

    Args:
        settings: When to warn; None: never.
        folder: Where warnings are left.
    """

    def __init__(self, settings: AlarmSettings | None, folder: str) -> None:
        self._settings, self._folder = settings, folder
        self._latest: deque[Outcome] = deque(maxlen=settings.window if settings is not None else 0)
        self._num_succeeded = 0
        self._warned: str | None = None

    def count_outcome(self, outcome: Outcome) -> None:
        """Count the outcome of a request, and leave a warning if too few have succeeded."""
        settings = self._settings
        if settings is None or not (outcome == FETCHED or outcome in _FAILURES or outcome.startswith("http_")):
            return
        if len(self._latest) == settings.window:
            self._num_succeeded -= self._latest[0] == FETCHED
        self._latest.append(outcome)
        self._num_succeeded += outcome == FETCHED
        share = self._num_succeeded / settings.window
        if len(self._latest) < settings.window:
            return
        if self._warned is None and share < settings.min_success:
            self._warned = self._text(share)
            storage.write_bytes(storage.join(self._folder, uuid.uuid4().hex), self._warned.encode())
        elif share >= min(settings.min_success * _RECOVERY, 1.0):
            self._warned = None

    @property
    def ends_run(self) -> bool:
        """True if the run is to end: after a warning, if the settings say so."""
        return self._settings is not None and self._settings.stops and self._warned is not None

    def check(self) -> None:
        """End the run, if it is to.

        Raises:
            RunError: In that case.
        """
        if self.ends_run:
            raise RunError(f"{self._warned}: stopped by http.alarm.stops; rerun to continue")

    def _text(self, share: float) -> str:
        failed = Counter(outcome for outcome in self._latest if outcome != FETCHED).most_common(_SHOWN_REASONS)
        reasons = ", ".join(f"{reason} {num:,}" for reason, num in failed)
        return f"{share:.0%} of a worker's last {len(self._latest):,} requests succeeded ({reasons})"
