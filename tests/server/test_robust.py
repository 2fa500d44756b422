"""Robust sums: against plain definitions, and that f liars cannot carry them off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import Federation, heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean

from fedward.privacy.errors import InputError, UnreachableError
from fedward.server.aggregation import weighted_mean
from fedward.server.coordinator import LocalCoordinator
from fedward.server.robust import aggregate
from fedward.study.training import Training
from fedward.study.vectors import Vector


def test_a_coordinator_proposes_no_study_that_only_the_simulator_runs(tmp_path: Path) -> None:
    coordinator = LocalCoordinator(Federation(tmp_path).home.path)
    with pytest.raises(InputError, match="no hospital's node runs scaffold") as caught:
        coordinator.propose(heart_manifest(training={"algorithm": "scaffold", "server_momentum": 0.0}), ())
    assert caught.value.code == "simulated-only"
    with pytest.raises(UnreachableError):
        coordinator.propose(heart_manifest(training={"aggregation": "median"}), ())


def training(aggregation: str, byzantine: int = 0) -> Training:
    return Training.model_validate(
        {"algorithm": "fedavg", "rounds": 1, "aggregation": aggregation, "byzantine": byzantine}
    )


def updates(number: int, seed: int, size: int = 5) -> list[Vector]:
    return list(np.random.default_rng(seed).normal(size=(number, size)).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(0, 4), st.integers(0, 1000))
def test_they_are_the_definitions(byzantine: int, more: int, seed: int) -> None:
    sent = updates(2 * byzantine + 3 + more, seed)
    weights = [1.0 + place for place in range(len(sent))]
    rows = np.stack(sent).astype(np.float64)
    np.testing.assert_array_equal(aggregate(sent, weights, training("mean")), weighted_mean(sent, weights))
    np.testing.assert_allclose(aggregate(sent, weights, training("median")), np.median(rows, axis=0))
    expected = trim_mean(rows, byzantine / len(sent) + 1e-9, axis=0)
    np.testing.assert_allclose(aggregate(sent, weights, training("trimmed-mean", byzantine)), expected)
    near = [sum(sorted(((one - other) ** 2).sum() for other in rows)[1 : len(rows) - byzantine - 1]) for one in rows]
    np.testing.assert_array_equal(aggregate(sent, weights, training("krum", byzantine)), rows[np.argmin(near)])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2), st.integers(0, 1000), st.floats(10, 1e30))
def test_as_many_liars_as_are_withstood_cannot_carry_them_off(byzantine: int, seed: int, far: float) -> None:
    honest = updates(byzantine + 4, seed)
    lies = [np.full(5, far * (-3) ** place, dtype=np.float32) for place in range(byzantine)]
    sent, weights = [*lies, *honest], [1.0] * (byzantine + len(honest))
    low, high = np.min(honest, axis=0), np.max(honest, axis=0)
    for aggregation in ("median", "trimmed-mean", "krum"):
        chosen = training(aggregation, 0 if aggregation == "median" else byzantine)
        found = aggregate(sent, weights, chosen)
        assert ((found >= low) & (found <= high)).all(), aggregation
    assert np.abs(aggregate(sent, weights, training("mean"))).max() > 1


def test_too_few_updates_are_refused() -> None:
    for aggregation, byzantine, least in (("median", 0, 3), ("trimmed-mean", 2, 5), ("krum", 1, 5)):
        with pytest.raises(InputError) as caught:
            aggregate(updates(least - 1, 0), [1.0] * (least - 1), training(aggregation, byzantine))
        assert caught.value.expected == f"at least {least}"
        assert len(aggregate(updates(least, 0), [1.0] * least, training(aggregation, byzantine))) == 5
