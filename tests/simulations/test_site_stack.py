"""Stacked sites against a node's own training, and both against an in-process federation of real nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest
from secured import draw_with

from fedward.client import datasets
from fedward.client.split import held_out
from fedward.privacy.errors import FedwardError, InputError
from fedward.server.models import load_model
from fedward.simulations import site_stack
from fedward.simulations.baselines import UnsafeSeededDraws, rehearse
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.engines import EngineName, SiteLoop, engine
from fedward.simulations.rounds import engine_rounds
from fedward.simulations.site_stack import SiteStack, stackable
from fedward.study.encoding import Encoded, input_names
from fedward.study.heart import SITES
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.models import build, to_vector

WITHOUT = {"mechanism": "none", "epsilon": None, "delta": None}
SIZES = {"a": 97, "b": 3, "c": 40, "d": 41, "e": 260, "f": 11}
AVERAGED = {"algorithm": "fedavg", "local_steps": 7, "sampling_rate": 0.3, "local_learning_rate": 0.4}
TRAINING: dict[str, dict[str, object]] = {
    "fedsgd": {},
    "fedavg": AVERAGED,
    "fedprox": AVERAGED | {"algorithm": "fedprox", "proximal": 0.5},
    "fedadam": AVERAGED | {"algorithm": "fedadam"},
    "fedyogi": AVERAGED | {"algorithm": "fedyogi"},
    "fedadagrad": AVERAGED | {"algorithm": "fedadagrad"},
}
ROBUST: dict[str, dict[str, object]] = {
    "median": AVERAGED | {"aggregation": "median"},
    "trimmed-mean": AVERAGED | {"aggregation": "trimmed-mean", "byzantine": 1},
}
MODELS: dict[str, dict[str, object]] = {
    "logistic": {"name": "logistic-regression"},
    "mlp": {"name": "mlp", "hidden": [7, 5]},
}


def hospital(manifest: Manifest, patients: int, seed: int) -> Encoded:
    generator = np.random.default_rng(seed)
    inputs = generator.uniform(-1, 1, (patients, len(input_names(manifest)))).astype(np.float32)
    outcomes = (generator.random(patients) < 0.5).astype(np.float32)
    names = tuple(f"p{number}" for number in range(patients))
    return Encoded(names, inputs, outcomes, np.zeros((patients, 0), dtype=np.bool_))


def hospitals(manifest: Manifest) -> dict[str, Encoded]:
    return {site: hospital(manifest, number, place) for place, (site, number) in enumerate(SIZES.items())}


def keyed() -> dict[str, UnsafeKeyedDraws]:
    return {site: UnsafeKeyedDraws(5, place) for place, site in enumerate(SIZES)}


def sealed(training: str, model: str, *, private: bool) -> SealedManifest:
    manifest = heart_manifest(training=TRAINING[training], model=MODELS[model], privacy={} if private else WITHOUT)
    return rehearse(manifest, SIZES, noise_multiplier=1.7 if private else None)


@pytest.mark.parametrize("private", [True, False], ids=["dp", "without-dp"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("training", TRAINING)
def test_every_site_s_update_is_what_a_node_computes(
    training: str, model: str, private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_stack, "_CACHE_FLOATS", 4000)  # in several pieces
    study = sealed(training, model, private=private)
    data = hospitals(study.manifest)
    stack, loop = SiteStack(study, data, keyed()), SiteLoop(study, data, keyed())
    assert len(stack._pieces) > 1
    base = to_vector(build(study.manifest))
    for _ in range(2):  # the second round goes on with the same draws
        expected = loop.updates(base)
        np.testing.assert_allclose(stack.updates(base), expected, rtol=1e-4, atol=2e-6)
        assert (np.abs(expected).max(axis=1) > 1e-3).all()
        base = base + expected[0]


def test_a_step_that_samples_nobody_still_adds_its_noise() -> None:
    study = rehearse(heart_manifest(training=AVERAGED | {"sampling_rate": 0.01}), SIZES, noise_multiplier=2.0)
    data = hospitals(study.manifest)
    base = to_vector(build(study.manifest))
    found = SiteStack(study, data, keyed()).updates(base)
    np.testing.assert_allclose(found, SiteLoop(study, data, keyed()).updates(base), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_stacked_is_trained_one_by_one() -> None:
    study = sealed("fedavg", "logistic", private=True)
    data = hospitals(study.manifest)
    assert stackable(study, data)
    assert isinstance(engine("stacked", study, data, keyed()), SiteStack)
    assert isinstance(engine("loop", study, data, keyed()), SiteLoop)
    a = data["a"]
    twice = data | {"a": Encoded((*a.patients[:-1], a.patients[0]), a.inputs, a.outcomes, a.membership)}
    assert not stackable(study, twice)
    assert isinstance(engine("stacked", study, twice, keyed()), SiteLoop)
    with pytest.raises(InputError, match="cannot be stacked"):
        SiteStack(study, twice, keyed())
    for wrong in ({}, {site: data[site] for site in list(data)[:-1]}):
        for kind in (SiteStack, SiteLoop):
            with pytest.raises(InputError, match="roster"):
                kind(study, wrong, keyed())


def test_training_that_bursts_is_an_error() -> None:
    study = rehearse(
        heart_manifest(training=AVERAGED | {"local_learning_rate": 1e3}, model=MODELS["mlp"], privacy=WITHOUT), SIZES
    )
    stack = SiteStack(study, hospitals(study.manifest), keyed())
    with pytest.raises(FedwardError) as caught:
        stack.updates(np.full(len(to_vector(build(study.manifest))), np.inf, dtype=np.float32))
    assert caught.value.code == "training-diverged"


@pytest.mark.parametrize(
    ("training", "secure"),
    [
        (training, secure)
        for training in (*TRAINING, *ROBUST)
        for secure in (False, True)
        if not (secure and training in ROBUST)
    ],
)
def test_stack_loop_and_real_nodes_reach_the_same_parameters(training: str, secure: bool, tmp_path: Path) -> None:
    """The same injected draws at every site; under secure aggregation up to the ring's grid, which is below 1e-5 here."""
    federation = Federation(tmp_path)
    federation.ready(heart_manifest(secure=secure, training=(TRAINING | ROBUST)[training] | {"rounds": 3}))
    draw_with(federation, lambda site: UnsafeKeyedDraws(11, SITES.index(site)))
    study = federation.sealed()
    assert isinstance(study, SealedManifest)
    federation.run()
    row = federation.store.checkpoint(federation.key)
    assert row is not None
    assert row.version == 3
    ours = load_model(federation.home.models_folder, row.model)

    training_data = {}
    for site, home in federation.sites.items():
        data = datasets.load(home, datasets.find(home, study.manifest.study.id), study.manifest)
        training_data[site] = data.select(~held_out(data.patients, study.manifest.training.holdout, home.patient_key()))
    engines: tuple[EngineName, ...] = ("stacked", "loop")
    for name in engines:
        draws = {entry.site: UnsafeKeyedDraws(11, SITES.index(entry.site)) for entry in study.roster}
        *_, simulated = engine_rounds(study, training_data, engine(name, study, training_data, draws))
        np.testing.assert_allclose(simulated, ours, rtol=1e-4, atol=1e-4 if secure else 2e-6)
        assert np.abs(ours).max() > 0.05


def test_other_draws_give_another_model() -> None:
    study = sealed("fedavg", "mlp", private=True)
    data = hospitals(study.manifest)
    base = to_vector(build(study.manifest))
    other = {site: UnsafeSeededDraws(5, place) for place, site in enumerate(SIZES)}
    assert not np.allclose(SiteStack(study, data, keyed()).updates(base), SiteStack(study, data, other).updates(base))


def test_a_row_whose_gradient_is_not_finite_adds_nothing_as_at_a_node() -> None:
    study = rehearse(
        heart_manifest(training=AVERAGED | {"sampling_rate": 1.0, "local_steps": 1}), SIZES, noise_multiplier=1.7
    )
    data = hospitals(study.manifest)
    broken = data["a"].inputs.copy()
    broken[3, 2] = np.inf
    data["a"] = Encoded(data["a"].patients, broken, data["a"].outcomes, data["a"].membership)
    base = to_vector(build(study.manifest))
    found = SiteStack(study, data, keyed()).updates(base)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, SiteLoop(study, data, keyed()).updates(base), rtol=1e-4, atol=2e-6)
