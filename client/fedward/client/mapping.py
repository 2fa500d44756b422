"""The mapping: how a hospital's own export becomes the study's columns. A TOML file that the hospital writes.

Nothing of it is guessed and nothing of it leaves the hospital. `Mapping` checks itself; `check_fits` holds it against
a study's manifest. Messages name fields and columns of the mapping; a mapping holds codes, never patients' records.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from fedward.client.mapping_sources import FhirSource, SqlSource
from fedward.privacy.canonical import canonical_json
from fedward.privacy.errors import InputError
from fedward.study.fields import Finite, Part
from fedward.study.manifest import BaseManifest, CategoricalFeature, Feature, explain, read_text

OUTCOME_LEVELS = ("0", "1")
"""What an outcome's codes map to: 1 has the outcome, 0 has not."""

_POINT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_COMMA = re.compile(r"[+-]?([0-9]+(,[0-9]*)?|,[0-9]+)([eE][+-]?[0-9]{1,3})?")
_LONGEST_NUMBER = 64

Mark = Annotated[str, Field(max_length=64)]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]


def parse_number(text: str, decimal: str = ".") -> Decimal | None:
    """The number a cell holds, or None: `inf`, `nan`, `1_000`, `1.234,5` and words are no numbers.

    `decimal` is the mark between units and tenths. Nothing is raised, so that no exception can carry a cell.
    """
    if len(text) > _LONGEST_NUMBER or (_COMMA if decimal == "," else _POINT).fullmatch(text) is None:
        return None
    return Decimal(text.replace(",", "."))


class Source(Part):
    """Where the data is, how it is written, and what to do with values that cannot be right."""

    kind: Literal["csv", "parquet", "sql", "fhir"] = "csv"
    path: Annotated[str, Field(min_length=1)] | None = None
    """The file, for FHIR also a folder of files, relative to the mapping's folder."""
    delimiter: Literal[",", ";", "\t", "|"] = ","
    encoding: Literal["utf-8", "cp1250", "cp1252", "iso-8859-1", "iso-8859-2", "iso-8859-15", "utf-16"] = "utf-8"
    decimal: Literal[".", ","] = "."
    patient_id: ColumnName
    """The column that names the patient; for FHIR "id", or the system of the patients' identifier to take."""
    rows: Literal["patients", "encounters"] = "patients"
    """Whether each row is a patient, or an encounter: then several rows of one patient are one patient's, who has one loss
    (their mean), one clipped gradient and, in evaluation, one score, that of the file's last row."""
    missing: tuple[Mark, ...] = ()
    """Marks for a missing value, in every column. An empty cell is always one."""
    on_invalid: Literal["refuse", "clip"] = "refuse"
    sql: SqlSource | None = None
    fhir: FhirSource | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Source:
        for name, part in (("sql", self.sql), ("fhir", self.fhir)):
            if (part is not None) != (self.kind == name):
                raise ValueError(f'kind "{name}" and a table [source.{name}] belong together')
        if self.kind == "sql" and self.path is not None:
            raise ValueError("path is for files, and a database has a url")
        if self.kind != "csv" and (self.delimiter, self.encoding, self.decimal) != (",", "utf-8", "."):
            raise ValueError("delimiter, encoding and decimal are for CSV files")
        if self.rows == "encounters" and self.kind == "fhir":
            raise ValueError("FHIR resources are gathered by patient: leave out rows")
        if self.rows == "encounters" and self.sql is not None and not self.sql.ordered:
            raise ValueError("encounters of a database need a query with ORDER BY: the last of a patient is scored")
        return self


class ColumnMapping(Part):
    """One study column: the file's column, its codes, and for a number `value = file's number × scale + offset`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    origin: ColumnName | None = Field(default=None, alias="from")
    """The file's column; left out, it has the study column's name."""
    values: dict[str, str] = Field(default_factory=dict)
    """Code in the file → level of the study. Left out, the file already uses the study's levels."""
    missing: tuple[Mark, ...] = ()
    scale: Finite = 1.0
    offset: Finite = 0.0
    digits: Annotated[int, Field(ge=0, le=12)] | None = None
    """Decimal places kept after scale and offset: undoes the rounding of a unit's conversion."""

    @field_validator("scale")
    @classmethod
    def _not_zero(cls, scale: float) -> float:
        if scale == 0:
            raise ValueError("a scale of 0 would make every patient equal")
        return scale

    @field_validator("values")
    @classmethod
    def _stripped(cls, values: dict[str, str]) -> dict[str, str]:
        spaced = [code for code in values if code != code.strip() or not code]
        if spaced:
            raise ValueError(f"codes are compared without spaces around them and are never empty, got {spaced}")
        return values

    def convert(self, number: Decimal) -> float:
        """The file's number in the study's unit. Decimal arithmetic: 0.23 × 10 is 2.3. May overflow to infinity."""
        value = float(number * Decimal(repr(self.scale)) + Decimal(repr(self.offset)))
        if self.digits is not None:
            value = round(value, self.digits)
        return value + 0.0  # -0.0 becomes 0.0

    @property
    def converts(self) -> bool:
        return self.scale != 1.0 or self.offset != 0.0 or self.digits is not None


class Mapping(Part):
    """A hospital's mapping: its file, and one entry per study column whose name or codes differ."""

    source: Source
    columns: dict[str, ColumnMapping] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _marks_are_no_codes(self) -> Mapping:
        for name, column in self.columns.items():
            both = sorted(set(column.values) & set(self.source.missing + column.missing))
            if both:
                raise ValueError(f"columns.{name}: {both} cannot be a code and a mark for missing")
        return self

    def column(self, name: str) -> ColumnMapping:
        """The entry of a study column; without one, the file has the study's own name and levels."""
        return self.columns.get(name, ColumnMapping())

    def origin(self, name: str) -> str:
        """The file's column for a study column."""
        return self.column(name).origin or name

    def marks(self, name: str) -> frozenset[str]:
        """Texts that mean missing in a study column, the empty cell among them."""
        return frozenset({"", *self.source.missing, *self.column(name).missing})


def load_mapping(path: Path) -> Mapping:
    """Read a mapping's TOML file.

    Raises:
        InputError: the file is missing, too large, not TOML or not a mapping; the message names each field.
    """
    text = read_text(path, "mapping")
    flaw = ""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        flaw = str(error)
    if flaw:
        raise InputError(f"{path.name} is not TOML", expected="a mapping", got=flaw, remedy="correct that line")
    try:
        # JSON arrays come as lists, which strict tuples refuse; pydantic's own JSON mode knows the difference.
        return Mapping.model_validate_json(canonical_json(_without_dates(data)))
    except ValidationError as error:
        flaw = explain(error)
    raise InputError(f"{path.name} is not a valid mapping", got=flaw, remedy="correct the named fields")


def _without_dates(value: Any) -> Any:
    """TOML's own dates as texts, which JSON has and dates are parsed from."""
    if isinstance(value, dict):
        return {name: _without_dates(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_dates(part) for part in value]
    return value.isoformat() if isinstance(value, date | time) else value


def table_path(mapping: Mapping, mapping_path: Path) -> Path:
    """The file that a mapping names, seen from the mapping's folder.

    Raises:
        InputError: the mapping names none.
    """
    if mapping.source.path is None:
        raise InputError(
            f"{mapping_path.name} names no file", expected="[source] path", remedy="add it, or name the file"
        )
    return mapping_path.parent / mapping.source.path


def did_you_mean(name: str, known: list[str]) -> str:
    """`, did you mean "x"?` for the closest known name, whatever its case, or nothing."""
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f', did you mean "{by_lower[close[0]]}"?' if close else ""


def check_fits(mapping: Mapping, manifest: BaseManifest) -> None:
    """Hold a mapping against a study, before any data is read.

    Raises:
        InputError: a mapped column is none of the study's, a level is none of the column's, a field makes no sense for
            the column's type, or the patient's identifier or the outcome would become a feature; all in one message.
    """
    findings = list(_findings(mapping, manifest))
    if findings:
        raise InputError(
            f'the mapping does not fit study "{manifest.study.id}"',
            got="; ".join(findings),
            remedy="correct the named fields of the mapping",
        )


def _findings(mapping: Mapping, manifest: BaseManifest) -> Iterator[str]:
    features: dict[str, Feature | None] = {feature.column: feature for feature in manifest.features}
    features[manifest.outcome.column] = None
    for name in mapping.columns:
        if name not in features:
            yield f"columns.{name}: no column of the study{did_you_mean(name, list(features)) or ''}"
    for name, feature in features.items():
        if mapping.origin(name) == mapping.source.patient_id:
            yield f"columns.{name}: reads the patient identifier, which is never a feature or outcome"
        if feature is not None and mapping.origin(name) == mapping.origin(manifest.outcome.column):
            yield f"columns.{name}: reads the outcome's column, so the model would be told the answer"
        if feature is None or isinstance(feature, CategoricalFeature):
            yield from _coded(name, mapping.column(name), OUTCOME_LEVELS if feature is None else feature.levels)
        elif mapping.column(name).values:
            yield f"columns.{name}.values: the study's column is {feature.type}, so it has no codes"


def _coded(name: str, column: ColumnMapping, levels: tuple[str, ...]) -> Iterator[str]:
    if column.converts:
        yield f"columns.{name}: scale, offset and digits are for numbers, and this column has levels"
    for code, level in column.values.items():
        if level not in levels:
            near = did_you_mean(level, list(levels))
            yield f'columns.{name}.values."{code}": "{level}" is none of {", ".join(levels)}{near}'
