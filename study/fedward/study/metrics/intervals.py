"""Metrics with 95% intervals by a parametric bootstrap (Efron & Tibshirani 1993, ch. 6): patients drawn, noise added, again.

A summed histogram is c̃ = c + e, with e independent discrete Gaussian noise of a known deviation on every cell (0 without
noise). Metrics that are ratios of sums are taken from c̃ as it came, so that noise averages out in them. Average precision
and calibration error are not linear, so c̃ is first projected onto counts of at least 0 with the same total, and what that
does to replicates is taken off their value. Replicates draw as many patients as were counted from the projected counts (without
noise: from the counts with one patient of each outcome spread over the bins, so that 10 of 10 is not taken for certainty),
and add fresh noise. The interval is the value plus the replicates' quantiles less what they were drawn from.

A metric is undefined where a sum that it divides by is not three deviations of its noise above 0. All this is post-processing of
what the coordinator has, and free. Draws are seeded with the counts themselves: the same counts give the same intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from fedward.study.attributes import attributes
from fedward.study.manifest import Counting, Manifest
from fedward.study.metrics import measures
from fedward.study.metrics.counting import Counts, bin_centres
from fedward.study.metrics.measures import Real

REPLICATES = 500
SURE = 3.0
"""How many deviations of its noise a sum must be above 0 before anything is divided by it."""
Measure = Callable[[Real], Real]


@dataclass(frozen=True)
class Estimate:
    """A metric of one slice, or a gap between the groups of an attribute; None where it is undefined or has no interval."""

    slice: str
    name: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class _Kind:
    """A metric: its function of counts, whether it needs counts of at least 0, and between what it lies."""

    of: Measure
    projected: bool = False
    low: float = 0.0
    needs: tuple[int, ...] = (0, 1)
    """The outcomes whose sums it divides by; none is everybody's."""
    first: int = 0
    """The lowest bin of those sums."""


@dataclass(frozen=True)
class _Contrast:
    """What is said of an attribute's groups: the largest, over metrics, of what `of` makes of the groups' values (groups, …)."""

    keys: tuple[str, ...]
    of: Measure = measures.spread
    high: float = 1.0


_CONTRASTS = {
    "demographic_parity_gap": _Contrast(("selection_rate",)),
    "equal_opportunity_gap": _Contrast(("sensitivity",)),
    "equalized_odds_gap": _Contrast(("sensitivity", "specificity")),
    "predictive_parity_gap": _Contrast(("precision",)),
    "auroc_gap": _Contrast(("auroc",)),
    "calibration_spread": _Contrast(("calibration_gap",), high=2.0),
    "worst_auroc": _Contrast(("auroc",), of=partial(np.min, axis=0)),
}


@dataclass(frozen=True)
class _Slice:
    """What a slice's counts say: each metric's value, where it is defined, and its replicates less their origin."""

    values: dict[str, float]
    shifts: dict[str, Real]


def estimates(manifest: Manifest, counts: Counts, deviation: float, names: tuple[str, ...]) -> list[Estimate]:
    """All metrics of all slices, then the gaps between each attribute's groups and the AUROC of its worst group.

    Args:
        manifest: the study; its bins are the counts'.
        counts: (slices, bins, 2), as summed.
        deviation: of the noise on each cell of the sum; 0 without.
        names: the slices' names.
    """
    kinds = _kinds(counts.shape[1], manifest.counting)
    rng = _generator(counts)
    slices = [_slice(kinds, part.astype(np.float64), deviation, rng) for part in counts]
    found = [_estimate(name, key, kinds[key].low, s) for name, s in zip(names, slices, strict=True) for key in kinds]
    for attribute, members in attribute_slices(manifest).items():
        found.extend(_contrasts(attribute, [slices[index] for index in members]))
    return found


def attribute_slices(manifest: Manifest) -> dict[str, list[int]]:
    """For each fairness attribute, single and crossed, the places of its groups on the histogram's first axis."""
    return {attribute.name: list(attribute.slices) for attribute in attributes(manifest)}


def _kinds(bins: int, plan: Counting) -> dict[str, _Kind]:
    centres = bin_centres(bins, plan.temper)
    first = measures.first_bin(centres, plan.threshold)
    return {
        "auroc": _Kind(measures.auroc),
        "auprc": _Kind(measures.average_precision, projected=True),
        "brier": _Kind(partial(measures.brier, centres=centres), needs=()),
        "calibration_gap": _Kind(partial(measures.calibration_gap, centres=centres), low=-1.0, needs=()),
        "calibration_error": _Kind(partial(measures.calibration_error, centres=centres), projected=True, needs=()),
        "sensitivity": _Kind(partial(measures.sensitivity, first=first), needs=(1,)),
        "specificity": _Kind(partial(measures.specificity, first=first), needs=(0,)),
        "selection_rate": _Kind(partial(measures.selection_rate, first=first), needs=()),
        "precision": _Kind(partial(measures.precision, first=first), needs=(), first=first),
    }


def _slice(kinds: dict[str, _Kind], counts: Real, deviation: float, rng: np.random.Generator) -> _Slice:
    projected = project(counts) if deviation else counts
    origin = projected if deviation else counts + 1 / len(counts)
    replicates = _replicates(origin, round(projected.sum()), deviation, rng)
    repaired = project(replicates) if deviation else replicates
    values: dict[str, float] = {}
    shifts: dict[str, Real] = {}
    for name, kind in kinds.items():
        if not _sure(counts[kind.first :], kind.needs, deviation):
            continue
        value = float(kind.of(projected if kind.projected else counts))
        drawn = kind.of(repaired if kind.projected else replicates)
        shift = drawn[np.isfinite(drawn)] - float(kind.of(origin))
        if not (np.isfinite(value) and shift.size > REPLICATES // 2):
            continue
        bias = float(shift.mean()) if kind.projected else 0.0
        values[name], shifts[name] = value - bias, shift - bias
    return _Slice(values, shifts)


def _replicates(origin: Real, patients: int, deviation: float, rng: np.random.Generator) -> Real:
    """Shape (REPLICATES, bins, 2)."""
    shares = origin.reshape(-1) / origin.sum()
    drawn = rng.multinomial(patients, shares, size=REPLICATES).reshape(REPLICATES, *origin.shape).astype(np.float64)
    if deviation:
        drawn += rng.normal(0.0, deviation, drawn.shape)
    return drawn


def project(counts: Real) -> Real:
    """The nearest counts, outcome by outcome, that are at least 0 and have the same total, or 1 where it is less.

    Args:
        counts: shape (…, bins, 2).

    Duchi et al. 2008, figure 1: Euclidean projection onto a simplex.
    """
    total = np.maximum(counts.sum(-2, keepdims=True), 1.0)
    falling = -np.sort(-counts, axis=-2)
    excess = np.cumsum(falling, axis=-2) - total
    ranks = np.arange(1, counts.shape[-2] + 1)[:, None]
    kept = (falling - excess / ranks > 0).sum(-2, keepdims=True)
    surplus = np.take_along_axis(excess, kept - 1, axis=-2) / kept
    return np.asarray(np.maximum(counts - surplus, 0.0))


def _sure(counts: Real, outcomes: tuple[int, ...], deviation: float) -> bool:
    """Whether what a metric divides by is above 0 beyond doubt."""
    parts = [counts[:, outcome] for outcome in outcomes] or [counts]
    return all(part.sum() > 0 and part.sum() >= SURE * deviation * part.size**0.5 for part in parts)


def _estimate(slice_: str, name: str, lowest: float, found: _Slice) -> Estimate:
    if name not in found.values:
        return Estimate(slice_, name, None)
    return _bounded(slice_, name, found.values[name], found.shifts[name], lowest)


def _bounded(slice_: str, name: str, value: float, shifts: Real, lowest: float, highest: float = 1.0) -> Estimate:
    low, high = (value + float(shift) for shift in np.quantile(shifts, (0.025, 0.975)))
    inside = [float(np.clip(number, lowest, highest)) for number in (value, low, high)]
    return Estimate(slice_, name, inside[0], min(inside), max(inside))


def _contrasts(attribute: str, groups: list[_Slice]) -> list[Estimate]:
    """The largest difference between groups (Hardt, Price & Srebro 2016; fairlearn's differences), each group's rate known; and
    the lowest AUROC.

    Gaps of noisy rates are too large on average, as the larger of two always is, and their minimum is too small; the replicates'
    excess is taken off.
    """
    found = []
    for name, contrast in _CONTRASTS.items():
        if len(groups) < 2 or any(key not in group.values for group in groups for key in contrast.keys):
            found.append(Estimate(attribute, name, None))
            continue
        size = min(group.shifts[key].size for group in groups for key in contrast.keys)
        values = {key: np.array([[group.values[key]] for group in groups]) for key in contrast.keys}
        shifts = {key: np.array([group.shifts[key][:size] for group in groups]) for key in contrast.keys}
        value = float(max(contrast.of(values[key])[0] for key in contrast.keys))
        drawn = np.max([contrast.of(values[key] + shifts[key]) for key in contrast.keys], axis=0)
        bias = float(drawn.mean()) - value
        found.append(_bounded(attribute, name, value - bias, drawn - value - bias, 0.0, contrast.high))
    return found


@dataclass(frozen=True)
class CurvePoint:
    """A bin of a calibration curve: its score, and the outcome's frequency there with a 95% interval."""

    score: float
    observed: float
    low: float
    high: float


def calibration_curve(counts: Counts, deviation: float, centres: NDArray[np.float64]) -> list[CurvePoint]:
    """The outcome's frequency by score, for one slice (bins, 2); bins too empty for their noise are left out."""
    rng, kinds = _generator(counts), {"prevalence": _Kind(measures.prevalence, needs=())}
    points = []
    for score, pair in zip(centres, counts.astype(np.float64), strict=True):
        found = _estimate("", "prevalence", 0.0, _slice(kinds, pair[None, :], deviation, rng))
        if found.value is not None and found.low is not None and found.high is not None:
            points.append(CurvePoint(float(score), found.value, found.low, found.high))
    return points


def _generator(counts: Counts) -> np.random.Generator:
    """Draws that are the same for the same counts. They protect nothing: whoever has the counts has everything."""
    return np.random.default_rng(int.from_bytes(sha256(np.ascontiguousarray(counts).tobytes()).digest()[:16], "big"))
