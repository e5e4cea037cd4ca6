"""References of one page, each resolved once: pages repeat theirs, in their menus above all."""

import re
from urllib.parse import urlsplit

from pipelines.web.urls import BaseUrl

# A path below the base's folder: what needs no rule but to be put behind the folder. A folder may not begin with a dot,
# nor a name hold `;`, which may begin a session's id.
_PLAIN = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?", re.ASCII)
_MAX_PLAIN_CHARS = 500


class References:
    """What the references of a page are relative to, and those resolved so far.

    Args:
        base: The page's base URL, canonical, and its encoding.
    """

    def __init__(self, base: BaseUrl) -> None:
        self.url = base.url
        self._base = base
        scheme, netloc, path, _, _ = urlsplit(base.url)
        self._folder = f"{scheme}://{netloc}{path[: path.rindex('/') + 1]}"
        self._resolved: dict[str, str | None] = {}

    def resolve(self, reference: str) -> str | None:
        """Return the canonical URL of a reference; None if it is not fetched over http(s)."""
        try:
            return self._resolved[reference]
        except KeyError:
            pass
        is_short = len(reference) < _MAX_PLAIN_CHARS
        whole, mark, _ = reference.partition("#")
        if mark and is_short and whole[-1:].strip() == whole[-1:]:  # else its last space would count
            found = self.resolve(whole)
        elif is_short and _PLAIN.fullmatch(reference):
            found = f"{self._folder}{reference}"
        else:
            found = self._base.resolve(reference)
        self._resolved[reference] = found
        return found
