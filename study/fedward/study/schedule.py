"""What a study may charge a site's ledger, derived from the manifest alone, and the noise that it needs. Pure.

A study's schedule is fixed before it starts: every round once and the spare attempts. Its noise multiplier σ is the site's
own, since each hospital has spent otherwise: the smallest of a few steps (`noise_steps`) with which the study keeps its own ε
and the hospital keeps its lifetime budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from fedward.privacy.accounting import calibrate, epsilon
from fedward.privacy.events import DpEvent, Event, History, Share, SharedEvent, View, merge
from fedward.study import answers
from fedward.study.evaluation import count_event, count_events, training_share
from fedward.study.exploration import Exploration, SealedExploration
from fedward.study.kinds import AnyManifest, AnySealed
from fedward.study.manifest import Manifest
from fedward.study.terms import site_terms, study_noise

NOISE_RATIO = 1.25
NOISE_STEPS = 7
"""σ is the least one times 1.25 to the power 0 … 6: seven answers, so that one tells little of what was spent before. Beyond
3.8 times the least noise a site would add more noise than signal to the sum: it has too little budget left to take part."""


@dataclass(frozen=True)
class Schedule:
    """Every noised training release that a study may ask of a site, spare attempts included.

    Attributes:
        sampling_rate: q of a training step.
        steps: noisy steps of one training attempt.
        attempts: planned training attempts.
        share: the hash positions of the patients who train.
        honest_sites: the sites that are sure to add their part where noise is shared; 0 where it is not.
    """

    sampling_rate: float
    steps: int
    attempts: int
    share: Share
    honest_sites: int = 0

    def events(self, noise_multiplier: float) -> History:
        """All of it for the ledger, at a site's σ or the pool's where noise is shared; nothing at σ = 0, without any promise."""
        if noise_multiplier == 0 or self.attempts <= 0:
            return ()
        if self.honest_sites:
            own = noise_multiplier / math.sqrt(self.honest_sites)
            return (SharedEvent(own, self.honest_sites, self.steps * self.attempts, share=self.share),)
        return (DpEvent(noise_multiplier, self.sampling_rate, self.steps * self.attempts, share=self.share),)


@dataclass(frozen=True)
class ExplorationSchedule:
    """All answers that an exploration may ask of a site, spare attempts included."""

    exploration: Exploration
    attempts: int
    steps: ClassVar[int] = 1
    """Noised vectors of one attempt."""

    def events(self, noise_multiplier: float) -> History:
        """All of it at a site's noise multiplier, for the ledger."""
        if self.attempts <= 0:
            return ()
        once = answers.attempt_events(self.exploration, noise_multiplier)
        return tuple(replace(event, steps=self.attempts) for event in once.values())


def schedule_of(manifest: AnyManifest) -> Schedule | ExplorationSchedule:
    """The schedule that a manifest plans."""
    if isinstance(manifest, Exploration):
        return ExplorationSchedule(manifest, manifest.planned_attempts)
    return training_schedule(manifest)


def training_schedule(manifest: Manifest) -> Schedule:
    """The schedule of a study that trains."""
    training = manifest.training
    share = training_share(manifest)
    honest = manifest.honest_sites if manifest.privacy.noise == "shared" else 0
    return Schedule(training.sampling_rate, training.local_steps, manifest.planned_attempts, share, honest)


def study_events(sealed: AnySealed, site: str) -> History:
    """All that a study may charge a site: its training, and its noised counts of held-out patients.

    Raises:
        InputError: the site is not in the roster.
    """
    training = schedule_of(sealed.manifest).events(study_noise(sealed, site))
    if isinstance(sealed, SealedExploration):
        return training
    return merge((*training, *count_events(sealed.manifest, sealed.count_deviation)))


def study_costs(sealed: AnySealed, site: str) -> dict[View, float]:
    """The study's ε at its δ against each adversary, every planned attempt charged; empty without DP.

    Raises:
        InputError: the site is not in the roster.
    """
    delta, events = sealed.manifest.privacy.delta, study_events(sealed, site)
    if delta is None or not events:
        return {}
    views: tuple[View, ...] = ("coordinator", "everyone")
    return {view: epsilon(events, delta, view) for view in views}


def attempt_events(sealed: AnySealed, site: str, *, train: bool, evaluate: bool) -> dict[str, Event | None]:
    """What one attempt charges a site, by purpose; None is a release without noise, which no ε covers.

    Raises:
        InputError: the site is not in the roster.
    """
    made: dict[str, Event | None] = {}
    if isinstance(sealed, SealedExploration):
        made.update(answers.attempt_events(sealed.manifest, sealed.entry(site).noise_multiplier))
        return made
    if train:
        event = site_terms(sealed, site).event
        made["train" if event is not None else "train-without-dp"] = event
    if evaluate:
        counts = count_event(sealed.manifest, sealed.count_deviation) if sealed.count_deviation else None
        made["evaluate" if counts is not None else "evaluate-without-dp"] = counts
    return made


def most_charges(manifest: AnyManifest, purpose: str) -> int:
    """How often a study may charge a site for a purpose, spare attempts included."""
    if isinstance(manifest, Exploration):
        return manifest.planned_attempts
    return manifest.planned_attempts if purpose.startswith("train") else manifest.planned_evaluations


def least_noise(manifest: AnyManifest) -> float:
    """The smallest σ with which the whole schedule alone costs at most the study's ε at its δ; 0 without DP.

    Raises:
        RefusalError: no σ in reach keeps the promise.
    """
    privacy = manifest.privacy
    if privacy.epsilon is None or privacy.delta is None:
        return 0.0
    return calibrate([], schedule_of(manifest).events, privacy.epsilon, privacy.delta)


def noise_steps(least: float) -> tuple[float, ...]:
    """The σ that a site may answer with, rising, each rounded up to three decimals; (0,) without DP."""
    if least == 0:
        return (0.0,)
    # A whole number of thousandths stays what it is: the least σ was calibrated at exactly this value.
    return tuple(math.ceil(round(least * 1000 * NOISE_RATIO**step, 6)) / 1000 for step in range(NOISE_STEPS))


def fits_plan(least: float, noise_multiplier: float) -> bool:
    """Whether a declared σ is one that an honest site answers with, give or take what two machines compute otherwise."""
    steps = noise_steps(least)
    return 0.99 * steps[0] <= noise_multiplier <= 1.01 * steps[-1] and (least > 0) == (noise_multiplier > 0)
