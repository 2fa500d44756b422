"""The clock of a hospital's machine jumps by ten minutes, forward and back: no check opens by it, and no ε is forgotten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from federation import NOW, Federation, heart_manifest, key_of
from hospital import SITE, Site, code

from fedward.client import approvals
from fedward.client.clock import LONGEST_S, SiteClock
from fedward.privacy.errors import RefusalError
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Charge, Ledger, Period, Reservation
from fedward.study.messages import Result

JUMP = 600
EVENT = DpEvent(8.0, 1.0, 1)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("clock"), sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(training={"rounds": 3}))
    return federation


@pytest.fixture
def site(template: Federation, tmp_path: Path) -> Site:
    return Site(template.copy(tmp_path / "copy"))


def _set(site: Site, seconds: float) -> None:
    site.federation.clock.elapsed = seconds


def _kinds(site: Site) -> list[str]:
    return [entry.kind for entry in site.home.audit.entries()]


def _approve_until(site: Site, seconds: int) -> None:
    now = site.federation.clock.unix()
    approvals.approve(
        site.home, site.sealed, by="tester", signer=key_of(site.home), at=now, expires_at=int(NOW.timestamp()) + seconds
    )


@pytest.mark.parametrize("restarted", [False, True])
def test_an_expired_approval_stays_expired_when_the_clock_is_set_back(site: Site, restarted: bool) -> None:
    _set(site, 10)
    _approve_until(site, 1000)
    _set(site, 1001)
    assert code(site.work()) == "approval-expired"
    _set(site, 1001 - JUMP)
    if restarted:
        site.federation.restart(SITE)
    assert code(site.work()) == "approval-expired"
    assert site.charges() == []
    assert _kinds(site).count("clock-set-back") == 1
    site.home.audit.verify()


def test_a_jump_forward_and_back_stops_a_study_for_no_longer_than_it_lasts(site: Site) -> None:
    assert isinstance(site.work(), Result)
    for attempt, seconds in enumerate((JUMP, 0, JUMP + 1), 2):
        _set(site, seconds)
        assert isinstance(site.work(attempt=attempt), Result), seconds
    with site.home.ledger(witnessed=False) as ledger:
        ledger.verify()
        assert len(ledger.charges()) == 4
    site.home.audit.verify()


def test_a_clock_that_was_years_ahead_is_corrected(site: Site) -> None:
    clock = SiteClock(site.home, site.federation.clock.unix)
    start = clock()
    _set(site, 2 * LONGEST_S)
    assert clock() == start + 2 * LONGEST_S
    _set(site, 0)
    assert clock() == start
    assert _kinds(site)[-1] == "clock-set-back"


def _ledger(path: Path) -> Ledger:
    book = Ledger.create(path, budget=Budget(3.0, 1e-5), lineage="x")
    book.reserve(Reservation("a" * 64, "s", (DpEvent(8.0, 1.0, 3),), 10_000, "c" * 64), at=5000)
    book.charge(Charge("a" * 64, "s", 1, 1, EVENT), at=5000)
    return book


@pytest.mark.parametrize("jump", [-JUMP, JUMP])
def test_a_period_counts_what_was_charged_before_a_jump(tmp_path: Path, jump: int) -> None:
    with _ledger(tmp_path / "ledger") as book:
        before = book.spent_in(Period(1, 2.0), at=5000)
        assert book.spent_in(Period(1, 2.0), at=5000 + jump) >= before > 0
        book.charge(Charge("a" * 64, "s", 2, 2, EVENT), at=5000 + jump)
        assert book.spent() > before / 3
        assert len(book.charges()) == 2
        book.verify()


def test_a_reservation_that_was_given_up_as_expired_does_not_come_back(tmp_path: Path) -> None:
    with _ledger(tmp_path / "ledger") as book:
        book.reserve(Reservation("b" * 64, "t", (EVENT,), 20_000, "c" * 64), at=10_001)
        with pytest.raises(RefusalError):
            book.charge(Charge("a" * 64, "s", 2, 2, EVENT), at=10_001 - JUMP)
        assert len(book.charges()) == 1
    shutil.rmtree(tmp_path)
