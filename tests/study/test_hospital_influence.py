"""What is told of votes: intervals against SciPy's and by simulation, and no small number told, nor one that gives it away."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from fedward.study.hospital_influence import HospitalInfluence, hospital_influence, share_interval
from fedward.study.metrics import SMALL, suppressed_cells

NAMES = tuple("abcdefghijklm")


def told(votes: list[int], patients: int | None = None, deviation: float = 0.0) -> HospitalInfluence:
    everybody = sum(votes) if patients is None else patients
    return hospital_influence(NAMES[: len(votes)], np.array(votes), everybody, deviation, 3, ("a", "b"))


# --- intervals --------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(total=st.integers(11, 5000), share=st.floats(0, 1))
def test_without_noise_the_interval_is_wilson_s(total: int, share: float) -> None:
    votes = round(total * share)
    value, low, high = share_interval(votes, total, 0.0, 13)
    expected = binomtest(votes, total).proportion_ci(0.95, method="wilson")
    assert value == votes / total
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    votes=st.integers(-500, 5000), total=st.integers(100, 4000), deviation=st.floats(0, 9), features=st.integers(1, 13)
)
def test_an_interval_holds_its_share_and_stays_within_0_and_1(
    votes: int, total: int, deviation: float, features: int
) -> None:
    value, low, high = share_interval(votes, total, deviation, features)
    assert 0 <= low <= value <= high <= 1


@pytest.mark.parametrize(("patients", "deviation"), [(300, 0.0), (300, 4.0), (300, 12.0), (2000, 20.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(patients: int, deviation: float) -> None:
    """13 features of very different shares, every patient with shares of their own, 800 studies: 92 to 99 of 100.

    A count that noise puts below 0 is taken for 0, which can only widen. Without noise, of features that get some
    votes: of one that gets .15 on average Wilson's interval holds the share in 88 of 100 (Brown, Cai & DasGupta 2001), and fewer
    than 11 votes are not shown.
    """
    rng, mean = np.random.default_rng(0), np.array([2.0**-i for i in range(13)])
    mean /= mean.sum()
    held = np.zeros(13)
    for _ in range(800):
        own = rng.dirichlet(8 * mean, size=patients)
        chosen = (rng.random((patients, 1)) > own.cumsum(1)).sum(1).clip(max=12)
        votes = np.bincount(chosen, minlength=13)
        noised = votes + np.rint(rng.normal(0, deviation, 13)).astype(np.int64) if deviation else votes
        for place, count in enumerate(noised.tolist()):
            _, low, high = share_interval(count, int(noised.sum()), deviation, 13)
            held[place] += low <= mean[place] <= high
    coverage = held[mean * patients >= 2] / 800 if deviation == 0 else held / 800
    assert coverage.min() > 0.92
    assert coverage.max() < 0.99
    assert coverage[0] < 0.97


# --- what may be told ---------------------------------------------------------------------------------------------------------


def test_shares_are_told_by_size_with_their_votes() -> None:
    found = told([30, 50, 20])
    assert [(one.feature, one.votes, one.share) for one in found.features] == [
        ("b", 50, 0.5),
        ("a", 30, 0.3),
        ("c", 20, 0.2),
    ]
    assert (found.voters, found.patients, found.of_all, found.why) == (100, 100, False, "")
    assert "a, b together, of the model of 3 rounds" in found.about
    assert "no noise was added" in found.noise


def test_a_small_number_of_votes_is_never_told_nor_one_that_gives_it_away() -> None:
    found = {one.feature: one for one in told([60, 40, 15, 5]).features}
    # 15 and 5 are 20 together, of which 15 could be told from 5 to 9: so 40 goes, too.
    assert [found[name].shown for name in "abcd"] == ["shown", "hidden", "hidden", "small"]
    assert all(one.votes is one.share is one.low is one.high is None for one in found.values() if one.feature != "a")
    found = {one.feature: one for one in told([60, 40, 12, 10, 0]).features}
    assert [found[name].shown for name in "abcde"] == ["shown", "shown", "hidden", "small", "small"]
    assert [one.feature for one in told([12, 40, 60, 10, 0]).features] == ["c", "b", "a", "d", "e"]


@settings(max_examples=300, deadline=None)
@given(votes=st.lists(st.integers(0, 40), min_size=2, max_size=5), nobody=st.integers(0, 30))
def test_what_is_hidden_could_be_eleven_others(votes: list[int], nobody: int) -> None:
    """Whoever knows the rules, all that is told, and all patients, still finds eleven values or more for each that is not."""
    found = told(votes, sum(votes) + nobody)
    if not found.features:
        assert sum(votes) < SMALL
        return
    shown = {one.feature: one.votes for one in found.features if one.votes is not None}
    assert all(count >= SMALL for count in shown.values())
    assert (found.voters == sum(votes)) == (not found.of_all or nobody == 0)
    unknown = [count for name, count in zip(NAMES, votes, strict=False) if name not in shown]
    unknown += [nobody] if found.of_all else []
    if unknown and len(unknown) != len(votes) + found.of_all:
        assert sum(unknown) >= 2 * SMALL
        assert len(unknown) >= 2
    if found.of_all:
        assert 0 < nobody < SMALL
        assert found.voters == sum(votes) + nobody


def test_suppressed_cells_are_as_those_of_groups() -> None:
    for counts in itertools.product((0, 5, 11, 17, 30), repeat=3):
        hidden = suppressed_cells(np.array(counts))
        small = {place for place, count in enumerate(counts) if count < SMALL}
        assert small <= hidden
        if small:
            assert sum(counts[place] for place in hidden) >= 22 or len(hidden) == 3
        else:
            assert not hidden
    assert suppressed_cells(np.array([50, 12, 60]), 5) == {0, 1}  # 5 and 12 are 17, 50 more are enough
    assert suppressed_cells(np.array([50, 18, 60]), 5) == {1}
    assert suppressed_cells(np.array([50, 12, 60]), 0) == frozenset()


def test_too_few_votes_are_told_in_words_alone() -> None:
    none, few = told([0, 0], 80), told([6, 4], 80)
    assert (none.features, none.voters) == ((), None)
    assert "no hospital allows them (share_influence)" in none.why
    assert (few.features, few.voters, few.why) == ((), None, "fewer than 11 votes: nothing is shown")
    assert told([3, 2]).patients is None


def test_noised_votes_are_told_with_their_noise_or_not_at_all() -> None:
    found = told([90, -4, 14], 110, 4.0)
    assert [one.shown for one in found.features] == ["shown"] * 3
    assert found.features[-1].votes == -4
    assert found.features[-1].share == 0
    assert "deviation 4" in found.noise
    lost = told([9, -4, 3], 110, 4.0)  # 8, where the noise of the sum is 6.9
    assert (lost.features, lost.voters) == ((), None)
    assert "not 3 deviations of that noise (6.93) above 0" in lost.why
