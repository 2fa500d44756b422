"""What a person sees of a study: plain data, for the CLI, the demo and the control plane. `readings` makes it from the store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedward.server.records import AttemptRow, Contribution, MetricRow, Question, StandingRow, StatusRow

if TYPE_CHECKING:
    from fedward.study.answers import Answer


@dataclass(frozen=True)
class StudyHead:
    """What a list shows of a study; the fields are those of a `StudyView`."""

    key: int
    study_id: str
    title: str
    digest: str | None
    kind: str
    state: str
    reason: str
    wish: str
    rounds: int
    version: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StudyView:
    """A study as it stands. `version` is the number of committed rounds; `model` the digest of the newest model.

    An exploration is one round; `answers` are what its sum says, None before that and for a study that trains.
    `meaning` says what the study's ε means and whom it covers. `secure` says in words what secure aggregation promises and asks
    for; None where the coordinator sees each update.
    """

    key: int
    study_id: str
    title: str
    digest: str | None
    state: str
    reason: str
    wish: str
    rounds: int
    version: int
    model: str | None
    epsilon: float | None
    delta: float | None
    epsilon_all_others: float | None
    """Against everyone else colluding, where noise is shared: `epsilon` is then against the coordinator and the named colluders."""
    meaning: str
    secure: str | None
    standings: tuple[StandingRow, ...]
    attempts: tuple[AttemptRow, ...]
    statuses: tuple[StatusRow, ...]
    metrics: tuple[MetricRow, ...]
    kind: str = "train"
    answers: tuple[Answer, ...] | None = None
    questions: tuple[Question, ...] = ()
    """What a running round asks the coordinator: whether to wait for hospitals that have not answered. None or one."""
    not_releasable: tuple[str, ...] = ()
    """Why the newest model may not become a release; see `gates.withheld`."""
    code: str | None = None
    """The name of the failure or exhaustion, where the record has one."""

    contributed: tuple[Contribution, ...] = ()
    """What `contributions` says, where `statuses` and `metrics` are those of the newest attempts alone."""

    def contributions(self) -> dict[str, int]:
        """Committed training rounds that each site contributed to."""
        return dict(self._contributions)

    @cached_property
    def _contributions(self) -> dict[str, int]:
        """Counted once: a long study has tens of thousands of statuses."""
        if self.contributed:
            return {one.site: one.rounds for one in self.contributed}
        committed = {a.attempt for a in self.attempts if a.outcome == "committed" and a.round <= self.rounds}
        sites = {row.site for row in self.standings} | {row.site for row in self.statuses}
        counts = dict.fromkeys(sorted(sites), 0)
        for row in self.statuses:
            if row.attempt in committed and row.status == "contributed":
                counts[row.site] += 1
        return counts

    def auroc(self, version: int | None = None, slice_: str = "everybody") -> MetricRow | None:
        """The newest (or that version's) AUROC on held-out patients."""
        rows = [m for m in self.metrics if m.name == "auroc" and m.slice == slice_]
        rows = [m for m in rows if version is None or m.version == version]
        return max(rows, key=lambda m: m.version) if rows else None

    def measured(self) -> tuple[MetricRow, ...]:
        """Every metric of the newest model that was evaluated."""
        newest = max((metric.version for metric in self.metrics), default=0)
        return tuple(metric for metric in self.metrics if metric.version == newest)

    def as_json(self) -> dict[str, Any]:
        made = asdict(self) | {"contributions": self.contributions(), "privacy": self.meaning}
        del made["contributed"]  # `contributions` says it
        return made
