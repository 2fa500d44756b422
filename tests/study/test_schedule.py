"""What a study may charge, and the noise that it needs: against plain accounting of every attempt."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from federation import heart_manifest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.accounting import epsilon
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.events import DpEvent, SharedEvent, merge
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest
from fedward.study.schedule import (
    NOISE_RATIO,
    NOISE_STEPS,
    attempt_events,
    fits_plan,
    least_noise,
    most_charges,
    noise_steps,
    schedule_of,
    study_costs,
    study_events,
)
from fedward.study.shared import shared_noise

WITHOUT = {"mechanism": "none", "epsilon": None, "delta": None}
SAMPLED = {"algorithm": "fedavg", "rounds": 4, "local_steps": 3, "sampling_rate": 0.2}


def seal(manifest: Manifest, *sigmas: float) -> SealedManifest:
    return SealedManifest(
        manifest=manifest,
        federation_id="0" * 32,
        coordinator_key="0" * 64,
        roster=tuple(
            RosterEntry(site=f"s{i}", identity_key=f"{i:064x}", declared_patients=100, noise_multiplier=sigma)
            for i, sigma in enumerate(sigmas)
        ),
        sealed_at=0,
        expires_at=1,
    )


def test_the_schedule_is_every_attempt_that_the_plan_allows() -> None:
    manifest = heart_manifest(training=SAMPLED, privacy={"spare_attempts": 2})
    sealed = seal(manifest, 2.0, 3.5, 2.0)
    for site, sigma in (("s0", 2.0), ("s1", 3.5)):
        one_by_one = [
            event
            for _ in range(4 + 2)
            for event in attempt_events(sealed, site, train=True, evaluate=False).values()
            if event is not None
        ]
        assert study_events(sealed, site) == merge(one_by_one) == (DpEvent(sigma, 0.2, 18),)
    assert most_charges(manifest, "train") == 6


def test_without_privacy_nothing_is_scheduled_and_every_release_is_unprotected() -> None:
    sealed = seal(heart_manifest(privacy=WITHOUT), 0.0, 0.0, 0.0)
    assert study_events(sealed, "s0") == ()
    assert least_noise(sealed.manifest) == 0.0
    assert noise_steps(0.0) == (0.0,)
    assert attempt_events(sealed, "s0", train=True, evaluate=True) == {
        "train-without-dp": None,
        "evaluate-without-dp": None,
    }
    assert attempt_events(sealed, "s0", train=False, evaluate=False) == {}


def test_a_site_outside_the_roster_has_no_schedule() -> None:
    with pytest.raises(InputError, match="not in the roster"):
        study_events(seal(heart_manifest(), 4.0, 4.0, 4.0), "s9")


@pytest.mark.parametrize("changes", [{}, {"training": SAMPLED}, {"training": SAMPLED, "privacy": {"epsilon": 0.5}}])
def test_the_least_noise_keeps_epsilon_and_a_thousandth_less_does_not(changes: dict[str, dict[str, object]]) -> None:
    manifest = heart_manifest(**changes)
    least, privacy = least_noise(manifest), manifest.privacy
    schedule = schedule_of(manifest)
    assert privacy.epsilon is not None
    assert privacy.delta is not None
    assert epsilon(schedule.events(least), privacy.delta) <= privacy.epsilon
    assert epsilon(schedule.events(round(least - 0.001, 3)), privacy.delta) > privacy.epsilon


def test_a_promise_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(RefusalError) as caught:
        least_noise(heart_manifest(training={"rounds": 10_000}, privacy={"epsilon": 1e-3, "delta": 1e-9}))
    assert caught.value.code == "budget-unreachable"


@given(st.integers(100, 1_000_000).map(lambda thousandths: thousandths / 1000))
def test_steps_rise_from_the_least_noise_itself_by_a_quarter_in_thousandths(least: float) -> None:
    steps = noise_steps(least)
    assert len(steps) == NOISE_STEPS
    assert steps[0] == least
    for number, (low, high) in enumerate(pairwise(steps), 1):
        exact = least * NOISE_RATIO**number
        assert low < high
        assert exact - 1e-6 <= high < exact + 0.001 + 1e-6
        assert math.isclose(high * 1000, round(high * 1000))


def test_a_declared_noise_is_one_that_an_honest_site_gives() -> None:
    steps = noise_steps(2.0)
    assert all(fits_plan(2.0, step) for step in steps)
    assert fits_plan(2.0, 2.001)  # another machine's last digit
    for sigma in (0.0, -1.0, 1.9, 1.02 * steps[-1], math.inf, math.nan):
        assert not fits_plan(2.0, sigma), sigma
    assert fits_plan(0.0, 0.0)
    assert not fits_plan(0.0, 1.0)


def test_shared_noise_is_the_largest_that_a_site_asks_for_and_each_adds_its_part() -> None:
    manifest = heart_manifest(secure=True, privacy={"noise": "shared", "spare_attempts": 2})
    sealed = seal(manifest, 2.0, 3.5, 2.0)
    attempts = manifest.training.rounds + 2
    for site in ("s0", "s1", "s2"):
        (event,) = study_events(sealed, site)
        assert isinstance(event, SharedEvent)
        assert (event.sites, event.steps, event.pool_noise) == (2, attempts, pytest.approx(3.5))
        made = [
            one for _ in range(attempts) for one in attempt_events(sealed, site, train=True, evaluate=False).values()
        ]
        assert merge([one for one in made if one is not None]) == (event,)
        terms = shared_noise(sealed, 20)
        assert terms is not None
        # What runs is never less noise than what is charged.
        assert terms.event(1).noise_multiplier >= event.noise_multiplier
        costs = study_costs(sealed, site)
        assert costs["coordinator"] == epsilon([event], 1e-3) < costs["everyone"]


def test_shared_noise_is_calibrated_against_the_coordinator() -> None:
    manifest = heart_manifest(secure=True, privacy={"noise": "shared", "epsilon": 0.5, "delta": 1e-3})
    least = least_noise(manifest)
    assert epsilon(schedule_of(manifest).events(least), 1e-3) <= 0.5
    assert epsilon(schedule_of(manifest).events(least - 1e-3), 1e-3) > 0.5
