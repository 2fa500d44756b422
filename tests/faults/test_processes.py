"""kill -9, SIGSTOP and Ctrl-C on the real processes of one federation, in sequence; studies survive them all."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from command import good
from loopback import wait_for, write_study

from fedward.cli.demo_federation import DemoFederation
from fedward.server.coordinator import LocalCoordinator
from fedward.server.store import Store
from fedward.server.views import StudyView
from fedward.study.heart import SITES, heart_folder

pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]

DEADLINE_S = 10
FEDERATION = {"deadline": f"{DEADLINE_S}s", "grace": "1.5s", "max_attempts": 5}
LONG, SHORT = 900, 12  # the long one is still running when the last of its tests stops it


class Processes:
    """The demo's federation, whose processes a test may hurt and start again."""

    def __init__(self, folder: Path) -> None:
        study = write_study(folder / "study.toml", "faults", {"training": {"rounds": LONG}, "federation": FEDERATION,
                                                              "privacy": {"spare_attempts": 8}})  # fmt: skip
        self.short = write_study(folder / "short.toml", "faults", {"training": {"rounds": SHORT},
                                 "federation": FEDERATION, "privacy": {"spare_attempts": 8}})  # fmt: skip
        self.demo = DemoFederation(folder / "federation", heart_folder(), study, lambda _: None)
        self.folder = folder / "federation"
        self.long_digest = ""
        self._one_at_a_time = threading.Lock()

    def start(self) -> None:
        # The processes that matter are real; commands that end at once run here, which saves a minute of imports.
        self.demo._run = self._command
        self.demo.set_up()
        self.coordinator = LocalCoordinator(self.demo.coordinator_home.path)

    def _command(self, *arguments: str) -> dict[str, Any]:
        with self._one_at_a_time:  # they share this process's standard output
            return good(*arguments[:-1])

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """The running process of "coordinator" or of a site."""
        home = str(self.folder / ("coordinator" if name == "coordinator" else f"sites/{name}"))
        return next(p for p in self.demo._processes if isinstance(p.args, list) and p.args[-1] == home)

    def ended(self, name: str, seconds: float = 20.0) -> int:
        """Wait for a process to end; its exit code. It may then be started again."""
        process = self.process(name)
        code = process.wait(seconds)
        self.demo._processes.remove(process)
        return code

    def restart(self, name: str) -> None:
        if name == "coordinator":
            self.demo._start(name, "coordinator", "start", "--home", str(self.folder / "coordinator"))
        else:
            self.demo._start(f"site-{name}", "site", "start", "--home", str(self.folder / "sites" / name))

    def propose(self, study: Path) -> str:
        digest = str(self.demo._coordinator("propose", str(study))["digest"])
        for site in SITES:
            self.demo._site(site, "approve", digest, "--yes")
        return digest

    def launch(self, digest: str) -> StudyView:
        first = self.view(digest).version
        self.demo._coordinator("launch", digest)
        return self.wait(digest, "commits", lambda view: view.version > first)

    def running(self, digest: str) -> StudyView:
        """As the test before left it; launched where that one failed, or was not asked for."""
        view = self.view(digest)
        return view if view.state == "running" and view.version else self.launch(digest)

    def stop(self, digest: str) -> StudyView:
        self.demo._coordinator("stop", digest)
        return self.wait(digest, "stops", lambda view: view.state == "stopped" and view.wish == "none")

    def view(self, digest: str) -> StudyView:
        return self.coordinator.status(digest)

    def wait(self, digest: str, what: str, condition: object, seconds: float = 60.0) -> StudyView:
        assert callable(condition)
        wait_for(what, lambda: condition(self.view(digest)), seconds, lambda: str(self.view(digest))[-2000:])
        return self.view(digest)

    def status(self, view: StudyView, site: str, after: int) -> list[tuple[int, str, str]]:
        """(attempt, status, reason) of a site in the attempts after one."""
        return [(s.attempt, s.status, s.reason) for s in view.statuses if s.site == site and s.attempt > after]

    def assert_record_holds(self, digest: str) -> None:
        """No attempt number twice; no site charged twice for an attempt, nor for one that was not opened."""
        view = self.view(digest)
        store = Store.open(self.folder / "coordinator" / "store.sqlite", read_only=True)
        opened = [(e.data["round"], e.data["attempt"]) for e in store.journal(view.key) if e.kind == "opened"]
        store.close()
        assert [attempt for _, attempt in opened] == list(range(1, len(opened) + 1))
        done = [a.round for a in view.attempts if a.outcome == "committed"]
        assert done == list(range(1, len(done) + 1))
        contributed = {s.site: set() for s in view.statuses}
        for row in view.statuses:
            if row.status == "contributed" and view.attempts[row.attempt - 1].round <= view.rounds:
                contributed[row.site].add((view.attempts[row.attempt - 1].round, row.attempt))
        for site in SITES:
            charges = [(e.charge.round, e.charge.attempt) for e in self.demo.home(site).ledger().charges()
                       if e.charge.study_digest == digest and e.charge.event is not None]  # fmt: skip
            assert len(charges) == len(set(charges)), f"{site} was charged twice"
            assert set(charges) <= set(opened), f"{site} was charged for an attempt that nobody opened"
            assert contributed.get(site, set()) <= set(charges), f"{site} contributed without a charge"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    made = Processes(tmp_path_factory.mktemp("faults"))
    try:
        made.start()
        made.long_digest = made.propose(made.demo.study_file)
        yield made
    finally:
        made.demo.end()
    assert processes.of_folder(made.folder) == {}, "processes were left"


def test_a_killed_site_is_named_and_contributes_again(federation: Processes) -> None:
    digest = federation.long_digest
    federation.running(digest)
    federation.process("va").kill()
    assert federation.ended("va") == -signal.SIGKILL
    before = len(federation.view(digest).attempts)
    federation.restart("va")  # at once: the SuperLink takes it for online until its last heartbeat lapses
    # What happens meanwhile: rounds are committed without it, and say so.
    view = federation.wait(
        digest, "commits without va",
        lambda v: any(s.site == "va" and s.attempt >= before and s.status in {"dropped", "absent"} for s in v.statuses),
    )  # fmt: skip
    missed = [row for row in federation.status(view, "va", before - 1) if row[1] != "contributed"]
    assert all(reason for _, _, reason in missed)
    outcomes = {a.attempt: a.outcome for a in view.attempts}
    assert {outcomes[attempt] for attempt, _, _ in missed} == {"committed"}
    federation.wait(
        digest, "va contributes again",
        lambda v: any(status == "contributed" for _, status, _ in federation.status(v, "va", missed[-1][0])), 60,
    )  # fmt: skip


def test_a_site_that_never_answers_is_dropped_in_time_and_comes_back(federation: Processes) -> None:
    digest = federation.long_digest
    before = len(federation.running(digest).attempts)
    os.kill(federation.process("hungarian").pid, signal.SIGSTOP)
    try:
        view = federation.wait(  # silent at first; once its heartbeats lapse, 20 s later, it is not even asked
            digest, "drops hungarian, and then goes on without it",
            lambda v: {s for _, s, _ in federation.status(v, "hungarian", before)} >= {"dropped", "absent"}, 60,
        )  # fmt: skip
    finally:
        os.kill(federation.process("hungarian").pid, signal.SIGCONT)
    dropped = [row for row in federation.status(view, "hungarian", before) if row[1] == "dropped"]
    for attempt, _, reason in dropped:
        assert "no answer" in reason or "node-offline" in reason
        ended = view.attempts[attempt - 1]
        assert ended.outcome == "committed"
        assert ended.seconds is not None
        assert ended.seconds < DEADLINE_S + 3.0, (
            "the round took longer than its deadline, and what a sum takes after it"
        )
        others = {s.site for s in view.statuses if s.attempt == attempt and s.status == "contributed"}
        assert others == set(SITES) - {"hungarian"}
    federation.wait(
        digest, "hungarian contributes again",
        lambda v: any(s == "contributed" for _, s, _ in federation.status(v, "hungarian", dropped[-1][0])), 40,
    )  # fmt: skip


def test_ctrl_c_ends_a_site_and_the_coordinator_in_order_and_nothing_is_lost(federation: Processes) -> None:
    digest = federation.long_digest
    federation.running(digest)
    federation.process("switzerland").send_signal(signal.SIGINT)
    assert federation.ended("switzerland") == 0
    view = federation.view(digest)
    federation.wait(digest, "goes on with three", lambda v: v.version > view.version + 1)
    federation.restart("switzerland")
    apps = processes.descendants(federation.process("coordinator").pid)
    federation.process("coordinator").send_signal(signal.SIGINT)
    assert federation.ended("coordinator") == 0
    assert not any(processes.alive(pid) for pid in apps)
    stopped = federation.view(digest)
    assert stopped.state == "running"
    federation.restart("coordinator")
    view = federation.wait(digest, "goes on", lambda v: v.version > stopped.version + 1)
    assert view.attempts[: stopped.version] == stopped.attempts[: stopped.version]
    federation.wait(
        digest, "switzerland contributes again",
        lambda v: any(s == "contributed" for _, s, _ in federation.status(v, "switzerland", len(stopped.attempts))),
    )  # fmt: skip
    federation.stop(digest)
    federation.assert_record_holds(digest)  # with all that the tests before did to it


def test_a_killed_coordinator_leaves_no_orphan_and_its_study_completes(federation: Processes) -> None:
    digest = federation.propose(federation.short)  # from then on, the long one is refused as a rollback
    before = federation.launch(digest)
    apps = processes.descendants(federation.process("coordinator").pid)
    assert apps, "no ServerApp process was found"
    federation.process("coordinator").kill()
    assert federation.ended("coordinator") == -signal.SIGKILL
    wait_for("the ServerApp's processes end", lambda: not any(processes.alive(pid) for pid in apps), 10)
    assert not federation.coordinator.serving()
    left = federation.view(digest)
    assert left.state == "running"
    assert before.version <= left.version < SHORT

    federation.restart("coordinator")
    view = federation.wait(digest, "completes", lambda v: v.state in {"completed", "failed"}, 90)
    assert (view.state, view.version) == ("completed", SHORT), view.reason
    assert view.attempts[: left.version] == left.attempts[: left.version]
    assert all(attempt.outcome is not None for attempt in view.attempts)
    assert {a.outcome for a in view.attempts} <= {"committed", "interrupted", "quorum-missed"}
    federation.assert_record_holds(digest)
    logs = [path.read_text() for path in (federation.folder / "logs").glob("*.log")]
    assert len(logs) == 5
    assert not any("Traceback" in text for text in logs)
