"""A simulated study and its baselines, against computations that share no code with them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedward.client import datasets
from fedward.client.alone import PENALTY, local_only
from fedward.privacy.accounting import epsilon
from fedward.privacy.errors import InputError
from fedward.privacy.events import DpEvent
from fedward.server.models import load_model
from fedward.simulations.baselines import (
    UnsafeSeededDraws,
    auroc,
    pool,
    pooled,
    predict,
    rehearse,
    split,
)
from fedward.simulations.rounds import federate, rounds
from fedward.study.encoding import Encoded, input_names
from fedward.study.manifest import Manifest
from fedward.study.schedule import study_events

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = {"mechanism": "none", "epsilon": None, "delta": None}
PATIENTS = {"cleveland": 97, "hungarian": 61, "va": 134}


def hospital(manifest: Manifest, patients: int, seed: int) -> Encoded:
    """Made-up patients whose outcome follows their inputs, some of them the other way round."""
    generator = np.random.default_rng(seed)
    inputs = generator.uniform(-1, 1, (patients, len(input_names(manifest)))).astype(np.float32)
    chance = 1 / (1 + np.exp(-inputs @ generator.normal(size=inputs.shape[1])))
    return Encoded(
        patients=tuple(f"p{number}" for number in range(patients)),
        inputs=inputs,
        outcomes=(generator.random(patients) < chance).astype(np.float32),
        membership=np.zeros((patients, 0), dtype=np.bool_),
    )


def hospitals(manifest: Manifest) -> dict[str, Encoded]:
    return {site: hospital(manifest, n, seed) for seed, (site, n) in enumerate(sorted(PATIENTS.items()))}


def plain_study() -> Manifest:
    training = {"rounds": 12, "server_learning_rate": 0.7, "server_momentum": 0.8}
    return heart_manifest(privacy=WITHOUT, training=training)


def gradient(weights: NDArray[np.float64], data: Encoded) -> NDArray[np.float64]:
    """Each patient's gradient of the logistic loss in float64, shape (n, d), by its formula: (σ(wᵀx) − y) x."""
    inputs = np.column_stack([data.inputs.astype(np.float64), np.ones(len(data))])
    return (1 / (1 + np.exp(-inputs @ weights)) - data.outcomes)[:, None] * inputs


# ---- federate --------------------------------------------------------------------------------------------------------


def test_without_noise_it_is_gradient_descent_with_momentum_on_all_patients() -> None:
    manifest = plain_study()
    data = hospitals(manifest)
    sealed = rehearse(manifest, PATIENTS)
    # Weights are the declared cohorts and so is the divisor: they cancel, and each patient counts alike.
    declared = sum(entry.declared_patients for entry in sealed.roster) * (1 - manifest.training.holdout)
    weights = moment = np.zeros(len(input_names(manifest)) + 1)
    expected = [weights]
    for _ in range(manifest.training.rounds):
        moment = 0.8 * moment - sum(gradient(weights, part).sum(axis=0) for part in data.values()) / declared
        weights = weights + 0.7 * moment
        expected.append(weights)
    found = list(rounds(sealed, data, UnsafeSeededDraws(0)))
    assert len(found) == manifest.training.rounds + 1
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=2e-6)
    assert np.abs(expected[-1]).max() > 0.5


def test_it_is_what_coordinator_and_nodes_compute(tmp_path: Path) -> None:
    """The same study through requests, replies, stores and ledgers ends in the same bits."""
    manifest = heart_manifest(privacy=WITHOUT, training={"rounds": 3})
    federation = Federation(tmp_path)
    for home in federation.sites.values():
        home.policy_file.write_text(home.policy_file.read_text().replace("require_dp = true", "require_dp = false"))
    sealed = federation.ready(manifest)
    federation.run()
    reached = federation.store.checkpoint(federation.key)
    assert reached is not None
    assert reached.version == 3
    everybody = {
        site: datasets.load(home, datasets.find(home, manifest.study.id), manifest)
        for site, home in federation.sites.items()
    }
    keys = {site: home.patient_key() for site, home in federation.sites.items()}
    training = {site: split(data, manifest.training.holdout, keys[site]).training for site, data in everybody.items()}
    rehearsed = rehearse(manifest, {site: len(data) for site, data in everybody.items()})
    assert [entry.declared_patients for entry in rehearsed.roster] == [e.declared_patients for e in sealed.roster]
    vector = federate(rehearsed, training, UnsafeSeededDraws(0))
    np.testing.assert_array_equal(vector, load_model(federation.home.models_folder, reached.model))


def test_with_noise_it_is_the_clipped_sum_plus_noise_of_the_declared_scale() -> None:
    manifest = heart_manifest(training={"rounds": 1, "server_learning_rate": 1.0}, privacy={"clipping_norm": 0.5})
    data, sealed = hospitals(manifest), rehearse(manifest, PATIENTS)
    declared = sum(entry.declared_patients for entry in sealed.roster) * (1 - manifest.training.holdout)
    clipped = np.zeros(len(input_names(manifest)) + 1)
    for part in data.values():
        each = gradient(np.zeros(len(clipped)), part)
        clipped += (each * np.minimum(1, 0.5 / np.linalg.norm(each, axis=1))[:, None]).sum(axis=0)
    noise = [federate(sealed, data, UnsafeSeededDraws(seed)) * declared + clipped for seed in range(40)]
    expected = sealed.roster[0].noise_multiplier * 0.5 * np.sqrt(len(data))
    # 40 × d values: a mean beyond 5 and a deviation beyond 10% are no chance.
    assert abs(np.mean(noise)) < 5 * expected / np.sqrt(np.size(noise))
    assert np.std(noise) == pytest.approx(expected, rel=0.1)


def test_a_seed_repeats_a_private_study_and_another_does_not() -> None:
    manifest = heart_manifest(training={"rounds": 2})
    data, sealed = hospitals(manifest), rehearse(manifest, PATIENTS)
    first, again, other = (federate(sealed, data, UnsafeSeededDraws(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_patients_of_another_roster_are_refused() -> None:
    manifest = plain_study()
    data, sealed = hospitals(manifest), rehearse(manifest, PATIENTS)
    with pytest.raises(InputError, match="do not fit the roster"):
        federate(sealed, {site: data[site] for site in ("cleveland", "va")}, UnsafeSeededDraws(0))


def test_a_rehearsal_rounds_cohorts_and_keeps_the_promise_with_spare_attempts() -> None:
    manifest = heart_manifest()
    sealed = rehearse(manifest, PATIENTS)
    assert {entry.site: entry.declared_patients for entry in sealed.roster} == {
        "cleveland": 100,
        "hungarian": 60,
        "va": 130,
    }
    (event,) = study_events(sealed, "va")
    assert isinstance(event, DpEvent)
    assert event.steps == manifest.training.rounds + manifest.privacy.spare_attempts
    assert 2.9 < epsilon([event], 1e-3) <= 3.0


# ---- baselines -------------------------------------------------------------------------------------------------------


def oracle(data: Encoded, penalty: float) -> NDArray[np.float64]:
    """scikit-learn minimises ½‖w‖² + C Σ loss with a free intercept: C = 1/λ."""
    model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
    model.fit(data.inputs.astype(np.float64), data.outcomes)
    return np.append(model.coef_[0], model.intercept_[0])


@pytest.mark.parametrize("penalty", [0.1, PENALTY, 100.0])
def test_alone_is_ridge_logistic_regression(penalty: float) -> None:
    manifest = plain_study()
    data = hospital(manifest, 80, seed=5)
    np.testing.assert_allclose(local_only(manifest, data, penalty), oracle(data, penalty), atol=1e-5)


def test_pooled_is_ridge_logistic_regression_on_everybody() -> None:
    manifest = plain_study()
    data = hospitals(manifest)
    together = pool(data.values())
    assert len(together) == sum(PATIENTS.values())
    np.testing.assert_allclose(pooled(manifest, data.values()), oracle(together, PENALTY), atol=1e-5)


def test_an_mlp_can_be_a_baseline() -> None:
    manifest = heart_manifest(privacy=WITHOUT, model={"name": "mlp", "hidden": [4]})
    data = hospital(manifest, 80, seed=5)
    assert auroc(manifest, local_only(manifest, data, 1.0), [data]) > 0.9


def test_one_outcome_makes_no_baseline() -> None:
    manifest = plain_study()
    data = hospital(manifest, 80, seed=5)
    with pytest.raises(InputError, match="both outcomes"):
        local_only(manifest, data.select(data.outcomes == 1))


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf")])
def test_a_penalty_that_is_none_is_refused(penalty: float) -> None:
    manifest = plain_study()
    with pytest.raises(InputError, match="penalty"):
        local_only(manifest, hospital(manifest, 80, seed=5), penalty)


def test_auroc_is_over_all_patients_together() -> None:
    manifest = plain_study()
    data = hospitals(manifest)
    vector = local_only(manifest, data["va"])
    outcomes = np.concatenate([part.outcomes for part in data.values()])
    scores = np.concatenate([predict(manifest, vector, part) for part in data.values()])
    assert auroc(manifest, vector, list(data.values())) == pytest.approx(roc_auc_score(outcomes, scores))
    with pytest.raises(InputError, match="both outcomes"):
        auroc(manifest, vector, [data["va"].select(data["va"].outcomes == 1)])


def test_a_split_parts_patients_by_its_key() -> None:
    data = hospital(plain_study(), 300, seed=5)
    first, again, other = (split(data, 0.33, key) for key in (b"a" * 32, b"a" * 32, b"b" * 32))
    assert set(first.training.patients) | set(first.held_out.patients) == set(data.patients)
    assert not set(first.training.patients) & set(first.held_out.patients)
    assert first.held_out.patients == again.held_out.patients != other.held_out.patients


# ---- the draws that are unsafe ---------------------------------------------------------------------------------------


def test_seeded_draws_repeat() -> None:
    def sample(*seed: int) -> list[NDArray[np.float64]]:
        draws = UnsafeSeededDraws(*seed)
        return [draws.uniform(5), draws.gaussian((2, 3), 1.5).ravel(), draws.bernoulli(50, 0.5).astype(np.float64)]

    for first, again, other in zip(sample(1, 2), sample(1, 2), sample(1, 3), strict=True):
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()


def test_seeded_draws_have_the_distributions_that_are_asked_for() -> None:
    draws = UnsafeSeededDraws(0)
    noise, sampled = draws.gaussian((400, 50), 3.0), draws.bernoulli(20_000, 0.3)
    assert noise.shape == (400, 50)
    assert noise.std() == pytest.approx(3.0, rel=0.03)
    assert abs(noise.mean()) < 0.11
    assert sampled.mean() == pytest.approx(0.3, abs=0.017)
    assert draws.bernoulli(1000, 1.0).all()


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_seeded_noise_without_a_scale_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match="no scale"):
        UnsafeSeededDraws(0).gaussian(3, sigma)


def imported(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{name.name}" for name in node.names)


@pytest.mark.parametrize("package", ["privacy", "study", "client", "server"])
def test_a_node_cannot_load_seeded_draws(package: str) -> None:
    """No import leads from a node's packages to `simulations`, and no text of theirs names it for a late import."""
    modules = sorted((ROOT / package / "fedward").rglob("*.py"))
    assert modules
    for module in modules:
        text = module.read_text(encoding="utf-8")
        reached = [name for name in imported(ast.parse(text)) if "simulations" in name.split(".")]
        assert not reached, f"{module.relative_to(ROOT)} imports {reached}"
        assert not re.search(r"fedward[./]simulations|UnsafeSeeded", text), module.relative_to(ROOT)
