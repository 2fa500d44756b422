"""Calibration that may be shown: no group is small, none is lost, and each is what its bins together say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.study.metrics import SMALL, bin_centres, bin_edges, calibration_curve, calibration_groups

BINS = 12
EDGES, CENTRES = bin_edges(BINS), bin_centres(BINS)
cells = st.lists(st.tuples(st.integers(-8, 60), st.integers(-8, 60)), min_size=BINS, max_size=BINS)
counts_of = cells.map(lambda rows: np.array(rows, dtype=np.int64))


@settings(deadline=None)
@given(counts_of, st.sampled_from([0.0, 4.0]))
def test_no_group_is_small_and_no_bin_is_lost(counts: NDArray[np.int64], deviation: float) -> None:
    groups = calibration_groups(counts, deviation, EDGES, CENTRES)
    for one in groups:
        inside = [one.low < centre < one.high for centre in CENTRES]
        negatives, positives = counts[inside].sum(0)
        assert min(negatives, positives) >= SMALL
        assert one.patients == negatives + positives
        assert one.low < one.score < one.high
    if groups:
        assert (groups[0].low, groups[-1].high) == (0.0, 1.0)
        assert [one.high for one in groups[:-1]] == [one.low for one in groups[1:]]
        assert sum(one.patients for one in groups) == counts.sum()
    if np.maximum(counts, 0).sum(0).min() < SMALL:
        assert groups == ()


def test_a_group_is_what_its_bins_together_say() -> None:
    counts = np.zeros((BINS, 2), dtype=np.int64)
    counts[2] = (30, 4)
    counts[3] = (10, 8)
    counts[9] = (12, 40)
    low, high = calibration_groups(counts, 0.0, EDGES, CENTRES)
    assert low.observed == 12 / 52
    assert low.score == pytest.approx((34 * CENTRES[2] + 18 * CENTRES[3]) / 52)
    assert (low.patients, high.patients) == (52, 52)
    assert high.observed == 40 / 52
    assert low.observed_low < low.observed < low.observed_high


def test_noise_adds_up_over_the_bins_of_a_group() -> None:
    counts = np.zeros((BINS, 2), dtype=np.int64)
    counts[:4] = (20, 5)
    (one,) = calibration_groups(counts, 3.0, EDGES, CENTRES)
    (exact,) = calibration_groups(counts, 0.0, EDGES, CENTRES)
    (twelve,) = calibration_curve(counts.sum(0)[None, :], 3.0 * np.sqrt(BINS), np.array([one.score]))
    assert (one.observed_low, one.observed_high) == (twelve.low, twelve.high)
    assert one.observed_high - one.observed_low > exact.observed_high - exact.observed_low
