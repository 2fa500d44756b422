"""Stacked studies against the node's own training, called in a loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from federation import heart_manifest

from fedward.privacy.errors import InputError
from fedward.simulations.baselines import UnsafeSeededDraws, predict, rehearse
from fedward.simulations.rounds import federate
from fedward.simulations.stacked import federate_stacked, predict_stacked, stackable
from fedward.study.encoding import Encoded, input_names
from fedward.study.manifest import Manifest, SealedManifest

SIZES = ({"cleveland": 97, "hungarian": 61, "va": 134}, {"cleveland": 60, "hungarian": 88, "va": 31})
PRIVATE = {"mechanism": "dp-sgd", "epsilon": 1.0, "delta": 1e-3}
WITHOUT = {"mechanism": "none", "epsilon": None, "delta": None}
FEDAVG = {"algorithm": "fedavg", "local_learning_rate": 0.4}


def hospital(manifest: Manifest, patients: int, seed: int) -> Encoded:
    generator = np.random.default_rng(seed)
    inputs = generator.uniform(-1, 1, (patients, len(input_names(manifest)))).astype(np.float32)
    chance = 1 / (1 + np.exp(-inputs @ generator.normal(size=inputs.shape[1])))
    outcomes = (generator.random(patients) < chance).astype(np.float32)
    names = tuple(f"p{number}" for number in range(patients))
    return Encoded(names, inputs, outcomes, np.zeros((patients, 0), dtype=np.bool_))


def studies(manifest: Manifest) -> list[dict[str, Encoded]]:
    return [
        {site: hospital(manifest, n, 10 * index + place) for place, (site, n) in enumerate(sizes.items())}
        for index, sizes in enumerate(SIZES)
    ]


def sealed(training: dict[str, object], privacy: dict[str, object], sigma: float) -> SealedManifest:
    manifest = heart_manifest(training=training, privacy=privacy)
    return rehearse(manifest, SIZES[0], noise_multiplier=sigma)


def check_equal(settings: list[SealedManifest]) -> None:
    data = studies(settings[0].manifest)
    found = federate_stacked(settings, data, [UnsafeSeededDraws(seed) for seed in range(2)])
    for study, patients in enumerate(data):
        for column, setting in enumerate(settings):
            expected = federate(setting, patients, UnsafeSeededDraws(study))
            np.testing.assert_allclose(found[study, column], expected, atol=2e-5, rtol=1e-5)
            assert np.abs(expected).max() > 0.05
    assert not np.allclose(found[0], found[1])


def test_a_robust_sum_is_not_stacked() -> None:
    """The stack adds sites up: what is no sum, and what only the loop knows, is the loop's."""
    for more in ({"aggregation": "median"}, {"aggregation": "trimmed-mean", "byzantine": 1}, {"kept": ["0.w"]}):
        one = sealed(FEDAVG | more, WITHOUT, 0.0)
        assert not stackable([one], studies(one.manifest)), more


def test_fedsgd_is_what_nodes_and_coordinator_compute() -> None:
    """Rounds, rates, momentum, C and σ differ by column, and the columns are not sorted by rounds."""
    check_equal(
        [
            sealed({"rounds": 2, "server_learning_rate": 1.0}, PRIVATE | {"clipping_norm": 1.0}, 2.0),
            sealed({"rounds": 5, "server_learning_rate": 0.4, "server_momentum": 0.5}, PRIVATE | {"clipping_norm": 0.3}, 9.0),
            sealed({"rounds": 3, "server_learning_rate": 2.0, "server_momentum": 0.0}, PRIVATE | {"clipping_norm": 4.0}, 0.5),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 3), (0.3, 1), (0.3, 4)])
def test_sampled_and_local_steps_too(rate: float, steps: int) -> None:
    shape = FEDAVG | {"sampling_rate": rate, "local_steps": steps, "rounds": 2}
    check_equal([sealed(shape, PRIVATE, 1.5), sealed(shape | {"server_learning_rate": 0.5}, PRIVATE, 3.0)])


def test_without_privacy_nothing_is_clipped_or_noised() -> None:
    check_equal([sealed({"rounds": 3}, WITHOUT, 0.0), sealed({"rounds": 2, "server_momentum": 0.0}, WITHOUT, 0.0)])


def test_predictions_are_the_models() -> None:
    one = sealed({"rounds": 2}, PRIVATE, 2.0)
    data = studies(one.manifest)[:1]
    models = federate_stacked([one, one], data, [UnsafeSeededDraws(0)])
    inputs = data[0]["va"]
    expected = predict(one.manifest, models[0, 0], inputs)
    np.testing.assert_allclose(predict_stacked(models[0], inputs.inputs), [expected, expected], atol=1e-6)


def test_a_column_that_diverges_does_not_stay_finite_and_leaves_the_others_alone() -> None:
    calm = sealed({"rounds": 3}, PRIVATE, 2.0)
    wild = sealed({"rounds": 3, "server_learning_rate": 1e60}, PRIVATE, 2.0)
    found = federate_stacked([wild, calm], studies(calm.manifest)[:1], [UnsafeSeededDraws(0)])
    alone = federate_stacked([calm], studies(calm.manifest)[:1], [UnsafeSeededDraws(0)])
    assert not np.isfinite(found[0, 0]).all()
    np.testing.assert_allclose(found[0, 1], alone[0, 0], atol=1e-6)


OTHERS: dict[str, Callable[[], SealedManifest]] = {
    "FedAdam": lambda: sealed({"algorithm": "fedadam"}, PRIVATE, 1.0),
    "FedProx": lambda: sealed(FEDAVG | {"algorithm": "fedprox", "proximal": 0.1}, PRIVATE, 1.0),
    "an MLP": lambda: rehearse(heart_manifest(model={"name": "mlp", "hidden": [4]}), SIZES[0], noise_multiplier=1.0),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_cannot_be_stacked_is_refused(other: Callable[[], SealedManifest]) -> None:
    one = other()
    data = studies(one.manifest)
    assert not stackable([one], data)
    with pytest.raises(InputError, match="cannot be stacked"):
        federate_stacked([one], data, [UnsafeSeededDraws(0), UnsafeSeededDraws(1)])


def test_encounters_and_mixed_settings_are_not_stacked() -> None:
    one = sealed({"rounds": 2}, PRIVATE, 1.0)
    data = studies(one.manifest)
    assert stackable([one], data)
    assert not stackable([one, sealed({"rounds": 2}, WITHOUT, 0.0)], data)
    twice = Encoded(
        ("a", "a"), *(part[:2] for part in (data[0]["va"].inputs, data[0]["va"].outcomes, data[0]["va"].membership))
    )
    assert not stackable([one], [data[0] | {"va": twice}])


def test_patients_of_another_roster_are_refused() -> None:
    one = sealed({"rounds": 2}, PRIVATE, 1.0)
    data = studies(one.manifest)[0]
    with pytest.raises(InputError, match="do not fit the roster"):
        federate_stacked([one], [{"va": data["va"]}], [UnsafeSeededDraws(0)])
