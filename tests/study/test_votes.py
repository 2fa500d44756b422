"""Votes for features: shares against a linear model's own terms, what a patient can change, and the slice they leave in."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from voting import shares_by_hand

from fedward.privacy.errors import InputError
from fedward.study.attribution import integrated_gradients, one_by_one
from fedward.study.encoding import encode, input_names
from fedward.study.evaluation import count_deviation, count_event
from fedward.study.examples import example_folder
from fedward.study.influence import synthetic
from fedward.study.manifest import Manifest, load, parse
from fedward.study.metrics import histogram_shape
from fedward.study.models import build, load_vector
from fedward.study.votes import (
    drawn,
    fit_together,
    given_shape,
    middle_patient,
    parts,
    patient_shares,
    voted_features,
    with_votes,
)

ASKS = {"influence": True}
MANIFEST = heart_manifest(evaluation=ASKS)
FEATURES = len(MANIFEST.features)


def random_model(manifest: Manifest, seed: int = 0) -> tuple[Any, NDArray[np.float32]]:
    model = build(manifest)
    size = sum(parameter.numel() for parameter in model.parameters())
    vector = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    load_vector(model, vector)
    return model, vector


# --- shares and votes -----------------------------------------------------------------------------------------------------


def test_a_linear_model_s_shares_are_its_own_terms() -> None:
    model, vector = random_model(MANIFEST)
    inputs = synthetic(MANIFEST, 100, 3).inputs
    found = patient_shares(MANIFEST, one_by_one(model, inputs, middle_patient(MANIFEST)))
    np.testing.assert_allclose(found, shares_by_hand(MANIFEST, vector, inputs), atol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1)


def test_votes_are_the_mean_shares_on_average() -> None:
    """200 elections of 100 patients, against the shares by hand: within five deviations of a sum of as many Bernoulli draws."""
    model, vector = random_model(MANIFEST, 1)
    inputs, rng, times = synthetic(MANIFEST, 100, 4).inputs, np.random.default_rng(7), 200
    shares = patient_shares(MANIFEST, one_by_one(model, inputs, middle_patient(MANIFEST)))
    votes = np.sum([drawn(shares, rng.random(100)) for _ in range(times)], axis=0)
    assert votes.sum() == 100 * times
    expected = shares_by_hand(MANIFEST, vector, inputs)
    deviation = np.sqrt(times * (expected * (1 - expected)).sum(0))
    assert (np.abs(votes - times * expected.sum(0)) < 5 * deviation + 1e-9).all()


def test_the_middle_patient_is_who_the_bounds_and_levels_make() -> None:
    import pandas as pd

    numbers = {f.column: [sum(f.bounds) / 2] for f in MANIFEST.features if f.type == "numeric"}
    levels = {f.column: pd.Series([None], dtype=object) for f in MANIFEST.features if f.type == "categorical"}
    row = encode(pd.DataFrame(numbers | levels | {"disease": [0.0]}), MANIFEST).inputs[0]
    middle = middle_patient(MANIFEST)
    for place, name in enumerate(input_names(MANIFEST)):
        if name in numbers:
            assert middle[place] == row[place] == 0
        elif "=" in name:
            feature = next(f for f in MANIFEST.features if f.column == name.split("=")[0])
            assert middle[place] == 1 / len(feature.levels)  # type: ignore[union-attr]
        else:
            assert middle[place] == 0


def test_attributions_one_by_one_are_those_of_all_and_follow_from_the_row_alone() -> None:
    manifest = parse(heart_manifest().model_dump(mode="json") | {"model": {"name": "mlp", "hidden": [8]}})
    model, _ = random_model(manifest, 2)
    inputs, middle = synthetic(manifest, 60, 5).inputs, middle_patient(manifest)
    found = one_by_one(model, inputs, middle)
    np.testing.assert_allclose(found, integrated_gradients(model, inputs, middle).values, atol=1e-9)
    turned = one_by_one(model, inputs[::-1][:31].copy(), middle)
    assert turned.tobytes() == np.ascontiguousarray(found[::-1][:31]).tobytes()


def test_who_has_no_shares_votes_for_nobody() -> None:
    width = len(input_names(MANIFEST))
    attributed = np.zeros((5, width))
    attributed[1, 0], attributed[2, 0], attributed[3] = np.nan, np.inf, 1e308  # and the last one's sum overflows
    attributed[4, 2] = -3.0
    shares = patient_shares(MANIFEST, attributed)
    assert shares[:4].tolist() == np.zeros((4, FEATURES)).tolist()
    assert drawn(shares, np.full(5, 0.5)).sum() == 1
    assert drawn(np.zeros((0, FEATURES)), np.zeros(0)).tolist() == [0] * FEATURES


SHARES = st.lists(
    st.lists(st.sampled_from([0.0, 1e-300, 0.25, 1.0, 3.0]), min_size=4, max_size=4), min_size=1, max_size=8
)


@settings(max_examples=200, deadline=None)
@given(rows=SHARES, data=st.data())
def test_one_patient_changes_one_count_by_one(rows: list[list[float]], data: st.DataObject) -> None:
    raw = np.array(rows)
    whole = raw.sum(1, keepdims=True)
    shares = np.where(whole > 0, raw / np.where(whole > 0, whole, 1), 0.0)
    open_ends = st.floats(2.0**-54, 1 - 2.0**-53)
    uniform = np.array(data.draw(st.lists(open_ends, min_size=len(raw), max_size=len(raw))))
    votes = drawn(shares, uniform)
    assert votes.sum() == (whole > 0).sum()
    assert not votes[(shares == 0).all(0)].any()
    for patient in range(len(raw)):
        kept = np.arange(len(raw)) != patient
        change = votes - drawn(shares[kept], uniform[kept])
        assert np.abs(change).sum() <= 1
        assert (change >= 0).all()


# --- the slice ------------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(votes=st.lists(st.integers(-50, 2**40), min_size=FEATURES, max_size=FEATURES), seed=st.integers(0, 99))
def test_votes_travel_in_a_slice_of_their_own(votes: list[int], seed: int) -> None:
    histogram = np.random.default_rng(seed).integers(0, 9, histogram_shape(MANIFEST))
    given_ = with_votes(histogram, np.array(votes, dtype=np.int64))
    assert given_.shape == given_shape(MANIFEST)
    assert given_[-1].reshape(-1).tolist() == votes + [0] * (2 * MANIFEST.counting.bins - FEATURES)
    back, found = parts(MANIFEST, given_)
    assert found is not None
    assert (back.tobytes(), found.tolist()) == (histogram.tobytes(), votes)


def test_a_study_that_asks_for_no_votes_has_its_counts_alone() -> None:
    plain = heart_manifest()
    counts = np.ones(histogram_shape(plain), dtype=np.int64)
    assert (voted_features(plain), given_shape(plain)) == (0, histogram_shape(plain))
    assert parts(plain, counts)[1] is None
    for manifest, wrong in ((plain, given_shape(MANIFEST)), (MANIFEST, histogram_shape(plain))):
        with pytest.raises(InputError, match="do not fit the study"):
            parts(manifest, np.zeros(wrong, dtype=np.int64))
    with pytest.raises(InputError, match="too few cells"):
        with_votes(np.zeros((2, 3, 2), dtype=np.int64), np.zeros(7, dtype=np.int64))


def test_votes_that_no_patients_can_have_cast_do_not_fit() -> None:
    histogram = np.zeros((2, 3, 2), dtype=np.int64)
    histogram[0, 1], histogram[1, 1] = (3, 2), (1, 2)
    for votes, fits in (
        ([5, 0, 0], True),
        ([2, 2, 1], True),
        ([0, 0, 0], True),
        ([6, 0, 0], False),
        ([2, 2, 2], False),
    ):
        assert fit_together(with_votes(histogram, np.array(votes)), 3) is fits
    beyond = with_votes(histogram, np.array([1, 1, 1]))
    beyond[-1, 1, 1] = 1  # the fourth cell, of three features
    assert not fit_together(beyond, 3)
    huge = with_votes(histogram, np.array([2**62, 2**62, 2**62]))  # wraps to below 0 in int64
    assert not fit_together(huge, 3)
    histogram[1, 1, 0] = 4
    assert not fit_together(with_votes(histogram, np.zeros(3, dtype=np.int64)), 3)


# --- the manifest, and what it costs ----------------------------------------------------------------------------------------


def test_a_study_that_does_not_ask_keeps_its_digest() -> None:
    data = heart_manifest().model_dump(mode="json")
    assert "influence" not in data["evaluation"]
    said = json.loads(json.dumps(data))
    said["evaluation"]["influence"] = False
    assert parse(said).canonical == heart_manifest().canonical
    assert MANIFEST.model_dump(mode="json")["evaluation"]["influence"] is True
    assert MANIFEST.canonical != heart_manifest().canonical
    assert parse(json.loads(MANIFEST.canonical)) == MANIFEST


def test_images_and_too_many_features_are_refused() -> None:
    data = load(example_folder("pneumonia") / "study.toml").model_dump(mode="json")
    data["evaluation"]["influence"] = True
    with pytest.raises(InputError, match="is an image, one feature"):
        parse(data)
    data = heart_manifest(noised=True).model_dump(mode="json")
    data["features"] += [{"type": "numeric", "column": f"x{i}", "bounds": [0, 1]} for i in range(20 - FEATURES)]
    data["evaluation"]["influence"] = True
    assert voted_features(parse(data)) == 20
    data["features"].append({"type": "numeric", "column": "x99", "bounds": [0, 1]})
    with pytest.raises(InputError, match=r"21 features in 20 cells.*evaluation\.bins = 11"):
        parse(data)
    data["evaluation"]["bins"] = 11
    assert voted_features(parse(data)) == 21


@pytest.mark.parametrize("crossed", [[], [["sex", "age"]]])
def test_votes_are_charged_as_one_attribute_more(crossed: list[list[str]]) -> None:
    fairness = {"intersections": crossed}
    plain = heart_manifest(noised=True, fairness=fairness)
    asks = heart_manifest(noised=True, fairness=fairness, evaluation=ASKS)
    without, with_ = count_event(plain, 1.0), count_event(asks, 1.0)
    assert (without.coordinates, with_.coordinates) == (3 + len(crossed), 4 + len(crossed))
    assert with_.sensitivity == 1
    ratio = math.sqrt(with_.coordinates / without.coordinates)
    assert count_deviation(asks) == pytest.approx(ratio * count_deviation(plain), rel=0.01)
