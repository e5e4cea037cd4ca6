"""One polite exchange with a host: its turn, a checked address, a deadline, caps, and retries of transient failures.

Permission to request a URL is decided one level up, in http_client.py.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import Field, field_validator
from yarl import URL

from pipelines.drop_reasons import Reason
from pipelines.faults import without_stop_iteration
from pipelines.settings import GrownSettings
from pipelines.web.address_guard import AddressError, AddressGuard, is_address, is_loopback
from pipelines.web.aiohttp_internals import TolerantConnector
from pipelines.web.answers import Fetched, FetchFailure, Headers
from pipelines.web.content_coding import DamagedBodyError, decode_body, is_coded
from pipelines.web.host_gate import HostClosedError, HostGate
from pipelines.web.host_settings import WITHHELD, HostSettings, HostTable, ResolvedHost, host_names
from pipelines.web.permission import PolicySettings, Purpose
from pipelines.web.response_head import MAX_HEAD_BYTES
from pipelines.web.success_alarm import AlarmSettings
from pipelines.web.urls import MAX_URL_CHARS

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_STATUSES_WITH_RETRY_AFTER = frozenset({429, 503})
_DRAIN_BYTES = 16 << 10  # of an unwanted body, read so that the connection can be reused
_PLAIN_URL = re.compile(r"https?://[a-z0-9._:\[\]-]+(?:[/?#][!#-;=?-Z\[\]_a-z|~]*)?")
_HOST = re.compile(r"[a-z0-9_.:-]+")  # in lower case and IDNA's ASCII form; an IPv6 address without brackets


class HttpSettings(GrownSettings):
    """Delays, deadlines, retries and size caps of requests."""

    LATER = frozenset({"alarm", "hosts"})

    delay_seconds: float = Field(default=1.0, ge=0, description="Seconds between requests to a host (StormCrawler: 1)")
    max_crawl_delay_seconds: float = Field(
        default=30.0, ge=0, description="A host whose robots.txt demands a longer delay is skipped (Nutch: 30)"
    )
    timeout_seconds: float = Field(default=60.0, gt=0, description="For one request, from connection to last byte")
    connect_timeout_seconds: float = Field(default=10.0, gt=0, description="Deadline for connecting")
    max_redirects: int = Field(default=10, ge=0, description="Redirects followed for one URL")
    max_page_bytes: int = Field(default=5 << 20, ge=1, description="A page is truncated there (Common Crawl: 5 MiB)")
    max_image_bytes: int = Field(default=20 << 20, ge=1, description="A larger image is dropped")
    max_video_bytes: int = Field(default=512 << 20, ge=1, description="A larger video is dropped")
    max_text_bytes: int = Field(default=5 << 20, ge=1, description="A larger subtitle track is dropped")
    max_retries: int = Field(default=2, ge=0, description="Further attempts after a transient failure (Scrapy: 2)")
    backoff_seconds: float = Field(default=1.0, ge=0, description="Pause after a failure; doubles with each in a row")
    max_retry_after_seconds: float = Field(default=120.0, ge=0, description="A longer wait fails the host for now")
    error_budget: int = Field(default=10, ge=1, description="Failed attempts in a row after which a host is given up")
    max_in_flight: int = Field(default=256, ge=1, description="Concurrent requests over all hosts")
    dns_cache_seconds: float = Field(default=300.0, ge=0, description="How long a name server's answer stays valid")
    site_cache_seconds: float = Field(
        default=86_400.0, ge=0, description="How long a robots.txt stays valid (RFC 9309: at most 24 h)"
    )

    alarm: AlarmSettings | None = Field(
        default=AlarmSettings(), description="Warning when requests fail; null: none is given"
    )

    hosts: dict[str, HostSettings] = Field(
        default={}, description="What is different for single hosts, by name or pattern (*.example.org); none as a rule"
    )

    _names_hosts = field_validator("hosts")(host_names)

    def max_bytes(self, purpose: Purpose) -> int:
        """Return the cap on a body for a purpose."""
        caps = {"page": self.max_page_bytes, "image": self.max_image_bytes, "video": self.max_video_bytes}
        return caps.get(purpose, self.max_text_bytes)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and how much of the response to read.

    `is_wanted` decides by status and headers whether the body is read, `max_bytes` how much of it; unless `may_cut`, a
    body known to be larger is not read at all. `delay_seconds` is the minimum wait since the host's last response.
    """

    target: URL
    is_wanted: Callable[[int, Headers], bool]
    method: Literal["GET", "HEAD"] = "GET"
    headers: Headers = ()
    max_bytes: int = 0
    may_cut: bool = False
    delay_seconds: float = 0.0


class _Response(aiohttp.ClientResponse):
    """Response that remembers its peer address: a small one has released its connection before we get it."""

    peer: str | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> "_Response":
        name = connection.transport.get_extra_info("peername") if connection.transport is not None else None
        self.peer = name[0] if name else None
        await super().start(connection)
        return self


class Exchange:
    """Requests to all hosts, one at a time to each. An asynchronous context manager, bound to one event loop.

    Args:
        policy: The user agent, and the hosts that need no public address.
        http: Delays, caps and deadlines.
        gate_folder: See `HostGate`.
        loopback_delay: Instead of `delay_seconds` for hosts on loopback; None: no exception.
    """

    def __init__(
        self, policy: PolicySettings, http: HttpSettings, gate_folder: str | None, loopback_delay: float | None
    ) -> None:
        self._policy = policy
        self._http = http
        self._loopback_delay = loopback_delay
        self._hosts = HostTable(http.hosts)
        delays = [http.delay_seconds, *(settings.delay_seconds or 0.0 for settings in http.hosts.values())]
        longest_wait = max(http.max_retry_after_seconds, http.max_crawl_delay_seconds, *delays)
        self._gate = HostGate(gate_folder, longest_wait)
        self._guard = AddressGuard(
            policy.allow_hosts, may_leave_loopback=policy.has_contact, cache_seconds=http.dns_cache_seconds
        )
        self._in_flight = asyncio.Semaphore(http.max_in_flight)
        self._errors: dict[str, int] = {}  # failed attempts in a row, by host
        self._session: aiohttp.ClientSession | None = None
        # Its connections go to proxies alone, which need no public address
        self._proxied: aiohttp.ClientSession | None = None
        self._proxy_guard = AddressGuard(self._hosts.proxies, num_threads=1)

    async def open(self) -> None:
        """Open the session. One connection pool and one TLS context serve all hosts."""
        self._session = self._new_session(self._guard)
        if self._hosts.proxies:
            self._proxied = self._new_session(self._proxy_guard)

    def _new_session(self, guard: AddressGuard) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=TolerantConnector(resolver=guard, use_dns_cache=False, limit=0, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": self._policy.user_agent_header,
                "Accept": "*/*",
                "Accept-Encoding": "gzip, deflate",
            },
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEAD_BYTES,  # fewer, by their bytes
            auto_decompress=False,  # aiohttp takes gzip that ends early for whole
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._http.connect_timeout_seconds),
            response_class=_Response,
            trust_env=False,  # a proxy would resolve names itself, past the guard
        )

    async def close(self) -> None:
        """Close all connections."""
        for session in filter(None, (self._session, self._proxied)):
            await session.close()
        await self._guard.close()
        await self._proxy_guard.close()

    async def ask(self, request: Request) -> Fetched:
        """Return the response to a request, whatever its status, after retries while a failure is transient.

        Raises:
            FetchFailure: If there is no response.
        """
        outcome: Fetched | FetchFailure | None = None
        for _ in range(1 + self._http.max_retries):
            try:
                outcome = await self._take_turn(request)
            except HostClosedError:
                outcome = outcome or FetchFailure("host_error_budget", str(request.target))
                break
            if not outcome.is_transient:
                break
        assert outcome is not None
        if isinstance(outcome, FetchFailure):
            raise outcome
        return outcome

    async def _take_turn(self, request: Request) -> Fetched | FetchFailure:
        """Make one attempt in the host's turn. A failure lets the host rest: twice as long with each in a row."""
        host, port = request.target.raw_host or "", request.target.port or 0
        settings = self._hosts.of(host)
        try:
            addresses = await self._permitted(host, port, settings)
        except AddressError as error:
            if error.reason == "dns_failure":
                await asyncio.sleep(self._count_error(host))
            return FetchFailure(error.reason, str(request.target), error.detail)
        is_here = bool(addresses) and all(is_loopback(address) for address in addresses)
        delay = self._loopback_delay if is_here and self._loopback_delay is not None else self._http.delay_seconds
        delay = delay if settings.delay_seconds is None else settings.delay_seconds
        async with self._gate.turn(host, max(delay, request.delay_seconds), settings.connections) as turn:
            outcome: Fetched | FetchFailure
            async with self._in_flight:
                try:
                    outcome = await self._attempt(request, settings)
                except FetchFailure as failure:
                    outcome = failure
            if isinstance(outcome, Fetched) and not outcome.is_transient:
                self._errors.pop(host, None)
                return outcome
            rest = self._count_error(host)
            if isinstance(outcome, Fetched) and (asked := _retry_after(outcome)) is not None:
                if asked > self._http.max_retry_after_seconds:
                    self._gate.close(host)
                    return FetchFailure("retry_after_too_long", str(request.target), f"{asked:.0f} seconds")
                rest = max(rest, asked)
            turn.postpone_next(rest)
            return outcome

    def _count_error(self, host: str) -> float:
        """Count a failed attempt; returns for how many seconds to leave the host alone."""
        count = self._errors[host] = self._errors.get(host, 0) + 1
        if count >= self._http.error_budget:
            self._gate.close(host)
        return min(self._http.backoff_seconds * 2.0 ** (count - 1), self._http.max_retry_after_seconds)

    async def _permitted(self, host: str, port: int, settings: ResolvedHost) -> tuple[str, ...]:
        """Return the addresses of a host; none of one whose name its proxy resolves.

        Raises:
            AddressError: If it may not or cannot be connected to.
        """
        if settings.proxy is None or is_address(host):
            return await self._guard.permitted(host, port)
        if not self._policy.has_contact:
            raise AddressError("no_contact_address", f"{host} is beyond a proxy; set policy.user_agent")
        return ()

    async def _attempt(self, request: Request, settings: ResolvedHost) -> Fetched:
        """Send one request and read its response within the deadline.

        Raises:
            FetchFailure: For everything that a network, a server or a name server can do.
        """
        session = self._session if settings.proxy is None else self._proxied
        assert session is not None, "not open"
        secret = {"proxy-authorization", *(name.lower() for name, _ in settings.headers)}
        url = str(request.target)
        try:
            async with (
                asyncio.timeout(self._http.timeout_seconds),
                session.request(
                    request.method,
                    request.target,
                    headers=(*request.headers, *settings.headers),
                    allow_redirects=False,
                    proxy=settings.proxy,
                ) as response,
            ):
                fetched_at = utc_now()
                headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in response.raw_headers)
                body, truncated = b"", False
                if request.is_wanted(response.status, headers):
                    body, truncated = await _read_body(response, request.max_bytes, request.may_cut)
                    if body and is_coded(headers):
                        body, truncated = await asyncio.to_thread(
                            without_stop_iteration(_decoded), url, body, headers, request, truncated
                        )
                elif response.content_length is not None and response.content_length <= _DRAIN_BYTES:
                    with contextlib.suppress(aiohttp.ClientError):
                        await _read_body(response, _DRAIN_BYTES, True)
                assert isinstance(response, _Response)
                version = response.version or aiohttp.HttpVersion11
                return Fetched(
                    url=url,
                    final_url=url,
                    status=response.status,
                    reason=response.reason or "",
                    http_version=f"{version.major}.{version.minor}",
                    headers=headers,
                    body=body,
                    request_headers=tuple(
                        (name, WITHHELD if name.lower() in secret else value)
                        for name, value in response.request_info.headers.items()
                    ),
                    ip=response.peer if settings.proxy is None else None,
                    fetched_at=fetched_at,
                    truncated=truncated,
                )
        except (TimeoutError, OSError, aiohttp.ClientError, HttpProcessingError, DamagedBodyError) as error:
            reason, detail = _failure_of(error)
            raise FetchFailure(reason, url, detail) from error


def parse_target(url: str) -> URL:
    """Return the URL to request, without its fragment.

    Raises:
        FetchFailure: If it may not be requested.
    """
    if len(url) > MAX_URL_CHARS:
        raise FetchFailure("invalid_url", url[:200], f"{len(url)} characters; at most {MAX_URL_CHARS}")
    try:
        # A plain ASCII URL is sent unchanged: signatures over URLs break if escapes are rewritten.
        target = URL(url, encoded=_PLAIN_URL.fullmatch(url) is not None).with_fragment(None)
        host, port = target.raw_host, target.port
    except ValueError as error:
        raise FetchFailure("invalid_url", url, str(error)) from error
    if target.scheme not in ("http", "https"):
        raise FetchFailure("scheme_not_allowed", url, target.scheme or "no scheme")
    if target.raw_user is not None or target.raw_password is not None:
        raise FetchFailure("credentials_in_url", url)
    if not host or not port or not _HOST.fullmatch(host):
        raise FetchFailure("invalid_url", url, "no valid host")
    return target


def utc_now() -> str:
    """Return the current time in the form that records use."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _read_body(response: aiohttp.ClientResponse, max_bytes: int, may_cut: bool) -> tuple[bytes, bool]:
    """Return up to `max_bytes` of the body as sent, and whether more follow; none if the header says so."""
    if response.method == "HEAD":
        return b"", False
    if not may_cut and (response.content_length or 0) > max_bytes:
        return b"", True
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            response.close()
            break
    return b"".join(chunks)[:max_bytes], size > max_bytes


def _decoded(url: str, body: bytes, headers: Headers, request: Request, is_cut: bool) -> tuple[bytes, bool]:
    """Return the body without its content codings, and whether it is cut.

    Raises:
        FetchFailure: If the coded data end early although we have read all of them.
    """
    found = decode_body(body, headers, request.max_bytes, is_archived=False)
    if found.early_end is not None and not is_cut:
        raise FetchFailure("incomplete_body", url, f"the {found.early_end} data end early")
    return found.body, is_cut or found.is_over_limit


def _retry_after(answer: Fetched) -> float | None:
    """Return the seconds that a 429 or 503 demands: a number, or a date, by the server's own clock if it sends one."""
    value = (answer.header("retry-after") or "").strip()
    if answer.status not in _STATUSES_WITH_RETRY_AFTER or not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    until = _http_date(value)
    now = _http_date(answer.header("date") or "") or datetime.now(UTC)
    return max((until - now).total_seconds(), 0.0) if until is not None else None


def _http_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _failure_of(error: Exception) -> tuple[Reason, str]:
    """Return drop reason and detail of a request's exception."""
    detail = str(error) or type(error).__name__
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, AddressError):
        return cause.reason, cause.detail
    if isinstance(error, TimeoutError):
        return "timeout", ""
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return "tls_failure", detail
    if isinstance(error, aiohttp.ClientPayloadError):
        return "incomplete_body", detail
    if isinstance(error, DamagedBodyError):
        return "bad_content_encoding", detail
    if isinstance(error, aiohttp.InvalidURL):
        return "invalid_url", detail
    if isinstance(error, OSError | aiohttp.ClientConnectionError):
        return "connection_failed", detail
    return "bad_response", detail
