"""One cell of a patient's row, from the patient's FHIR resources: which of them count, and what they say.

What counts: observations that are final, amended or corrected; conditions that are not refuted and not entered in
error. A day is taken from effectiveDateTime, effectivePeriod's start or effectiveInstant, and of a condition from
onsetDateTime, onsetPeriod's start or recordedDate; a month or a year counts as its first day. Where a window is
given, what has no day is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from fedward.client.mapping_sources import FhirColumn
from fedward.client.sources.sheet import text_of

UCUM = "http://unitsofmeasure.org"
_MADE = frozenset({"final", "amended", "corrected"})
_NOT_SO = frozenset({"refuted", "entered-in-error"})
_FIRST_DAY = date.min
_PARTIAL = re.compile(r"([1-9][0-9]{3})(?:-(0[1-9]|1[0-2]))?")


@dataclass(eq=False, repr=False)
class Record:
    """A patient, with everything that was recorded of them."""

    identifier: str
    patient: Any
    observations: list[Any] = field(default_factory=list)
    conditions: list[Any] = field(default_factory=list)


class Cell(NamedTuple):
    """The text of a cell; `flaw` is what it says in a unit that the mapping does not know, and then the text is empty."""

    text: str
    flaw: str = ""


class _Value(NamedTuple):
    day: date
    value: object
    flaw: str = ""


def cell_of(record: Record, column: FhirColumn, as_of: date | None) -> Cell:
    """What a patient's resources say for a column."""
    if column.patient is not None:
        return Cell(text_of(_element(record.patient, column.patient, as_of)))
    if column.condition:
        return Cell("1" if any(_has(one, column) for one in record.conditions) else "0")
    values = sorted(_values(record.observations, column), key=lambda one: one.day)
    flaws = [one.flaw for one in values if one.flaw]
    if flaws:
        return Cell("", flaws[0])
    return Cell(text_of(_taken([one.value for one in values], column.take)))


def _element(patient: Any, name: str, as_of: date | None) -> object:
    if name == "gender":
        return patient.gender
    if name == "deceased":
        return bool(patient.deceasedBoolean) or patient.deceasedDateTime is not None
    born = _day(patient.birthDate)
    if born is None:
        return None
    if name == "birth_year" or as_of is None:
        return born.year
    return as_of.year - born.year - ((as_of.month, as_of.day) < (born.month, born.day))


def _day(value: object) -> date | None:
    """The day of an instant; a month or a year, which the models leave as texts, counts as its first day."""
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, str) and (found := _PARTIAL.fullmatch(value)):
        return date(int(found[1]), int(found[2] or 1), 1)
    return value if isinstance(value, date) else None


def _starts(*values: object) -> date | None:
    """The first of these that is a day, or a period that has begun."""
    for value in values:
        day = _day(value) or _day(getattr(value, "start", None))
        if day is not None:
            return day
    return None


def _within(day: date | None, column: FhirColumn) -> bool:
    if column.since is None and column.until is None:
        return True
    return day is not None and (column.since or _FIRST_DAY) <= day <= (column.until or date.max)


def _matches(concept: Any, code: str) -> bool:
    """Whether one of a concept's codings is `system|code`, or begins so where the code ends with `*`."""
    system, wanted = code.split("|", 1)
    for coding in (concept.coding or ()) if concept is not None else ():
        if coding.system == system and coding.code is not None:
            whole = str(coding.code)
            if whole == wanted or (wanted.endswith("*") and whole.startswith(wanted[:-1])):
                return True
    return False


def _has(condition: Any, column: FhirColumn) -> bool:
    status = (
        {str(one.code) for one in (condition.verificationStatus.coding or ())}
        if condition.verificationStatus
        else set()
    )
    day = _starts(condition.onsetDateTime, condition.onsetPeriod, condition.recordedDate)
    named = any(_matches(condition.code, code) for code in column.condition)
    return named and not status & _NOT_SO and _within(day, column)


def _values(observations: Iterable[Any], column: FhirColumn) -> Iterable[_Value]:
    for observation in observations:
        if column.observation is None or not _matches(observation.code, column.observation):
            continue
        day = _starts(observation.effectiveDateTime, observation.effectivePeriod, observation.effectiveInstant)
        if observation.status not in _MADE or not _within(day, column):
            continue
        parts = [observation]
        if column.component is not None:
            parts = [one for one in observation.component or () if _matches(one.code, column.component)]
        for part in parts:
            found = _value(part, column, day or _FIRST_DAY)
            if found is not None:
                yield found


def _value(part: Any, column: FhirColumn, day: date) -> _Value | None:
    """The value of an observation or a component; None where it has none."""
    quantity = part.valueQuantity
    if quantity is not None and quantity.value is not None:
        return _quantity(quantity, column, day)
    for value in (part.valueString, part.valueBoolean, part.valueInteger):
        if value is not None:
            return _Value(day, value)
    concept = part.valueCodeableConcept
    for coding in (concept.coding or ()) if concept is not None else ():
        if coding.code is not None:
            return _Value(day, str(coding.code))
    return None


def _quantity(quantity: Any, column: FhirColumn, day: date) -> _Value:
    value = Decimal(str(quantity.value))
    unit = str(quantity.code) if quantity.code is not None and quantity.system == UCUM else None
    if column.unit is None or unit == column.unit:
        return _Value(day, value)
    if unit in column.units:
        return _Value(day, value * Decimal(repr(column.units[unit])))
    return _Value(day, None, f"{value} {unit or quantity.unit or 'without a UCUM unit'}")


def _taken(values: list[object], take: str) -> object:
    if not values:
        return None
    if take in ("latest", "first"):
        return values[-1 if take == "latest" else 0]
    numbers = [value for value in values if isinstance(value, Decimal)]
    if len(numbers) != len(values):
        return values[-1]  # a text has no mean: the checks will say that it is no number
    if take == "mean":
        return sum(numbers, Decimal(0)) / len(numbers)
    return min(numbers) if take == "lowest" else max(numbers)
