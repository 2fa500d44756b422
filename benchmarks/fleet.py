"""A federation of any number of sites on loopback: the real service, TLS, nodes and ledgers; people's decisions by the functions
behind their commands, since two hundred hospitals' commands would take an hour to type.

Every site has the same 200 patients of VA Long Beach: what a round costs does not depend on whose they are.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.node_warmth import BUDGET
from fedward.client import approvals, datasets
from fedward.client.approvers import default_key_file, load_key, make_key
from fedward.client.enrolment import accept_kit, make_request
from fedward.client.home import SiteHome
from fedward.client.node_state import node_state
from fedward.client.registry import add_approver
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import ENDED
from fedward.server.records import StudyRow
from fedward.study.heart import heart_folder
from fedward.study.kinds import AnySealed, parse_sealed
from fedward.study.manifest import Manifest, parse

APPROVER = "tester"
DATA = "va"
START_S, CONNECT_S, SEAL_S, END_S = 180.0, 300.0, 300.0, 30.0


class Fleet:
    """One coordinator and its sites, all in a folder."""

    def __init__(self, folder: Path, sites: int) -> None:
        """Make everyone's homes, and let the sites join."""
        self.folder = folder
        port, control = free_ports(2)
        self.home = CoordinatorHome.create(
            folder / "coordinator", name="fleet", host="localhost", bind="127.0.0.1", port=port, control_port=control,
            now=datetime.now(UTC),
        )  # fmt: skip
        self.coordinator = LocalCoordinator(self.home.path)
        self.sites = {name: self._join(name) for name in (f"site-{number:03d}" for number in range(sites))}
        self.store = self.home.open_store()
        self._service: subprocess.Popen[bytes] | None = None

    def _join(self, site: str) -> SiteHome:
        home = SiteHome.create(self.folder / site, site, BUDGET)
        key = make_key(home, APPROVER, default_key_file(home, APPROVER), None)
        add_approver(home, APPROVER, key.public, by=APPROVER, signer=key, at=0)
        accept_kit(home, self.coordinator.enroll(make_request(home)).kit, None, datetime.now(UTC))
        for strict in ("require_secure_aggregation", "require_dp", "require_evaluation_noise"):
            text = home.policy_file.read_text(encoding="utf-8")
            home.policy_file.write_text(text.replace(f"{strict} = true", f"{strict} = false"), encoding="utf-8")
        return home

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """`fedward coordinator start` in a process of its own; its number."""
        with started(self.home, self.folder / "service.log") as self._service:
            self.wait("the service serves", self.coordinator.serving, START_S)
            yield self._service.pid

    def await_nodes(self) -> None:
        """Every site has been let in."""

        def everybody() -> bool:
            return all(node_state(home)["state"] in {"connected", "handled"} for home in self.sites.values())

        self.wait("every node connects", everybody, CONNECT_S)

    def approved(self, manifest: Manifest) -> str:
        """The study, registered, sealed, offered and approved everywhere; its digest. The nodes must be connected."""
        folder = heart_folder()
        for home in self.sites.values():
            datasets.register(home, manifest, folder / f"{DATA}.csv", folder / f"{DATA}.mapping.toml", int(time.time()))
        key = self.coordinator.propose(manifest, ()).key
        self.wait("the study is proposed", lambda: self.store.study(key).state in {"proposed", "failed"}, SEAL_S)
        study = self.store.study(key)
        if study.sealed is None or study.digest is None or study.state == "failed":
            raise RuntimeError(f"the study was not proposed: {study.reason}")
        sealed = parse_sealed(study.sealed)
        if len(sealed.roster) != len(self.sites):
            raise RuntimeError(f"{len(sealed.roster)} of {len(self.sites)} sites are in the roster")
        for home in self.sites.values():
            self._approve(home, sealed)
        return study.digest

    def _approve(self, home: SiteHome, sealed: AnySealed) -> None:
        signer = load_key(home, default_key_file(home, APPROVER), lambda: "")
        approvals.approve(home, sealed, by=APPROVER, signer=signer, at=int(time.time()))

    def study(self, digest: str) -> StudyRow:
        return self.store.find(digest)

    def wait_ended(self, digest: str, seconds: float) -> StudyRow:
        """The study when it has ended. Raises: RuntimeError, as `wait`."""
        self.wait("the study ends", lambda: self.study(digest).state in ENDED, seconds)
        return self.study(digest)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """
        Raises:
            RuntimeError: not within so many seconds, or the service has ended; its last words are repeated.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            dead = self._service is not None and self._service.poll() is not None
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {seconds:g} s. {self.last_words()}")
            time.sleep(0.1)

    def last_words(self) -> str:
        """The ends of the service's and the runs' logs."""
        logs = [self.folder / "service.log", *sorted(self.home.log_folder.glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists())

    def close(self) -> None:
        self.store.close()
        self.coordinator.close()


def fleet_manifest(study_id: str, *, rounds: int, quorum: int, secure: bool, **changes: Mapping[str, Any]) -> Manifest:
    """The heart study with so many rounds and, else, some of its tables changed."""
    data = tomllib.loads((heart_folder() / "study.toml").read_text(encoding="utf-8"))
    data["study"]["id"] = study_id
    data["training"]["rounds"] = rounds
    data["federation"] |= {"quorum": quorum, "deadline": "60s", "grace": "30s"}
    data["privacy"]["secure_aggregation"] = secure
    for table, values in changes.items():
        data[table] = data.get(table, {}) | values
    return parse(data)


@contextlib.contextmanager
def started(home: CoordinatorHome, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`fedward coordinator start` in a process of its own, which is ended with the block. It may not serve yet."""
    command = [sys.executable, "-m", "fedward.cli.main", "coordinator", "start", "--home", str(home.path)]
    with log.open("ab") as out:
        service = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield service
    finally:
        service.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.wait(END_S)
        service.kill()
        service.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
