"""The two exceptions that end a run early; everything else is a bug or a counted drop."""

import errno
import os


class UserError(Exception):
    """A mistake of the user: one line (what, where, what would be right), exit code 2."""


class RunError(Exception):
    """A run that failed or found something: one line, exit code 1. Finished work is kept."""


_OF_PATHS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def wrong_path(error: OSError) -> UserError | None:
    """Return the error to raise if a path cannot be used as it was meant, else None."""
    if error.errno not in _OF_PATHS or error.filename is None:
        return None
    return UserError(f"{os.fsdecode(error.filename)}: {os.strerror(error.errno).lower()}")


def full_disk(said: str) -> UserError | None:
    """Return the error to raise if an error's text reports a full disk, else None. Write errors name no file."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if (words := os.strerror(number)) in said:
            return UserError(f"{words.lower()}: free some space and rerun; finished work is kept")
    return None
