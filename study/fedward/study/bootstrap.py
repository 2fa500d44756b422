"""How sure a mean over simulated studies is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 10_000


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of a mean over seeds (Efron 1979), the resamples fixed; values of shape (n,), n ≥ 1."""
    chosen = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
