"""ε accounting against an independent oracle, a second accountant, and the laws that any accountant obeys."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy import accounting
from fedward.privacy.accounting import calibrate, epsilon, epsilon_pld, epsilon_rdp
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.events import CountEvent, DpEvent, from_record, merge, to_record

ORACLE = json.loads((Path(__file__).parents[1] / "golden" / "dp_oracle.json").read_text())["cases"]


def history_of(case: dict[str, Any]) -> list[DpEvent]:
    return [DpEvent(sigma, q, steps) for sigma, q, steps in case["history"]]


events = st.builds(
    DpEvent,
    noise_multiplier=st.floats(0.7, 50.0),
    sampling_rate=st.one_of(st.just(1.0), st.floats(0.001, 0.999)),
    steps=st.integers(1, 300),
)
histories = st.lists(events, min_size=1, max_size=4)
deltas = st.sampled_from([1e-3, 1e-5, 1e-7])
quick = settings(max_examples=15, deadline=None)


@pytest.mark.parametrize("case", ORACLE, ids=lambda case: case["id"])
def test_oracle(case: dict[str, Any]) -> None:
    history, delta = history_of(case), case["delta"]
    pld = epsilon_pld(history, delta)
    assert 0 <= case["prv"] - pld <= 0.015
    # Grid of 1e-3 against the oracle's finer one: never below, at most 0.01 above (B, 14 040 steps).
    assert -1e-4 <= pld - case["pld"] <= 0.01
    assert epsilon_rdp(history, delta) >= pld
    assert epsilon_rdp(history, delta) == pytest.approx(case["rdp"], rel=0.09)
    assert epsilon(history, delta) == pld


@pytest.mark.parametrize("case_id", ["C", "H", "I"])
def test_second_opinion_of_opacus(case_id: str) -> None:
    from opacus.accountants import PRVAccountant

    case = next(case for case in ORACLE if case["id"] == case_id)
    accountant = PRVAccountant()
    accountant.history = [(float(sigma), float(q), steps) for sigma, q, steps in case["history"]]
    assert 0 <= accountant.get_epsilon(case["delta"]) - epsilon(history_of(case), case["delta"]) <= 0.015


def test_one_gaussian_matches_its_closed_form() -> None:
    """Balle & Wang 2018, Theorem 8: δ(ε) = Φ(1/2σ − εσ) − e^ε Φ(−1/2σ − εσ)."""
    from scipy.stats import norm

    for sigma in (0.8, 2.0, 5.0):
        found = epsilon([DpEvent(sigma, 1.0, 1)], 1e-5)

        def delta_at(e: float, s: float = sigma) -> float:
            return float(norm.cdf(0.5 / s - e * s) - math.exp(e) * norm.cdf(-0.5 / s - e * s))

        assert delta_at(found) <= 1e-5 < delta_at(found - 2e-3)


@pytest.mark.parametrize(("deviation", "sensitivity"), [(0.8, 1), (2.0, 1), (5.0, 3), (40.0, 1), (300.0, 100)])
def test_one_noisy_count_matches_its_own_sum(deviation: float, sensitivity: int) -> None:
    """δ(ε) = Σ over x of max(0, P(x) − e^ε P(x − Δ)), Canonne, Kamath & Steinke 2020, theorem 7's start, summed by itself."""
    import numpy as np

    places = np.arange(-int(14 * deviation) - sensitivity, int(14 * deviation) + sensitivity + 1)
    mass = np.exp(-(places**2) / (2 * deviation**2))
    mass /= mass.sum()
    shifted = np.exp(-((places - sensitivity) ** 2) / (2 * deviation**2))
    shifted /= shifted.sum()
    found = epsilon([CountEvent(deviation, sensitivity, 1, 1)], 1e-5)

    def delta_at(e: float) -> float:
        return float(np.maximum(mass - math.exp(e) * shifted, 0).sum())

    assert delta_at(found) <= 1e-5 < delta_at(found - 2e-3)


def test_coordinates_compose_like_steps() -> None:
    together = epsilon([CountEvent(20.0, 1, 6, 1)], 1e-5)
    assert together == epsilon([CountEvent(20.0, 1, 1, 6)], 1e-5) == epsilon([CountEvent(20.0, 1, 2, 3)], 1e-5)
    # Six unit steps at right angles are one of √6: a continuous Gaussian of the same noise costs about as much.
    assert together == pytest.approx(epsilon([DpEvent(20.0 / math.sqrt(6), 1.0, 1)], 1e-5), abs=0.01)


def test_kinds_compose() -> None:
    sums, counts = DpEvent(5.0, 1.0, 4), CountEvent(10.0, 1, 2, 3)
    both = epsilon([sums, counts], 1e-4)
    assert max(epsilon([sums], 1e-4), epsilon([counts], 1e-4)) < both
    # Both are Gaussians without sampling: 1/σ² adds up.
    assert both == pytest.approx(epsilon([DpEvent(1 / math.sqrt(4 / 25 + 6 / 100), 1.0, 1)], 1e-4), abs=0.01)
    assert epsilon_rdp([sums, counts], 1e-4) >= both


@pytest.mark.parametrize(
    "values", [(math.nan, 1, 1, 1), (1.0, 0, 1, 1), (1.0, 1, 0, 1), (1.0, 1, 1, True), (0.0, 1, 1, 1)]
)
def test_counts_that_are_no_mechanism(values: tuple[Any, ...]) -> None:
    with pytest.raises(InputError):
        CountEvent(*values)


def test_records_of_events_come_back() -> None:
    for event in (DpEvent(2.0, 0.5, 7), CountEvent(3.5, 2, 4, 1)):
        assert from_record(to_record(event)) == event
    for record in (
        {"kind": "laplace"},
        {"kind": "counts", "deviation": 1.0},
        to_record(DpEvent(1.0, 1.0, 1)) | {"more": 1},
    ):
        with pytest.raises(InputError):
            from_record(record)


def test_nothing_costs_nothing() -> None:
    assert epsilon([], 1e-5) == epsilon_pld([], 1e-5) == epsilon_rdp([], 1e-5) == 0.0


@quick
@given(histories, events, deltas)
def test_more_is_never_cheaper(history: list[DpEvent], more: DpEvent, delta: float) -> None:
    assert epsilon([*history, more], delta) >= epsilon(history, delta)


@quick
@given(histories, st.floats(1.01, 4.0), deltas)
def test_more_noise_is_never_dearer(history: list[DpEvent], factor: float, delta: float) -> None:
    quieter = [DpEvent(e.noise_multiplier * factor, e.sampling_rate, e.steps) for e in history]
    assert epsilon(quieter, delta) <= epsilon(history, delta)


@quick
@given(histories, deltas)
def test_smaller_delta_is_never_cheaper(history: list[DpEvent], delta: float) -> None:
    assert epsilon(history, delta / 10) >= epsilon(history, delta)


@quick
@given(histories, st.randoms(use_true_random=False), deltas)
def test_order_and_splitting_do_not_matter(history: list[DpEvent], random: Any, delta: float) -> None:
    parts = [
        DpEvent(e.noise_multiplier, e.sampling_rate, n)
        for e in history
        for n in ([e.steps] if e.steps == 1 else [1, e.steps - 1])
    ]
    random.shuffle(parts)
    assert merge(parts) == merge(history)
    assert epsilon(parts, delta) == epsilon(history, delta)


@quick
@given(histories, deltas)
def test_the_gate_is_at_most_rdp_but_for_the_grid(history: list[DpEvent], delta: float) -> None:
    """Both are upper bounds; the grid of 1e-3 costs up to a few hundredths where ε itself is small."""
    assert epsilon(history, delta) <= epsilon_rdp(history, delta) + 0.08


def test_epsilon_is_rounded_up() -> None:
    assert accounting._round_up(1.00000000001) == 1.0001
    assert accounting._round_up(1.2345) in (1.2345, 1.2346)
    assert accounting._round_up(0.3) == 0.3
    assert accounting._round_up(math.nan) == math.inf


def test_the_gate_falls_back_to_rdp_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def overflow(*_: object) -> float:
        raise OverflowError("math range error")

    history = [DpEvent(1.2345, 0.1, 77)]
    pld = epsilon_pld(history, 1e-5)
    accounting._gate.cache_clear()
    monkeypatch.setattr(accounting, "_pld_epsilon", overflow)
    try:
        assert epsilon(history, 1e-5) == epsilon_rdp(history, 1e-5) >= pld
    finally:
        accounting._gate.cache_clear()
    assert "RDP bound decides" in caplog.text


@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_a_grid_that_breaks_is_no_answer(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    class Broken:
        def get_delta_for_epsilon(self, _: float) -> float:
            return 1.0

        def get_epsilon_for_delta(self, _: float) -> float:
            return value

    monkeypatch.setattr(accounting, "_composed", lambda _: Broken())
    with pytest.raises(ArithmeticError):
        epsilon_pld([DpEvent(1.0, 0.1, 1)], 1e-5)


@pytest.mark.parametrize(
    ("event", "delta"),
    [(DpEvent(0.001, 0.5, 10), 1e-5), (DpEvent(1.0, 1.0, 10**9), 1e-5), (DpEvent(1.0, 0.9, 10**6), 1e-5)],
)
def test_absurd_histories_answer_at_once_and_high(event: DpEvent, delta: float) -> None:
    assert epsilon([event], delta) > 60


def test_tiny_deltas_are_counted_by_rdp() -> None:
    history = [DpEvent(2.0, 0.1, 50)]
    assert epsilon(history, 1e-12) == epsilon_rdp(history, 1e-12) > epsilon(history, 1e-9)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, True, "1", None])
def test_events_without_noise_are_refused(sigma: Any) -> None:
    with pytest.raises(InputError, match="noise_multiplier"):
        DpEvent(sigma, 0.1, 1)


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, math.nan, True])
def test_events_with_a_false_rate_are_refused(q: Any) -> None:
    with pytest.raises(InputError, match="sampling_rate"):
        DpEvent(1.0, q, 1)


@pytest.mark.parametrize("steps", [0, -1, 1.0, True, 10**9 + 1])
def test_events_with_false_steps_are_refused(steps: Any) -> None:
    with pytest.raises(InputError, match="steps"):
        DpEvent(1.0, 0.1, steps)


@pytest.mark.parametrize("delta", [0.0, 1.0, 2.0, -1e-5, math.nan])
def test_deltas_outside_the_open_interval_are_refused(delta: float) -> None:
    for call in (epsilon, epsilon_pld, epsilon_rdp):
        with pytest.raises(InputError, match="delta"):
            call([], delta)


@pytest.mark.parametrize(
    ("past", "schedule", "target", "delta"),
    [
        ([], (0.25, 200), 1.0, 1e-3),
        ([], (0.25, 200), 8.0, 1e-3),
        ([], (1.0, 1), 1.0, 1e-5),
        ([DpEvent(10.0, 1.0, 50), DpEvent(3.0, 0.1, 20)], (0.25, 100), 3.0, 1e-3),
    ],
)
def test_calibration_is_tight(past: list[DpEvent], schedule: tuple[float, int], target: float, delta: float) -> None:
    sigma = calibrate(past, schedule, target, delta)
    assert round(sigma, 3) == sigma
    assert epsilon([*past, DpEvent(sigma, *schedule)], delta) <= target
    assert epsilon([*past, DpEvent(sigma - 0.001, *schedule)], delta) > target
    assert epsilon([*past, DpEvent(sigma * 0.99, *schedule)], delta) > target


def test_calibration_takes_a_schedule_with_evaluations() -> None:
    def schedule(sigma: float) -> list[DpEvent]:
        return [DpEvent(sigma, 0.25, 100), DpEvent(8.0, 1.0, 2)]

    sigma = calibrate([], schedule, 3.0, 1e-3)
    assert epsilon(schedule(sigma), 1e-3) <= 3.0 < epsilon(schedule(sigma * 0.99), 1e-3)
    assert sigma > calibrate([], (0.25, 100), 3.0, 1e-3)


def test_calibration_refuses_when_nothing_is_left() -> None:
    with pytest.raises(RefusalError, match="nothing is left") as caught:
        calibrate([DpEvent(1.0, 1.0, 1)], (0.1, 10), 1.0, 1e-5)
    assert caught.value.code == "budget-exhausted"


def test_calibration_says_what_is_left_when_no_noise_is_enough() -> None:
    past = [DpEvent(1.0, 1.0, 1)]
    spent = epsilon(past, 1e-5)
    with pytest.raises(RefusalError, match=r"0\.0001 left") as caught:
        calibrate(past, (1.0, 10**6), spent + 0.0001, 1e-5)
    assert caught.value.code == "budget-unreachable"


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_calibration_refuses_a_target_that_is_none(target: float) -> None:
    with pytest.raises(InputError, match="epsilon"):
        calibrate([], (0.1, 10), target, 1e-5)


def test_start_up_stays_light() -> None:
    """dp_accounting pulls in scipy.stats (a second); neither it nor any of the heavy frameworks may load on import."""
    code = (
        "import sys, fedward.privacy.ledger, fedward.privacy.accounting as a\n"
        "assert 'dp_accounting' not in sys.modules and 'scipy' not in sys.modules\n"
        "a.epsilon([a.DpEvent(2.0, 0.1, 5)], 1e-5)\n"
        "assert not {'torch', 'jax', 'tensorflow', 'opacus', 'flwr'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
