"""Whether patients meet what a study demands of a hospital. Pure: patients in, the demands that they do not meet out.

A patient counts once, whatever their number of encounters: as positive if any of these has the outcome, else as negative; in each
group that any of them falls in. The counts, and which demand failed, are for the hospital's own people. What may leave is whether
all of it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.study.attributes import single_attributes
from fedward.study.demand import Eligibility, GroupFloor
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest


@dataclass(frozen=True, repr=False)
class Tally:
    """Exact counts of a hospital's patients; no `repr` shows them, for tracebacks print those.

    Attributes:
        patients: how many there are.
        positive: of these, with the outcome.
        negative: without it. An outcome that is neither 0 nor 1 counts as neither.
        groups: of each single fairness attribute, by column, its groups' sizes by name; a patient may be in several, or in none.
    """

    patients: int
    positive: int
    negative: int
    groups: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, repr=False)
class Unmet:
    """One demand that is not met: how many it asks for, and how many there are."""

    what: str
    needed: int
    found: int

    @property
    def words(self) -> str:
        return f"{self.what}: {self.found} here, and the study asks for at least {self.needed}"


def tally(data: Encoded, manifest: Manifest) -> Tally:
    """Count the patients of all rows."""
    patients = len(data)
    ill, well = _having(data, data.outcomes == 1), _having(data, data.outcomes == 0)
    sizes = [int(_having(data, data.membership[:, column]).sum()) for column in range(data.membership.shape[1])]
    groups = {one.name: dict(zip(one.groups, sizes[one.columns], strict=True)) for one in single_attributes(manifest)}
    return Tally(patients, int(ill.sum()), int((well & ~ill).sum()), groups)


def _having(data: Encoded, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which patients have such a row, shape (patients,)."""
    found = np.zeros(len(data), dtype=np.bool_)
    found[data.owners[rows]] = True
    return found


def unmet(demand: Eligibility | None, found: Tally) -> tuple[Unmet, ...]:
    """The demands that are not met, in the order of the manifest; empty where the hospital may take part.

    Raises:
        InputError: the tally is of another study: it lacks a demanded attribute.
    """
    if demand is None:
        return ()
    plain = (
        ("patients", demand.min_patients, found.patients),
        ("patients with the outcome", demand.min_positive, found.positive),
        ("patients without the outcome", demand.min_negative, found.negative),
    )
    # `not >=`: what is no number meets nothing.
    fell_short = [Unmet(what, least, count) for what, least, count in plain if least is not None and not count >= least]
    for floor in demand.groups:
        fell_short += _unmet_floor(floor, found)
    return tuple(fell_short)


def _unmet_floor(floor: GroupFloor, found: Tally) -> list[Unmet]:
    sizes = found.groups.get(floor.column)
    if not sizes:
        raise InputError("the counts are of another study", expected=f"groups of {floor.column}")
    small = {name: size for name, size in sizes.items() if not size >= floor.min_patients}
    if floor.min_levels is None:
        return [Unmet(f"patients with {name}", floor.min_patients, size) for name, size in small.items()]
    large = len(sizes) - len(small)
    if large >= floor.min_levels:
        return []
    return [Unmet(f"groups of {floor.column} with {floor.min_patients} patients or more", floor.min_levels, large)]
