"""ROC and precision-recall curves of one slice's counts: a point for each bin edge, which is a threshold on the score.

Noisy counts are projected onto counts of at least 0 first (`intervals.project`), so that every curve rises as it should; others
stay as they came. The curves are those of scikit-learn on scores replaced by their bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedward.privacy.errors import InputError
from fedward.study.metrics.intervals import project
from fedward.study.metrics.measures import Real


@dataclass(frozen=True)
class Curves:
    """Points (bins + 1,) in rising order of thresholds, from calling everybody positive to calling nobody.

    Attributes:
        threshold: the edges of the bins; scores from there on are called positive.
        tpr: of the patients with the outcome, the share called positive.
        fpr: of the patients without it, likewise.
        precision: of those called positive, the share with the outcome; 1 where nobody is called so, as in scikit-learn.
        recall: the same as `tpr`, under its name in a precision-recall curve.
    """

    threshold: Real
    tpr: Real
    fpr: Real
    precision: Real
    recall: Real


@dataclass(frozen=True)
class OperatingPoint:
    """A point of the curves. `asked` is the threshold that was wanted, `threshold` the edge that counts can tell of."""

    asked: float
    threshold: float
    edge: int
    tpr: float
    fpr: float
    precision: float

    @property
    def exact(self) -> bool:
        """Whether the threshold is an edge but for round-off, so that no patient lies between the two."""
        return abs(self.asked - self.threshold) <= 1e-12


def curves(counts: Real, edges: Real) -> Curves:
    """The curves of one slice.

    Args:
        counts: (bins, 2), exact or noised.
        edges: of the bins, (bins + 1,), as `bin_edges`.

    Raises:
        InputError: the shapes differ, a number is not finite, or nobody has one of the outcomes.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if counts.shape != (len(edges) - 1, 2):
        raise InputError(
            "the counts do not fit their bins", expected=f"shape ({len(edges) - 1}, 2)", got=f"shape {counts.shape}"
        )
    if not np.isfinite(counts).all():
        raise InputError("a count is no number", code="not-finite")
    if not (counts.sum(0) > 0).all():
        raise InputError(
            "a curve needs patients with and without the outcome", got=f"{counts[:, 1].sum():g} and {counts[:, 0].sum():g}",
            remedy="leave this group out",
        )  # fmt: skip
    known = counts if (counts >= 0).all() else project(counts)
    called = np.concatenate([np.cumsum(known[::-1], 0)[::-1], np.zeros((1, 2))])
    flagged = called.sum(1)
    precision = np.divide(called[:, 1], flagged, out=np.ones(len(edges)), where=flagged > 0)
    fpr, tpr = (called[:, outcome] / called[0, outcome] for outcome in (0, 1))
    return Curves(np.asarray(edges, dtype=np.float64), tpr, fpr, precision, tpr)


def operating_point(found: Curves, threshold: float) -> OperatingPoint:
    """The point at the edge nearest to a threshold; of two that are equally near, the lower.

    Raises:
        InputError: the threshold is not between 0 and 1.
    """
    if not 0 <= threshold <= 1:
        raise InputError("the threshold is no score", expected="a number between 0 and 1", got=f"{threshold:g}")
    edge = int(np.argmin(np.abs(found.threshold - threshold)))
    return OperatingPoint(
        threshold, float(found.threshold[edge]), edge, *(float(part[edge]) for part in (found.tpr, found.fpr, found.precision))
    )  # fmt: skip
