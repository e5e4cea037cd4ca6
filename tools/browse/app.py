"""The web app: routes, headers that keep a page from doing anything but showing itself, and errors as pages."""

import contextlib
import difflib
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines import storage
from pipelines.errors import UserError
from pipelines.shards.manifest import FILE_NAME, Manifest
from tools.browse.catalogue import Catalogue, Row
from tools.browse.drops import DropFilters, Drops
from tools.browse.filters import Filters
from tools.browse.links import Links
from tools.browse.lookup import Lookup
from tools.browse.making import Making, NotReadyError
from tools.browse.overview import read_facts
from tools.browse.pages import NUM_OF_GROUP, Html, Pages
from tools.browse.reading import Reader, UnreadableError, media_type
from tools.browse.training import RunRecord
from tools.serving import LOOPBACK

POLICY = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'self'; script-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What a page may load and do: images, videos, style and script of this server, and no other."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
ASSETS = {
    "browse.css": "text/css; charset=utf-8",
    "browse.js": "text/javascript; charset=utf-8",
    "icon.png": "image/png",
}

_KEPT = "private, max-age=86400, immutable"
_FILTERS = tuple(Filters.__dataclass_fields__)
_SAMPLE = ("key", "in")
_BOUNDS = ("after", "before")
_CHECK_SECONDS = 2.0
_SECONDS_TO_STOP = 5.0
_FACTS_SECONDS = 0.1  # for which the overview waits for the facts
_WORDS_SECONDS = 0.5  # for which the first search of words waits for some to be indexed


class Browser:
    """All that the routes use; what takes time is made when it is first needed.

    Args:
        corpus: Folder of the corpus.
        manifest: Its manifest.
        record: That of the run that is looked at, if one is.
    """

    def __init__(self, corpus: str, manifest: Manifest, record: RunRecord | None = None) -> None:
        self.corpus, self.manifest, self.record = corpus, manifest, record
        self.links = Links(manifest)
        self.pages = Pages(manifest, self.links, None if record is None else record.run)
        self.reader = Reader(corpus, is_foreign=manifest.spec_sha256 is None)
        self.lookup = Lookup(corpus, manifest)
        self.facts = Making(
            "images, languages, licences and domains are being counted", lambda: read_facts(self.lookup)
        )
        self.drops = Drops(self.lookup)
        self._catalogue: Catalogue | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._stamp, self._has_changed = self._manifest_stamp(), False
        self._next_check = time.monotonic() + _CHECK_SECONDS

    def catalogue(self) -> Catalogue:
        """Return the catalogue; the first call makes the look-up of samples.

        Raises:
            UserError: If a sidecar is missing or damaged.
        """
        with self._lock:
            if self._catalogue is None:
                self._catalogue = Catalogue(self.lookup)
            return self._catalogue

    def check_current(self) -> None:
        """Check that the corpus is still the one that was opened; asked of the files every few seconds.

        Raises:
            UserError: If it is not: a build or a takedown has changed it.
        """
        if not self._has_changed and time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + _CHECK_SECONDS
            self._has_changed = self._manifest_stamp() != self._stamp
            if self._has_changed and self._catalogue is not None:
                self._catalogue.words.stop()
        if self._has_changed:
            raise UserError(f"{self.corpus}: the corpus has changed since it was opened. Start the command again")

    def _manifest_stamp(self) -> list[Any] | None:
        try:
            return storage.stamp(storage.join(self.corpus, FILE_NAME))
        except FileNotFoundError:
            return None

    def prepare(self) -> None:
        """Make, in a thread, what pages will need: one after the other."""

        steps: list[Callable[[], Making[Any]]] = [
            lambda: self.facts,
            lambda: self.catalogue().terms,
            lambda: self.drops.sorted,
        ]
        if (record := self.record) is not None:
            steps.insert(0, lambda: record.sorted)

        def make() -> None:
            for step in steps:
                if self._is_closed:
                    return
                with contextlib.suppress(UserError):  # the page that needs it says so
                    step().get(None)

        threading.Thread(target=make, name="prepare", daemon=True).start()

    def close(self) -> None:
        """End what runs, and close files."""
        self._is_closed = True
        self.lookup.stop(_SECONDS_TO_STOP)
        if self._catalogue is not None:
            self._catalogue.words.stop()
            self._catalogue.close()
        self.drops.close()
        self.reader.close()

    def texts(self, begin: int, end: int) -> Sequence[str | None]:
        """Return the texts of rows, for the index of words."""
        found = self.reader.read_all(self.catalogue().between(begin, end))
        return [None if isinstance(sample, UnreadableError) else sample.document.text for sample in found]


def make_app(browser: Browser, hosts: Sequence[str] | None = LOOPBACK) -> Starlette:
    """Return the app.

    Args:
        browser: What it shows.
        hosts: Names under which it may be asked: on loopback, a page of the web that gives its own name our address
            must not read the corpus through its visitor's browser. None for any.
    """
    routes = [
        Route("/", _page(browser, _overview)),
        Route("/samples", _page(browser, _samples, (*_FILTERS, *_BOUNDS))),
        Route("/sample", _page(browser, _sample, (*_FILTERS, *_SAMPLE))),
        Route("/drops", _page(browser, _drops, (*DropFilters.__dataclass_fields__, *_BOUNDS))),
        Route("/search", _page(browser, _search, ("q",))),
        Route("/random", _page(browser, _random, _FILTERS)),
        Route("/raw", _page(browser, _raw, _SAMPLE)),
        Route("/media/{version}/{row:int}/{part:path}", _page(browser, _media)),
        Route("/assets/{name}", _asset),
    ]

    def not_found(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _response(browser.pages.fault(error.status_code, f"{error.detail}: {request.url.path[:200]}"))

    def failed(request: Request, error: Exception) -> Response:  # a fault of ours: its traceback is on the terminal
        line = f"{type(error).__name__} while making this page; the terminal says more"
        return HTMLResponse(browser.pages.fault(500, line).text, 500, HEADERS)

    hosts_allowed = ["*"] if hosts is None else [f"[{host}]" if ":" in host else host for host in hosts]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_SafeHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts_allowed, www_redirect=False),
        ],
        exception_handlers={HTTPException: not_found, Exception: failed},
    )


class _SafeHeaders:
    """Adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, send_safely)


def _page(
    browser: Browser, make: Callable[[Browser, Request], Response], names: Sequence[str] = ()
) -> Callable[[Request], Response]:
    """Return a route's function, which runs in a thread and shows the user's mistakes and damaged files as pages.

    Args:
        browser: What it shows.
        make: Function that gives the answer.
        names: Those that a query string may have.
    """

    def endpoint(request: Request) -> Response:
        try:
            for name in request.query_params:
                if name not in names:
                    raise _BadRequestError(_unknown(name, names))
            browser.check_current()
            return make(browser, request)
        except NotReadyError as error:
            line = f"One moment: {error}, once. This page shows itself when that is done"
            return _response(browser.pages.fault(503, line), 1)
        except _BadRequestError as error:
            return _response(browser.pages.fault(400, str(error)))
        except UserError as error:
            return _response(browser.pages.fault(500, str(error)))

    return endpoint


class _BadRequestError(Exception):
    """The address cannot be one of ours."""


def _response(page: Html, refresh_seconds: int | None = None) -> Response:
    headers = {"cache-control": "no-store"}
    if refresh_seconds is not None:
        headers["refresh"] = str(refresh_seconds)
    return HTMLResponse(page.text, page.status, headers)


# --- pages ----------------------------------------------------------------------------------------------------------


def _overview(browser: Browser, request: Request) -> Response:
    try:
        return _response(browser.pages.overview(browser.facts.get(_FACTS_SECONDS)))
    except NotReadyError:
        return _response(browser.pages.overview(None), 1)
    except UserError as error:
        return _response(browser.pages.overview(None, str(error)))


def _samples(browser: Browser, request: Request) -> Response:
    filters = _filters(request)
    catalogue = browser.catalogue()
    is_partial = filters.words is not None and _index_words(browser, catalogue)
    after, before = _range(request)
    page = browser.pages.samples(catalogue, browser.reader, filters, after, before)
    return _response(page, 3 if is_partial else None)


def _sample(browser: Browser, request: Request) -> Response:
    filters, catalogue = _filters(request), browser.catalogue()
    row = _row(browser, request)
    sample = browser.reader.read(row)
    uses = None if browser.record is None else browser.record.uses(row.key, row.shard.source)
    group = catalogue.group(row, NUM_OF_GROUP) if row.has_group else ([], 0)
    beside, neighbours = catalogue.beside(filters, row.row), catalogue.neighbours(row)
    return _response(browser.pages.sample(sample, filters, beside, neighbours, group, uses))


def _drops(browser: Browser, request: Request) -> Response:
    try:
        filters = DropFilters.parse(request.query_params)
    except UserError as error:
        raise _BadRequestError(str(error)) from error
    return _response(browser.pages.drops(browser.drops, filters, *_range(request)))


def _search(browser: Browser, request: Request) -> Response:
    """Lead to what was typed: a sample by its key, a URL, a domain, or else words."""
    asked = request.query_params.get("q", "").strip()
    if not asked:
        return _led(browser.links.samples(Filters()))
    catalogue = browser.catalogue()
    if found := catalogue.by_key(asked):
        return _led(browser.links.sample(found[0], Filters()))
    name = "words"
    if len(asked.split()) == 1 and "://" in asked:
        name = "url"
    elif len(asked.split()) == 1 and "." in asked and catalogue.has(_checked({"domain": asked})):
        name = "domain"
    return _led(browser.links.samples(_checked({name: asked})))


def _random(browser: Browser, request: Request) -> Response:
    filters = _filters(request)
    row = browser.catalogue().random_row(filters, random.getrandbits(64))
    return _led(browser.links.samples(filters) if row is None else browser.links.sample(row, filters))


def _raw(browser: Browser, request: Request) -> Response:
    row = _row(browser, request)
    return Response(browser.reader.part(row, "json"), media_type="application/json")


def _media(browser: Browser, request: Request) -> Response:
    version, row, part = (request.path_params[name] for name in ("version", "row", "part"))
    rows = browser.catalogue().details([row]) if browser.links.is_current(version) else []
    if not rows or part not in rows[0].parts:
        raise HTTPException(404, "no such image in this version of the corpus")
    member = browser.reader.member(rows[0], part)
    kind = media_type(member.head)
    if kind is None:
        raise HTTPException(415, "no image or video that a page may show")
    headers = {"cache-control": _KEPT, "accept-ranges": "bytes"}
    wanted = _bytes_wanted(request.headers.get("range", ""), member.size)
    begin, end = wanted or (0, member.size)
    if begin >= end and wanted is not None:
        return Response(status_code=416, headers={"content-range": f"bytes */{member.size}"})
    if wanted is not None:
        headers["content-range"] = f"bytes {begin}-{end - 1}/{member.size}"
    headers["content-length"] = str(end - begin)
    status = 200 if wanted is None else 206
    if request.method == "HEAD":
        return Response(None, status, headers, kind)
    return StreamingResponse(member.pieces(begin, end), status, headers, kind)


def _bytes_wanted(asked: str, size: int) -> tuple[int, int] | None:
    """Return the bytes from one up to another that a `Range` asks for, none if they are beyond the end.

    What is no single range of bytes is passed over, as HTTP (RFC 9110, section 14.2) has it: None.
    """
    found = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", asked.strip(), re.ASCII)
    if found is None or not (found[1] or found[2]):
        return None
    first, last = found[1], found[2]
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _asset(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in ASSETS:
        raise HTTPException(404, "no such file")
    return Response(asset(name), headers={"content-type": ASSETS[name], "cache-control": "no-cache"})


def asset(name: str) -> bytes:
    """Return a file that pages load."""
    return files("tools.browse").joinpath("assets", name).read_bytes()


# --- addresses ------------------------------------------------------------------------------------------------------


def _led(address: str | None) -> Response:
    assert address is not None, "a server has all pages"
    return RedirectResponse(address, 303)


def _unknown(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    known = f"Known here: {', '.join(names)}." if names else "This page has none."
    return f"{name[:50]}: unknown in an address. {f'Did you mean {near[0]!r}?' if near else known}"


def _filters(request: Request) -> Filters:
    return _checked(request.query_params)


def _checked(query: Mapping[str, str]) -> Filters:
    try:
        return Filters.parse(query)
    except UserError as error:
        raise _BadRequestError(str(error)) from error


def _range(request: Request) -> tuple[int, int | None]:
    """Return the rows that a page lies between, of which one is given at most."""
    found: dict[str, int | None] = {"after": None, "before": None}
    for name in found:
        if value := request.query_params.get(name):
            if not value.isascii() or not value.isdigit() or len(value) > 15:
                raise _BadRequestError(f"{name}: {value[:50]!r} is no row")
            found[name] = int(value)
    return -1 if found["after"] is None else found["after"], found["before"]


def _row(browser: Browser, request: Request) -> Row:
    key = request.query_params.get("key", "")
    found = browser.catalogue().by_key(key, request.query_params.get("in"))
    if not found:
        raise HTTPException(404, f"no sample has the key {key[:200]!r}" if key else "key: which sample?")
    return found[0]


def _index_words(browser: Browser, catalogue: Catalogue) -> bool:
    """Have the words indexed; return whether that is still going on."""
    catalogue.words.start(browser.texts)
    if catalogue.words.filled().num_rows == 0:
        catalogue.words.wait(_WORDS_SECONDS)
    filled = catalogue.words.filled()
    return filled.num_rows < catalogue.num_samples and filled.error is None
