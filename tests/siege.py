"""A federation of real processes, of which one is killed (SIGKILL) at a place of the coordinator's run; studies go on.

Studies are without noise and every hospital is in every sum, so that each model must equal, bit by bit, the one of a study that was
left alone: an update that was lost, or that counted twice, would show. The processes live for many cases.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deaths
import tomli_w
from command import good

from fedward.cli.demo_federation import DemoFederation
from fedward.cli.lifeline import PARENT
from fedward.server.records import AttemptRow, JournalEntry
from fedward.server.store import Store
from fedward.study.files import write_atomic
from fedward.study.heart import SITES, heart_folder

MOST_S = 30.0
"""Seconds from a process's restart to the next committed attempt, at most."""
PATIENCE = 5
"""Attempts within which a place must be passed."""
SERVICE, APP = "service", "app"
VICTIMS = (SERVICE, APP, *SITES)
TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """Who was killed where; seconds from its restart to the next commit of an attempt that was opened after the death."""

    place: str
    victim: str
    seconds: float
    lost: int
    """Attempts that ended without a sum until then."""


def study_file(folder: Path, study_id: str, rounds: int, *, secure: bool) -> Path:
    """The heart study without differential privacy, for all four hospitals, evaluated in every round."""
    data = tomllib.loads((heart_folder() / "study.toml").read_text(encoding="utf-8"))
    data["study"]["id"] = study_id
    data["training"]["rounds"] = rounds
    data["federation"] |= {
        "quorum": len(SITES),
        "deadline": "2min",  # longer than any case may take: no study is saved by it
        "grace": "5s",
        "max_attempts": 20,
    }
    data["privacy"] = {"mechanism": "none", "secure_aggregation": secure, "spare_attempts": 1000}
    data["evaluation"] = {"noise": "none", "every": 1}
    path = folder / f"{study_id}.toml"
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    return path


@dataclass
class Siege:
    """The demo's federation, its coordinator watched."""

    folder: Path
    secure: bool
    cases: list[Case] = field(default_factory=list)
    missed: list[tuple[str, str]] = field(default_factory=list)
    """Victims and places that no attempt came by."""
    _under_way: int | None = None
    _ended: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.orders = self.folder / "orders"
        self.orders.mkdir(parents=True)
        first = study_file(self.folder, "siege", 1, secure=self.secure)
        self.demo = DemoFederation(self.folder / "federation", heart_folder(), first, lambda _: None)
        self._one_at_a_time = threading.Lock()
        self._spawn = self.demo._start
        self.demo._start = self._start  # type: ignore[method-assign]
        self.demo._run = self._command  # type: ignore[method-assign]

    @contextmanager
    def standing(self) -> Iterator[Siege]:
        try:
            self.demo.set_up()
            self.store = Store.open(self.folder / "federation" / "coordinator" / "store.sqlite", read_only=True)
            yield self
            self.store.close()
        finally:
            self.demo.end()

    # processes

    def _command(self, *arguments: str) -> dict[str, Any]:
        with self._one_at_a_time:  # they share this process's standard output
            return good(*arguments[:-1])

    def _start(self, name: str, *arguments: str) -> None:
        if name != "coordinator":
            self._spawn(name, *arguments)
            return
        log = self.demo.folder / "logs" / "coordinator.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(TESTS), *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
        environment = {
            "PYTHONPATH": os.pathsep.join(paths),
            PARENT: str(os.getpid()),
            deaths.FOLDER: str(self.orders),
        }
        with log.open("ab") as out:
            self.demo._processes.append(
                subprocess.Popen(
                    [sys.executable, str(TESTS / "deadly_service.py"), str(self.demo.folder / "coordinator")],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=os.environ | environment,
                    start_new_session=True,
                )
            )

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The process of a site, or of the service."""
        home = str(self.demo.folder / ("coordinator" if name == SERVICE else f"sites/{name}"))
        return next(p for p in self.demo._processes if isinstance(p.args, list) and p.args[-1] == home)

    def app(self) -> int:
        """The ServerApp's process that was heard of last."""
        return next(
            int(line.split()[0]) for line in reversed(self._lines()) if not line.split()[1].startswith("service/")
        )

    def _bury(self, name: str) -> None:
        process = self.process(name)
        code = process.wait(20)
        assert code == -signal.SIGKILL, f"{name} ended with {code}"
        self.demo._processes.remove(process)

    def _restart(self, name: str) -> None:
        if name == SERVICE:
            self._start("coordinator")
        else:
            self.demo._start(f"site-{name}", "site", "start", "--home", str(self.demo.folder / "sites" / name))

    # places

    def _lines(self) -> list[str]:
        return (self.orders / "places").read_text().splitlines()

    def ever_passed(self) -> list[str]:
        """Every place that was passed so far, once, in the order of their first time."""
        return list(dict.fromkeys(line.split(maxsplit=1)[1] for line in self._lines()))

    # studies

    def propose(self, study_id: str, rounds: int) -> int:
        """A study that everyone has approved; its key."""
        path = study_file(self.folder, study_id, rounds, secure=self.secure)
        for site in SITES:
            own = self.demo.folder / "sites" / site / "export"
            files = ("--csv", str(own / f"{site}.csv"), "--mapping", str(own / f"{site}.mapping.toml"))
            self.demo._site(site, "register", "--study", str(path), *files)
        digest = str(self.demo._coordinator("propose", str(path))["digest"])
        for site in SITES:
            self.demo._site(site, "approve", digest, "--yes")
        return self.store.find(digest).key

    def launch(self, key: int) -> None:
        self.demo._coordinator("launch", self.store.study(key).digest or "")

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s; {self.told()}")
            time.sleep(0.05)
        return found

    def told(self) -> str:
        newest = self.store.studies()[0]
        attempts = self.store.attempts(newest.key)[-3:]
        return f"{newest.state} {newest.reason}; {attempts}; last passed {self._lines()[-5:]}"

    def completed(self, key: int, seconds: float) -> list[str]:
        """Wait for a study's end; the digests of its models by version, from 1 on."""
        self.wait("the study ends", lambda: self.store.study(key).state != "running", seconds)
        study = self.store.study(key)
        assert study.state == "completed", study.reason
        self.check(key)
        for path in (self.demo.folder / "coordinator" / "models").iterdir():
            path.unlink()  # or the next study, whose models are the same, would write none
        return self.models(key)

    def models(self, key: int) -> list[str]:
        rows = [row for row in self.store.attempts(key) if row.outcome == "committed"]
        models = [row.model or "" for row in rows]
        return models[:-1] if self.store.study(key).state == "completed" else models  # the last round evaluates

    def alone(self, study_id: str, rounds: int) -> list[str]:
        """A study that nobody disturbs; its models."""
        key = self.propose(study_id, rounds)
        self.launch(key)
        self.wait("it begins", lambda: self.store.attempts(key))
        return self.completed(key, 120 + 15 * rounds)

    def under_way(self, study_id: str, rounds: int, reserve: int) -> int:
        """The key of a study that has more than `reserve` rounds to go: the one that runs, or else a new one of that name."""
        key = self._under_way
        if key is not None and len(self.models(key)) < rounds - reserve:
            return key
        self._finish()
        self._under_way = key = self.propose(study_id, rounds)
        self.launch(key)
        self.wait("it begins", lambda: self.models(key))
        return key

    def finish_all(self) -> list[list[str]]:
        """The models of each besieged study, once all have ended."""
        self._finish()
        return self._ended

    def _finish(self) -> None:
        if self._under_way is not None:
            self._ended.append(self.completed(self._under_way, 600))
            self._under_way = None

    # deaths

    def strike(self, key: int, place: str, victim: str, *, provoked: bool = False) -> Case | None:
        """Kill `victim` when the coordinator comes to `place`, start it again, and wait for the next sum; None if it does not come
        there in some attempts.

        Args:
            key: the study.
            place: where.
            victim: who; the ServerApp is started again by the service.
            provoked: the place lies at the begin of a run, which the death of the run before it brings about.
        """
        itself = victim == APP or place.startswith("service/")
        (self.orders / "done").unlink(missing_ok=True)
        order = {"place": place, "victim": 0 if itself else self.process(victim).pid}
        write_atomic(self.orders / "order", json.dumps(order).encode())
        passed = len(self.store.attempts(key))
        if place.startswith("service/"):
            self.process(SERVICE).kill()
            self._bury(SERVICE)
            self._restart(SERVICE)
        elif provoked:
            os.kill(self.app(), signal.SIGKILL)
        done = self.orders / "done"
        self.wait(
            f"{place} is reached", lambda: done.exists() or len(self.store.attempts(key)) > passed + PATIENCE, 120
        )
        if not done.exists():  # it is not on the way of every attempt
            (self.orders / "order").unlink(missing_ok=True)
            if not done.exists():
                return None
        return self._recovered(key, place, victim)

    def strike_whole(self, key: int, place: str, victim: str) -> str:
        """Launch a study of which `victim` is killed at `place`, and started again, and let it end; what came of it."""
        (self.orders / "done").unlink(missing_ok=True)
        order = {"place": place, "victim": 0 if victim == APP else self.process(victim).pid}
        write_atomic(self.orders / "order", json.dumps(order).encode())
        self.launch(key)
        done = self.orders / "done"
        self.wait(f"{place} is reached", lambda: done.exists() or self.store.study(key).state == "completed", 120)
        (self.orders / "order").unlink(missing_ok=True)
        struck = done.exists()
        began = time.monotonic()
        if struck and victim != APP:
            self._bury(victim)
            began = time.monotonic()
            self._restart(victim)
        self.wait("it begins", lambda: self.store.study(key).state != "proposed")
        self._ended.append(self.completed(key, 4 * MOST_S))
        if not struck:
            return "not on the way"
        case = Case(place, victim, time.monotonic() - began, len(self.store.attempts(key)) - 2)
        self.cases.append(case)
        return f"the study ended {case.seconds:.1f} s after its restart, {case.lost} attempts lost"

    def _recovered(self, key: int, place: str, victim: str) -> Case:
        if victim != APP:
            self._bury(victim)
        before = len(self.store.attempts(key))
        began = time.monotonic()
        if victim != APP:
            self._restart(victim)

        def committed() -> AttemptRow | None:
            later = self.store.attempts(key)[before:]
            return next((row for row in later if row.outcome == "committed"), None)

        row = self.wait(f"the next sum after {victim} died at {place}", committed, 3 * MOST_S)
        took = time.monotonic() - began
        lost = sum(a.outcome not in {"committed", None} for a in self.store.attempts(key)[before - 1 : row.attempt])
        case = Case(place, victim, took, lost)
        self.cases.append(case)
        return case

    # what must hold

    def check(self, key: int) -> None:
        """No attempt's number twice, each round committed once and on the model before it, everyone in every sum, and no ledger
        with a charge twice or for what nobody opened."""
        attempts = self.store.attempts(key)
        journal = self.store.journal(key)
        opened = _attempts_of(journal, "opened")
        assert opened == list(range(1, len(opened) + 1)), "an attempt's number was used again, or left out"
        assert _attempts_of(journal, "closed") == opened
        committed = [row for row in attempts if row.outcome == "committed"]
        assert [row.round for row in committed] == list(range(1, len(committed) + 1)), "a round was committed twice"
        assert [row.base for row in committed][1:] == [row.model or row.base for row in committed][:-1]
        gave = {(row.attempt, row.site) for row in self.store.statuses(key) if row.status == "contributed"}
        assert gave >= {(row.attempt, site) for row in committed for site in SITES}
        digest, places = self.store.study(key).digest, {(row.round, row.attempt) for row in attempts}
        for site in SITES:
            with self.demo.home(site).ledger() as ledger:
                ledger.verify()
                made = [entry.charge for entry in ledger.charges() if entry.charge.study_digest == digest]
            charges = [(charge.round, charge.attempt, charge.purpose) for charge in made]
            assert len(charges) == len(set(charges)), f"{site} was charged twice"
            assert {charge[:2] for charge in charges} <= places, f"{site} was charged for what nobody opened"
            contributed = {(row.round, row.attempt) for row in committed}
            assert contributed <= {charge[:2] for charge in charges} or not charges, f"{site} gave without a charge"
        tracebacks = [p.name for p in (self.demo.folder / "logs").glob("*.log") if "Traceback" in p.read_text()]
        assert not tracebacks, tracebacks

    def report(self) -> str:
        """The cases by victim: how many, and how long until the next sum."""
        lines = [f"{'killed':12} {'places':>6} {'median':>8} {'slowest':>8}  slowest at"]
        for victim in VICTIMS:
            mine = [case for case in self.cases if case.victim == victim]
            if mine:
                worst = max(mine, key=lambda case: case.seconds)
                median = statistics.median(case.seconds for case in mine)
                lines.append(f"{victim:12} {len(mine):6} {median:6.1f} s {worst.seconds:6.1f} s  {worst.place}")
        return "\n".join(lines)


def _attempts_of(journal: list[JournalEntry], kind: str) -> list[int]:
    return [entry.data["attempt"] for entry in journal if entry.kind == kind]
