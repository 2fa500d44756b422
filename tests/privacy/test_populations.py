"""Parallel composition against its definition: what each single patient was in, composed patient by patient."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.accounting import calibrate, epsilon, epsilon_pld, epsilon_rdp
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.events import EVERYBODY, CountEvent, DpEvent, Event, from_record, merge, to_record
from fedward.privacy.ledger import Budget, Charge, Ledger, Reservation
from fedward.privacy.populations import histories

TRAINING, HELD_OUT = (0.33, 1.0), (0.0, 0.33)
TRAIN = DpEvent(6.0, 1.0, 10, share=TRAINING)
COUNTS = CountEvent(3.0, 1, 3, 1, share=HELD_OUT)

# Ends on a grid of sixteenths, so that intervals often touch and often overlap.
ends = st.integers(0, 16).map(lambda n: n / 16)
shares = st.tuples(ends, ends).filter(lambda pair: pair[0] < pair[1])
events = st.one_of(
    st.builds(DpEvent, st.sampled_from([2.0, 5.0]), st.just(1.0), st.integers(1, 3), share=shares),
    st.builds(CountEvent, st.sampled_from([3.0, 8.0]), st.just(1), st.integers(1, 3), st.integers(1, 3), share=shares),
)


def rho(history: list[Event], position: float) -> float:
    """The zCDP of the patient at a position: every mechanism here is Gaussian without sampling, so ρ adds up."""
    total = 0.0
    for event in history:
        if event.share[0] <= position < event.share[1]:
            if isinstance(event, DpEvent):
                total += event.steps / (2 * event.noise_multiplier**2)
            else:
                total += event.steps * event.coordinates * event.sensitivity**2 / (2 * event.deviation**2)
    return total


def rho_of(piece: tuple[Event, ...]) -> float:
    return rho([replace(event, share=EVERYBODY) for event in piece], 0.5)


@given(st.lists(events, min_size=1, max_size=6))
def test_the_worst_population_is_the_worst_patient(history: list[Event]) -> None:
    patients = [rho(history, (n + 0.5) / 16) for n in range(16)]
    assert max(rho_of(piece) for piece in histories(history)) == pytest.approx(max(patients))


@given(st.lists(events, min_size=1, max_size=6))
def test_each_population_is_one_that_some_patient_is_in(history: list[Event]) -> None:
    there = {
        merge(replace(e, share=EVERYBODY) for e in history if e.share[0] <= (n + 0.5) / 16 < e.share[1])
        for n in range(16)
    }
    pieces = histories(history)
    assert set(pieces) <= there
    assert all(event.share == EVERYBODY for piece in pieces for event in piece)


@settings(max_examples=15, deadline=None)
@given(st.lists(events, min_size=1, max_size=4), events)
def test_shares_save_but_more_is_never_cheaper(history: list[Event], more: Event) -> None:
    everybody = [replace(event, share=EVERYBODY) for event in history]
    for account in (epsilon, epsilon_rdp):
        assert account(history, 1e-4) <= account(everybody, 1e-4)
        assert account([*history, more], 1e-4) >= account(history, 1e-4)


def test_training_and_evaluation_cost_the_dearer_one() -> None:
    for account in (epsilon, epsilon_pld, epsilon_rdp):
        alone = account([TRAIN], 1e-3), account([COUNTS], 1e-3)
        assert account([TRAIN, COUNTS], 1e-3) == max(alone) > 0
        assert min(alone) > 0


def test_a_second_study_with_another_holdout_overlaps() -> None:
    """Patients between the two bounds are held out in one study and train in the other."""
    other = replace(COUNTS, share=(0.0, 0.5))
    together = epsilon([TRAIN, COUNTS, other], 1e-3)
    between = epsilon([replace(TRAIN, share=EVERYBODY), replace(other, share=EVERYBODY)], 1e-3)
    low = epsilon([replace(COUNTS, share=EVERYBODY, steps=2)], 1e-3)
    assert together == max(between, low)
    assert together > epsilon([TRAIN, COUNTS], 1e-3)


def test_statistics_of_everybody_add_to_both() -> None:
    both = CountEvent(10.0, 1, 1, 1)
    assert epsilon([TRAIN, COUNTS, both], 1e-3) == max(
        epsilon([replace(TRAIN, share=EVERYBODY), both], 1e-3), epsilon([replace(COUNTS, share=EVERYBODY), both], 1e-3)
    )


def test_intervals_that_touch_share_no_patient() -> None:
    left, right = DpEvent(2.0, 1.0, 1, share=(0.0, 0.5)), DpEvent(2.0, 1.0, 1, share=(0.5, 1.0))
    assert epsilon([left, right], 1e-5) == epsilon([left], 1e-5)
    assert epsilon([left, replace(right, share=(math.nextafter(0.5, 0), 1.0))], 1e-5) > epsilon([left], 1e-5)


def test_calibration_knows_whom_the_past_touched() -> None:
    past = [CountEvent(2.0, 1, 1, 1, share=HELD_OUT)]
    free = calibrate([], (1.0, 10), 2.0, 1e-3)
    assert calibrate(past, lambda sigma: [DpEvent(sigma, 1.0, 10, share=TRAINING)], 2.0, 1e-3) == free
    assert calibrate(past, lambda sigma: [DpEvent(sigma, 1.0, 10)], 2.0, 1e-3) > free


@pytest.mark.parametrize(
    "share",
    [
        (0.5, 0.5),
        (0.6, 0.5),
        (-0.1, 1.0),
        (0.0, 1.1),
        (math.nan, 1.0),
        (0.0, math.nan),
        (0.5,),
        "ab",
        None,
        (True, 1.0),
    ],
)
def test_shares_that_are_no_interval_are_refused(share: Any) -> None:
    for make in (lambda: DpEvent(1.0, 1.0, 1, share=share), lambda: CountEvent(1.0, 1, 1, 1, share=share)):
        with pytest.raises(InputError):
            make()


def test_records_keep_the_share_in_one_form() -> None:
    for event in (TRAIN, COUNTS, DpEvent(1.0, 1.0, 1)):
        record = to_record(event)
        assert from_record(record) == event
        assert ("share" in record) == (event.share != EVERYBODY)
    assert from_record(to_record(COUNTS) | {"share": [0.0, 0.33]}) == COUNTS  # as JSON gives it back
    assert to_record(DpEvent(1.0, 1.0, 1, share=(-0.0, 0.5)))["share"] == (0.0, 0.5)
    with pytest.raises(InputError):
        from_record(to_record(DpEvent(1.0, 1.0, 1)) | {"share": [0.0, 1.0]})


def test_a_ledger_keeps_shares(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    dearer = max(epsilon([TRAIN], 1e-3), epsilon([COUNTS], 1e-3))
    with Ledger.create(path, budget=Budget(dearer, 1e-3), lineage="cleveland") as ledger:
        ledger.reserve(Reservation("a" * 64, "s", (TRAIN, COUNTS), 10, "f" * 64), at=1)
        ledger.charge(Charge("a" * 64, "s", 1, 1, TRAIN), at=1)
        ledger.charge(Charge("a" * 64, "s", 1, 1, COUNTS, "evaluate"), at=2)
        assert ledger.spent() == dearer
        with pytest.raises(RefusalError) as refused:
            ledger.reserve(Reservation("b" * 64, "t", (replace(TRAIN, share=EVERYBODY),), 10, "f" * 64), at=3)
        assert refused.value.code == "budget-exhausted"
    with Ledger.open(path) as again:
        assert [entry.charge.event for entry in again.charges()] == [TRAIN, COUNTS]
        assert again.spent() == dearer
