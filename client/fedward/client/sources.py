"""From a hospital's CSV file to the table a study trains on: everything is checked, nothing is dropped silently.

The rules:

1. Structure comes first. A file that is no readable table, or lacks a column, is refused whatever `on_invalid` says.
2. So is a row without a patient, a patient with two rows where rows are patients, a value missing where the study
   allows none (an image's pixel among them), and a column most of whose values are invalid: that is a wrong mapping or
   unit, not bad data.
3. With `on_invalid = "refuse"` any other invalid value refuses the table. With `"clip"` a number is clipped to its
   bounds, an unreadable one or an unknown code becomes missing, a row without a known outcome is excluded; each is
   listed in the report.
4. A message names columns, rows and counts, never what a cell says: messages may travel further than data may. What
   cells say is in the `QualityReport`, which stays here. Nor is an exception that holds cells ever chained.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.client.mapping import OUTCOME_LEVELS, Mapping, check_fits, did_you_mean, parse_number
from fedward.client.quality import (
    LISTED,
    WHAT,
    Kind,
    Problem,
    ProblemCount,
    QualityReport,
    printable,
    summarise,
    write_report,
)
from fedward.privacy.errors import InputError
from fedward.study.manifest import BaseManifest, CategoricalFeature, ImageFeature, NumericFeature

MAX_TABLE_BYTES = 512_000_000
"""A table is read into memory whole; a larger file is refused before it is opened."""

SHOWN_ROWS = 10
SHOWN_NAMES = 30

_ALWAYS_REFUSED: frozenset[Kind] = frozenset({"missing-patient", "duplicate-patient", "missing-value"})
_BECOMES_MISSING: frozenset[Kind] = frozenset({"not-a-number", "unknown-level"})
_INVALID: frozenset[Kind] = _BECOMES_MISSING | {"out-of-bounds", "unknown-outcome"}
_DONE: dict[Kind, str] = {
    "out-of-bounds": "clipped to the bound",
    "not-a-number": "read as missing",
    "unknown-level": "read as missing",
    "missing-outcome": "row excluded",
    "unknown-outcome": "row excluded",
}
_REMEDY: dict[Kind, str] = {
    "missing-patient": "give each row a patient identifier",
    "duplicate-patient": 'keep one row per patient, or, if rows are encounters, set [source] rows = "encounters"',
    "missing-value": "complete the values, or take part in a study that allows missing ones",
    "missing-outcome": "complete the outcomes",
    "unknown-outcome": "map the outcome's codes to 0 and 1",
    "not-a-number": "correct the cells, or add the file's marks for missing values to the mapping",
    "out-of-bounds": "correct the cells, or the mapping's scale and offset where the file has another unit",
    "unknown-level": "correct the cells, or add the codes to the mapping's values",
}

T = TypeVar("T")


@dataclass(frozen=True)
class SiteTable:
    """A hospital's table in the study's columns.

    `frame` has one row per patient, or per encounter if the mapping says so, in the file's order. Its index "patient"
    holds the identifiers as str; numbers and an image's pixels (`<column>_0` …) are float64 with NaN for missing, levels
    are objects, str or None, and the outcome is int64, 0 or 1. Columns are the manifest's features in order, then the
    outcome.
    """

    frame: pd.DataFrame = field(repr=False)
    report: QualityReport


class DataRefusedError(InputError):
    """A table holds values that cannot be used. `report`, for this hospital's eyes only, lists each of them."""

    default_code = "data-refused"

    def __init__(self, what: str, report: QualityReport, *, expected: str | None = None, got: str, remedy: str) -> None:
        super().__init__(what, expected=expected, got=got, remedy=remedy)
        self.report = report


def read_site_table(
    csv_path: Path, mapping: Mapping, manifest: BaseManifest, *, report_to: Path | None = None
) -> SiteTable:
    """Read, translate and check a hospital's CSV file.

    Args:
        csv_path: the file, at most `MAX_TABLE_BYTES`.
        mapping: how its columns and codes become the study's.
        manifest: the study.
        report_to: where to write the quality report as JSON, be the table accepted or refused.

    Raises:
        InputError: the mapping does not fit the study, or the file is missing, empty, too large, not text in the
            mapping's encoding, no CSV, or lacks or repeats a column.
        DataRefusedError: values cannot be used; the message counts them by column, its `report` lists them.
    """
    check_fits(mapping, manifest)
    sheet = _read_sheet(csv_path, mapping, _wanted(mapping, manifest))
    findings = _Findings(sheet.rows)
    frame = _build_frame(sheet, mapping, manifest, findings)
    clip = mapping.source.on_invalid == "clip"
    refused = findings.refused(clip=clip) or frame.empty
    report = summarise(
        frame,
        manifest,
        refused=refused,
        rows=len(sheet.rows),
        blank_rows=sheet.blank,
        counts=findings.counts(),
        problems=findings.problems(refused=refused),
    )
    if report_to is not None:
        write_report(report, report_to)
    if refused:
        raise _refusal(csv_path, mapping, report, report_to, findings)
    return SiteTable(frame, report)


# ---- the file -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class _Sheet:
    """The file's wanted columns as stripped texts, all of `len(rows)`; `rows` are a spreadsheet's row numbers."""

    columns: dict[str, list[str]]
    rows: list[int]
    blank: int


def _wanted(mapping: Mapping, manifest: BaseManifest) -> dict[str, str]:
    """File column → what it is read for, in the study's words."""
    wanted = {mapping.source.patient_id: "the patient identifier"}
    for feature in manifest.features:
        origin = mapping.origin(feature.column)
        if isinstance(feature, ImageFeature):
            wanted |= {f"{origin}_{i}": f"{feature.column}_{i}" for i in range(feature.pixels)}
        else:
            wanted[origin] = feature.column
    wanted[mapping.origin(manifest.outcome.column)] = manifest.outcome.column
    return wanted


def _read_sheet(path: Path, mapping: Mapping, wanted: dict[str, str]) -> _Sheet:
    records = _records(path, _read_text(path, mapping.source.encoding), mapping.source.delimiter)
    filled = [(row, cells) for row, cells in enumerate(records, start=1) if any(cells)]
    if not filled:
        raise InputError(f"{path.name} is empty", expected="a line of column names and one row per patient")
    header = filled.pop(0)[1]
    _check_header(path, header, wanted, mapping.source.delimiter)
    if not filled:
        raise InputError(f"{path.name} has column names and no rows", expected="one row per patient")
    _check_widths(path, header, filled)
    places = {name: header.index(name) for name in wanted}
    return _Sheet(
        columns={name: [cells[place] for _, cells in filled] for name, place in places.items()},
        rows=[row for row, _ in filled],
        blank=len(records) - 1 - len(filled),
    )


def _read_text(path: Path, encoding: str) -> str:
    if not path.is_file():
        raise InputError(f"no data file at {path}", remedy="check the path, and [source] path of the mapping")
    flaw, data = "", b""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_TABLE_BYTES else b""
    except OSError as error:
        flaw = error.strerror or "an error of the system"
    if flaw:
        raise InputError(f"{path.name} cannot be read", got=flaw, remedy="give this account the right to read it")
    if size > MAX_TABLE_BYTES:
        raise InputError(f"{path.name} is too large", expected=f"at most {MAX_TABLE_BYTES} bytes", got=f"{size} bytes")
    try:
        # "utf-8-sig" is UTF-8 with or without the mark that spreadsheets put in front.
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        # The exception holds the whole file: keep a place, and raise where it is no longer being handled.
        flaw, text = f"a byte that is not {encoding} after {error.start} bytes", ""
    if flaw or "\0" in text:
        raise InputError(
            f"{path.name} is not {encoding} text",
            got=flaw or "binary data",
            remedy='export it as UTF-8, or set [source] encoding, such as "cp1252" for Western European Windows',
        )
    return text


def _records(path: Path, text: str, delimiter: str) -> list[list[str]]:
    """All lines of the CSV file as stripped cells; a blank line is an empty list."""
    flaw, records = "", []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            records.append([cell.strip() for cell in cells])
    except csv.Error as error:
        flaw = str(error)  # of the format only: the module quotes no cell
    if flaw:
        raise InputError(
            f"{path.name} is no CSV", got=f"after row {len(records)}: {flaw}", remedy="look for an unclosed quote there"
        )
    return records


def _check_header(path: Path, header: list[str], wanted: dict[str, str], delimiter: str) -> None:
    absent = [name for name in wanted if name not in header]
    if absent:
        raise _columns_missing(path, header, wanted, absent, delimiter)
    repeated = [name for name, count in Counter(header).items() if count > 1 and name]
    if repeated:
        raise InputError(
            f"{path.name} has several columns of one name",
            got=_some(repeated, SHOWN_NAMES),
            remedy="rename or remove all but one, so that it is clear which is meant",
        )


def _columns_missing(
    path: Path, header: list[str], wanted: dict[str, str], absent: list[str], delimiter: str
) -> InputError:
    """Names the file's columns only where its first line surely is column names: else it may be a patient."""
    genuine = 2 * len(absent) <= len(wanted)
    by_lower = {name.lower(): name for name in header}
    hints = []
    for name in absent[:SHOWN_NAMES]:
        same = by_lower.get(name.lower())
        hint = (
            did_you_mean(name, [printable(other) for other in header])
            if genuine
            else f', did you mean "{same}"?'
            if same
            else ""
        )
        hints.append(f'"{name}" (for {wanted[name]}{hint})')
    more = f" and {len(absent) - SHOWN_NAMES} more" if len(absent) > SHOWN_NAMES else ""
    other = max(",;\t|", key=lambda sign: sum(cell.count(sign) for cell in header))
    remedy = "correct `from` in the mapping, or the file's first line, which must be the column names"
    if other != delimiter and sum(cell.count(other) for cell in header) > 1:
        remedy += f"; the first line has several {other!r}: perhaps [source] delimiter is wrong"
    return InputError(
        f"{path.name} lacks {len(absent)} of {len(wanted)} columns",
        expected=", ".join(hints) + more,
        got=_some(header, SHOWN_NAMES) if genuine else f"a first line of {len(header)} cells",
        remedy=remedy,
    )


def _check_widths(path: Path, header: list[str], filled: list[tuple[int, list[str]]]) -> None:
    uneven = [row for row, cells in filled if len(cells) != len(header)]
    if uneven:
        raise InputError(
            f"{path.name} has {len(uneven)} rows with more or fewer cells than column names",
            expected=f"{len(header)} cells in each",
            got=_rows(uneven, len(uneven)),
            remedy="quote cells that hold the delimiter, or check [source] delimiter",
        )


# ---- the cells ------------------------------------------------------------------------------------------------------


class _Cell(NamedTuple, Generic[T]):
    """What one text means. `value` is what "clip" makes of it, should it be wrong."""

    value: T
    kind: Kind | None = None
    missing: bool = False


class _Findings:
    """What is wrong with the cells, collected over all columns before anything is decided."""

    def __init__(self, rows: list[int]) -> None:
        self._rows = rows
        self._found: dict[tuple[str, Kind], list[tuple[int, str]]] = {}
        self._count: Counter[tuple[str, Kind]] = Counter()
        self.fatal: set[tuple[str, Kind]] = set()

    def add(self, column: str, kind: Kind, index: int, text: str) -> None:
        """Note a cell of the row at `index`; only the first `LISTED` of a column and kind keep their text."""
        key = (column, kind)
        self._count[key] += 1
        listed = self._found.setdefault(key, [])
        if len(listed) < LISTED:
            listed.append((self._rows[index], text))
        if kind in _ALWAYS_REFUSED:
            self.fatal.add(key)

    def judge(self, column: str, present: int, *, may_miss: bool) -> None:
        """After a column: invalid values are fatal if they are most of it, or would become missing and must not."""
        found = {kind for kind in _INVALID if self._count[column, kind]}
        if 2 * sum(self._count[column, kind] for kind in found) <= present:
            found &= frozenset() if may_miss else _BECOMES_MISSING
        self.fatal |= {(column, kind) for kind in found}

    def refused(self, *, clip: bool) -> bool:
        return bool(self.fatal if clip else self._found)

    def counts(self) -> list[ProblemCount]:
        return [
            ProblemCount(column, kind, self._count[column, kind], tuple(row for row, _ in found))
            for (column, kind), found in self._found.items()
        ]

    def problems(self, *, refused: bool) -> list[Problem]:
        """One by one, in the file's order."""
        listed = [
            Problem(row, column, kind, text, "table refused" if refused else _DONE[kind])
            for (column, kind), found in self._found.items()
            for row, text in found
        ]
        return sorted(listed, key=lambda problem: problem.row)


def _build_frame(sheet: _Sheet, mapping: Mapping, manifest: BaseManifest, findings: _Findings) -> pd.DataFrame:
    """The frame that `SiteTable` describes, invalid cells as "clip" makes them, rows without an outcome left out."""
    index = pd.Index(_patients(sheet, mapping, findings), dtype=object, name="patient")
    data: dict[str, npt.NDArray[np.float64] | pd.Series] = {}
    may_miss = manifest.may_miss
    for feature in manifest.features:
        origin = mapping.origin(feature.column)
        if isinstance(feature, CategoricalFeature):
            levels = _level_reader(mapping, feature.column, feature.levels, may_miss=may_miss)
            texts = _read(sheet.columns[origin], levels, feature.column, findings, may_miss=may_miss)
            # Explicitly object: pandas 3 would infer its own string type, and turn None into NaN.
            data[feature.column] = pd.Series(texts, index=index, dtype=object)
            continue
        image = isinstance(feature, ImageFeature)
        parts = [f"_{i}" for i in range(feature.pixels)] if isinstance(feature, ImageFeature) else [""]
        numbers = _number_reader(mapping, feature, may_miss=may_miss and not image)
        for part in parts:
            cells = sheet.columns[origin + part]
            values = _read(cells, numbers, feature.column + part, findings, may_miss=may_miss and not image)
            data[feature.column + part] = np.array(values, dtype=np.float64)
    outcome = _outcomes(sheet, mapping, manifest.outcome.column, findings)
    data[manifest.outcome.column] = pd.Series(outcome, index=index, dtype="int64")
    frame = pd.DataFrame(data, index=index)
    return frame.loc[np.array(outcome) >= 0]


def _patients(sheet: _Sheet, mapping: Mapping, findings: _Findings) -> list[str]:
    column = mapping.source.patient_id
    ids = sheet.columns[column]
    marks = {"", *mapping.source.missing}
    seen: set[str] = set()
    for index, patient in enumerate(ids):
        if patient in marks:
            findings.add(column, "missing-patient", index, patient)
        elif patient in seen and mapping.source.rows == "patients":
            findings.add(column, "duplicate-patient", index, patient)
        seen.add(patient)
    return ids


def _read(
    cells: list[str], reader: Callable[[str], _Cell[T]], column: str, findings: _Findings, *, may_miss: bool
) -> list[T]:
    """A column's values. Each distinct text is read once: clinical columns have few."""
    meaning = {text: reader(text) for text in set(cells)}
    present = 0
    values = []
    for index, text in enumerate(cells):
        cell = meaning[text]
        present += not cell.missing
        if cell.kind is not None:
            findings.add(column, cell.kind, index, text)
        values.append(cell.value)
    findings.judge(column, present, may_miss=may_miss)
    return values


def _number_reader(
    mapping: Mapping, feature: NumericFeature | ImageFeature, *, may_miss: bool
) -> Callable[[str], _Cell[float]]:
    column, decimal = mapping.column(feature.column), mapping.source.decimal
    marks = mapping.marks(feature.column)
    # A mark that is a number means that number however it is written: -9 is also -9.0.
    numbers = {parse_number(mark, decimal) for mark in marks} - {None}
    low, high = feature.bounds
    absent: _Cell[float] = _Cell(np.nan, None if may_miss else "missing-value", missing=True)

    def read(text: str) -> _Cell[float]:
        number = parse_number(text, decimal)
        if text in marks or (number is not None and number in numbers):
            return absent
        value = np.nan if number is None else column.convert(number)
        if not np.isfinite(value):
            return _Cell(np.nan, "not-a-number")
        if not low <= value <= high:
            return _Cell(min(max(value, low), high), "out-of-bounds")
        return _Cell(value)

    return read


def _level_reader(
    mapping: Mapping, name: str, levels: tuple[str, ...], *, may_miss: bool
) -> Callable[[str], _Cell[str | None]]:
    marks = mapping.marks(name)
    codes = mapping.column(name).values or {level: level for level in levels}
    absent: _Cell[str | None] = _Cell(None, None if may_miss else "missing-value", missing=True)

    def read(text: str) -> _Cell[str | None]:
        if text in marks:
            return absent
        level = codes.get(text)
        return _Cell(level, "unknown-level" if level is None else None)

    return read


def _outcomes(sheet: _Sheet, mapping: Mapping, name: str, findings: _Findings) -> list[int]:
    """0 or 1 per row, and -1 where the outcome is missing or unknown."""
    marks = mapping.marks(name)
    codes = mapping.column(name).values or {level: level for level in OUTCOME_LEVELS}

    def read(text: str) -> _Cell[int]:
        if text in marks:
            return _Cell(-1, "missing-outcome", missing=True)
        level = codes.get(text)
        return _Cell(-1, "unknown-outcome") if level is None else _Cell(int(level))

    return _read(sheet.columns[mapping.origin(name)], read, name, findings, may_miss=True)


# ---- the refusal ----------------------------------------------------------------------------------------------------


def _refusal(
    path: Path, mapping: Mapping, report: QualityReport, report_to: Path | None, findings: _Findings
) -> DataRefusedError:
    """What is wrong, by column and row. With "clip", only what even clipping could not mend."""
    clip = mapping.source.on_invalid == "clip"
    counts = [c for c in report.counts if not clip or not findings.fatal or (c.column, c.kind) in findings.fatal]
    kinds = list(dict.fromkeys(count.kind for count in counts))
    remedies = [_REMEDY[kind] for kind in kinds]
    remedies += [hint for count in counts if (hint := _decimal_hint(count, mapping, report))]
    if not clip and not findings.fatal:
        remedies.append('or set [source] on_invalid = "clip", which corrects and lists them')
    where = f"in {report_to}" if report_to is not None else "in this error's `report`"
    shown = [f"{c.column}: {c.count} × {WHAT[c.kind]}, {_rows(c.rows, c.count)}" for c in counts[:SHOWN_NAMES]]
    if len(counts) > SHOWN_NAMES:
        shown.append(f"and {len(counts) - SHOWN_NAMES} more")
    return DataRefusedError(
        f"{path.name} holds {sum(c.count for c in counts)} values that cannot be used",
        report,
        expected="none, and at least one row with a known outcome" if report.patients == 0 else None,
        got="; ".join(shown),
        remedy="; ".join(remedies) + f". Each value is listed {where}, which is for this hospital only",
    )


def _decimal_hint(count: ProblemCount, mapping: Mapping, report: QualityReport) -> str:
    """A hint where all unreadable numbers of a column would be numbers with the other decimal mark."""
    if count.kind != "not-a-number":
        return ""
    other = "." if mapping.source.decimal == "," else ","
    found = [p.found for p in report.problems if p.column == count.column and p.kind == count.kind]
    if any(parse_number(text, other) is None for text in found):
        return ""
    return f'{count.column} looks like numbers with another decimal mark: try [source] decimal = "{other}"'


def _rows(rows: Iterable[int], count: int) -> str:
    """`rows 2, 5 and 12 more`; a spreadsheet's numbers, the line of column names being row 1."""
    first = list(rows)[:SHOWN_ROWS]
    more = f" and {count - len(first)} more" if count > len(first) else ""
    return f"row{'s' if count > 1 else ''} " + ", ".join(map(str, first)) + more


def _some(names: list[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f'"{printable(name)}"' for name in names[:most]) + more
