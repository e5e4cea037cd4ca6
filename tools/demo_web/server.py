"""HTTP server of the demo web: every site on its own loopback address, all on one port."""

import asyncio
import contextlib
import re
import signal
import socket
from collections.abc import Callable, Mapping

from aiohttp import web

from pipelines.errors import UserError
from tools.demo_web.albums import Albums
from tools.demo_web.cinema import Cinema
from tools.demo_web.galleries import Galleries
from tools.demo_web.library import Library
from tools.demo_web.maps import Maps
from tools.demo_web.site import ADDRESSES, NOT_FOUND, Reply, Site, Web
from tools.demo_web.start import Start
from tools.demo_web.talks import Talks
from tools.demo_web.trap_sites import trap_sites

# The same for every response, so that what a crawl records is reproducible. aiohttp would add today's date.
_HEADERS = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT", "Server": "demo-web"}
_TRICKLE_SECONDS, _TRICKLE_STEPS = 0.25, 12  # 3 s for a body shorter than its Content-Length
_ENDLESS_CHUNKS = 4096  # of 64 KiB: the endless body ends after 256 MiB


def sites(settings: Web) -> dict[str, Site]:
    """All sites of the demo web, by address."""
    kinds: list[Site] = [kind(settings) for kind in (Start, Albums, Galleries, Maps, Cinema, Library, Talks)]
    return {ADDRESSES[site.name]: site for site in (*kinds, *trap_sites(settings))}


class _Handler:
    """Handler of all requests. Its only state is which client has already been told that a page is busy."""

    def __init__(self, by_address: Mapping[str, Site]) -> None:
        self._by_address = by_address
        self._told_busy: set[tuple[str, str]] = set()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        address = request.transport.get_extra_info("sockname")[0] if request.transport is not None else ""
        site = self._by_address.get(address)
        reply = site.answer(request.path_qs) if site is not None else NOT_FOUND
        if reply.manner == "busy_once" and (address, request.path_qs) not in self._told_busy:
            self._told_busy.add((address, request.path_qs))
            headers = {**_HEADERS, "Retry-After": "1", "Content-Type": "text/plain"}
            return web.Response(body=b"busy, come back\n", status=429, headers=headers)
        headers = {**_HEADERS, "Content-Type": reply.content_type, **dict(reply.headers)}
        if request.method != "HEAD":
            if reply.manner == "endless":
                return await _endless(request, reply, headers)
            if reply.manner in ("trickle", "cut"):
                return await _unfinished(request, reply, headers)
        return _whole(request, reply, headers)


def _whole(request: web.BaseRequest, reply: Reply, headers: dict[str, str]) -> web.Response:
    body, status = reply.body, reply.status
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if status == 200 and wanted and (first := int(wanted[1])) < len(body):
        last = min(int(wanted[2] or len(body) - 1), len(body) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        body, status = body[first : last + 1], 206
    if reply.content_type.startswith("video/"):
        headers["Accept-Ranges"] = "bytes"
    return web.Response(body=body, status=status, headers=headers)


async def _endless(request: web.BaseRequest, reply: Reply, headers: dict[str, str]) -> web.StreamResponse:
    """Send the body over and over, until the client disconnects."""
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    chunk = reply.body * (65_536 // len(reply.body) + 1)
    with contextlib.suppress(ConnectionError):  # the client has disconnected
        for _ in range(_ENDLESS_CHUNKS):
            await response.write(chunk)
        await response.write_eof()
    return response


async def _unfinished(request: web.BaseRequest, reply: Reply, headers: dict[str, str]) -> web.StreamResponse:
    """Send the body, at once or in drops, then cut the connection before the length that the headers declare."""
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(reply.body) + 10_000)})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # the client has disconnected
        if reply.manner == "trickle":
            for step in range(_TRICKLE_STEPS):
                await response.write(reply.body[step : step + 1])
                await asyncio.sleep(_TRICKLE_SECONDS)
        else:
            await response.write(reply.body)
    if request.transport is not None:
        request.transport.abort()
    return response


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESSES["start"], 0))
        return int(probe.getsockname()[1])


async def serve(settings: Web, ready: Callable[[Web], None]) -> None:
    """Serve until SIGTERM or SIGINT. Port 0 takes any free one; `ready` gets the port once all addresses answer.

    Raises:
        UserError: If an address cannot be opened.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if settings.port == 0:
        settings = Web(settings.seed, _free_port(), settings.pages_scale)
    runner = web.ServerRunner(web.Server(_Handler(sites(settings)), access_log=None))
    await runner.setup()
    try:
        for address in ADDRESSES.values():
            try:
                await web.TCPSite(runner, address, settings.port).start()
            except OSError as error:
                raise UserError(
                    f"demo-web: {address}:{settings.port} cannot be opened ({error.strerror}); stop what uses it,"
                    " choose another --port, or give the loopback interface this address"
                ) from error
        ready(settings)
        await stop.wait()
    finally:
        await runner.cleanup()
