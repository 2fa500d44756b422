"""Whether a model holds the manifest's gates: each gate with what was found, or why nothing could be. Pure.

A gate holds only if what it needs is known and within its limit. What is not known (not evaluated, suppressed, too small beside
its noise, not shared by the hospitals) does not hold, and says so. `participation` is always asked: the floors of `[release]`,
and without them as many sites as a round needs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from fedward.server.lifecycle import ENDED
from fedward.server.releasing import shortfalls
from fedward.server.spending import spent_at_most
from fedward.server.verdicts import PARTICIPATION, SIDES, WORDS, Side, Verdict, failing
from fedward.study.attributes import attributes
from fedward.study.encoding import group_names
from fedward.study.manifest import BaseManifest, BaseSealed, Gates, Manifest, SealedManifest
from fedward.study.metrics import EVERYBODY, SMALL, suppress_sums

if TYPE_CHECKING:
    from fedward.server.histories import History
    from fedward.server.records import MetricRow, SharedMetrics
    from fedward.server.views import StudyView


def verdicts(history: History) -> tuple[Verdict, ...]:
    """Every gate that the study asks for, of its newest model; nothing for an exploration."""
    return judged(history.manifest, history.view, history.sealed, history.shared)


def withheld(
    manifest: BaseManifest, view: StudyView, sealed: BaseSealed | None, shared: Sequence[SharedMetrics] = ()
) -> tuple[str, ...]:
    """Why a study's newest model may not become a release: floors of participation while it runs, every gate once it has ended."""
    if view.state in ENDED and view.version > 0 and isinstance(manifest, Manifest):
        return failing(judged(manifest, view, sealed, shared))
    return shortfalls(manifest, view)


def judged(
    manifest: BaseManifest, view: StudyView, sealed: BaseSealed | None, shared: Sequence[SharedMetrics] = ()
) -> tuple[Verdict, ...]:
    """The same, of a study as it stands; `shared` is what hospitals have given of their own metrics."""
    if not isinstance(manifest, Manifest):
        return ()
    gates, found = manifest.gates, _Found(manifest, view, sealed, tuple(shared))
    asked = [(name, side, limit) for name, side in SIDES.items() if (limit := getattr(gates, name)) is not None]
    made = [_judge(name, side, limit, _MEASURES[name](found), gates) for name, side, limit in asked]
    return (*made, _participation(manifest, view))


@dataclass(frozen=True)
class _Measured:
    """What a gate is held against; without a value, why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    of: str = ""
    why: str = ""
    exact: bool = False
    """A count or a bound, no estimate: it has no interval."""


@dataclass(frozen=True)
class _Found:
    """All that gates are judged by."""

    manifest: Manifest
    view: StudyView
    sealed: BaseSealed | None
    shared: tuple[SharedMetrics, ...]

    @cached_property
    def rows(self) -> Mapping[tuple[str, str], MetricRow]:
        """The newest model's metrics by slice and name; empty if it was not evaluated."""
        measured = self.view.measured()
        return {(row.slice, row.name): row for row in measured if row.version == self.view.version > 0}

    @cached_property
    def hidden(self) -> frozenset[str]:
        """Groups that are too small to be shown, and attributes with such a group: a verdict would show them."""
        counts = {slice_: (row.positives, row.negatives) for (slice_, _), row in self.rows.items()}
        small = suppress_sums(self.manifest, counts) if self.rows else set()
        return frozenset(small | {one.name for one in attributes(self.manifest) if small & set(one.groups)})

    def one(self, slice_: str, name: str) -> _Measured:
        """A metric that needs enough patients, and a sum that stands out of its noise."""
        whose = "" if slice_ == EVERYBODY else slice_
        if not self.rows:
            return _Measured(of=whose, why="the newest model has not been evaluated")
        if slice_ in self.hidden:
            return _Measured(
                of=whose, why=f"fewer than {SMALL} held-out patients of an outcome, or they would follow from it"
            )
        row = self.rows.get((slice_, name))
        if row is None or row.value is None or not math.isfinite(row.value):
            return _Measured(of=whose, why="too few held-out patients, or too much noise beside them")
        return _Measured(row.value, row.low, row.high, whose)

    def groups(self, name: str) -> list[_Measured]:
        return [self.one(group, name) for group in group_names(self.manifest)]


def _worst(found: Sequence[_Measured], worse: Callable[[float], float], nothing: str) -> _Measured:
    """What is farthest on the wrong side; unknown as soon as one is, since that one may be worse."""
    if not found:
        return _Measured(why=nothing)
    for one in found:
        if one.value is None:
            return one
    return max(found, key=lambda one: -math.inf if one.value is None else worse(one.value))


_NO_GROUPS: Final = "the study names no fairness groups"


def _group_auroc(found: _Found) -> _Measured:
    return _worst(found.groups("auroc"), operator.neg, _NO_GROUPS)


def _odds(found: _Found) -> _Measured:
    gaps = [found.one(attribute.name, "equalized_odds_gap") for attribute in attributes(found.manifest)]
    return _worst(gaps, float, _NO_GROUPS)


def _group_calibration(found: _Found) -> _Measured:
    return _worst([_distance(one) for one in found.groups("calibration_gap")], float, _NO_GROUPS)


def _distance(gap: _Measured) -> _Measured:
    """Of a signed gap with its interval, how far from zero."""
    if gap.value is None or gap.low is None or gap.high is None:
        return gap
    ends = sorted((abs(gap.low), abs(gap.high)))
    return replace(gap, value=abs(gap.value), low=0.0 if gap.low <= 0 <= gap.high else ends[0], high=ends[1])


def _site_drop(found: _Found) -> _Measured:
    """Every hospital that trained the model must have told how its own does: who keeps silent may lose most."""
    told = {one.site: one for one in found.shared if one.version == found.view.version}
    trained = [site for site, rounds in found.view.contributions().items() if rounds]
    silent = [site for site in trained if site not in told or told[site].drop is None]
    if silent:
        return _Measured(why=f"not shared by {', '.join(silent)}")
    drops = [_Measured(drop, of=site, exact=True) for site in trained if (drop := told[site].drop) is not None]
    return _worst(drops, float, "no site has trained it")


def _epsilon(found: _Found) -> _Measured:
    """At most: as if the hospital with the least noise had been asked, and charged, in every attempt that asked anybody."""
    if not isinstance(found.sealed, SealedManifest):
        return _Measured(why="the study is not sealed")
    if found.manifest.privacy.epsilon is None:
        return _Measured(why="the study trains without differential privacy")
    return _Measured(spent_at_most(found.sealed, found.view.attempts), exact=True)


_MEASURES: Final[Mapping[str, Callable[[_Found], _Measured]]] = MappingProxyType(
    {
        "min_auroc": lambda found: found.one(EVERYBODY, "auroc"),
        "min_group_auroc": _group_auroc,
        "max_site_drop": _site_drop,
        "max_equalized_odds_gap": _odds,
        "max_calibration_error": lambda found: found.one(EVERYBODY, "calibration_error"),
        "max_group_calibration_gap": _group_calibration,
        "max_epsilon": _epsilon,
    }
)


def _judge(gate: str, side: Side, limit: float, found: _Measured, gates: Gates) -> Verdict:
    made = Verdict(gate, side, limit, False, found.value, found.low, found.high, found.of)
    whose = f" ({found.of})" if found.of else ""
    if found.value is None:
        return replace(made, why=f"{WORDS[gate]}{whose} is not known: {found.why}")
    by_interval = gates.judged_by == "interval" and not found.exact
    held = (found.low if side == "least" else found.high) if by_interval else found.value
    if held is None or not math.isfinite(held):
        return replace(made, why=f"{WORDS[gate]}{whose} is {found.value:.3f}, and its interval is not known")
    if (held >= limit) if side == "least" else (held <= limit):
        return replace(made, holds=True)
    end = " at the worse end of its interval" if by_interval else ""
    return replace(made, why=f"{WORDS[gate]}{whose} is {held:.3f}{end}, and must be at {side} {limit:g}")


def _participation(manifest: Manifest, view: StudyView) -> Verdict:
    short = shortfalls(manifest, view)
    trained = sum(rounds > 0 for rounds in view.contributions().values())
    return Verdict(PARTICIPATION, "least", None, not short, float(trained), why="; ".join(short))
