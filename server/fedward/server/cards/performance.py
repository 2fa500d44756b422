"""What a card shows of the metrics: everybody's, each fairness group's and the gaps; what is too small is hidden. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from fedward.server.records import MetricRow
from fedward.study.encoding import group_names
from fedward.study.manifest import Manifest
from fedward.study.metrics import EVERYBODY, SMALL, attribute_slices, suppress_sums
from fedward.study.metrics.naming import NAMES

GROUP_METRICS: Final = ("auroc", "sensitivity", "specificity", "calibration_gap")
"""What is shown of a group; of everybody, all is."""
GAPS: Final = ("demographic_parity_gap", "equal_opportunity_gap", "equalized_odds_gap")

Shown = Literal["shown", "small", "hidden"]
"""Small: fewer than `SMALL` with or without the outcome. Hidden: so that a small one does not follow by subtraction."""


@dataclass(frozen=True)
class Measure:
    """A metric with its 95% interval; None where it is undefined."""

    name: str
    words: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Group:
    """A fairness group. Its numbers are None and its metrics empty unless it is shown."""

    name: str
    attribute: str
    shown: Shown
    positives: int | None
    negatives: int | None
    measures: tuple[Measure, ...] = ()

    def measure(self, name: str) -> Measure | None:
        return next((one for one in self.measures if one.name == name), None)


@dataclass(frozen=True)
class Gap:
    """The largest difference between an attribute's groups; no value where one of them is not shown, `shown` then says so."""

    attribute: str
    words: str
    shown: bool
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Performance:
    """What was measured of one version. `shown` is False where all held-out patients together are too few.

    Attributes:
        version: the committed rounds behind the model that was measured.
        positives, negatives: held-out patients with and without the outcome, noise included.
    """

    version: int
    shown: bool
    positives: int | None
    negatives: int | None
    measures: tuple[Measure, ...] = ()
    groups: tuple[Group, ...] = ()
    gaps: tuple[Gap, ...] = field(default=())

    def measure(self, name: str) -> Measure | None:
        """Everybody's."""
        return next((one for one in self.measures if one.name == name), None)

    @property
    def lowest(self) -> Group | None:
        """Of the groups that are shown, the one whose AUROC is lowest."""
        found = [(one.value, group) for group in self.groups if (one := group.measure("auroc")) is not None]
        known = [(value, group) for value, group in found if value is not None]
        return min(known, key=lambda pair: pair[0])[1] if known else None


def performance(manifest: Manifest, rows: Sequence[MetricRow], version: int) -> Performance | None:
    """What was measured of a version; None if nothing was."""
    by_key = {(row.slice, row.name): row for row in rows if row.version == version}
    overall = by_key.get((EVERYBODY, "auroc"))
    if overall is None:
        return None
    if min(overall.positives, overall.negatives) < SMALL:
        return Performance(version, False, None, None)
    return Performance(
        version,
        True,
        overall.positives,
        overall.negatives,
        tuple(_measure(by_key, EVERYBODY, name) for name in NAMES if (EVERYBODY, name) in by_key),
        tuple(_groups(manifest, by_key)),
        tuple(_gaps(manifest, by_key)),
    )


def _hidden(manifest: Manifest, by_key: Mapping[tuple[str, str], MetricRow]) -> dict[str, Shown]:
    counts = {name: (row.positives, row.negatives) for (name, metric), row in by_key.items() if metric == "auroc"}
    known = {name: counts.get(name, (0, 0)) for name in group_names(manifest)}
    hidden = suppress_sums(manifest, counts)
    return {
        name: "shown" if name not in hidden else ("small" if min(known[name]) < SMALL else "hidden") for name in known
    }


def _groups(manifest: Manifest, by_key: Mapping[tuple[str, str], MetricRow]) -> list[Group]:
    states, names = _hidden(manifest, by_key), group_names(manifest)
    made = []
    for attribute, places in attribute_slices(manifest).items():
        for name in (names[place - 1] for place in places):
            if states[name] != "shown":
                made.append(Group(name, attribute, states[name], None, None))
                continue
            row = by_key[(name, "auroc")]
            measures = tuple(_measure(by_key, name, metric) for metric in GROUP_METRICS)
            made.append(Group(name, attribute, "shown", row.positives, row.negatives, measures))
    return made


def _gaps(manifest: Manifest, by_key: Mapping[tuple[str, str], MetricRow]) -> list[Gap]:
    states, names = _hidden(manifest, by_key), group_names(manifest)
    made = []
    for attribute, places in attribute_slices(manifest).items():
        shown = all(states[names[place - 1]] == "shown" for place in places)
        for gap in GAPS:
            found = _measure(by_key, attribute, gap)
            numbers = (found.value, found.low, found.high) if shown else (None, None, None)
            made.append(Gap(attribute, found.words, shown, *numbers))
    return made


def _measure(by_key: Mapping[tuple[str, str], MetricRow], slice_: str, name: str) -> Measure:
    row = by_key.get((slice_, name))
    return Measure(name, NAMES[name], *((row.value, row.low, row.high) if row is not None else (None, None, None)))
