"""From admitted updates to the next model. Pure; sums are float64, in roster order, so that a rerun gives equal bits.

The pseudo-gradient is Δ = Σ wᵢ uᵢ / Σ wᵢ over the contributors, wᵢ the declared training cohort. Then
    fedsgd, fedavg, fedprox   m ← β m + Δ;  w ← w + η m            (McMahan et al. 2017, alg. 1; Reddi et al. 2021, FedAvgM)
    fedadam, fedyogi, fedadagrad   m ← β₁ m + (1−β₁) Δ;  w ← w + η m / (√v + τ)                     (ibid., alg. 2)
        with v ← β₂ v + (1−β₂) Δ²;  v − (1−β₂) Δ² sign(v − Δ²);  v + Δ²
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import FedwardError, InputError
from fedward.study.training import Training
from fedward.study.vectors import Vector, blocks


@dataclass(frozen=True)
class OptimiserState:
    """The server optimiser's memory, float64, shape (d,) each; committed with the model so that a restart goes on."""

    first: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def zeros(cls, dimension: int) -> OptimiserState:
        return cls(np.zeros(dimension), np.zeros(dimension))


def weighted_mean(updates: list[Vector], weights: list[float]) -> NDArray[np.float64]:
    """Δ, shape (d,).

    Raises:
        InputError: no update, sizes that differ, or a weight that is not above 0.
    """
    if not updates or len(updates) != len(weights):
        raise InputError("there is nothing to sum", expected="one weight an update")
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise InputError("a weight is not above 0", got=str(weights))
    if len({update.shape for update in updates}) != 1:
        raise InputError("updates differ in size", got=str([update.shape for update in updates]))
    total = np.zeros(updates[0].shape)
    for part in blocks(len(total)):
        for update, weight in zip(updates, weights, strict=True):
            total[part] += np.multiply(update[part], weight, dtype=np.float64)
    total /= sum(weights)
    return total


def step(
    base: Vector, delta: NDArray[np.float64], state: OptimiserState, training: Training
) -> tuple[Vector, OptimiserState]:
    """The next parameters, shape (d,) float32, and the optimiser's next state; `delta` is used up, for it is as large as both.

    Without momentum there is nothing to remember, and nothing is: a large model's state would be twice its size in every commit.

    Raises:
        FedwardError: the step did not stay finite; nothing of it may be committed.
    """
    rate, momentum = training.server_learning_rate, training.server_momentum
    if not training.adaptive and momentum == 0.0:
        return _finite(_moved(base, rate, delta)), OptimiserState.zeros(len(base))
    if training.adaptive:
        first = momentum * state.first + (1 - momentum) * delta
        second = _second(state.second, delta**2, training)
        move = rate * first / (np.sqrt(second) + training.server_epsilon)
    else:
        delta += momentum * state.first
        first, second, move = delta, state.second, rate * delta
    model = _moved(base, 1.0, move)
    # The state too: an infinite second moment would stop its coordinate for ever, and silently.
    return _finite(model), OptimiserState(_finite(first), _finite(second))


def _moved(base: Vector, rate: float, move: NDArray[np.float64]) -> Vector:
    """base + rate · move, in float64 and then rounded to float32; in place of `move`."""
    move *= rate
    move += base
    return move.astype(np.float32)


_Vector = TypeVar("_Vector", Vector, NDArray[np.float64])


def _finite(vector: _Vector) -> _Vector:
    """
    Raises:
        FedwardError: it is not.
    """
    if not all(np.isfinite(vector[part]).all() for part in blocks(len(vector))):
        raise FedwardError(
            "the model did not stay finite", remedy="lower training.server_learning_rate", code="training-diverged"
        )
    return vector


def _second(before: NDArray[np.float64], square: NDArray[np.float64], training: Training) -> NDArray[np.float64]:
    """The second moment v after a round whose Δ² is `square`."""
    beta = training.server_beta2
    if training.algorithm == "fedadagrad":
        return before + square
    if training.algorithm == "fedyogi":
        return np.asarray(before - (1 - beta) * square * np.sign(before - square))
    return beta * before + (1 - beta) * square
