"""The quality report of a hospital's table: what a data manager looks at before a study. It never leaves the hospital.

It holds what exception messages must not: the values that were wrong, and where. So nothing here shows a value in its
`repr`, which tracebacks and logs print; `lines()` and `to_json()` do, and are for the hospital's own eyes.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from fedward.privacy.errors import InputError
from fedward.study.manifest import BaseManifest, CategoricalFeature, Feature, Group, ImageFeature

Kind = Literal[
    "missing-patient",
    "duplicate-patient",
    "missing-outcome",
    "unknown-outcome",
    "not-a-number",
    "out-of-bounds",
    "unknown-level",
    "missing-value",
]
"""What can be wrong with one cell."""

WHAT: dict[Kind, str] = {
    "missing-patient": "no patient identifier",
    "duplicate-patient": "the patient has an earlier row",
    "missing-outcome": "no outcome",
    "unknown-outcome": "an outcome that the mapping does not know",
    "not-a-number": "not a number",
    "out-of-bounds": "outside the study's bounds",
    "unknown-level": "a code that the mapping does not know",
    "missing-value": "missing where the study allows none",
}
LISTED = 1000
"""Problems listed one by one, per column and kind; the counts are always complete."""

MISSING_GROUP = "missing"
OUTSIDE_GROUP = "outside every band"


@dataclass(frozen=True, repr=False)
class Problem:
    """One wrong cell. `row` is the spreadsheet's: the line of column names is row 1. `found` is what the cell says."""

    row: int
    column: str
    kind: Kind
    found: str
    done: str
    """What became of it, such as "clipped to a bound"."""

    @property
    def what(self) -> str:
        return WHAT[self.kind]


@dataclass(frozen=True, repr=False)
class ProblemCount:
    column: str
    kind: Kind
    count: int
    rows: tuple[int, ...]
    """The first rows, at most `LISTED`."""


@dataclass(frozen=True, repr=False)
class ColumnSummary:
    """One study column; an image's pixels are taken together. Minimum and maximum are None where nothing is known."""

    column: str
    type: str
    missing: int
    missing_percent: float
    minimum: float | None = None
    maximum: float | None = None
    bounds: tuple[float, float] | None = None
    levels: dict[str, int] | None = None


@dataclass(frozen=True, repr=False)
class GroupSummary:
    """Rows of each group that fairness compares; sizes add up to all of them."""

    column: str
    sizes: dict[str, int]


@dataclass(frozen=True, repr=False)
class QualityReport:
    """What a table holds. Local to the hospital: it has counts of few patients and, in `problems`, values."""

    study: str
    refused: bool
    """Whether the table was refused; the figures are then as clipping would have made them."""
    rows: int
    blank_rows: int
    patients: int
    encounters: int
    """Rows that train or are held out; as many as patients where each has one."""
    excluded: int
    outcome: str
    with_outcome: int
    columns: tuple[ColumnSummary, ...]
    groups: tuple[GroupSummary, ...]
    counts: tuple[ProblemCount, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    @property
    def prevalence(self) -> float | None:
        """Share of the rows with the outcome, or None without rows."""
        return self.with_outcome / self.encounters if self.encounters else None

    @property
    def total_problems(self) -> int:
        return sum(count.count for count in self.counts)

    def __repr__(self) -> str:
        return f"QualityReport(study={self.study!r}, rows={self.rows}, problems={self.total_problems})"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data (finite numbers, strings, lists, objects, null)."""
        return {
            "format": 1,
            "study": self.study,
            "refused": self.refused,
            "rows": self.rows,
            "blank_rows": self.blank_rows,
            "patients": self.patients,
            "encounters": self.encounters,
            "excluded": self.excluded,
            "outcome": {"column": self.outcome, "with": self.with_outcome, "prevalence": self.prevalence},
            "columns": [asdict(column) | {"bounds": _as_list(column.bounds)} for column in self.columns],
            "groups": [asdict(group) for group in self.groups],
            "problem_counts": [asdict(count) | {"rows": list(count.rows)} for count in self.counts],
            "problems": [asdict(problem) | {"what": problem.what} for problem in self.problems],
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """The report as plain text, one line a string, without colours or markup."""
        return [*self._head(), *self._column_lines(), *self._group_lines(), *self._problem_lines(), *self._warnings()]

    def _head(self) -> Iterable[str]:
        yield f"Data quality for study {self.study}. For this hospital only: it may show patients' values."
        if self.refused:
            yield "REFUSED: see the problems below. The figures are as clipping would make them."
        blank = f" (and {self.blank_rows} blank, skipped)" if self.blank_rows else ""
        several = self.encounters != self.patients
        held = f"{self.patients}, with {self.encounters} encounters" if several else f"{self.patients}"
        yield f"Rows of data: {self.rows}{blank}. Patients: {held}. Rows excluded: {self.excluded}."
        of = "encounters" if several else "patients"
        share = "unknown" if self.prevalence is None else f"{self.with_outcome} {of} ({self.prevalence:.1%})"
        yield f"Outcome {self.outcome}: {share}."

    def _column_lines(self) -> Iterable[str]:
        yield ""
        head = ("column", "type", "missing", "%", "lowest", "highest", "bounds or patients per level")
        yield from _table([head, *(_column_row(column) for column in self.columns)])

    def _group_lines(self) -> Iterable[str]:
        if self.groups:
            yield ""
            yield "Groups that the study compares:"
        for group in self.groups:
            yield f"  {group.column}: " + ", ".join(f"{label} {size}" for label, size in group.sizes.items())

    def _problem_lines(self) -> Iterable[str]:
        yield ""
        yield f"Problems: {self.total_problems}"
        for count in self.counts:
            yield f"  {count.column}: {count.count} × {WHAT[count.kind]}"
        if self.problems:
            more = "" if len(self.problems) == self.total_problems else f"; {len(self.problems)} of them are listed"
            yield f"Each of them (row 1 is the line of column names{more}):"
            head = ("row", "column", "what", "the file says", "so it was")
            rows = [(str(p.row), p.column, p.what, printable(p.found), p.done) for p in self.problems]
            yield from _table([head, *rows])

    def _warnings(self) -> Iterable[str]:
        if self.warnings:
            yield ""
        for warning in self.warnings:
            yield f"Warning: {warning}"


def write_report(report: QualityReport, path: Path) -> None:
    """Write the report as JSON, readable by its owner only: it may hold patients' values.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    flaw = ""
    try:
        # An older file would keep its own, perhaps wider, permissions.
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        flaw = error.strerror or "an error of the system"
    if flaw:
        raise InputError(f"cannot write the quality report to {path}", got=flaw, remedy="name a folder that can be")


def summarise(
    frame: pd.DataFrame,
    manifest: BaseManifest,
    *,
    refused: bool,
    rows: int,
    blank_rows: int,
    counts: Sequence[ProblemCount],
    problems: Sequence[Problem],
) -> QualityReport:
    """The report of a frame as `SiteTable` has it; `rows` of the file held data, the frame's are the ones kept."""
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
        excluded=rows - len(frame),
        outcome=manifest.outcome.column,
        with_outcome=with_outcome,
        columns=columns,
        groups=groups,
        counts=tuple(counts),
        problems=tuple(problems),
        warnings=(),
    )
    return replace(report, warnings=tuple(_warn(report, manifest)))


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


def _warn_column(column: ColumnSummary, patients: int) -> Iterable[str]:
    if patients and column.missing_percent == 100:
        yield f"{column.column}: no patient has a value"
    elif column.missing_percent > 50:
        yield f"{column.column}: {column.missing_percent:.0f}% of the values are missing"
    known = [level for level, count in (column.levels or {}).items() if count]
    one_number = column.minimum is not None and column.minimum == column.maximum
    if patients > 1 and (len(known) == 1 or one_number):
        yield f"{column.column}: every known value is the same"


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _as_list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)


def _column_row(column: ColumnSummary) -> tuple[str, ...]:
    if column.bounds is None:
        last = ", ".join(f"{level} {count}" for level, count in (column.levels or {}).items())
    else:
        last = f"{_number(column.bounds[0])} to {_number(column.bounds[1])}"
    share = f"{column.missing_percent:.1f}"
    ends = (_number(column.minimum), _number(column.maximum))
    return (column.column, column.type, str(column.missing), share, *ends, last)


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:g}"


def printable(text: str) -> str:
    """A cell as one safe piece of a line: control characters of a file must not drive the reader's terminal."""
    safe = "".join(sign if sign.isprintable() else "�" for sign in text)
    return safe if len(safe) <= 40 else safe[:39] + "…"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    """Rows as aligned lines, two spaces between columns, indented by two."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
