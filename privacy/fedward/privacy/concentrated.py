"""Concentrated differential privacy: mechanisms whose Rényi divergence at every order α is at most ρα (Bun & Steinke 2016).

Gaussian sums over everybody, and integer sums under discrete Gaussian noise, are of this kind; ρ adds up over releases,
chosen adaptively or not.
"""

from __future__ import annotations

import math

from fedward.privacy.events import CountEvent, DpEvent, Event

# Round-off of a handful of operations.
_ROUND_UP = 1 + 1e-12


def concentration(event: Event) -> float | None:
    """ρ of one step, rounded up; None for a Poisson-sampled sum, whose Rényi divergence is no line.

    Sources: Bun & Steinke 2016, prop. 1.6 (Gaussian); Canonne, Kamath & Steinke 2020, theorem 4 (discrete Gaussian);
    Kairouz, Liu & Steinke 2021, prop. 14, the third of its bounds (sums of discrete Gaussians):
    D_α ≤ α/2 · (Δ/(√m σ) + τ√d)².
    """
    if isinstance(event, DpEvent):
        return _ROUND_UP / (2 * event.noise_multiplier**2) if event.sampling_rate == 1.0 else None
    if isinstance(event, CountEvent):
        return _ROUND_UP * event.coordinates * event.sensitivity**2 / (2 * event.deviation**2)
    inflation = sum_inflation(event.deviation, event.sites) * math.sqrt(event.dimension)
    return _ROUND_UP * (1 / event.pool_noise + inflation) ** 2 / 2


def sum_inflation(deviation: float, sites: int) -> float:
    """τ = 10 Σ_{k=1}^{m−1} exp(−2π²σ² k/(k+1)): how far a sum of m draws of N_Z(0, σ²) is from one of N_Z(0, mσ²).

    Kairouz, Liu & Steinke 2021, theorem 1. 0 for one site; below 1e-40 from σ = 4 on.
    """
    exponent = -2 * math.pi**2 * deviation**2
    return 10 * math.fsum(math.exp(exponent * k / (k + 1)) for k in range(1, sites))
