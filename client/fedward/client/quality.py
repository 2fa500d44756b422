"""The quality report of a hospital's table: what a data manager looks at before a study. It never leaves the hospital.

It holds what exception messages must not: the values that were wrong, and where. So nothing here shows a value in its
`repr`, which tracebacks and logs print; `lines()` and `to_json()` do, and are for the hospital's own eyes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from fedward.client.drift import Drift

Kind = Literal[
    "missing-patient",
    "duplicate-patient",
    "missing-outcome",
    "unknown-outcome",
    "not-a-number",
    "out-of-bounds",
    "unknown-level",
    "missing-value",
    "other-unit",
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
    "other-unit": "in another unit than the mapping says",
}
REMEDY: dict[Kind, str] = {
    "missing-patient": "give each row a patient identifier",
    "duplicate-patient": 'keep one row per patient, or, if rows are encounters, set [source] rows = "encounters"',
    "missing-value": "complete the values, or take part in a study that allows missing ones",
    "missing-outcome": "complete the outcomes",
    "unknown-outcome": "map the outcome's codes to 0 and 1",
    "not-a-number": "correct the cells, or add the source's marks for missing values to the mapping",
    "other-unit": "correct the unit of the mapping, or add the others to its `units`, each with its factor",
    "out-of-bounds": "correct the cells, or the mapping's scale and offset where the source has another unit",
    "unknown-level": "correct the cells, or add the codes to the mapping's values",
}
"""What a data manager does about it."""
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
    unit: str = ""
    median: float | None = None


@dataclass(frozen=True, repr=False)
class GroupSummary:
    """Rows of each group that fairness compares; sizes add up to all of them."""

    column: str
    sizes: dict[str, int]


@dataclass(frozen=True, repr=False)
class QualityReport:
    """What a table holds. Local to the hospital: it has counts of few patients and, in `problems`, values."""

    COLUMN_HEAD: ClassVar[tuple[str, ...]] = (
        "column", "type", "missing", "%", "lowest", "middle", "highest", "bounds or patients per level",
    )  # fmt: skip

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
    source: str = ""
    numbering: str = "row 1 is the line of column names"
    """What a row's number is."""
    opted_out: int = 0
    """Rows of patients on the exclusion list, left out before anything of them was checked."""
    drift: Drift | None = None
    """What changed since the last registration, if there was one."""

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
            "source": self.source,
            "numbering": self.numbering,
            "opted_out": self.opted_out,
            "drift": None if self.drift is None else asdict(self.drift),
        }

    def lines(self) -> list[str]:
        """The report as plain text, one line a string, without colours or markup."""
        parts = (
            self._top,
            self._column_lines,
            self._group_lines,
            self._problem_lines,
            self._drift_lines,
            self._warnings,
        )
        return [line for part in parts for line in part()]

    def _top(self) -> Iterable[str]:
        yield f"Data quality for study {self.study}. For this hospital only: it may show patients' values."
        yield from self.head()

    def head(self) -> Iterable[str]:
        """What it comes to, in sentences."""
        if self.refused:
            yield "REFUSED: see the problems below. The figures are as clipping would make them."
        blank = f" (and {self.blank_rows} blank, skipped)" if self.blank_rows else ""
        several = self.encounters != self.patients
        held = f"{self.patients}, with {self.encounters} encounters" if several else f"{self.patients}"
        yield f"Rows of data: {self.rows}{blank}. Patients: {held}. Rows excluded: {self.excluded}."
        of = "encounters" if several else "patients"
        share = "unknown" if self.prevalence is None else f"{self.with_outcome} {of} ({self.prevalence:.1%})"
        yield f"Outcome {self.outcome}: {share}."
        if self.opted_out:
            yield f"Left out, for their patients are on the exclusion list: {self.opted_out} rows."

    def _column_lines(self) -> Iterable[str]:
        yield ""
        yield from _table([self.COLUMN_HEAD, *self.column_rows()])

    def column_rows(self) -> Iterable[tuple[str, ...]]:
        """A row a column, under `COLUMN_HEAD`."""
        return (_column_row(column) for column in self.columns)

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
            yield f"  {count.column}: {count.count} × {WHAT[count.kind]}. To fix it: {REMEDY[count.kind]}."
        if self.problems:
            more = "" if len(self.problems) == self.total_problems else f"; {len(self.problems)} of them are listed"
            yield f"Each of them ({self.numbering}{more}):"
            head = ("row", "column", "what", "the file says", "so it was")
            rows = [(str(p.row), p.column, p.what, printable(p.found), p.done) for p in self.problems]
            yield from _table([head, *rows])

    def _drift_lines(self) -> Iterable[str]:
        if self.drift is not None:
            yield ""
            yield from self.drift.lines()

    def _warnings(self) -> Iterable[str]:
        if self.warnings:
            yield ""
        for warning in self.warnings:
            yield f"Warning: {warning}"


def _as_list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)


def _column_row(column: ColumnSummary) -> tuple[str, ...]:
    if column.bounds is None:
        last = ", ".join(f"{level} {count}" for level, count in (column.levels or {}).items())
    else:
        last = f"{_number(column.bounds[0])} to {_number(column.bounds[1])} {column.unit}".rstrip()
    share = f"{column.missing_percent:.1f}"
    ends = (_number(column.minimum), _number(column.median), _number(column.maximum))
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
