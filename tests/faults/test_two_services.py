"""Two services on one store, as real processes: the second is refused; one that slept through a takeover writes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from command import good
from loopback import free_ports, wait_for
from stores import Place, place_of, server

from fedward.server.home import CoordinatorHome
from fedward.server.leases import Lease

__all__ = ["server"]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    return place_of("postgresql", request)


class Service:
    """`fedward coordinator start` of a home."""

    def __init__(self, home: Path) -> None:
        self.home, self._out = home, home.parent / f"{home.name}.out"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedward.cli.main", "coordinator", "start", "--home", str(home)],
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return " ".join(self._out.read_text().split())

    def lease(self) -> Lease | None:
        with closing(CoordinatorHome.open(self.home).open_store()) as store:
            return store.lease()

    def serves(self) -> bool:
        lease = self.lease()
        return (
            lease is not None and f"process {self.process.pid} " in lease.shown and "serving hospitals" in self.said()
        )

    def await_serving(self) -> None:
        wait_for("the service serves", lambda: self.serves() or self.process.poll() is not None, 90, self.said)
        assert self.process.poll() is None, self.said()

    def ended(self) -> int:
        return self.process.wait(90)

    def end(self) -> None:
        if self.process.poll() is None:
            for number in (signal.SIGCONT, signal.SIGTERM):
                os.kill(self.process.pid, number)
            self.ended()


@pytest.fixture
def homes(tmp_path: Path, place: Place) -> tuple[Path, Path]:
    """A coordinator's home and its copy for another machine, whose ports are other ones here."""
    first, second = tmp_path / "first", tmp_path / "second"
    ports = free_ports(4)
    good(
        "coordinator",
        "init",
        "Two",
        "--port",
        ports[0],
        "--control-port",
        ports[1],
        "--store",
        place.place,
        "--home",
        first,
    )
    shutil.copytree(first, second)
    settings = json.loads((second / "federation.json").read_text())
    settings |= {"port": ports[2], "control_port": ports[3]}
    (second / "federation.json").write_text(json.dumps(settings))
    return first, second


@pytest.fixture
def started() -> Iterator[list[Service]]:
    services: list[Service] = []
    yield services
    for service in services:
        service.end()


def test_the_second_is_refused_and_the_one_that_slept_through_a_takeover_stops(
    homes: tuple[Path, Path], place: Place, started: list[Service]
) -> None:
    first = Service(homes[0])
    started.append(first)
    first.await_serving()
    refused = Service(homes[1])
    started.append(refused)
    assert refused.ended() == 6  # which the systemd unit tries again
    assert "another service serves this store" in refused.said()
    assert f"process {first.process.pid} on " in refused.said()

    os.kill(first.process.pid, signal.SIGSTOP)
    log = CoordinatorHome.open(homes[0]).audit.checkpoint()
    place.sql("UPDATE leases SET until = taken_at")  # the 15 s are over
    second = Service(homes[1])
    started.append(second)
    second.await_serving()
    lease = second.lease()

    os.kill(first.process.pid, signal.SIGCONT)
    assert first.ended() == 6
    assert CoordinatorHome.open(homes[0]).audit.checkpoint() == log
    assert "another service has taken this store over" in first.said()
    assert second.serves()
    now = second.lease()
    assert lease is not None
    assert now is not None
    assert (now.token, now.shown) == (lease.token, lease.shown)

    os.kill(second.process.pid, signal.SIGTERM)
    assert second.ended() == 0
    third = Service(homes[0])  # at once: the lease was given back
    started.append(third)
    third.await_serving()


def test_the_same_home_is_served_again_at_once_after_kill_9(homes: tuple[Path, Path], started: list[Service]) -> None:
    first = Service(homes[0])
    started.append(first)
    first.await_serving()
    before = first.lease()
    os.kill(first.process.pid, signal.SIGKILL)
    first.ended()
    again = Service(homes[0])
    started.append(again)
    again.await_serving()
    after = again.lease()
    assert before is not None
    assert after is not None
    assert after.token == before.token + 1
