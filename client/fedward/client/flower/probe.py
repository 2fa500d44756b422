"""One look at the coordinator, for a person: the site's own TLS connection, one request without the node's key, no effect.

Any answer will do: the hospitals' listener refuses a path that is not Flower's, and its refusal shows the connection, the
chain, the coordinator's clock and the proxy on the way.
"""

from __future__ import annotations

import datetime
import email.utils
from dataclasses import dataclass
from typing import Final

import httpx

from fedward.client.flower.credentials import FleetAddress, tls_context
from fedward.client.flower.diagnosis import Reporter
from fedward.client.flower.proxy import proxy_for

_PATIENCE_S: Final = 10.0


@dataclass(frozen=True)
class Seen:
    """What a probe saw. `code` and `text` say what went wrong, empty if nothing did.

    Attributes:
        tls: the TLS version, such as "TLSv1.3".
        offset_s: how far this machine's clock is ahead of the coordinator's, to the second.
        ends: when the coordinator's own certificate expires.
        proxy: host and port of the proxy that the environment names, without its credentials; None if there is none.
    """

    code: str = ""
    text: str = ""
    tls: str | None = None
    offset_s: float | None = None
    ends: datetime.datetime | None = None
    proxy: str | None = None


def probe(address: FleetAddress) -> Seen:
    """Connect once, with the site's certificate, and take the first answer. Never raises."""
    told: list[tuple[str, str]] = []
    shown = None
    try:
        proxy = proxy_for(address.host, address.port, address.proxy)
        shown = proxy.shown if proxy else None
        context = tls_context(address)
        host = f"[{address.host}]" if ":" in address.host else address.host
        with (
            httpx.Client(
                verify=context,
                proxy=proxy.for_httpx() if proxy else None,
                trust_env=False,
                follow_redirects=False,
                timeout=_PATIENCE_S,
            ) as wire,
            wire.stream("GET", f"https://{host}:{address.port}/") as response,
        ):
            stream = response.extensions["network_stream"]
            tls = stream.get_extra_info("ssl_object")
            return Seen(
                tls=tls.version(),
                offset_s=_offset(response.headers.get("date", "")),
                ends=_ends(tls.getpeercert() or {}),
                proxy=shown,
            )
    except Exception as error:  # noqa: BLE001 - whatever the network does, a person is told by its code
        Reporter(lambda code, text: told.append((code, text))).failure(error, activating=True, proxy=shown)
    code, text = told[0]
    return Seen(code=code, text=text, proxy=shown)


def _offset(date: str) -> float | None:
    try:
        there = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    if there.tzinfo is None:
        there = there.replace(tzinfo=datetime.UTC)
    # The header counts whole seconds: half of one is the best guess of what it cut off.
    return (datetime.datetime.now(datetime.UTC) - there).total_seconds() - 0.5


def _ends(certificate: dict[str, object]) -> datetime.datetime | None:
    named = certificate.get("notAfter")
    if not isinstance(named, str):
        return None
    parsed = email.utils.parsedate_to_datetime(_rfc_date(named))
    return parsed.replace(tzinfo=datetime.UTC)


def _rfc_date(openssl: str) -> str:
    """OpenSSL's "Jun  1 12:00:00 2030 GMT" as RFC 5322 writes it."""
    month, day, clock, year, *_ = openssl.split()
    return f"{day} {month} {year} {clock} +0000"
