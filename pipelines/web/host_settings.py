"""What a spec sets for single hosts: how often and how many at once they are asked, with which headers, through which
proxy.

The values of headers are read from the environment or from a file when a client is made, so that neither the spec nor
anything that is built from it has them.
"""

import fnmatch
import os
import re
from collections.abc import Mapping
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from pipelines import storage
from pipelines.errors import UserError
from pipelines.settings import Settings
from pipelines.web.urls import canonical_host

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_OURS = frozenset({"host", "user-agent", "content-length", "transfer-encoding", "connection", "range"})
WITHHELD = "withheld"
"""What is kept of such a header's value where requests are stored."""


class Secret(Settings):
    """A text that the spec does not contain."""

    env: str | None = Field(None, description="Variable of the environment of every worker that has it; null: none")
    file: str | None = Field(None, description="File that has it, with or without a line end; null: none")

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("needs either 'env' or 'file'; the value itself may not stand in a spec")
        return self

    def read(self) -> str:
        """Return the text.

        Raises:
            UserError: If there is none, or it is no single line.
        """
        if self.env is not None:
            name, value = f"the environment variable {self.env}", os.environ.get(self.env)
        else:
            name = self.file or ""
            value = storage.read_bytes(name).decode("utf-8", "replace").strip() if storage.exists(name) else None
        if not value:
            raise UserError(f"{name}: not there, or empty; http.hosts names it")
        if not value.isprintable() or not value.isascii():
            raise UserError(f"{name}: is no single line of ASCII text; http.hosts names it")
        return value


class HostSettings(Settings):
    """How the hosts of one name or pattern are asked."""

    delay_seconds: float | None = Field(
        None,
        ge=0,
        description="Seconds between requests, instead of http.delay_seconds (null); a longer one that robots.txt "
        "demands holds",
    )
    connections: int = Field(1, ge=1, le=64, description="Requests at once, each connection with the delay")
    headers: dict[str, Secret] = Field(
        default={}, description="Further headers of each request, such as Authorization: {env: NAME} or {file: PATH}"
    )
    proxy: str | Secret | None = Field(
        None,
        description="http:// address of a proxy, which then resolves the hosts' names itself; with a password as "
        "{env: NAME} or {file: PATH}; null: none",
    )

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, Secret]) -> dict[str, Secret]:
        for name in headers:
            if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
                raise ValueError(f"{name!r} is no header that may be set")
        return headers

    @field_validator("proxy")
    @classmethod
    def _is_proxy(cls, proxy: str | Secret | None) -> str | Secret | None:
        if isinstance(proxy, str):
            _require_proxy(proxy, "proxy")
            if "@" in proxy:
                raise ValueError("proxy: a password may not stand in a spec; name a variable or file: {env: NAME}")
        return proxy


class ResolvedHost(NamedTuple):
    """Settings of a host with the values that they name."""

    delay_seconds: float | None = None
    connections: int = 1
    headers: tuple[tuple[str, str], ...] = ()
    proxy: str | None = None


_NO_SETTINGS = ResolvedHost()


class HostTable:
    """Settings by host, of which the first that names a host holds: as it is, else by a pattern.

    Raises:
        UserError: If a variable or file that they name is missing.
    """

    def __init__(self, hosts: Mapping[str, HostSettings]) -> None:
        self._exact = {name: _resolved(settings) for name, settings in hosts.items() if "*" not in name}
        self._patterns = [(name, _resolved(settings)) for name, settings in hosts.items() if "*" in name]

    def of(self, host: str) -> ResolvedHost:
        """Return what is set for a host."""
        if host in self._exact:
            return self._exact[host]
        return next((found for pattern, found in self._patterns if fnmatch.fnmatchcase(host, pattern)), _NO_SETTINGS)

    @property
    def proxies(self) -> list[str]:
        """host:port of all proxies."""
        found = [*self._exact.values(), *(resolved for _, resolved in self._patterns)]
        parsed = (urlsplit(resolved.proxy) for resolved in found if resolved.proxy is not None)
        return sorted({proxy.netloc.rpartition("@")[2] for proxy in parsed})


def host_names(hosts: dict[str, HostSettings]) -> dict[str, HostSettings]:
    """Return settings by the names of hosts as they are asked for.

    Raises:
        ValueError: If one is no name of a host, nor a pattern of names.
    """
    found: dict[str, HostSettings] = {}
    for name, settings in hosts.items():
        try:
            canonical = name.lower() if "*" in name else canonical_host(name)
        except ValueError:
            canonical = ""
        if not re.fullmatch(r"[a-z0-9_.*-]+|[0-9a-f:]+", canonical):
            raise ValueError(f"{name!r} is no host, such as example.org or *.example.org (without a port)")
        found[canonical] = settings
    return found


def _resolved(settings: HostSettings) -> ResolvedHost:
    proxy = settings.proxy.read() if isinstance(settings.proxy, Secret) else settings.proxy
    if proxy is not None:
        try:
            _require_proxy(proxy, "http.hosts: the proxy that a variable or file names")
        except ValueError as error:
            raise UserError(str(error)) from error
    headers = tuple((name, secret.read()) for name, secret in settings.headers.items())
    return ResolvedHost(settings.delay_seconds, settings.connections, headers, proxy)


def _require_proxy(proxy: str, name: str) -> None:
    try:
        parsed = urlsplit(proxy)
        is_valid = parsed.scheme == "http" and bool(parsed.hostname) and parsed.port is not None
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"{name}: must be http://host:port")
