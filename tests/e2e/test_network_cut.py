"""The line between a hospital and its coordinator is cut in a study: the node says so, comes back, and nothing counts twice.

FEDWARD_CUT_S says for how long; `make prove` takes ten minutes, in which nothing answers at all.
"""

from __future__ import annotations

import os
import time

import pytest
from loopback import Loopback, wait_for
from relay import Relay

from fedward.client.flower import CONNECTED, HANDLED
from fedward.client.home import SiteHome

CUT_S = float(os.environ.get("FEDWARD_CUT_S", "4"))
PROVING = CUT_S >= 60
pytestmark = [pytest.mark.federation, pytest.mark.timeout(240 + 2 * CUT_S)]
SITE = "va"


def test_a_node_outlives_a_network_cut(loopback: Loopback) -> None:
    digest = loopback.propose(
        loopback.study("cut", training={"rounds": 400}, federation={"deadline": "20s", "grace": "2s", "max_attempts": 5},
                       privacy={"spare_attempts": 100})
    )  # fmt: skip
    loopback.approve(digest)
    loopback.stop_node(SITE)
    with Relay(SiteHome.open(loopback.sites[SITE]).kit().port) as relay:
        loopback.start_node(SITE, port=relay.port)
        try:
            loopback.await_connected()
            _cut(loopback, relay, digest)
        finally:
            loopback.stop_node(SITE)
            loopback.start_node(SITE)
            loopback.await_connected()


def _cut(loopback: Loopback, relay: Relay, digest: str) -> None:
    told = loopback.nodes[SITE].told
    loopback.launch(digest)
    loopback.wait(digest, "has va in a round", lambda view: _status(view, "contributed", 0))
    spent = _spent(loopback)
    seen, attempts = len(told), len(loopback.view(digest).attempts)
    relay.cut(silently=PROVING)
    began = time.monotonic()
    wait_for("the node says that it has no connection", lambda: _named(told[seen:]), 60 if not PROVING else CUT_S)
    view = loopback.wait(
        digest, "names va as away",
        lambda view: _status(view, "dropped", attempts) or _status(view, "absent", attempts), 60,
    )  # fmt: skip
    away = [row for row in view.statuses if row.site == SITE and row.status in {"dropped", "absent"}]
    assert all(row.reason for row in away)
    time.sleep(max(0.0, CUT_S - (time.monotonic() - began)))
    assert _spent(loopback) <= spent * 2 + 3.0
    seen, attempts = len(told), len(loopback.view(digest).attempts)
    relay.heal()
    wait_for("the node is back by itself", lambda: any(code in {CONNECTED, HANDLED} for code, _ in told[seen:]), 90)
    if loopback.view(digest).state == "running":
        loopback.wait(digest, "has va in a round again", lambda view: _status(view, "contributed", attempts), 120)
    loopback.coordinator.stop(digest)
    loopback.wait_ended(digest)
    charges = loopback.charges(SITE, digest)
    opened = {(attempt.round, attempt.attempt) for attempt in loopback.view(digest).attempts}
    assert len(charges) == len(set(charges)), "an attempt was charged twice"
    assert set(charges) <= opened


def _named(told: list[tuple[str, str]]) -> bool:
    return any(code not in {CONNECTED, HANDLED} for code, _ in told)


def _status(view: object, status: str, after: int) -> bool:
    return any(row.site == SITE and row.status == status and row.attempt > after for row in view.statuses)  # type: ignore[attr-defined]


def _spent(loopback: Loopback) -> float:
    with SiteHome.open(loopback.sites[SITE]).ledger() as ledger:
        return ledger.spent()
