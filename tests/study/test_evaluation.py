"""Noised counts: what one patient changes, by brute force; how much noise the plan needs; how far noise reaches."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.accounting import epsilon
from fedward.privacy.errors import InputError
from fedward.privacy.events import EVERYBODY
from fedward.study.encoding import encode
from fedward.study.evaluation import (
    bare,
    count_deviation,
    count_event,
    counts_keep_promise,
    held_out_share,
    most_noise,
    training_share,
)
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest
from fedward.study.metrics import histogram, histogram_shape
from fedward.study.terms import evaluates, privacy_words


def seal(manifest: Manifest, **changes: object) -> SealedManifest:
    noise = 4.0 if manifest.privacy.mechanism == "dp-sgd" else 0.0
    roster = tuple(
        RosterEntry(site=name, identity_key=key * 64, declared_patients=100, noise_multiplier=noise)
        for name, key in (("a", "1"), ("b", "2"), ("c", "3"))
    )
    data: dict[str, object] = {
        "manifest": manifest, "federation_id": "0" * 32, "coordinator_key": "f" * 64, "roster": roster,
        "count_deviation": count_deviation(manifest), "sealed_at": 1, "expires_at": 2,
    }  # fmt: skip
    return SealedManifest.model_validate(data | changes)


# --- what one patient changes ---------------------------------------------------------------------------------------------

SEX, AGE = {"column": "sex"}, {"column": "age", "cut": [0, 50, 65, 120]}
ATTRIBUTES = {
    0: {"groups": []},
    1: {"groups": [SEX]},
    2: {"groups": [SEX, AGE]},
    3: {"groups": [SEX, AGE], "intersections": [["sex", "age"]]},
}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), attributes=st.sampled_from([0, 1, 2, 3]), n=st.integers(1, 8))
def test_one_patient_moves_one_count_of_everybody_s_and_one_of_each_attribute_s(
    data: st.DataObject, attributes: int, n: int
) -> None:
    """Every data set and every patient taken out of it: the difference's L2 norm is at most what is charged."""
    import pandas as pd

    manifest = heart_manifest(noised=True, fairness=ATTRIBUTES[attributes])
    rows = data.draw(
        st.lists(st.tuples(st.sampled_from(["female", "male", None]), st.sampled_from([18, 49, 50, 64, 65, 100])),
                 min_size=n, max_size=n)
    )  # fmt: skip
    frame = pd.DataFrame({feature.column: [np.nan] * n for feature in manifest.features})
    for feature in manifest.features:
        if feature.type == "categorical":
            frame[feature.column] = pd.Series([None] * n, dtype=object)
    frame["sex"], frame["age"] = pd.Series([sex for sex, _ in rows], dtype=object), [float(age) for _, age in rows]
    frame["disease"] = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))
    membership = encode(frame, manifest).membership
    scores = np.array(data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
    outcomes = frame["disease"].to_numpy(dtype=np.float32)
    event = count_event(manifest, 1.0)
    whole = histogram(scores, outcomes, membership, 10, 1.0)
    for patient in range(n):
        kept = np.arange(n) != patient
        change = whole - histogram(scores[kept], outcomes[kept], membership[kept], 10, 1.0)
        assert np.count_nonzero(change) <= event.coordinates
        assert np.abs(change).max() <= event.sensitivity
        assert np.linalg.norm(change) <= math.sqrt(1 + attributes) + 1e-12
        if rows[patient][0] is not None:  # sex and age are known: the bound is reached
            assert np.count_nonzero(change) == event.coordinates


def test_the_two_shares_part_the_circle() -> None:
    manifest = heart_manifest(noised=True)
    assert held_out_share(manifest)[1] == training_share(manifest)[0] == manifest.training.holdout
    assert (held_out_share(manifest)[0], training_share(manifest)[1]) == EVERYBODY


# --- how much noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"evaluation": {"epsilon": 1.0}},
        {"evaluation": {"every": 5, "spare_attempts": 3}},
        {"fairness": {"groups": []}},
    ],
)
def test_the_least_noise_keeps_the_promise_and_no_less_does(changes: dict[str, dict[str, object]]) -> None:
    manifest = heart_manifest(noised=True, **changes)
    deviation, plan, delta = count_deviation(manifest), manifest.counting, manifest.privacy.delta
    assert plan.epsilon is not None
    assert delta is not None
    planned = count_event(manifest, deviation, manifest.planned_evaluations)
    assert epsilon([planned], delta) <= plan.epsilon
    assert epsilon([replace(planned, deviation=deviation - 0.001)], delta) > plan.epsilon
    assert counts_keep_promise(seal(manifest))
    assert not counts_keep_promise(seal(manifest, count_deviation=0.97 * deviation))


def test_more_releases_and_more_attributes_need_more_noise() -> None:
    base = count_deviation(heart_manifest(noised=True))
    assert count_deviation(heart_manifest(noised=True, evaluation={"every": 1})) > base
    assert count_deviation(heart_manifest(noised=True, evaluation={"spare_attempts": 5})) > base
    assert count_deviation(heart_manifest(noised=True, fairness={"groups": []})) < base
    assert count_deviation(heart_manifest(noised=True, fairness={"intersections": [["sex", "age"]]})) > base
    assert count_deviation(heart_manifest()) == 0.0
    assert counts_keep_promise(seal(heart_manifest()))


def test_noise_beyond_the_bound_is_rarer_than_once_in_a_trillion_sums() -> None:
    """The discrete Gaussian's tail, summed by itself, over all cells of all sites: at most 2^-40, and not by far less."""
    sealed = seal(heart_manifest(noised=True))
    reach, deviation = most_noise(sealed), sealed.count_deviation
    places = np.arange(0, int(40 * deviation))
    mass = np.exp(-(places**2) / (2 * deviation**2))
    tail = 2 * mass[places > reach].sum() / (2 * mass.sum() - 1)
    cells = math.prod(histogram_shape(sealed.manifest)) * len(sealed.roster)
    assert cells * tail <= 2.0**-40
    assert cells * tail >= 2.0**-55
    assert most_noise(seal(heart_manifest())) == 0


@pytest.mark.parametrize(("train", "evaluate"), itertools.product((True, False), repeat=2))
def test_what_is_bare(train: bool, evaluate: bool) -> None:
    exact, noised = seal(heart_manifest()), seal(heart_manifest(noised=True))
    assert bare(noised, train=train, evaluate=evaluate) is False
    assert bare(exact, train=train, evaluate=evaluate) is evaluate
    plain = seal(heart_manifest(privacy={"mechanism": "none", "epsilon": None}))
    assert bare(plain, train=train, evaluate=evaluate) is (train or evaluate)


# --- what is planned, and what is said ------------------------------------------------------------------------------------


def test_with_noise_the_last_model_is_evaluated_once_and_spare() -> None:
    manifest = heart_manifest(noised=True)
    rounds = manifest.training.rounds
    assert [r for r in range(1, rounds + 2) if evaluates(manifest, r)] == [rounds + 1]
    assert manifest.planned_evaluations == 2
    assert (manifest.counting.bins, manifest.counting.temper) == (10, 2.0)
    assert heart_manifest(noised=True, privacy={"spare_attempts": 0}).planned_evaluations == 1
    assert heart_manifest(noised=True, evaluation={"every": 5}).planned_evaluations == 4


def test_without_noise_evaluations_are_as_frequent_as_before() -> None:
    manifest = heart_manifest(evaluation={"every": None})
    assert [r for r in range(1, 17) if evaluates(manifest, r)] == [6, 11, 16]
    assert manifest.planned_evaluations == 3 + 2
    assert (manifest.counting.bins, manifest.counting.temper, manifest.counting.epsilon) == (100, 4.0, None)


def test_noise_is_the_default_with_dp_and_only_with_it() -> None:
    assert heart_manifest(noised=True).evaluation.noise is None
    assert heart_manifest(noised=True).counting.noised
    plain = {"mechanism": "none", "epsilon": None}
    assert not heart_manifest(noised=True, privacy=plain).counting.noised
    for evaluation in ({"noise": "counts"}, {"epsilon": 1.0}):
        with pytest.raises(InputError, match="need mechanism"):
            heart_manifest(noised=True, privacy=plain, evaluation=evaluation)
    with pytest.raises(InputError, match="promises no epsilon"):
        heart_manifest(evaluation={"noise": "none", "epsilon": 1.0})


def test_a_seal_without_the_noise_that_the_study_names_is_none() -> None:
    with pytest.raises(ValueError, match="count_deviation"):
        seal(heart_manifest(noised=True), count_deviation=0.0)
    with pytest.raises(ValueError, match="count_deviation"):
        seal(heart_manifest(), count_deviation=1.0)


def test_the_words_say_whom_epsilon_covers() -> None:
    assert privacy_words(heart_manifest(noised=True)).endswith("covers training and held-out patients")
    assert "covers training patients only" in privacy_words(heart_manifest())
