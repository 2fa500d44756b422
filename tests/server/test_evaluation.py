"""Evaluation: counts are summed first, and the metrics are those of all patients pooled."""

from __future__ import annotations

import numpy as np
import pytest
from federation import heart_manifest
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from fedward.privacy.errors import InputError
from fedward.server.evaluation import evaluate
from fedward.server.records import MetricRow
from fedward.study.messages import counts_from_bytes
from fedward.study.metrics import histogram, histogram_shape, slice_names

MANIFEST = heart_manifest(evaluation={"bins": 50})
GROUPS = len(slice_names(MANIFEST)) - 1


def site(n: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    outcomes = (rng.random(n) < 0.5).astype(np.float32)
    return rng.beta(2, 2, n) * 0.6 + 0.3 * outcomes, outcomes, rng.random((n, GROUPS)) < 0.4


PARTS = [site(60, 1), site(90, 2), site(40, 3)]
NAMES = ("cleveland", "hungarian", "va")
HISTOGRAMS = [histogram(*part, MANIFEST.evaluation.bins) for part in PARTS]
TOTAL = np.sum(HISTOGRAMS, axis=0)


def rows(name: str) -> dict[str, MetricRow]:
    found = evaluate(MANIFEST, 4, NAMES, TOTAL).metrics
    assert {row.version for row in found} == {4}
    return {row.slice: row for row in found if row.name == name}


def test_each_slice_s_auroc_is_scikit_learn_s_on_the_pooled_patients() -> None:
    scores, outcomes = (np.concatenate([part[i] for part in PARTS]) for i in (0, 1))
    membership = np.concatenate([part[2] for part in PARTS])
    binned = np.floor(expit(logit(scores) / 4) * 50)
    got = rows("auroc")
    assert tuple(got) == slice_names(MANIFEST)
    masks = [np.ones(len(scores), dtype=bool), *membership.T]
    for row, mask in zip(got.values(), masks, strict=True):
        assert row.value == pytest.approx(roc_auc_score(outcomes[mask], binned[mask]), abs=1e-12)
        assert row.low is not None
        assert row.high is not None
        assert row.low < row.value < row.high
        assert (row.positives, row.negatives) == (int(outcomes[mask].sum()), int((1 - outcomes[mask]).sum()))


def test_every_metric_has_a_row_for_every_slice_and_gaps_have_one_for_every_attribute() -> None:
    found = evaluate(MANIFEST, 4, NAMES, TOTAL).metrics
    metrics = {row.name for row in found if row.slice == "everybody"}
    assert metrics >= {"auroc", "auprc", "brier", "calibration_gap", "calibration_error", "sensitivity", "specificity"}
    assert "precision" in metrics
    gaps = {"demographic_parity_gap", "equal_opportunity_gap", "equalized_odds_gap", "predictive_parity_gap"}
    gaps |= {"auroc_gap", "calibration_spread", "worst_auroc"}
    assert {row.name for row in found} == metrics | gaps
    for name in metrics:
        assert tuple(rows(name)) == slice_names(MANIFEST)
    for name in gaps:
        assert set(rows(name)) == {group.column for group in MANIFEST.fairness.groups}
    for row in found:
        assert row.value is not None
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high
        assert (row.low, row.high) != (row.value, row.value)


def test_the_same_counts_give_the_same_intervals() -> None:
    assert evaluate(MANIFEST, 4, NAMES, TOTAL, 2.0) == evaluate(MANIFEST, 4, NAMES, TOTAL, 2.0)


def test_noise_widens_every_interval_and_gives_no_negative_patients() -> None:
    noisy = TOTAL + np.random.default_rng(0).integers(-3, 4, TOTAL.shape)
    noisy[1, :, 1] = -4  # a group whose counted positives are less than none
    exact = {(row.slice, row.name): row for row in evaluate(MANIFEST, 4, NAMES, TOTAL).metrics}
    found = evaluate(MANIFEST, 4, NAMES, noisy, 2.0).metrics
    assert all(row.positives >= 0 and row.negatives >= 0 for row in found)
    for row in found:
        if row.slice == "everybody" and row.low is not None and row.high is not None:
            before = exact[row.slice, row.name]
            assert before.high is not None
            assert before.low is not None
            assert row.high - row.low > before.high - before.low
    undefined = {row.name for row in found if row.slice == "sex=female" and row.value is None}
    assert undefined >= {"auroc", "sensitivity"}


def test_only_the_sum_is_kept() -> None:
    kept = evaluate(MANIFEST, 0, NAMES, TOTAL)
    assert kept.sites == NAMES
    assert np.array_equal(counts_from_bytes(kept.counts, histogram_shape(MANIFEST)), sum(HISTOGRAMS))
    assert not any(counts.tobytes() in kept.counts for counts in HISTOGRAMS)


def test_a_slice_without_both_outcomes_has_no_number() -> None:
    nobody = np.zeros(histogram_shape(MANIFEST), dtype=np.int64)
    found = evaluate(MANIFEST, 0, ("va",), nobody).metrics
    assert {(row.value, row.low, row.high, row.positives, row.negatives) for row in found} == {(None, None, None, 0, 0)}
    noisy = nobody + np.random.default_rng(3).integers(-5, 6, nobody.shape)
    assert {row.value for row in evaluate(MANIFEST, 0, ("va",), noisy, 3.2).metrics} == {None}


@pytest.mark.parametrize("total", [TOTAL[:, :-1], TOTAL[:-1], TOTAL.reshape(-1)])
def test_a_sum_that_does_not_fit_is_refused(total: NDArray[np.int64]) -> None:
    with pytest.raises(InputError, match="do not fit"):
        evaluate(MANIFEST, 0, NAMES, total)
