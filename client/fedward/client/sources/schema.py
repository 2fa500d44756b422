"""The study's schema, as pandera checks it: types, bounds, levels, what may be missing, one row a patient.

It is derived from the manifest alone and run lazily, so that every failure is known at once. pandera's own exceptions hold
the whole table: they are taken apart here and never raised, chained or logged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from fedward.client.mapping import OUTCOME_LEVELS
from fedward.client.quality import Kind
from fedward.privacy.errors import InputError
from fedward.study.encoding import feature_columns
from fedward.study.manifest import BaseManifest, CategoricalFeature, Feature, ImageFeature

if TYPE_CHECKING:
    from pandera.pandas import Column, DataFrameSchema

PATIENT = "patient identifier"
"""The column of the patients; no study can name one so."""


class Failure(NamedTuple):
    """A cell of the frame that breaks the schema: `place` is its row, from 0."""

    column: str
    kind: Kind
    place: int


def schema_of(manifest: BaseManifest, *, one_row_a_patient: bool) -> DataFrameSchema:
    """The schema of `cells.translate`'s frame: exactly these columns. Every check bears the kind of problem that it finds."""
    import pandera.pandas as pa  # noqa: PLC0415 - only what reads data need wait for it

    columns = {
        PATIENT: pa.Column(object, nullable=False, unique=one_row_a_patient, report_duplicates="exclude_first"),
        manifest.outcome.column: pa.Column(
            object, pa.Check.isin(list(OUTCOME_LEVELS), error="unknown-outcome"), nullable=False
        ),
    }
    for feature in manifest.features:
        for column in feature_columns(feature):
            columns[column] = _column(feature, may_miss=manifest.may_miss)
    return pa.DataFrameSchema(columns, strict=True)


def _column(feature: Feature, *, may_miss: bool) -> Column:
    import pandera.pandas as pa  # noqa: PLC0415

    if isinstance(feature, CategoricalFeature):
        return pa.Column(object, pa.Check.isin(list(feature.levels), error="unknown-level"), nullable=may_miss)
    low, high = feature.bounds
    whole = isinstance(feature, ImageFeature)  # an image has all its pixels
    return pa.Column("float64", pa.Check.in_range(low, high, error="out-of-bounds"), nullable=may_miss and not whole)


def failures(frame: pd.DataFrame, schema: DataFrameSchema, manifest: BaseManifest) -> list[Failure]:
    """All cells that break the schema, by column.

    Raises:
        InputError: the frame has not the schema's columns and types, which is a fault of this program.
    """
    from pandera.errors import SchemaErrors  # noqa: PLC0415

    cases: pd.DataFrame | None = None
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
    if cases is None:
        return []
    return sorted(_failures(cases, manifest.outcome.column))


def _failures(cases: pd.DataFrame, outcome: str) -> Iterator[Failure]:
    for column, check, index in zip(cases["column"], cases["check"], cases["index"], strict=True):
        kind = _kind(str(column), str(check), outcome)
        if kind is None or index is None or pd.isna(index):
            raise InputError("the table does not have the form of the study's schema", got=str(check))
        yield Failure(str(column), kind, int(index))


def _kind(column: str, check: str, outcome: str) -> Kind | None:
    if check == "not_nullable":
        return "missing-patient" if column == PATIENT else "missing-outcome" if column == outcome else "missing-value"
    if check == "field_uniqueness":
        return "duplicate-patient"
    known: dict[str, Kind] = {
        "out-of-bounds": "out-of-bounds",
        "unknown-level": "unknown-level",
        "unknown-outcome": "unknown-outcome",
    }
    return known.get(check)
