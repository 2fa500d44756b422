"""The table of a study's attempts: the newest ones, and how many there were before."""

from __future__ import annotations

import pytest
from command import fedward

from benchmarks.long_record import write_record

ROUNDS = 25


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The home of a coordinator with a study of 25 committed rounds, and the study's digest."""
    home, digest = write_record(tmp_path_factory.mktemp("record") / "coordinator", 3, ROUNDS)
    return str(home.path), digest


def test_status_shows_the_newest_attempts_and_counts_the_others(record: tuple[str, str]) -> None:
    home, digest = record
    ran = fedward("coordinator", "status", digest, "--home", home)
    assert ran.code == 0, ran.err
    assert "5 earlier attempts, 5 of them committed" in ran.out
    shown = [line for line in ran.out.splitlines() if "committed" in line and "earlier" not in line and "│" in line]
    assert len(shown) == 20, ran.out


def test_json_has_every_attempt_and_every_status(record: tuple[str, str]) -> None:
    home, digest = record
    told = fedward("coordinator", "status", digest, "--home", home, "--json").json
    assert [attempt["attempt"] for attempt in told["attempts"]] == list(range(1, ROUNDS + 1))
    assert len(told["statuses"]) == 3 * ROUNDS
    assert told["contributions"] == {"site-000": ROUNDS - 2, "site-001": ROUNDS, "site-002": ROUNDS}
