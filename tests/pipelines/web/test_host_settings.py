"""Tests of what a spec sets for single hosts, against real servers and a real proxy on loopback."""

import asyncio
import base64
import ssl
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from pipelines.crawling.warc_records import exchange_records
from pipelines.errors import UserError
from pipelines.settings import dump_yaml
from pipelines.web.answers import Fetched, FetchFailure
from pipelines.web.host_settings import WITHHELD, HostSettings, HostTable
from pipelines.web.http_client import HttpSettings, PoliteClient
from pipelines.web.permission import PolicySettings

POLICY = PolicySettings(user_agent="Test/1.0 (+mail@example.org)")


def settings(hosts: dict, **more: float) -> HttpSettings:
    return HttpSettings.model_validate(
        {"delay_seconds": 0, "backoff_seconds": 0, "timeout_seconds": 5} | more | {"hosts": hosts}
    )


class Wire:
    """A server that notes the head of each request, and answers with how many it serves at the moment."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.now = self.most = self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode())
                self.now += 1
                self.most = max(self.most, self.now)
                await asyncio.sleep(0.01)
                self.now -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nwords")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1"):
        server = await asyncio.start_server(self.serve, host, 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


async def fetch(http: HttpSettings, *urls: str, policy: PolicySettings = POLICY) -> list[Fetched]:
    async with PoliteClient(policy, http) as client:
        return await asyncio.gather(*(client.fetch(url, "page", site_rules=False) for url in urls))


def test_a_header_of_a_host_is_sent_to_it_alone_and_its_value_kept_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "cookie").write_text("id=7\n")
    monkeypatch.setenv("EXAMPLE_TOKEN", "Bearer s3cret")
    headers = {"Authorization": {"env": "EXAMPLE_TOKEN"}, "Cookie": {"file": str(tmp_path / "cookie")}}
    http = settings({"127.0.0.1": {"headers": headers}})

    async def use() -> tuple[list[str], list[Fetched]]:
        wire, other = Wire(), Wire()
        async with wire.running(), other.running("127.0.0.2"):
            policy = POLICY.model_copy(update={"allow_hosts": ["127.0.0.*"]})
            urls = (f"http://127.0.0.1:{wire.port}/", f"http://127.0.0.2:{other.port}/")
            found = await fetch(http, *urls, policy=policy)
            return [*wire.heads, *other.heads], found

    (own, others), (answer, _) = asyncio.run(use())
    assert "Authorization: Bearer s3cret" in own
    assert "Cookie: id=7" in own
    assert "s3cret" not in others
    assert ("Authorization", WITHHELD) in answer.request_headers
    assert b"s3cret" not in exchange_records(answer, {}).request
    assert "s3cret" not in repr(answer)
    assert "s3cret" not in dump_yaml(http)
    assert "EXAMPLE_TOKEN" in dump_yaml(http)


def test_a_host_is_asked_on_as_many_connections_as_it_may_be():
    async def use(connections: int) -> int:
        wire = Wire()
        async with wire.running():
            url = f"http://127.0.0.1:{wire.port}/"
            http = settings({"127.0.*": {"connections": connections}})
            await fetch(http, *[url] * 8, policy=POLICY.model_copy(update={"allow_hosts": ["127.0.0.1"]}))
        return wire.most

    assert [asyncio.run(use(n)) for n in (1, 3)] == [1, 3]


def test_a_hosts_own_delay_holds_instead_of_the_general_one():
    async def use() -> None:
        wire = Wire()
        async with wire.running():
            http = settings({"127.0.0.1": {"delay_seconds": 0}}, delay_seconds=60)
            policy = POLICY.model_copy(update={"allow_hosts": ["127.0.0.1"]})
            async with asyncio.timeout(20):
                await fetch(http, *[f"http://127.0.0.1:{wire.port}/"] * 3, policy=policy)

    asyncio.run(use())


def test_a_proxy_gets_the_requests_of_its_hosts_with_its_password_and_resolves_their_names(
    monkeypatch: pytest.MonkeyPatch,
):
    async def use() -> tuple[str, Fetched]:
        proxy = Wire()
        async with proxy.running():
            monkeypatch.setenv("PROXY", f"http://user:pass@127.0.0.1:{proxy.port}")
            (answer,) = await fetch(
                settings({"*.proxied.test": {"proxy": {"env": "PROXY"}}}), "http://a.proxied.test/x"
            )
            return proxy.heads[0], answer

    head, answer = asyncio.run(use())
    assert head.startswith("GET http://a.proxied.test/x HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'user:pass').decode()}" in head
    assert (answer.body, answer.ip) == (b"words", None)
    assert ("Proxy-Authorization", WITHHELD) in answer.request_headers


def test_https_goes_through_a_tunnel_of_the_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    key, certificate = self_signed("a.proxied.test")
    (tmp_path / "server.pem").write_bytes(key + certificate)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / "server.pem")
    trusting = ssl.create_default_context(cadata=certificate.decode())
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    heads: list[str] = []

    async def use() -> Fetched:
        wire = Wire()
        origin = await asyncio.start_server(wire.serve, "127.0.0.1", 0, ssl=served)
        port = origin.sockets[0].getsockname()[1]

        async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

        async with origin, await asyncio.start_server(tunnel, "127.0.0.1", 0) as proxy:
            address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            (answer,) = await fetch(settings({"a.proxied.test": {"proxy": address}}), "https://a.proxied.test/x")
            return answer

    assert asyncio.run(use()).body == b"words"
    assert heads[0].startswith("CONNECT a.proxied.test:443 HTTP/1.1\r\n")


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


def self_signed(name: str) -> tuple[bytes, bytes]:
    """Return a key and a certificate of a host, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def test_a_proxy_does_not_open_addresses_that_are_not_public():
    async def use(url: str, policy: PolicySettings) -> str:
        proxy = Wire()
        async with proxy.running():
            hosts = {"*": {"proxy": f"http://127.0.0.1:{proxy.port}"}}
            with pytest.raises(FetchFailure) as failure:
                await fetch(settings(hosts), url.replace("PORT", str(proxy.port)), policy=policy)
            assert not proxy.heads
            return failure.value.reason

    assert asyncio.run(use("http://10.0.0.1/", POLICY)) == "private_address"
    assert asyncio.run(use("http://127.0.0.1:PORT/", POLICY)) == "private_address"
    assert asyncio.run(use("http://a.test/", PolicySettings())) == "no_contact_address"


def test_the_exact_name_goes_before_patterns_and_these_in_order():
    table = HostTable(
        {
            "*": HostSettings(delay_seconds=1),
            "*.example.org": HostSettings(delay_seconds=2),
            "a.example.org": HostSettings(delay_seconds=3),
        }
    )
    assert [table.of(host).delay_seconds for host in ("a.example.org", "b.example.org")] == [3, 1]
    assert HttpSettings(hosts={"Bücher.Example": HostSettings()}).hosts.keys() == {"xn--bcher-kva.example"}


def refused() -> Iterator[tuple[dict, str]]:
    yield {"a b": {}}, "is no host"
    yield {"a.test": {"headers": {"User-Agent": {"env": "X"}}}}, "no header that may be set"
    yield {"a.test": {"headers": {"A:": {"env": "X"}}}}, "no header that may be set"
    yield {"a.test": {"headers": {"Authorization": "Bearer x"}}}, "Secret"
    yield {"a.test": {"headers": {"Authorization": {}}}}, "needs either 'env' or 'file'"
    yield {"a.test": {"proxy": "socks5://127.0.0.1:1080"}}, "must be http://host:port"
    yield {"a.test": {"proxy": "http://u:p@127.0.0.1:3128"}}, "a password may not stand in a spec"
    yield {"a.test": {"connections": 0}}, "greater than or equal to 1"


@pytest.mark.parametrize(("hosts", "message"), list(refused()))
def test_settings_that_cannot_hold_are_refused(hosts: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        settings(hosts)


def test_a_variable_that_is_missing_or_has_lines_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given = settings({"a.test": {"headers": {"X-Key": {"env": "ABSENT_KEY"}}}}).hosts
    with pytest.raises(UserError, match="the environment variable ABSENT_KEY: not there"):
        HostTable(given)
    monkeypatch.setenv("ABSENT_KEY", "a\r\nHost: b")
    with pytest.raises(UserError, match="no single line"):
        HostTable(given)
    with pytest.raises(UserError, match="key: not there"):
        HostTable(settings({"a.test": {"proxy": {"file": str(tmp_path / "key")}}}).hosts)
