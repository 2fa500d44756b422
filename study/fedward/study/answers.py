"""An exploration's answers: what a site tallies, the noise that it adds, and what follows from the sites' sum. Pure.

A tally is a vector of integers in two blocks. A coordinate of `counts` holds patients: a patient changes at most one coordinate
of each count, histogram and quantile (its bins), and one of each mean (how many have the value), by 1. A coordinate of `sums`
holds a mean's sum: each value is clipped to the column's bounds, measured from their middle in units of half the range over
`GRID`, and rounded at random to a neighbouring integer, so that its expectation is kept; a patient changes it by at most `GRID`.

With s the site's noise multiplier and T the most coordinates that a patient changes, counts get discrete Gaussian noise of
deviation s√T and sums of GRID·s√T: every coordinate costs the same, and all together are 1/(2s²)-zCDP under adding or removing
one patient (Canonne, Kamath & Steinke 2020, theorem 4 and its composition), as one Gaussian sum with noise multiplier s is.

What is derived is post-processing and costs nothing. Intervals are 95% for the value among the patients who were counted: they
cover the noise, the rounding and the bins, not what another sample of patients would have given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.draws import Draws
from fedward.privacy.errors import InputError
from fedward.privacy.events import CountEvent
from fedward.study.exploration import (
    Condition,
    CountQuery,
    Exploration,
    HistogramQuery,
    MeanQuery,
    QuantileQuery,
    Query,
)
from fedward.study.metrics import SMALL, Z95, Counts

if TYPE_CHECKING:
    import pandas as pd  # a table is given: what only reads a manifest need not wait for the import

GRID = 50
"""A mean's sum counts in hundredths of the range."""
COUNTS, SUMS = "explore-counts", "explore-sums"
"""The purposes that an attempt's two events are charged for."""


@dataclass(frozen=True)
class Shape:
    """The two blocks of an answer vector: their lengths, and how many coordinates of each one patient changes at most."""

    counts: int
    sums: int
    changed_counts: int
    changed_sums: int

    @property
    def length(self) -> int:
        return self.counts + self.sums

    @property
    def changed(self) -> int:
        """T of the module's text."""
        return self.changed_counts + self.changed_sums


def shape_of(exploration: Exploration) -> Shape:
    """The shape of the answers, from the manifest alone."""
    queries = exploration.queries
    means = sum(isinstance(query, MeanQuery) for query in queries)
    return Shape(sum(_width(exploration, query) for query in queries), means, len(queries), means)


def _width(exploration: Exploration, query: Query) -> int:
    """Coordinates of a query in the block of counts."""
    if isinstance(query, HistogramQuery):
        return len(exploration.labels(query))
    return len(exploration.edges(query)) - 1 if isinstance(query, QuantileQuery) else 1


def deviation(exploration: Exploration, noise_multiplier: float) -> float:
    """The noise's deviation of a count, s√T; a sum has `GRID` times as much."""
    return noise_multiplier * math.sqrt(shape_of(exploration).changed)


def attempt_events(exploration: Exploration, noise_multiplier: float) -> dict[str, CountEvent]:
    """What one attempt is charged, by purpose: at most two events, whose losses add up."""
    shape, sigma = shape_of(exploration), deviation(exploration, noise_multiplier)
    events = {COUNTS: CountEvent(sigma, 1, shape.changed_counts, 1)}
    if shape.sums:
        events[SUMS] = CountEvent(GRID * sigma, GRID, shape.changed_sums, 1)
    return events


# ---- at a site ------------------------------------------------------------------------------------------------------


def tally(frame: pd.DataFrame, exploration: Exploration, draws: Draws) -> Counts:
    """A site's exact answers, shape (counts + sums,): nothing of them may leave before `noised`.

    Args:
        frame: the site's checked table, a row an encounter (index: patient); a patient counts with the last one.
        draws: for the rounding of values to the grid.

    Raises:
        InputError: the table lacks a column of the queries.
    """
    absent = [column for column in exploration.columns if column not in frame.columns]
    if absent:
        raise InputError("the table lacks columns of the queries", expected=", ".join(absent[:10]))
    patients = frame[~frame.index.duplicated(keep="last")]
    counts: list[NDArray[np.int64]] = []
    sums: list[int] = []
    for query in exploration.queries:
        chosen = patients[_meets(patients, query.where, exploration)]
        if isinstance(query, MeanQuery):
            steps = _steps(chosen, query, exploration, draws)
            counts.append(np.array([len(steps)]))
            sums.append(int(steps.sum()))
        else:
            counts.append(_counts(chosen, query, exploration))
    return np.concatenate([*counts, np.array(sums, dtype=np.int64)]).astype(np.int64)


def noised(answers: Counts, exploration: Exploration, noise_multiplier: float, draws: Draws) -> Counts:
    """The answers as they may leave: with the noise that `attempt_events` says.

    Raises:
        InputError: the vector is not of the exploration's shape, or there is no noise.
    """
    shape, sigma = shape_of(exploration), deviation(exploration, noise_multiplier)
    if answers.shape != (shape.length,):
        raise InputError(
            "the answers do not fit the exploration", expected=f"({shape.length},)", got=str(answers.shape)
        )
    noise = [draws.discrete_gaussian(shape.counts, sigma)]
    if shape.sums:
        noise.append(draws.discrete_gaussian(shape.sums, GRID * sigma))
    return answers + np.concatenate(noise)


def _meets(patients: pd.DataFrame, where: Sequence[Condition], exploration: Exploration) -> NDArray[np.bool_]:
    met = np.ones(len(patients), dtype=np.bool_)
    for condition in where:
        if condition.level is not None:
            met &= _levels(patients, condition.column, exploration) == condition.level
            continue
        values = patients[condition.column].to_numpy(dtype=np.float64)
        met &= ~np.isnan(values)
        met &= values >= (-math.inf if condition.at_least is None else condition.at_least)
        met &= values < (math.inf if condition.below is None else condition.below)
    return met


def _levels(patients: pd.DataFrame, column: str, exploration: Exploration) -> NDArray[np.object_]:
    values = patients[column]
    if column == exploration.outcome.column:
        values = values.map({0: "0", 1: "1"})
    return values.to_numpy(dtype=object)


def _counts(
    chosen: pd.DataFrame, query: CountQuery | HistogramQuery | QuantileQuery, exploration: Exploration
) -> NDArray[np.int64]:
    if isinstance(query, CountQuery):
        return np.array([len(chosen)], dtype=np.int64)
    levels = exploration.levels(query.column)
    if levels is not None:
        values = _levels(chosen, query.column, exploration)
        found = np.array([np.count_nonzero(values == level) for level in levels], dtype=np.int64)
    else:
        numbers = chosen[query.column].to_numpy(dtype=np.float64)
        found = np.histogram(numbers[~np.isnan(numbers)], exploration.edges(query))[0].astype(np.int64)
    if isinstance(query, QuantileQuery):
        return found
    return np.append(found, len(chosen) - found.sum())


def _steps(chosen: pd.DataFrame, query: MeanQuery, exploration: Exploration, draws: Draws) -> NDArray[np.int64]:
    """Each patient's value as an integer of [−GRID, GRID], shape (those who have one,)."""
    middle, half = _scale(exploration, query)
    values = chosen[query.column].to_numpy(dtype=np.float64)
    values = np.clip((values[~np.isnan(values)] - middle) / half, -1.0, 1.0) * GRID
    low = np.floor(values)
    steps: NDArray[np.int64] = (low + (draws.uniform(len(values)) < values - low)).astype(np.int64)
    return steps


def _scale(exploration: Exploration, query: MeanQuery) -> tuple[float, float]:
    """Middle and half range of a mean's column."""
    bounds = exploration.bounds(query.column)
    if bounds is None:
        raise InputError(f'query "{query.name}" has no bounds', expected="a numeric column")
    return (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2


# ---- from the sum ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """One number of an answer with its 95% interval; `value` is None where it cannot be told, and `reason` says why."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """A query, in words, and what is known of its answer over all sites that answered."""

    name: str
    kind: str
    words: str
    unit: str
    estimates: tuple[Estimate, ...]


FEW = f"under {SMALL}: not shown"
TOO_NOISY = "too few patients for this much noise"


def answers_of(exploration: Exploration, total: Counts, multipliers: Sequence[float]) -> tuple[Answer, ...]:
    """What follows from the sites' summed noisy answers.

    Args:
        total: the sum, shape (counts + sums,).
        multipliers: the noise multiplier of each site in the sum.

    Raises:
        InputError: the sum is of another shape, or there is no site.
    """
    shape = shape_of(exploration)
    if total.shape != (shape.length,) or not multipliers:
        raise InputError("the sum does not fit the exploration", expected=f"({shape.length},)", got=str(total.shape))
    sigma = math.sqrt(sum(deviation(exploration, multiplier) ** 2 for multiplier in multipliers))
    counts, sums = total[: shape.counts], iter(total[shape.counts :].tolist())
    found, start = [], 0
    for query in exploration.queries:
        width = _width(exploration, query)
        part = counts[start : start + width]
        start += width
        if isinstance(query, MeanQuery):
            estimates = _mean(exploration, query, next(sums), int(part[0]), sigma)
        elif isinstance(query, QuantileQuery):
            estimates = _quantiles(exploration, query, part, sigma)
        else:
            labels = exploration.labels(query) if isinstance(query, HistogramQuery) else ("patients",)
            estimates = tuple(_count(label, int(n), sigma) for label, n in zip(labels, part, strict=True))
        unit = "patients" if isinstance(query, CountQuery | HistogramQuery) else exploration.unit(query.column)
        found.append(Answer(query.name, query.kind, query.words, unit, estimates))
    return tuple(found)


def _count(label: str, noisy: int, sigma: float) -> Estimate:
    """A count with its noise's interval. Noise can make one negative: it is then under 11 like other small ones."""
    if noisy < SMALL:
        return Estimate(label, None, None, None, FEW)
    low, high = max(0, math.floor(noisy - Z95 * sigma)), math.ceil(noisy + Z95 * sigma)
    return Estimate(label, float(noisy), float(low), float(high))


def _mean(exploration: Exploration, query: MeanQuery, total: int, noisy: int, sigma: float) -> tuple[Estimate, ...]:
    """Ratio of two noisy numbers, with Fieller's interval (Fieller 1954) cut to the public bounds."""
    middle, half = _scale(exploration, query)
    patients = _count("patients", noisy, sigma)
    if noisy < SMALL or not noisy > Z95 * sigma:
        return Estimate("mean", None, None, None, FEW if noisy < SMALL else TOO_NOISY), patients
    rounding = max(noisy, 0) / 4  # the variance of a random rounding is at most 1/4 a patient
    variance = (GRID * sigma) ** 2 + rounding
    ratio = total / noisy
    g = (Z95 * sigma / noisy) ** 2
    spread = Z95 / noisy * math.sqrt(variance * (1 - g) + (ratio * sigma) ** 2)
    ends = [(ratio - spread) / (1 - g), (ratio + spread) / (1 - g)]
    value, low, high = (middle + half * min(max(x / GRID, -1.0), 1.0) for x in (ratio, *ends))
    return Estimate("mean", value, low, high), patients


def _quantiles(exploration: Exploration, query: QuantileQuery, bins: Counts, sigma: float) -> tuple[Estimate, ...]:
    edges, noisy = exploration.edges(query), int(bins.sum())
    patients = _count("patients", noisy, sigma * math.sqrt(len(bins)))
    if noisy < SMALL or not noisy > Z95 * sigma * math.sqrt(len(bins)):
        reason = FEW if noisy < SMALL else TOO_NOISY
        return *(Estimate(f"{100 * q:g}%", None, None, None, reason) for q in query.q), patients
    return *(_quantile(edges, bins, q, sigma) for q in query.q), patients


def _quantile(edges: NDArray[np.float64], bins: Counts, q: float, sigma: float) -> Estimate:
    """D_j, the noisy patients up to bin j less q of all, rises through 0 in the quantile's bin.

    The interval runs from the first bin whose D_j is not clearly below 0 to the last whose D_{j−1} is not clearly above: either
    end is wrong only if the quantile's own bin is excluded on that side, which has a probability of 2.5% at most.
    """
    share = np.cumsum(bins) - q * bins.sum()
    number = np.arange(1, len(bins) + 1)
    # Bins up to j carry weight 1−q, those after it −q; their noise is independent.
    error = Z95 * sigma * np.sqrt((1 - q) ** 2 * number + q**2 * (len(bins) - number))
    first = int(np.flatnonzero(share >= -error)[0])
    before, allowed = np.append(-math.inf, share[:-1]), np.append(0.0, error[:-1])
    last = int(np.flatnonzero(before <= allowed)[-1])
    smooth = _rising(share)
    place = int(np.flatnonzero(smooth >= 0)[0]) if (smooth >= 0).any() else len(bins) - 1
    start = smooth[place - 1] if place else -q * bins.sum()
    part = min(max(-start / (smooth[place] - start), 0.0), 1.0) if smooth[place] > start else 0.5
    value = float(edges[place] + part * (edges[place + 1] - edges[place]))
    low, high = float(edges[first]), float(edges[max(last, first) + 1])
    return Estimate(f"{100 * q:g}%", min(max(value, low), high), low, high)


def _rising(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest rising sequence in least squares (pool adjacent violators; Barlow et al. 1972)."""
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        mean, size = float(value), 1
        while blocks and blocks[-1][0] >= mean:
            earlier, count = blocks.pop()
            mean = (earlier * count + mean * size) / (count + size)
            size += count
        blocks.append((mean, size))
    return np.concatenate([np.full(size, mean) for mean, size in blocks])
