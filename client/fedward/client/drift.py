"""What changed since the last registration: each column's distribution, and how many patients came and went.

The measure is the population stability index, Σ (p − q) ln(p / q) over bins, where p and q are the shares of then
and now; bins are the deciles of then, levels, and "missing". By custom 0.1 and 0.25 are where a shift is some and
large. In few patients as much comes by chance: without any shift PSI / (1/n + 1/m) is about χ² with bins − 1
degrees of freedom (Yurdakul and Naranjo 2020), so only what exceeds its 99.9 % quantile as well is called a shift.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import gammaincinv  # scipy.stats takes half a second to import

from fedward.client.units import suspects, unit_words
from fedward.study.fields import Finite, Part
from fedward.study.manifest import BaseManifest, CategoricalFeature, NumericFeature

SOME, LARGE = 0.1, 0.25
_CHANCE = 0.999
_HALF = 0.5
"""Added to each count, so that an empty bin has no infinite logarithm."""


class ColumnFacts(Part):
    """A column as it was: counts by level or by bin, "missing" last. `cuts` are the bins' inner edges."""

    column: str
    cuts: tuple[Finite, ...] = ()
    levels: tuple[str, ...] = ()
    counts: tuple[Annotated[int, Field(ge=0)], ...]
    median: Finite | None = None


class Facts(Part):
    """What a registration remembers of its table for the next one. It never leaves."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    at: Annotated[int, Field(ge=0)]
    columns: tuple[ColumnFacts, ...]


@dataclass(frozen=True, repr=False)
class ColumnDrift:
    """One column's shift: `word` is "none", "some" or "large"."""

    column: str
    psi: float
    word: str


@dataclass(frozen=True, repr=False)
class Drift:
    """The table beside the last registration's. Patients are compared by their keyed hashes."""

    since: int
    columns: tuple[ColumnDrift, ...]
    new: int
    gone: int
    stayed: int
    hints: tuple[str, ...]

    def lines(self) -> Iterable[str]:
        """As plain text, a line a string."""
        yield f"Since the last registration on {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d}:"
        yield f"  patients: {self.stayed} stayed, {self.new} are new, {self.gone} are gone"
        shifted = [column for column in self.columns if column.word != "none"]
        for column in shifted:
            yield f"  {column.column}: {column.word} shift of its values (PSI {column.psi:.2f})"
        if not shifted:
            yield "  no column's values shifted more than chance explains"
        for hint in self.hints:
            yield f"  {hint}"


def facts_of(frame: pd.DataFrame, manifest: BaseManifest, at: int) -> Facts:
    """What to remember of a checked table (`sources.SiteTable`): numbers, levels and the outcome; images are left out."""
    columns = []
    for feature in manifest.features:
        if isinstance(feature, NumericFeature):
            columns.append(_numeric(feature.column, frame[feature.column].to_numpy(dtype=np.float64)))
        elif isinstance(feature, CategoricalFeature):
            columns.append(_coded(feature.column, feature.levels, frame[feature.column].tolist()))
    outcome = manifest.outcome.column
    columns.append(_coded(outcome, ("0", "1"), [str(value) for value in frame[outcome]]))
    return Facts(at=at, columns=tuple(columns))


def _numeric(column: str, values: NDArray[np.float64]) -> ColumnFacts:
    known = values[~np.isnan(values)]
    cuts = tuple(float(cut) for cut in np.unique(np.quantile(known, np.arange(1, 10) / 10))) if known.size else ()
    median = float(np.median(known)) if known.size else None
    return ColumnFacts(column=column, cuts=cuts, counts=_binned(values, cuts), median=median)


def _coded(column: str, levels: tuple[str, ...], values: Sequence[object]) -> ColumnFacts:
    return ColumnFacts(column=column, levels=levels, counts=_counted(values, levels))


def _binned(values: NDArray[np.float64], cuts: Sequence[float]) -> tuple[int, ...]:
    known = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(np.array(cuts), known, side="right"), minlength=len(cuts) + 1)
    return (*(int(count) for count in counts), len(values) - len(known))


def _counted(values: Sequence[object], levels: Sequence[str]) -> tuple[int, ...]:
    found = [sum(value == level for value in values) for level in levels]
    return (*found, len(values) - sum(found))


def compare(
    frame: pd.DataFrame,
    manifest: BaseManifest,
    before: Facts,
    patients: tuple[int, int, int],
    medians: dict[str, float],
) -> Drift:
    """The table beside what the last registration remembers; columns that it did not have are left out.

    Args:
        frame: the checked table.
        manifest: the study.
        before: what was remembered.
        patients: how many stayed, are new, are gone.
        medians: of the numeric columns, before anything was clipped.
    """
    known = {facts.column: facts for facts in before.columns}
    found = []
    for now in facts_of(frame, manifest, 0).columns:
        then = known.get(now.column)
        if then is None or then.levels != now.levels:
            continue
        counts = now.counts
        if not then.levels:
            counts = _binned(frame[now.column].to_numpy(dtype=np.float64), then.cuts)
        found.append(_shift(now.column, then.counts, counts))
    stayed, new, gone = patients
    return Drift(before.at, tuple(found), new, gone, stayed, tuple(_hints(manifest, known, medians)))


def psi(then: Sequence[int], now: Sequence[int]) -> float:
    """The population stability index of two lists of counts over the same bins."""
    p = (np.array(then) + _HALF) / (sum(then) + _HALF * len(then))
    q = (np.array(now) + _HALF) / (sum(now) + _HALF * len(now))
    return float(((p - q) * np.log(p / q)).sum())


def _shift(column: str, then: Sequence[int], now: Sequence[int]) -> ColumnDrift:
    used = [(a, b) for a, b in zip(then, now, strict=True) if a or b]
    if len(used) < 2 or not sum(then) or not sum(now):
        return ColumnDrift(column, 0.0, "none")
    value = psi([a for a, _ in used], [b for _, b in used])
    chance = 2 * float(gammaincinv((len(used) - 1) / 2, _CHANCE)) * (1 / sum(then) + 1 / sum(now))
    shifted = math.isfinite(value) and value > max(SOME, chance)
    return ColumnDrift(column, value, ("large" if value > LARGE else "some") if shifted else "none")


def _hints(manifest: BaseManifest, known: dict[str, ColumnFacts], medians: dict[str, float]) -> Iterable[str]:
    for feature in manifest.features:
        before = known.get(feature.column)
        median = medians.get(feature.column)
        if (
            isinstance(feature, NumericFeature)
            and before is not None
            and before.median is not None
            and median is not None
        ):
            found = suspects(feature, median, before.median)
            if found:
                yield f"{feature.column}: its unit may have changed since; it may be {unit_words(found)}"
