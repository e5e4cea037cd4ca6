"""Media that candidates need and the raw store does not have: what the fetch stage requests."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple, TypedDict

from pipelines.block_list import NOTHING, BlockList
from pipelines.candidate import MediaRequest, RequestType, Track, requests_of, url_of_key
from pipelines.drop_reasons import Outcome
from pipelines.faults import refusal_of
from pipelines.media.raw_store import Blob, read_index
from pipelines.media.site_files import RENDITION, PagePermission
from pipelines.parts import PartFolder, read_rows
from pipelines.web import urls
from pipelines.web.answers import is_transient
from pipelines.web.permission import PolicySettings

Renditions = dict[str, dict[str, str]]
"""Names of the renditions, by source and type."""

INLINE = "inline "
"""Beginning of the name of a queue without a host: of media whose bytes are in a part of candidates."""


class Request(NamedTuple):
    """A request for media; of several for the same media the smallest is made, so that their order does not matter."""

    type: RequestType
    origin: str  # URL of the page, if any; for inline media the part of candidates
    tracks: str  # JSON


class Known(NamedTuple):
    """An outcome in the store; the one of the latest generation is valid."""

    generation: int
    outcome: Outcome


class KnownRequests(TypedDict):
    """The requests for the same media, joined with their outcomes in the store."""

    wanted: list[Request]
    known: list[Known]


class Missing(NamedTuple):
    """Media that the store does not have, and the request for it."""

    rendition: str
    key: str
    request: Request

    def media_request(self) -> MediaRequest:
        tracks = tuple(Track(**track) for track in json.loads(self.request.tracks))
        return MediaRequest(self.request.type, url_of_key(self.key), self.request.origin or None, tracks)


def store_key(rendition: str, key: str) -> str:
    return f"{rendition} {key}"


def is_site_key(store_key: str) -> bool:
    """Return whether a store key is of site files, not of media."""
    return store_key.startswith(f"{RENDITION} ")


def is_blocked_request(key: str, block: BlockList) -> bool:
    """Return whether the media of a request, by its key, were taken down."""
    inline = key.removeprefix("inline:")
    return block.url(key) if inline == key else block.media(inline)


class SitesOfPart(TypedDict):
    """A part of candidates, the only one of its name, and the results of requests for site files that it needs."""

    part: list[None]
    sites: list[tuple[str, Blob]]  # by key


def wanted_requests(
    part: str, folder: PartFolder, renditions: Renditions, *, only_sites: bool = False
) -> Iterator[tuple[str, Request]]:
    """Yield (store key, request) for every request in a part of candidates, or for those for site files."""
    for row in read_rows(folder.file(part, ".parquet"), ["source", "requests"]):
        for made in requests_of(row["requests"]):
            if made.type == "site" or not only_sites:
                yield _wanted(part, made, renditions[row["source"]])


def permitted_requests(
    joined: tuple[str, SitesOfPart], folder: PartFolder, renditions: Renditions, policy: PolicySettings, media: str
) -> Iterator[tuple[str, Request]]:
    """Yield (store key, request) for the media in a part of candidates whose pages may be used.

    Args:
        joined: The part.
        folder: Candidates.
        renditions: Of the sources.
        policy: What counts as a refusal.
        media: The raw store.
    """
    part, sides = joined
    permission = PagePermission(policy, media, dict(sides["sites"]))
    for row in read_rows(folder.file(part, ".parquet"), ["source", "document", "requests"]):
        made = requests_of(row["requests"])
        site = next((request for request in made if request.type == "site"), None)
        wanted = [request for request in made if request.type != "site"]
        if site is not None and wanted:
            page_url = json.loads(row["document"])["source"]["page_url"]
            try:
                if not permission.verdict(site, page_url).allowed:
                    continue
            except Exception as error:
                refusal_of(error)  # the same that drops the document when it is to be completed
                continue
        yield from (_wanted(part, request, renditions[row["source"]]) for request in wanted)


def _wanted(part: str, made: MediaRequest, renditions: dict[str, str]) -> tuple[str, Request]:
    origin = part if made.url is None else made.page_url or ""
    tracks = json.dumps([asdict(t) for t in made.tracks], sort_keys=True)
    return store_key(renditions[made.type], made.key), Request(made.type, origin, tracks)


def known_outcomes(path: str) -> Iterator[tuple[str, Known]]:
    """Yield (store key, outcome) for every row of the store's index."""
    for row in read_index(path):
        yield store_key(row.rendition, row.key), Known(row.generation, row.outcome)


def missing_media(
    joined: tuple[str, KnownRequests], generation: int, retry: bool, block: BlockList = NOTHING
) -> Iterator[tuple[str, Missing]]:
    """Yield (authority or inline queue, media) if the store does not have it, or is to try it again.

    What was taken down is not asked for.
    """
    joined_key, sides = joined
    wanted = min(sides["wanted"], default=None)
    known = max(sides["known"], default=None)
    if wanted is None:
        return
    if known is not None and not (retry and known.generation < generation and is_transient(known.outcome)):
        return
    rendition, _, key = joined_key.partition(" ")
    if not is_site_key(joined_key) and is_blocked_request(key, block):
        return
    queue = f"{INLINE}{wanted.origin}" if key.startswith("inline:") else urls.authority(url_of_key(key))
    yield queue, Missing(rendition, key, wanted)
