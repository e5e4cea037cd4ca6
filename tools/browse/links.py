"""Addresses of the pages of a server: all that a page shows stands in its query string."""

from urllib.parse import quote, urlencode

from pipelines.shards.manifest import Manifest
from tools.browse.catalogue import Row
from tools.browse.filters import Filters


class Links:
    """Addresses on a server.

    Args:
        manifest: That of the corpus. Addresses of images have its fingerprint, since browsers keep them.
    """

    is_static = False

    def __init__(self, manifest: Manifest) -> None:
        self._version = manifest.fingerprint[:12]
        self._is_foreign = manifest.spec_sha256 is None

    def is_current(self, version: str) -> bool:
        """Return whether an address of an image is of this version of the corpus."""
        return version == self._version

    def overview(self) -> str | None:
        return "/"

    def samples(
        self, filters: Filters, after: int | None = None, before: int | None = None, source: str | None = None
    ) -> str | None:
        """Return the address of a list of samples; `source` is one to filter by, further."""
        filters = filters if source is None else filters.with_value("source", source)
        return _with_query("/samples", filters.query(after=after, before=before))

    def sample(self, row: Row, filters: Filters) -> str | None:
        """Return the address of a sample, whose next and previous ones pass filters."""
        return _with_query("/sample", "&".join(filter(None, (self._key(row), filters.query()))))

    def random(self, filters: Filters) -> str | None:
        return _with_query("/random", filters.query())

    def raw(self, row: Row) -> str | None:
        return _with_query("/raw", self._key(row))

    def media(self, row: Row, part: str | None) -> str | None:
        return None if part is None else f"/media/{self._version}/{row.row}/{quote(part, errors='replace')}"

    def drops(self, after: int | None = None, before: int | None = None, **chosen: str | None) -> str | None:
        """Return the address of drops; `chosen` are those of `DropFilters`."""
        values = {**chosen, "after": after, "before": before}
        found = {name: value for name, value in values.items() if value is not None}
        return _with_query("/drops", urlencode(found, errors="replace"))

    def asset(self, name: str) -> str:
        return f"/assets/{name}"

    def _key(self, row: Row) -> str:
        # In foreign tars, a key is unique in its source only.
        found = {"key": row.key} | ({"in": row.shard.source} if self._is_foreign else {})
        return urlencode(found, errors="replace")


def _with_query(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path
