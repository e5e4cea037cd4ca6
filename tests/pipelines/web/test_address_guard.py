"""Tests of the addresses to which requests are allowed."""

import asyncio
import re
import socket
from typing import Any

import pytest

from pipelines.web.address_guard import AddressError, AddressGuard, AllowedHosts, is_public


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "2606:4700::6810:84e5", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8"],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.0.0.1", "192.168.1.1",
        "192.88.99.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "fc00::1",
        "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


def permitted(host: str, port: int = 80, **settings: Any) -> tuple[str, ...]:
    async def ask() -> tuple[str, ...]:
        guard = AddressGuard(settings.pop("allow_hosts", ()), **settings)
        try:
            return await guard.permitted(host, port)
        finally:
            await guard.close()

    return asyncio.run(ask())


def refusal(host: str, **settings: Any) -> str:
    with pytest.raises(AddressError) as caught:
        permitted(host, **settings)
    return caught.value.reason


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "017700000001", "::1"])
def test_this_machine_is_refused_however_it_is_spelled(host: str) -> None:
    assert refusal(host) == "private_address"


@pytest.mark.parametrize("name", ["127.0.1.7", "127.0.1.7:8080"])
def test_a_host_that_the_policy_names_is_permitted(name: str) -> None:
    assert permitted("127.0.1.7", 8080, allow_hosts=[name]) == ("127.0.1.7",)


def test_a_named_port_permits_no_other() -> None:
    assert refusal("127.0.1.7", allow_hosts=["127.0.1.7:8080"]) == "private_address"


def test_an_ipv6_host_may_be_named_in_brackets() -> None:
    assert permitted("::1", 8080, allow_hosts=["[::1]:8080"]) == ("::1",)


@pytest.mark.parametrize(
    ("entry", "host", "expected"),
    [
        ("127.0.7.*", "127.0.7.9", True),
        ("127.0.7.*:8080", "127.0.7.9", True),
        ("127.0.7.*:8081", "127.0.7.9", False),
        ("*:8080", "127.0.7.9", True),
        ("127.0.*.*", "127.0.7.9", True),
        ("127.0.7.*", "127.0.71.9", False),
        ("*", "127.0.7.9", True),
        ("LOCAL*", "localhost", True),
        ("*.localhost", "localhost", False),  # as in certificates: what stands below the name
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("::1", "0:0::1", True),
        ("::*", "::1", True),
        ("127.1", "127.0.0.1", True),
        ("localhost:", "localhost", True),
        ("localhost.", "localhost", True),
        ("[::*]:8080", "::1", True),
        ("127.0.0.0/8", "127.0.7.9", True),
        ("127.0.7.9/8", "127.0.0.1", True),
        ("127.0.0.0/8", "localhost", True),
        ("127.0.7.0/24", "127.0.8.1", False),
        ("10.0.0.0/8", "127.0.7.9", False),
        ("::/127", "::1", True),
        ("fd00::/8", "::1", False),
    ],
)
def test_networks_and_wildcards_permit_what_they_cover(entry: str, host: str, expected: bool) -> None:
    if expected:
        assert permitted(host, 8080, allow_hosts=["other.example", entry])
    else:
        with pytest.raises(AddressError, match="private_address"):
            permitted(host, 8080, allow_hosts=["other.example", entry])


@pytest.mark.parametrize(
    ("entry", "host", "expected"),
    [
        ("b\u00fccher.example", "xn--bcher-kva.example", True),
        ("B\u00dcCHER.example:8080", "xn--bcher-kva.example", True),
        ("*.b\u00fccher.example", "shop.xn--bcher-kva.example", True),
        ("*.b\u00fccher.example", "xn--bcher-kva.example", False),
        ("a.example.", "a.example", True),
        ("10.*", "10.evil.example", False),  # or its owner decides which of our addresses is asked
        ("10.*.*.*", "10.a.b.c", False),
        ("*.0.0.1", "127.0.0.1", True),
        ("1*", "10.evil.example", False),
        ("10*.example", "10.example", True),
    ],
)
def test_names_are_compared_as_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, entry: str, host: str, expected: bool
) -> None:
    answers_of_name_server(monkeypatch, ["10.1.2.3"])
    assert AllowedHosts([entry]).allows_host(host, 8080) is expected
    if not expected:
        assert refusal(host, allow_hosts=[entry]) == "private_address"


@pytest.mark.parametrize(
    "entry",
    ["", " ", "foo bar", "10.0.0.0-10.0.0.9", "127.0.7.?", "a.example:x", "a.example:99999", "[::1", "::1]:80", "*.a b",
     "b\u00fc*.de", "1.2.3.4.5", "[]", "-:-", "a,b", "10.0.0.0/8:8080", "10.0.0.0/33", "a.example/8", "/8"],
)  # fmt: skip
def test_an_entry_that_could_match_nothing_is_refused_with_the_terms_of_the_file(entry: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(entry.strip())) + r" is no .*10\.0\.0\.0/8"):
        AllowedHosts([entry])


def test_of_an_answer_only_the_addresses_in_a_network_are_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    answers_of_name_server(monkeypatch, ["10.1.2.3", "192.168.1.1", "8.8.8.8", "::ffff:10.0.0.1"])
    assert set(permitted("a.example", allow_hosts=["10.0.0.0/8"])) == {"10.1.2.3", "8.8.8.8", "::ffff:10.0.0.1"}


def test_without_a_contact_nothing_leaves_loopback() -> None:
    assert refusal("8.8.8.8", may_leave_loopback=False) == "no_contact_address"
    assert refusal("10.0.0.1", may_leave_loopback=False, allow_hosts=["10.0.0.1"]) == "no_contact_address"


def test_a_name_that_cannot_exist_is_not_found() -> None:
    assert refusal("a" * 64 + ".example") == "host_not_found"


def answers_of_name_server(monkeypatch: pytest.MonkeyPatch, *answers: list[str] | int) -> list[str]:
    """Make the name server give these answers in turn; return the list of requested names."""
    asked: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, int):
            raise socket.gaierror(answer, "as the test wants")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_name_servers_that_cannot_tell_and_names_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    answers_of_name_server(monkeypatch, socket.EAI_AGAIN, socket.EAI_NONAME)
    assert refusal("a.example") == "dns_failure"
    assert refusal("a.example") == "host_not_found"


def test_of_mixed_answers_only_the_public_ones_remain_ipv4_first(monkeypatch: pytest.MonkeyPatch) -> None:
    answers_of_name_server(monkeypatch, ["2606:4700::1", "10.0.0.1", "8.8.8.8", "8.8.8.8"])
    assert permitted("a.example") == ("8.8.8.8", "2606:4700::1")


def test_an_answer_is_kept_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers_of_name_server(monkeypatch, ["8.8.8.8"])

    async def ask() -> None:
        guard = AddressGuard(())
        await asyncio.gather(*(guard.permitted("a.example", 80) for _ in range(20)))
        await guard.permitted("a.example", 443)
        await guard.close()

    asyncio.run(ask())
    assert asked == ["a.example"]


def test_a_name_that_changes_its_address_between_check_and_connection_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers_of_name_server(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])

    async def ask() -> None:
        guard = AddressGuard((), cache_seconds=0)
        assert await guard.permitted("a.example", 80) == ("8.8.8.8",)
        with pytest.raises(AddressError, match="private_address"):
            await guard.resolve("a.example", 80)
        await guard.close()

    asyncio.run(ask())
