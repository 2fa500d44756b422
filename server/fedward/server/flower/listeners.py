"""What stands between the SuperLink and who calls it: the hospitals' guard, the held polls, the loopback door.

Plain ASGI: an application here wraps Flower's and decides what of a request reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

from fedward.server.flower.gate import Gate
from fedward.server.flower.large import LARGE_BYTES, Asgi, LargeObjects, Receive, Scope, Send, again, whole
from fedward.server.flower.wire import DOOR_HEADER, NEWS
from fedward.study.connection import REFUSAL_HEADER, UNKNOWN_NODE, UNKNOWN_NOW

_FLEET: Final = "/v1/fleet/"
_PULL: Final = _FLEET + "pull-messages"
_PUSH: Final = _FLEET + "push-messages"
_ACTIVATE: Final = _FLEET + "activate-node"
_OBJECT: Final = _FLEET + "push-object"
_FETCH: Final = _FLEET + "pull-object"
# Every other call carries headers only. They come back to the ServerApp together, for all sites at once.
_SMALL_BYTES: Final = 64 * 1024
FLEET_CALLS: Final = frozenset(
    {
        _ACTIVATE,
        _FLEET + "deactivate-node",
        _FLEET + "send-node-heartbeat",
        _FLEET + "confirm-message-received",
        _FETCH,
        _OBJECT,
        _PULL,
        _PUSH,
    }
)
_REPLY: Final = "/v1/runtime/pull-object"
_HELD_NODES: Final = 4096
# As Flower itself says "no such node": a site then activates anew.
_STATUSES: Final = {UNKNOWN_NODE: 401, UNKNOWN_NOW: 503}


class Doorbell:
    """Holds polls open until there may be news.

    A message for a node can appear only when the ServerApp pushes messages, and it rings when a message and all its
    parts are there. So each ring counts one up, and a node that was told "nothing" at the present count need not be
    answered before the next ring; or before `hold_s`, should a ring be lost. A signature is checked when the poll goes
    on, well within the 300 s that Flower grants it.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._count = 0
        self._answered: dict[bytes, int] = {}
        self._rung: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Called in the event loop before anything else."""
        self._rung = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Let every held poll go, from another thread, and hold no more."""
        self._hold_s = 0.0
        self.wake()

    def wake(self) -> None:
        """Ring, from another thread."""
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self.ring)

    def ring(self) -> None:
        """There may be news: let every held poll go."""
        self._count += 1
        if self._rung is not None:
            self._rung.set()
            self._rung = asyncio.Event()

    async def wait(self, node: bytes) -> int:
        """Hold a poll of `node` if it would bring nothing; the count under which it is answered."""
        if self._answered.get(node) == self._count and self._rung is not None and self._hold_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rung.wait(), self._hold_s)
        return self._count

    def told_nothing(self, node: bytes, count: int) -> None:
        """A poll of `node` that was answered under `count` brought nothing."""
        if len(self._answered) >= _HELD_NODES:  # names are claimed before they are proven: keep the memory bounded
            self._answered.clear()
        self._answered[node] = count


class FleetGuard:
    """What hospitals reach: the calls of `FLEET_CALLS`, each within bounds, by a site that is who it says; 404 for all else.

    Flower knows a node by its key alone. Here a request must come over a certificate that the coordinator issued, that
    lives now, and that this very key was enrolled with; so one hospital's certificate carries no other's messages, and
    a stolen header is worth nothing without the certificate's private key. Refusals are 403 with a code in a header.
    """

    def __init__(self, app: Asgi, doorbell: Doorbell, max_bytes: int, gate: Gate) -> None:
        self._app = app
        self._doorbell = doorbell
        self._max_bytes = max_bytes
        self._gate = gate
        self._large = LargeObjects(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request of a hospital."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        status = _misfit(scope, self._max_bytes)
        if status:
            await answer(send, status)
            return
        refusal = self._gate.refuses(scope)
        if refusal:
            await self._refuse(scope, send, refusal)
            return
        if path != _OBJECT:
            body = await whole(receive)
            if body is None:
                return
            refusal = self._gate.misspeaks(scope, path, body)
            if refusal:
                await self._refuse(scope, send, refusal)
                return
            receive = again(body, receive)
        # Flower's lifespan state belongs to the loopback server; its routes expect a mapping all the same.
        scope = dict(scope, state={})
        if path == _PULL:
            await self._pull(scope, receive, send)
        elif path == _ACTIVATE:
            await self._activate(scope, receive, send)
        elif path == _OBJECT and int(header(scope, b"content-length")) > LARGE_BYTES:
            await self._store(scope, receive, send)
        elif path == _FETCH:
            await self._large.fetch(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _store(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take in a large object, however slow its site is, and hand it on when its turn comes."""
        body = await whole(receive)
        if body is None:
            return
        refusal = self._gate.refuses(scope)  # it may have been revoked meanwhile
        if refusal:
            await self._refuse(scope, send, refusal)
            return
        handed = self._large.store(scope, body, receive, send)
        del body  # one copy less while Flower works
        await handed

    async def _refuse(self, scope: Scope, send: Send, code: str) -> None:
        """Refuse by name; a store that cannot be read refuses everybody for now. Refused connections are closed."""
        self._gate.refused(scope, code)
        headers = [(REFUSAL_HEADER.encode(), code.encode())]
        if code not in _STATUSES:
            headers.append((b"connection", b"close"))
        await answer(send, _STATUSES.get(code, 403), headers)

    async def _pull(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a poll when there is something to say."""
        node = header(scope, FLEET_HTTP_PUBLIC_KEY_HEADER.encode())
        count = await self._doorbell.wait(node)
        refusal = self._gate.refuses(scope)  # it may have been revoked while the poll was held
        if refusal:
            await self._refuse(scope, send, refusal)
            return
        status = size = 0

        async def watch(event: MutableMapping[str, Any]) -> None:
            nonlocal status, size
            status = event.get("status", status)
            size += len(event.get("body", b""))
            await send(event)

        await self._app(scope, receive, watch)
        if status == 200 and size == 0:  # an empty protobuf message has no bytes
            self._doorbell.told_nothing(node, count)

    async def _activate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A node that Flower lets in has proved both its keys: a certificate that was issued is in use from now on."""

        async def watch(event: MutableMapping[str, Any]) -> None:
            if event.get("status") == 200:
                self._gate.connected(scope)
            await send(event)

        await self._app(scope, receive, watch)


def _misfit(scope: Scope, max_bytes: int) -> int:
    """The status with which a request that is none of the fleet calls, or not within its bound, is refused; or 0."""
    path = scope["path"]
    if path not in FLEET_CALLS:
        return 404
    length = header(scope, b"content-length")
    # A body of unsaid length could outgrow any bound; only an object may be large.
    if not length.isdigit() or header(scope, b"transfer-encoding"):
        return 411
    return 413 if int(length) > (max_bytes if path == _OBJECT else min(max_bytes, _SMALL_BYTES)) else 0


def local_only(app: Asgi, secret: str, doorbell: Doorbell) -> Asgi:
    """The loopback listener: control and the claiming of runs need the process's secret; a run has its own token."""

    large = LargeObjects(app)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/v1/control") or path == "/v1/runtime/acquire-task":
            offered = header(scope, DOOR_HEADER.encode())
            if not secrets.compare_digest(offered, secret.encode()):
                await answer(send, 401)
                return
        if path == NEWS:
            doorbell.ring()
            await answer(send, 204)
            return
        await (large.fetch if path == _REPLY else app)(scope, receive, send)

    return serve


def header(scope: Scope, name: bytes) -> bytes:
    """A header of a request; empty if it has none."""
    return next((bytes(value) for key, value in scope.get("headers", ()) if key == name), b"")


async def answer(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Answer without a body."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0"), *headers]})
    await send({"type": "http.response.body", "body": b""})
