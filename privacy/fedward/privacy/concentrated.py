"""Concentrated differential privacy: mechanisms whose Rényi divergence at every order α is at most ρα (Bun & Steinke 2016).

Gaussian sums over everybody, and integer sums under discrete Gaussian noise, are of this kind; ρ adds up over releases,
chosen adaptively or not.
"""

from __future__ import annotations

import math

from fedward.privacy.events import CountEvent, DpEvent, Event

# Round-off of a handful of operations.
_ROUND_UP = 1 + 1e-12


LEAST_UNITS = 101.0
"""The sensitivity of a sum with shared noise is at least 101 √d units of its grid: (C + γ√d)/γ with γ√d ≤ 0.01 C."""


def concentration(event: Event) -> float | None:
    """ρ of one step, rounded up; None for a Poisson-sampled sum, whose Rényi divergence is no line.

    Sources: Bun & Steinke 2016, prop. 1.6 (Gaussian); Canonne, Kamath & Steinke 2020, theorem 4 (discrete Gaussian);
    `sum_concentration` for shared noise, at the coarsest grid and the smallest dimension: τ√d falls in both.
    """
    if isinstance(event, DpEvent):
        return _ROUND_UP / (2 * event.noise_multiplier**2) if event.sampling_rate == 1.0 else None
    if isinstance(event, CountEvent):
        return _ROUND_UP * event.coordinates * event.sensitivity**2 / (2 * event.deviation**2)
    return sum_concentration(LEAST_UNITS * event.noise_multiplier, LEAST_UNITS, 1, event.sites)


def sum_concentration(deviation: float, sensitivity: float, dimension: int, sites: int) -> float:
    """ρ of integers with the sum of m draws of N_Z(0, σ²) in each coordinate: ½ (Δ/(√m σ) + τ√d)², rounded up.

    The third bound of Kairouz, Liu & Steinke 2021, prop. 14.

    Args:
        deviation: σ of one draw, at least 1/2.
        sensitivity: Δ, the most in L2 that one patient changes the integers by.
        dimension: d.
        sites: m.
    """
    inflation = sum_inflation(deviation, sites) * math.sqrt(dimension)
    return _ROUND_UP * (sensitivity / (math.sqrt(sites) * deviation) + inflation) ** 2 / 2


def sum_inflation(deviation: float, sites: int) -> float:
    """τ = 10 Σ_{k=1}^{m−1} exp(−2π²σ² k/(k+1)): how far a sum of m draws of N_Z(0, σ²) is from one of N_Z(0, mσ²).

    Kairouz, Liu & Steinke 2021, theorem 1. 0 for one site; below 1e-40 from σ = 4 on.
    """
    exponent = -2 * math.pi**2 * deviation**2
    return 10 * math.fsum(math.exp(exponent * k / (k + 1)) for k in range(1, sites))
