"""Two studies side by side: what their manifests differ in, who took part, how the rounds went, what was measured, ε. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedward.server.causes import BLAMELESS
from fedward.server.chronicle import attempts
from fedward.server.histories import History
from fedward.server.records import MetricRow
from fedward.study.changes import differences


@dataclass(frozen=True)
class Side:
    """One of the two studies.

    Attributes:
        contributions: by site, the committed rounds that it is in; `patients`, what it declared, None before the seal.
        outcomes: how many attempts ended how.
        losses: by cause, how often it kept a site out of an attempt.
        seconds: of all attempts together.
        version: the rounds committed; `measured_after` is the round after which the metrics were measured.
        epsilon: what the study may cost a patient, every planned attempt used; None without differential privacy.
    """

    study_id: str
    title: str
    digest: str | None
    kind: str
    state: str
    reason: str
    rounds: int
    version: int
    patients: Mapping[str, int | None]
    contributions: Mapping[str, int]
    outcomes: Mapping[str, int]
    losses: Mapping[str, int]
    seconds: float
    measured_after: int | None
    epsilon: float | None
    delta: float | None
    epsilon_all_others: float | None
    meaning: str


@dataclass(frozen=True)
class Measured:
    """One metric of both studies' newest measured models; None where a study has none."""

    slice: str
    name: str
    a: MetricRow | None
    b: MetricRow | None


@dataclass(frozen=True)
class Comparison:
    """`differences` is what the manifests differ in, in words; `only_a` and `only_b` are sites of one study alone."""

    a: Side
    b: Side
    differences: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    metrics: tuple[Measured, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(a: History, b: History) -> Comparison:
    """Two studies, or two versions of one."""
    return Comparison(
        a=_side(a),
        b=_side(b),
        differences=tuple(differences(a.manifest, b.manifest)),
        only_a=tuple(site for site in a.sites if site not in b.sites),
        only_b=tuple(site for site in b.sites if site not in a.sites),
        metrics=_metrics(a, b),
    )


def _side(history: History) -> Side:
    view, made = history.view, attempts(history)
    losses = Counter(
        out.cause.name for one in made for out in one.out for _ in out.sites if out.cause.name not in BLAMELESS
    )
    patients: dict[str, int | None] = dict.fromkeys(history.sites)
    if history.sealed is not None:
        patients |= {entry.site: entry.declared_patients for entry in history.sealed.roster}
    return Side(
        study_id=view.study_id,
        title=view.title,
        digest=view.digest,
        kind=view.kind,
        state=view.state,
        reason=view.reason,
        rounds=view.rounds,
        version=view.version,
        patients=patients,
        contributions=view.contributions(),
        outcomes=dict(Counter(one.outcome or "under way" for one in made)),
        losses=dict(sorted(losses.items())),
        seconds=sum(one.seconds or 0.0 for one in made),
        measured_after=max((metric.version for metric in view.metrics), default=None),
        epsilon=view.epsilon,
        delta=view.delta,
        epsilon_all_others=view.epsilon_all_others,
        meaning=view.meaning,
    )


def _metrics(a: History, b: History) -> tuple[Measured, ...]:
    """Every metric that either has: those of everybody first."""
    one, other = ({(row.slice, row.name): row for row in side.view.measured()} for side in (a, b))
    keys = sorted({*one, *other}, key=lambda key: (key[0] != "everybody", *key))
    return tuple(Measured(*key, one.get(key), other.get(key)) for key in keys)
