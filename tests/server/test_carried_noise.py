"""The noise that a model carries, against noise alone sent through the server's own steps; and where nothing can be said."""

from __future__ import annotations

import dataclasses
from typing import Any

import histories
import numpy as np
import pytest
from federation import Federation, heart_manifest

from fedward.privacy.canonical import canonical_json
from fedward.server.aggregation import OptimiserState, step, weighted_mean
from fedward.server.carried_noise import carried_noise
from fedward.server.histories import History
from fedward.study.manifest import SealedManifest, parse
from fedward.study.terms import site_terms, training_cohort


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    """VA is not in rounds 2 and 3."""
    federation: Federation = histories.template(tmp_path_factory.mktemp("federation"))
    histories.dropped_out(federation)
    return histories.told(federation)


def resealed(history: History, **changes: dict[str, Any]) -> History:
    """The same record of a study with other tables."""
    sealed = history.sealed
    assert isinstance(sealed, SealedManifest)
    data = sealed.manifest.model_dump(mode="json")
    for table, values in changes.items():
        data[table] = data[table] | values
    other = sealed.model_copy(update={"manifest": parse(data)})
    return dataclasses.replace(history, study=dataclasses.replace(history.study, sealed=other.canonical))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_what_noise_alone_comes_to_after_all_rounds(history: History, momentum: float) -> None:
    told = resealed(history, training={"server_momentum": momentum, "server_learning_rate": 1.5})
    sealed = told.sealed
    assert isinstance(sealed, SealedManifest)
    size, rng = 20_000, np.random.default_rng(0)
    model, state = np.zeros(size, dtype=np.float32), OptimiserState.zeros(size)
    for cohort in (("cleveland", "hungarian", "switzerland", "va"), *[("cleveland", "hungarian", "switzerland")] * 2):
        updates, weights = [], []
        for site in cohort:
            terms = site_terms(sealed, site)
            noise = rng.normal(0, terms.noise_multiplier * terms.clipping_norm, size)
            updates.append((-terms.learning_rate * noise / terms.expected_batch).astype(np.float32))
            weights.append(training_cohort(sealed, site))
        model, state = step(model, weighted_mean(updates, weights), state, sealed.manifest.training)
    found = carried_noise(told, 3)
    assert found.deviation == pytest.approx(float(model.std()), rel=0.02)
    assert "no sampling error" in found.words


def test_where_gradients_pull_back_less_is_left(history: History) -> None:
    """On a quadratic loss of any curvature with stable steps, what is left of the noise is never more."""
    rate, beta, rounds = 1.0, 0.9, 12
    whole = sum((rate * sum(beta**j for j in range(k + 1))) ** 2 for k in range(rounds))
    for curvature in np.linspace(0, 2 * (1 + beta) / rate, 50)[:-1]:
        left = 0.0
        for born in range(rounds):
            position, velocity = 0.0, 0.0
            for at in range(born, rounds):
                velocity = beta * velocity - curvature * position + (1.0 if at == born else 0.0)
                position += rate * velocity
            left += position**2
        assert left <= whole * (1 + 1e-9), curvature


def test_of_fewer_rounds_there_is_less(history: History) -> None:
    one, two = (carried_noise(history, version).deviation for version in (1, 2))
    assert one is not None
    assert two is not None
    assert 0 < one < two


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"training": {"algorithm": "fedavg", "local_steps": 2, "sampling_rate": 0.5}}, "hospitals take several steps"),
        ({"training": {"algorithm": "fedadam"}}, "hospitals take several steps"),
        ({"model": {"start": "ab" * 32}}, "earlier version"),
        ({"training": {"aggregation": "median"}}, "not averaged"),
        ({"privacy": {"noise": "shared", "secure_aggregation": True}}, "shared between hospitals"),
    ],
)
def test_what_cannot_be_derived_is_said(history: History, changes: dict[str, Any], why: str) -> None:
    found = carried_noise(resealed(history, **changes), 3)
    assert found.deviation is None
    assert why in found.words
    assert "there is no interval" in found.words


def test_a_round_that_is_not_in_the_record_is_not_guessed(history: History) -> None:
    found = carried_noise(history, 9)
    assert found.deviation is None
    assert "it does not name who was in round 4" in found.words


def test_without_differential_privacy_there_is_none(history: History) -> None:
    sealed = history.sealed
    assert isinstance(sealed, SealedManifest)
    data = heart_manifest().model_dump(mode="json")
    data["privacy"] |= {"mechanism": "none", "epsilon": None, "delta": None}
    body = sealed.model_dump(mode="json")
    body |= {"manifest": parse(data).model_dump(mode="json")}
    body["roster"] = [one | {"noise_multiplier": 0.0} for one in body["roster"]]
    study = dataclasses.replace(
        history.study, sealed=SealedManifest.model_validate_json(canonical_json(body)).canonical
    )
    assert carried_noise(dataclasses.replace(history, study=study), 3).words.startswith("No noise was added.")
