"""A site's own metrics as they may leave: typed, rounded, small cells suppressed. Pure.

The table is (slice × outcome) of the site's held-out patients: slice 0 is everybody, then the fairness groups of each attribute. A
slice leaves whole or not at all: two counts, and what is derived from its scores. Every number is a whole number of steps of its
metric (`METRICS`), within the metric's range; a suppressed one is None, never zero.

`fedward.study.metrics.suppression` says which slices are suppressed, and why. The suppressed counts stay open even to one who
knows the rules: 22 leaves eleven values for the small one of two. The rounding hides one patient's change of an AUROC at best, and
proves nothing: these numbers carry no noise, no ε covers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedward.study.attributes import attributes
from fedward.study.manifest import MAX_DECLARED_PATIENTS, Manifest
from fedward.study.metrics import SMALL, Counts, auroc, bin_centres, slice_names, suppressed_slices
from fedward.study.metrics.measures import brier


@dataclass(frozen=True)
class Metric:
    """What a metric is: its range, and the step that it is rounded to."""

    words: str
    low: float
    high: float
    step: float

    def rounded(self, value: float) -> int:
        """The value in whole steps."""
        return round(min(max(value, self.low), self.high) / self.step)

    def value(self, steps: int) -> float:
        return round(steps * self.step, 10)

    def allows(self, steps: object) -> bool:
        """Whether a number of steps is a whole one within the range."""
        return type(steps) is int and self.low <= steps * self.step <= self.high + self.step / 2


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "negatives": Metric("held-out patients without the outcome", SMALL, MAX_DECLARED_PATIENTS, 1),
        "positives": Metric("held-out patients with the outcome", SMALL, MAX_DECLARED_PATIENTS, 1),
        "auroc": Metric("area under the ROC curve", 0, 1, 0.01),
        "brier": Metric("mean squared error of the score", 0, 1, 0.01),
    }
)
"""Every number of a slice, in order. There is no other."""

Values = tuple[tuple[int | None, ...], ...]
"""Slices × METRICS, in whole steps; None is suppressed."""


def suppressed(manifest: Manifest, table: NDArray[np.int64]) -> frozenset[int]:
    """The slices that may not be shown of a table (slices, 2) of counts by outcome."""
    return suppressed_slices(attributes(manifest), table)


def site_metrics(manifest: Manifest, counts: Counts) -> Values:
    """What may leave of a site's own histogram, shape (slices, bins, 2)."""
    hidden = suppressed(manifest, counts.sum(axis=1))
    nothing: tuple[int | None, ...] = (None,) * len(METRICS)
    centres = bin_centres(counts.shape[1], manifest.counting.temper)
    return tuple(nothing if place in hidden else _slice(one, centres) for place, one in enumerate(counts))


def _slice(counts: Counts, centres: NDArray[np.float64]) -> tuple[int | None, ...]:
    negatives, positives = (int(count) for count in counts.sum(axis=0))
    curve = auroc(counts)
    values = {
        "negatives": negatives,
        "positives": positives,
        "auroc": None if curve is None else curve.value,
        "brier": float(brier(counts.astype(np.float64), centres)),
    }
    return tuple(None if (value := values[name]) is None else metric.rounded(value) for name, metric in METRICS.items())


def may_leave(values: object, manifest: Manifest) -> bool:
    """Whether these are values of that study's form: every slice whole or suppressed whole, every number within its metric."""
    if type(values) is not tuple or len(values) != len(slice_names(manifest)):
        return False
    return all(type(one) is tuple and len(one) == len(METRICS) and _whole(one) for one in values)


def _whole(values: tuple[object, ...]) -> bool:
    shown = [metric.allows(value) for value, metric in zip(values, METRICS.values(), strict=True)]
    return all(shown) or all(value is None for value in values)


def named(manifest: Manifest, values: Values) -> dict[str, dict[str, float] | None]:
    """Slice → metric → value, for people; None where the slice is suppressed."""
    return {
        name: None
        if one[0] is None
        else {
            metric: METRICS[metric].value(steps)
            for metric, steps in zip(METRICS, one, strict=True)
            if steps is not None
        }
        for name, one in zip(slice_names(manifest), values, strict=True)
    }
