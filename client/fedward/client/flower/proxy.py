"""By which way the coordinator is reached: the home's own setting, or the environment's HTTPS_PROXY and NO_PROXY.

A proxy is asked to CONNECT (RFC 9110, section 9.3.6), so TLS runs from this machine to the coordinator and the proxy sees
neither certificate nor content. Its password is never shown: `Proxy.shown` is host and port.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from fedward.privacy.errors import InputError

PROXY_INVALID: Final = "proxy-invalid"
DIRECT: Final = "direct"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Proxy:
    """A proxy; `url` may hold a password."""

    url: str = field(repr=False)
    shown: str

    def for_httpx(self) -> httpx.Proxy:
        """As httpx takes it; a proxy that speaks TLS itself is held against the machine's own CAs."""
        secured = ssl.create_default_context() if self.url.startswith("https:") else None
        return httpx.Proxy(self.url, ssl_context=secured)


def parse_proxy(url: str) -> Proxy:
    """A proxy's URL, `http://[USER:PASSWORD@]HOST:PORT`; without a scheme it is `http`.

    Raises:
        InputError: it is none. The error does not repeat it, for it may hold a password.
    """
    text = url if "://" in url else f"http://{url}"
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    port = _DEFAULT_PORTS.get(parsed.scheme, 0) if parsed.port is None else parsed.port
    if parsed.scheme not in _DEFAULT_PORTS or not parsed.host or parsed.path not in {"", "/"} or not 0 < port < 2**16:
        raise InputError(
            "the proxy setting is no address of a proxy",
            expected="http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT with special characters percent-encoded",
            remedy="correct HTTPS_PROXY, or the setting: fedward site enroll KIT --proxy URL",
            code=PROXY_INVALID,
        )
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return Proxy(text, f"{host}:{port}")


def proxy_for(
    host: str, port: int, setting: str | None = None, environment: Mapping[str, str] = os.environ
) -> Proxy | None:
    """The proxy on the way to an address; None if it is reached directly.

    Args:
        setting: the home's own, which goes before the environment: a proxy's URL, or "direct".

    Raises:
        InputError: the setting, or the environment's, is no address of a proxy.
    """
    if setting:
        return None if setting == DIRECT else parse_proxy(setting)
    named = _first(environment, "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
    if not named or _excepted(host, port, _first(environment, "no_proxy", "NO_PROXY")):
        return None
    return parse_proxy(named)


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((environment[name].strip() for name in names if environment.get(name, "").strip()), "")


def _excepted(host: str, port: int, exceptions: str) -> bool:
    """Whether NO_PROXY names this address: by name or domain, with or without a port, as an address or a network."""
    for raw in exceptions.replace(",", " ").split():
        part = raw.lower()
        name, colon, digits = part.rpartition(":")
        if colon and digits.isdigit() and ":" not in name:
            if int(digits) != port:
                continue
            part = name
        part = part.removeprefix("*").lstrip(".")
        if not part or f".{host.lower()}".endswith(f".{part}") or _within(host, part):
            return True
    return False


def _within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
