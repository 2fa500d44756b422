"""A group's metric less everybody's, with a 95% interval: by the parametric bootstrap of `study.metrics.intervals`.

A group is a part of everybody, so the two are not independent: patients of the group and the others are drawn apart, and everybody
is their sum. Where counts are noised, group and everybody carry noise of their own, added afresh to each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedward.dashboard.federation.views.counts import Sums
from fedward.study.metrics import measures
from fedward.study.metrics.intervals import REPLICATES, SURE, project

Real = NDArray[np.float64]
CONTRASTED: Final = ("auroc", "sensitivity", "specificity", "brier", "calibration_gap", "selection_rate")
"""What a difference is told of: ratios of sums, which noise does not bend."""


def contrasts(made: Sums) -> dict[tuple[str, str], tuple[float, float, float]]:
    """By group and metric: the group's value less everybody's, and its interval; NaN where it is undefined."""
    parts = _contrasts(made.counts.tobytes(), made.counts.shape, tuple(made.centres), made.deviation, made.threshold)
    return {(name, metric): parts[place][metric] for place, name in enumerate(made.names[1:]) for metric in CONTRASTED}


@lru_cache(maxsize=16)
def _contrasts(
    data: bytes, shape: tuple[int, ...], centres: tuple[float, ...], deviation: float, threshold: float
) -> list[Mapping[str, tuple[float, float, float]]]:
    counts = np.frombuffer(data, dtype=np.int64).reshape(shape).astype(np.float64)
    kinds, rng = _kinds(np.array(centres), threshold), np.random.default_rng(shape[0] * shape[1])
    return [_of_group(kinds, counts[0], group, deviation, rng) for group in counts[1:]]


def _kinds(centres: Real, threshold: float) -> dict[str, Callable[[Real], Real]]:
    first = measures.first_bin(centres, threshold)
    return {
        "auroc": measures.auroc,
        "sensitivity": partial(measures.sensitivity, first=first),
        "specificity": partial(measures.specificity, first=first),
        "brier": partial(measures.brier, centres=centres),
        "calibration_gap": partial(measures.calibration_gap, centres=centres),
        "selection_rate": partial(measures.selection_rate, first=first),
    }


def _of_group(
    kinds: Mapping[str, Callable[[Real], Real]],
    everybody: Real,
    group: Real,
    deviation: float,
    rng: np.random.Generator,
) -> dict[str, tuple[float, float, float]]:
    inside = _origin(group, deviation)
    outside = _origin(everybody - group, deviation * 2**0.5)
    drawn, others = _drawn(inside, rng), _drawn(outside, rng)
    whole = drawn + others
    if deviation:
        drawn = drawn + rng.normal(0.0, deviation, drawn.shape)
        whole = whole + rng.normal(0.0, deviation, whole.shape)
    sure = all(part.sum() > 0 and part.sum() >= SURE * deviation * part.size**0.5 for part in group.T)
    found = {}
    for name, of in kinds.items():
        value = float(of(group)) - float(of(everybody))
        shift = of(drawn) - of(whole) - (float(of(inside)) - float(of(inside + outside)))
        shift = shift[np.isfinite(shift)]
        if not (sure and math.isfinite(value) and shift.size > REPLICATES // 2):
            found[name] = (math.nan, math.nan, math.nan)
            continue
        low, high = (value + float(edge) for edge in np.quantile(shift, (0.025, 0.975)))
        found[name] = (value, min(low, value), max(high, value))
    return found


def _origin(counts: Real, deviation: float) -> Real:
    """What replicates are drawn from: counts of at least 0, none of them quite empty, as in `study.metrics.intervals`."""
    return np.asarray(project(counts)) if deviation else np.maximum(counts, 0.0) + 1 / len(counts)


def _drawn(origin: Real, rng: np.random.Generator) -> Real:
    """(REPLICATES, bins, 2)."""
    shares = origin.reshape(-1) / origin.sum()
    drawn = rng.multinomial(round(origin.sum()), shares, size=REPLICATES)
    return drawn.reshape(REPLICATES, *origin.shape).astype(np.float64)
