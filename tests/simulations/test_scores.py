"""Scores and gaps against scikit-learn and fairlearn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, equal_opportunity_difference, equalized_odds_difference
from federation import heart_manifest
from sklearn.metrics import recall_score, roc_auc_score

from fedward.simulations.baselines import Split
from fedward.simulations.scores import EVERYBODY, Score, Unseen, gaps_of, group_gaps
from fedward.study.encoding import Encoded, group_names, input_names

MANIFEST = heart_manifest()


def unseen(number: int = 400) -> Unseen:
    generator = np.random.default_rng(4)
    sex, age = generator.integers(0, 2, number), generator.integers(0, 3, number)
    membership = np.column_stack([sex == 0, sex == 1, age == 0, age == 1, age == 2])
    outcomes = (generator.random(number) < 0.2 + 0.3 * sex).astype(np.float32)
    inputs = np.zeros((number, len(input_names(MANIFEST))), dtype=np.float32)
    data = Encoded(tuple(f"p{row}" for row in range(number)), inputs, outcomes, membership)
    return Unseen.of(
        MANIFEST,
        {
            "a": Split(data, data.select(np.arange(number) < 250)),
            "b": Split(data, data.select(np.arange(number) >= 250)),
        },
    )


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_scores_and_gaps_are_the_libraries(threshold: float) -> None:
    people = unseen()
    outcomes, membership = people.everybody.outcomes, people.everybody.membership
    chances = np.clip(np.random.default_rng(5).normal(0.3 + 0.2 * outcomes + 0.1 * membership[:, 1], 0.2), 0, 1)
    scores = people.scores("federated", chances, threshold)
    called = chances >= threshold
    by = {one.slice: one for one in scores}
    assert list(by) == [EVERYBODY, "site=a", "site=b", *group_names(MANIFEST)]
    assert by[EVERYBODY].sensitivity == pytest.approx(recall_score(outcomes, called))
    assert by[EVERYBODY].specificity == pytest.approx(recall_score(outcomes, called, pos_label=0))
    assert by["site=b"].auroc == pytest.approx(roc_auc_score(outcomes[250:], chances[250:]))
    found = {one.slice: one.mean for one in group_gaps(MANIFEST, [scores])}
    for attribute, places in {"sex": (0, 1), "age": (2, 3, 4)}.items():
        group = np.argmax(membership[:, places], axis=1)
        areas = [roc_auc_score(outcomes[group == one], chances[group == one]) for one in range(len(places))]
        assert found[f"{attribute}: auroc"] == pytest.approx(max(areas) - min(areas))
        for kind, library in {
            "equalized_odds": equalized_odds_difference,
            "equal_opportunity": equal_opportunity_difference,
            "demographic_parity": demographic_parity_difference,
        }.items():
            expected = library(outcomes, called, sensitive_features=group)
            assert found[f"{attribute}: {kind}"] == pytest.approx(expected)


def score(**rates: float) -> Score:
    return Score("federated", "x", 10, 5, **({"auroc": 0.5, "brier": 0.1} | rates))


def test_a_group_without_a_rate_is_left_out_and_one_group_has_no_gap() -> None:
    known = [score(sensitivity=0.9, specificity=0.5), score(sensitivity=0.6, specificity=0.6)]
    unknown = score(auroc=math.nan, sensitivity=math.nan, specificity=0.1)
    found = gaps_of([*known, unknown])
    assert found["equal_opportunity"] == pytest.approx(0.3)
    assert found["equalized_odds"] == pytest.approx(0.5)
    assert found["auroc"] == 0
    assert all(
        math.isnan(gap)
        for kind, gap in gaps_of([known[0], unknown]).items()
        if kind not in {"demographic_parity", "equalized_odds"}
    )
    assert math.isnan(gaps_of([known[0], unknown])["equalized_odds"])  # its sensitivity is of one group
