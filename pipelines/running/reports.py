"""Reports of a running build for programs: lines of JSON, and metrics in the form of Prometheus.

Names of metrics follow Prometheus' conventions: a prefix, base units, `_total` only for counters. All are gauges: a
rerun begins where the last one ended, and a step of a crawl begins again with each round.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from prometheus_client import CollectorRegistry, Gauge, start_http_server, write_to_textfile

from pipelines.errors import UserError
from pipelines.running.watch import Work

INTERVAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a step: `stage` and `step` by its label, its work, seconds since it began, and an estimate of the rest.

    `rate` are units per second since the step began; `eta_seconds` is None if nothing can be told.
    """

    stage: str
    step: str
    unit: str
    work: Work
    seconds: float
    rate: float
    eta_seconds: float | None

    def to_record(self) -> dict[str, Any]:
        """Return the step as a line of the log has it."""
        return {
            "stage": self.stage,
            "step": self.step,
            "unit": self.unit,
            "done": self.work.done,
            "total": self.work.total,
            "rate": round(self.rate, 3),
            "eta_seconds": None if self.eta_seconds is None else round(self.eta_seconds, 1),
            "dropped": dict(sorted(self.work.dropped.items())),
            "bytes": self.work.num_bytes,
            "seconds": round(self.seconds, 1),
        }


@contextlib.contextmanager
def _explained(option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{option}: {(error.strerror or str(error)).lower()}") from error


def split_label(label: str) -> tuple[str, str]:
    """Return stage and step of a pipeline's label: `fetch` and `media` of `fetch: media`."""
    stage, _, step = re.sub(r"^(\w+):? ", r"\1\n", label).partition("\n")
    return stage, step


@dataclass(slots=True)
class Reports:
    """Where a command reports to; None is nowhere. A context manager, which closes the port.

    Args:
        log_json: File to which a line of JSON is appended at intervals, at the end of each step, and for each alarm.
        metrics_file: File for node_exporter's textfile collector, replaced as a whole.
        metrics_port: Port on which the same metrics can be scraped.
    """

    log_json: str | None = None
    metrics_file: str | None = None
    metrics_port: int | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)
    _metrics: "_Metrics | None" = field(default=None, repr=False)

    def __enter__(self) -> Self:
        """Open the port and try the files.

        Raises:
            UserError: If a file cannot be written, or the port is taken.
        """
        if self.metrics_file is not None or self.metrics_port is not None:
            self._metrics = _Metrics()
        with _explained(f"--log-json {self.log_json}"):
            if self.log_json is not None:
                open(self.log_json, "a").close()
        with _explained(f"--metrics-file {self.metrics_file}"):
            self._write_metrics()
        with _explained(f"--metrics-port {self.metrics_port}"):
            self._serve()
        return self

    def _serve(self) -> None:
        if self.metrics_port is not None and self._metrics is not None:
            server, thread = start_http_server(self.metrics_port, registry=self._metrics.registry)
            self._stack.callback(thread.join)
            self._stack.callback(server.server_close)
            self._stack.callback(server.shutdown)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def is_asked(self) -> bool:
        """True if anything is reported."""
        return any(value is not None for value in (self.log_json, self.metrics_file, self.metrics_port))

    def progress(self, state: Progress, *, is_end: bool = False) -> None:
        """Report the state of a step."""
        self._log("end" if is_end else "progress", state.to_record())
        if self._metrics is not None:
            self._metrics.set(state)
            self._write_metrics()

    def alarm(self, stage: str, text: str) -> None:
        """Report a warning of a worker."""
        self._log("alarm", {"stage": stage, "message": text})
        if self._metrics is not None:
            self._metrics.alarms.labels(stage).inc()
            self._write_metrics()

    def _log(self, event: str, record: dict[str, Any]) -> None:
        if self.log_json is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            with open(self.log_json, "a", encoding="utf-8") as file:
                file.write(json.dumps({"time": now, "event": event, **record}, ensure_ascii=False) + "\n")

    def _write_metrics(self) -> None:
        if self.metrics_file is not None and self._metrics is not None:
            write_to_textfile(os.path.abspath(self.metrics_file), self._metrics.registry)


class _Metrics:
    """The metrics of a command, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, namespace="dromaius", registry=self.registry)

        self._done = gauge("step_done", "Units that are finished: parts, or requests.", "stage", "step", "unit")
        self._expected = gauge("step_expected", "Units of the step, once known.", "stage", "step", "unit")
        self._rate = gauge("step_units_per_second", "Mean rate since the step began.", "stage", "step", "unit")
        self._remaining = gauge("step_remaining_seconds", "Estimate of the time left.", "stage", "step")
        self._seconds = gauge("step_elapsed_seconds", "Time since the step began.", "stage", "step")
        self._bytes = gauge("step_folder_bytes", "Bytes in the folder of the step.", "stage", "step")
        self._dropped = gauge("step_dropped", "Units that were dropped, by reason.", "stage", "step", "reason")
        self._updated = gauge("last_update_timestamp_seconds", "When these figures were taken.")
        self.alarms = gauge("alarms", "Times that the share of successful requests fell below its limit.", "stage")

    def set(self, state: Progress) -> None:
        step = re.sub(r", round \d+$", "", state.step)  # or each round would be a series of its own
        where = (state.stage, step)
        self._done.labels(*where, state.unit).set(state.work.done)
        if state.work.total is not None:
            self._expected.labels(*where, state.unit).set(state.work.total)
        self._rate.labels(*where, state.unit).set(state.rate)
        self._remaining.labels(*where).set(float("nan") if state.eta_seconds is None else state.eta_seconds)
        self._seconds.labels(*where).set(state.seconds)
        self._bytes.labels(*where).set(state.work.num_bytes)
        for reason, num in state.work.dropped.items():
            self._dropped.labels(*where, reason).set(num)
        self._updated.set_to_current_time()
