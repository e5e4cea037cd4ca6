"""The two ways in which a run can end early; everything else is a bug or a counted drop."""

import errno
import os


class UserError(Exception):
    """A mistake of the one who started the run: one line (what, where, what would be right), exit code 2."""


class RunError(Exception):
    """The run failed, or found something: one line, exit code 1. What was finished is kept."""


def full_disk(said: str) -> UserError | None:
    """What to say where an error's words tell of a full disk; null for any other. A write's error names no file."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if (words := os.strerror(number)) in said:
            return UserError(f"{words.lower()}: free some and rerun; what was finished is kept")
    return None
