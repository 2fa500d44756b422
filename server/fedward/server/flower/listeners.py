"""What stands between the SuperLink and who calls it: the hospitals' guard, the held polls, the loopback door.

Plain ASGI: an application here wraps Flower's and decides what of a request reaches it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

from fedward.server.flower.wire import DOOR_HEADER, NEWS

_FLEET: Final = "/v1/fleet/"
_PULL: Final = _FLEET + "pull-messages"
_PUSH: Final = _FLEET + "push-messages"
_OBJECT: Final = _FLEET + "push-object"
# Every other call carries headers only. They come back to the ServerApp together, for all sites at once.
_SMALL_BYTES: Final = 64 * 1024
_FLEET_CALLS: Final = frozenset(
    {
        _FLEET + "activate-node",
        _FLEET + "deactivate-node",
        _FLEET + "send-node-heartbeat",
        _FLEET + "confirm-message-received",
        _FLEET + "pull-object",
        _OBJECT,
        _PULL,
        _PUSH,
    }
)
_HELD_NODES: Final = 4096

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


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
        """Let every held poll go, from another thread."""
        self._hold_s = 0.0
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
    """What hospitals reach: the calls of `_FLEET_CALLS`, each within bounds, and 404 for all else."""

    def __init__(self, app: Asgi, doorbell: Doorbell, max_bytes: int) -> None:
        self._app = app
        self._doorbell = doorbell
        self._max_bytes = max_bytes

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one request of a hospital."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path not in _FLEET_CALLS:
            await _answer(send, 404)
            return
        length = _header(scope, b"content-length")
        # A body of unsaid length could outgrow any bound; only an object may be large.
        if not length.isdigit() or _header(scope, b"transfer-encoding"):
            await _answer(send, 411)
            return
        if int(length) > (self._max_bytes if path == _OBJECT else min(self._max_bytes, _SMALL_BYTES)):
            await _answer(send, 413)
            return
        # Flower's lifespan state belongs to the loopback server; its routes expect a mapping all the same.
        scope = dict(scope, state={})
        if path == _PULL:
            await self._pull(scope, receive, send)
        elif path == _PUSH:
            await self._push(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _pull(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a poll when there is something to say."""
        node = _header(scope, FLEET_HTTP_PUBLIC_KEY_HEADER.encode())
        count = await self._doorbell.wait(node)
        status = size = 0

        async def watch(event: MutableMapping[str, Any]) -> None:
            nonlocal status, size
            status = event.get("status", status)
            size += len(event.get("body", b""))
            await send(event)

        await self._app(scope, receive, watch)
        if status == 200 and size == 0:  # an empty protobuf message has no bytes
            self._doorbell.told_nothing(node, count)

    async def _push(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Refuse a reply whose sender is not the node that the request authenticates."""
        body = bytearray()
        more = True
        while more:
            event = await receive()
            if event["type"] != "http.request":
                return
            body += event.get("body", b"")
            more = event.get("more_body", False)
        if not _speaks_for_itself(bytes(body)):
            await _answer(send, 403)
            return
        replayed = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)


def _speaks_for_itself(body: bytes) -> bool:
    request = PushMessagesRequest()
    try:
        request.ParseFromString(body)
    except Exception:  # noqa: BLE001 - protobuf's DecodeError, whatever its implementation calls it
        return False
    return all(message.metadata.src_node_id == request.node.node_id for message in request.messages_list)


def local_only(app: Asgi, secret: str, doorbell: Doorbell) -> Asgi:
    """The loopback listener: control and the claiming of runs need the process's secret; a run has its own token."""

    async def serve(scope: _Scope, receive: _Receive, send: _Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/v1/control") or path == "/v1/runtime/acquire-task":
            offered = _header(scope, DOOR_HEADER.encode())
            if not secrets.compare_digest(offered, secret.encode()):
                await _answer(send, 401)
                return
        if path == NEWS:
            doorbell.ring()
            await _answer(send, 204)
            return
        await app(scope, receive, send)

    return serve


def _header(scope: _Scope, name: bytes) -> bytes:
    return next((bytes(value) for key, value in scope.get("headers", ()) if key == name), b"")


async def _answer(send: _Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
