"""What thresholds of each group's own would cost: an analysis of counts. Its thresholds are never applied, and no release has them.

Hardt, Price & Srebro 2016 ("Equality of opportunity in supervised learning", section 4) make a score fair after training by a
threshold for each group, on its ROC curve. Here thresholds are bin edges, and never drawn by lot as theirs may be, so that their
trade-off can be better than the one found. It is the best for these counts, and flatters, as it was chosen on its own patients.

With P and N the patients with and without the outcome, balanced accuracy over all patients is the sum over groups g of
(tp_g / P + tn_g / N) / 2. A choice holds the bound just if all rates lie in one interval of the bound's length that begins at
the rate of some edge; within it, each group takes its best edge by itself. So a sweep over intervals is exact without products.

What is told of a threshold is a point of a group's ROC curve, and asking for one bound after another traces it. So that no small
count follows, a group's thresholds may be held to edges far enough apart (`apart`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.study.metrics.intervals import project
from fedward.study.metrics.measures import Real, spread
from fedward.study.metrics.suppression import SMALL

Criterion: TypeAlias = Literal["equal_opportunity", "equalized_odds"]
Edges: TypeAlias = NDArray[np.int64]
Allowed: TypeAlias = NDArray[np.bool_]
"""(groups, bins + 1): the edges that a group's threshold may be."""

_ROUND_OFF = 1e-12


@dataclass(frozen=True)
class GroupPoint:
    """A group at its threshold: patients whose score reaches it are called positive."""

    group: str
    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class Choice:
    """A threshold for each group, and what follows: gaps between groups, and balanced accuracy over all patients."""

    equal_opportunity_gap: float
    equalized_odds_gap: float
    balanced_accuracy: float
    groups: tuple[GroupPoint, ...]


@dataclass(frozen=True)
class Mitigation:
    """One threshold for all, and thresholds that bring the criterion's gap under the bound with the least loss."""

    criterion: Criterion
    bound: float
    before: Choice
    after: Choice

    @property
    def loss(self) -> float:
        """Of balanced accuracy; below 0 where the common threshold was not the best."""
        return self.before.balanced_accuracy - self.after.balanced_accuracy

    def as_json(self) -> dict[str, Any]:
        return {"applied": False, **asdict(self), "loss": self.loss}


@dataclass(frozen=True)
class _Rates:
    """What every edge does to every group, each (groups, bins + 1): rates of being called positive, and the share in the goal."""

    tpr: Real
    fpr: Real
    gain: Real
    allowed: Allowed

    @property
    def worth(self) -> Real:
        """The gain of edges that may be chosen; of others none that is ever chosen."""
        return np.where(self.allowed, self.gain, -np.inf)

    def sweep(self, criterion: Criterion, bound: float) -> Iterator[tuple[Edges, Edges]]:
        """First and last edges (intervals, groups) that a bound leaves, for each interval that leaves every group one."""
        first, last = _within(self.tpr, self.allowed, bound)
        if criterion == "equal_opportunity":
            yield first, last
            return
        others = _within(self.fpr, self.allowed, bound)
        for low, high in zip(first, last, strict=True):
            lows, highs = np.maximum(low, others[0]), np.minimum(high, others[1])
            left = (lows <= highs).all(1)
            if left.any():
                yield lows[left], highs[left]


def mitigate(
    counts: Real,
    edges: Real,
    names: Sequence[str],
    first: int,
    bound: float,
    criterion: Criterion = "equal_opportunity",
    allowed: Allowed | None = None,
) -> Mitigation:
    """The best thresholds for each group of an attribute.

    Args:
        counts: (groups, bins, 2), exact or noised; those below 0 are projected first, group by group.
        edges: of the bins, (bins + 1,).
        names: of the groups.
        first: the lowest bin that the common threshold calls positive (`first_bin`).
        bound: what the gap may be, from 0 to 1.
        criterion: "equal_opportunity", the gap in sensitivity; "equalized_odds", the larger of that and the one in specificity.
        allowed: which edges, (groups, bins + 1); all of them without it. `first` and the last, which calls nobody, must be.

    Raises:
        InputError: shapes differ, there are fewer than two groups, a group lacks an outcome, or there is no such bound, criterion
            or bin.
    """
    _check(counts, edges, names, first, bound, criterion)
    rates = _rates(np.asarray(counts, dtype=np.float64), _allowed(allowed, len(names), len(edges), first))
    table, groups = _maxima(rates.worth), np.arange(len(names))
    best, chosen = -np.inf, None
    for lows, highs in rates.sweep(criterion, bound):
        level = np.frexp(highs - lows + 1)[1] - 1  # the largest power of two that fits
        gains = np.maximum(table[level, groups, lows], table[level, groups, highs - 2**level + 1]).sum(1)
        place = int(np.argmax(gains))
        if gains[place] > best + _ROUND_OFF:
            best, chosen = float(gains[place]), (lows[place], highs[place])
    if chosen is None:  # calling nobody is always allowed
        raise InputError("no thresholds hold the bound", got=f"{bound:g}", remedy="report this: counts are not finite")
    after = _nearest_best(rates.worth, *chosen, first)
    common = np.full(len(names), first)
    return Mitigation(
        criterion, float(bound), _choice(rates, common, edges, names), _choice(rates, after, edges, names)
    )  # fmt: skip


def apart(counts: Real, first: int) -> Allowed:
    """The edges of which may be told what a threshold there would do to exact counts, so that no small one follows from it.

    Calling everybody, nobody, or from the common threshold on is told anyway. From there outwards an edge is added once it has
    `SMALL` patients or more of each outcome between it and the last, and as many left beyond it.

    Args:
        counts: (groups, bins, 2).
        first: the lowest bin that the common threshold calls positive.
    """
    groups, bins = counts.shape[:2]
    allowed = np.zeros((groups, bins + 1), dtype=np.bool_)
    allowed[:, [0, first, bins]] = True
    for place, group in enumerate(counts):
        allowed[place, [first + steps for steps in _steps(group[first:])]] = True
        allowed[place, [first - steps for steps in _steps(group[:first][::-1])]] = True
    return allowed


def _steps(counts: Real) -> list[int]:
    """How many of these bins (bins, 2) to go over from the first on, for each edge to stop at."""
    found, start = list[int](), 0
    for end in range(1, len(counts)):
        if (counts[start:end].sum(0) >= SMALL).all() and (counts[end:].sum(0) >= SMALL).all():
            found.append(end)
            start = end
    return found


def _allowed(allowed: Allowed | None, groups: int, edges: int, first: int) -> Allowed:
    if allowed is None:
        return np.ones((groups, edges), dtype=np.bool_)
    if np.shape(allowed) != (groups, edges) or not np.asarray(allowed)[:, [first, -1]].all():
        raise InputError(
            "the edges that are allowed do not fit", expected=f"{(groups, edges)}, the common threshold and the last among them",
            got=str(np.shape(allowed)),
        )  # fmt: skip
    return np.asarray(allowed, dtype=np.bool_)


def _check(counts: Real, edges: Real, names: Sequence[str], first: int, bound: float, criterion: str) -> None:
    wanted = (len(names), len(edges) - 1, 2)
    if np.shape(counts) != wanted:
        raise InputError("the counts do not fit groups and bins", expected=str(wanted), got=str(np.shape(counts)))
    if len(names) < 2:
        raise InputError("a gap needs two groups or more", got=str(len(names)))
    if not np.isfinite(counts).all():
        raise InputError("a count is no number", code="not-finite")
    for name, sums in zip(names, np.sum(counts, axis=1), strict=True):
        if not (sums > 0).all():
            raise InputError(
                f'group "{name}" has no patients of one outcome', expected="patients with and without it",
                got=f"{sums[1]:g} and {sums[0]:g}", remedy="leave the group out, or measure more patients",
            )  # fmt: skip
    if not 0 <= bound <= 1:
        raise InputError("the bound is no gap", expected="a number from 0 to 1", got=f"{bound:g}")
    if not 0 <= first < len(edges):
        raise InputError("there is no such bin", expected=f"0 to {len(edges) - 1}", got=str(first))
    if criterion not in {"equal_opportunity", "equalized_odds"}:
        raise InputError("there is no such criterion", expected="equal_opportunity or equalized_odds", got=criterion)


def _rates(counts: Real, allowed: Allowed) -> _Rates:
    known = np.where((counts < 0).any((1, 2), keepdims=True), project(counts), counts)
    nobody = np.zeros((len(known), 1, 2))
    called = np.concatenate([np.cumsum(known[:, ::-1], 1)[:, ::-1], nobody], axis=1)
    false, true = called[..., 0], called[..., 1]
    none, ill = false[:, :1], true[:, :1]
    return _Rates(true / ill, false / none, (true / ill.sum() + (none - false) / none.sum()) / 2, allowed)


def _within(rates: Real, allowed: Allowed, bound: float) -> tuple[Edges, Edges]:
    """The first and last edge of each group, (intervals, groups), whose falling rate is in [start, start + bound], for the rate of
    every edge that is allowed as start.

    An interval that leaves a group no edge is left out; edges that are not allowed are in it as others are.
    """
    starts = np.unique(rates[allowed])
    first = np.stack([np.searchsorted(-rate, -(starts + bound + _ROUND_OFF)) for rate in rates], axis=1)
    last = np.stack([np.searchsorted(-rate, -starts, side="right") - 1 for rate in rates], axis=1)
    left = (first <= last).all(1)
    return first[left], last[left]


def _maxima(gain: Real) -> Real:
    """Shape (levels, groups, edges): the largest of the 2^level from an edge on, so that any range's is the larger of two."""
    levels = [gain]
    while 2 ** len(levels) <= gain.shape[1]:
        half, before = 2 ** (len(levels) - 1), levels[-1]
        levels.append(np.maximum(before, np.pad(before[:, half:], ((0, 0), (0, half)), constant_values=-np.inf)))
    return np.stack(levels)


def _nearest_best(gain: Real, lows: Edges, highs: Edges, first: int) -> Edges:
    """Each group's best edge of its range; of equally good ones, that which changes least."""
    edges = np.arange(gain.shape[1])
    allowed = np.where((edges >= lows[:, None]) & (edges <= highs[:, None]), gain, -np.inf)
    good = allowed >= allowed.max(1, keepdims=True) - _ROUND_OFF
    return np.asarray(np.where(good, np.abs(edges - first), len(edges) + 1).argmin(1))


def _choice(rates: _Rates, chosen: Edges, edges: Real, names: Sequence[str]) -> Choice:
    groups = np.arange(len(names))
    tpr, fpr = rates.tpr[groups, chosen], rates.fpr[groups, chosen]
    gaps = (float(spread(tpr)), float(spread(fpr)))
    points = tuple(
        GroupPoint(name, float(edges[edge]), float(sensitivity), float(1 - false))
        for name, edge, sensitivity, false in zip(names, chosen, tpr, fpr, strict=True)
    )
    return Choice(gaps[0], max(gaps), float(rates.gain[groups, chosen].sum()), points)
