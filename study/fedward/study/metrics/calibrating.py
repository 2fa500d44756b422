"""Calibration that may be shown: the outcome's frequency by score, over neighbouring bins put together until none is small."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.study.metrics.counting import Counts
from fedward.study.metrics.intervals import SURE, CurvePoint, calibration_curve
from fedward.study.metrics.suppression import SMALL


@dataclass(frozen=True)
class CalibrationGroup:
    """Neighbouring bins, together.

    Attributes:
        low, high: the scores between which its patients are.
        score: their mean score, a score standing for the middle of its bin.
        patients: how many, noise included; never below 2 × `SMALL`.
        observed: the share of them that has the outcome, with a 95% interval.
    """

    low: float
    high: float
    score: float
    patients: int
    observed: float
    observed_low: float
    observed_high: float


def calibration_groups(
    counts: Counts, deviation: float, edges: NDArray[np.float64], centres: NDArray[np.float64]
) -> tuple[CalibrationGroup, ...]:
    """The groups of one slice, lowest scores first; none where even all bins together are too small.

    Bins are put together from the lowest on until a group has `SMALL` patients with the outcome and as many without, and is above
    its noise beyond doubt; what is left over at the end joins the last group.
    So no count below `SMALL` is shown, nor follows from what is.

    Args:
        counts: (bins, 2), as summed.
        deviation: of the noise on each cell; 0 without.
        edges: (bins + 1,), see `bin_edges`.
        centres: (bins,), see `bin_centres`.
    """
    made = (_group(counts, start, end, deviation, edges, centres) for start, end in _spans(counts, deviation))
    return tuple(group for group in made if group is not None)


def _spans(counts: Counts, deviation: float) -> list[tuple[int, int]]:
    """[start, end) of each group's bins."""

    def suffices(start: int, end: int) -> bool:
        part = counts[start:end]
        return bool(part.sum(0).min() >= SMALL and part.sum() >= SURE * deviation * part.size**0.5)

    spans: list[tuple[int, int]] = []
    start = 0
    for end in range(1, len(counts) + 1):
        if suffices(start, end):
            spans.append((start, end))
            start = end
    if spans and start < len(counts):
        spans[-1] = (spans[-1][0], len(counts))
    # Noise can make what is left negative, and the last group small again.
    while spans and not suffices(*spans[-1]):
        last = spans.pop()
        if spans:
            spans[-1] = (spans[-1][0], last[1])
    return spans


def _group(
    counts: Counts, start: int, end: int, deviation: float, edges: NDArray[np.float64], centres: NDArray[np.float64]
) -> CalibrationGroup | None:
    part = counts[start:end]
    weights = np.maximum(part.sum(1), 0)
    score = float((weights * centres[start:end]).sum() / weights.sum())
    points: list[CurvePoint] = calibration_curve(
        part.sum(0)[None, :], deviation * math.sqrt(end - start), np.array([score])
    )
    if not points:
        return None
    point = points[0]
    return CalibrationGroup(
        float(edges[start]), float(edges[end]), score, int(part.sum()), point.observed, point.low, point.high
    )
