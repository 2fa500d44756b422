"""The summed histogram of a model version: curves, and bins that are joined until none shows a few patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.dashboard.federation.reading import Look
from fedward.server.records import Evaluation
from fedward.study.manifest import Manifest
from fedward.study.metrics import SMALL, bin_centres, calibration_curve, slice_names
from fedward.study.metrics.intervals import project
from fedward.study.metrics.measures import first_bin
from fedward.study.votes import given_shape, parts

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """What was summed of one model version.

    Attributes:
        counts: (slices, bins, 2): negatives and positives; with noise, where the study adds any.
        names: of the slices; the first is everybody.
        centres: the score at the middle of each bin, shape (bins,).
        deviation: of the noise on each cell; 0 without.
        version: of the model: rounds committed.
        sites: whose counts were summed.
        threshold: a score from here on is called positive.
    """

    counts: NDArray[np.int64]
    names: tuple[str, ...]
    centres: Real
    deviation: float
    version: int
    sites: tuple[str, ...]
    threshold: float = 0.5

    @cached_property
    def joined(self) -> list[tuple[int, int]]:
        """Bins of everybody put together, from one to before another, rising: see `join`."""
        return join(self.counts[0])


def sums(look: Look, evaluation: Evaluation | None) -> Sums | None:
    """None where nothing was evaluated, or the study trains nothing."""
    if evaluation is None or not isinstance(look.manifest, Manifest):
        return None
    shape = given_shape(look.manifest)
    flat = np.frombuffer(evaluation.counts, dtype="<i8").astype(np.int64)
    if flat.size != math.prod(shape):
        return None
    histogram, _ = parts(look.manifest, flat.reshape(shape))
    plan = look.manifest.counting
    return Sums(
        counts=histogram,
        names=slice_names(look.manifest),
        centres=bin_centres(plan.bins, plan.temper),
        deviation=look.count_deviation * len(evaluation.sites) ** 0.5,  # every site noised its own counts
        version=evaluation.version,
        sites=evaluation.sites,
        threshold=plan.threshold,
    )


def join(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Neighbouring bins of (bins, 2) put together until each has at least `SMALL` patients of either outcome; what is left over at
    the high end joins the last. Empty where all bins together have not so many."""
    found: list[tuple[int, int]] = []
    start = 0
    for end in range(1, len(counts) + 1):
        if (counts[start:end].sum(axis=0) >= SMALL).all():
            found.append((start, end))
            start = end
    if found and start < len(counts):
        found[-1] = (found[-1][0], len(counts))
    return found


def _bounds(found: Sequence[tuple[int, int]], counts: Real) -> Real:
    """Counts of the joined bins, (joined, 2)."""
    return np.array([counts[start:end].sum(axis=0) for start, end in found])


def roc(made: Sums) -> pd.DataFrame:
    """false, true, score: the share of patients without and with the outcome above a score, from none to all."""
    if not made.joined:
        return pd.DataFrame(columns=["false", "true", "score"])
    counts = _bounds(made.joined, _whole(made))[::-1]
    shares = np.vstack([[0.0, 0.0], np.cumsum(counts, axis=0) / counts.sum(axis=0)])
    lowest = [float(made.centres[start]) for start, _ in made.joined][::-1]
    return pd.DataFrame({"false": shares[:, 0], "true": shares[:, 1], "score": [1.0, *lowest]})


def precision(made: Sums) -> pd.DataFrame:
    """recall, precision, score: of the patients above a score, the share with the outcome."""
    if not made.joined:
        return pd.DataFrame(columns=["recall", "precision", "score"])
    counts = _bounds(made.joined, _whole(made))[::-1]
    true, flagged = np.cumsum(counts[:, 1]), np.cumsum(counts.sum(axis=1))
    lowest = [float(made.centres[start]) for start, _ in made.joined][::-1]
    return pd.DataFrame({"recall": true / true[-1], "precision": true / flagged, "score": lowest})


def prevalence(made: Sums) -> float:
    """The share of patients with the outcome."""
    total = made.counts[0].sum(axis=0)
    return float(total[1] / total.sum()) if total.sum() > 0 else math.nan


def operating(made: Sums) -> tuple[float, float, float]:
    """At the threshold of the metrics: the shares (false, true) above it, and the precision; NaN where undefined."""
    counts = _whole(made)
    first = first_bin(made.centres, made.threshold)
    above, total = counts[first:].sum(axis=0), counts.sum(axis=0)
    if not (total > 0).all():
        return math.nan, math.nan, math.nan
    flagged = above.sum()
    return (
        float(above[0] / total[0]),
        float(above[1] / total[1]),
        float(above[1] / flagged) if flagged > 0 else math.nan,
    )


def _whole(made: Sums) -> Real:
    """Everybody's counts; noised ones as the nearest that can be counts."""
    counts = made.counts[0].astype(np.float64)
    return np.asarray(project(counts)) if made.deviation else counts


def reliability(made: Sums) -> pd.DataFrame:
    """score, observed, low, high, patients: the outcome's share by the score that was predicted, with its 95% interval."""
    found = _reliability(made.counts[0].tobytes(), tuple(made.centres), made.deviation, tuple(made.joined))
    return pd.DataFrame(found, columns=["score", "observed", "low", "high", "patients"])


@lru_cache(maxsize=64)
def _reliability(
    data: bytes, centres: tuple[float, ...], deviation: float, joined: tuple[tuple[int, int], ...]
) -> list[tuple[float, float, float, float, int]]:
    counts = np.frombuffer(data, dtype=np.int64).reshape(-1, 2)
    rows = []
    for start, end in joined:
        part = counts[start:end]
        weights = np.maximum(part.sum(axis=1), 0)
        score = float((weights * np.array(centres[start:end])).sum() / max(weights.sum(), 1))
        for point in calibration_curve(part.sum(axis=0)[None, :], deviation * (end - start) ** 0.5, np.array([score])):
            rows.append((point.score, point.observed, point.low, point.high, int(part.sum())))
    return rows
