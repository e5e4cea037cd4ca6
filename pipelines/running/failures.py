"""Failures of pipelines: what a worker said, in one line, from what Beam and a cluster wrap around it.

Only the text of an error crosses processes. Ours are recognised by it; of the others, which a job on a cluster ends
with, the cause is taken from a hundred lines of two languages, and the lines are kept in a file.
"""

import hashlib
import re

import grpc

from pipelines import storage
from pipelines.errors import RunError, UserError, full_disk
from pipelines.running.beam_internals import is_interrupt, is_lost_worker, without_step
from pipelines.running.local_workers import LOST_WORKER

_MAX_CHARS = 300
_PYTHON = re.compile(
    r"^(?:Caused by: )?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Timeout)\b.*)$", re.M
)
_JAVA = re.compile(r"^\s*Caused by: (?:[\w$]+\.)*([\w$]+: \S.*)$", re.M)


def known_error(error: BaseException) -> BaseException | None:
    """Return our own error if a worker raised one, or what to say of a lost worker, full disk or Ctrl-C, else None."""
    text = _said(error)
    for kind in (UserError, RunError):
        marker = f"{kind.__module__}.{kind.__qualname__}: "
        if marker in text:
            return kind(without_step(text.rpartition(marker)[2]))
    if (known := full_disk(text)) is not None:
        return known
    if is_interrupt(error):
        return KeyboardInterrupt()
    if is_lost_worker(text):
        return RunError(LOST_WORKER)
    if isinstance(error, grpc.FutureTimeoutError):
        return UserError("-- --job_endpoint: no job server answers there; start it, or name another address")
    return None


def _said(error: BaseException) -> str:
    """Return the type and message of an error, or of each error in a group."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(map(_said, error.exceptions))
    return f"{type(error).__module__}.{type(error).__qualname__}: {error}"


def cause_of(text: str) -> str:
    """Return the line of a failed job's text that tells why: the last error of Python in it, else the last of Java."""
    _, traceback, python = text.rpartition("Traceback (most recent call last)")
    found = _PYTHON.findall(python) if traceback else _JAVA.findall(text)
    line = found[-1] if found else next(filter(None, map(str.strip, text.splitlines())), "no reason was given")
    return without_step(line.strip())[:_MAX_CHARS]


def failed_job(label: str, error: Exception, log_folder: str | None) -> RunError:
    """Return the error to raise where a job on a cluster failed: its cause; its whole text is kept in a file.

    Args:
        label: The pipeline's name.
        error: As raised by Beam.
        log_folder: Where the file is written; None: nowhere.
    """
    text = str(error)
    line = f"{label}: the job failed: {cause_of(text)}"
    if log_folder is not None:
        path = storage.join(log_folder, f"job-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt")
        storage.write_bytes(path, f"{label}\n\n{text}\n".encode())
        line += f" (all of it: {path})"
    return RunError(f"{line}; rerun to continue")
