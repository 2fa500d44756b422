"""Large objects through the SuperLink's process: taken in and given out without a copy for every site that is slow.

Flower copies an object three times while it stores it or answers with it, so it does either for one request at a time, which
takes it a moment; the slow part, the site's line, is waited for outside of that. What it leaves behind holds the copies in
reference cycles, which Python would come round to after thousands of requests: they are collected at once.
"""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

LARGE_BYTES: Final = 1024 * 1024
"""What is larger goes this way."""
_PIECE_BYTES: Final = 256 * 1024
"""What leaves at once: the listener encrypts and keeps the whole of what it is given."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class LargeObjects:
    """Flower's application for requests whose body or answer may be large."""

    def __init__(self, app: Asgi) -> None:
        self._app = app
        self._turn = asyncio.Semaphore(1)
        self._leaving: dict[bytes, list[bytes]] = {}

    async def store(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Hand on a body that has arrived as a whole; the caller lets go of it."""
        receive, body = again(body, receive), b""
        async with self._turn:
            await self._app(scope, receive, send)
            gc.collect()

    async def fetch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what may be large: one copy of it, however many sites are taking it, and however slowly."""
        told: list[MutableMapping[str, Any]] = []

        async def keep(event: MutableMapping[str, Any]) -> None:
            told.append(event)

        async with self._turn:
            await self._app(scope, receive, keep)
            if any(len(event.get("body", b"")) > LARGE_BYTES for event in told):
                gc.collect()
        while told:
            await self._leave(told.pop(0), send)

    async def _leave(self, event: MutableMapping[str, Any], send: Send) -> None:
        body: bytes = event.get("body", b"")
        if len(body) <= _PIECE_BYTES:
            await send(event)
            return
        takers = self._leaving.setdefault(body, [])
        takers.append(takers[0] if takers else body)
        event["body"] = body = takers[0]
        try:
            for start in range(0, len(body), _PIECE_BYTES):
                more = event.get("more_body", False) or start + _PIECE_BYTES < len(body)
                await send({**event, "body": body[start : start + _PIECE_BYTES], "more_body": more})
        finally:
            takers.pop()
            if not takers:
                del self._leaving[body]


async def whole(receive: Receive) -> bytes | None:
    """A request's body, which is within its bound; None if the site hung up."""
    found, more = io.BytesIO(), True  # it grows in place and gives away what it holds: no second copy
    while more:
        event = await receive()
        if event["type"] != "http.request":
            return None
        found.write(event.get("body", b""))
        more = event.get("more_body", False)
    return found.getvalue()


def again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, once, and does not keep it."""
    kept = [body]

    async def replay() -> MutableMapping[str, Any]:
        if not kept:
            return await receive()
        return {"type": "http.request", "body": kept.pop(), "more_body": False}

    return replay
