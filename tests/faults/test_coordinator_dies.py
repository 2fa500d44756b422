"""A coordinator is killed (SIGKILL, of a process of its own) at every place of a study, and started again: the last model is, bit
by bit, that of a study that was left alone, and no attempt counts, or is charged, twice.

Places are each commit of the record, each step that makes a model's file or an entry of the audit log durable, and each use of the
network, found by watching an undisturbed run: a new durable step joins by itself. A death after a step leaves what one before the
next leaves, and a lock or a folder that is there already changes nothing: `make prove` takes those too. Hospitals are scripted,
without noise, and all in every sum; they forget what they knew, as where everything loses its power at once. The same with real
processes, of which each is killed in turn: `make prove ONLY=coordinator`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, MemoryTransport, heart_manifest
from mortal import Places, in_child
from sampling import EVERYWHERE
from scripted import charges, script
from secured import WITHOUT

from fedward.server.home import CoordinatorHome
from fedward.server.models import load_model
from fedward.server.running import StudyRun
from fedward.server.store import Store
from fedward.study.heart import SITES

pytestmark = [pytest.mark.no_cover, pytest.mark.timeout(1800)]

ROUNDS = 1


@pytest.fixture(scope="module", params=["plain", "secure"])
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A study that everyone approved."""
    federation = Federation(tmp_path_factory.mktemp(request.param) / "all")
    federation.ready(
        heart_manifest(
            secure=request.param == "secure",
            training={"rounds": ROUNDS},
            evaluation={"every": 1},
            federation={"quorum": len(SITES)},
            privacy=WITHOUT | {"spare_attempts": 5},
        )
    )
    federation.launch()
    federation.store.close()
    return federation


class WatchedTransport(MemoryTransport):
    """Its uses are places."""

    def __init__(self, nodes: Any, places: Places) -> None:
        super().__init__(nodes)
        self._places = places

    def send(self, requests: Mapping[str, bytes]) -> None:
        self._places.pass_by("before sending")
        super().send(requests)
        self._places.pass_by("after sending")


@dataclass
class Case:
    """A copy of the coordinator's home; its processes are children of this one."""

    federation: Federation
    folder: Path

    def __post_init__(self) -> None:
        shutil.copytree(self.federation.home.path, self.folder / "coordinator")
        self.ledger = self.folder / "charges"

    def run(self, at: int | None) -> tuple[int, list[str], str]:
        """One life of the coordinator, which ends at that place: its exit code, the places it passed, what it printed."""
        places = Places(self.folder / "coordinator", at)
        return in_child(lambda: self._live(places), places)

    def _live(self, places: Places) -> int:
        home = CoordinatorHome.open(self.folder / "coordinator")
        self.federation.store = home.open_store()
        script(self.federation, self.ledger)
        transport = WatchedTransport(self.federation.transport.nodes, places)
        StudyRun(home, self.federation.store, transport, self.federation.clock, lambda _: None).run(self.federation.key)
        self.federation.store.close()
        return 0

    def check(self) -> str:
        """What must hold of a completed study; the last model's digest."""
        key = self.federation.key
        store = Store.open(self.folder / "coordinator" / "store.sqlite", read_only=True)
        try:
            attempts, journal = store.attempts(key), store.journal(key)
            assert store.study(key).state == "completed", store.study(key).reason
            opened = [(e.data["round"], e.data["attempt"]) for e in journal if e.kind == "opened"]
            assert [attempt for _, attempt in opened] == list(range(1, len(opened) + 1))
            assert [e.data["attempt"] for e in journal if e.kind == "closed"] == [attempt for _, attempt in opened]
            assert [a.round for a in attempts if a.outcome == "committed"] == list(range(1, ROUNDS + 2))
            for site in SITES:
                made = charges(self.ledger).get(site, [])
                assert len(made) == len(set(made)), f"{site} was asked twice for an attempt"
                assert set(made) <= set(opened), f"{site} was asked for what is not in the journal"
            checkpoint = store.checkpoint(key)
            assert checkpoint is not None
            assert checkpoint.version == ROUNDS
            load_model(self.folder / "coordinator" / "models", checkpoint.model)
            return checkpoint.model
        finally:
            store.close()


def _states(names: list[str]) -> list[int]:
    """Places that leave something else than the one before."""
    same = ("before open audit/lock", "before mkdir")
    return [at for at, name in enumerate(names) if name.startswith("before") and not name.startswith(same)]


def test_killed_anywhere_it_ends_with_the_same_model(ready: Federation, tmp_path: Path) -> None:
    undisturbed = Case(ready, tmp_path / "undisturbed")
    code, names, said = undisturbed.run(None)
    assert code == 0, said
    model = undisturbed.check()
    for what in (
        "before sending",
        "before commit store.sqlite",
        "before fdatasync audit/entries",
        "before replace models",
    ):
        assert any(name.startswith(what) for name in names), f"the test no longer sees what follows {what}"
    assert len(names) >= 60, names
    for at in range(len(names)) if EVERYWHERE else [*_states(names)[::3], len(names) - 1]:
        case = Case(ready, tmp_path / str(at))
        code, _, said = case.run(at)
        assert code == -9, said
        code, _, said = case.run(None)
        assert code == 0, f"after it died at place {at}, {names[at]}: {said}"
        assert case.check() == model, f"another model after it died at place {at}, {names[at]}"
        shutil.rmtree(case.folder)
