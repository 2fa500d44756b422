"""Accuracy and fairness from counts alone: histograms of (group × score bin × outcome).

Sites send counts, and sums of counts are all that anyone needs: AUROC and its interval follow from the summed
histogram. Slice 0 is everybody; then one slice a fairness group. Counts under `SMALL` are suppressed when shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.study.encoding import group_names, group_size
from fedward.study.manifest import Manifest

Counts: TypeAlias = NDArray[np.int64]
TEMPER = 4.0
"""Bins are equal in sigmoid(logit(score) / TEMPER). Equal bins of the score itself would put most patients of a confident
model into the two outermost ones: on the heart hospitals that cost .014 of AUROC, and this costs .001."""
SMALL = 11
"""Counts below this are not shown (CMS cell-size suppression policy: 1 to 10)."""
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve with a 95% interval, from `positives` + `negatives` patients."""

    value: float
    low: float
    high: float
    positives: int
    negatives: int


def slice_names(manifest: Manifest) -> tuple[str, ...]:
    """Names of the histogram's first axis."""
    return ("everybody", *group_names(manifest))


def histogram_shape(manifest: Manifest) -> tuple[int, int, int]:
    """(groups + 1, bins, 2)."""
    return (len(slice_names(manifest)), manifest.evaluation.bins, 2)


def histogram(
    scores: NDArray[np.float64], outcomes: NDArray[np.float32], membership: NDArray[np.bool_], bins: int
) -> Counts:
    """Counts (groups + 1, bins, 2) of scores (n,) in [0, 1], outcomes (n,) in {0, 1} and membership (n, groups).

    Raises:
        InputError: lengths differ, a score is not in [0, 1], or an outcome not in {0, 1}.
    """
    if not (len(scores) == len(outcomes) == len(membership)):
        raise InputError("scores, outcomes and groups differ in length")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InputError("a score is not in [0, 1]", code="not-finite")
    if not ((outcomes == 0) | (outcomes == 1)).all():
        raise InputError("an outcome is neither 0 nor 1")
    cells = np.minimum((_tempered(scores) * bins).astype(np.int64), bins - 1) * 2 + outcomes.astype(np.int64)
    everybody = np.ones((len(scores), 1), dtype=np.bool_)
    columns = np.concatenate([everybody, membership], axis=1).T
    counts = [np.bincount(cells[column], minlength=bins * 2).reshape(bins, 2) for column in columns]
    return np.stack(counts).astype(np.int64)


def _tempered(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """sigmoid(logit(s) / TEMPER), written so that 0 and 1 need no special case."""
    high, low = scores ** (1 / TEMPER), (1 - scores) ** (1 / TEMPER)
    return np.asarray(high / (high + low))


def bin_centres(bins: int) -> NDArray[np.float64]:
    """The score at the middle of each bin, shape (bins,)."""
    middle = (np.arange(bins) + 0.5) / bins
    high, low = middle**TEMPER, (1 - middle) ** TEMPER
    return np.asarray(high / (high + low))


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


def suppress_small(manifest: Manifest, counts: dict[str, tuple[int, int]]) -> set[str]:
    """The groups whose (positives, negatives) must not be shown: one of the two is under `SMALL`, or, when a single group
    of an attribute is hidden so, the smallest other one, which would give it away by subtraction from everybody."""
    hidden: set[str] = set()
    names = iter(group_names(manifest))
    for attribute in manifest.fairness.groups:
        size = group_size(manifest, attribute)
        members = [next(names) for _ in range(size)]
        small = {name for name in members if min(counts[name]) < SMALL}
        others = sorted((name for name in members if name not in small), key=lambda name: sum(counts[name]))
        hidden |= small | (set(others[:1]) if len(small) == 1 else set())
    return hidden


def brier(counts: Counts) -> float | None:
    """Brier score of one slice with every score at the middle of its bin; None without patients."""
    middle = bin_centres(len(counts))
    total = counts.sum()
    if total == 0:
        return None
    loss = counts[:, 1] * (1 - middle) ** 2 + counts[:, 0] * middle**2
    return float(loss.sum() / total)
