"""Metrics and health of a running node, over HTTP on this machine's loopback: the node's only listening socket, if asked for.

    GET /metrics   Prometheus's text form (`exposition`)
    GET /healthz   200 while the node's loop goes on, 503 when it hangs
    GET /readyz    200 while the coordinator takes this node's polls, else 503 with the connection's code

Nothing can be changed through it. It answers GET alone, to a Host of loopback alone (a page in a browser on this machine could
otherwise be made to ask it under another name), and says nothing of what runs it. No other module of a site may open a socket.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from fedward.client.exposition import CONTENT_TYPE, Stock, exposition
from fedward.client.vitals import Signs
from fedward.privacy.errors import UnreachableError
from fedward.study.versions import PROTOCOL

ADDRESS: Final = "127.0.0.1"
_PATIENCE_S: Final = 5.0
_HOSTS: Final = (ADDRESS, "localhost")
_MOST_AT_ONCE: Final = 8


class HealthServer:
    """Listens from `start` to `close`. `signs` and `stock` are asked for at each request, from threads of its own."""

    def __init__(self, port: int, signs: Callable[[], Signs], stock: Callable[[], Stock]) -> None:
        """
        Args:
            port: of 127.0.0.1; 0 takes a free one.

        Raises:
            UnreachableError: the port cannot be used.
        """
        asked = _Asked(signs, stock)

        class Handler(_Handler):
            state = asked

        try:
            self._server = _Server((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            raise UnreachableError(
                f"port {port} of {ADDRESS} cannot be used for metrics",
                got=getattr(error, "strerror", None) or type(error).__name__,
                remedy="give another --metrics port, or stop the program that holds it",
                code="metrics-port",
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="fedward-health", daemon=True
        )

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Asked:
    """What the three paths answer."""

    def __init__(self, signs: Callable[[], Signs], stock: Callable[[], Stock]) -> None:
        self._signs = signs
        self._stock = stock

    def answer(self, path: str) -> tuple[HTTPStatus, str, str]:
        """(status, content type, body)."""
        if path == "/metrics":
            text = exposition(self._signs(), self._stock(), version=_version(), protocol=PROTOCOL, now=time.time())
            return HTTPStatus.OK, CONTENT_TYPE, text
        if path == "/healthz":
            signs = self._signs()
            return _health("ok" if signs.alive(time.time()) else "hangs", signs)
        if path == "/readyz":
            signs = self._signs()
            return _health("ok" if signs.connected else "not-ready", signs)
        return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "/metrics, /healthz, /readyz\n"


def _health(status: str, signs: Signs) -> tuple[HTTPStatus, str, str]:
    code = HTTPStatus.OK if status == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
    return code, "application/json", json.dumps({"status": status, "state": signs.state}) + "\n"


def _version() -> str:
    try:
        return version("fedward")
    except PackageNotFoundError:
        return "source"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A program of this machine that holds connections open shall not make threads without end.
    _places = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(timeout=2 * _PATIENCE_S):  # longer than a silent connection may last
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nobody's trouble; a traceback would go to standard error."""


class _Handler(BaseHTTPRequestHandler):
    state: _Asked
    timeout = _PATIENCE_S
    server_version = "fedward"
    sys_version = ""

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in _HOSTS:
            self._send(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", "only for this machine\n")
            return
        self._send(*self.state.answer(self.path))

    def _refuse(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "GET only\n")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Scrapes are not logged: they come every few seconds."""
