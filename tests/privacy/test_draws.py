"""Secure draws: the right distributions, and never the same stream twice.

The statistical tests draw real randomness; each rejects a right sampler with probability about 1e-6.
"""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from fedward.privacy import draws as module
from fedward.privacy.draws import Draws, SecureDraws
from fedward.privacy.errors import InputError
from fedward.simulations.baselines import UnsafeSeededDraws

ALPHA = 1e-6
N = 200_000


@pytest.fixture
def draws() -> SecureDraws:
    return SecureDraws()


def test_secure_draws_are_draws(draws: SecureDraws) -> None:
    injected: Draws = draws
    assert injected.uniform(3).shape == (3,)


def test_uniforms_fill_the_open_interval_evenly(draws: SecureDraws) -> None:
    u = draws.uniform(N)
    assert u.dtype == np.float64
    assert u.min() > 0
    assert u.max() < 1
    counts, _ = np.histogram(u, bins=256, range=(0, 1))
    assert stats.chisquare(counts).pvalue > ALPHA


def test_uniforms_use_all_53_bits(draws: SecureDraws) -> None:
    grid = draws.uniform(10_000) * 2.0**53
    assert np.array_equal(grid, np.floor(grid))
    assert stats.binomtest(int((grid % 2).sum()), 10_000).pvalue > ALPHA


def test_the_keystream_ends_map_into_the_open_interval(draws: SecureDraws, monkeypatch: pytest.MonkeyPatch) -> None:
    for byte, expected in ((b"\x00", 2.0**-54), (b"\xff", 1 - 2.0**-53)):
        monkeypatch.setattr(module, "_keystream", lambda size, byte=byte: byte * size)
        fresh = SecureDraws()
        assert fresh.uniform(1)[0] == expected
        assert np.isfinite(fresh.gaussian(4, 1.0)).all()


@pytest.mark.parametrize("block", [1, 7, 1 << 13])
def test_gaussians_follow_the_normal_law(draws: SecureDraws, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    n = N if block > 1000 else 5_000
    z = draws.gaussian(n, 2.5)
    assert stats.kstest(z, stats.norm(scale=2.5).cdf).pvalue > ALPHA
    # n·s²/σ² is chi-square with n degrees of freedom.
    assert ALPHA < stats.chi2(n).cdf(np.sum((z / 2.5) ** 2)) < 1 - ALPHA


def test_gaussian_moments_and_tails(draws: SecureDraws) -> None:
    z = draws.gaussian(4 * N, 1.0)
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(z**power) - expected) < 5 * np.sqrt(variance / z.size)
    beyond = stats.norm.sf(3.5) * 2
    assert stats.binomtest(int(np.sum(np.abs(z) > 3.5)), z.size, beyond).pvalue > ALPHA


def test_neighbouring_gaussians_are_independent(draws: SecureDraws) -> None:
    """The two normals of a pair go to different outputs; that must leave no correlation, nor one of squares."""
    z = draws.gaussian(N, 1.0)
    for lag in (1, 2, 3, 4):
        for values in (z, z**2 - 1):
            r = np.corrcoef(values[:-lag], values[lag:])[0, 1]
            assert abs(r) < 5 / np.sqrt(N)


def test_each_gaussian_comes_from_four_pairs(draws: SecureDraws, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair's two normals in one output would be a single draw again, and the sum no protection."""
    n = 6
    angle = 2 * np.pi * draws.uniform(2 * (n + 2))
    radius = np.sqrt(draws.uniform(2 * (n + 2)))
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)])

    def outputs(inside: np.ndarray) -> np.ndarray:
        monkeypatch.setattr(draws, "_inside", lambda _: (inside[0].copy(), inside[1].copy(), (inside**2).sum(axis=0)))
        return draws._normals(n)

    before = outputs(points)
    used_by = np.zeros((n, 2 * (n + 2)), dtype=bool)
    for pair in range(2 * (n + 2)):
        moved = points.copy()
        moved[:, pair] *= 0.5
        used_by[:, pair] = outputs(moved) != before
    assert (used_by.sum(axis=1) == 4).all()
    shared = used_by.astype(int) @ used_by.T.astype(int)
    assert (shared - np.diag(np.diag(shared)) <= 1).all()


def test_too_few_points_in_the_disc_are_completed(draws: SecureDraws, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = draws._signed
    outside = iter([0.99, 0.99])  # the first two tries lie all but a few in the disc's corners

    def cornered(n: int) -> np.ndarray:
        points = signed(n)
        edge = next(outside, 0.0)
        return np.where(np.arange(n) % (n // 2) < 3, points / 2, np.sign(points) * edge) if edge else points

    monkeypatch.setattr(draws, "_signed", cornered)
    x, y, square = draws._inside(40)
    assert len(x) == len(y) == len(square) == 40
    assert np.allclose(square, x**2 + y**2)
    assert (square < 1).all()


def test_points_fill_the_disc_evenly(draws: SecureDraws) -> None:
    x, y, square = draws._inside(N)
    assert stats.kstest(square, "uniform").pvalue > ALPHA
    assert stats.kstest((np.arctan2(y, x) + np.pi) / (2 * np.pi), "uniform").pvalue > ALPHA


def test_gaussian_shapes(draws: SecureDraws) -> None:
    assert draws.gaussian((), 1.0).shape == ()
    assert draws.gaussian(0, 1.0).shape == (0,)
    assert draws.gaussian((2, 3, 5), 1.0).shape == (2, 3, 5)
    assert draws.gaussian((3, 0), 1.0).shape == (3, 0)


@pytest.mark.parametrize("q", [0.01, 0.25, 0.9])
def test_bernoulli_is_poisson_sampling(draws: SecureDraws, q: float) -> None:
    mask = draws.bernoulli(N, q)
    assert mask.dtype == np.bool_
    assert stats.binomtest(int(mask.sum()), N, q).pvalue > ALPHA


def test_bernoulli_ends(draws: SecureDraws) -> None:
    assert draws.bernoulli(1000, 1.0).all()
    assert draws.bernoulli(0, 0.5).shape == (0,)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_without_a_scale_is_refused(draws: SecureDraws, sigma: float) -> None:
    with pytest.raises(InputError, match="sigma above 0"):
        draws.gaussian(3, sigma)


@pytest.mark.parametrize("q", [0.0, -0.1, 1.0000001, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(draws: SecureDraws, q: float) -> None:
    with pytest.raises(InputError, match="sampling rate"):
        draws.bernoulli(3, q)


@pytest.mark.parametrize("n", [-1, 2.0, True])
def test_a_count_that_is_none_is_refused(draws: SecureDraws, n: int) -> None:
    for call in (draws.uniform, lambda k: draws.bernoulli(k, 0.5), lambda k: draws.gaussian((2, k), 1.0)):
        with pytest.raises(InputError, match="count"):
            call(n)


def test_two_streams_differ_and_one_never_repeats() -> None:
    seen: set[float] = set()
    total = 0
    for draws in (SecureDraws(), SecureDraws()):
        for n in (1, 10, 1000, 50_000, 3):
            seen.update(draws.uniform(n).tolist())
            total += n
    assert len(seen) == total


def test_used_bytes_are_forgotten(draws: SecureDraws) -> None:
    draws.uniform(100)
    assert draws._used == 800
    assert bytes(draws._buffer[:800]) == bytes(800)
    assert any(draws._buffer[800:1600])


def test_a_copy_is_refused(draws: SecureDraws) -> None:
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(InputError, match="cannot be copied"):
            attempt(draws)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_draw_its_parents_noise(draws: SecureDraws) -> None:
    draws.uniform(1)  # fills the buffer that the child inherits
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, draws.uniform(50).tobytes())
        os._exit(0)
    theirs = np.frombuffer(os.read(read, 400))
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    assert theirs.size == 50
    assert not set(theirs) & set(draws.uniform(50))


def test_threads_never_share_bytes(draws: SecureDraws) -> None:
    found: list[list[float]] = []

    def work() -> None:
        found.append([u for _ in range(300) for u in draws.uniform(20).tolist()])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [u for part in found for u in part]
    assert len(everything) == len(set(everything)) == 4 * 300 * 20


# --- discrete Gaussian -----------------------------------------------------------------------------------------------


def expected_mass(deviation: float, places: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    support = np.arange(-int(20 * deviation) - 20, int(20 * deviation) + 21)
    return np.exp(-(places**2) / (2 * deviation**2)) / np.exp(-(support**2) / (2 * deviation**2)).sum()


@pytest.mark.parametrize("deviation", [0.4, 1.0, 3.7])
@pytest.mark.parametrize("kind", [SecureDraws, lambda: UnsafeSeededDraws(5)])
def test_discrete_gaussian_has_its_distribution(kind: Callable[[], Draws], deviation: float) -> None:
    """χ² against the formula of Canonne, Kamath & Steinke 2020, definition 1."""
    drawn = kind().discrete_gaussian(20_000, deviation)
    assert drawn.dtype == np.int64
    edge = max(1, round(2.5 * deviation))
    places = np.arange(-edge, edge + 1)
    mass = expected_mass(deviation, places)
    found = np.array([np.count_nonzero(drawn == place) for place in places])
    found = np.append(found, len(drawn) - found.sum())
    wanted = len(drawn) * np.append(mass, 1 - mass.sum())
    assert stats.chisquare(found, wanted, sum_check=False).pvalue > ALPHA


def test_wide_discrete_gaussian_is_nearly_a_gaussian(draws: SecureDraws) -> None:
    drawn = draws.discrete_gaussian(20_000, 1e7)
    assert stats.kstest(drawn / 1e7, "norm").pvalue > ALPHA


@pytest.mark.parametrize(("n", "deviation"), [(-1, 1.0), (3, 0.0), (3, np.nan), (3, np.inf), (3, 2.0**41)])
def test_discrete_gaussian_refuses_what_is_no_noise(draws: SecureDraws, n: int, deviation: float) -> None:
    with pytest.raises(InputError):
        draws.discrete_gaussian(n, deviation)


def test_no_discrete_noise_for_nothing(draws: SecureDraws) -> None:
    assert draws.discrete_gaussian(0, 1.0).shape == (0,)
