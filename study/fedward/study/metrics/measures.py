"""Every metric as a function of counts, for many histograms at once. Undefined is NaN.

Counts have shape (…, bins, 2), the last axis negatives and positives, and results have shape (…). They may be real or
negative, as noised counts are. A score stands for the middle of its bin; ties within a bin count half, or as one threshold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]


def auroc(counts: Real) -> Real:
    """Area under the ROC curve: the share of pairs that are ordered rightly, ties half (Mann & Whitney 1947)."""
    negative, positive = counts[..., 0], counts[..., 1]
    below = np.cumsum(negative, -1) - negative / 2
    return _ratio((positive * below).sum(-1), positive.sum(-1) * negative.sum(-1))


def average_precision(counts: Real) -> Real:
    """AUPRC as scikit-learn's average precision, Σ (Rₖ − Rₖ₋₁) Pₖ from the highest bin down; counts at least 0."""
    positive = counts[..., ::-1, 1]
    true, flagged = np.cumsum(positive, -1), np.cumsum(counts[..., ::-1, :].sum(-1), -1)
    precision = np.divide(true, flagged, out=np.zeros_like(true), where=flagged > 0)
    return _ratio((positive * precision).sum(-1), true[..., -1])


def brier(counts: Real, centres: Real) -> Real:
    """Mean squared difference of score and outcome (Brier 1950)."""
    loss = counts[..., 1] * (1 - centres) ** 2 + counts[..., 0] * centres**2
    return _ratio(loss.sum(-1), counts.sum((-1, -2)))


def calibration_gap(counts: Real, centres: Real) -> Real:
    """Calibration in the large: mean score less the outcome's frequency; above 0, the model promises too much."""
    expected = (counts.sum(-1) * centres).sum(-1)
    return _ratio(expected - counts[..., 1].sum(-1), counts.sum((-1, -2)))


def calibration_error(counts: Real, centres: Real) -> Real:
    """Expected calibration error: Σ over bins of |Σ scores − Σ outcomes| / n (Naeini et al. 2015)."""
    distance = np.abs(counts.sum(-1) * centres - counts[..., 1])
    return _ratio(distance.sum(-1), counts.sum((-1, -2)))


def sensitivity(counts: Real, first: int) -> Real:
    """Of the patients with the outcome, the share in bin `first` or higher."""
    return _ratio(counts[..., first:, 1].sum(-1), counts[..., 1].sum(-1))


def specificity(counts: Real, first: int) -> Real:
    """Of the patients without the outcome, the share below bin `first`."""
    return _ratio(counts[..., :first, 0].sum(-1), counts[..., 0].sum(-1))


def selection_rate(counts: Real, first: int) -> Real:
    """Of all patients, the share in bin `first` or higher."""
    return _ratio(counts[..., first:, :].sum((-1, -2)), counts.sum((-1, -2)))


def precision(counts: Real, first: int) -> Real:
    """Positive predictive value: of the patients in bin `first` or higher, the share with the outcome."""
    return _ratio(counts[..., first:, 1].sum(-1), counts[..., first:, :].sum((-1, -2)))


def prevalence(counts: Real) -> Real:
    """Of all patients, the share with the outcome."""
    return _ratio(counts[..., 1].sum(-1), counts.sum((-1, -2)))


def spread(rates: Real) -> Real:
    """Largest less smallest of the groups' rates (groups, …): fairlearn's difference between groups."""
    return np.asarray(rates.max(0) - rates.min(0))


def first_bin(centres: Real, threshold: float) -> int:
    """The lowest bin that a threshold calls positive: the first whose middle reaches it."""
    return int(np.searchsorted(centres, threshold))


def _ratio(above: Real, below: Real) -> Real:
    return np.asarray(
        np.divide(above, below, out=np.full_like(np.asarray(above, dtype=float), np.nan), where=below > 0)
    )
