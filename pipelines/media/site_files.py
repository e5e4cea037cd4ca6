"""Site files of hosts whose pages others fetched: robots.txt and tdmrep.json as they are today, in the raw store.

A page of an archive or a list was fetched by another crawler, perhaps years ago. Before it is used, its host is asked
once; the answers are kept like media, so that a rerun asks nobody and a changed policy judges the same answers anew.
"""

import functools
from collections.abc import Callable

from pipelines.candidate import MediaRequest
from pipelines.document import Signal
from pipelines.drop_reasons import FETCHED, Outcome
from pipelines.faults import refusal_of
from pipelines.media.raw_store import Blob, RawPartWriter, StoredMedia, StoredSiteFile, load_media
from pipelines.web import urls
from pipelines.web.answers import FetchFailure
from pipelines.web.http_client import PoliteClient
from pipelines.web.http_exchange import utc_now
from pipelines.web.permission import NOT_ASKED, PolicySettings, Verdict
from pipelines.web.site_rules import MAX_KEPT_HOSTS, SiteFile, SiteRules

RENDITION = "site"  # site files are stored as they came, under any settings


async def fetch_site(client: PoliteClient, request: MediaRequest, writer: RawPartWriter) -> None:
    """Request the site files of a host and store them; a host that cannot be asked is stored with the reason."""
    assert request.url is not None
    try:
        rules = await client.site(request.url)
        found = [file for file in (rules.robots, rules.tdmrep) if file is not None]
        outcome: Outcome = FETCHED
        if rules.robots.is_unreachable:
            outcome = "robots_unreachable"
        elif rules.tdmrep is not None and rules.tdmrep.is_unreachable:
            outcome = "tdm_unreachable"
        files = tuple(
            StoredSiteFile(file.url, file.status, writer.add_bytes(file.content), file.observed_at) for file in found
        )
        writer.add(StoredMedia(request.key, outcome, url=request.url, site_files=files), RENDITION)
    except FetchFailure as failure:
        failed = StoredMedia(request.key, failure.reason, failure.detail, url=request.url, fetched_at=utc_now())
        writer.add(failed, RENDITION)
    except Exception as error:
        writer.add(StoredMedia(request.key, *refusal_of(error), url=request.url, fetched_at=utc_now()), RENDITION)


class PagePermission:
    """Verdicts on the pages of a part of candidates, by the stored site files of their hosts.

    Those used last stay parsed.

    Args:
        policy: What counts as a refusal.
        folder: The raw store.
        places: Where the results of requests for site files are, by `MediaRequest.key`.
    """

    def __init__(self, policy: PolicySettings, folder: str, places: dict[str, Blob]) -> None:
        self._policy, self._folder, self._places = policy, folder, places
        self._of_site = functools.lru_cache(MAX_KEPT_HOSTS)(self._read)

    def verdict(self, site: MediaRequest, page_url: str) -> Verdict:
        """Return the verdict on a page, by the request for its host's site files."""
        return self._of_site(site.key)(page_url)

    def _read(self, key: str) -> Callable[[str], Verdict]:
        stored = load_media(self._folder, self._places[key])
        return page_verdict_of(stored, self._policy, functools.partial(Blob.read, folder=self._folder))


def page_verdict_of(
    stored: StoredMedia, policy: PolicySettings, read: Callable[[Blob], bytes]
) -> Callable[[str], Verdict]:
    """Return a function that judges the URLs of pages of a host by its stored site files.

    A host without a public address has no robots.txt that a crawler could be bound by: whoever archived it was inside.
    A host that exists no longer is unknown, and counts as `policy.unknown` says.

    Args:
        stored: What `fetch_site` stored.
        policy: What counts as a refusal.
        read: Returns the bytes of a blob.
    """
    if stored.site_files:
        files = [SiteFile(f.url, f.status, read(f.blob), f.observed_at) for f in stored.site_files]
        rules = SiteRules(policy, files[0], files[1] if len(files) > 1 else None)
        return lambda url: rules.verdict(url, "page")
    robots = urls.resolve(stored.url or "", "/robots.txt")
    signal = Signal("robots.txt", "page", f"{NOT_ASKED}{stored.outcome}", stored.fetched_at, robots)
    is_unbound = stored.outcome == "private_address"
    is_gone = stored.outcome == "host_not_found" and policy.unknown == "allow"
    assert stored.outcome != FETCHED
    verdict = Verdict(() if is_unbound or is_gone else (stored.outcome,), (signal,))
    return lambda _: verdict
