"""Keyed draws: repeated by their seed to the bit, and distributed as they say (Kolmogorov & Smirnov's test, seeds fixed)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedward.privacy.errors import InputError
from fedward.simulations.draws import UnsafeKeyedDraws

GOLDEN_COINS = [1, 3, 5, 7, 8, 9, 13]
GOLDEN_NORMALS = [-0.17293069, -0.51524341, -0.95208132]


def test_a_seed_repeats_everything_and_another_nothing() -> None:
    def drawn(*seed: int) -> list[bytes]:
        draws = UnsafeKeyedDraws(*seed)
        return [
            draws.gaussian((3, 5), 2.0).tobytes(),
            draws.bernoulli(100, 0.5).tobytes(),
            draws.uniform(7).tobytes(),
            draws.gaussian(40_000, 1.0).tobytes(),
            draws.discrete_gaussian(50, 3.0).tobytes(),
        ]

    assert drawn(1, 2) == drawn(1, 2)
    assert all(one != other for one, other in zip(drawn(1, 2), drawn(12), strict=True))


def test_the_first_draws_stay_what_they_are() -> None:
    """Golden: a run on record can be repeated by a later version."""
    draws = UnsafeKeyedDraws(7)
    assert draws.bernoulli(16, 0.5).nonzero()[0].tolist() == GOLDEN_COINS
    assert draws.gaussian(3, 1.0) == pytest.approx(GOLDEN_NORMALS, abs=1e-6)


def test_normals_are_normal_and_independent() -> None:
    values = UnsafeKeyedDraws(3).gaussian(200_001, 2.5) / 2.5
    assert stats.kstest(values, "norm").pvalue > 0.001
    assert abs(values.std() - 1) < 0.01
    assert abs(stats.kurtosis(values)) < 0.05
    for shift in (1, 2, 16_384, 100_000):
        assert abs(np.corrcoef(values[:-shift], values[shift:])[0, 1]) < 0.02
    assert values.shape == (200_001,)
    assert UnsafeKeyedDraws(3).gaussian((0, 4), 1.0).shape == (0, 4)


def test_uniforms_are_uniform_and_coins_are_fair_to_their_rate() -> None:
    values = UnsafeKeyedDraws(4).uniform(100_000)
    assert stats.kstest(values, "uniform").pvalue > 0.001
    assert values.min() > 0
    assert values.max() < 1
    for rate in (0.01, 0.5, 0.999):
        hits = int(UnsafeKeyedDraws(5).bernoulli(100_000, rate).sum())
        assert stats.binomtest(hits, 100_000, rate).pvalue > 0.001
    assert UnsafeKeyedDraws(5).bernoulli(10, 1.0).all()


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_without_a_scale_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match="no scale"):
        UnsafeKeyedDraws(0).gaussian(3, sigma)


def test_n_and_then_m_coins_are_those_of_n_and_m_and_ties_have_their_share() -> None:
    """At a rate just above a multiple of 2^-16 every head is a tie that needs more than two bytes."""
    one, other = UnsafeKeyedDraws(8), UnsafeKeyedDraws(8)
    together = one.bernoulli(300_000, 0.3)
    apart = np.concatenate([other.bernoulli(number, 0.3) for number in (1, 99_999, 200_000)])
    np.testing.assert_array_equal(together, apart)
    hits = int(UnsafeKeyedDraws(9).bernoulli(4_000_000, 0.75 * 2**-16).sum())
    assert stats.binomtest(hits, 4_000_000, 0.75 * 2**-16).pvalue > 0.001
    assert hits > 20
