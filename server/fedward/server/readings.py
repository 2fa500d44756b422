"""Views and histories of studies, read from the store."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from fedward.server.consulting import question
from fedward.server.gates import withheld
from fedward.server.histories import History
from fedward.server.records import ANSWERED, ANSWERS, ASKED, Evaluation, StudyRow
from fedward.server.store import Store
from fedward.server.views import StudyHead, StudyView
from fedward.study.answers import Answer, answers_of
from fedward.study.exploration import Exploration, SealedExploration
from fedward.study.hospital_influence import HospitalInfluence, hospital_influence
from fedward.study.kinds import AnyManifest, parse_sealed, parse_stored
from fedward.study.manifest import SealedManifest
from fedward.study.messages import counts_from_bytes
from fedward.study.metrics import CalibrationGroup, Counts, bin_centres, bin_edges, calibration_groups
from fedward.study.schedule import study_costs
from fedward.study.secure import secure_words
from fedward.study.terms import privacy_words, shares_noise
from fedward.study.votes import given_shape, parts


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


def head(store: Store, study: StudyRow) -> StudyHead:
    """What a list shows of a study."""
    manifest, newest = parse_stored(study.manifest), store.newest_model(study.key)
    return StudyHead(
        key=study.key,
        study_id=study.study_id,
        title=manifest.study.title,
        digest=study.digest,
        kind=_kind(manifest),
        state=study.state,
        reason=study.reason,
        wish=study.wish,
        rounds=manifest.planned_rounds,
        version=newest[0] if newest else int(_answers(store, study) is not None),
    )


def _kind(manifest: AnyManifest) -> str:
    return "explore" if isinstance(manifest, Exploration) else "train"


def view(store: Store, study: StudyRow, recent: int | None = None) -> StudyView:
    """The study's present state, read from the store. `recent`: with the statuses of so many attempts alone, the newest, and the
    newest model's metrics: a long study has tens of thousands of both."""
    manifest = parse_stored(study.manifest)
    newest, answers = store.newest_model(study.key), _answers(store, study)
    attempts = tuple(store.attempts(study.key))
    asked = question(attempts, store.journal(study.key, ASKED, ANSWERED)) if study.state == "running" else None
    made = StudyView(
        key=study.key,
        study_id=study.study_id,
        title=manifest.study.title,
        digest=study.digest,
        state=study.state,
        reason=study.reason,
        wish=study.wish,
        rounds=manifest.planned_rounds,
        version=newest[0] if newest else int(answers is not None),
        model=newest[1] if newest else None,
        epsilon=manifest.privacy.epsilon,
        delta=manifest.privacy.delta,
        epsilon_all_others=_all_others(study),
        meaning=privacy_words(manifest),
        secure=_secure(study),
        standings=tuple(store.standings(study.key)),
        attempts=attempts,
        statuses=tuple(store.statuses(study.key, 1 if recent is None else len(attempts) - recent + 1)),
        metrics=tuple(store.metrics(study.key, newest=recent is not None)),
        kind=_kind(manifest),
        answers=answers,
        questions=() if asked is None else (asked,),
        code=study.code,
        contributed=() if recent is None else tuple(store.contributions(study.key, manifest.planned_rounds)),
    )
    sealed = None if study.sealed is None else parse_sealed(study.sealed)
    return replace(made, not_releasable=withheld(manifest, made, sealed, store.shared(study.key)))


SUMS: Final = ("batch", "unmasking")
"""The kinds of the journal's entries that hold the messages of secure sums: most of its bytes, and what a transcript is made of."""


def history(store: Store, study: StudyRow, *, whole: bool = True) -> History:
    """A study's record, read from the store; what hospitals signed and the messages of secure sums, if it is to be whole."""
    made = view(store, study)
    return History(
        study=study,
        view=made,
        journal=tuple(store.journal(study.key, without=() if whole else SUMS)),
        alarms=tuple(store.alarms()),
        evidence=store.evidence(study.key) if whole else {},
        shared=tuple(store.shared(study.key)),
        calibration=calibration(store, study, made),
        votes=votes(store, study, made),
    )


def newest_evaluation(store: Store, study: StudyRow) -> Evaluation | None:
    """The counts of the newest version that was evaluated; None before that, and for an exploration."""
    rows = store.metrics(study.key, newest=True)
    return store.evaluation(study.key, rows[0].version) if rows else None


def calibration(store: Store, study: StudyRow, made: StudyView) -> tuple[CalibrationGroup, ...]:
    """Of the newest version that was evaluated; nothing before that, and for an exploration."""
    measured, sealed = made.measured(), parse_sealed(study.sealed) if study.sealed is not None else None
    found = store.evaluation(study.key, measured[0].version) if measured else None
    if found is None or not isinstance(sealed, SealedManifest):
        return ()
    plan = sealed.manifest.counting
    total, _ = _summed(sealed, found)
    deviation = sealed.count_deviation * len(found.sites) ** 0.5
    return calibration_groups(
        total[0], deviation, bin_edges(plan.bins, plan.temper), bin_centres(plan.bins, plan.temper)
    )


def votes(store: Store, study: StudyRow, made: StudyView) -> HospitalInfluence | None:
    """What the held-out patients voted for, of the newest version that was evaluated; None before that, and where none vote."""
    measured, sealed = made.measured(), parse_sealed(study.sealed) if study.sealed is not None else None
    found = store.evaluation(study.key, measured[0].version) if measured else None
    if found is None or not isinstance(sealed, SealedManifest):
        return None
    total, counted = _summed(sealed, found)
    if counted is None:
        return None
    names = tuple(feature.column for feature in sealed.manifest.features)
    deviation = sealed.count_deviation * len(found.sites) ** 0.5
    return hospital_influence(names, counted, int(total[0].sum()), deviation, found.version, found.sites)


def _summed(sealed: SealedManifest, found: Evaluation) -> tuple[Counts, Counts | None]:
    """The histogram and the votes of a stored sum."""
    least = np.iinfo(np.int64).min  # noise may be negative
    return parts(sealed.manifest, counts_from_bytes(found.counts, given_shape(sealed.manifest), least))
