"""AUROC of exact counts with DeLong's interval; `exact_auroc` is the same on raw scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.study.metrics.counting import Counts

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve with a 95% interval, from `positives` + `negatives` patients."""

    value: float
    low: float
    high: float
    positives: int
    negatives: int


def auroc(counts: Counts) -> Auroc | None:
    """AUROC of one slice, counts (bins, 2); ties within a bin count half. None without both outcomes.

    The variance is DeLong's (DeLong, DeLong, Clarke-Pearson 1988, eq. 5), exact on the binned scores; the interval is
    on the logit scale, so it stays within [0, 1] (Pepe 2003, section 5.2.3).
    """
    negative, positive = counts[:, 0].astype(float), counts[:, 1].astype(float)
    n, m = negative.sum(), positive.sum()
    if not (n > 0 and m > 0):
        return None
    below_negative = (np.cumsum(negative) - negative / 2) / n
    above_positive = (m - np.cumsum(positive) + positive / 2) / m
    value = float((positive * below_negative).sum() / m)
    variance = _spread(below_negative, positive) / m + _spread(above_positive, negative) / n
    low, high = _logit_interval(value, math.sqrt(variance)) if 0 < value < 1 else _extreme_interval(value, min(m, n))
    return Auroc(value, low, high, int(m), int(n))


def _spread(placement: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    total = weight.sum()
    if total < 2:
        return 0.25  # one patient tells nothing of the spread: the largest variance of a [0, 1] quantity
    mean = float((weight * placement).sum() / total)
    return float((weight * (placement - mean) ** 2).sum() / (total - 1))


def _extreme_interval(value: float, pairs: float) -> tuple[float, float]:
    """At 0 or 1 DeLong's variance vanishes, although a few patients prove little. There are at least `pairs` independent
    pairs of a positive and a negative, all ordered alike: Clopper and Pearson's interval of as many successes."""
    width = 1 - 0.025 ** (1 / pairs)
    return (1 - width, 1.0) if value == 1 else (0.0, width)


def _logit_interval(value: float, error: float) -> tuple[float, float]:
    centre = math.log(value / (1 - value))
    half = min(Z95 * error / (value * (1 - value)), 50.0)
    return (1 / (1 + math.exp(-(centre - half))), 1 / (1 + math.exp(-(centre + half))))


def exact_auroc(scores: NDArray[np.float64], outcomes: NDArray[np.float32]) -> Auroc | None:
    """AUROC on raw scores: every distinct score is its own bin."""
    _, index = np.unique(scores, return_inverse=True)
    cells = index * 2 + outcomes.astype(np.int64)
    size = int(index.max()) + 1 if len(index) else 1
    return auroc(np.bincount(cells, minlength=2 * size).reshape(size, 2))
