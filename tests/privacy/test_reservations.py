"""What is reserved in a ledger: who holds which part of the budget, and what is still admitted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.accounting import ORDERS, calibrate, epsilon
from fedward.privacy.entries import Recovery, body_of, entry_of, sealed_entry
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.events import CountEvent, DpEvent, Event, merge
from fedward.privacy.ledger import Budget, Charge, Head, Ledger, OpenReservation, Period, Release, Reservation
from fedward.privacy.rdp_filter import filter_limit, filter_order, filter_spent

BUDGET = Budget(3.0, 1e-5)
A, B, C = "a" * 64, "b" * 64, "c" * 64
STEP = DpEvent(8.0, 1.0, 1)  # 33 of them fit by PLD, 28 by the filter
LATER = 10**6


def held(study: str, *events: Event, expires_at: int = LATER) -> Reservation:
    return Reservation(study, f"study-{study[0]}", events or (steps(4),), expires_at, "e" * 64)


def steps(count: int) -> DpEvent:
    return DpEvent(8.0, 1.0, count)


def charge(study: str, round_: int, event: Event = STEP) -> Charge:
    return Charge(study, f"study-{study[0]}", round_, 0, event)


def refused(call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(RefusalError) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return caught.value.code


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "l", budget=BUDGET, lineage="x") as made:
        yield made


# --- one reservation ------------------------------------------------------------------------------------------------


def test_a_reservation_holds_what_was_not_charged(ledger: Ledger) -> None:
    mixed = held(A, steps(3), CountEvent(40.0, 1, 2, 2), STEP)
    receipt = ledger.reserve(mixed, at=1)
    assert (receipt.sequence, receipt.committed) == (1, epsilon([steps(4), CountEvent(40.0, 1, 2, 2)], 1e-5))
    ledger.charge(charge(A, 1, steps(2)), at=2)
    ledger.charge(charge(A, 2, CountEvent(40.0, 1, 2, 1)), at=3)
    rest = (CountEvent(40.0, 1, 2, 1), steps(2))
    assert ledger.reservations() == [OpenReservation(mixed, rest)]
    assert ledger.spent() == epsilon([steps(2), CountEvent(40.0, 1, 2, 1)], 1e-5)
    assert ledger.commitments() == merge([*mixed.events])
    assert ledger.committed() == receipt.committed


def test_a_charge_needs_its_studys_reservation(ledger: Ledger) -> None:
    ledger.reserve(held(A), at=1)
    assert refused(ledger.charge, charge(B, 1), at=2) == "not-reserved"
    assert refused(ledger.charge, charge(A, 1, DpEvent(9.0, 1.0, 1)), at=2) == "reservation-used-up"
    assert refused(ledger.charge, charge(A, 1, steps(5)), at=2) == "reservation-used-up"
    ledger.charge(charge(A, 1, steps(4)), at=2)
    assert refused(ledger.charge, charge(A, 1, steps(4)), at=2) == "already-charged"
    assert refused(ledger.charge, charge(A, 2), at=2) == "reservation-used-up"
    assert ledger.reservations() == [OpenReservation(held(A), ())]
    assert len(ledger.entries()) == 2


def test_a_run_without_privacy_needs_none(ledger: Ledger) -> None:
    ledger.charge(Charge(A, "s", 1, 1, None, "evaluate-without-dp"), at=1)
    assert ledger.unprotected == 1


def test_a_release_frees_the_rest_and_no_more(ledger: Ledger) -> None:
    ledger.reserve(held(A), at=1)
    assert refused(ledger.reserve, held(A, STEP), at=1) == "already-reserved"
    ledger.charge(charge(A, 1), at=2)
    ledger.release(A, "stopped", at=3)
    ledger.release(A, "stopped", at=3)
    ledger.release(B, "refused", at=3)
    assert [entry.what for entry in ledger.entries()][2:] == [Release(A, "study-a", "stopped")]
    assert ledger.committed() == ledger.spent() == epsilon([STEP], 1e-5)
    assert refused(ledger.charge, charge(A, 2), at=4) == "not-reserved"
    with pytest.raises(InputError):
        Release(A, "study-a", "bored")  # type: ignore[arg-type]


def test_a_reservation_expires_at_its_second(ledger: Ledger) -> None:
    ledger.reserve(held(A, steps(25), expires_at=100), at=1)
    ledger.charge(charge(A, 1), at=99)
    assert refused(ledger.charge, charge(A, 2), at=100) == "reservation-expired"
    assert ledger.commitments(at=99) == ledger.commitments() == (steps(25),)
    assert ledger.commitments(at=100) == (STEP,)
    assert (ledger.reservations(at=100), ledger.fits([steps(20)]), ledger.fits([steps(20)], at=100)) == (
        [],
        False,
        True,
    )
    assert refused(ledger.reserve, held(B, steps(20)), at=99) == "budget-exhausted"
    ledger.reserve(held(B, steps(20)), at=100)
    assert ledger.entries()[2].what == Release(A, "study-a", "expired")
    # A clock that goes back does not bring back what another study holds now.
    assert refused(ledger.charge, charge(A, 2), at=50) == "not-reserved"
    with pytest.raises(InputError, match="expire"):
        ledger.reserve(held(C, expires_at=100), at=100)


# --- what is admitted -------------------------------------------------------------------------------------------------


def test_open_reservations_cannot_overrun_together(ledger: Ledger) -> None:
    ledger.reserve(held(A, steps(14)), at=1)
    assert refused(ledger.reserve, held(B, steps(20)), at=1) == "budget-exhausted"
    ledger.reserve(held(B, steps(13)), at=1)
    assert refused(ledger.reserve, held(C, steps(5)), at=1) == "budget-exhausted"
    for study, count in ((A, 14), (B, 13)):
        ledger.charge(charge(study, 1, steps(count)), at=2)
    assert ledger.spent() == ledger.committed() <= BUDGET.epsilon


@pytest.mark.parametrize("budget", [BUDGET, Budget(1.0, 1e-3), Budget(10.0, 1e-3)])
def test_the_order_is_the_best_for_a_gaussian_that_exhausts_the_budget(budget: Budget) -> None:
    """Which order lets most steps of σ = 8 pass, by Mironov's α/2σ² a step and a search over the steps."""
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

    def passing(order: float) -> int:
        count = 0
        while compute_epsilon([order], [(count + 1) * order / 128], budget.delta)[0] <= budget.epsilon:
            count += 1
        return count

    order = filter_order(budget)
    assert passing(order) == max(passing(other) for other in ORDERS) > 0
    last = passing(order)
    assert filter_spent((steps(last),), order) <= filter_limit(budget, order) < filter_spent((steps(last + 1),), order)


def test_a_first_study_is_bounded_by_pld_alone_and_then_nothing_follows(ledger: Ledger) -> None:
    """33 steps are within ε = 3 by PLD, but over the filter."""
    assert epsilon([steps(33)], 1e-5) <= 3.0 < epsilon([steps(34)], 1e-5)
    order = filter_order(BUDGET)
    assert filter_spent((steps(28),), order) <= filter_limit(BUDGET, order) < filter_spent((steps(33),), order)
    ledger.reserve(held(A, steps(33)), at=1)
    tiny = DpEvent(1e4, 1.0, 1)
    assert not ledger.fits([tiny])
    ledger.charge(charge(A, 1), at=2)
    ledger.release(A, "stopped", at=3)
    # Stopping is a choice made after looking at answers: the schedule counts whole for the filter, though not as spent.
    assert ledger.spent() == epsilon([STEP], 1e-5)
    assert refused(ledger.reserve, held(B, tiny), at=4) == "budget-exhausted"
    # The rest of its own schedule may be approved again; more than that may not.
    assert refused(ledger.reserve, held(A, steps(33)), at=4) == "budget-exhausted"
    assert refused(ledger.reserve, held(A, tiny), at=4) == "budget-exhausted"
    ledger.reserve(held(A, steps(32)), at=4)
    assert ledger.committed() == epsilon([steps(33)], 1e-5)


def test_a_study_that_never_touched_the_data_binds_nobody(ledger: Ledger) -> None:
    ledger.reserve(held(A, steps(33)), at=1)
    ledger.release(A, "refused", at=2)
    ledger.reserve(held(B, steps(33)), at=3)
    assert ledger.committed() == epsilon([steps(33)], 1e-5)


def test_a_second_study_must_pass_the_filter(ledger: Ledger) -> None:
    ledger.reserve(held(A, STEP), at=1)
    ledger.charge(charge(A, 1), at=1)
    ledger.release(A, "completed", at=1)
    assert epsilon([steps(30)], 1e-5) <= 3.0
    assert refused(ledger.reserve, held(B, steps(29)), at=2) == "budget-exhausted"
    ledger.reserve(held(B, steps(26)), at=2)


def test_calibration_asks_the_gate(ledger: Ledger) -> None:
    ledger.reserve(held(A, steps(10)), at=1)
    gate = ledger.gate()
    sigma = calibrate([], (0.5, 20), 2.5, 1e-5, also=gate.fits)
    assert gate.fits([DpEvent(sigma, 0.5, 20)])
    assert not gate.fits([DpEvent(round(sigma - 0.001, 3), 0.5, 20)])
    assert sigma > calibrate([], (0.5, 20), 2.5, 1e-5)
    ledger.reserve(held(B, DpEvent(sigma, 0.5, 20)), at=1)


# --- periods ----------------------------------------------------------------------------------------------------------

DAY = 86_400


def test_a_period_is_a_limit_within_the_lifetime(ledger: Ledger) -> None:
    period = Period(30, 1.5)
    ledger.reserve(held(A, steps(5), expires_at=90 * DAY), at=0, period=period)
    ledger.charge(charge(A, 1, steps(4)), at=DAY)
    assert refused(ledger.reserve, held(B, steps(5)), at=2 * DAY, period=period) == "period-exhausted"
    assert ledger.spent_in(period, at=2 * DAY) == epsilon([steps(5)], 1e-5)
    # What was charged leaves the period 30 days later to the second; what is still reserved does not.
    assert ledger.spent_in(period, at=31 * DAY - 1) == epsilon([steps(5)], 1e-5)
    assert ledger.spent_in(period, at=31 * DAY) == epsilon([STEP], 1e-5)
    far = held(B, steps(5), expires_at=100 * DAY)
    ledger.reserve(far, at=31 * DAY, period=period)
    ledger.charge(charge(B, 1, steps(5)), at=31 * DAY)
    # The lifetime never resets.
    assert ledger.spent() == epsilon([steps(9)], 1e-5)
    assert refused(ledger.reserve, held(C, steps(22), expires_at=900 * DAY), at=800 * DAY) == "budget-exhausted"


@pytest.mark.parametrize(
    "wrong", [(0, 1.0), (1.5, 1.0), (True, 1.0), (30, 0.0), (30, float("nan")), (30, float("inf"))]
)
def test_periods_that_limit_nothing_are_refused(wrong: tuple[int, float]) -> None:
    with pytest.raises(InputError, match="period"):
        Period(*wrong)


# --- entries ----------------------------------------------------------------------------------------------------------


class Row:
    """A row as SQLAlchemy gives it."""

    def __init__(self, **columns: object) -> None:
        self.__dict__ = columns


@pytest.mark.parametrize(
    "what",
    [
        charge(A, 3),
        Charge(A, "s", 1, 2, None, "evaluate-without-dp"),
        held(A, STEP, CountEvent(3.0, 2, 1, 7)),
        Release(A, "s", "refused"),
        Recovery("Ada Lovelace", "the disk died", "charges", Head(7, B)),
        Recovery("Ada Lovelace", "the disk died", "anything", None),
    ],
)
def test_entries_survive_their_row(what: object) -> None:
    from fedward.privacy.entries import row_of

    entry = sealed_entry(4, A, 99, what)  # type: ignore[arg-type]
    assert entry_of(Row(**row_of(entry))) == entry


@pytest.mark.parametrize(
    "wrong",
    [
        {"study_digest": "A" * 64},
        {"study_id": "two\nlines"},
        {"events": ()},
        {"events": (1,)},
        {"expires_at": -1},
        {"expires_at": 1.5},
        {"cohort": "short"},
    ],
)
def test_malformed_reservations_are_refused(wrong: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "study_digest": A, "study_id": "s", "events": (STEP,), "expires_at": 9, "cohort": B,
    }  # fmt: skip
    with pytest.raises(InputError):
        Reservation(**(fields | wrong))  # type: ignore[arg-type]


def test_bodies_hold_no_epsilon() -> None:
    assert not {"epsilon", "delta"} & set(body_of(held(A)))


# --- any order of calls -----------------------------------------------------------------------------------------------

calls = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "charge", "charge", "charge", "release"]),
        st.sampled_from([A, B, C]),
        st.integers(0, 5),
        st.sampled_from([STEP, steps(9), DpEvent(5.0, 0.3, 10), CountEvent(20.0, 1, 2, 3)]),
    ),
    max_size=25,
)


def singly(event: Event) -> list[Event]:
    return [replace(event, steps=1)] * event.steps


@settings(max_examples=25, deadline=None)
@given(calls)
def test_no_order_of_calls_passes_the_budget(made: list[tuple[str, str, int, Event]]) -> None:
    """Against a naive model: lists of events, and every ε computed from nothing."""
    charged: dict[str, list[Event]] = {}
    open_: dict[str, list[Event]] = {}
    with tempfile.TemporaryDirectory() as folder, Ledger.create(Path(folder) / "l", budget=BUDGET, lineage="x") as book:
        for at, (call, study, round_, event) in enumerate(made):
            try:
                if call == "reserve":
                    book.reserve(held(study, event, event), at=at)
                    assert study not in open_
                    open_[study] = singly(event) * 2
                elif call == "charge":
                    book.charge(charge(study, round_, event), at=at)
                    for one in singly(event):
                        open_[study].remove(one)
                        charged.setdefault(study, []).append(one)
                else:
                    book.release(study, "stopped", at=at)
                    open_.pop(study, None)
            except RefusalError:
                continue
        spent = [event for events in charged.values() for event in events]
        rests = [event for events in open_.values() for event in events]
        assert book.spent() == epsilon(spent, BUDGET.delta)
        assert book.commitments() == merge([*spent, *rests])
        assert book.committed() == epsilon([*spent, *rests], BUDGET.delta) <= BUDGET.epsilon
        book.verify()
