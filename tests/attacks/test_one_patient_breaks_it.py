"""A coordinator who sends a base model that breaks down on some patients: whether one is there must not show without noise.

A refusal, or a reply that is none, is a release like any other. Were it decided by a patient's row, no noise would hide it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest
from hospital import SITE, Site, code
from numpy.typing import NDArray
from torch import nn

from fedward.client.evaluation import held_out_counts
from fedward.client.training import ClosedFormOptimizer, _batches, train, unnoised_sum
from fedward.privacy.draws import SecureDraws
from fedward.privacy.errors import FedwardError
from fedward.privacy.shared_noise import SharedNoise
from fedward.study import models
from fedward.study.encoding import Encoded, group_names, input_names
from fedward.study.manifest import CategoricalFeature, Manifest, parse
from fedward.study.messages import Result
from fedward.study.terms import SiteTerms

HUGE = 3e38


def image_study() -> Manifest:
    data = heart_manifest().model_dump(mode="json")
    data |= {
        "features": [{"column": "scan", "type": "image", "shape": [1, 9, 8]}],
        "fairness": {"groups": []},
        "model": {"name": "groupnorm-cnn", "channels": [4, 4]},
    }
    return parse(data)


STUDIES = {
    "logistic-regression": heart_manifest(),
    "mlp": heart_manifest(model={"name": "mlp", "hidden": [5, 4]}),
    "groupnorm-cnn": image_study(),
}
TERMS = SiteTerms(
    steps=1,
    learning_rate=1.0,
    sampling_rate=1.0,
    expected_batch=1.0,
    clipping_norm=1.0,
    noise_multiplier=1.0,
    proximal=0.0,
)


class Quiet(SecureDraws):
    """No noise at all, so that an exact sum can be seen."""

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        return np.zeros(shape)

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        return np.zeros(n, dtype=np.int64)


def patients(manifest: Manifest, n: int = 7) -> Encoded:
    rng = np.random.default_rng(3)
    inputs = rng.uniform(-1, 1, (n, len(input_names(manifest)))).astype(np.float32)
    return Encoded(
        tuple(map(str, range(n))),
        inputs,
        (rng.random(n) < 0.5).astype(np.float32),
        np.zeros((n, len(group_names(manifest))), dtype=np.bool_),
    )


def with_one_more(data: Encoded, copies: int = 1) -> Encoded:
    """The same patients and one of whom nothing finite can be computed, in so many encounters, in their middle."""
    place = 3

    def put(part: NDArray[np.float32], value: float) -> NDArray[np.float32]:
        return np.insert(part, [place] * copies, value, axis=0)

    names = (*data.patients[:place], *["broken"] * copies, *data.patients[place:])
    return Encoded(
        names,
        put(data.inputs, np.nan),
        put(data.outcomes, 1),
        np.insert(data.membership, [place] * copies, False, axis=0),
    )


@pytest.mark.parametrize("copies", [1, 2], ids=["one row", "two encounters"])
@pytest.mark.parametrize("name", STUDIES)
class TestOnePatientOfWhomNothingFiniteIsComputed:
    def test_moves_the_sum_by_no_more_than_any_other(self, name: str, copies: int) -> None:
        manifest = STUDIES[name]
        data = patients(manifest)
        model = models.build(manifest)
        without = train(models.build(manifest), data, TERMS, Quiet())
        found = train(model, with_one_more(data, copies), TERMS, Quiet())
        assert np.linalg.norm(found - without) <= 1.0 + 1e-4

    def test_moves_the_sum_for_shared_noise_by_no_more_than_any_other(self, name: str, copies: int) -> None:
        manifest = STUDIES[name]
        data = patients(manifest)
        dimension = models.dimension(models.build(manifest))
        noise = SharedNoise(1.0, 2.0**-24, dimension, 1, 1.0)
        sums = [
            unnoised_sum(models.build(manifest), table, 1.0).noised(noise, Quiet())
            for table in (data, with_one_more(data, copies))
        ]
        assert np.linalg.norm((sums[1] - sums[0]) * noise.step) <= 1.01

    def test_is_counted_once(self, name: str, copies: int) -> None:
        manifest = STUDIES[name]
        data = patients(manifest)
        model = models.build(manifest)
        moved = held_out_counts(model, with_one_more(data, copies), manifest) - held_out_counts(model, data, manifest)
        assert (moved[0].sum(), np.abs(moved).sum()) == (1, 1)


@pytest.mark.parametrize("name", ["mlp", "logistic-regression"])
def test_a_base_that_overflows_for_some_is_answered_like_any_other(name: str, tmp_path: Path) -> None:
    """Sums of ±3e38 times a row overflow for some rows only. Which reply comes, or none, must not tell whether there are such."""
    changes = {} if name == "logistic-regression" else {"model": {"name": "mlp", "hidden": [16, 16]}}
    federation = Federation(tmp_path, sites=("cleveland", "hungarian", SITE))
    federation.ready(heart_manifest(noised=True, training={"rounds": 2}, evaluation={"spare_attempts": 9}, **changes))
    site = Site(federation)
    rng = np.random.default_rng(0)
    for attempt in range(1, 4):
        site.base = (HUGE * rng.choice([-1, 1], len(site.base))).astype(np.float32)
        evaluated = site.work(round=3, attempt=attempt, train=False, evaluate=True)
        assert isinstance(evaluated, Result), code(evaluated)
    trained = [site.work(round=1, attempt=attempt) for attempt in range(4, 6)]
    assert [code(reply) for reply in trained] == ["training-diverged"] * 2  # whoever the patients are: the next test


@pytest.mark.parametrize("name", ["mlp", "logistic-regression"])
def test_whether_a_base_is_too_large_to_train_from_is_decided_without_patients(name: str) -> None:
    manifest = STUDIES[name]
    nobody = patients(manifest).select(np.zeros(7, dtype=np.bool_))
    for data in (nobody, patients(manifest)):
        for work in (
            lambda model, rows: train(model, rows, TERMS, Quiet()),
            lambda model, rows: unnoised_sum(model, rows, 1.0),
        ):
            model = models.build(manifest)
            models.load_vector(model, np.full(models.dimension(model), HUGE, dtype=np.float32))
            with pytest.raises(FedwardError) as caught:
                work(model, data)
            assert caught.value.code == "training-diverged"


def cohort(manifest: Manifest, n: int) -> Encoded:
    """Patients with exactly one level, or none known, of each categorical column; all else is 0."""
    rng = np.random.default_rng(1)
    inputs = np.zeros((n, len(input_names(manifest))), dtype=np.float32)
    for places in level_places(manifest):
        inputs[np.arange(n), rng.choice(places, n)] = 1
    outcomes = np.zeros(n, dtype=np.float32)
    return Encoded(
        tuple(map(str, range(n))), inputs, outcomes, np.zeros((n, len(group_names(manifest))), dtype=np.bool_)
    )


def level_places(manifest: Manifest) -> list[list[int]]:
    columns = [feature.column for feature in manifest.features if isinstance(feature, CategoricalFeature)]
    names = input_names(manifest)
    return [[i for i, name in enumerate(names) if name.startswith((f"{c}=", f"{c}:"))] for c in columns]


def test_round_off_does_not_carry_one_patient_into_anothers_bin() -> None:
    """Every patient has the same score here but for round-off, and it lies at a bin's edge. In a product of many rows, round-off
    depends on how many they are: one patient less then moves others' counts, whom the noise is not made for."""
    manifest = heart_manifest(noised=True)
    data = cohort(manifest, 300)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        base = np.zeros(data.inputs.shape[1] + 1, dtype=np.float32)
        for places in level_places(manifest):
            base[places] = rng.normal()
        base[-1] = -sum(float(base[places[0]]) for places in level_places(manifest))
        model = models.build(manifest)
        models.load_vector(model, base)
        whole = held_out_counts(model, data, manifest)
        for patient in (0, 1, 150, 298, 299):
            less = held_out_counts(model, data.select(np.arange(300) != patient), manifest)
            assert np.abs(whole - less)[0].sum() == 1


@pytest.mark.parametrize("hidden", [(), (16,)], ids=["logistic-regression", "mlp"])
def test_round_off_does_not_carry_one_patient_into_anothers_gradient(hidden: tuple[int, ...]) -> None:
    """Every patient's logit is 0 here but for round-off, which large weights turn into certainty either way. In float32 one patient
    less moved the sum by 1.8 C and, with larger weights, 7.5 C."""
    manifest = heart_manifest(model={"name": "mlp", "hidden": list(hidden)}) if hidden else heart_manifest()
    data = cohort(manifest, 300)
    units, width = (hidden or (1,))[0], data.inputs.shape[1]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weights = np.zeros((units, width), dtype=np.float32)
        for places in level_places(manifest):
            weights[:, places] = (1e5 if hidden else 1e7) * rng.normal(size=(units, 1))
        biases = -sum(weights[:, places[0]] for places in level_places(manifest))
        last = [np.full(units, 9.0), np.zeros(1)] if hidden else []
        base = np.concatenate([weights.ravel(), biases, *last]).astype(np.float32)

        def update(rows: Encoded, base: NDArray[np.float32] = base) -> NDArray[np.float64]:
            model = models.build(manifest)
            models.load_vector(model, base)
            return summed(model, rows)

        whole = update(data)
        for patient in (0, 1, 150, 298, 299):
            less = update(data.select(np.arange(300) != patient))
            assert np.linalg.norm(whole - less) <= 1 + 1e-4


def summed(model: nn.Module, rows: Encoded) -> NDArray[np.float64]:
    """What an optimiser of a private step gets of these patients before its noise, shape (d,)."""
    optimizer = ClosedFormOptimizer(model, TERMS, Quiet())
    [batch] = _batches(rows, TERMS, Quiet(), np.dtype(np.float64))
    optimizer.take(batch)
    optimizer.clip_and_accumulate()
    return np.asarray(optimizer.flat.summed_grad, dtype=np.float64)  # type: ignore[attr-defined]
