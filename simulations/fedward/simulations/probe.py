"""An empirical audit of the training that a node runs: one run, canaries, and a measured lower bound beside the claim.

Steinke, Nasr & Jagielski 2023 (`one_run`). Canaries are patients of a linear model with one input each: their gradients are
clipped to the whole norm and nearly orthogonal, which is the worst that a patient can do. `client.training.train` trains
on those that a coin chose, with the terms that a study would give it; the auditor sees every update, as a coordinator does,
and guesses by how far it went along each canary's direction. The bound is about the noise, the sampling and the clipping
of a path, not about any model. A low bound proves nothing: it is one attack, and one run. A bound above the claim is
a fault of the mechanism or of its accounting, but for the chance of 1 − confidence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, norm
from torch import nn

from fedward.client.closed_form import layers_of
from fedward.client.training import train
from fedward.privacy.accounting import epsilon
from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError, InputError
from fedward.simulations.one_run import fewest_correct, lower_bound, p_value
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest
from fedward.study.models import Logits, load_vector
from fedward.study.schedule import least_noise, training_schedule
from fedward.study.terms import UNIT_WORDS, SiteTerms
from fedward.study.vectors import Vector

TrainingPath: TypeAlias = Literal["closed-form", "hooks"]

PLANT = 0.25
"""The fault that a probe is laid out to catch: this times the noise."""
POWER = 0.95
MOST_CANARIES = 10_000

MEANING = f"{UNIT_WORDS}; composition: the probed attempts alone; covers training patients"
"""What claim and bound mean."""
LIMITS = (
    "A low bound proves nothing: it is what one attack saw in one run, and a fault that this attack does not use is not seen.",
    "It probes the noise, the sampling and the clipping of a training path on a linear model made for it; neither the study's "
    "own model nor its patients take part, nor does anything else that a hospital sends.",
    "The auditor sees every update, chooses every base model and knows the canaries; attackers with less see less.",
    "Repeating it until it comes out low, or high, voids the confidence: it holds for one run with numbers fixed beforehand.",
)
"""What a probe's result does not say. It stands wherever a bound is shown."""


def _reach(norm: float) -> float:
    """A canary's one input that is not 0. Its gradient, half as long, is clipped until the canary is nearly learnt, and the
    part of it that the bias shares with other canaries is small."""
    return max(10 * norm, 30.0)


@dataclass(frozen=True)
class Mechanism:
    """What is claimed: `attempts` calls of local training on a hospital's patients, each of `steps` noisy steps."""

    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float
    attempts: int = 1
    clipping_norm: float = 1.0
    proximal: float = 0.0

    def claim(self) -> float:
        """ε of all attempts, from the very event that the ledger is charged for each.

        Raises:
            InputError: a number is outside its range, or nothing is promised.
        """
        event = self.terms(1.0, 1.0).event
        if event is None:
            raise InputError("nothing is promised, so there is nothing to probe", expected="a noise multiplier above 0")
        return epsilon([event] * self.attempts, self.delta)

    def terms(self, cohort: float, learning_rate: float) -> SiteTerms:
        """The terms of one attempt for a declared cohort N₀."""
        return SiteTerms(
            steps=self.steps,
            learning_rate=learning_rate,
            sampling_rate=self.sampling_rate,
            expected_batch=self.sampling_rate * cohort,
            clipping_norm=self.clipping_norm,
            noise_multiplier=self.noise_multiplier,
            proximal=self.proximal,
        )


def of_study(manifest: Manifest, noise_multiplier: float | None = None) -> Mechanism:
    """What a study's manifest promises a hospital: all planned attempts, spare ones included.

    Args:
        manifest: the study.
        noise_multiplier: σ, where it is known; else what the manifest's ε needs of a hospital that spent nothing before.

    Raises:
        InputError: the study promises nothing, or promises it of a sum of several hospitals' noise, which one cannot probe.
        RefusalError: no noise multiplier in reach keeps the manifest's promise.
    """
    privacy, training = manifest.privacy, manifest.training
    if privacy.delta is None:
        raise InputError("this study trains without differential privacy", remedy="there is nothing to probe")
    if privacy.noise == "shared":
        raise InputError(
            "the study's ε is that of a sum with several hospitals' noise; one hospital's update alone promises less",
            remedy='probe the same study with noise = "local": a hospital clips and sums its patients the same way',
        )
    schedule = training_schedule(manifest)
    return Mechanism(
        noise_multiplier=least_noise(manifest) if noise_multiplier is None else noise_multiplier,
        sampling_rate=schedule.sampling_rate,
        steps=schedule.steps,
        delta=privacy.delta,
        attempts=schedule.attempts,
        clipping_norm=privacy.clipping_norm,
        proximal=training.proximal,
    )


@dataclass(frozen=True)
class Design:
    """What must be fixed before the run: m canaries of `encounters` rows each, r guesses, the confidence, the path."""

    canaries: int
    guesses: int
    confidence: float = 0.95
    path: TrainingPath = "closed-form"
    encounters: int = 1

    def check(self) -> None:
        """Raises InputError: a number is outside its range."""
        if not 1 <= self.canaries <= MOST_CANARIES:
            raise InputError(
                "the number of canaries is out of range", expected=f"1 to {MOST_CANARIES}", got=f"{self.canaries}"
            )
        if not 1 <= self.guesses <= self.canaries:
            raise InputError(
                "the number of guesses is out of range", expected=f"1 to {self.canaries}", got=f"{self.guesses}"
            )
        if not 0.5 <= self.confidence < 1:
            raise InputError("the confidence is out of range", expected="0.5 to below 1", got=f"{self.confidence}")
        if not 1 <= self.encounters <= 20:
            raise InputError("the encounters are out of range", expected="1 to 20", got=f"{self.encounters}")


@dataclass(frozen=True)
class Finding:
    """What came out: ε claimed and the measured lower bound, at the same δ and with the same neighbours.

    `p_value` is that of the claim. `plant` is what the claimed noise was multiplied by, 1 but for a planted fault.
    `noticeable` is the largest such factor that a probe of this design notices with probability 0.95; 0 if none is.
    """

    claim: float
    bound: float
    p_value: float
    correct: int
    included: int
    design: Design
    plant: float
    noticeable: float
    seconds: float

    @property
    def holds(self) -> bool:
        """False if the claim is refuted; true is no proof."""
        return self.bound <= self.claim


def plan(mechanism: Mechanism, canaries: int, confidence: float = 0.95, path: TrainingPath = "closed-form") -> Design:
    """The number of guesses that best tells a quarter of the noise from all of it, by public numbers alone.

    Raises:
        InputError: a number is outside its range.
    """
    claim = mechanism.claim()
    gap = _gap(mechanism, PLANT)

    def distance(guesses: int) -> float:
        """By how many standard deviations a planted fault's right guesses are above what refutes the claim."""
        need = fewest_correct(canaries, guesses, claim, mechanism.delta, confidence)
        accuracy = _accuracy(gap, guesses / (2 * canaries))
        spread = math.sqrt(guesses * accuracy * (1 - accuracy)) + 1e-9
        return (guesses * accuracy - need) / spread if need <= guesses else -math.inf

    Design(canaries, canaries, confidence, path).check()
    choices = sorted({max(1, round(canaries * share)) for share in np.arange(0.05, 1.001, 0.05)})
    return Design(canaries, max(choices, key=distance), confidence, path)


def noticeable(mechanism: Mechanism, design: Design) -> float:
    """The largest factor on the noise that is noticed with probability 0.95, rounded down to 0.01; 0 if none is.

    From the normal approximation of scores; it plans and explains, and no bound rests on it.
    """
    need = fewest_correct(design.canaries, design.guesses, mechanism.claim(), mechanism.delta, design.confidence)

    def noticed(hundredths: int) -> bool:
        accuracy = _accuracy(_gap(mechanism, hundredths / 100), design.guesses / (2 * design.canaries))
        return float(binom.sf(need - 1, design.guesses, accuracy)) >= POWER

    return next((hundredths / 100 for hundredths in range(100, 0, -1) if noticed(hundredths)), 0.0)


def _gap(mechanism: Mechanism, factor: float) -> float:
    """How far the scores of canaries in and out are apart, in standard deviations: q√T / √(f²σ² + q(1 − q))."""
    q, steps = mechanism.sampling_rate, mechanism.steps * mechanism.attempts
    return q * math.sqrt(steps) / math.sqrt((factor * mechanism.noise_multiplier) ** 2 + q * (1 - q) + 1e-12)


def _accuracy(gap: float, tail: float) -> float:
    """The share of guesses that is right on each side's `tail` of ½ N(0, 1) + ½ N(gap, 1), by symmetry the same."""
    above = brentq(lambda x: (norm.sf(x) + norm.sf(x - gap)) / 2 - tail, -40.0, 40.0 + gap)
    return min(1.0, float(norm.sf(above - gap) / (2 * tail)))


def probe(
    mechanism: Mechanism,
    design: Design,
    draws: Draws,
    coins: np.random.Generator,
    *,
    plant: float = 1.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Finding:
    """Train once on the canaries that the coins choose, guess, and bound ε from below.

    Args:
        mechanism: what is claimed and, but for `plant`, what runs.
        design: fixed before the run.
        draws: where the mechanism's noise and sampling come from; `SecureDraws` as on a node.
        coins: which canaries are in. It has nothing to do with the mechanism's randomness.
        plant: a fault for trying out the probe: the noise that runs is this times the noise that is claimed.
        tell: hears how far it is.

    Raises:
        InputError: a number is outside its range.
        FedwardError: training did not stay finite.
    """
    design.check()
    if not (math.isfinite(plant) and plant > 0):
        raise InputError("the planted factor is out of range", expected="a finite number above 0", got=repr(plant))
    begin = time.monotonic()
    claim = mechanism.claim()
    included = coins.random(design.canaries) < 0.5
    scores = _scores(
        replace(mechanism, noise_multiplier=plant * mechanism.noise_multiplier), design, included, draws, tell
    )
    correct = _right(scores, included, design.guesses)
    return Finding(
        claim=claim,
        bound=lower_bound(design.canaries, design.guesses, correct, mechanism.delta, design.confidence),
        p_value=p_value(design.canaries, design.guesses, correct, claim, mechanism.delta)
        if math.isfinite(claim)
        else 1.0,
        correct=correct,
        included=int(np.count_nonzero(included)),
        design=design,
        plant=plant,
        noticeable=noticeable(mechanism, design) if math.isfinite(claim) else 0.0,
        seconds=time.monotonic() - begin,
    )


def _scores(
    mechanism: Mechanism, design: Design, included: NDArray[np.bool_], draws: Draws, tell: Callable[[str], None]
) -> NDArray[np.float64]:
    """How far all updates went along each canary's direction, shape (m,)."""
    signs = np.where(np.arange(design.canaries) % 2 == 0, 1.0, -1.0)  # of both outcomes, so that the bias stays put
    data = _patients(mechanism, design, included, signs)
    cohort = design.canaries / 2
    # Small enough that a canary is never learnt: its gradient stays clipped and each step adds what the last one did.
    # The rate scales sum and noise alike, so the mechanism is the same at any.
    norm = mechanism.clipping_norm
    farthest = norm * (mechanism.steps + 8 * mechanism.noise_multiplier * math.sqrt(mechanism.steps))
    terms = mechanism.terms(cohort, mechanism.sampling_rate * cohort / (_reach(norm) * farthest))
    total = np.zeros(design.canaries)
    for attempt in range(mechanism.attempts):
        tell(f"attempt {attempt + 1} of {mechanism.attempts}: {mechanism.steps} steps on {len(data)} canaries")
        total += _update(design, terms, data, draws)[: design.canaries]
    return total * signs


def _patients(mechanism: Mechanism, design: Design, included: NDArray[np.bool_], signs: NDArray[np.float64]) -> Encoded:
    """The canaries that are in, each with all its encounters: one input of its own, outcome 1 where the sign is +."""
    places = np.repeat(np.flatnonzero(included), design.encounters)
    inputs = np.zeros((len(places), design.canaries), dtype=np.float32)
    inputs[np.arange(len(places)), places] = _reach(mechanism.clipping_norm)
    return Encoded(
        patients=tuple(f"canary {place}" for place in places),
        inputs=inputs,
        outcomes=(signs[places] > 0).astype(np.float32),
        membership=np.zeros((len(places), 0), dtype=np.bool_),
    )


def _update(design: Design, terms: SiteTerms, data: Encoded, draws: Draws) -> Vector:
    """One attempt from a base model of zeros, as an adversarial coordinator may send it every time."""
    linear = nn.Linear(design.canaries, 1)
    # An identity is unknown to the closed form, so that the same model takes the other path.
    model = nn.Sequential(linear, *([nn.Identity()] if design.path == "hooks" else []), Logits())
    if (layers_of(model) is None) != (design.path == "hooks"):
        raise FedwardError(f'the probe\'s model does not take the path "{design.path}"', code="wrong-path")
    load_vector(model, np.zeros(design.canaries + 1, dtype=np.float32))
    return train(model, data, terms, draws)


def _right(scores: NDArray[np.float64], included: NDArray[np.bool_], guesses: int) -> int:
    """How many guesses are right: the highest half of them says in, the lowest half out."""
    order = np.argsort(scores, kind="stable")
    low, high = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return int(np.count_nonzero(~included[low]) + np.count_nonzero(included[high]))
