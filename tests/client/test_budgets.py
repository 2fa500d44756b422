"""The noise that a study needs at a hospital: from what its ledger has left, in steps, or none at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import heart_manifest
from hospital import spend

from fedward.client.budgets import calibrated
from fedward.privacy.accounting import epsilon
from fedward.privacy.errors import RefusalError
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Ledger
from fedward.study.schedule import least_noise, noise_steps, schedule_of

STUDY = heart_manifest(training={"rounds": 10})  # ε = 3 at δ = 1e-3
LEAST = least_noise(STUDY)
EARLIER = "e" * 64


def ledger(path: Path, budget: Budget, *earlier: DpEvent) -> Ledger:
    made = Ledger.create(path / "ledger.sqlite", budget=budget, lineage="patients")
    for event in earlier:
        spend(made, event, EARLIER)
    return made


def spending(budget: Budget, share: float) -> DpEvent:
    """One earlier event that costs about a share of the budget."""
    low, high = 0.2, 1e3
    for _ in range(50):
        middle = (low * high) ** 0.5
        if epsilon([DpEvent(middle, 1.0, 1)], budget.delta) > share * budget.epsilon:
            low = middle
        else:
            high = middle
    return DpEvent(high, 1.0, 1)


def test_a_hospital_with_enough_left_adds_the_least_noise(tmp_path: Path) -> None:
    budget = Budget(10.0, 1e-3)
    with ledger(tmp_path, budget, spending(budget, 0.3)) as made:
        assert calibrated(made, STUDY, at=0) == LEAST


@pytest.mark.parametrize("share", [0.6, 0.7, 0.8])
def test_less_left_means_the_smallest_step_of_noise_that_fits(tmp_path: Path, share: float) -> None:
    budget = Budget(4.0, 1e-3)
    with ledger(tmp_path, budget, spending(budget, share)) as made:
        found = calibrated(made, STUDY, at=0)
        steps = noise_steps(LEAST)
        assert found in steps[1:]
        schedule = schedule_of(STUDY)
        assert made.fits(schedule.events(found))
        assert not made.fits(schedule.events(steps[steps.index(found) - 1]))


def test_too_little_left_refuses_at_planning(tmp_path: Path) -> None:
    budget = Budget(4.0, 1e-3)
    with ledger(tmp_path, budget, spending(budget, 0.99)) as made:
        with pytest.raises(RefusalError) as caught:
            calibrated(made, STUDY, at=0)
        assert caught.value.code == "budget-exhausted"
        assert made.charges_of(EARLIER) == 1  # a question costs nothing


def test_the_study_s_own_epsilon_holds_at_its_own_delta(tmp_path: Path) -> None:
    """A hospital with a loose lifetime δ gets no less noise for it; one with a strict δ gets more."""
    loose, strict = tmp_path / "loose", tmp_path / "strict"
    loose.mkdir()
    strict.mkdir()
    with ledger(loose, Budget(100.0, 0.5)) as made:
        assert calibrated(made, STUDY, at=0) == LEAST
    with ledger(strict, Budget(3.0, 1e-6)) as made:
        assert calibrated(made, STUDY, at=0) > LEAST


def test_without_privacy_there_is_no_noise(tmp_path: Path) -> None:
    budget = Budget(4.0, 1e-3)
    manifest = heart_manifest(privacy={"mechanism": "none", "epsilon": None, "delta": None})
    with ledger(tmp_path, budget, spending(budget, 0.99)) as made:
        assert calibrated(made, manifest, at=0) == 0.0
