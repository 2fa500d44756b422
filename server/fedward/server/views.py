"""What a person sees of a study: plain data made from the store, for the CLI, the demo and, later, the control plane."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedward.server.records import ANSWERS, AttemptRow, MetricRow, StandingRow, StatusRow, StudyRow
from fedward.server.store import Store
from fedward.study.answers import Answer, answers_of
from fedward.study.exploration import Exploration, SealedExploration
from fedward.study.kinds import parse_sealed, parse_stored
from fedward.study.schedule import study_costs
from fedward.study.secure import secure_words
from fedward.study.terms import privacy_words, shares_noise


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

    def contributions(self) -> dict[str, int]:
        """Committed training rounds that each site contributed to."""
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
        return asdict(self) | {"contributions": self.contributions(), "privacy": self.meaning}


def _secure(study: StudyRow) -> str | None:
    if study.sealed is None:
        return None
    sealed = parse_sealed(study.sealed)
    return secure_words(sealed) if sealed.manifest.privacy.secure_aggregation else None


def _all_others(study: StudyRow) -> float | None:
    if study.sealed is None:
        return None
    sealed = parse_sealed(study.sealed)
    if not shares_noise(sealed):
        return None
    return study_costs(sealed, sealed.roster[0].site)["everyone"]


def _answers(store: Store, study: StudyRow) -> tuple[Answer, ...] | None:
    found = store.evaluation(study.key, ANSWERS)
    sealed = parse_sealed(study.sealed) if study.sealed is not None and found is not None else None
    if found is None or not isinstance(sealed, SealedExploration):
        return None
    total = np.frombuffer(found.counts, dtype="<i8").astype(np.int64)
    return answers_of(sealed.manifest, total, [sealed.entry(site).noise_multiplier for site in found.sites])


def view(store: Store, study: StudyRow) -> StudyView:
    """The study's present state, read from the store."""
    manifest = parse_stored(study.manifest)
    checkpoint, answers = store.checkpoint(study.key), _answers(store, study)
    return StudyView(
        key=study.key,
        study_id=study.study_id,
        title=manifest.study.title,
        digest=study.digest,
        state=study.state,
        reason=study.reason,
        wish=study.wish,
        rounds=manifest.planned_rounds,
        version=checkpoint.version if checkpoint else int(answers is not None),
        model=checkpoint.model if checkpoint else None,
        epsilon=manifest.privacy.epsilon,
        delta=manifest.privacy.delta,
        epsilon_all_others=_all_others(study),
        meaning=privacy_words(manifest),
        secure=_secure(study),
        standings=tuple(store.standings(study.key)),
        attempts=tuple(store.attempts(study.key)),
        statuses=tuple(store.statuses(study.key)),
        metrics=tuple(store.metrics(study.key)),
        kind="explore" if isinstance(manifest, Exploration) else "train",
        answers=answers,
    )
