"""500 rounds over the real SuperLink while sites die and return at random: nothing leaks, hangs or counts twice.

The service, its ServerApp and each node are processes of their own; what comes in when is drawn by FEDWARD_SOAK_SEED. One site is
left alone, so that its node's memory can be followed from end to end. FEDWARD_SOAK_ROUNDS and FEDWARD_SOAK_MINUTES bound it. What
it does and finds is written to .prove/soak.log as it goes.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pytest

from benchmarks import node_host, processes
from benchmarks.fleet import Fleet, fleet_manifest
from fedward.client.home import SiteHome
from fedward.server.lifecycle import ENDED
from fedward.study.manifest import Manifest

pytestmark = [pytest.mark.prove, pytest.mark.timeout(3000)]

ROUNDS = int(os.environ.get("FEDWARD_SOAK_ROUNDS", "500"))
MINUTES = float(os.environ.get("FEDWARD_SOAK_MINUTES", "20"))
SEED = int(os.environ.get("FEDWARD_SOAK_SEED", "1"))
SITES, QUORUM, MOST_AWAY = 5, 3, 2
DEADLINE_S, GRACE_S = 20, 1
GROWTH = 1.10
TAIL = 0.1
"""The share of a process's samples that is compared: the last ones with as many after the first third, which warms it up."""
FEWEST_SAMPLES = 60
REPORT = Path(__file__).resolve().parents[2] / ".prove" / "soak.log"


APART_S = (6.0, 18.0)
"""Between two deaths: a round whose site dies waits some 9 s for it, so that rounds must come in between for 500 in 20 minutes."""


class Trouble:
    """Kills, ends and starts nodes. A site is away for 1 to 15 seconds; the first site is left alone."""

    def __init__(self, homes: dict[str, SiteHome]) -> None:
        self._chance = random.Random(SEED)  # noqa: S311 - only the moments of trouble
        self._homes = homes
        self._nodes = {site: node_host.start_node(home.path) for site, home in homes.items()}
        self._back: dict[str, float] = {}
        self._next = 0.0
        self.done: Counter[str] = Counter()
        self.spared = next(iter(homes))

    @property
    def spared_process(self) -> int:
        return int(self._nodes[self.spared].pid or 0)

    def step(self) -> None:
        """What is due now."""
        now = time.monotonic()
        for site in [site for site, at in self._back.items() if at <= now]:
            self._nodes[site] = node_host.start_node(self._homes[site].path)
            del self._back[site]
        if now < self._next or len(self._back) >= MOST_AWAY:
            return
        self._next = now + self._chance.uniform(*APART_S)
        site = self._chance.choice([site for site in self._homes if site not in self._back and site != self.spared])
        if self._chance.random() < 0.6:
            node_host.kill(self._nodes[site])
            self.done["killed"] += 1
        else:
            node_host.end([self._nodes[site]])
            self.done["ended"] += 1
        self._back[site] = now + self._chance.uniform(1, 15)

    def end(self) -> None:
        node_host.end([node for site, node in self._nodes.items() if site not in self._back])


class Memory:
    """Resident memory of processes over time, sampled every second."""

    def __init__(self) -> None:
        self._samples: dict[str, list[int]] = {}
        self._next = 0.0

    def sample(self, named: Iterable[tuple[str, int]]) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1.0
        for name, process in named:
            self._samples.setdefault(f"{name} {process}", []).append(processes.resident_bytes(process))

    def growth(self) -> dict[str, tuple[float, float]]:
        """Megabytes after the warm-up and at the end, of every process that lived long enough to tell."""
        found = {}
        for name, samples in self._samples.items():
            if len(samples) >= FEWEST_SAMPLES:
                some = int(TAIL * len(samples))
                early = samples[len(samples) // 3 :][:some]
                found[name] = (median(early) / 1e6, median(samples[-some:]) / 1e6)
        return found


def test_five_hundred_rounds_of_sites_that_die_and_return(tmp_path: Path) -> None:
    fleet, memory, manifest = Fleet(tmp_path, SITES), Memory(), _manifest()
    node_host.expect(manifest)
    try:
        with fleet.serving() as service:
            trouble = Trouble(fleet.sites)
            try:
                fleet.await_nodes()
                digest = fleet.approved(manifest)
                fleet.coordinator.launch(digest)
                began = time.monotonic()
                launches = _follow(fleet, digest, trouble, memory, service)
                took = time.monotonic() - began
            finally:
                trouble.end()
        grown = memory.growth()
        _say(f"{took:.0f} s, {launches} launches, trouble {dict(trouble.done)}, MB {grown}")
        _check_record(fleet, digest)
        for site, home in fleet.sites.items():
            _check_ledger(fleet, digest, site, home)
        assert trouble.done["killed"] > 0 and trouble.done["ended"] > 0, "the soak met no trouble"  # noqa: PT018
        assert {name.split()[0] for name in grown} == {"service", "app", "node"}, grown
        for name, (early, late) in grown.items():
            assert late <= GROWTH * early, f"{name} grew from {early:.0f} to {late:.0f} MB"
    finally:
        fleet.close()


def _manifest() -> Manifest:
    return fleet_manifest(
        "soak", rounds=ROUNDS, quorum=QUORUM, secure=False,
        federation={"deadline": f"{DEADLINE_S}s", "grace": f"{GRACE_S}s", "max_attempts": 20},
        privacy={"spare_attempts": 1000},
    )  # fmt: skip


def _follow(fleet: Fleet, digest: str, trouble: Trouble, memory: Memory, service: int) -> int:
    """Make trouble until the study is completed; how often it was launched, as a person does who sees that it failed."""
    deadline, launches, said = time.monotonic() + 60 * MINUTES, 1, 0
    while (study := fleet.study(digest)).state != "completed":
        trouble.step()
        apps = processes.descendants(service)
        memory.sample([("service", service), *(("app", app) for app in apps), ("node", trouble.spared_process)])
        if study.state in ENDED and study.wish == "none":
            assert study.reason.startswith(("round ", "too few")), study.reason  # no quorum, for want of sites
            fleet.coordinator.launch(digest)
            launches += 1
        made = fleet.store.attempts_made(study.key)
        if made >= said + 50:
            said = made
            _say(f"attempt {made}, trouble {dict(trouble.done)}, {deadline - time.monotonic():.0f} s left")
        assert time.monotonic() < deadline, f"{made} attempts within {MINUTES:g} minutes. {fleet.last_words()}"
        time.sleep(0.2)
    return launches


def _check_record(fleet: Fleet, digest: str) -> None:
    """Every round committed once, from the model before it, and nothing was stuck or left open."""
    study = fleet.study(digest)
    attempts = fleet.store.attempts(study.key)
    committed = [attempt for attempt in attempts if attempt.outcome == "committed"]
    assert [attempt.round for attempt in committed] == list(range(1, ROUNDS + 2))  # the one after the last evaluates
    assert [attempt.base for attempt in committed][1:] == [attempt.model for attempt in committed][:-1]
    assert all(attempt.outcome for attempt in attempts), "an attempt was left open"
    slowest = max(attempt.seconds or 0.0 for attempt in attempts)
    assert slowest <= 2 * DEADLINE_S, f"an attempt was stuck: it took {slowest:.0f} s of at most {DEADLINE_S}"
    journal = fleet.store.journal(study.key)
    opened = [entry.data["attempt"] for entry in journal if entry.kind == "opened"]
    assert opened == list(range(1, len(opened) + 1)), "an attempt's number was used again, or left out"
    assert [entry.data["attempt"] for entry in journal if entry.kind == "closed"] == opened


def _check_ledger(fleet: Fleet, digest: str, site: str, home: SiteHome) -> None:
    """What a site was charged is what the journal asked it for, once each, and all that it contributed is charged."""
    study = fleet.study(digest)
    asked = {
        (entry.data["round"], entry.data["attempt"])
        for entry in fleet.store.journal(study.key, "opened")
        if site in entry.data["cohort"]
    }
    with home.ledger() as ledger:
        ledger.verify()
        charges = [entry.charge for entry in ledger.charges() if entry.charge.study_digest == digest]
    trained = [(charge.round, charge.attempt) for charge in charges if charge.purpose.startswith("train")]
    assert len(set(trained)) == len(trained), f"{site}: an attempt was charged twice"
    assert set(trained) <= asked, f"{site}: a charge for what the journal did not ask of it"
    round_of = {row.attempt: row.round for row in fleet.store.attempts(study.key) if row.round <= ROUNDS}
    contributed = {
        (round_of[row.attempt], row.attempt)
        for row in fleet.store.statuses(study.key)
        if row.site == site and row.status == "contributed" and row.attempt in round_of
    }
    assert contributed, f"{site} never contributed"
    assert contributed <= set(trained), f"{site}: it contributed what it was not charged"
    _say(f"{site}: asked {len(asked)} times, charged {len(trained)}, contributed {len(contributed)}")


def _say(text: str) -> None:
    REPORT.parent.mkdir(exist_ok=True)
    with REPORT.open("a", encoding="utf-8") as report:
        report.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")
