"""Rates and gaps of counts against fairlearn and scikit-learn on the raw scores of the patients behind them."""

from __future__ import annotations

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
)
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import precision_score, roc_auc_score

from fedward.study.manifest import Evaluation, Manifest
from fedward.study.metrics import bin_centres, estimates, histogram, slice_names
from fedward.study.metrics.binning import auroc_bounds
from fedward.study.metrics.intervals import Estimate
from fedward.study.metrics.measures import (
    auroc,
    average_precision,
    brier,
    calibration_error,
    calibration_gap,
    first_bin,
    point_measures,
    precision,
    prevalence,
    selection_rate,
    sensitivity,
    specificity,
    spread,
)

Real = NDArray[np.float64]
GROUPS = 3

# Thousandths, so that scores lie on edges too; each group has both outcomes.
people = st.lists(
    st.tuples(st.integers(0, 1000), st.booleans(), st.integers(0, GROUPS - 1)), min_size=6, max_size=80
).map(
    lambda drawn: [
        *drawn,
        *((level, ill, group) for group in range(GROUPS) for level, ill in ((300, True), (700, False))),
    ]
)
# Bins of which the threshold is an edge.
decisions = st.sampled_from([(10, 1.0, 0.5), (100, 4.0, 0.5), (20, 1.0, 0.25), (40, 1.0, 0.7)])  # fmt: skip


def raw(drawn: list[tuple[int, bool, int]]) -> tuple[Real, NDArray[np.float32], NDArray[np.int64]]:
    scores, outcomes, groups = (np.array(column) for column in zip(*drawn, strict=True))
    return scores / 1000, outcomes.astype(np.float32), groups


def counted(scores: Real, outcomes: NDArray[np.float32], groups: NDArray[np.int64], bins: int, temper: float) -> Real:
    """(groups, bins, 2)."""
    membership = groups[:, None] == np.arange(GROUPS)
    return histogram(scores, outcomes, membership, bins, temper)[1:].astype(np.float64)


def predictive_value(outcomes: Real, called: Real) -> float:
    return float(precision_score(outcomes, called, zero_division=np.nan))


def decided(counts: Real, bins: int, temper: float, threshold: float) -> dict[str, Real]:
    centres = bin_centres(bins, temper)
    return point_measures(counts, centres, first_bin(centres, threshold))


@settings(max_examples=150)
@given(people, decisions)
def test_rates_and_gaps_are_the_libraries(
    drawn: list[tuple[int, bool, int]], decision: tuple[int, float, float]
) -> None:
    scores, outcomes, groups = raw(drawn)
    bins, temper, threshold = decision
    if temper == 1.0:  # thousandths of a bin's width may fall on the edge's other side by round-off: keep off it
        scores = np.clip(scores + 1e-9, 0, 1)
    called = scores >= threshold
    found = decided(counted(scores, outcomes, groups, bins, temper), bins, temper, threshold)
    kept = {"sensitive_features": groups}
    frame = MetricFrame(metrics=predictive_value, y_true=outcomes, y_pred=called, **kept)  # fmt: skip
    np.testing.assert_allclose(found["precision"], frame.by_group.to_numpy(), atol=1e-12)
    if not np.isnan(found["precision"]).any():
        assert spread(found["precision"]) == pytest.approx(frame.difference(), abs=1e-12)
    for rate, library in {
        "selection_rate": demographic_parity_difference,
        "sensitivity": equal_opportunity_difference,
    }.items():
        assert spread(found[rate]) == pytest.approx(library(outcomes, called, **kept), abs=1e-12)
    odds = max(spread(found["sensitivity"]), spread(found["specificity"]))
    assert odds == pytest.approx(equalized_odds_difference(outcomes, called, **kept), abs=1e-12)


@settings(max_examples=150)
@given(people, decisions)
def test_auroc_per_group_is_within_its_binning_error(
    drawn: list[tuple[int, bool, int]], decision: tuple[int, float, float]
) -> None:
    scores, outcomes, groups = raw(drawn)
    counts = counted(scores, outcomes, groups, *decision[:2])
    areas = [roc_auc_score(outcomes[groups == group], scores[groups == group]) for group in range(GROUPS)]
    bounds = [auroc_bounds(part) for part in counts]
    for (low, high), area, value in zip(bounds, areas, decided(counts, *decision)["auroc"], strict=True):
        assert low - 1e-9 <= area <= high + 1e-9
        assert low - 1e-9 <= value <= high + 1e-9
    lows, highs = zip(*bounds, strict=True)
    assert min(lows) - 1e-9 <= min(areas) <= min(highs) + 1e-9
    assert spread(np.array(areas)) <= max(highs) - min(lows) + 1e-9


@settings(max_examples=100)
@given(arrays(np.int64, (2, 3, 12, 2), elements=st.integers(0, 5)), st.integers(0, 12), st.sampled_from([1.0, 4.0]))
def test_all_measures_at_once_are_each_of_them(counts: NDArray[np.int64], first: int, temper: float) -> None:
    counts[0, 0] *= first % 2  # a slice of nobody, often
    real, centres = counts.astype(float), bin_centres(12, temper)
    each = {
        "auroc": auroc(real), "auprc": average_precision(real), "brier": brier(real, centres),
        "calibration_gap": calibration_gap(real, centres), "calibration_error": calibration_error(real, centres),
        "sensitivity": sensitivity(real, first), "specificity": specificity(real, first),
        "selection_rate": selection_rate(real, first), "precision": precision(real, first),
        "prevalence": prevalence(real),
    }  # fmt: skip
    found = point_measures(real, centres, first)
    assert list(found) == list(each)
    for name, value in each.items():
        np.testing.assert_allclose(found[name], value, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(point_measures(real[1, 2], centres, first)[name], value[1, 2], atol=1e-12)


def test_many_histograms_are_taken_in_blocks_without_mixing_them() -> None:
    counts = np.random.default_rng(2).integers(0, 9, (7, 11, 1000, 2)).astype(float)
    found = point_measures(counts, bin_centres(1000), 500)
    np.testing.assert_allclose(found["auroc"], auroc(counts))
    np.testing.assert_allclose(found["precision"], precision(counts, 500))
    assert point_measures(counts[:0], bin_centres(1000), 500)["auroc"].shape == (0, 11)


def test_nobody_called_positive_has_no_precision() -> None:
    counts = np.zeros((10, 2))
    counts[:4] = 5
    assert np.isnan(precision(counts, 6))
    assert precision(counts, 2) == 0.5


# --- estimates -------------------------------------------------------------------------------------------------------------


def study(**evaluation: object) -> Manifest:
    return heart_manifest(evaluation={"bins": 20, "temper": 1.0, **evaluation})


def population(manifest: Manifest, patients: int, seed: int) -> NDArray[np.int64]:
    """Counts of everybody and each group; women's scores tell less, and older patients' are too high."""
    rng = np.random.default_rng(seed)
    names = slice_names(manifest)[1:]
    women, ages = rng.random(patients) < 0.5, rng.integers(0, len(names) - 2, patients)
    outcomes = (rng.random(patients) < 0.4).astype(np.float32)
    scores = rng.normal(size=patients) + (outcomes - 0.4) * np.where(women, 1.0, 2.0) + 0.3 * ages
    membership = np.column_stack([women, ~women, *(ages == age for age in range(len(names) - 2))])
    return histogram(1 / (1 + np.exp(-scores)), outcomes, membership, 20, 1.0)


def by_name(found: list[Estimate], slice_: str) -> dict[str, Estimate]:
    return {one.name: one for one in found if one.slice == slice_}


GAPS = {"predictive_parity_gap": "precision", "auroc_gap": "auroc", "calibration_spread": "calibration_gap"}


def truth(manifest: Manifest, counts: NDArray[np.int64], slices: slice) -> dict[str, float]:
    point = point_measures(counts[slices].astype(float), bin_centres(20, 1.0), 10)
    return {name: float(spread(point[key])) for name, key in GAPS.items()} | {
        "worst_auroc": float(point["auroc"].min())
    }


@pytest.mark.parametrize("deviation", [0.0, 3.0])
def test_gaps_and_the_worst_auroc_are_near_the_population_s(deviation: float) -> None:
    """Forty studies of 1200 patients. Where groups differ, the estimates' mean is the truth's but for chance; where they hardly do,
    it is too high, as any gap is, but less so than the gap of the counts. Intervals hold the truth, of three groups' gaps somewhat
    less often than they say."""
    manifest = study()
    large = population(manifest, 400_000, 1)
    wanted = {"sex": truth(manifest, large, slice(1, 3)), "age": truth(manifest, large, slice(3, None))}
    held: dict[tuple[str, str], list[bool]] = {}
    values: dict[tuple[str, str], list[float]] = {}
    plain: dict[tuple[str, str], list[float]] = {}
    for seed in range(40):
        counts = population(manifest, 1200, 100 + seed)
        if deviation:
            counts = counts + np.rint(np.random.default_rng(seed).normal(0, deviation, counts.shape)).astype(np.int64)
        found = estimates(manifest, counts, deviation, slice_names(manifest))
        for attribute, true in wanted.items():
            apart = truth(manifest, counts, slice(1, 3) if attribute == "sex" else slice(3, None))
            for name, value in true.items():
                one = by_name(found, attribute)[name]
                assert one.value is not None
                assert one.low is not None
                assert one.high is not None
                assert one.low <= one.value <= one.high
                held.setdefault((attribute, name), []).append(one.low - 1e-9 <= value <= one.high + 1e-9)
                values.setdefault((attribute, name), []).append(one.value)
                plain.setdefault((attribute, name), []).append(apart[name])
    for (attribute, name), inside in held.items():
        true_value, mean = wanted[attribute][name], np.mean(values[attribute, name])
        assert np.mean(inside) >= 0.8, (attribute, name)
        if true_value > 0.05:
            assert abs(mean - true_value) < 0.02, (attribute, name)
        else:
            assert true_value < mean < np.mean(plain[attribute, name]), (attribute, name)


def test_the_minimum_s_bias_is_taken_off() -> None:
    """Groups that are the same: the lowest of their AUROCs is too low on average, the estimate of it less so."""
    manifest, rng = study(), np.random.default_rng(6)
    expected = np.stack([np.linspace(8, 0.5, 20), np.linspace(0.5, 8, 20)], axis=1)
    plain, found = [], []
    for _ in range(40):
        counts = rng.poisson(np.repeat(expected[None], len(slice_names(manifest)), 0))
        plain.append(auroc(counts[3:].astype(float)).min())
        one = by_name(estimates(manifest, counts, 0.0, slice_names(manifest)), "age")["worst_auroc"]
        assert one.value is not None
        found.append(one.value)
    true = float(auroc(expected))
    assert np.mean(plain) < np.mean(found) <= true + 0.005


def test_precision_needs_patients_who_are_called_positive() -> None:
    manifest = heart_manifest(evaluation={"bins": 20, "temper": 1.0}, fairness={"groups": []})
    counts = np.zeros((1, 20, 2), dtype=np.int64)
    counts[0, :10] = 40
    counts[0, 12] = (3, 3)
    found = {one.name: one for one in estimates(manifest, counts, 2.0, ("everybody",))}
    assert found["precision"].value is None  # 6 patients, and noise of 2 on each of 20 cells
    assert found["sensitivity"].value is not None
    assert {one.name: one for one in estimates(manifest, counts, 0.0, ("everybody",))}["precision"].value == 0.5


# --- the threshold ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.25, 0.8])
def test_a_study_s_threshold_decides(threshold: float) -> None:
    counts = population(study(), 2000, 3)
    everybody = counts[0].astype(float)
    manifest, first = study(threshold=threshold), round(20 * threshold)
    found = by_name(estimates(manifest, counts, 0.0, slice_names(manifest)), "everybody")
    assert found["sensitivity"].value == float(sensitivity(everybody, first))
    assert found["precision"].value == float(precision(everybody, first))
    assert found["selection_rate"].value == float(selection_rate(everybody, first))
    plain = by_name(estimates(study(), counts, 0.0, slice_names(manifest)), "everybody")
    assert plain == by_name(estimates(study(threshold=0.5), counts, 0.0, slice_names(manifest)), "everybody")
    assert plain["sensitivity"] != found["sensitivity"]
    assert plain["auroc"] == found["auroc"]


def test_a_study_without_a_threshold_is_written_as_before() -> None:
    plain = study()
    assert b"threshold" not in plain.canonical
    assert set(plain.model_dump()["evaluation"]) == {"noise", "epsilon", "spare_attempts", "every", "bins", "temper"}
    chosen = study(threshold=0.3)
    assert b'"threshold":0.3' in chosen.canonical
    assert type(chosen).model_validate_json(chosen.canonical) == chosen
    assert (plain.counting.threshold, chosen.counting.threshold) == (0.5, 0.3)


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan"), -0.1])
def test_a_threshold_that_decides_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        Evaluation(threshold=threshold)
