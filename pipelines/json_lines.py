"""Logs of a corpus: one JSON object per line, which is never changed."""

from collections.abc import Callable
from typing import TypeVar

from pipelines import storage
from pipelines.errors import UserError

Entry = TypeVar("Entry")


def read_entries(path: str, parse: Callable[[bytes], Entry], what: str) -> list[Entry]:
    """Return the entries of a log, in order; none if there is no such file.

    Args:
        path: The log.
        parse: Returns the entry in a line; raises ValueError, TypeError or KeyError for any other.
        what: What an entry is of, for errors: `a takedown`.

    Raises:
        UserError: If a line is damaged.
    """
    lines = storage.read_bytes(path).splitlines() if storage.exists(path) else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse(line))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}:{number}: not an entry of {what}: {error}. Restore the file") from error
    return found
