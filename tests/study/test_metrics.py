"""Metrics from counts, against scikit-learn, a textbook DeLong and a bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, roc_auc_score

from fedward.privacy.errors import InputError
from fedward.study.metrics import (
    SMALL,
    Z95,
    auroc,
    bin_centres,
    exact_auroc,
    histogram,
    histogram_shape,
    slice_names,
    suppress_small,
    suppress_sums,
)
from fedward.study.metrics.measures import brier


def sample(n: int, seed: int, shift: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    outcomes = (rng.random(n) < 0.4).astype(np.float32)
    outcomes[:2] = (0, 1)
    return 1 / (1 + np.exp(-(rng.normal(size=n) + shift * outcomes))), outcomes


def everybody(scores: NDArray[np.float64], outcomes: NDArray[np.float32], bins: int) -> NDArray[np.int64]:
    return histogram(scores, outcomes, np.zeros((len(scores), 0), dtype=bool), bins)[0]


def delong(scores: NDArray[np.float64], outcomes: NDArray[np.float32]) -> float:
    """The variance by the definition, pair by pair: V10 and V01 of DeLong et al. 1988."""
    positive, negative = scores[outcomes == 1], scores[outcomes == 0]
    wins = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    return float(wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative))


def tempered(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the bins are equal in: a quarter of the score's logit, as a probability again."""
    return np.asarray(expit(logit(scores) / 4))


def middles_of(scores: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Each score moved to the middle of its bin."""
    return np.asarray(expit(4 * logit((np.floor(tempered(scores) * bins) + 0.5) / bins)))


def width(low: float, high: float) -> float:
    return math.log(high / (1 - high)) - math.log(low / (1 - low))


small_studies = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(patients=small_studies)
def test_auroc_equals_scikit_learn_with_ties(patients: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 6 for score, _ in patients])
    outcomes = np.array([ill for _, ill in patients], dtype=np.float32)
    got = exact_auroc(scores, outcomes)
    if len(set(outcomes)) < 2:
        assert got is None
        return
    assert got is not None
    assert got.value == pytest.approx(roc_auc_score(outcomes, scores), abs=1e-12)
    assert (got.positives, got.negatives) == (int(outcomes.sum()), int((1 - outcomes).sum()))
    assert 0 <= got.low <= got.value <= got.high <= 1


@pytest.mark.parametrize("seed", range(5))
def test_auroc_of_bins_equals_scikit_learn_on_binned_scores(seed: int) -> None:
    scores, outcomes = sample(300, seed)
    got = auroc(everybody(scores, outcomes, 20))
    assert got is not None
    assert got.value == pytest.approx(roc_auc_score(outcomes, np.floor(tempered(scores) * 20)), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bins", [20, None])
def test_the_interval_is_delong_s_on_the_logit_scale(seed: int, bins: int | None) -> None:
    scores, outcomes = sample(120, seed)
    if bins is not None:
        scores = middles_of(scores, bins)
    got = exact_auroc(scores, outcomes) if bins is None else auroc(everybody(scores, outcomes, bins))
    assert got is not None
    error = math.sqrt(delong(scores, outcomes)) / (got.value * (1 - got.value))
    assert width(got.low, got.high) == pytest.approx(2 * Z95 * error, rel=1e-9)
    middle = math.log(got.value / (1 - got.value))
    assert math.log(got.low / (1 - got.low)) == pytest.approx(middle - Z95 * error, rel=1e-9)


def test_the_interval_agrees_with_a_bootstrap() -> None:
    scores, outcomes = sample(400, 7)
    got, rng, values = exact_auroc(scores, outcomes), np.random.default_rng(0), []
    for _ in range(400):
        drawn = rng.integers(0, len(scores), len(scores))
        again = exact_auroc(scores[drawn], outcomes[drawn])
        assert again is not None
        values.append(again.value)
    low, high = np.quantile(values, [0.025, 0.975])
    assert got is not None
    assert got.high - got.low == pytest.approx(high - low, rel=0.2)
    assert (got.low, got.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))


@pytest.mark.parametrize("order", [1, -1])
def test_a_perfect_or_perfectly_wrong_order_stays_in_the_unit_interval(order: int) -> None:
    scores = np.arange(10) / 10
    outcomes = (order * (np.arange(10) - 4.5) > 0).astype(np.float32)
    got = exact_auroc(scores, outcomes)
    assert got is not None
    assert got.value == (1.0 if order == 1 else 0.0)
    assert 0 <= got.low <= got.value <= got.high <= 1


def test_one_patient_of_a_class_leaves_the_interval_wide() -> None:
    got = exact_auroc(np.array([0.1, 0.2, 0.3, 0.15]), np.array([0, 0, 0, 1], dtype=np.float32))
    assert got is not None
    assert got.value == pytest.approx(1 / 3)
    assert got.high - got.low > 0.6


@pytest.mark.parametrize("column", [[3, 0], [0, 3], [0, 0]])
def test_auroc_without_both_outcomes_is_none_not_a_number(column: list[int]) -> None:
    assert auroc(np.array([column] * 10, dtype=np.int64)) is None


def test_exact_auroc_of_nobody_is_none() -> None:
    assert exact_auroc(np.zeros(0), np.zeros(0, dtype=np.float32)) is None


def test_brier_equals_scikit_learn_at_the_middles_of_the_bins() -> None:
    scores, outcomes = sample(200, 3)
    expected = brier_score_loss(outcomes, middles_of(scores, 50))
    assert brier(everybody(scores, outcomes, 50), bin_centres(50)) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(brier(np.zeros((10, 2), dtype=np.int64), bin_centres(10)))


# --- histograms -----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(data=st.data(), n=st.integers(0, 30), groups=st.integers(0, 3), bins=st.integers(10, 40))
def test_a_histogram_counts_every_patient_where_it_belongs(data: st.DataObject, n: int, groups: int, bins: int) -> None:
    def column(of: st.SearchStrategy[object]) -> list[object]:
        return data.draw(st.lists(of, min_size=n, max_size=n))

    scores = np.array(column(st.floats(0, 1)), dtype=np.float64)
    outcomes = np.array(column(st.sampled_from([0, 1])), dtype=np.float32)
    membership = np.array([column(st.booleans()) for _ in range(groups)], dtype=bool).reshape(groups, n).T
    expected = np.zeros((groups + 1, bins, 2), dtype=np.int64)
    for i in range(n):
        cell = min(int(scores[i] ** 0.25 / (scores[i] ** 0.25 + (1 - scores[i]) ** 0.25) * bins), bins - 1)
        for group in [0, *(g + 1 for g in range(groups) if membership[i, g])]:
            expected[group, cell, int(outcomes[i])] += 1
    got = histogram(scores, outcomes, membership, bins)
    assert got.dtype == np.int64
    assert np.array_equal(got, expected)


def test_histograms_of_sites_add_up_to_the_histogram_of_all() -> None:
    scores, outcomes = sample(100, 1)
    parts = [everybody(scores[a:b], outcomes[a:b], 20) for a, b in ((0, 30), (30, 31), (31, 100))]
    assert np.array_equal(sum(parts), everybody(scores, outcomes, 20))


@pytest.mark.parametrize("score", [np.nan, -0.1, 1.1, np.inf])
def test_a_score_that_is_no_probability_is_refused(score: float) -> None:
    with pytest.raises(InputError) as caught:
        histogram(np.array([score]), np.zeros(1, dtype=np.float32), np.zeros((1, 0), dtype=bool), 10)
    assert caught.value.code == "not-finite"


@pytest.mark.parametrize("outcome", [2, -1, 0.5, np.nan])
def test_an_outcome_that_is_neither_is_refused(outcome: float) -> None:
    with pytest.raises(InputError, match="neither 0 nor 1"):
        histogram(np.array([0.5]), np.array([outcome], dtype=np.float32), np.zeros((1, 0), dtype=bool), 10)


def test_lengths_that_differ_are_refused() -> None:
    for n, m, k in ((2, 1, 1), (1, 2, 1), (1, 1, 2)):
        with pytest.raises(InputError, match="differ in length"):
            histogram(np.zeros(n), np.zeros(m, dtype=np.float32), np.zeros((k, 0), dtype=bool), 10)


def test_the_slices_of_a_study_are_everybody_and_each_group() -> None:
    manifest = heart_manifest(evaluation={"bins": 30})
    assert slice_names(manifest)[:3] == ("everybody", "sex=female", "sex=male")
    assert histogram_shape(manifest) == (1 + 2 + 3, 30, 2)


@pytest.mark.parametrize("bins", [10, 11, 100])
def test_a_score_at_the_middle_of_a_bin_is_counted_there(bins: int) -> None:
    middles = bin_centres(bins)
    np.testing.assert_allclose(middles, expit(4 * logit((np.arange(bins) + 0.5) / bins)), rtol=1e-9)
    assert everybody(middles, np.zeros(bins, dtype=np.float32), bins)[:, 0].tolist() == [1] * bins


def test_the_ends_of_the_scale_are_in_the_outermost_bins() -> None:
    counts = everybody(np.array([0.0, 1.0]), np.array([0, 1], dtype=np.float32), 10)
    assert (counts[0, 0], counts[-1, 1]) == (1, 1)


def test_a_hidden_group_cannot_be_found_by_subtraction() -> None:
    groups = [{"column": "sex"}, {"column": "cp"}]
    manifest = heart_manifest(fairness={"groups": groups})
    enough, few = (SMALL, SMALL), (SMALL, SMALL - 1)
    counts = {
        "sex=female": few,
        "sex=male": (100, 100),
        "cp=typical": few,
        "cp=atypical": (50, 50),
        "cp=non-anginal": (40, 40),
        "cp=asymptomatic": (60, 60),
    }
    assert suppress_small(manifest, counts) == {"sex=female", "sex=male", "cp=typical", "cp=non-anginal"}
    # Two that are small have 22 and 20 together: too few to leave each of them open.
    two = suppress_small(manifest, counts | {"cp=atypical": few})
    assert two == {"sex=female", "sex=male", "cp=typical", "cp=atypical", "cp=non-anginal"}
    assert suppress_small(manifest, dict.fromkeys(counts, enough)) == set()
    even = {name: (50, 50) if name.startswith("sex") else (25, 25) for name in counts}
    assert suppress_small(manifest, even, (100, 100)) == set()
    assert suppress_small(manifest, even | {"sex=male": (48, 50)}, (100, 100)) == {"sex=male"}  # two have no sex
    assert suppress_small(manifest, even, (SMALL - 1, 100)) == set(counts)


def test_of_summed_counts_nobody_follows_who_is_in_no_group() -> None:
    counts = {"everybody": (100, 100), "sex=female": (50, 50), "sex=male": (48, 50)}
    counts |= {f"age in {age}": (20, 20) for age in ("[0, 50)", "[50, 65)", "[65, 120)")}
    exact = heart_manifest()
    assert suppress_sums(exact, counts) == {"sex=male"}  # two patients have no sex
    assert suppress_sums(exact, counts | {"sex=male": (50, 50)}) == set()
    assert suppress_sums(heart_manifest(noised=True), counts) == set()  # noised counts do not add up
    for manifest in (exact, heart_manifest(noised=True)):
        assert suppress_sums(manifest, counts | {"everybody": (SMALL - 1, 100)}) == set(counts)
        assert suppress_sums(manifest, {"everybody": (100, 100)}) == set(counts) - {"everybody"}


def test_a_hidden_crossed_group_cannot_be_found_from_its_margins() -> None:
    manifest = heart_manifest(fairness={"intersections": [["sex", "age"]]})
    sexes, ages = ("female", "male"), ("[0, 50)", "[50, 65)", "[65, 120)")
    cells = {f"sex={sex} & age in {age}": (30, 30 + place) for sex in sexes for place, age in enumerate(ages)}
    cells["sex=female & age in [65, 120)"] = (30, SMALL - 1)

    def total(part: str) -> tuple[int, int]:
        chosen = [pair for name, pair in cells.items() if part in name]
        return sum(pair[0] for pair in chosen), sum(pair[1] for pair in chosen)

    counts = {name: total(name) for name in (*(f"sex={sex}" for sex in sexes), *(f"age in {age}" for age in ages))}
    hidden = {f"sex={sex} & age in {age}" for sex in sexes for age in (ages[0], ages[2])}
    assert suppress_small(manifest, counts | cells) == suppress_small(manifest, counts | cells, total("")) == hidden


def test_a_perfect_order_of_few_patients_leaves_a_wide_interval() -> None:
    scores, outcomes = np.array([0.1, 0.2, 0.3, 0.8, 0.9]), np.array([0, 0, 0, 1, 1], dtype=np.float32)
    perfect, inverted = exact_auroc(scores, outcomes), exact_auroc(-scores, outcomes)
    assert perfect is not None
    assert inverted is not None
    # Clopper-Pearson's lower bound of 2 successes in 2: the root of p² = 0.025.
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.025**0.5)
    assert (inverted.low, inverted.high) == pytest.approx((0.0, 1 - 0.025**0.5))
