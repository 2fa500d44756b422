"""kill -9 on real processes in the middle of a secure round: at masked, confirm and unmask, and of the coordinator.

One study of four hospitals, of whom one may be missing in a round. Where a stage must stay open until a site has been killed,
another site is stopped meanwhile (SIGSTOP): the stage waits for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import processes
import pytest
from command import good
from loopback import wait_for, write_study

from fedward.cli.demo_federation import DemoFederation
from fedward.client.home import SiteHome
from fedward.client.log import read_log
from fedward.privacy.secagg.contexts import RoundContext
from fedward.server.coordinator import LocalCoordinator
from fedward.server.records import JournalEntry
from fedward.server.store import Store
from fedward.server.views import StudyView
from fedward.study.heart import SITES, heart_folder

pytestmark = [pytest.mark.prove, pytest.mark.federation, pytest.mark.timeout(600)]

ROUNDS = 9
FEDERATION = {"deadline": "10s", "grace": "4s", "max_attempts": 20}
VICTIM, HOLDER, HELPER = "va", "cleveland", "hungarian"


class Log:
    """What a site's log says from now on."""

    def __init__(self, home: SiteHome) -> None:
        self._home = home
        self._from = sum(1 for _ in self._all())

    def _all(self) -> Iterator[dict[str, Any]]:
        return read_log(self._home.log_file, self._home.unsealer(self._home.log_file))

    def events(self) -> list[dict[str, Any]]:
        return [one for one in self._all() if one["event"] != "unreadable"][self._from :]

    def answered(self, event: str, attempt: int) -> bool:
        """Whether the site's reply to a stage of an attempt has reached the SuperLink: `worked` is that of masked."""
        names = iter(self.events())
        found = any(one["event"] == "worked" and one["attempt"] == attempt for one in names)
        if event != "worked":
            found = found and any(one["event"] == event for one in names)
        return found and any(one["event"] == "handled" for one in names)


class Hospitals:
    """The demo's federation and one study, whose processes a test may hurt and start again."""

    def __init__(self, folder: Path) -> None:
        changes = {"training": {"rounds": ROUNDS}, "federation": FEDERATION, "privacy": {"spare_attempts": 10}}
        study = write_study(folder / "study.toml", "secure-faults", changes)
        self.demo = DemoFederation(folder / "federation", heart_folder(), study, lambda _: None)
        self.folder = folder / "federation"
        self.digest, self.key = "", 0
        self._one_at_a_time = threading.Lock()

    def start(self) -> None:
        # The processes that matter are real; commands that end at once run here, which saves a minute of imports.
        self.demo._run = self._command  # type: ignore[method-assign]
        self.demo.set_up()
        self.coordinator = LocalCoordinator(self.demo.coordinator_home.path)
        self.digest = str(self.demo._coordinator("propose", str(self.demo.study_file))["digest"])
        for site in SITES:
            self.demo._site(site, "approve", self.digest, "--yes")
        self.demo._coordinator("launch", self.digest)
        self.key = self.view().key

    def _command(self, *arguments: str) -> dict[str, Any]:
        with self._one_at_a_time:  # they share this process's standard output
            return good(*arguments[:-1])

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The running process of "coordinator" or of a site."""
        home = str(self.folder / ("coordinator" if name == "coordinator" else f"sites/{name}"))
        return next(p for p in self.demo._processes if isinstance(p.args, list) and p.args[-1] == home)

    def kill(self, name: str) -> None:
        """kill -9, and start it again."""
        process = self.process(name)
        process.kill()
        assert process.wait(20) == -signal.SIGKILL
        self.demo._processes.remove(process)
        if name == "coordinator":
            self.demo._start(name, "coordinator", "start", "--home", str(self.folder / "coordinator"))
        else:
            self.demo._start(f"site-{name}", "site", "start", "--home", str(self.folder / "sites" / name))

    @contextmanager
    def stopped(self, site: str) -> Iterator[Callable[[], None]]:
        """A site that answers nothing until it is let go."""
        pid = self.process(site).pid

        def go_on() -> None:
            os.kill(pid, signal.SIGCONT)

        os.kill(pid, signal.SIGSTOP)
        try:
            yield go_on
        finally:
            go_on()

    def log(self, site: str) -> Log:
        return Log(self.demo.home(site))

    def view(self) -> StudyView:
        return self.coordinator.status(self.digest)

    def journal(self, *kinds: str) -> list[JournalEntry]:
        store = Store.open(self.folder / "coordinator" / "store.sqlite", read_only=True)
        try:
            return [entry for entry in store.journal(self.key) if entry.kind in kinds]
        finally:
            store.close()

    def await_everyone(self) -> None:
        """From now on, a sum of all four is opened."""
        before = len(self.journal("unmasking"))

        def together() -> bool:
            return any(entry.data["survivors"] == list(SITES) for entry in self.journal("unmasking")[before:])

        self.wait("everyone is in a sum", together)

    def new_attempt(self) -> int:
        """The next attempt that opens from now on."""
        before = len(self.journal("opened"))
        return int(self.wait("an attempt opens", lambda: self.journal("opened")[before:])[0].data["attempt"])

    def ended(self, attempt: int, expected: str = "committed") -> dict[str, tuple[str, str]]:
        """How everyone stands in an attempt, once it ended."""
        outcome = self.wait(
            f"attempt {attempt} ends", lambda: next(a.outcome for a in self.view().attempts if a.attempt == attempt)
        )
        assert outcome == expected, self.view().attempts[attempt - 1]
        return {row.site: (row.status, row.reason) for row in self.view().statuses if row.attempt == attempt}

    def survivors(self, attempt: int) -> Any:
        """Whose sum was opened in an attempt."""
        return next(entry.data["survivors"] for entry in self.journal("unmasking") if entry.data["attempt"] == attempt)

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        deadline, look = time.monotonic() + seconds, 0.0
        while not (found := condition()):
            if time.monotonic() > look:
                look = time.monotonic() + 0.5
                assert self.view().state in {"proposed", "ready", "running"}, self.view().reason
                assert look < deadline, f"{what}: not within {seconds:g} s; {str(self.view())[-2000:]}"
            time.sleep(0.01)
        return found

    def charges(self, site: str) -> list[tuple[int, int, str]]:
        made = [entry.charge for entry in self.demo.home(site).ledger().charges()]
        return [(charge.round, charge.attempt, charge.purpose) for charge in made]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    made = Hospitals(tmp_path_factory.mktemp("secure-faults"))
    try:
        made.start()
        yield made
    finally:
        made.demo.end()
    assert processes.of_folder(made.folder) == {}, "processes were left"


def test_a_node_writes_no_core_dump(hospitals: Hospitals) -> None:
    """It would hold the masks' keys and patients' rows."""
    for site in SITES:
        limits = Path(f"/proc/{hospitals.process(site).pid}/limits").read_text().splitlines()
        assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]


def test_a_site_killed_while_it_makes_its_vector(hospitals: Hospitals) -> None:
    log = hospitals.log(VICTIM)
    charged = hospitals.wait("it is charged", lambda: [one for one in log.events() if one["event"] == "charged"])
    hospitals.kill(VICTIM)
    # The ledger says which attempt it was: a charge names it, the log line the round alone.
    attempt = hospitals.charges(VICTIM)[-1][1]
    assert hospitals.charges(VICTIM)[-1][0] == charged[-1]["round"]
    named = hospitals.ended(attempt)
    contributed = [site for site, (status, _) in named.items() if status == "contributed"]
    assert hospitals.survivors(attempt) == contributed
    assert set(contributed) >= set(SITES) - {VICTIM}
    status, reason = named[VICTIM]
    if status == "contributed":  # the vector had left in that instant
        assert reason.startswith("in the sum; then no answer at ")
    else:
        assert status == "dropped"
        assert reason
    # What it was charged stays, and nobody asks it for that attempt again.
    assert [charge[1] for charge in hospitals.charges(VICTIM)].count(attempt) == 1


def test_a_killed_coordinator_goes_on_with_a_new_batch(hospitals: Hospitals) -> None:
    before = hospitals.journal("batch")
    apps = processes.descendants(hospitals.process("coordinator").pid)
    attempt = hospitals.new_attempt()  # which waits for the killed site
    hospitals.kill("coordinator")
    wait_for("the ServerApp's processes end", lambda: not any(processes.alive(pid) for pid in apps), 10)
    hospitals.await_everyone()  # the killed site too: the new SuperLink knows of no session that must lapse first
    view = hospitals.view()
    assert view.attempts[attempt - 1].outcome == "interrupted"
    assert "the coordinator stopped during this attempt" in {s.reason for s in view.statuses if s.attempt == attempt}
    after = hospitals.journal("batch")
    names = [entry.data["batch"] for entry in after]
    assert len(set(names)) == len(names) > len(before)
    assert after[: len(before)] == before


def test_a_site_killed_after_its_vector_left_is_in_the_sum(hospitals: Hospitals) -> None:
    """And, as the batch bears no second dropout, another one killed after it confirmed costs the next attempt, by name."""
    log, helper, holder = (hospitals.log(site) for site in (VICTIM, HELPER, HOLDER))
    with hospitals.stopped(HOLDER) as go_on:  # the stage masked waits for it
        attempt = hospitals.new_attempt()
        hospitals.wait("its vector has left", lambda: log.answered("worked", attempt))
        hospitals.kill(VICTIM)
        go_on()
    following = hospitals.new_attempt()
    named = hospitals.ended(attempt)
    assert named[VICTIM][0] == "contributed"
    assert named[VICTIM][1].startswith("in the sum; then no answer at confirm: ")
    assert [site for site in SITES if named[site] == ("contributed", "")] == [s for s in SITES if s != VICTIM]
    assert hospitals.survivors(attempt) == list(SITES)

    hospitals.wait(
        "their vectors have left", lambda: all(one.answered("worked", following) for one in (helper, holder))
    )
    with hospitals.stopped(HOLDER) as go_on:  # the stage confirm waits for it
        hospitals.wait("it has confirmed", lambda: helper.answered("confirm", following))
        hospitals.kill(HELPER)
        go_on()
    named = hospitals.ended(following, "quorum-missed")
    reason = hospitals.view().attempts[following - 1].reason
    assert reason.startswith("2 of at least 3 sites answered at unmask; ")
    assert f"{HELPER} " in reason
    assert hospitals.charges(HELPER)[-1][1] == following  # which stays


def test_the_study_completes_with_everyone_recorded(hospitals: Hospitals) -> None:
    wait_for("it ends", lambda: hospitals.view().state != "running", 90, lambda: str(hospitals.view())[-2000:])
    view = hospitals.view()
    assert (view.state, view.version) == ("completed", ROUNDS), view.reason
    assert {attempt.outcome for attempt in view.attempts} <= {"committed", "interrupted", "quorum-missed"}
    opened = {entry.data["attempt"]: entry.data for entry in hospitals.journal("unmasking")}
    for attempt in view.attempts:
        rows = [row for row in view.statuses if row.attempt == attempt.attempt]
        assert [row.site for row in rows] == list(SITES)
        assert all(row.reason for row in rows if row.status != "contributed")
        if attempt.outcome == "committed":
            assert [row.site for row in rows if row.status == "contributed"] == opened[attempt.attempt]["survivors"]
    slots = [RoundContext.decode(bytes.fromhex(data["context"])) for data in opened.values()]
    assert len({(context.setup, context.slot) for context in slots}) == len(slots), "a slot was opened twice"
    for site in SITES:
        trained = [(round_, attempt) for round_, attempt, purpose in hospitals.charges(site) if purpose == "train"]
        assert len(trained) == len(set(trained)), f"{site} was charged twice"
        gave = {
            (attempt.round, attempt.attempt)
            for attempt in view.attempts
            for row in view.statuses
            if (row.attempt, row.site, row.status) == (attempt.attempt, site, "contributed") and attempt.round <= ROUNDS
        }
        assert gave <= set(trained), f"{site} contributed without a charge"
    logs = [path.read_text() for path in (hospitals.folder / "logs").glob("*.log")]
    assert not any("Traceback" in text for text in logs)
