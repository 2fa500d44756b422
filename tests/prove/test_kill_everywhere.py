"""A study is killed at every single step, and must end as if nothing had happened: nothing counts twice, nothing is lost.

Each test first runs the study once with a `Fuse` that only counts the places where a process can die. Then, for each
place, a fresh copy of the federation is run until it dies there. The dead process leaves its files and nothing else.
Each test is made with plain sums and with secure ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, MemoryTransport, heart_manifest
from invariants import Released, check_study

from fedward.client.node import SiteNode
from fedward.client.reveals import Reveals
from fedward.privacy.secagg.site import SiteParty
from fedward.server import models as model_files
from fedward.server.store import Store
from fedward.server.transport import Delivery

pytestmark = [pytest.mark.prove, pytest.mark.timeout(3600)]

ROUNDS = 3


class Killed(BaseException):
    """A process dies here. No code of the product catches it, as none can catch SIGKILL."""


@dataclass
class Fuse:
    """Counts the places that a run passes, and kills at the one numbered `at`, once."""

    at: int | None = None
    places: list[str] = field(default_factory=list)
    armed: bool = True

    def place(self, name: str) -> None:
        self.places.append(name)
        if self.armed and self.at == len(self.places) - 1:
            self.armed = False
            raise Killed(name)


class FragileTransport(MemoryTransport):
    """The coordinator may die before and after each single message is delivered; a node that dies says nothing."""

    def __init__(self, federation: Federation, fuse: Fuse, released: Released) -> None:
        super().__init__(federation.transport.nodes)
        self._federation, self._fuse, self._released = federation, fuse, released

    def send(self, requests: Mapping[str, bytes]) -> None:
        for site, payload in requests.items():
            self._fuse.place(f"before the message to {site}")
            self.sent.append((site, payload))
            reply = self.nodes[site](payload)
            self._released.note(self._federation, site, payload, reply)
            self._arrived.append(Delivery(site, reply))
            self._fuse.place(f"after the message to {site}")

    def poll(self) -> list[Delivery]:
        arrived = super().poll()
        if arrived:
            self._fuse.place("after replies were taken")
        return arrived


class MortalNodesTransport(MemoryTransport):
    """A node that dies loses its reply and is started again at once."""

    def __init__(self, federation: Federation, fuse: Fuse, released: Released) -> None:
        super().__init__(federation.transport.nodes)
        self._federation, self._fuse, self._released = federation, fuse, released
        for site in self.nodes:
            self._start(site)

    def _start(self, site: str) -> None:
        self._federation.transport = self
        self._federation.restart(site)
        node = self.nodes[site]
        assert isinstance(node, SiteNode)
        _make_mortal(node, self._fuse)

    def send(self, requests: Mapping[str, bytes]) -> None:
        for site, payload in requests.items():
            self.sent.append((site, payload))
            node = self.nodes[site]
            try:
                self._fuse.place(f"{site} before it reads a request")
                reply = node(payload)
                self._fuse.place(f"{site} before it sends its reply")
            except Killed:
                node._ledger.close()  # type: ignore[attr-defined]
                self._start(site)
                self._arrived.append(Delivery(site, None, "the node died"))
                continue
            self._released.note(self._federation, site, payload, reply)
            try:
                self._fuse.place(f"{site} after its reply left, which is lost")
            except Killed:
                node._ledger.close()  # type: ignore[attr-defined]
                self._start(site)
                self._arrived.append(Delivery(site, None, "reply-lost"))
                continue
            self._arrived.append(Delivery(site, reply))


def _make_mortal(node: Any, fuse: Fuse) -> None:
    """The node dies where the fuse says: around its charge, between a charge and its head file, and around training."""
    _around(node, "_charge", fuse, "the charge")
    _before(node._ledger, "_confirm", fuse, "the charge is confirmed")
    _around(node._finder, "find", fuse, "training and evaluation")


def _mortal_secrets(monkeypatch: pytest.MonkeyPatch, fuse: Fuse) -> None:
    """A node dies around each use of its secrets in a secure sum, and around the record that it helped to open one."""
    for owner, name in ((SiteParty, "take"), (SiteParty, "mask"), (SiteParty, "unmask"), (Reveals, "_append")):
        monkeypatch.setattr(owner, name, _deadly(getattr(owner, name), fuse, name))


def _deadly(original: Callable[..., Any], fuse: Fuse, what: str) -> Callable[..., Any]:
    def step(*arguments: Any, **named: Any) -> Any:
        fuse.place(f"before {what}")
        result = original(*arguments, **named)
        fuse.place(f"after {what}")
        return result

    return step


def _before(owner: Any, name: str, fuse: Fuse, what: str) -> None:
    original = getattr(owner, name)

    def step(*arguments: Any, **named: Any) -> Any:
        fuse.place(f"before {what}")
        return original(*arguments, **named)

    setattr(owner, name, step)


def _around(owner: Any, name: str, fuse: Fuse, what: str) -> None:
    setattr(owner, name, _deadly(getattr(owner, name), fuse, what))


def _mortal_store(store: Store, fuse: Fuse) -> None:
    """The coordinator dies before a write, in the middle of its transaction, or right after its commit."""
    original: Callable[[], Any] = store._write

    @contextmanager
    def write() -> Iterator[Any]:
        fuse.place("before a write")
        with original() as connection:
            yield connection
            fuse.place("before a commit")
        fuse.place("after a commit")

    store._write = write  # type: ignore[method-assign]


def _mortal_models(monkeypatch: pytest.MonkeyPatch, fuse: Fuse) -> None:
    """The coordinator dies before or after a model's file is written, which is before the commit that names it."""
    original = model_files.save_model

    def save(*arguments: Any) -> str:
        fuse.place("before a model's file")
        name: str = original(*arguments)
        fuse.place("after a model's file")
        return name

    monkeypatch.setattr(model_files, "save_model", save)


def _restart_coordinator(federation: Federation) -> None:
    """Memory and everything on its way are gone; the file and the nodes stay."""
    federation.store.close()
    federation.store = federation.home.open_store()
    federation.transport = MemoryTransport(federation.transport.nodes)


@pytest.fixture(scope="module", params=["plain", "secure"])
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Proposed and approved by all four; every test works on copies."""
    federation = Federation(tmp_path_factory.mktemp("ready"))
    secure = request.param == "secure"
    federation.ready(heart_manifest(secure=secure, training={"rounds": ROUNDS}, evaluation={"every": 1}))
    return federation


def _secure(federation: Federation) -> bool:
    return federation.sealed().manifest.privacy.secure_aggregation


def _requests(federation: Federation) -> int:
    """Requests to each site: an offer; under secure aggregation a setup of three; each round, and the last evaluation."""
    return 1 + 3 + 3 * (ROUNDS + 1) if _secure(federation) else 1 + ROUNDS + 1


@dataclass
class Case:
    """A copy of the federation in which one place is deadly."""

    federation: Federation
    fuse: Fuse
    released: Released

    def check(self) -> None:
        check_study(self.federation, self.released, ROUNDS)


Run = Callable[[Case], None]


def _everywhere(ready: Federation, folder: Path, run: Run, at_least: int) -> None:
    """Run once to count the places, then once for each of them."""
    dry = Case(ready.copy(folder / "dry"), Fuse(), Released())
    run(dry)
    dry.check()
    total = len(dry.fuse.places)
    assert total >= at_least, f"only {total} places: the test no longer sees what it should kill"
    for at in range(total):
        case = Case(ready.copy(folder / str(at)), Fuse(at), Released())
        try:
            run(case)
            assert not case.fuse.armed, "nothing was killed"
            case.check()
        except Exception as error:
            error.add_note(f"killed at place {at} of {total}: {dry.fuse.places[at]}")
            raise
        case.federation.store.close()


def _run_again_after_death(case: Case, make_transport: Callable[[], MemoryTransport]) -> None:
    """Start the coordinator until it ends by itself. Its nodes live on."""
    federation = case.federation
    federation.transport = make_transport()
    try:
        federation.run()
    except Killed:
        _restart_coordinator(federation)
        federation.transport = FragileTransport(federation, Fuse(), case.released)
        federation.run()


def test_the_coordinator_dies_at_every_write(
    ready: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(case: Case) -> None:
        with monkeypatch.context() as patch:
            _mortal_models(patch, case.fuse)
            _mortal_store(case.federation.store, case.fuse)
            _run_again_after_death(case, lambda: FragileTransport(case.federation, Fuse(), case.released))

    # Every one of: the state (2), four standings, the start, four attempts opened and closed; three places each. And of
    # secure sums: their batch, and each before it is opened.
    sums = 1 + ROUNDS + 1 if _secure(ready) else 0
    _everywhere(ready, tmp_path, run, at_least=3 * (2 + 4 + 1 + 8 + sums) + 2 * (1 + ROUNDS))


def test_the_coordinator_dies_at_every_message(ready: Federation, tmp_path: Path) -> None:
    def run(case: Case) -> None:
        _run_again_after_death(case, lambda: FragileTransport(case.federation, case.fuse, case.released))

    _everywhere(ready, tmp_path, run, at_least=2 * 4 * _requests(ready))


def test_a_node_dies_at_every_step_of_every_request(
    ready: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(case: Case) -> None:
        with monkeypatch.context() as patch:
            _mortal_secrets(patch, case.fuse)
            case.federation.transport = MortalNodesTransport(case.federation, case.fuse, case.released)
            case.federation.run()

    # Of secure sums: a slot is taken, masked in and opened, and that is recorded where counts were in it.
    secrets = 2 * (3 * (ROUNDS + 1) + ROUNDS) if _secure(ready) else 0
    _everywhere(ready, tmp_path, run, at_least=4 * (3 * _requests(ready) + 5 * ROUNDS + secrets))
