# SPDX-License-Identifier: Apache-2.0
"""Proxies from environment variables, chosen by curl's rules: a job's client and curl use the same.

Variables and the matching of ``no_proxy`` follow curl's manual, sections ENVIRONMENT and ``--noproxy``.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union
from urllib.parse import unquote, urlsplit

_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

_DEFAULT_PORT = 1080
_VARIABLES = {
    "http": ("http_proxy", "all_proxy", "ALL_PROXY"),  # not HTTP_PROXY: CGI sets it from a request header
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}
_HOST = re.compile(r"[A-Za-z0-9._~:%-]+")
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: ([0-9]{3})\b")  # text of http.client


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy.

    :param authorization: value of ``Proxy-Authorization``; a credential
    """

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """``host:port``, for display."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """Request headers for the proxy."""
        return {} if self.authorization is None else {"Proxy-Authorization": self.authorization}

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Parse the URL of a proxy, or ``host:port``.

        :raises ValueError: the proxy cannot be used. The message does not contain the URL
        """
        try:
            url = urlsplit(text if "://" in text else f"http://{text}")
            host, port = url.hostname or "", url.port or _DEFAULT_PORT
        except ValueError:
            raise ValueError("is not a valid proxy URL") from None
        if url.scheme != "http":
            raise ValueError("names a proxy that is not http://, which this client does not support")
        if not _HOST.fullmatch(host):
            raise ValueError("is not a valid proxy URL")
        if url.username is None:
            return cls(host, port)
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        return cls(host, port, "Basic " + base64.b64encode(pair.encode()).decode())


@dataclass(frozen=True)
class Proxies:
    """Chooses the proxy of a URL.

    :param environ: environment variables
    :param direct_host: a host that is never reached through a proxy
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    direct_host: str = ""

    @classmethod
    def of_worker(cls, hook: str) -> Proxies:
        """Return the proxies of Airflow's own processes, which reach the API server directly."""
        return cls(direct_host=urlsplit(hook).hostname or "")

    def choose(self, url: str) -> Proxy | None:
        """Return the proxy of an ``http://`` or ``https://`` URL, if any.

        :raises ValueError: the proxy cannot be used. The message names the variable
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        found = [name for name in _VARIABLES[parts.scheme] if self.environ.get(name)]
        no_proxy = self.environ.get("no_proxy") or self.environ.get("NO_PROXY") or ""
        if not found or host == self.direct_host or is_exempt(host, no_proxy):
            return None
        try:
            return Proxy.parse(self.environ[found[0]])
        except ValueError as error:
            advice = f"Set {_VARIABLES[parts.scheme][0]} to an http:// proxy, or add {host} to no_proxy"
            raise ValueError(f"{found[0]} {error}. {advice}") from None


def is_exempt(host: str, no_proxy: str) -> bool:
    """Return whether a host is exempt from proxies.

    :param host: a name, or an IP address without brackets
    :param no_proxy: ``*``; or domains, addresses and CIDR blocks without ports, separated by commas or spaces
    """
    if no_proxy == "*":
        return True
    address = _address(host)
    entries = [entry for entry in re.split(r"[,\s]+", no_proxy) if entry]
    if address is not None:
        return any(_is_within(address, entry) for entry in entries)
    name = host.lower()
    name = name[:-1] if name.endswith(".") else name
    return any(_is_below(name, entry.lower()) for entry in entries)


def tunnel_refusal(error: BaseException) -> int | None:
    """Return the status with which a proxy refused a tunnel, if the error says so."""
    refused = _TUNNEL_REFUSED.search(str(error))
    return None if refused is None else int(refused[1])


def _is_below(name: str, domain: str) -> bool:
    domain = domain[:-1] if domain.endswith(".") else domain
    domain = domain[1:] if domain.startswith(".") else domain
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _is_within(address: _Address, entry: str) -> bool:
    text, _, suffix = entry.partition("/")
    try:
        block = ipaddress.ip_address(text)
    except ValueError:
        return False
    if block.version != address.version:
        return False
    digits = re.match("[0-9]*", suffix)
    bits = int((digits and digits[0]) or 0) or address.max_prefixlen
    shift = address.max_prefixlen - bits
    return shift >= 0 and int(block) >> shift == int(address) >> shift


def _address(host: str) -> _Address | None:
    """Parse an IP address in any form that resolvers accept. Return ``None`` for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    if not host.rpartition(".")[2][:1].isdigit():
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
