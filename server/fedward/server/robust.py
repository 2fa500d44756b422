"""Sums that a few sites cannot ruin, of updates that are seen one by one: without secure aggregation, that is. Pure; float64.

    median         of each coordinate                                  (Yin et al. 2018, definition 1)
    trimmed-mean   of each coordinate, less the f least and f largest  (ibid., definition 2, β = f / n)
    krum           the update with the least sum of squared distances to its n − f − 2 nearest  (Blanchard et al. 2017, eq. 1)

f is `training.byzantine`. Declared cohorts do not weigh here: a site that lies about its update may lie about its size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.server.aggregation import weighted_mean
from fedward.study.training import Training
from fedward.study.vectors import Vector


def aggregate(updates: list[Vector], weights: list[float], training: Training) -> NDArray[np.float64]:
    """Δ of a round, shape (d,), by the study's aggregation; weights are the mean's alone.

    Raises:
        InputError: fewer updates than the aggregation is defined for, sizes that differ, or as `weighted_mean`.
    """
    mean = weighted_mean(updates, weights)  # checks the sizes for all
    if training.aggregation == "mean":
        return mean
    if len(updates) < training.least_sites:
        raise InputError(
            f'aggregation "{training.aggregation}" has too few updates',
            expected=f"at least {training.least_sites}",
            got=str(len(updates)),
        )
    rows = np.stack(updates).astype(np.float64)
    if training.aggregation == "median":
        return np.asarray(np.median(rows, axis=0), dtype=np.float64)
    if training.aggregation == "trimmed-mean":
        rows.sort(axis=0)
        return np.asarray(rows[training.byzantine : len(rows) - training.byzantine].mean(axis=0), dtype=np.float64)
    return np.asarray(rows[_krum(rows, training.byzantine)], dtype=np.float64)


def _krum(rows: NDArray[np.float64], byzantine: int) -> int:
    """Which update Krum chooses; the first of equals."""
    distances = np.array([((rows - row) ** 2).sum(axis=1) for row in rows])
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, axis=1)[:, : len(rows) - byzantine - 2]
    return int(np.argmin(nearest.sum(axis=1)))
