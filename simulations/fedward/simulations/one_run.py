"""From right guesses to a lower bound on ε: Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run".

m canaries are each put into the data by a fair coin of its own, the mechanism runs once, and an auditor who sees its
output guesses for r of them, fixed beforehand, whether they were in. Theorem 5.2 of arXiv 2305.08846 bounds how often an
(ε, δ)-DP mechanism lets v or more of the guesses be right, by

    β + 2mδα,  β = P[W ≥ v],  α = max over i ≥ 1 of P[v > W ≥ v − i] / i,  W ~ Binomial(r, e^ε / (1 + e^ε)).

Neighbours differ by one canary's presence, which is add/remove of one patient. As the bound is a p-value, every ε at which
it is below 1 − confidence is refuted, and with it every smaller ε; `lower_bound` is the largest.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from fedward.privacy.errors import InputError

_STEP = 1e-4
"""Bounds are whole multiples of it, rounded down."""
_MOST = 64.0


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The largest probability with which an (ε, δ)-DP mechanism lets that many guesses, or more, be right.

    Args:
        canaries: m, each in the data or not by a fair coin of its own.
        guesses: r of at most m, a number fixed before the run.
        correct: v of at most r.
        epsilon: ε of at least 0, the claim under test.
        delta: δ in [0, 1].

    Returns:
        a probability, 1 where the theorem says nothing.

    Raises:
        InputError: an argument is outside its range.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise InputError(
            "the guesses do not fit the canaries",
            expected="0 ≤ correct ≤ guesses ≤ canaries",
            got=f"{correct}, {guesses}, {canaries}",
        )
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise InputError("epsilon is no claim", expected="a finite number of at least 0", got=repr(epsilon))
    if not 0 <= delta <= 1:
        raise InputError("delta is no probability", expected="a number in [0, 1]", got=repr(delta))
    if correct == 0:
        return 1.0
    right = 1 / (1 + math.exp(-epsilon))
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    alpha = float(np.max(below / np.arange(1, correct + 1)))  # i > v adds nothing: the sum ends at W = 0
    return min(1.0, float(binom.sf(correct - 1, guesses, right)) + 2 * canaries * delta * alpha)


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """The largest ε that the guesses refute at δ; of mechanisms that keep an ε, at most 1 − confidence are above theirs.

    Args:
        canaries: m; `guesses`, `correct` and `delta` as in `p_value`.
        guesses: r.
        correct: v.
        delta: δ.
        confidence: in (0, 1), for instance 0.95.

    Returns:
        ε of at least 0, rounded down to 1e-4. 0 means that nothing was learned, not that nothing leaks.

    Raises:
        InputError: an argument is outside its range.
    """
    if not 0 < confidence < 1:
        raise InputError("the confidence is no probability", expected="a number in (0, 1)", got=repr(confidence))

    def refuted(step: int) -> bool:
        return p_value(canaries, guesses, correct, step * _STEP, delta) < 1 - confidence

    if not refuted(0):
        return 0.0
    low, high = 0, round(_MOST / _STEP)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return round(low * _STEP, 4)


def fewest_correct(canaries: int, guesses: int, epsilon: float, delta: float, confidence: float) -> int:
    """How many guesses must be right to refute ε; guesses + 1 if even all of them would not. Arguments as above."""
    low, high = 0, guesses + 1
    while high - low > 1:
        middle = (low + high) // 2
        refutes = p_value(canaries, guesses, middle, epsilon, delta) < 1 - confidence
        low, high = (low, middle) if refutes else (middle, high)
    return high
