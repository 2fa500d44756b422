"""Who is at the other end of a TLS connection: uvicorn's HTTP protocol, which tells the application.

uvicorn (0.49) puts no peer certificate into the ASGI scope. This subclass adds the `tls` extension of the ASGI
specification (version 0.2), with what a server of client certificates needs of it. It relies on three things of
uvicorn's protocol classes, which a contract test holds: `connection_made` is called once a connection, with a transport
that knows its `ssl_object`; every request of the connection is given to `self.app`; and no other is.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from fedward.server.flower.gate import FINGERPRINT

_TLS_1_3 = 0x0304


class PeerProtocol(AutoHTTPProtocol):  # type: ignore[misc] # uvicorn chooses the class when it is imported
    """One connection; its requests carry the certificate that its TLS handshake proved."""

    app: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read the certificate once: within a connection of TLS 1.3 it cannot change."""
        super().connection_made(transport)
        extension = tls_extension(transport.get_extra_info("ssl_object"))
        inner = self.app

        async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            scope["extensions"] = {**(scope.get("extensions") or {}), "tls": extension}
            await inner(scope, receive, send)

        self.app = app


def tls_extension(secured: ssl.SSLObject | None) -> dict[str, Any]:
    """The ASGI `tls` extension of a connection; without a client's certificate its chain is empty."""
    der = secured.getpeercert(binary_form=True) if secured is not None else None
    return {
        "server_cert": None,
        "client_cert_chain": () if der is None else (ssl.DER_cert_to_PEM_cert(der),),
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": _TLS_1_3 if secured is not None and secured.version() == "TLSv1.3" else None,
        "cipher_suite": None,
        FINGERPRINT: "" if der is None else hashlib.sha256(der).hexdigest(),
    }
