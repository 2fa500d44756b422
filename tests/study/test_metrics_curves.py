"""Curves of counts against scikit-learn on scores replaced by their bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import auc, precision_recall_curve, precision_score, recall_score, roc_curve

from fedward.privacy.errors import InputError
from fedward.study.metrics import bin_edges
from fedward.study.metrics.curves import curves, operating_point
from fedward.study.metrics.intervals import project
from fedward.study.metrics.measures import auroc

BINS = 12
EDGES = bin_edges(BINS)
Real = NDArray[np.float64]

some = arrays(np.int64, (BINS, 2), elements=st.integers(0, 6)).filter(lambda counts: (counts.sum(0) > 0).all())


def patients(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(outcomes, bins) of the patients behind counts."""
    bins = np.repeat(np.tile(np.arange(BINS), 2), counts.T.reshape(-1))
    return np.repeat([0, 1], counts.sum(0)), bins


@settings(max_examples=150)
@given(some)
def test_curves_are_scikit_learn_s(counts: NDArray[np.int64]) -> None:
    outcomes, bins = patients(counts)
    found = curves(counts.astype(float), EDGES)
    fpr, tpr, levels = roc_curve(outcomes, bins, drop_intermediate=False)
    precision, recall, floors = precision_recall_curve(outcomes, bins)
    # Its thresholds are the bins that somebody is in, and "nobody"; ours is every edge.
    places = np.array([BINS, *levels[1:].astype(int)])
    np.testing.assert_allclose(found.fpr[places], fpr, atol=1e-12)
    np.testing.assert_allclose(found.tpr[places], tpr, atol=1e-12)
    places = np.array([*floors.astype(int), BINS])
    np.testing.assert_allclose(found.precision[places], precision, atol=1e-12)
    np.testing.assert_allclose(found.recall[places], recall, atol=1e-12)
    np.testing.assert_array_equal(found.threshold, EDGES)
    assert auc(found.fpr, found.tpr) == pytest.approx(float(auroc(counts.astype(float))), abs=1e-12)


@settings(max_examples=150)
@given(arrays(np.float64, (BINS, 2), elements=st.integers(-20, 40).map(float)))
def test_noisy_counts_give_curves_that_rise(counts: Real) -> None:
    if not (counts.sum(0) > 0).all():
        with pytest.raises(InputError, match="with and without"):
            curves(counts, EDGES)
        return
    found, nearest = curves(counts, EDGES), curves(project(counts), EDGES)
    for name in ("tpr", "fpr", "precision"):
        part = getattr(found, name)
        assert ((part >= 0) & (part <= 1 + 1e-12)).all()
        np.testing.assert_allclose(part, getattr(nearest, name), atol=1e-9)
    assert (np.diff(found.tpr) <= 1e-12).all()
    assert (np.diff(found.fpr) <= 1e-12).all()
    assert (found.tpr[0], found.fpr[0], found.tpr[-1], found.fpr[-1]) == (1, 1, 0, 0)


@settings(max_examples=100)
@given(some, st.integers(0, BINS))
def test_the_operating_point_at_an_edge_is_the_decision_s(counts: NDArray[np.int64], edge: int) -> None:
    outcomes, bins = patients(counts)
    at = operating_point(curves(counts.astype(float), EDGES), float(EDGES[edge]))
    assert (at.edge, at.threshold, at.exact) == (edge, EDGES[edge], True)
    called = bins >= edge
    assert at.tpr == pytest.approx(recall_score(outcomes, called))
    assert at.fpr == pytest.approx(1 - recall_score(1 - outcomes, ~called))
    assert at.precision == pytest.approx(precision_score(outcomes, called, zero_division=1.0))


def test_a_threshold_between_edges_takes_the_nearest_and_says_so() -> None:
    found = curves(np.ones((BINS, 2)), EDGES)
    at = operating_point(found, float(0.7 * EDGES[6] + 0.3 * EDGES[7]))
    assert (at.edge, at.threshold, at.exact) == (6, EDGES[6], False)
    at = operating_point(found, float(0.3 * EDGES[6] + 0.7 * EDGES[7]))
    assert (at.edge, at.threshold, at.exact) == (7, EDGES[7], False)


def test_what_makes_no_curve_is_refused() -> None:
    fine = np.ones((BINS, 2))
    with pytest.raises(InputError, match="do not fit"):
        curves(fine[:-1], EDGES)
    fine[3, 1] = np.nan
    with pytest.raises(InputError, match="no number"):
        curves(fine, EDGES)
    found = curves(np.ones((BINS, 2)), EDGES)
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="no score"):
            operating_point(found, threshold)
