"""How long a round waits for each site: from what the site took before, as the coordinator measured it. Pure.

Rules
    1. A site's usual time is the longest of its last `KEPT` answers in the study. No site says how long it computed: that
        depends on its patients. What is measured is when its answers came.
    2. Where a round carries on without stragglers, a site has `MARGIN` times its usual time. Where it waits for them, everybody
        has `SLACK` times the longest usual time of the cohort, within the manifest's `deadline_floor` and `deadline`.
    3. A site whose time is not known may take as long as `deadline` where the round waits; where it carries on, the machine of
        `round` gives it time by what the others took.
    4. A silent site may be slower than before, or dead. After its first silence it has the whole `deadline`; once it was silent
        for that long, half of it, then a quarter, and so on; and the whole again every `AGAIN` silences, in case it only got slow.
    5. An answer, a refusal, or an absence that the transport knew of ends a site's silences: it is as good as new.

A measured time that is no duration is passed over; one beyond the deadline counts as the deadline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from fedward.privacy.errors import InputError
from fedward.server.records import StatusRow
from fedward.server.round import Stragglers
from fedward.study.manifest import Federation, seconds

KEPT: Final = 10
MARGIN: Final = 1.5
SLACK: Final = 3.0
AGAIN: Final = 8
WHOLE: Final = 0.9
"""A site that was waited for this share of the deadline had the whole of it."""
WINDOW: Final = 100
"""Attempts that are looked back upon."""
SILENT: Final = "no answer"
"""How the recorded reason of a site begins that was asked and said nothing."""
_UNASKED: Final = ("reachable, and not asked", "left out of the batch", "attempt stopped", "not drawn")

Kind = Literal["answered", "silent", "heard"]


@dataclass(frozen=True)
class Sighting:
    """What one attempt tells of a site: it answered after so many seconds, it was silent for so many, or it is known to be
    there or not there by other means, without a time."""

    kind: Kind
    seconds: float = 0.0


@dataclass(frozen=True)
class Bounds:
    """The least and the most that a round may be given, seconds.

    Raises:
        InputError: no durations, or the floor lies above the ceiling.
    """

    floor: float
    ceiling: float

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.ceiling < math.inf:
            raise InputError(
                "a round's time has no bounds",
                expected="0 < floor ≤ ceiling, seconds",
                got=f"{self.floor!r}, {self.ceiling!r}",
            )


@dataclass(frozen=True)
class Pace:
    """How long an attempt waits for whom: `Plan`'s fields of these names."""

    stragglers: Stragglers
    usual: Mapping[str, float]
    enough: float


def pace(rows: Sequence[StatusRow], cohort: Sequence[str], federation: Federation) -> Pace:
    """The pace of the next attempt with this cohort, from the study's status rows so far, oldest attempt first."""
    bounds = Bounds(federation.floor_s, seconds(federation.deadline))
    stragglers = Stragglers(federation.stragglers or "carry-on")
    told = {site: sightings(rows, site) for site in cohort}
    given = {site: patience(told[site], bounds, asks=stragglers == Stragglers.ASK) for site in cohort}
    known = {site: time for site, time in given.items() if time is not None}
    return Pace(stragglers, known, enough(told, bounds))


def sightings(rows: Iterable[StatusRow], site: str) -> tuple[Sighting, ...]:
    """What status rows, oldest attempt first, tell of a site's speed; rows of other sites are passed over."""
    told = (_sighting(row) for row in rows if row.site == site)
    return tuple(one for one in told if one is not None)


def _sighting(row: StatusRow) -> Sighting | None:
    timed = row.seconds is not None and math.isfinite(row.seconds) and row.seconds >= 0
    if row.status == "contributed":
        return Sighting("answered", row.seconds or 0.0) if timed else None
    if row.status == "dropped" and row.reason.startswith(SILENT):
        return Sighting("silent", row.seconds or 0.0) if timed else None
    unasked = any(row.reason.startswith(begin) for begin in _UNASKED)
    told = row.status in {"refused", "absent"} or row.reason.startswith("unreachable")
    return Sighting("heard") if told and not unasked else None


def usual(told: Sequence[Sighting], bounds: Bounds) -> float | None:
    """A site's usual time, at most the ceiling; None while it never answered."""
    answers = [min(one.seconds, bounds.ceiling) for one in told if one.kind == "answered"][-KEPT:]
    return max(answers, default=None)


def _silences(told: Sequence[Sighting]) -> list[float]:
    """How long a site was waited for in vain since it was heard of last."""
    found: list[float] = []
    for one in told:
        if one.kind == "silent":
            found.append(one.seconds)
        else:
            found.clear()
    return found


def _after_silence(silences: Sequence[float], bounds: Bounds) -> float:
    """Rule 4."""
    whole = next((n for n, waited in enumerate(silences) if waited >= WHOLE * bounds.ceiling), None)
    if whole is None:
        return bounds.ceiling
    vain = len(silences) - whole
    return bounds.ceiling if vain % AGAIN == 0 else max(bounds.floor, bounds.ceiling / 2 ** (vain % AGAIN))


def patience(told: Sequence[Sighting], bounds: Bounds, *, asks: bool = False) -> float | None:
    """Seconds that a site has in a round that carries on without stragglers; None where its time is not known. `asks`: a person
    is asked instead, and soon: silences are that person's to judge."""
    silences = _silences(told)
    if silences and not asks:
        return _after_silence(silences, bounds)
    known = usual(told, bounds)
    return None if known is None else max(min(MARGIN * known, bounds.ceiling), _LEAST)


def enough(cohort: Mapping[str, Sequence[Sighting]], bounds: Bounds) -> float:
    """Seconds that a round that waits gives its cohort, once it has its quorum."""
    return min(max([bounds.floor, *(_allowed(told, bounds) for told in cohort.values())]), bounds.ceiling)


def _allowed(told: Sequence[Sighting], bounds: Bounds) -> float:
    silences = _silences(told)
    if silences:
        return _after_silence(silences, bounds)
    known = usual(told, bounds)
    return bounds.ceiling if known is None else SLACK * known


_LEAST: Final = 1e-3
"""A site that answered at once still has a duration."""
