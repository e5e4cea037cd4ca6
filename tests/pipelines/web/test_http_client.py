"""Tests of the client against real servers on loopback, well-behaved and hostile."""

import asyncio
import contextlib
import gzip
import itertools
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from pipelines.web.answers import FetchFailure, is_transient
from pipelines.web.http_client import HttpSettings, PoliteClient
from pipelines.web.permission import PolicySettings
from pipelines.web.robots import Group
from pipelines.web.urls import resolve

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

QUICK = HttpSettings(delay_seconds=0, backoff_seconds=0, timeout_seconds=5)


class Server:
    """A site on a loopback address that records the times of each request and of the end of its answer."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.routes: dict[str, web.Response | Handler] = {}
        self.log: list[tuple[str, str]] = []  # method, path
        self.raw_paths: list[str] = []
        self.spans: list[tuple[float, float]] = []
        self.port = 0

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}:{self.port}{path}"

    def add(self, path: str, body: str | bytes | Handler = "", status: int = 200, **headers: str) -> None:
        if callable(body):
            self.routes[path] = body
            return
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=data, headers=named)

        self.routes[path] = answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        begun = time.monotonic()
        self.log.append((request.method, request.path))
        self.raw_paths.append(request.raw_path)
        try:
            route = self.routes.get(request.path)
            if route is None:
                return web.Response(status=404)
            assert callable(route)
            response = await route(request)
            if not response.prepared:
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            self.spans.append((begun, time.monotonic()))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        try:
            listener = web.TCPSite(runner, self.host, self.port)
            await listener.start()
            self.port = listener._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            yield self
        finally:
            await runner.cleanup()

    def paths(self) -> list[str]:
        """Return the requested paths, without the policy files."""
        return [p for _, p in self.log if p not in ("/robots.txt", "/ai.txt") and not p.startswith("/.well-known")]


def policy(**settings: Any) -> PolicySettings:
    return PolicySettings(allow_hosts=["127.0.0.1", "127.0.1.1"], **settings)


def run(
    server: Server,
    use: Callable[[PoliteClient], Awaitable[Any]],
    http: HttpSettings = QUICK,
    rules: PolicySettings | None = None,
    **options: Any,
) -> Any:
    """Return the result of `use` with a client while the server runs."""

    async def main() -> Any:
        async with server.running(), PoliteClient(rules or policy(), http, **options) as client:
            return await use(client)

    return asyncio.run(main())


def failure(
    server: Server,
    path: str = "/a",
    purpose: Any = "page",
    http: HttpSettings = QUICK,
    rules: PolicySettings | None = None,
    **arguments: Any,
) -> FetchFailure:
    """Fetch a path and return its failure."""

    async def use(client: PoliteClient) -> FetchFailure:
        url = path if "//" in path else server.url(path)
        with pytest.raises(FetchFailure) as caught:
            await client.fetch(url, purpose, **arguments)
        assert caught.value.url == url
        assert caught.value.is_transient is is_transient(caught.value.reason)
        return caught.value

    result: FetchFailure = run(server, use, http, rules)
    return result


def settings(**changes: Any) -> HttpSettings:
    return HttpSettings(**{**QUICK.model_dump(), **changes})


# the plain case


def test_a_page_comes_with_all_that_an_archive_needs() -> None:
    server = Server()
    server.add("/robots.txt", "User-agent: *\nAllow: /")
    server.add("/a", gzip.compress(b"<p>hello</p>"), Content_Encoding="gzip", X_Robots_Tag="all")

    async def use(client: PoliteClient) -> Any:
        return await client.fetch(
            server.url("/a#part"), "page", headers=[("Referer", "http://x/")]
        ), client.take_policy_answers()

    page, answers = run(server, use, rules=policy(user_agent="dromaius test (+https://example.org)"))
    assert (page.status, page.reason, page.http_version, page.body) == (200, "OK", "1.1", b"<p>hello</p>")
    assert (page.url, page.final_url) == (server.url("/a#part"), server.url("/a"))
    assert (page.ip, page.truncated, page.redirects) == ("127.0.0.1", False, ())
    assert page.header("content-encoding") == "gzip"
    sent = dict(page.request_headers)
    assert sent["User-Agent"] == "dromaius test (+https://example.org)"
    assert sent["Referer"] == "http://x/"
    assert "br" not in sent["Accept-Encoding"]
    assert page.fetched_at.endswith("Z")
    assert len(page.fetched_at) == 20
    assert page.verdict.allowed
    assert [(s.kind, s.value) for s in page.verdict.signals] == [
        ("robots.txt", "User-agent: *\nAllow: /"),
        ("x-robots-tag", "all"),
    ]
    assert [(a.final_url, a.status) for a in answers] == [
        (server.url("/robots.txt"), 200),
        (server.url("/.well-known/tdmrep.json"), 404),
    ]


def test_policy_files_are_asked_for_once_and_ai_txt_for_media_only() -> None:
    server = Server()
    for n in range(6):
        server.add(f"/{n}", "x")

    async def use(client: PoliteClient) -> None:
        await asyncio.gather(*(client.fetch(server.url(f"/{n}"), "page") for n in range(3)))
        assert ("GET", "/ai.txt") not in server.log
        await asyncio.gather(*(client.fetch(server.url(f"/{n}"), "image") for n in range(3, 6)))

    run(server, use)
    files = [path for _, path in server.log if path not in server.paths()]
    assert files == ["/robots.txt", "/.well-known/tdmrep.json", "/ai.txt"]


def test_a_url_is_sent_as_it_is_spelled() -> None:
    server = Server()
    raw: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        raw.append(request.raw_path)
        return web.Response()

    server.add("/a b/%2f", note)
    server.routes["/a b//"] = note

    async def use(client: PoliteClient) -> None:
        await client.fetch(server.url("/a%20b/%2F?sig=%7e~%41"), "page")
        await client.fetch(server.url("/a b/%2F?q=é"), "page")

    run(server, use)
    assert raw == ["/a%20b/%2F?sig=%7e~%41", "/a%20b/%2F?q=%C3%A9"]


def test_site_gives_sitemaps_and_delay() -> None:
    server = Server()
    server.add("/robots.txt", "Sitemap: http://h/s.xml\nUser-agent: *\nCrawl-delay: 0.01")
    rules = run(server, lambda client: client.site(server.url("/x")))
    assert rules.sitemaps == ("http://h/s.xml",)
    assert rules.crawl_delay == 0.01


# permission


def test_a_disallowed_path_is_never_asked_for() -> None:
    server = Server()
    server.add("/robots.txt", "User-agent: *\nDisallow: /a")
    refused = failure(server)
    assert refused.reason == "robots_disallowed"
    assert refused.signals[0].value == "User-agent: *\nDisallow: /a"
    assert server.paths() == []


@pytest.mark.parametrize(("num_rules", "is_large"), [(10, False), (20_000, True)])
def test_other_hosts_are_asked_while_a_large_robots_txt_is_judged(
    monkeypatch: pytest.MonkeyPatch, num_rules: int, is_large: bool
) -> None:
    judged_in: list[str] = []
    judge = Group.allows

    def note(group: Group, url: str) -> bool:
        judged_in.append(threading.current_thread().name)
        return judge(group, url)

    monkeypatch.setattr(Group, "allows", note)
    server = Server()
    server.add("/robots.txt", "User-agent: *\n" + "".join(f"Disallow: /{n}/\n" for n in range(num_rules)))
    server.add("/a", "x")
    assert run(server, lambda client: client.fetch(server.url("/a"), "page")).body == b"x"
    assert judged_in
    assert all((name != threading.main_thread().name) is is_large for name in judged_in)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_robots_txt_in_trouble_closes_the_site(status: int) -> None:
    server = Server()
    server.add("/robots.txt", status=status)
    server.add("/a", "x")
    refused = failure(server)
    assert (refused.reason, refused.is_transient) == ("robots_unreachable", True)
    assert {path for _, path in server.log} == {"/robots.txt"}


def test_a_site_that_does_not_answer_is_closed() -> None:
    refused = failure(Server(), "http://127.0.0.1:1/a")
    assert (refused.reason, refused.signals[0].value) == ("robots_unreachable", "no answer")


def test_a_missing_robots_txt_opens_it() -> None:
    server = Server()
    server.add("/a", "x")
    assert run(server, lambda client: client.fetch(server.url("/a"), "page")).body == b"x"


def test_robots_txt_is_followed_through_five_redirects_to_another_host() -> None:
    other, server = Server("127.0.1.1"), Server()
    other.add("/final", "User-agent: *\nDisallow: /a")

    async def use(client: PoliteClient) -> str:
        async with other.running():
            for n in range(4):
                server.add(f"/r{n}", status=302, Location=f"/r{n + 1}")
            server.add("/robots.txt", status=301, Location="/r0")
            server.add("/r4", status=302, Location=other.url("/final"))
            server.add("/r3", status=302, Location=other.url("/final"))
            with pytest.raises(FetchFailure) as caught:
                await client.fetch(server.url("/a"), "page")
            return caught.value.reason

    assert run(server, use) == "robots_disallowed"


def test_a_robots_txt_that_leads_to_a_private_address_is_unreachable() -> None:
    server = Server()
    server.add("/robots.txt", status=302, Location="http://169.254.169.254/latest")
    assert failure(server).reason == "robots_unreachable"


@pytest.mark.parametrize(
    ("header", "purpose", "reason"),
    [
        ({"X_Robots_Tag": "noai"}, "page", "noai"),
        ({"X_Robots_Tag": "noimageai"}, "image", "noimageai"),
        ({"Content_Usage": "train-ai=n"}, "image", "ai_train_refused"),
        ({"tdm_reservation": "1"}, "page", "tdm_reserved"),
    ],
)
def test_a_refusal_in_the_headers_leaves_the_body_unread(header: dict[str, str], purpose: str, reason: str) -> None:
    server = Server()
    server.add("/a", b"x" * 1000, **header)
    refused = failure(server, purpose=purpose)
    assert refused.reason == reason
    assert refused.signals[-1].url == server.url("/a")


def test_a_reservation_in_the_file_is_refused_with_no_content_asked_for() -> None:
    server = Server()
    server.add("/.well-known/tdmrep.json", '[{"location": "/", "tdm-reservation": 1}]')
    server.add("/a", "x")
    assert failure(server).reason == "tdm_reserved"
    assert ("GET", "/a") not in server.log


def test_a_header_lifts_the_reservation_of_the_file() -> None:
    server = Server()
    server.add("/.well-known/tdmrep.json", '[{"location": "/", "tdm-reservation": 1}]')
    server.add("/a", "x", tdm_reservation="0")
    page = run(server, lambda client: client.fetch(server.url("/a"), "page"))
    assert page.body == b"x"
    assert [s.kind for s in page.verdict.signals] == ["robots.txt", "tdmrep.json", "tdm-reservation"]
    assert [method for method, path in server.log if path == "/a"] == ["HEAD", "GET"]


def test_by_setting_nothing_is_asked_of_what_the_file_reserves() -> None:
    server = Server()
    server.add("/.well-known/tdmrep.json", '[{"location": "/", "tdm-reservation": 1}]')
    assert failure(server, rules=policy(asks_headers_of_reserved=False)).reason == "tdm_reserved"
    assert server.paths() == []


def test_ai_txt_refuses_media() -> None:
    server = Server()
    server.add("/ai.txt", "User-Agent: *\nDisallow: *.jpg")
    server.add("/a.jpg", "x")
    assert failure(server, "/a.jpg", "image").reason == "ai_txt_disallowed"
    assert server.paths() == []


def test_a_crawl_delay_beyond_the_limit_leaves_the_host_alone() -> None:
    server = Server()
    server.add("/robots.txt", "User-agent: *\nCrawl-delay: 31")
    assert failure(server).reason == "crawl_delay_too_long"
    assert server.paths() == []


# addresses and redirects


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data", "private_address"),
        ("http://[::ffff:127.0.0.1]:80/", "private_address"),
        ("http://2852039166/", "private_address"),
        ("http://localhost/", "private_address"),
        ("http://93.184.216.34/", "no_contact_address"),
        ("file:///etc/passwd//", "scheme_not_allowed"),
        ("ftp://a.example/", "scheme_not_allowed"),
        ("http://user:secret@a.example/", "credentials_in_url"),
        ("http:///a", "invalid_url"),
        ("http://a.example:99999/", "invalid_url"),
        ("http://a b.example/", "invalid_url"),
        ("http://[::1/", "invalid_url"),
        ("http://a.example/" + "a" * 8192, "invalid_url"),
        ("http://" + "\u00e9" * 200_000, "invalid_url"),
    ],
)
def test_addresses_that_are_never_asked(url: str, reason: str) -> None:
    assert failure(Server(), url).reason == reason


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data", "private_address"),
        ("http://127.0.0.2/", "private_address"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("http://user@127.0.0.1/", "credentials_in_url"),
        ("/private", "robots_disallowed"),
        ("/a", "redirect_loop"),
        ("http://[", "http_302"),
        ("", "redirect_loop"),
    ],
)
def test_each_redirect_is_judged_like_the_first_request(location: str, reason: str) -> None:
    server = Server()
    server.add("/robots.txt", "User-agent: *\nDisallow: /private")
    server.add("/a", status=302, Location=location)
    assert failure(server).reason == reason
    assert server.paths() == ["/a"]


def test_a_circle_of_two_and_an_endless_chain_end() -> None:
    server = Server()
    server.add("/a", status=301, Location="/b")
    server.add("/b", status=308, Location="/a")
    assert failure(server).reason == "redirect_loop"
    chain = Server()
    for n in range(6):
        chain.add(f"/{n}", status=302, Location=f"/{n + 1}")
    assert failure(chain, "/0", http=settings(max_redirects=3)).reason == "too_many_redirects"
    assert chain.paths() == ["/0", "/1", "/2", "/3"]


@pytest.mark.parametrize("status", [200, 404])
def test_the_secrets_of_a_redirects_target_are_no_evidence(status: int) -> None:
    server = Server()
    server.add("/a", status=302, Location="/b?signature=s&w=1")
    server.add("/b", "x", status=status, X_Robots_Tag="all")

    async def use(client: PoliteClient) -> Any:
        return await client.fetch(server.url("/a"), "image")

    if status == 200:
        signals = run(server, use).verdict.signals
    else:
        failed = failure(server, purpose="image")
        assert failed.detail == f"at {server.url('/b?w=1')}: Not Found"
        signals = failed.signals
    (tag,) = (signal for signal in signals if signal.kind == "x-robots-tag")
    assert tag.url == server.url("/b?w=1")


def test_redirects_are_followed_and_remembered_or_handed_out() -> None:
    server = Server()
    server.add("/a", status=302, Location="/caf\u00e9?x=1")
    server.add("/caf\u00e9", "x")

    async def use(client: PoliteClient) -> Any:
        return [await client.fetch(server.url("/a"), "page", follow_redirects=f) for f in (True, False)]

    followed, handed_out = run(server, use)
    assert (followed.body, followed.redirects) == (b"x", (server.url("/a"),))
    assert followed.final_url == server.url("/caf%C3%A9?x=1")
    assert (handed_out.status, handed_out.redirects) == (302, ())
    assert handed_out.header("location") is not None


def test_a_redirect_without_a_location_is_a_status() -> None:
    server = Server()
    server.add("/a", status=302)
    assert failure(server).reason == "http_302"


# sizes and times


def test_a_page_is_cut_at_its_cap_and_anything_larger_fails() -> None:
    server = Server()
    server.add("/a", b"x" * 1001)
    server.add("/b", b"x" * 1000)

    async def use(client: PoliteClient) -> Any:
        return [await client.fetch(server.url(path), "page", max_bytes=1000) for path in ("/a", "/b")]

    cut, whole = run(server, use)
    assert (len(cut.body), cut.truncated) == (1000, True)
    assert (len(whole.body), whole.truncated) == (1000, False)
    for purpose in ("image", "video", "text"):
        assert failure(server, "/a", purpose, max_bytes=1000).reason == "too_large"


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"x" * 65536)
    return response


def test_an_endless_body_is_cut() -> None:
    server = Server()
    server.add("/a", endless)
    page = run(server, lambda client: client.fetch(server.url("/a"), "page", max_bytes=200_000))
    assert (len(page.body), page.truncated) == (200_000, True)
    assert failure(server, purpose="image", max_bytes=200_000).reason == "too_large"


@pytest.mark.parametrize("size", [1, 4096])
def test_a_trickle_ends_at_the_deadline(size: int) -> None:
    server = Server()

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=404 if request.query_string else 200)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(500):
                await response.write(b"x" * size)
                await asyncio.sleep(0.01)
        return response

    server.add("/a", trickle)
    slow = failure(server, http=settings(timeout_seconds=0.15, max_retries=0), site_rules=False)
    assert (slow.reason, slow.is_transient) == ("timeout", True)
    assert failure(server, "/a?404", http=settings(timeout_seconds=3), site_rules=False).reason == "http_404"


@pytest.mark.slow
def test_a_gzip_bomb_stays_small() -> None:
    server = Server()
    server.add("/a", gzip.compress(bytes(300 << 20), 9), Content_Encoding="gzip")

    async def use(client: PoliteClient) -> Any:
        await client.site(server.url())
        tracemalloc.start()
        page = await client.fetch(server.url("/a"), "page", max_bytes=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return page, peak

    page, peak = run(server, use)
    assert (len(page.body), page.truncated) == (1 << 20, True)
    assert peak < 20 << 20


def raw(answer: bytes) -> Handler:
    """Return a handler that writes these bytes to the connection and closes it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(answer)  # type: ignore[attr-defined]
        request.transport.close()
        raise ConnectionResetError

    return handle


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "incomplete_body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "incomplete_body"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", "bad_content_encoding"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 99)[:-9], "incomplete_body"),
        (b"no HTTP at all\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n", "bad_response"),
        (b"", "connection_failed"),
    ],
)
def test_broken_answers(answer: bytes, reason: str) -> None:
    server = Server()
    server.add("/a", raw(answer))
    assert failure(server, http=settings(max_retries=0)).reason == reason


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 200 Успех\r\nContent-Length: 2\r\n\r\nhi".encode(),
        b"HTTP/1.1 200 Trouv\xe9\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Security-Policy: " + b"x" * 200_000 + b"\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: utf-8\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"h") + gzip.compress(b"i") + b"\0",
    ],
    ids=["two spaces", "reason in UTF-8", "reason in Latin-1", "long header", "unknown coding", "two gzip members"],
)
def test_answers_that_browsers_take(answer: bytes) -> None:
    server = Server()
    server.add("/a", raw(answer))
    page = run(server, lambda client: client.fetch(server.url("/a"), "page"))
    assert (page.status, page.body) == (200, b"hi")


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ("/caf\u00e9".encode(), "/caf%C3%A9"),
        (b"/caf\xe9", "/caf%E9"),  # as browsers do: the byte that was sent
        (b"/\xc3\xa9\xe9?q=\xff", "/%C3%A9%E9?q=%FF"),
        (b"\\x\\y", "/x/y"),
        (b"/b?x=\\y", "/b?x=%5Cy"),
    ],
)
def test_a_location_is_read_as_browsers_read_it(sent: bytes, asked: str) -> None:
    """By pages, whose redirects are further pages, as by media, whose redirects are followed."""
    server = Server()
    server.add("/a", raw(b"HTTP/1.1 302 Found\r\nLocation: " + sent + b"\r\nContent-Length: 0\r\n\r\n"))

    async def use(client: PoliteClient) -> Any:
        with pytest.raises(FetchFailure, match="http_404"):
            await client.fetch(server.url("/a"), "image")
        return await client.fetch(server.url("/a"), "page", follow_redirects=False)

    answer = run(server, use)
    assert asked in server.raw_paths
    assert resolve(answer.final_url, answer.location) == server.url(asked)


@pytest.mark.parametrize("status", [204, 205, 206])
@pytest.mark.parametrize("purpose", ["page", "image"])
def test_a_part_or_nothing_is_not_what_was_asked_for(status: int, purpose: str) -> None:
    server = Server()
    head = f"HTTP/1.1 {status} X\r\nContent-Range: bytes 0-3/100\r\nContent-Length: 4\r\n\r\nfour"
    server.add("/a", raw(head.encode()))
    assert failure(server, purpose=purpose).reason == f"http_{status}"


def test_a_part_that_was_asked_for_is_taken() -> None:
    server = Server()
    server.add("/a", raw(b"HTTP/1.1 206 X\r\nContent-Range: bytes 0-3/100\r\nContent-Length: 4\r\n\r\nfour"))
    part = run(server, lambda client: client.fetch(server.url("/a"), "video", headers=[("Range", "bytes=0-3")]))
    assert (part.status, part.body) == (206, b"four")


def test_tls_with_a_server_that_speaks_none_fails() -> None:
    server = Server()

    async def use(client: PoliteClient) -> str:
        with pytest.raises(FetchFailure) as caught:
            await client.fetch(server.url("/a").replace("http:", "https:"), "page", site_rules=False)
        return caught.value.reason

    assert run(server, use) == "tls_failure"


def test_an_unknown_host_and_a_closed_port() -> None:
    name = "a" * 64 + ".example"
    assert failure(Server(), f"http://{name}/").reason == "host_not_found"

    async def use(client: PoliteClient) -> str:
        with pytest.raises(FetchFailure) as caught:
            await client.fetch("http://127.0.0.1:1/", "page", site_rules=False)
        return caught.value.reason

    assert run(Server(), use) == "connection_failed"


# politeness


def assert_apart(server: Server, delay: float) -> None:
    spans = sorted(server.spans)
    assert min(begun - ended for (_, ended), (begun, _) in itertools.pairwise(spans)) >= delay


@pytest.mark.parametrize("delays", [(0.0, None, "0.04"), (0.04, None, "0"), (0.0, 0.04, "0"), (5.0, 0.04, "0")])
def test_requests_to_a_host_keep_the_longest_delay_that_applies(delays: tuple[float, float | None, str]) -> None:
    delay, loopback_delay, crawl_delay = delays
    server = Server()
    server.add("/robots.txt", f"User-agent: *\nCrawl-delay: {crawl_delay}")
    for n in range(5):
        server.add(f"/{n}", "x")

    async def use(client: PoliteClient) -> None:
        await client.site(server.url())
        server.spans.clear()
        await asyncio.gather(*(client.fetch(server.url(f"/{n}"), "page") for n in range(5)))

    run(server, use, settings(delay_seconds=delay), loopback_delay=loopback_delay)
    assert_apart(server, 0.04)


def test_hosts_do_not_wait_for_each_other() -> None:
    slow, quick = Server(), Server("127.0.1.1")
    quick.add("/a", "x")
    let_go = asyncio.Event()

    async def hold(_: web.Request) -> web.StreamResponse:
        await let_go.wait()
        return web.Response(text="late")

    slow.add("/a", hold)

    async def use(client: PoliteClient) -> None:
        async with quick.running():
            waiting = asyncio.create_task(client.fetch(slow.url("/a"), "page"))
            assert (await client.fetch(quick.url("/a"), "page")).body == b"x"
            assert not waiting.done()
            let_go.set()
            assert (await waiting).body == b"late"

    run(slow, use)


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_is_kept_to_by_everyone(status: int) -> None:
    server = Server()
    server.add("/b", "y")
    times: list[float] = []

    async def busy_once(_: web.Request) -> web.StreamResponse:
        times.append(time.monotonic())
        return web.Response(status=status, headers={"Retry-After": "1"}) if len(times) == 1 else web.Response(text="x")

    async def note(_: web.Request) -> web.StreamResponse:
        times.append(time.monotonic())
        return web.Response(text="y")

    server.add("/a", busy_once)
    server.add("/b", note)

    async def use(client: PoliteClient) -> Any:
        await client.site(server.url())
        return await asyncio.gather(*(client.fetch(server.url(path), "page") for path in ("/a", "/b")))

    assert [page.body for page in run(server, use)] == [b"x", b"y"]
    assert times[1] - times[0] >= 1.0


def test_a_retry_after_may_be_a_date_by_the_servers_clock() -> None:
    server = Server()
    server.add(
        "/a",
        status=429,
        Retry_After="Wed, 21 Oct 2015 07:30:00 GMT",
        Date="Wed, 21 Oct 2015 07:28:00 GMT",
    )
    refused = failure(server, http=settings(max_retry_after_seconds=100))
    assert (refused.reason, refused.detail, refused.is_transient) == ("retry_after_too_long", "120 seconds", True)
    assert server.paths() == ["/a"]


def test_failures_that_can_pass_are_tried_again_and_others_are_not() -> None:
    server = Server()
    answers = iter([500, 503, 200])

    async def in_the_end(_: web.Request) -> web.StreamResponse:
        return web.Response(status=next(answers))

    server.add("/a", in_the_end)
    server.add("/gone", status=410)
    server.add("/broken", status=502)
    assert run(server, lambda client: client.fetch(server.url("/a"), "page")).status == 200
    assert failure(server, "/gone").reason == "http_410"
    assert failure(server, "/broken").reason == "http_502"
    assert server.paths() == ["/a"] * 3 + ["/gone"] + ["/broken"] * 3


def test_the_rest_after_failures_doubles() -> None:
    server = Server()
    server.add("/a", status=500)
    failure(server, http=settings(backoff_seconds=0.02))
    spans = sorted(server.spans)[-3:]
    assert spans[1][0] - spans[0][1] >= 0.02
    assert spans[2][0] - spans[1][1] >= 0.04


def test_a_host_that_keeps_failing_is_left_alone() -> None:
    server = Server()
    for n in range(10):
        server.add(f"/{n}", status=500)
    server.add("/good", "x")

    async def use(client: PoliteClient) -> list[str]:
        await client.site(server.url())
        paths = [*(f"/{n}" for n in range(10)), "/good"]
        outcomes = await asyncio.gather(*(client.fetch(server.url(p), "page") for p in paths), return_exceptions=True)
        return [getattr(outcome, "reason", "") for outcome in outcomes]

    outcomes = run(server, use, settings(error_budget=4, max_retries=1))
    assert set(outcomes) == {"http_500", "host_error_budget"}
    assert outcomes[-1] == "host_error_budget"
    assert len(server.paths()) == 4


def test_a_success_restores_the_error_budget() -> None:
    server = Server()
    server.add("/bad", status=500)
    server.add("/good", "x")

    async def use(client: PoliteClient) -> None:
        for _ in range(3):
            with pytest.raises(FetchFailure, match="http_500"):
                await client.fetch(server.url("/bad"), "page")
            await client.fetch(server.url("/good"), "page")

    run(server, use, settings(error_budget=2, max_retries=0))


def test_clients_that_share_a_folder_never_ask_a_host_at_once(tmp_path: Any) -> None:
    server = Server()

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.002)
        return web.Response(text="x")

    for n in range(6):
        server.add(f"/{n}", answer)

    async def use(client: PoliteClient) -> None:
        async with PoliteClient(policy(), settings(delay_seconds=0.01), gate_folder=str(tmp_path)) as other:
            await asyncio.gather(*(c.fetch(server.url(f"/{n}"), "page") for n in range(6) for c in (client, other)))

    run(server, use, settings(delay_seconds=0.01), gate_folder=str(tmp_path))
    assert len(server.spans) == 16
    assert_apart(server, 0.01)


# reasons


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("timeout", True),
        ("http_503", True),
        ("http_429", True),
        ("robots_unreachable", True),
        ("host_error_budget", True),
        ("http_404", False),
        ("robots_disallowed", False),
        ("too_large", False),
        ("private_address", False),
        ("", False),
    ],
)
def test_the_reason_alone_decides_what_may_be_retried(reason: str, expected: bool) -> None:
    assert is_transient(reason) is expected


def test_caps_by_purpose() -> None:
    http = HttpSettings()
    assert http.max_bytes("page") == http.max_page_bytes
    assert http.max_bytes("image") == http.max_image_bytes
    assert http.max_bytes("video") == http.max_video_bytes
    assert http.max_bytes("text") == http.max_text_bytes
