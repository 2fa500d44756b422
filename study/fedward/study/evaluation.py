"""Noised counts of held-out patients: what one patient changes, how much noise the plan needs, and what that costs.

A patient is in one bin and has one outcome, so changes one cell of everybody's histogram by 1, and one cell for each fairness
attribute, single or crossed: levels are disjoint, so are bands, and so are their products. Where patients vote (`votes`), one cell
more. Add or remove one patient and the counts move by √(1 + attributes), or √(2 + attributes) with votes, at most (L2). Each cell
carries independent discrete Gaussian noise, drawn at the site (Canonne, Kamath & Steinke 2020).

Held-out patients lie at other hash positions than training patients, so a study costs each only one of the two; an event's
share says which.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from functools import lru_cache

from fedward.privacy.accounting import calibrate, epsilon
from fedward.privacy.events import CountEvent, History, Share
from fedward.study.attributes import attributes
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.votes import given_shape, voted_features

WRAP_BITS = 40
"""Counts of honest sites reach past what the ring leaves them with a probability of at most 2^-40 a sum."""


def held_out_share(manifest: Manifest) -> Share:
    """The positions of held-out patients: [0, holdout)."""
    return (0.0, manifest.training.holdout)


def training_share(manifest: Manifest) -> Share:
    """The positions of training patients: [holdout, 1)."""
    return (manifest.training.holdout, 1.0)


def count_event(manifest: Manifest, deviation: float, times: int = 1) -> CountEvent:
    """So many evaluations with that noise on each cell.

    Raises:
        InputError: there is no noise, or no evaluation.
    """
    coordinates = 1 + len(attributes(manifest)) + (voted_features(manifest) > 0)
    return CountEvent(deviation, 1, coordinates, times, share=held_out_share(manifest))


def count_events(manifest: Manifest, deviation: float) -> History:
    """All planned evaluations, spare ones included; nothing at a deviation of 0, without noise."""
    return (count_event(manifest, deviation, manifest.planned_evaluations),) if deviation else ()


def count_deviation(manifest: Manifest) -> float:
    """The least noise with which all planned evaluations, spare ones included, cost at most their ε; 0 where none is added.

    Raises:
        RefusalError: no noise in reach keeps the promise.
    """
    plan, delta = manifest.counting, manifest.privacy.delta
    if plan.epsilon is None or delta is None:
        return 0.0
    with _calibrating:
        return _least(plan.epsilon, delta, count_event(manifest, 1.0, manifest.planned_evaluations))


_calibrating = threading.Lock()
"""Hospitals in one process ask at the same moment: one computes, and the others find it known."""


@lru_cache(maxsize=64)
def _least(most: float, delta: float, planned: CountEvent) -> float:
    return calibrate([], lambda sigma: [replace(planned, deviation=sigma)], most, delta)


def counts_keep_promise(sealed: SealedManifest) -> bool:
    """Whether the sealed noise keeps all planned evaluations within their ε, give or take what two machines round otherwise."""
    plan, delta = sealed.manifest.counting, sealed.manifest.privacy.delta
    if plan.epsilon is None or delta is None:
        return True
    event = count_event(sealed.manifest, sealed.count_deviation, sealed.manifest.planned_evaluations)
    return epsilon([event], delta) <= plan.epsilon + 1e-3


def bare(sealed: SealedManifest, *, train: bool, evaluate: bool) -> bool:
    """Whether anything that a round would release carries no noise."""
    return (train and sealed.manifest.privacy.mechanism == "none") or (evaluate and sealed.count_deviation == 0)


def most_noise(sealed: SealedManifest) -> int:
    """What the noise of no cell of any site exceeds, but with a probability of at most 2^-40; 0 without noise.

    P(|X| ≥ t) ≤ 2 exp(−t²/2σ²) (Canonne, Kamath & Steinke 2020, corollary 17), over all cells of all sites.
    """
    if sealed.count_deviation == 0:
        return 0
    cells = math.prod(given_shape(sealed.manifest)) * len(sealed.roster)
    return math.ceil(sealed.count_deviation * math.sqrt(2 * ((WRAP_BITS + 1) * math.log(2) + math.log(cells))))
