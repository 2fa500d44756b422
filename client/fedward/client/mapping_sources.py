"""What a mapping says of a database or of FHIR resources: the tables [source.sql] and [source.fhir].

A mapping is a file that people send each other, so a password never stands in it: it comes from an environment variable or from
a file that only its owner reads. A table with a field that it does not know is refused without showing what the field says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fedward.study.fields import Finite, Part

_PASSWORD_IN_URL = re.compile(r"^[^:/]+://[^/@]*:[^/@]*@|[?&](password|passwd|pwd|sslpassword)=", re.IGNORECASE)
_ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)

Code = Annotated[str, Field(pattern=r"^[^|\s]+\|[^|]+$", max_length=300)]
"""`system|code`, as FHIR writes a token: `http://loinc.org|2093-3`."""


Day = Annotated[date, Field(strict=False)]
"""A day, as TOML has it or as a text: a table that looks at itself first gets no JSON, whose texts strict dates are made from."""


class _Quiet(Part):
    """A table whose unknown fields are named and not shown: one of them may be a misspelt password."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            unknown = sorted(str(name) for name in set(data) - set(cls.model_fields))
            if unknown:
                raise ValueError(f"no such fields: {', '.join(unknown)}, got others than {', '.join(cls.model_fields)}")
        return data


class SqlSource(_Quiet):
    """A query, or a table, of a database that SQLAlchemy reaches. It is only ever read."""

    url: Annotated[str, Field(min_length=1, max_length=2000)]
    """`postgresql+psycopg://reader@db.hospital.example/warehouse`, `sqlite:///export.db` (seen from the mapping's folder)."""
    query: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    table: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$")] | None = None
    password_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    password_file: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_password(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and _PASSWORD_IN_URL.search(str(data.get("url", ""))):
            raise ValueError("got a password in url: name it by password_env or password_file instead")
        return data

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.query is None) == (self.table is None):
            raise ValueError("give either query or table")
        if self.password_env is not None and self.password_file is not None:
            raise ValueError("give either password_env or password_file")
        return self

    @property
    def ordered(self) -> bool:
        return self.query is not None and _ORDERED.search(self.query) is not None


class FhirColumn(_Quiet):
    """One column of the sheet that is made of FHIR resources, a row a patient: from exactly one kind of resource."""

    patient: Literal["gender", "age", "birth_year", "deceased"] | None = None
    """An element of Patient; `age` in completed years on `[source.fhir] as_of`."""
    observation: Code | None = None
    component: Code | None = None
    """A component of that Observation, such as the systolic pressure of a blood pressure panel."""
    unit: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    """The UCUM code that a quantity must have; a quantity in another unit is refused."""
    units: dict[str, Finite] = Field(default_factory=dict)
    """Other UCUM codes, each with the factor that makes `unit` of it."""
    take: Literal["latest", "first", "mean", "lowest", "highest"] = "latest"
    condition: Annotated[tuple[Code, ...], Field(max_length=1000, strict=False)] = ()
    """1 if the patient has one of these, else 0. A code's children are not known: name each, or end it with `*`."""
    since: Day | None = None
    until: Day | None = None
    """The first and the last day that count, by when it was observed, or began."""

    @model_validator(mode="after")
    def _one_resource(self) -> Self:
        if sum((self.patient is not None, self.observation is not None, bool(self.condition))) != 1:
            raise ValueError("give exactly one of patient, observation and condition")
        if self.observation is None and (self.component or self.unit or self.units or self.take != "latest"):
            raise ValueError("component, unit, units and take are for an observation")
        if self.units and self.unit is None:
            raise ValueError("units are factors to unit: give it too")
        if self.patient is not None and (self.since or self.until):
            raise ValueError("since and until are for observations and conditions")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError("since must not lie after until")
        return self


class FhirSource(_Quiet):
    """Which elements of Patient, Observation and Condition make which columns, as FHIR R4 has them."""

    as_of: Day | None = None
    """The day on which a patient's age is taken."""
    columns: Annotated[dict[Annotated[str, Field(min_length=1, max_length=200)], FhirColumn], Field(min_length=1)]

    @model_validator(mode="after")
    def _dated(self) -> Self:
        if self.as_of is None and any(column.patient == "age" for column in self.columns.values()):
            raise ValueError("an age needs as_of, the day on which it is taken")
        return self
