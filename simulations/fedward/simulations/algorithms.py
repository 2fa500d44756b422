"""What SCAFFOLD and q-FedAvg do between the sites and the server's step. Pure, float64. No federation runs them yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedward.study.vectors import Vector

Real = NDArray[np.float64]

_LEAST_LOSS = 1e-10


class ControlVariates:
    """SCAFFOLD's (Karimireddy et al. 2020, algorithm 1, option II): which way each site drifts, and which way all do.

    A site adds c − cᵢ to every step's gradient; after K steps at rate η that moved it by uᵢ, cᵢ ← cᵢ − c − uᵢ / (Kη), and
    c ← c + Σ pᵢ Δcᵢ over the contributors, pᵢ their shares of all sites' weights. Updates carry whatever noise the study has:
    control variates are made of them, and cost no more privacy.
    """

    def __init__(self, shares: Real, dimension: int, steps: int, rate: float) -> None:
        """
        Args:
            shares: each site's weight over all sites' sum, shape (s,).
            dimension: d.
            steps: K.
            rate: η.
        """
        self._shares, self._scale = shares, steps * rate
        self._common = np.zeros(dimension)
        self._own = np.zeros((len(shares), dimension))

    def corrections(self) -> Vector:
        """c − cᵢ of each site, shape (s, d)."""
        return (self._common - self._own).astype(np.float32)

    def learn(self, updates: Vector, contributed: NDArray[np.bool_]) -> None:
        """After a round: every site's update, shape (s, d), and which of them the server took, shape (s,)."""
        change = np.where(contributed[:, None], -self._common - updates / self._scale, 0.0)
        self._own += change
        self._common = self._common + self._shares @ change


def fair_step(updates: Vector, losses: Real, shares: Real, q: float, rate: float) -> Real:
    """q-FedAvg's move of the model, shape (d,) (Li, Sanjabi, Beirami & Smith 2020, algorithm 2, L = 1 / rate).

    −Σ pₖ Δₖ / Σ pₖ hₖ with Δₖ = −L Fₖ^q uₖ and hₖ = q Fₖ^(q−1) ‖L uₖ‖² + L Fₖ^q. The paper samples sites with probability pₖ; with
    all of them present pₖ weighs. At q = 0 it is FedAvg.

    Args:
        updates: uₖ, shape (s, d).
        losses: Fₖ, each site's mean loss at the model before the round, shape (s,).
        shares: pₖ, shape (s,).
        q: at least 0.
        rate: the local learning rate.
    """
    found = updates.astype(np.float64)
    loss = np.maximum(losses, _LEAST_LOSS)
    power, inverse = loss**q, 1 / rate
    curvature = q * loss ** (q - 1) * inverse**2 * (found**2).sum(axis=1) + inverse * power
    return np.asarray(inverse * (shares * power) @ found / (shares @ curvature), dtype=np.float64)
