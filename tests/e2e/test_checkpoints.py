"""Audit logs are compared between studies as well, over a real SuperLink: hourly if there is news, daily if there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import good
from loopback import Loopback, wait_for

from fedward.client.home import SiteHome
from fedward.server.checkpoints import has_news
from fedward.server.home import CoordinatorHome

pytestmark = [pytest.mark.federation, pytest.mark.timeout(240)]

EVERY_S = 2.0


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A federation of two sites without a study, whose hour is two seconds long."""
    monkeypatch.setattr("fedward.server.service.COMPARE_FIRST_S", EVERY_S)
    monkeypatch.setattr("fedward.server.service.COMPARE_S", EVERY_S)
    federation = Loopback(tmp_path / "federation", ("cleveland", "va"))
    try:
        federation.start()
        yield federation
    finally:
        federation.end()


def test_logs_are_compared_between_studies_when_there_is_news(idle: Loopback, tmp_path: Path) -> None:
    home = CoordinatorHome.open(idle.home)
    received = lambda: [e.fields["origin"] for e in home.audit.entries() if e.kind == "checkpoint-received"]  # noqa: E731
    wait_for("both sites are asked", lambda: len(set(received())) == 2, 60)
    wait_for("nothing is left to tell", lambda: not has_news(home), 60)
    quiet = len(received())
    time.sleep(2 * EVERY_S)
    assert len(received()) == quiet, "without news, a day may pass"
    idle.stop_node("va")
    SiteHome.open(idle.sites["cleveland"]).record("backup")
    home.record("service-started")
    wait_for("the site that is there is asked again", lambda: len(received()) > quiet, 60)
    assert "cleveland" in received()[-1]

    # The coordinator holds what both have cosigned, and has brought cleveland its own cosignature of the first time.
    exports = []
    for owner in (idle.home, idle.sites["cleveland"]):
        exports.append(tmp_path / f"{owner.name}.audit")
        good("audit", "export", exports[-1], "--home", owner)
    verified = good("audit", "verify", *exports)
    assert verified["holds"]
    assert [len(one["cosigned"]) for one in verified["exports"]] == [2, 1]
    assert "not compared" not in " ".join(idle.said)
    assert not {e.kind for e in home.audit.entries()} & {"alarm-raised", "split-view"}
