"""The binning error: between which values a metric of raw scores lies, whatever scores gave these counts.

Each function takes exact counts of one slice, (bins, 2), and returns (low, high). The metric of counts lies between them too.
With noise there are no such bounds, but the expected counts' still tell how coarse the bins are.
"""

from __future__ import annotations

import numpy as np

from fedward.study.metrics.measures import Real, auroc, sensitivity, specificity

Bounds = tuple[float, float]


def auroc_bounds(counts: Real) -> Bounds:
    """Only pairs within a bin are unknown, and count half: ± Σ p·n / (2 m₊ m₋)."""
    value = float(auroc(counts))
    tied = float((counts[:, 0] * counts[:, 1]).sum() / (2 * counts[:, 0].sum() * counts[:, 1].sum()))
    return value - tied, value + tied


def average_precision_bounds(counts: Real) -> Bounds:
    """Highest when each bin's positives come first as one tie, lowest when its negatives come first and nothing ties.

    With t positives and f negatives above a bin of p and n, a positive's precision is at most (t + p)/(t + p + f), and that
    of the i-th positive at least (t + i)/(t + i + f + n), whatever the order and the ties.
    """
    low = high = above_true = above_false = 0.0
    for negative, positive in counts[::-1]:
        if positive > 0:
            true = above_true + positive
            high += positive * true / (true + above_false)
            rising = above_true + np.arange(1, int(positive) + 1)
            low += float((rising / (rising + above_false + negative)).sum())
        above_true += positive
        above_false += negative
    return low / above_true, high / above_true


def brier_bounds(counts: Real, edges: Real) -> Bounds:
    """Every score at the better or the worse end of its bin."""
    low, high = edges[:-1], edges[1:]
    least = counts[:, 1] * (1 - high) ** 2 + counts[:, 0] * low**2
    most = counts[:, 1] * (1 - low) ** 2 + counts[:, 0] * high**2
    return float(least.sum() / counts.sum()), float(most.sum() / counts.sum())


def calibration_gap_bounds(counts: Real, edges: Real) -> Bounds:
    """Every score at the lower or the upper end of its bin."""
    total, positive = counts.sum(1), counts[:, 1].sum()
    return (
        float(((total * edges[:-1]).sum() - positive) / counts.sum()),
        float(((total * edges[1:]).sum() - positive) / counts.sum()),
    )


def calibration_error_bounds(counts: Real, edges: Real) -> Bounds:
    """The error over the same bins, each bin's mean score anywhere in it."""
    total, positive = counts.sum(1), counts[:, 1]
    below, above = total * edges[:-1] - positive, total * edges[1:] - positive
    least = np.where((below <= 0) & (above >= 0), 0.0, np.minimum(np.abs(below), np.abs(above)))
    most = np.maximum(np.abs(below), np.abs(above))
    return float(least.sum() / counts.sum()), float(most.sum() / counts.sum())


def sensitivity_bounds(counts: Real, edges: Real, threshold: float) -> Bounds:
    """Exact where the threshold is a bin's edge; else its bin's patients may lie on either side."""
    sure, possible = _around(edges, threshold)
    return float(sensitivity(counts, sure)), float(sensitivity(counts, possible))


def specificity_bounds(counts: Real, edges: Real, threshold: float) -> Bounds:
    """As `sensitivity_bounds`."""
    sure, possible = _around(edges, threshold)
    return float(specificity(counts, possible)), float(specificity(counts, sure))


def _around(edges: Real, threshold: float) -> tuple[int, int]:
    """The first bin all of whose scores reach the threshold, and the first bin of which some may."""
    sure = int(np.searchsorted(edges[:-1], threshold - 1e-12))
    on_edge = sure < len(edges) - 1 and abs(edges[sure] - threshold) <= 1e-12
    return sure, sure if on_edge else max(sure - 1, 0)
