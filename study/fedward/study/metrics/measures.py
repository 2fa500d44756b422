"""Every metric as a function of counts, for many histograms at once. Undefined is NaN.

Counts have shape (…, bins, 2), the last axis negatives and positives, and results have shape (…). They may be real or
negative, as noised counts are. A score stands for the middle of its bin; ties within a bin count half, or as one threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
_BLOCK = 2**14
"""Counts that `point_measures` takes at a time."""


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


def point_measures(counts: Real | NDArray[np.int64], centres: Real, first: int) -> dict[str, Real]:
    """All of the above at once, for many histograms of counts (…, bins, 2): each of shape (…), under the names of `estimates`.

    Sums that measures share are taken once, and a block of histograms at a time, so that they stay in the processor's cache.
    Average precision (`auprc`) is only right for counts of at least 0; the others take them as they came.
    """
    table = np.asarray(counts).reshape(-1, *np.shape(counts)[-2:])
    size = max(1, _BLOCK // max(1, 2 * len(centres)))
    parts = [_points(table[start : start + size], centres, first) for start in range(0, max(len(table), 1), size)]
    return {name: np.concatenate([part[name] for part in parts]).reshape(np.shape(counts)[:-2]) for name in parts[0]}


def _points(counts: NDArray[Any], centres: Real, first: int) -> dict[str, Real]:
    """Of (histograms, bins, 2). Bins run downwards here: a running sum is what a threshold at that bin calls positive."""
    negative, positive = (np.ascontiguousarray(counts[:, ::-1, outcome], dtype=np.float64) for outcome in (0, 1))
    middles, total, called = centres[::-1], negative + positive, max(len(centres) - first, 0)
    false, true = np.cumsum(negative, 1), np.cumsum(positive, 1)
    flagged = false + true
    precisions = true / np.where(flagged > 0, flagged, np.inf)
    none, ill, everybody = false[:, -1], true[:, -1], flagged[:, -1]
    tp, fp = (sums[:, called - 1] if called else np.zeros(len(sums)) for sums in (true, false))
    ordered = none * ill - np.einsum("ij,ij->i", positive, false) + np.einsum("ij,ij->i", positive, negative) / 2
    return {
        "auroc": _ratio(ordered, none * ill),
        "auprc": _ratio(np.einsum("ij,ij->i", positive, precisions), ill),
        "brier": _ratio(positive @ (1 - middles) ** 2 + negative @ middles**2, everybody),
        "calibration_gap": _ratio(total @ middles - ill, everybody),
        "calibration_error": _ratio(np.abs(total * middles - positive).sum(1), everybody),
        "sensitivity": _ratio(tp, ill),
        "specificity": _ratio(none - fp, none),
        "selection_rate": _ratio(tp + fp, everybody),
        "precision": _ratio(tp, tp + fp),
        "prevalence": _ratio(ill, everybody),
    }


def first_bin(centres: Real, threshold: float) -> int:
    """The lowest bin that a threshold calls positive: the first whose middle reaches it."""
    return int(np.searchsorted(centres, threshold))


def _ratio(above: Real, below: Real) -> Real:
    return np.asarray(
        np.divide(above, below, out=np.full_like(np.asarray(above, dtype=float), np.nan), where=below > 0)
    )
