"""Metrics of counts against scikit-learn on the raw scores: within the stated binning error, whatever the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score

from fedward.study.metrics import bin_centres, bin_edges, histogram
from fedward.study.metrics.binning import (
    Bounds,
    auroc_bounds,
    average_precision_bounds,
    brier_bounds,
    calibration_error_bounds,
    calibration_gap_bounds,
    sensitivity_bounds,
    specificity_bounds,
)
from fedward.study.metrics.measures import (
    auroc,
    average_precision,
    brier,
    calibration_error,
    calibration_gap,
    first_bin,
    prevalence,
    selection_rate,
    sensitivity,
    specificity,
)

Scores = NDArray[np.float64]
Outcomes = NDArray[np.float32]

# Thousandths: they tie, lie on edges of bins, and reach 0 and 1.
patients = st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=2, max_size=60).filter(
    lambda all_: len({ill for _, ill in all_}) == 2
)
binnings = st.tuples(st.integers(10, 40), st.sampled_from([1.0, 4.0]))


def arrays(found: list[tuple[int, bool]]) -> tuple[Scores, Outcomes]:
    return np.array([score / 1000 for score, _ in found]), np.array([ill for _, ill in found], dtype=np.float32)


def counts_of(scores: Scores, outcomes: Outcomes, bins: int, temper: float) -> NDArray[np.float64]:
    return histogram(scores, outcomes, np.zeros((len(scores), 0), dtype=bool), bins, temper)[0].astype(float)


def within(bounds: Bounds, *values: float) -> None:
    for value in values:
        assert bounds[0] - 1e-9 <= value <= bounds[1] + 1e-9


@settings(max_examples=200, deadline=None)
@given(patients, binnings)
def test_every_metric_is_within_its_binning_error(found: list[tuple[int, bool]], binning: tuple[int, float]) -> None:
    scores, outcomes = arrays(found)
    counts, edges, centres = counts_of(scores, outcomes, *binning), bin_edges(*binning), bin_centres(*binning)
    within(auroc_bounds(counts), float(auroc(counts)), roc_auc_score(outcomes, scores))
    within(
        average_precision_bounds(counts), float(average_precision(counts)), average_precision_score(outcomes, scores)
    )
    within(brier_bounds(counts, edges), float(brier(counts, centres)), brier_score_loss(outcomes, scores))
    within(
        calibration_gap_bounds(counts, edges),
        float(calibration_gap(counts, centres)),
        scores.mean() - outcomes.mean(dtype=float),
    )
    cells = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, binning[0] - 1)
    raw = sum(abs((scores - outcomes)[cells == cell].sum()) for cell in set(cells)) / len(scores)
    if np.array_equal(np.bincount(cells, minlength=binning[0]), counts.sum(1)):  # but for round-off at an edge
        within(calibration_error_bounds(counts, edges), float(calibration_error(counts, centres)), raw)


@settings(max_examples=100, deadline=None)
@given(patients, binnings, st.integers(1, 9))
def test_rates_at_a_threshold_are_within_their_bin(
    found: list[tuple[int, bool]], binning: tuple[int, float], tenths: int
) -> None:
    threshold = tenths / 10 + 0.0003  # no score lies on it
    scores, outcomes = arrays(found)
    counts, edges = counts_of(scores, outcomes, *binning), bin_edges(*binning)
    first = first_bin(bin_centres(*binning), threshold)
    called = scores >= threshold
    recall = float(recall_score(outcomes, called))
    within(sensitivity_bounds(counts, edges, threshold), float(sensitivity(counts, first)), recall)
    true_negative = float(recall_score(1 - outcomes, ~called))
    within(specificity_bounds(counts, edges, threshold), float(specificity(counts, first)), true_negative)


@pytest.mark.parametrize("bins", [10, 16, 100])
@pytest.mark.parametrize("temper", [1.0, 4.0])
def test_a_threshold_of_one_half_is_an_edge_of_an_even_number_of_bins(bins: int, temper: float) -> None:
    rng = np.random.default_rng(bins)
    scores, outcomes = rng.random(300), (rng.random(300) < 0.4).astype(np.float32)
    counts, edges = counts_of(scores, outcomes, bins, temper), bin_edges(bins, temper)
    first = first_bin(bin_centres(bins, temper), 0.5)
    assert sensitivity(counts, first) == recall_score(outcomes, scores >= 0.5)
    assert specificity(counts, first) == recall_score(1 - outcomes, scores < 0.5)
    assert selection_rate(counts, first) == (scores >= 0.5).mean()
    low, high = sensitivity_bounds(counts, edges, 0.5)
    assert low == high == sensitivity(counts, first)


def test_the_calibration_curve_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(4)
    scores = rng.random(2000)
    outcomes = (rng.random(2000) < scores).astype(np.float32)
    observed, mean_score = calibration_curve(outcomes, scores, n_bins=10)
    counts = counts_of(scores, outcomes, 10, 1.0)
    np.testing.assert_allclose(prevalence(counts[:, None, :]), observed)
    assert np.abs(bin_centres(10, 1.0) - mean_score).max() <= 0.05


def test_auroc_s_bound_is_reached() -> None:
    """Two scores of one bin in the right and in the wrong order: the bound cannot be smaller."""
    outcomes = np.array([0, 1], dtype=np.float32)
    for scores, raw in ((np.array([0.41, 0.42]), 1.0), (np.array([0.42, 0.41]), 0.0)):
        low, high = auroc_bounds(counts_of(scores, outcomes, 10, 1.0))
        assert (low, high) == (0.0, 1.0)
        assert roc_auc_score(outcomes, scores) == raw


@pytest.mark.parametrize(("bins", "temper", "most"), [(10, 1.0, 0.05), (100, 4.0, 0.02)])
def test_the_binning_error_that_the_documentation_states(bins: int, temper: float, most: float) -> None:
    """A model of AUROC .88 as the heart hospitals': how far bounds reach, and how little is really lost."""
    rng = np.random.default_rng(0)
    outcomes = (rng.random(20_000) < 0.5).astype(np.float32)
    scores = 1 / (1 + np.exp(-0.8 * (rng.normal(size=20_000) + 1.7 * (outcomes - 0.5))))
    counts = counts_of(scores, outcomes, bins, temper)
    low, high = auroc_bounds(counts)
    assert (high - low) / 2 <= most
    assert abs(float(auroc(counts)) - roc_auc_score(outcomes, scores)) <= most / 5


def test_nothing_is_divided_by_nothing() -> None:
    nobody, ill = np.zeros((10, 2)), np.zeros((10, 2))
    ill[3, 1] = 5
    centres = bin_centres(10)
    for counts in (nobody, ill):
        assert math.isnan(auroc(counts))
    assert math.isnan(average_precision(nobody))
    assert math.isnan(brier(nobody, centres))
    assert math.isnan(calibration_gap(nobody, centres))
    assert math.isnan(calibration_error(nobody, centres))
    assert math.isnan(sensitivity(nobody, 5))
    assert math.isnan(specificity(ill, 5))
    assert sensitivity(ill, 3) == average_precision(ill) == 1.0
