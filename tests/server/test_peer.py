"""The contract with uvicorn: its protocol, as we extend it, puts the peer's certificate into every request's scope."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from certificates import Authority
from loopback import free_ports, wait_for
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedward.server.flower.gate import peer_fingerprint
from fedward.server.flower.peer import PeerProtocol


class Echo:
    """A server over mTLS, where a client's certificate is welcome and not required, that keeps every scope."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "peers")
        certificate, key = self.authority.issue("server")
        self.scopes: list[dict[str, Any]] = []
        (self.port,) = free_ports(1)
        self.server = uvicorn.Server(
            uvicorn.Config(
                self._app, host="127.0.0.1", port=self.port, http=PeerProtocol, ws="none", interface="asgi3", lifespan="off",
                log_config=None,
                ssl_certfile=str(certificate), ssl_keyfile=str(key), ssl_ca_certs=str(self.authority.file),
                ssl_cert_reqs=ssl.CERT_OPTIONAL,
            )
        )  # fmt: skip
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_for("the server starts", lambda: self.server.started)

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def client(self, certificate: tuple[Path, Path] | None) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return httpx.Client(verify=context, trust_env=False, base_url=f"https://127.0.0.1:{self.port}")


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    made = Echo(tmp_path_factory.mktemp("peers"))
    yield made
    made.server.should_exit = True
    made.thread.join(10)


def der_of(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def test_every_request_of_a_connection_carries_its_own_certificate(echo: Echo) -> None:
    pairs = [echo.authority.issue("one"), echo.authority.issue("two")]
    with echo.client(pairs[0]) as one, echo.client(pairs[1]) as two:
        for wire in (one, two, one, two, one):
            wire.get("/x")
    seen = echo.scopes[-5:]
    expected = [der_of(pairs[i][0]) for i in (0, 1, 0, 1, 0)]
    assert [peer_fingerprint(scope) for scope in seen] == [hashlib.sha256(der).hexdigest() for der in expected]
    chains = [scope["extensions"]["tls"]["client_cert_chain"] for scope in seen]
    assert [[ssl.PEM_cert_to_DER_cert(pem) for pem in chain] for chain in chains] == [[der] for der in expected]
    assert {scope["extensions"]["tls"]["tls_version"] for scope in seen} == {0x0304}


def test_a_connection_without_a_certificate_has_none_whatever_its_headers_say(echo: Echo) -> None:
    with echo.client(None) as wire:
        wire.get("/x", headers={"extensions": "tls", "fedward.fingerprint": "00"})
    assert peer_fingerprint(echo.scopes[-1]) == ""
    assert echo.scopes[-1]["extensions"]["tls"]["client_cert_chain"] == ()


def test_pipelined_requests_carry_it_too(echo: Echo) -> None:
    pair = echo.authority.issue("pipelining")
    context = ssl.create_default_context(cafile=str(echo.authority.file))
    context.load_cert_chain(*pair)
    before = len(echo.scopes)
    with (
        socket.create_connection(("127.0.0.1", echo.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as wire,
    ):
        wire.sendall(b"GET /1 HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
        wait_for("three answers", lambda: len(echo.scopes) == before + 3)
    assert {peer_fingerprint(scope) for scope in echo.scopes[before:]} == {hashlib.sha256(der_of(pair[0])).hexdigest()}


def test_uvicorn_is_the_release_that_the_protocol_was_written_for() -> None:
    assert uvicorn.__version__.startswith("0.49."), "read server/flower/peer.py again before raising the pin of uvicorn"
    assert issubclass(PeerProtocol, HttpToolsProtocol), (
        "another protocol of uvicorn: show that this contract holds there"
    )
