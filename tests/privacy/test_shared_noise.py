"""What a site puts into a sum with shared noise: the rounding's sensitivity, the noise's variance, the ring, and no way round."""

from __future__ import annotations

import copy
import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from fedward.privacy.concentrated import LEAST_UNITS
from fedward.privacy.draws import SecureDraws
from fedward.privacy.errors import FedwardError, InputError
from fedward.privacy.shared_noise import SharedNoise, UnnoisedSum, share_noise


class Silent:
    """No noise at all: what is left is the rounding."""

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        return np.zeros(n, dtype=np.int64)

    def uniform(self, n: int) -> NDArray[np.float64]:
        raise NotImplementedError

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        raise NotImplementedError

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        raise NotImplementedError


def shared(noise_multiplier: float = 20.0, **changes: object) -> SharedNoise:
    terms = {"clipping_norm": 1.0, "dimension": 20, "sites": 2, "patients": 700, "members": 4, "bits": 32} | changes
    return share_noise(noise_multiplier, **terms)  # type: ignore[arg-type]


# --- sensitivity --------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300), st.floats(1e-3, 1e3), st.integers(0, 50))
def test_one_patient_moves_the_integers_by_at_most_the_sensitivity(
    seed: int, dimension: int, norm: float, patients: int
) -> None:
    generator = np.random.default_rng(seed)
    noise = shared(clipping_norm=norm, dimension=dimension, patients=60)
    gradients = generator.normal(size=(patients + 1, dimension))
    gradients *= norm / np.linalg.norm(gradients, axis=1, keepdims=True)
    gradients[-1] = np.round(gradients[-1] / noise.step) * noise.step + noise.step / 2 * generator.choice(
        [-1, 1], dimension
    )
    gradients[-1] *= min(1.0, norm / float(np.linalg.norm(gradients[-1])))
    without, with_one = (
        UnnoisedSum(np.sum(rows, axis=0)).noised(noise, Silent()) for rows in (gradients[:-1], gradients)
    )
    assert float(np.linalg.norm((with_one - without).astype(np.float64))) <= noise.sensitivity


def test_the_rounding_can_use_the_whole_of_its_allowance() -> None:
    """γ√d is not idle: two roundings in opposite directions, in every coordinate."""
    noise = SharedNoise(clipping_norm=1.0, step=2.0**-10, dimension=100, sites=2, deviation=1000.0)
    start = np.full(100, 0.5 * noise.step * (1 - 1e-9))
    patient = np.full(100, 0.1 * (1 - 1e-9))
    patient = np.floor(patient / noise.step) * noise.step + noise.step * 2e-9
    moved = UnnoisedSum(start + patient).noised(noise, Silent()) - UnnoisedSum(start).noised(noise, Silent())
    plain = float(np.linalg.norm(patient)) / noise.step
    assert plain < noise.clipping_norm / noise.step
    assert float(np.linalg.norm(moved.astype(np.float64))) == pytest.approx(plain + 10.0, abs=0.01)
    assert noise.sensitivity == pytest.approx(2**10 + 10.0, abs=0.01)


def test_a_coarse_grid_is_refused() -> None:
    SharedNoise(1.0, 0.001, 100, 2, 1000.0)
    with pytest.raises(InputError, match="too coarse") as caught:
        SharedNoise(1.0, 0.00101, 100, 2, 1000.0)
    assert caught.value.code == "ring-overflow"


# --- noise --------------------------------------------------------------------------------------------------------------


def test_the_released_sum_has_the_pools_variance_and_each_share_its_own() -> None:
    """χ² at 1e-6 on 5 000 coordinates each; the honest shares alone make up z Δ."""
    noise = shared(3.0, dimension=5_000, sites=3, bits=64)
    draws = SecureDraws()
    shares = [UnnoisedSum(np.zeros(5_000)).noised(noise, draws) for _ in range(3)]
    for value, deviation in [(share, noise.deviation) for share in shares] + [
        (np.sum(shares, axis=0), 3.0 * noise.sensitivity)
    ]:
        low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], 5_000)
        assert low <= float(np.sum((value / deviation) ** 2)) <= high
    assert len({share.tobytes() for share in shares}) == 3


def test_the_shares_add_up_to_the_noise_asked_for() -> None:
    for sites in (1, 2, 3, 100):
        noise = shared(20.0, sites=sites)
        event = noise.event(7)
        assert event.pool_noise >= 20.0
        assert event.pool_noise == pytest.approx(20.0, rel=1e-3)
        assert event.noise_multiplier == pytest.approx(20.0 / math.sqrt(sites), rel=1e-3)
        assert (event.steps, event.sites) == (7, sites)
        assert noise.deviation == int(noise.deviation)


def test_noise_comes_after_the_rounding_and_is_not_clamped() -> None:
    class Huge(Silent):
        def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
            return np.full(n, 2**50, dtype=np.int64)

    noise = shared()
    values = np.linspace(-5, 5, 20)
    found = UnnoisedSum(values).noised(noise, Huge())
    np.testing.assert_array_equal(found - 2**50, np.rint(values / noise.step).astype(np.int64))


# --- the ring -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("members", [3, 200])
def test_the_grid_is_the_finest_that_the_ring_holds(bits: int, members: int) -> None:
    noise = shared(members=members, bits=bits)
    most = min((2 ** (bits - 1) - 1) // members, 2**52)
    assert noise.most_coordinate(700, members) <= most
    finer = SharedNoise(1.0, noise.step / 2, 20, 2, math.ceil(noise.deviation * 2))
    assert finer.most_coordinate(700, members) > most or noise.step == 2.0**-24
    assert math.log2(noise.step) == int(math.log2(noise.step))
    assert noise.step * math.sqrt(20) <= 0.01
    assert noise.sensitivity >= LEAST_UNITS * math.sqrt(20)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**6), st.integers(3, 200), st.floats(0.1, 100.0), st.integers(1, 10**6), st.integers(2, 100))
def test_a_sum_wraps_with_a_chance_of_at_most_two_to_the_minus_forty(
    dimension: int, members: int, noise_multiplier: float, patients: int, sites: int
) -> None:
    """Gauss's own tail, which a discrete Gaussian of a large σ has, beyond what is left of the ring by the gradients."""
    noise = shared(noise_multiplier, dimension=dimension, members=members, patients=patients, sites=sites, bits=64)
    left = (2.0**63 - 1) / members - patients * noise.clipping_norm / noise.step - 0.5
    chance = math.log(2 * dimension * members) + float(stats.norm.logsf(left / noise.deviation))
    assert chance <= -40 * math.log(2)


def test_a_sum_that_no_grid_holds_is_refused() -> None:
    with pytest.raises(InputError, match="could overflow") as caught:
        shared(patients=10**8)
    assert caught.value.code == "ring-overflow"
    assert shared(patients=10**8, bits=64).step < 1e-3


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf])
def test_noise_that_is_none_is_refused(multiplier: float) -> None:
    with pytest.raises(InputError):
        shared(multiplier)


# --- an un-noised sum stays -----------------------------------------------------------------------------------------------


@pytest.fixture
def secret() -> UnnoisedSum:
    return UnnoisedSum(np.full(20, 0.123456789))


def test_it_is_no_array(secret: UnnoisedSum) -> None:
    for use in (
        lambda: np.asarray(secret, dtype=np.float64),
        lambda: np.ascontiguousarray(secret, dtype="<f4"),
        lambda: list(secret),  # type: ignore[call-overload]
        lambda: secret + 1,  # type: ignore[operator]
        lambda: float(secret),  # type: ignore[arg-type]
        lambda: memoryview(secret),  # type: ignore[arg-type]
        lambda: vars(secret),
        lambda: json.dumps(secret),
    ):
        with pytest.raises(TypeError):
            use()
    assert not [name for name in dir(secret) if not name.startswith("_") and name != "noised"]


def test_it_is_not_copied_and_not_written(secret: UnnoisedSum) -> None:
    for use in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(InputError, match="cannot be copied"):
            use(secret)
    assert "123456" not in f"{secret} {secret!r}"


def test_its_noise_is_new_each_time(secret: UnnoisedSum) -> None:
    found = [secret.noised(shared(), SecureDraws()) for _ in range(3)]
    assert all((one != two).any() for one, two in pairwise(found))


def test_what_is_no_finite_vector_is_refused() -> None:
    for values in (np.zeros((2, 2)), np.zeros(3, dtype=np.float32), np.zeros(0), [1.0]):
        with pytest.raises(InputError):
            UnnoisedSum(values)  # type: ignore[arg-type]
    for value in (math.nan, math.inf):
        with pytest.raises(FedwardError, match="finite"):
            UnnoisedSum(np.array([0.0, value]))


def test_what_does_not_fit_its_terms_is_refused(secret: UnnoisedSum) -> None:
    with pytest.raises(InputError, match="wrong size"):
        secret.noised(shared(dimension=21), Silent())
    with pytest.raises(InputError, match="too large"):
        UnnoisedSum(np.full(20, 1e30)).noised(shared(), Silent())
