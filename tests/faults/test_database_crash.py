"""A study whose record is in PostgreSQL goes on when the database crashes in the middle of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from loopback import SITES, Loopback

pytestmark = [pytest.mark.federation, pytest.mark.timeout(400)]
ROUNDS = 8


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Server]:
    with postgres.serving(durable=True) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDWARD_STORE_PASSWORD", postgres.PASSWORD)
        yield server


@pytest.fixture(scope="module")
def loopback(database: postgres.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    made = Loopback(tmp_path_factory.mktemp("loopback"), store=database.make("record"))
    try:
        made.start()
        yield made
    finally:
        made.end()


def test_a_study_outlives_a_crash_of_its_database(
    loopback: Loopback, database: postgres.Server, tmp_path: Path
) -> None:
    assert not list(loopback.home.glob("*.sqlite*"))
    study = loopback.study("kept-elsewhere", training={"rounds": ROUNDS}, privacy={"spare_attempts": 12})
    digest = loopback.propose(study)
    loopback.approve(digest)
    loopback.launch(digest)
    loopback.wait(digest, "is on its way", lambda view: view.version >= 2)
    database.stop(signal.SIGQUIT)
    time.sleep(3)
    database.start()
    view = loopback.wait_ended(digest, 240)
    assert view.state == "completed", view.reason
    committed = [one.round for one in view.attempts if one.outcome == "committed"]
    assert committed == list(range(1, ROUNDS + 2))  # the last evaluates
    for site in SITES:
        charged = loopback.charges(site, digest)
        contributed = {row.attempt for row in view.statuses if (row.site, row.status) == (site, "contributed")}
        trained = {one.attempt for one in view.attempts if one.round <= ROUNDS}
        assert len(set(charged)) == len(charged)
        assert contributed & trained <= {attempt for _, attempt in charged}
