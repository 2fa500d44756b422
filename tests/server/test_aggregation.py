"""Aggregation against references written from the papers, in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from fedward.privacy.errors import FedwardError, InputError
from fedward.server.aggregation import OptimiserState, step, weighted_mean
from fedward.server.models import pack_optimiser, unpack_optimiser
from fedward.study.training import Training

numbers = st.floats(-1e6, 1e6, width=32)


def training(algorithm: str, **changes: object) -> Training:
    own = {"fedprox": {"proximal": 0.1}}.get(algorithm, {})
    return heart_manifest(training={"algorithm": algorithm, **own, **changes}).training


def run(rule: Training, deltas: list[NDArray[np.float64]], base: list[float]) -> NDArray[np.float32]:
    model, state = np.array(base, dtype=np.float32), OptimiserState.zeros(len(base))
    for delta in deltas:
        model, state = step(model, delta, unpack_optimiser(pack_optimiser(state)), rule)
    return model


@settings(max_examples=100, deadline=None)
@given(data=st.data(), sites=st.integers(1, 5), dimension=st.integers(1, 6))
def test_the_mean_is_weighted_by_what_was_declared(data: st.DataObject, sites: int, dimension: int) -> None:
    rows = data.draw(
        st.lists(st.lists(numbers, min_size=dimension, max_size=dimension), min_size=sites, max_size=sites)
    )
    weights = data.draw(st.lists(st.floats(1, 1e5), min_size=sites, max_size=sites))
    got = weighted_mean([np.array(row, dtype=np.float32) for row in rows], weights)
    expected = [
        math.fsum(w * row[i] for w, row in zip(weights, rows, strict=True)) / sum(weights) for i in range(dimension)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-6)
    assert got.dtype == np.float64


def test_equal_updates_in_the_same_order_give_equal_bits() -> None:
    rng = np.random.default_rng(0)
    updates = [rng.normal(size=50).astype(np.float32) for _ in range(4)]
    weights = [203.01, 197.0, 82.41, 134.0]
    assert weighted_mean(updates, weights).tobytes() == weighted_mean(updates, weights).tobytes()


def test_a_sum_of_float32_is_made_in_float64() -> None:
    updates = [np.array([1e8], dtype=np.float32), np.array([1.0], dtype=np.float32), np.array([-1e8], dtype=np.float32)]
    assert weighted_mean(updates, [1.0, 1.0, 1.0])[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_not_above_zero_is_refused(weight: float) -> None:
    with pytest.raises(InputError, match="weight"):
        weighted_mean([np.ones(2, dtype=np.float32)] * 2, [1.0, weight])


def test_updates_that_do_not_belong_together_are_refused() -> None:
    one, two = np.ones(1, dtype=np.float32), np.ones(2, dtype=np.float32)
    for updates, weights in (([], []), ([one], []), ([one], [1.0, 1.0]), ([one, two], [1.0, 1.0])):
        with pytest.raises(InputError):
            weighted_mean(updates, weights)


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg", "fedprox"])
@settings(max_examples=40, deadline=None)
@given(
    deltas=st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    rate=st.floats(0.01, 5),
    momentum=st.floats(0, 0.99),
)
def test_the_momentum_rule_by_hand(algorithm: str, deltas: list[float], rate: float, momentum: float) -> None:
    w, m = 0.5, 0.0
    for delta in deltas:
        m = momentum * m + delta
        w = w + rate * m
    rule = training(algorithm, server_learning_rate=rate, server_momentum=momentum)
    got = run(rule, [np.array([delta]) for delta in deltas], [0.5])
    assert got[0] == pytest.approx(w, rel=1e-5, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    deltas=st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0.01, 0.999),
)
def test_fedadam_is_algorithm_2_of_reddi_et_al(deltas: list[float], beta1: float, beta2: float) -> None:
    rate, tau, w, m, v = 0.3, 1e-3, -1.0, 0.0, 0.0
    for delta in deltas:
        m = beta1 * m + (1 - beta1) * delta
        v = beta2 * v + (1 - beta2) * delta**2
        w = w + rate * m / (math.sqrt(v) + tau)
    rule = training("fedadam", server_learning_rate=rate, server_momentum=beta1, server_beta2=beta2, server_epsilon=tau)
    got = run(rule, [np.array([delta]) for delta in deltas], [-1.0])
    assert got[0] == pytest.approx(w, rel=1e-4, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    deltas=st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0.01, 0.999),
)
def test_fedyogi_and_fedadagrad_are_algorithm_2_of_reddi_et_al(deltas: list[float], beta1: float, beta2: float) -> None:
    rate, tau = 0.3, 1e-3
    for name in ("fedyogi", "fedadagrad"):
        w, m, v = -1.0, 0.0, 0.0
        for delta in deltas:
            m = beta1 * m + (1 - beta1) * delta
            if name == "fedyogi":
                v -= (1 - beta2) * delta**2 * (1 if v > delta**2 else -1 if v < delta**2 else 0)
            else:
                v += delta**2
            w = w + rate * m / (math.sqrt(v) + tau)
        rule = training(name, server_learning_rate=rate, server_momentum=beta1, server_beta2=beta2, server_epsilon=tau)
        got = run(rule, [np.array([delta]) for delta in deltas], [-1.0])
        assert got[0] == pytest.approx(w, rel=1e-4, abs=1e-4)


def test_coordinates_do_not_mix() -> None:
    rule = training("fedadam", server_learning_rate=0.1)
    deltas = [np.array([1.0, -2.0, 0.0]), np.array([0.5, 4.0, 0.0])]
    together = run(rule, deltas, [0.0, 1.0, 2.0])
    for i, start in enumerate((0.0, 1.0, 2.0)):
        assert run(rule, [delta[i : i + 1] for delta in deltas], [start])[0] == together[i]
    assert together[2] == 2.0


@pytest.mark.parametrize("algorithm", ["fedsgd", "fedadam"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_a_step_that_does_not_stay_finite_is_refused(algorithm: str, bad: float) -> None:
    if algorithm == "fedadam" and bad == 1e300:
        bad = 1e200  # its square overflows
    with np.errstate(all="ignore"), pytest.raises(FedwardError) as caught:
        run(training(algorithm), [np.array([1.0, bad]), np.array([1.0, bad])], [0.0, 0.0])
    assert caught.value.code == "training-diverged"


def test_the_optimiser_s_state_comes_back_bit_for_bit() -> None:
    state = OptimiserState(np.array([0.1, -1e-300]), np.array([3.0, 1e300]))
    again = unpack_optimiser(pack_optimiser(state))
    assert again.first.tobytes() == state.first.tobytes()
    assert again.second.tobytes() == state.second.tobytes()


def test_zeros_of_an_optimiser_take_no_room_and_come_back() -> None:
    large = 100_000
    state = OptimiserState(np.full(large, 0.1), np.zeros(large))
    packed = pack_optimiser(state)
    assert len(packed) < 8 * large + 1000
    again = unpack_optimiser(packed)
    assert np.array_equal(again.first, state.first)
    assert np.array_equal(again.second, state.second)
    assert len(unpack_optimiser(pack_optimiser(OptimiserState.zeros(3))).first) == 3


def test_an_optimiser_s_state_of_an_earlier_version_is_read() -> None:
    first, second = np.array([1.0, 2.0]), np.zeros(2)
    again = unpack_optimiser(save({"first": first, "second": second}))
    assert np.array_equal(again.first, first)
    assert np.array_equal(again.second, second)


@pytest.mark.parametrize("data", [b"", b"x" * 100, pack_optimiser(OptimiserState.zeros(2))[:-1]])
def test_a_damaged_optimiser_state_is_refused(data: bytes) -> None:
    with pytest.raises(FedwardError, match="optimiser"):
        unpack_optimiser(data)
