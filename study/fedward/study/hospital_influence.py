"""What the hospitals' held-out patients voted for: features' shares of the votes, with intervals, and what may be shown. Pure.

Of T votes a feature has v. Over patients like these v is binomial with T and the feature's mean share p, whatever each patient's
own shares are; with noise of deviation s on each of F features' counts, v − pT has the variance
    T p(1 − p) + s² (1 − 2p + F p²),
as T is the noised counts' sum. The interval holds every p for which v − pT is within 1.96 of its deviations of 0: Wilson's score
interval (Wilson 1927) without noise, and Fieller's (1954) for the ratio v / T with noise alone. A v that noise put outside [0, T]
counts as the nearest end, which can only widen it.

Without noise the rules of suppression hold (`metrics.suppression`): a feature with fewer than 11 votes is not shown, nor one that
would give it away. Where fewer than 11 voted for nobody, they are one more such cell, and shares are of all patients, lest the
number of votes tell of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedward.study.metrics import SMALL, SURE, Z95, suppressed_cells

Shown = Literal["shown", "small", "hidden"]
"""A share that is told; one of fewer than 11 votes; one from which such a one would follow."""


@dataclass(frozen=True)
class VotedFeature:
    """A feature's part of the votes; the noise is in `votes`. All None unless it is shown."""

    feature: str
    shown: Shown
    votes: int | None
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class HospitalInfluence:
    """What is told of the votes.

    Attributes:
        version: the committed rounds behind the model that was evaluated.
        sites: whose counts were summed. Which of them gave votes is not known.
        patients: their held-out patients, noise included; None where they are too few to be told.
        voters: the votes, noise included; with `of_all`, all patients. What shares are of.
        of_all: whether shares are of all patients, as too few gave no vote to tell how many.
        deviation: of the noise on each feature's count of votes; 0 without.
        features: by share, the largest first, and then what is not shown; empty where nothing is, and `why` says why not.
    """

    version: int
    sites: tuple[str, ...]
    patients: int | None
    voters: int | None
    of_all: bool
    deviation: float
    features: tuple[VotedFeature, ...]
    why: str

    @property
    def about(self) -> str:
        """Of whom the votes are and what they say, in words."""
        return (
            f"Held-out patients of {', '.join(self.sites)} together, of the model of {self.version} rounds. Each whose hospital "
            "allows it voted once, for a feature drawn with its share of the patient's own absolute attributions (integrated "
            "gradients of the log-odds, from the middle of the manifest's bounds and levels). Only their sum is kept, and not "
            "which of the hospitals gave votes."
        )

    @property
    def noise(self) -> str:
        """What the interval holds, in words."""
        if not self.deviation:
            return "The 95% interval holds who was held out and how votes were drawn; no noise was added to them."
        return (
            f"Every count carries noise of deviation {self.deviation:.3g}, which protects patients. The 95% interval holds it, who "
            "was held out and how votes were drawn."
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"about": self.about, "noise": self.noise}


def hospital_influence(
    names: tuple[str, ...],
    votes: NDArray[np.int64],
    patients: int,
    deviation: float,
    version: int,
    sites: tuple[str, ...],
) -> HospitalInfluence:
    """What may be told of summed votes.

    Args:
        names: of the features.
        votes: (features,), as summed.
        patients: all held-out patients of the same sum.
        deviation: of the noise on each count; 0 without.
        version: of the model.
        sites: whose counts were summed.
    """
    total = int(votes.sum())
    nobody = 0 if deviation else patients - total
    few = 0 < nobody < SMALL
    whole = patients if few else total
    why = _untold(total, deviation * math.sqrt(len(votes)))
    if why:
        told = patients if deviation or patients >= SMALL else None
        return HospitalInfluence(version, sites, told, None, False, deviation, (), why)
    hidden = suppressed_cells(votes, nobody if few else 0) if not deviation else frozenset[int]()
    made = []
    for place, (name, count) in enumerate(zip(names, votes.tolist(), strict=True)):
        if place in hidden:
            made.append(VotedFeature(name, "small" if count < SMALL else "hidden", None, None, None, None))
            continue
        share, low, high = share_interval(count, whole, deviation, len(votes))
        made.append(VotedFeature(name, "shown", count, share, low, high))
    order = sorted(made, key=lambda one: (one.share is None, -(one.share or 0.0), one.feature))
    return HospitalInfluence(version, sites, patients, whole, few, deviation, tuple(order), "")


def _untold(total: int, noise: float) -> str:
    """Why nothing is told; `noise` is the deviation of the total's."""
    if not noise and total == 0:
        return "no votes: no hospital allows them (share_influence)"
    if not noise and total < SMALL:
        return f"fewer than {SMALL} votes: nothing is shown"
    if noise and not total >= SURE * noise:
        return (
            f"the votes, {total} with noise, are not {SURE:g} deviations of that noise ({noise:.3g}) above 0: no hospital may have "
            "given any, or the noise is too large for so few patients; more patients or a larger evaluation.epsilon help"
        )
    return ""


def share_interval(votes: int, total: int, deviation: float, features: int) -> tuple[float, float, float]:
    """A feature's share of the votes with its 95% interval, as the module says; the total must stand out of its noise (`SURE`)."""
    count, noise, z2 = float(min(max(votes, 0), total)), deviation**2, Z95**2
    # (v − pT)² = z² (T p (1 − p) + s² (1 − 2p + F p²)), sorted by powers of p.
    square = total**2 + z2 * total - z2 * noise * features
    half = count * total + z2 * total / 2 - z2 * noise
    rest = count**2 - z2 * noise
    root = math.sqrt(max(half**2 - square * rest, 0.0))
    low, high = (half - root) / square, (half + root) / square
    share = count / total
    return share, min(max(low, 0.0), share), max(min(high, 1.0), share)  # which lies within but for what floats round
