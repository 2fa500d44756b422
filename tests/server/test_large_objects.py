"""Large objects on the hospitals' listener: Flower is given one at a time, and a site is sent them piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from fedward.server.flower.listeners import Doorbell, FleetGuard

SIZE = 3 * 2**20
OBJECT, PULL = "/v1/fleet/push-object", "/v1/fleet/pull-object"


SCOPE = {"type": "http", "path": PULL, "headers": [(b"content-length", b"7")]}


async def _asked() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b"give me", "more_body": False}


class Open:
    """A gate that lets everybody through until it is closed."""

    closed = False

    def refuses(self, _scope: Any) -> str:
        return "revoked" if self.closed else ""

    def misspeaks(self, _scope: Any, _path: str, _body: bytes) -> str:
        return ""

    def refused(self, _scope: Any, _code: str) -> None: ...


class Application:
    """Flower's place: it takes a body whole, works for a while, and answers as many bytes."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.now = self.most = 0

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        event = await receive()
        self.bodies.append(event["body"])
        await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send(
            {"type": "http.response.body", "body": b"".join(bytes([n % 251]) * 1024 for n in range(SIZE // 1024))}
        )
        self.now -= 1


async def _call(guard: FleetGuard, path: str, parts: list[bytes], gate: Open | None = None) -> list[Any]:
    """What the guard sends for a request whose body comes in parts; the gate closes before the last one."""
    left, sent = list(parts), []

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.sleep(0)
        part = left.pop(0)
        if gate is not None and not left:
            gate.closed = True
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    length = str(sum(map(len, parts))).encode()
    await guard({"type": "http", "path": path, "headers": [(b"content-length", length)]}, receive, send)
    return sent


def _guard(gate: Open) -> tuple[FleetGuard, Application]:
    application = Application()
    return FleetGuard(application, Doorbell(0.0), 2**28, gate), application  # type: ignore[arg-type]


def test_large_objects_are_stored_one_at_a_time_and_whole() -> None:
    guard, application = _guard(Open())
    bodies = [[bytes([site]) * (SIZE // 2), bytes([site + 100]) * (SIZE // 2)] for site in range(4)]

    async def all_at_once() -> None:
        await asyncio.gather(*(_call(guard, OBJECT, body) for body in bodies))

    asyncio.run(all_at_once())
    assert sorted(application.bodies) == sorted(b"".join(body) for body in bodies)
    assert application.most == 1


def test_a_site_that_is_slow_to_take_holds_up_nobody_and_shares_what_it_takes() -> None:
    guard, application = _guard(Open())

    async def slow_and_quick() -> tuple[int, int]:
        going, taken = asyncio.Event(), 0

        async def slow(event: MutableMapping[str, Any]) -> None:
            nonlocal taken
            taken += len(event.get("body", b""))
            if event.get("body"):
                await going.wait()

        waiting = asyncio.create_task(guard(dict(SCOPE), _asked, slow))
        await asyncio.sleep(0.05)
        quick = await asyncio.wait_for(_call(guard, PULL, [b"give me"]), 5)
        leaving = len(guard._large._leaving)
        going.set()
        await waiting
        assert taken == SIZE == sum(len(event.get("body", b"")) for event in quick)
        return leaving, len(guard._large._leaving)

    assert asyncio.run(slow_and_quick()) == (1, 0)
    assert application.most == 1


def test_small_objects_wait_for_nobody() -> None:
    guard, application = _guard(Open())

    async def all_at_once() -> None:
        await asyncio.gather(*(_call(guard, OBJECT, [b"small"]) for _ in range(3)))

    asyncio.run(all_at_once())
    assert application.most == 3


def test_a_site_that_is_revoked_while_it_uploads_has_uploaded_in_vain() -> None:
    gate = Open()
    guard, application = _guard(gate)
    sent = asyncio.run(_call(guard, OBJECT, [b"x" * SIZE, b"y"], gate))
    assert sent[0]["status"] == 403
    assert not application.bodies


def test_what_a_site_is_sent_is_whole() -> None:
    guard, _ = _guard(Open())
    start, *pieces = asyncio.run(_call(guard, PULL, [b"give me"]))
    assert start["status"] == 200
    assert max(len(piece["body"]) for piece in pieces) <= 2**18
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    body = b"".join(piece["body"] for piece in pieces)
    assert body == b"".join(bytes([n % 251]) * 1024 for n in range(SIZE // 1024))
