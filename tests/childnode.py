"""A hospital's node in a process of its own, which a test may kill or starve at any place; asked as in memory.

The child is forked when it is first asked, so that it opens its ledger itself. A child that has died is forked anew, unharmed.
"""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Mapping

from federation import Federation, MemoryTransport
from invariants import Released
from mortal import Blow, Places, kill

from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.privacy.draws import SecureDraws
from fedward.server.transport import Delivery


class DiedError(Exception):
    """The child ended before it answered."""


class ChildNode:
    """One site's node in a child. `at` is the place of its first life at which `blow` falls; later lives are unharmed."""

    def __init__(
        self,
        federation: Federation,
        site: str,
        at: int | None = None,
        blow: Blow = kill,
        *,
        only_before: bool = False,
    ) -> None:
        self._federation, self._site = federation, site
        self._armed: tuple[int | None, Blow] | None = (at, blow)
        self._only_before = only_before
        self._child = 0
        self.places: list[str] = []
        self.deaths = 0

    def __call__(self, payload: bytes) -> bytes:
        if not self._child:
            self._fork()
        now = float(self._federation.clock.unix())
        try:
            _send(self._ask, struct.pack("<d", now) + payload)
            return self._take_answer()
        except (EOFError, BrokenPipeError):
            self.end()
            self.deaths += 1
            raise DiedError(self._site) from None

    def _take_answer(self) -> bytes:
        while True:
            kind, data = _receive(self._answer)
            if kind == b"A":
                return data
            self.places.append(data.decode())

    def _fork(self) -> None:
        at, blow = self._armed or (None, kill)
        ask_read, self._ask = os.pipe()
        self._answer, answer_write = os.pipe()
        self._child = os.fork()
        if self._child:
            os.close(ask_read)
            os.close(answer_write)
            self._armed = None
            return
        try:
            os.close(self._ask)
            os.close(self._answer)
            _serve(self._federation, self._site, Places(self._federation.sites[self._site].path, at, blow,
                   only_before=self._only_before), ask_read, answer_write)  # fmt: skip
        finally:
            os._exit(70)

    def end(self) -> None:
        """Kill the child, if there is one."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            os.close(self._ask)
            os.close(self._answer)
            self._child = 0


def _serve(federation: Federation, site: str, places: Places, ask: int, answer: int) -> None:
    """The child: a fresh node that answers until nobody asks."""
    now = [0.0]
    places.report = lambda name: _send(answer, name.encode(), b"P")
    places.install()
    home = federation.sites[site]
    node = None
    while True:
        try:
            _, data = _receive(ask)
        except EOFError:
            return
        now[0] = struct.unpack("<d", data[:8])[0]
        if node is None:
            node = SiteNode(home, SiteLog(home.log_file, None), SecureDraws(), clock=lambda: now[0])
        _send(answer, node(data[8:]), b"A")


def _send(descriptor: int, data: bytes, kind: bytes = b"Q") -> None:
    whole = kind + struct.pack("<I", len(data)) + data
    while whole:
        whole = whole[os.write(descriptor, whole) :]


def _receive(descriptor: int) -> tuple[bytes, bytes]:
    head = _exactly(descriptor, 5)
    return head[:1], _exactly(descriptor, struct.unpack("<I", head[1:])[0])


def _exactly(descriptor: int, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = os.read(descriptor, size - len(found))
        if not data:
            raise EOFError
        found += data
    return found


class ChildTransport(MemoryTransport):
    """Delivers to a federation's nodes, of which one is in a child; a node that dies says nothing."""

    def __init__(self, federation: Federation, site: str, node: ChildNode, released: Released) -> None:
        super().__init__(federation.transport.nodes | {site: node})
        self._federation, self._released = federation, released

    def send(self, requests: Mapping[str, bytes]) -> None:
        for site, payload in requests.items():
            self.sent.append((site, payload))
            try:
                reply = self.nodes[site](payload)
            except DiedError:
                self._arrived.append(Delivery(site, None, "the node died"))
                continue
            self._released.note(self._federation, site, payload, reply)
            self._arrived.append(Delivery(site, reply))
