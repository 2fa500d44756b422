"""The one-run bound against the paper's printed values, exact fractions, and mechanisms whose guesses can be counted."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fedward.privacy.errors import InputError
from fedward.simulations.one_run import fewest_correct, lower_bound, p_value

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "one_run_audit.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN["published"], ids=lambda case: f"{case['guesses']}")
def test_the_papers_own_values(case: dict[str, float]) -> None:
    arguments = {name: value for name, value in case.items() if name != "epsilon"}
    assert lower_bound(**arguments) == pytest.approx(case["epsilon"], abs=1e-3)  # type: ignore[arg-type]


def tail(guesses: int, chance: Fraction, correct: int) -> Fraction:
    """P[Binomial(guesses, chance) ≥ correct], exactly."""
    return sum(
        (
            math.comb(guesses, k) * chance**k * (1 - chance) ** (guesses - k)
            for k in range(max(0, correct), guesses + 1)
        ),
        Fraction(0),
    )


@pytest.mark.parametrize("odds", [1, 2, 5])
@pytest.mark.parametrize(("canaries", "guesses"), [(6, 6), (9, 4), (30, 20)])
def test_the_theorem_in_exact_fractions(odds: int, canaries: int, guesses: int) -> None:
    """Theorem 5.2 as it is printed: f(v) + 2mδ max over i in 1…m of (f(v − i) − f(v)) / i."""
    chance, delta = Fraction(odds, odds + 1), Fraction(1, 500)
    for correct in range(guesses + 1):
        here = tail(guesses, chance, correct)
        steepest = max((tail(guesses, chance, correct - i) - here) / i for i in range(1, canaries + 1))
        exact = min(Fraction(1), here + 2 * canaries * delta * steepest)
        assert p_value(canaries, guesses, correct, math.log(odds), float(delta)) == pytest.approx(
            float(exact), rel=1e-9
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.floats(0, 4), st.floats(0, 0.2), st.data())
def test_mechanisms_that_keep_their_promise_are_not_refuted_more_often(
    canaries: int, epsilon: float, delta: float, data: st.DataObject
) -> None:
    """Randomised response that shows each canary with probability δ, and one that shows all of them with probability δ."""
    correct = data.draw(st.integers(0, canaries))
    allowed = p_value(canaries, canaries, correct, epsilon, delta)
    right = 1 / (1 + math.exp(-epsilon))
    each = float(binom.sf(correct - 1, canaries, delta + (1 - delta) * right))
    together = delta + (1 - delta) * float(binom.sf(correct - 1, canaries, right))
    assert allowed >= each - 1e-9
    assert allowed >= together - 1e-9


def test_without_delta_randomised_response_meets_the_bound_exactly() -> None:
    for correct in range(51):
        chance = float(tail(50, Fraction(3, 4), correct))
        assert p_value(50, 50, correct, math.log(3), 0.0) == pytest.approx(chance, rel=1e-9)


def test_all_guesses_right_and_no_delta_is_a_closed_form() -> None:
    right = 0.05 ** (1 / 200)
    assert lower_bound(200, 200, 200, 0.0, 0.95) == pytest.approx(math.log(right / (1 - right)), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1e-3), st.floats(0.5, 0.999), st.data())
def test_the_bound_is_where_the_p_value_crosses(
    canaries: int, delta: float, confidence: float, data: st.DataObject
) -> None:
    guesses = data.draw(st.integers(1, canaries))
    correct = data.draw(st.integers(0, guesses))
    bound = lower_bound(canaries, guesses, correct, delta, confidence)
    if bound > 0:
        assert p_value(canaries, guesses, correct, bound, delta) < 1 - confidence
    assert p_value(canaries, guesses, correct, bound + 2e-4, delta) >= 1 - confidence


def test_the_fewest_that_refute() -> None:
    need = fewest_correct(1000, 400, 0.4, 1e-3, 0.95)
    assert p_value(1000, 400, need, 0.4, 1e-3) < 0.05 <= p_value(1000, 400, need - 1, 0.4, 1e-3)
    assert fewest_correct(1000, 10, 8.0, 1e-3, 0.95) == 11  # all ten right would refute nothing


@pytest.mark.parametrize(
    "arguments",
    [
        (10, 11, 5, 1.0, 0.0),
        (10, 5, 6, 1.0, 0.0),
        (10, 5, -1, 1.0, 0.0),
        (10, 5, 3, math.nan, 0.0),
        (10, 5, 3, math.inf, 0.0),
        (10, 5, 3, -0.1, 0.0),
        (10, 5, 3, 1.0, math.nan),
        (10, 5, 3, 1.0, 1.5),
    ],
)
def test_numbers_outside_their_range_are_refused(arguments: tuple[int, int, int, float, float]) -> None:
    with pytest.raises(InputError):
        p_value(*arguments)


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan, -1.0])
def test_a_confidence_outside_its_range_is_refused(confidence: float) -> None:
    with pytest.raises(InputError):
        lower_bound(10, 5, 3, 0.0, confidence)
