"""Addresses that may be connected to: public ones, and hosts that the policy names (against SSRF).

A name is resolved here and nowhere else; the connection goes to the very address that was checked, so that a different
second answer of the name server has no effect.
"""

import asyncio
import functools
import ipaddress
import re
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from pipelines.drop_reasons import Reason
from pipelines.web.urls import canonical_host

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")  # all that IANA has assigned for global unicast
_IPV6_INSIDE = tuple(  # prefixes that embed an IPv4 address, and the number of bits to its right
    (ipaddress.IPv6Network(prefix), shift)
    for prefix, shift in (("::ffff:0:0/96", 0), ("64:ff9b::/96", 0), ("64:ff9b:1::/48", 0), ("2002::/16", 80))
)
_IPV4_SPECIAL = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24")))  # is_global varies by release
_TEREDO = ipaddress.IPv6Network("2001::/32")
_MAX_JUDGED = 10_000  # addresses whose kind is remembered: each request asks for it two or three times

# Codes of getaddrinfo that mean "there is no such name", as opposed to "the lookup failed".
_NO_SUCH_NAME = frozenset(
    code for code in (getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")) if code
)


class AddressError(OSError):
    """A host that may not or cannot be connected to."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@functools.lru_cache(maxsize=_MAX_JUDGED)
def is_public(address: str) -> bool:
    """Return whether an IP address is on the public internet; an IPv4 address embedded in IPv6 is judged itself."""
    ip: Address = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        for prefix, shift in _IPV6_INSIDE:
            if ip in prefix:
                return is_public(str(ipaddress.IPv4Address(int(ip) >> shift & 0xFFFFFFFF)))
        return ip in _IPV6_PUBLIC and ip not in _TEREDO and ip.is_global and ip.scope_id is None
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _IPV4_SPECIAL)


class _NamedHosts(NamedTuple):
    """The hosts that an entry of a policy names: those of a pattern, at one port or at any."""

    pattern: re.Pattern[str]
    port: int | None
    is_of_addresses: bool  # `10.*` names no `10.example.org`, whose owner decides on its address

    def hold(self, host: str, port: int) -> bool:
        return (
            self.port in (None, port)
            and self.pattern.fullmatch(host) is not None
            and (not self.is_of_addresses or is_address(host))
        )


class AllowedHosts:
    """Hosts and addresses that may be contacted although they are not public.

    Args:
        entries: Each `host` or `host:port` that may have any address, with `*` for any characters, or a network such as
            `10.0.0.0/8` with addresses that any host may have.

    Raises:
        ValueError: If one is none of these.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        entries = [entry.strip().lower() for entry in entries]
        self._networks = [_network(entry) for entry in entries if "/" in entry]
        self._hosts = [_named_hosts(entry) for entry in entries if "/" not in entry]

    def allows_host(self, host: str, port: int) -> bool:
        """Return whether a host is named with or without this port."""
        try:
            host = canonical_host(host)
        except ValueError:
            host = host.lower()
        return any(named.hold(host, port) for named in self._hosts)

    def allows_address(self, address: str) -> bool:
        """Return whether an IP address is in one of the networks."""
        ip: Address = ipaddress.ip_address(address)
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._networks)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError as error:
        raise ValueError(f"{entry!r} is no network: such as 10.0.0.0/8 or fd00::/8, without a port") from error


def _named_hosts(entry: str) -> _NamedHosts:
    """Return the hosts of an entry, in the form in which they are asked for."""
    match = re.fullmatch(r"\[([^\]]*)\](?::([0-9]*))?", entry) or re.fullmatch(r"([^:]*)(?::([0-9]*))?", entry)
    host, port = (match[1], int(match[2] or 0)) if match is not None else (entry, 0)
    try:
        if "*" not in host:
            host = canonical_host(host)
        else:
            host = ".".join(part if part.isascii() else canonical_host(part) for part in host.split("."))
        if not re.fullmatch(r"[a-z0-9_.*-]+|[0-9a-f:.*]+", host) or port > 65535:
            raise ValueError("no host or port")
    except ValueError as error:
        raise ValueError(
            f"{entry!r} is no host, host:port or network, such as *.example.org, 127.0.7.*:8080 or 10.0.0.0/8"
        ) from error
    pattern = re.compile(".*".join(map(re.escape, re.split(r"\*+", host))))
    return _NamedHosts(pattern, port or None, re.fullmatch(r"[.*]*[0-9][0-9.*]*", host) is not None)


@functools.lru_cache(maxsize=_MAX_JUDGED)
def is_address(host: str) -> bool:
    """Return whether a host is an IP address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class AddressGuard(AbstractResolver):
    """Resolver with a cache that returns only permitted addresses.

    Args:
        allow_hosts: As of `AllowedHosts`.
        may_leave_loopback: False permits only loopback addresses.
        cache_seconds: How long an answer of the name server stays valid.
        num_threads: Concurrent lookups; they block, so each needs a thread.
    """

    def __init__(
        self,
        allow_hosts: Iterable[str],
        *,
        may_leave_loopback: bool = True,
        cache_seconds: float = 300.0,
        num_threads: int = 16,
    ) -> None:
        self._allowed = AllowedHosts(allow_hosts)
        self._may_leave_loopback = may_leave_loopback
        self._cache_seconds = cache_seconds
        self._cache: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._lookups: dict[str, asyncio.Future[tuple[str, ...]]] = {}
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="dns")

    async def permitted(self, host: str, port: int) -> tuple[str, ...]:
        """Return the addresses of a host that may be connected to, IPv4 first.

        Raises:
            AddressError: `host_not_found`, `dns_failure`, `private_address` or `no_contact_address`.
        """
        found = await self._look_up(host)
        permitted = found
        if not self._allowed.allows_host(host, port):
            permitted = tuple(
                address for address in found if is_public(address) or self._allowed.allows_address(address)
            )
        if not permitted:
            raise AddressError("private_address", f"{host} is {', '.join(found)}; policy.allow_hosts may name it")
        if not self._may_leave_loopback and not all(is_loopback(address) for address in permitted):
            raise AddressError("no_contact_address", f"{host} is beyond loopback; set policy.user_agent")
        return permitted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the permitted addresses in the form that aiohttp's connector expects."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self.permitted(host, port)
        ]

    async def close(self) -> None:
        """Stop the threads without waiting for a lookup that hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str) -> tuple[str, ...]:
        """Return all addresses of a host, from the cache or from one lookup that concurrent callers share."""
        expires, addresses = self._cache.get(host, (0.0, ()))
        if time.monotonic() < expires:
            return addresses
        if host not in self._lookups:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _addresses_of, host)
            self._lookups[host] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(host, None))
        addresses = await asyncio.shield(self._lookups[host])
        self._cache[host] = (time.monotonic() + self._cache_seconds, addresses)
        return addresses


@functools.lru_cache(maxsize=_MAX_JUDGED)
def is_loopback(address: str) -> bool:
    """Return whether an IP address is this machine itself."""
    return ipaddress.ip_address(address).is_loopback


def is_on_loopback(authority: str) -> bool:
    """Return whether a host, or host:port, is this machine by its name alone: `127.example.org` is not."""
    host = authority.removeprefix("[").partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
    try:
        return host == "localhost" or is_loopback(host)
    except ValueError:
        return False


def _addresses_of(host: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        reason: Reason = "host_not_found" if error.errno in _NO_SUCH_NAME else "dns_failure"
        raise AddressError(reason, f"{host}: {error.strerror}") from error
    except UnicodeError as error:  # a label that is empty or too long
        raise AddressError("host_not_found", f"{host}: {error}") from error
    except OSError as error:
        raise AddressError("dns_failure", f"{host}: {error}") from error
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return tuple(sorted(addresses, key=lambda address: ":" in address))
