"""What a study demands of a hospital's patients before it takes part: the manifest's `[eligibility]` table.

Each hospital holds its own registered patients against it (`fedward.study.eligibility`) and says yes or no; no count leaves. An
answer tells on which side of a threshold a count lies. So thresholds are tens, and at least ten: however many answers about one
count there are, they tell no more of it than between which two neighbouring tens it lies.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fedward.study.fields import COLUMN, Part

STEP = 10
"""Thresholds are multiples of it."""

Least = Annotated[int, Field(ge=STEP, le=100_000_000, multiple_of=STEP)]


class GroupFloor(Part):
    """The least size of a fairness attribute's groups: of every level, or, with `min_levels`, of at least so many of them."""

    column: Annotated[str, Field(pattern=COLUMN)]
    min_patients: Least
    min_levels: Annotated[int, Field(ge=1, le=64)] | None = None


class Eligibility(Part):
    """All of it must hold. What is left out is not asked for."""

    min_patients: Least | None = None
    min_positive: Least | None = None
    """Patients with the outcome."""
    min_negative: Least | None = None
    """Patients without it."""
    groups: Annotated[tuple[GroupFloor, ...], Field(max_length=8)] = ()

    @model_validator(mode="after")
    def _coherent(self) -> Eligibility:
        if not self.groups and all(
            least is None for least in (self.min_patients, self.min_positive, self.min_negative)
        ):
            raise ValueError(
                "it demands nothing: give min_patients, min_positive, min_negative or groups, or leave it out"
            )
        columns = [floor.column for floor in self.groups]
        if len(set(columns)) != len(columns):
            raise ValueError("eligibility groups name a column twice: give it one entry")
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """What is demanded, a phrase each."""
        leasts = (
            ("patients", self.min_patients),
            ("patients with the outcome", self.min_positive),
            ("patients without the outcome", self.min_negative),
        )
        return (
            *(f"at least {least} {whom}" for whom, least in leasts if least is not None),
            *(_floor_words(floor) for floor in self.groups),
        )


def _floor_words(floor: GroupFloor) -> str:
    if floor.min_levels is None:
        return f"at least {floor.min_patients} patients in each group of {floor.column}"
    groups = "group" if floor.min_levels == 1 else "groups"
    return f"at least {floor.min_levels} {groups} of {floor.column} with at least {floor.min_patients} patients"
