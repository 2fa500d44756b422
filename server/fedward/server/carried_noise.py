"""How much noise of differential privacy is in each parameter of a model, where the record tells. Pure.

FedSGD adds to round t's mean update the sites' noise, Σᵢ N(0, (σᵢ C)²) / (Σᵢ N₀ᵢ)², and the server's momentum β carries it on: at
round T it stands in the model times η (1 − β^(T−t+1)) / (1 − β). Later gradients pull some of it back.
Where the loss curves up with h ≥ 0 and the steps are stable, what is left of a unit of it after k rounds is at most η Σⱼ βʲ, j ≤ k:
the heavy ball answers it with η Σⱼ λ₁ʲ λ₂^(k−j), where λ₁ λ₂ = β and λ₁ + λ₂ = 1 + β − ηh (Polyak 1964), largest at h = 0. So the
sum without any pull back is a bound, as far as clipped gradients behave like a quadratic loss's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from fedward.server.histories import History
from fedward.server.round import Outcome
from fedward.study.manifest import SealedManifest
from fedward.study.terms import site_terms, training_cohort

_DERIVED: Final = (
    "The noise of differential privacy adds to every coefficient. The interval holds the noise of all rounds as if no later round "
    "had corrected any of it, which is rather too much; it holds nothing else: no sampling error, and not what more rounds would "
    "change."
)
_UNKNOWN: Final = (
    "The noise of differential privacy adds to every coefficient. How much of it is left cannot be derived from the "
    "record, because {}: so there is no interval, and a ratio near 1 may be noise alone."
)
_NONE: Final = "No noise was added. There is no interval: the coordinator has no patients from whom to estimate one."


@dataclass(frozen=True)
class CarriedNoise:
    """Its deviation on each parameter, None where it cannot be derived or there is none; and what that means, in words."""

    deviation: float | None
    words: str


def carried_noise(history: History, version: int) -> CarriedNoise:
    """Of the model after so many committed rounds of a sealed study that trains."""
    sealed = history.sealed
    if not isinstance(sealed, SealedManifest):
        return CarriedNoise(None, _UNKNOWN.format("the study is not sealed"))
    if sealed.manifest.privacy.mechanism == "none":
        return CarriedNoise(None, _NONE)
    why = _underivable(sealed)
    if why:
        return CarriedNoise(None, _UNKNOWN.format(why))
    training, contributors = sealed.manifest.training, _contributors(history)
    beta, variance = training.server_momentum, 0.0
    for round_ in range(1, version + 1):
        if round_ not in contributors:
            return CarriedNoise(None, _UNKNOWN.format(f"it does not name who was in round {round_}"))
        carried = training.server_learning_rate * sum(beta**step for step in range(version - round_ + 1))
        variance += (carried * _of_round(sealed, contributors[round_])) ** 2
    return CarriedNoise(math.sqrt(variance), _DERIVED)


def _underivable(sealed: SealedManifest) -> str:
    manifest = sealed.manifest
    if manifest.model.start is not None:
        return "the model goes on from an earlier version's, which has noise of its own"
    if manifest.training.algorithm != "fedsgd":
        return "hospitals take several steps, each from a model that holds the noise of those before"
    if manifest.training.aggregation != "mean":
        return "updates were not averaged"
    return "noise is shared between hospitals" if manifest.privacy.noise == "shared" else ""


def _of_round(sealed: SealedManifest, sites: tuple[str, ...]) -> float:
    """The deviation of a round's noise on each coordinate of the mean update: a site's update is its noised sum over N₀, and
    weighs N₀."""
    terms = [site_terms(sealed, site) for site in sites]
    noise = math.sqrt(sum((one.noise_multiplier * one.clipping_norm) ** 2 for one in terms))
    return noise / sum(training_cohort(sealed, site) for site in sites)


def _contributors(history: History) -> dict[int, tuple[str, ...]]:
    """Who was in each committed round of training."""
    found = {}
    for row in history.view.attempts:
        if row.outcome == Outcome.COMMITTED and row.round <= history.view.rounds:
            sites = tuple(one.site for one in history.by_attempt[row.attempt] if one.status == "contributed")
            if sites:
                found[row.round] = sites
    return found
