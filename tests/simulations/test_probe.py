"""The probe at the page's configuration (σ = 20, q = 0.25, 200 steps, δ = 1e-3): it lets the right mechanism pass and
refutes broken ones. Noise is seeded here, so each test comes out the same every time; one runs on a node's own draws, where
a right mechanism is refuted with a probability far below 1e-6."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from federation import heart_manifest
from numpy.typing import NDArray
from scipy.stats import binom

from fedward.client.training import train
from fedward.privacy.accounting import epsilon
from fedward.privacy.draws import Draws, SecureDraws
from fedward.privacy.errors import InputError
from fedward.simulations import probe as module
from fedward.simulations.baselines import UnsafeSeededDraws
from fedward.simulations.one_run import fewest_correct
from fedward.simulations.probe import (
    Design,
    Finding,
    Mechanism,
    TrainingPath,
    noticeable,
    of_study,
    plan,
    probe,
)
from fedward.study.encoding import Encoded
from fedward.study.schedule import least_noise, training_schedule
from fedward.study.terms import SiteTerms
from fedward.study.vectors import Vector

PAGE = Mechanism(noise_multiplier=20.0, sampling_rate=0.25, steps=200, delta=1e-3)
DESIGN = plan(PAGE, 1000)
PATHS: tuple[TrainingPath, ...] = ("closed-form", "hooks")


def run(design: Design = DESIGN, draws: Draws | None = None, plant: float = 1.0, seed: int = 0) -> Finding:
    return probe(PAGE, design, draws or UnsafeSeededDraws(seed), np.random.default_rng(seed), plant=plant)


@pytest.mark.parametrize("path", PATHS)
class TestThePagesConfiguration:
    def test_the_right_noise_stays_below_the_claim(self, path: TrainingPath) -> None:
        finding = run(replace(DESIGN, path=path))
        assert finding.claim == pytest.approx(0.40, abs=0.01)
        assert finding.holds
        assert finding.bound < finding.claim
        assert finding.p_value > 0.05

    def test_a_quarter_of_the_noise_is_caught(self, path: TrainingPath) -> None:
        finding = run(replace(DESIGN, path=path), plant=0.25)
        assert not finding.holds
        assert finding.claim < finding.bound < replace(PAGE, noise_multiplier=5.0).claim()
        assert finding.p_value < 0.05


def test_a_nodes_own_draws_pass() -> None:
    design = plan(PAGE, 1500)
    need = fewest_correct(design.canaries, design.guesses, PAGE.claim(), PAGE.delta, design.confidence)
    accuracy = module._accuracy(module._gap(PAGE, 1.0), design.guesses / (2 * design.canaries))
    assert binom.sf(need - 1, design.guesses, accuracy) < 1e-6  # so this test does not fail by chance
    assert run(design, SecureDraws()).holds


# ---- faults that are not the planted one ---------------------------------------------------------------------------------


class Cancelling(UnsafeSeededDraws):
    """Noise that is taken back in the next step."""

    def __init__(self) -> None:
        super().__init__(0)
        self._last: NDArray[np.float64] | None = None

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        steps, size = shape if isinstance(shape, tuple) else (1, shape)
        half = super().gaussian((steps // 2, size), sigma)
        return np.stack([half, -half], axis=1).reshape(-1, size)


class Everyone(UnsafeSeededDraws):
    """Sampling that takes all patients whatever the rate."""

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        return np.ones(n, dtype=np.bool_)


@pytest.mark.parametrize("draws", [Cancelling(), Everyone(0)], ids=["cancelling", "everyone"])
def test_draws_that_are_not_what_is_accounted_are_caught(draws: Draws) -> None:
    assert not run(draws=draws).holds


def unclipped(model: torch.nn.Module, data: Encoded, terms: SiteTerms, draws: Draws) -> Vector:
    """Noise of the claimed size, and gradients as long as they come."""
    wide = replace(terms, clipping_norm=100 * terms.clipping_norm, noise_multiplier=terms.noise_multiplier / 100)
    return train(model, data, wide, draws)


def by_row(model: torch.nn.Module, data: Encoded, terms: SiteTerms, draws: Draws) -> Vector:
    """Each encounter as if it were a patient."""
    rows = replace(data, patients=tuple(str(row) for row in range(len(data.patients))))
    return train(model, rows, terms, draws)


@pytest.mark.parametrize(
    ("fault", "encounters"), [(unclipped, 1), (by_row, 4)], ids=["no-clipping", "rows-for-patients"]
)
def test_training_that_bounds_no_patient_is_caught(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Vector], encounters: int
) -> None:
    design = replace(DESIGN, path="hooks", encounters=encounters)
    assert run(design).holds
    monkeypatch.setattr(module, "train", fault)
    assert not run(design).holds


# ---- how it measures -----------------------------------------------------------------------------------------------------


class Silent(Everyone):
    """No noise, everybody in every batch."""

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        return np.zeros(shape)


@pytest.mark.parametrize("norm", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("attempts", [1, 3])
def test_every_step_adds_the_whole_clipping_norm_of_a_canary(norm: float, attempts: int) -> None:
    """A canary that were learnt, or that reached another's direction, would leak less than a patient may."""
    mechanism = replace(PAGE, clipping_norm=norm, attempts=attempts, steps=50)
    included = np.arange(40) % 3 == 0
    scores = module._scores(mechanism, Design(40, 20), included, Silent(0), lambda _: None)
    farthest = norm * (50 + 8 * 20 * math.sqrt(50))
    whole = (
        attempts * 50 * norm / (module._reach(norm) * farthest)
    )  # the learning rate over qN₀ is 1 / (reach × farthest)
    assert scores[included] == pytest.approx(np.full(included.sum(), whole), rel=2e-3)
    assert np.abs(scores[~included]).max() == 0


def test_both_paths_release_the_same_with_the_same_draws() -> None:
    included = np.random.default_rng(3).random(100) < 0.5
    scores = [
        module._scores(PAGE, Design(100, 50, path=path, encounters=2), included, UnsafeSeededDraws(1), lambda _: None)
        for path in PATHS
    ]
    assert np.linalg.norm(scores[0] - scores[1]) < 1e-4 * np.linalg.norm(scores[0])


def test_the_highest_are_guessed_in_and_the_lowest_out() -> None:
    scores = np.array([0.3, -2.0, 5.0, 1.0, -1.0, 2.0])
    included = np.array([False, False, True, True, True, False])
    assert module._right(scores, included, 1) == 1  # 5.0 in
    assert module._right(scores, included, 2) == 2  # and -2.0 out
    assert module._right(scores, included, 4) == 2  # 2.0 is out, -1.0 is in
    assert module._right(scores, included, 6) == 4


def test_the_plan_hangs_on_public_numbers_alone_and_is_near_the_best() -> None:
    assert plan(PAGE, 1000) == DESIGN
    claim, gap = PAGE.claim(), module._gap(PAGE, 0.25)

    def power(guesses: int) -> float:
        need = fewest_correct(1000, guesses, claim, PAGE.delta, 0.95)
        return float(binom.sf(need - 1, guesses, module._accuracy(gap, guesses / 2000)))

    assert power(DESIGN.guesses) > 0.995
    assert power(DESIGN.guesses) >= max(power(guesses) for guesses in range(10, 1001, 10)) - 1e-3


def test_what_is_said_to_be_noticeable_is_noticed_that_often() -> None:
    """Scores drawn from the two normals themselves, 400 times; right within six standard deviations."""
    factor, generator = noticeable(PAGE, DESIGN), np.random.default_rng(0)
    need = fewest_correct(DESIGN.canaries, DESIGN.guesses, PAGE.claim(), PAGE.delta, DESIGN.confidence)
    caught = 0
    for _ in range(400):
        included = generator.random(DESIGN.canaries) < 0.5
        scores = generator.normal(size=DESIGN.canaries) + module._gap(PAGE, factor) * included
        caught += module._right(scores, included, DESIGN.guesses) >= need
    assert 0.2 < factor < 0.4
    assert caught / 400 > 0.95 - 6 * math.sqrt(0.95 * 0.05 / 400)


def test_nothing_is_noticeable_where_no_number_of_right_guesses_refutes() -> None:
    large = Mechanism(1.85, 0.25, 200, 1e-3)  # ε near 8
    assert noticeable(large, plan(large, 1000)) == 0


def test_a_studys_promise_is_all_of_its_planned_attempts() -> None:
    manifest = heart_manifest()
    mechanism = of_study(manifest)
    assert mechanism.noise_multiplier == least_noise(manifest)
    assert mechanism.attempts == manifest.planned_attempts
    assert manifest.privacy.epsilon is not None
    assert mechanism.claim() == pytest.approx(manifest.privacy.epsilon, rel=0.01)
    assert mechanism.claim() <= manifest.privacy.epsilon
    assert of_study(manifest, 7.5).noise_multiplier == 7.5


def test_a_study_without_a_promise_cannot_be_probed() -> None:
    with pytest.raises(InputError):
        of_study(heart_manifest(privacy={"mechanism": "none", "epsilon": None, "delta": None}))
    with pytest.raises(InputError):
        replace(PAGE, noise_multiplier=0.0).claim()


@pytest.mark.parametrize(
    ("design", "plant"),
    [
        (replace(DESIGN, canaries=0), 1.0),
        (replace(DESIGN, canaries=10_001), 1.0),
        (replace(DESIGN, guesses=0), 1.0),
        (replace(DESIGN, guesses=1001), 1.0),
        (replace(DESIGN, confidence=1.0), 1.0),
        (replace(DESIGN, confidence=math.nan), 1.0),
        (replace(DESIGN, encounters=0), 1.0),
        (DESIGN, 0.0),
        (DESIGN, math.nan),
    ],
)
def test_numbers_outside_their_range_are_refused(design: Design, plant: float) -> None:
    with pytest.raises(InputError):
        run(design, plant=plant)


def test_a_study_with_shared_noise_is_refused_as_its_promise_is_the_sum_s() -> None:
    shared = heart_manifest(privacy={"noise": "shared", "secure_aggregation": True})
    with pytest.raises(InputError, match="several hospitals' noise"):
        of_study(shared)


def test_a_study_of_several_steps_is_probed_with_all_its_planned_attempts() -> None:
    manifest = heart_manifest(training={"algorithm": "fedavg", "rounds": 7, "local_steps": 3, "sampling_rate": 0.5})
    mechanism = of_study(manifest, 4.0)
    (event,) = training_schedule(manifest).events(4.0)
    assert mechanism.attempts * mechanism.steps == event.steps
    assert mechanism.claim() == epsilon([event], mechanism.delta)
