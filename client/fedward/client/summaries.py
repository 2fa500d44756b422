"""From a checked table to its quality report: the figures, and what is worth a person's look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from fedward.client.quality import (
    MISSING_GROUP,
    OUTSIDE_GROUP,
    ColumnSummary,
    GroupSummary,
    Problem,
    ProblemCount,
    QualityReport,
)
from fedward.study.manifest import BaseManifest, CategoricalFeature, Feature, Group, ImageFeature, NumericFeature

SMALL_GROUP = 11
"""A group of fewer is pointed out: the same number below which a hospital's own metrics are suppressed."""
MANY_COLUMNS = 5
"""With fewer, patients agree by chance."""
_NO_GROUP = frozenset({MISSING_GROUP, OUTSIDE_GROUP})


def summarise(
    frame: pd.DataFrame,
    manifest: BaseManifest,
    *,
    refused: bool,
    rows: int,
    blank_rows: int,
    counts: Sequence[ProblemCount],
    problems: Sequence[Problem],
    hints: Sequence[str] = (),
    source: str = "",
    numbering: str = "row 1 is the line of column names",
    opted_out: int = 0,
) -> QualityReport:
    """The report of a frame as `SiteTable` has it; `rows` of the source held data, the frame's are the ones kept."""
    columns = tuple(_summarise_column(frame, feature) for feature in manifest.features)
    groups = tuple(GroupSummary(group.column, _sizes(frame, manifest, group)) for group in manifest.fairness.groups)
    with_outcome = int(frame[manifest.outcome.column].sum()) if len(frame) else 0
    report = QualityReport(
        study=manifest.study.id,
        refused=refused,
        rows=rows,
        blank_rows=blank_rows,
        patients=int(frame.index.nunique()),
        encounters=len(frame),
        excluded=rows - opted_out - len(frame),
        outcome=manifest.outcome.column,
        with_outcome=with_outcome,
        columns=columns,
        groups=groups,
        counts=tuple(counts),
        problems=tuple(problems),
        warnings=(),
        source=source,
        numbering=numbering,
        opted_out=opted_out,
    )
    return replace(report, warnings=(*_warn(report, manifest), *_lookalikes(frame, manifest), *hints))


def _summarise_column(frame: pd.DataFrame, feature: Feature) -> ColumnSummary:
    if isinstance(feature, CategoricalFeature):
        seen = Counter(value for value in frame[feature.column] if value is not None)
        missing = len(frame) - seen.total()
        levels = {level: seen[level] for level in feature.levels}
        return ColumnSummary(feature.column, feature.type, missing, _percent(missing, len(frame)), levels=levels)
    names = [feature.column]
    if isinstance(feature, ImageFeature):
        names = [f"{feature.column}_{pixel}" for pixel in range(feature.pixels)]
    values = frame[names].to_numpy(dtype=np.float64)
    known = values[~np.isnan(values)]
    missing = int(values.size - known.size)
    low, high = feature.bounds
    return ColumnSummary(
        feature.column,
        feature.type,
        missing,
        _percent(missing, values.size),
        minimum=float(known.min()) if known.size else None,
        maximum=float(known.max()) if known.size else None,
        bounds=(low, high),
        unit=feature.unit if isinstance(feature, NumericFeature) else "",
        median=float(np.median(known)) if known.size else None,
    )


def _sizes(frame: pd.DataFrame, manifest: BaseManifest, group: Group) -> dict[str, int]:
    """Patients per level or band; a missing value and a number outside every band are counted too, never lost."""
    feature = next(feature for feature in manifest.features if feature.column == group.column)
    if group.cut is None:
        levels = feature.levels if isinstance(feature, CategoricalFeature) else ()
        seen = Counter(value for value in frame[group.column] if value is not None)
        sizes = {level: seen[level] for level in levels}
        return _with_rest(sizes, MISSING_GROUP, len(frame) - seen.total())
    values = frame[group.column].to_numpy(dtype=np.float64)
    sizes = {
        f"[{low:g}, {high:g})": int(((values >= low) & (values < high)).sum()) for low, high in pairwise(group.cut)
    }
    missing = int(np.isnan(values).sum())
    outside = len(frame) - missing - sum(sizes.values())
    return _with_rest(_with_rest(sizes, MISSING_GROUP, missing), OUTSIDE_GROUP, outside)


def _with_rest(sizes: dict[str, int], label: str, size: int) -> dict[str, int]:
    return sizes | {label: size} if size else sizes


def _warn(report: QualityReport, manifest: BaseManifest) -> Iterable[str]:
    """What is allowed and yet worth a person's look; whether the site takes part is its policy's decision."""
    patients, with_outcome = report.patients, report.with_outcome
    least = manifest.federation.min_patients
    if patients < least:
        yield f"patients: {patients}, and the study asks for at least {least} from a hospital"
    if patients and with_outcome in (0, report.encounters):
        yield f"all patients have the same outcome ({1 if with_outcome else 0}): no model can learn from this table alone"
    if report.excluded:
        yield f"rows left out for want of a known outcome: {report.excluded}, listed above"
    for column in report.columns:
        yield from _warn_column(column, patients)
    for group in report.groups:
        if OUTSIDE_GROUP in group.sizes:
            yield f"{group.column}: patients in no group that the study compares: {group.sizes[OUTSIDE_GROUP]}"
        small = [
            f"{label} ({size})" for label, size in group.sizes.items() if size < SMALL_GROUP and label not in _NO_GROUP
        ]
        if small:
            yield f"{group.column}: fewer than {SMALL_GROUP} patients in {', '.join(small)}: results for so few say little"


def _warn_column(column: ColumnSummary, patients: int) -> Iterable[str]:
    if patients and column.missing_percent == 100:
        yield f"{column.column}: no patient has a value"
    elif column.missing_percent > 50:
        yield f"{column.column}: {column.missing_percent:.0f}% of the values are missing"
    known = [level for level, count in (column.levels or {}).items() if count]
    one_number = column.minimum is not None and column.minimum == column.maximum
    if patients > 1 and (len(known) == 1 or one_number):
        yield f"{column.column}: every known value is the same"


def _lookalikes(frame: pd.DataFrame, manifest: BaseManifest) -> Iterable[str]:
    """Patients who agree with another in every column: in a study of many columns one person under two identifiers."""
    if len(manifest.features) < MANY_COLUMNS or any(isinstance(f, ImageFeature) for f in manifest.features):
        return
    plain = frame.reset_index(names="")  # a name that no column has
    rows = plain.drop_duplicates().duplicated(subset=list(frame.columns), keep=False).sum()
    if rows:
        yield (
            f"patients who agree with another in every column: {rows}. If that is one person under two identifiers, give one: "
            "privacy is counted by identifier"
        )


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
