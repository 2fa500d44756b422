"""From texts to values: what a mapping makes of a cell, and nothing of what the study allows.

The parser knows three ways in which a cell says nothing: it is no number, it is a code that the mapping does not
know, or it is in another unit than the mapping says. Whether a value is within bounds, a level of the study,
allowed to be missing or a patient's second row is the schema's business (`sources.schema`), once for all sources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedward.client.mapping import Mapping, parse_number
from fedward.client.quality import Kind
from fedward.client.sources.findings import Findings
from fedward.client.sources.schema import PATIENT
from fedward.client.sources.sheet import Sheet
from fedward.study.encoding import feature_columns
from fedward.study.manifest import BaseManifest, CategoricalFeature, ImageFeature, NumericFeature

T = TypeVar("T")


class _Cell(NamedTuple, Generic[T]):
    """What one text means; a cell that says nothing has a value that is missing."""

    value: T
    kind: Kind | None = None


def wanted(mapping: Mapping, manifest: BaseManifest) -> dict[str, str]:
    """Source column → what it is read for, in the study's words."""
    found = {mapping.source.patient_id: "the patient identifier"}
    for feature in manifest.features:
        origin = mapping.origin(feature.column)
        for column in feature_columns(feature):
            found[origin + column.removeprefix(feature.column)] = column
    found[mapping.origin(manifest.outcome.column)] = manifest.outcome.column
    return found


def translate(sheet: Sheet, mapping: Mapping, manifest: BaseManifest, findings: Findings) -> pd.DataFrame:
    """The sheet in the study's columns, unchecked: a row a row, with the patient in column `schema.PATIENT`.

    Numbers are float64, NaN for missing; levels, the outcome's "0" and "1" and patients are objects, None for missing.
    """
    data: dict[str, npt.NDArray[np.float64] | pd.Series] = {}
    marks = {"", *mapping.source.missing}
    cells = sheet.columns[mapping.source.patient_id]
    data[PATIENT] = pd.Series([None if cell in marks else cell for cell in cells], dtype=object)
    for feature in manifest.features:
        for column in feature_columns(feature):
            origin = mapping.origin(feature.column) + column.removeprefix(feature.column)
            flawed = {flaw.place for flaw in sheet.flaws if flaw.column == origin}
            for flaw in (flaw for flaw in sheet.flaws if flaw.column == origin):
                findings.add(column, flaw.kind, flaw.place, flaw.found)
            if isinstance(feature, CategoricalFeature):
                reader = _level_reader(mapping, feature.column, "unknown-level")
                # Explicitly object: pandas 3 would infer its own string type, and turn None into NaN.
                levels = _read(sheet.columns[origin], reader, column, findings, flawed)
                data[column] = pd.Series(levels, dtype=object)
            else:
                numbers = _read(sheet.columns[origin], _number_reader(mapping, feature), column, findings, flawed)
                data[column] = np.array(numbers, dtype=np.float64)
    name = manifest.outcome.column
    outcomes = _read(
        sheet.columns[mapping.origin(name)], _level_reader(mapping, name, "unknown-outcome"), name, findings, set()
    )
    data[name] = pd.Series(outcomes, dtype=object)
    return pd.DataFrame(data)


def _read(
    cells: list[str], reader: Callable[[str], _Cell[T]], column: str, findings: Findings, flawed: set[int]
) -> list[T]:
    """A column's values. Each distinct text is read once: clinical columns have few."""
    meaning = {text: reader(text) for text in set(cells)}
    wrong = {text for text, cell in meaning.items() if cell.kind is not None}
    if wrong:
        for index, text in enumerate(cells):
            kind = meaning[text].kind
            if kind is not None and index not in flawed:
                findings.add(column, kind, index, text)
    return [meaning[text].value for text in cells]


def _number_reader(mapping: Mapping, feature: NumericFeature | ImageFeature) -> Callable[[str], _Cell[float]]:
    column, decimal = mapping.column(feature.column), mapping.source.decimal
    marks = mapping.marks(feature.column)
    # A mark that is a number means that number however it is written: -9 is also -9.0.
    numbers = {parse_number(mark, decimal) for mark in marks} - {None}

    def read(text: str) -> _Cell[float]:
        number = parse_number(text, decimal)
        if text in marks or (number is not None and number in numbers):
            return _Cell(np.nan)
        value = np.nan if number is None else column.convert(number)
        return _Cell(value) if np.isfinite(value) else _Cell(np.nan, "not-a-number")

    return read


def _level_reader(mapping: Mapping, name: str, unknown: Kind) -> Callable[[str], _Cell[str | None]]:
    """Codes become levels. Without codes the source has the study's own levels, and the schema says which those are."""
    marks, codes = mapping.marks(name), mapping.column(name).values

    def read(text: str) -> _Cell[str | None]:
        if text in marks:
            return _Cell(None)
        if not codes:
            return _Cell(text)
        level = codes.get(text)
        return _Cell(level, unknown if level is None else None)

    return read
