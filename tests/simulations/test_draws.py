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


@pytest.mark.parametrize("rate", [0.3, 0.01, 1e-5])
def test_n_and_then_m_coins_are_those_of_n_and_m(rate: float) -> None:
    one, other, third = UnsafeKeyedDraws(8), UnsafeKeyedDraws(8), UnsafeKeyedDraws(8)
    together = one.bernoulli(300_000, rate)
    apart = np.concatenate([other.bernoulli(number, rate) for number in (1, 99_999, 0, 200_000)])
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_array_equal(third.heads(300_000, rate), np.flatnonzero(together))


def test_coins_that_tie_have_their_share() -> None:
    """Two bytes decide at a quarter: what is above it, a quarter of a sixty-four-thousandth, is ties alone."""
    rate = 0.25 + 0.75 * 2**-16
    hits = int(UnsafeKeyedDraws(9).bernoulli(4_000_000, rate).sum())
    assert stats.binomtest(hits, 4_000_000, rate).pvalue > 0.001
    draws = UnsafeKeyedDraws(9)
    words = np.frombuffer(UnsafeKeyedDraws(9)._bytes(8_000_000), dtype=np.uint16)
    ties = draws.bernoulli(4_000_000, rate)[words == 2**14]
    assert stats.binomtest(int(ties.sum()), len(ties), 0.75).pvalue > 0.001


def test_rare_heads_come_independently() -> None:
    """The number of heads in blocks of a thousand is binomial, and no rate disturbs another."""
    draws = UnsafeKeyedDraws(10)
    counts = draws.bernoulli(2_000_000, 0.02).reshape(-1, 1000).sum(axis=1)
    expected = stats.binom(1000, 0.02)
    edges = np.array([-1, 13, 15, 17, 18, 19, 20, 21, 22, 24, 26, 1000])
    observed = np.histogram(counts, edges + 0.5)[0]
    assert stats.chisquare(observed, len(counts) * np.diff(expected.cdf(edges))).pvalue > 0.001
    again = UnsafeKeyedDraws(10)
    first = again.heads(1000, 0.02)
    again.heads(1000, 0.01)
    np.testing.assert_array_equal(
        np.concatenate([first, 1000 + again.heads(1000, 0.02)]), UnsafeKeyedDraws(10).heads(2000, 0.02)
    )
    assert len(UnsafeKeyedDraws(1).heads(1_000_000, 0.0)) == 0
