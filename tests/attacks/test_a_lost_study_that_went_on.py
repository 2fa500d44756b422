"""A ledger is lost after its coordinator had stopped a study and continued it: nobody approved anything, yet charges are missing.

Continuing a stopped study reserves it again under the approval that it has. So a copy made between the two holds no reservation of
it, and a person may truthfully say that no study was approved since the copy was made.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fedward.privacy.accounting import epsilon
from fedward.privacy.entries import Reason
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Charge, Ledger, Reservation
from fedward.privacy.ledgerfile import read_chain
from fedward.privacy.recovery import assess, recover

BUDGET = Budget(3.0, 1e-5)
A = "a" * 64
STEP, WHOLE = DpEvent(8.0, 1.0, 1), DpEvent(8.0, 1.0, 6)


def reserve(ledger: Ledger, steps: int, at: int) -> None:
    ledger.reserve(Reservation(A, "s", (DpEvent(8.0, 1.0, steps),), 10**6, "c" * 64), at=at)


def recovered(path: Path, reason: Reason) -> float:
    """ε spent by the recovered ledger, whose copy was made while the study was ended for that reason."""
    with Ledger.create(path, budget=BUDGET, lineage="x") as ledger:
        reserve(ledger, 6, 1)
        ledger.charge(Charge(A, "s", 1, 0, STEP), at=2)
        ledger.release(A, reason, at=3)
    copy = read_chain(path)
    with Ledger.open(path) as ledger:
        if reason == "stopped":
            reserve(ledger, 5, 4)
            for round_ in range(2, 7):
                ledger.charge(Charge(A, "s", round_, 0, STEP), at=5)
            assert ledger.spent() == epsilon([WHOLE], BUDGET.delta)
    for file in path.parent.glob("ledger*"):
        file.unlink()
    recover(path, assess(path, copy, []), lost="charges", by="Ada", reason="x", at=50, budget=BUDGET, lineage="x")
    with Ledger.open(path) as ledger:
        return ledger.spent()


def test_what_a_stopped_study_may_have_charged_when_it_went_on_counts_as_spent(tmp_path: Path) -> None:
    assert recovered(tmp_path / "ledger", "stopped") >= epsilon([WHOLE], BUDGET.delta)


@pytest.mark.parametrize("reason", ["completed", "revoked", "expired"])
def test_a_study_that_only_a_person_could_bring_back_counts_with_what_it_charged(
    tmp_path: Path, reason: Reason
) -> None:
    assert recovered(tmp_path / "ledger", reason) == epsilon([STEP], BUDGET.delta)
