"""The attributes by which a study compares patients, single and crossed: the one list that all others follow.

A single attribute is a column; its groups are the column's levels or bands. A crossed attribute is a pair of single ones; its
groups are the products of theirs, the first's outermost: `sex=female & age in [50, 65)`. A patient is in at most one group of each
attribute, and in one of a crossed attribute only if in one of both that it crosses.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fedward.study.manifest import BaseManifest, Group

CROSS: Final = " & "
"""Between the names of what is crossed. No column has it in its name, and no level in a study that crosses."""


@dataclass(frozen=True)
class Attribute:
    """An attribute and its groups.

    Attributes:
        name: `sex`, or `sex & age` of a crossed one.
        groups: their names, in order.
        first: the place of its first group on the histogram's first axis, where everybody is 0.
        crosses: the places of the two single attributes that it crosses in `attributes`; nothing for a single one.
    """

    name: str
    groups: tuple[str, ...]
    first: int
    crosses: tuple[int, int] | None = None

    @property
    def slices(self) -> range:
        """The places of its groups on the histogram's first axis."""
        return range(self.first, self.first + len(self.groups))

    @property
    def columns(self) -> slice:
        """Its groups' columns of `Encoded.membership`."""
        return slice(self.first - 1, self.first - 1 + len(self.groups))


def attributes(manifest: BaseManifest) -> tuple[Attribute, ...]:
    """All attributes in order: the single ones of `fairness.groups`, then the crossed ones of `fairness.intersections`."""
    singles = single_attributes(manifest)
    places = {attribute.name: place for place, attribute in enumerate(singles)}
    found, first = list(singles), 1 + sum(len(attribute.groups) for attribute in singles)
    for left, right in manifest.fairness.intersections:
        one, other = singles[places[left]], singles[places[right]]
        names = tuple(f"{a}{CROSS}{b}" for a, b in product(one.groups, other.groups))
        found.append(Attribute(f"{left}{CROSS}{right}", names, first, (places[left], places[right])))
        first += len(names)
    return tuple(found)


def single_attributes(manifest: BaseManifest) -> tuple[Attribute, ...]:
    """Those of single columns, in the order of `fairness.groups`."""
    found: list[Attribute] = []
    first = 1
    for group in manifest.fairness.groups:
        found.append(Attribute(group.column, _names(manifest, group), first))
        first += len(found[-1].groups)
    return tuple(found)


def _names(manifest: BaseManifest, group: Group) -> tuple[str, ...]:
    if group.cut is None:
        levels = {f.column: f.levels for f in manifest.features if f.type == "categorical"}
        return tuple(f"{group.column}={level}" for level in levels[group.column])
    # Every digit: two bands must never share a name.
    edges = [repr(edge).removesuffix(".0") for edge in group.cut]
    return tuple(f"{group.column} in [{a}, {b})" for a, b in pairwise(edges))
