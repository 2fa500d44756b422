"""The coordinator's record as the monitor's pages need it: read once, and afterwards only what is new.

Everything here comes from the record and nothing from who looks at it, so that all sessions may share one reader. Attempts,
statuses and journal entries are final once an attempt is closed: a refresh asks for what follows the newest closed one. What a
restore or a lost model changes of the past is read anew as a whole.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from fedward.dashboard.federation.charges import Charge, charges
from fedward.server import gates
from fedward.server.consulting import question
from fedward.server.histories import History
from fedward.server.leases import Lease
from fedward.server.readings import SUMS, calibration, votes
from fedward.server.records import (
    AlarmRow,
    AttemptRow,
    Evaluation,
    JournalEntry,
    MetricRow,
    Question,
    ReleaseRow,
    SharedMetrics,
    StandingRow,
    StatusRow,
    StudyRow,
)
from fedward.server.store import Store
from fedward.server.verdicts import Verdict
from fedward.server.views import StudyView
from fedward.study.kinds import parse_sealed, parse_stored
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.schedule import study_costs
from fedward.study.secure import secure_words
from fedward.study.terms import evaluates, privacy_words, shares_noise

if TYPE_CHECKING:
    from fedward.study.kinds import AnyManifest, AnySealed

Stamp = tuple[int, ...]
EVERYBODY: Final = ("everybody",)
_UNREAD: Final = (*SUMS, "closed")
"""Journal entries that hold most of its bytes and say nothing that the other tables do not."""
_PAST: Final = frozenset({"lost", "restored"})
"""Journal entries after which what was read before is not true any more."""


@dataclass(frozen=True)
class Look:
    """One study as its record stood at a stamp; `journal` is without the messages of sums, `alarms` are its own sites'.

    `charges` is what ε is computed from; `count_deviation` that of the noise on each site's counts. Who does not see every site's
    part gets them without `sealed` (`seen`): pages ask for these, and for `sites`.
    """

    stamp: Stamp
    study: StudyRow
    manifest: AnyManifest
    sealed: AnySealed | None
    attempts: tuple[AttemptRow, ...]
    journal: tuple[JournalEntry, ...]
    standings: tuple[StandingRow, ...]
    alarms: tuple[AlarmRow, ...]
    version: int
    model: str | None
    question: Question | None
    count_deviation: float = 0.0
    charges: Mapping[str, Charge] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        return isinstance(self.manifest, Manifest)

    @property
    def rounds(self) -> int:
        """Rounds that are planned."""
        return self.manifest.planned_rounds

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """The roster, in its order; before the seal, who was invited."""
        if self.sealed is None:
            return tuple(sorted(self.study.invited))
        return tuple(entry.site for entry in self.sealed.roster)

    @property
    def changed_at(self) -> int:
        """Unix time of the newest thing that the record tells of the study."""
        newest = max((row.opened_at + int(row.seconds or 0) for row in self.attempts[-1:]), default=0)
        return max(self.study.changed_at, newest, max((entry.at for entry in self.journal[-1:]), default=0))


@dataclass
class Tally:
    """How often a site was asked and did what, over the closed attempts.

    Attributes:
        statuses: status → attempts.
        committed: committed rounds of training that it is in.
        trained: attempts that asked it to train, whatever came of them.
        evaluated: attempts that asked it for counts of held-out patients.
    """

    statuses: dict[str, int] = field(default_factory=dict)
    committed: int = 0
    trained: int = 0
    evaluated: int = 0

    def add(self, status: str, *, trains: bool, counts: bool, committed: bool) -> None:
        """A status of an attempt: whether that trained, asked for counts, and was committed."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == "absent":
            return
        self.trained += trains
        self.evaluated += counts
        self.committed += trains and status == "contributed" and committed

    def join(self, other: Tally) -> None:
        """Count another site's as well."""
        for status, times in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + times
        self.committed += other.committed
        self.trained += other.trained
        self.evaluated += other.evaluated


@dataclass
class _Kept:
    """What is known of a study so far."""

    manifest: AnyManifest
    sealed: AnySealed | None
    secure: str | None
    all_others: float | None
    charges: Mapping[str, Charge]
    look: Look | None = None
    attempts: list[AttemptRow] = field(default_factory=list)
    journal: list[JournalEntry] = field(default_factory=list)
    statuses: dict[int, tuple[StatusRow, ...]] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    metrics: dict[tuple[str, ...], tuple[Stamp, list[MetricRow]]] = field(default_factory=dict)
    measured: tuple[Stamp, tuple[MetricRow, ...]] | None = None
    evaluations: dict[int, tuple[Stamp, Evaluation | None]] = field(default_factory=dict)
    histories: dict[int | None, tuple[Stamp, History]] = field(default_factory=dict)

    def count(self, attempt: AttemptRow, statuses: Sequence[StatusRow]) -> None:
        """Take an attempt's statuses into the tallies."""
        trains = attempt.round <= self.manifest.planned_rounds
        counts = isinstance(self.manifest, Manifest) and evaluates(self.manifest, attempt.round)
        committed = attempt.outcome == "committed"
        for row in statuses:
            self.tallies.setdefault(row.site, Tally()).add(
                row.status, trains=trains, counts=counts, committed=committed
            )


class Reader:
    """Reads one store for every page and session; its methods may be called from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._studies: tuple[Stamp, tuple[StudyRow, ...]] | None = None
        self._kept: dict[tuple[int, str | None], _Kept] = {}
        self._rosters: dict[tuple[int, str], frozenset[str]] = {}

    def read_ahead(self) -> None:
        """What most pages need of the newest study, read before anybody waits for it; afterwards only what is new is read."""
        for study in self.studies()[:1]:
            look = self.look(study.key)
            self.tallies(look)
            self.metrics(look, EVERYBODY)
            self.history(look)

    def stamp(self) -> Stamp:
        """Changes with the record."""
        return self._store.stamp()

    def lease(self) -> Lease | None:
        """Which service serves the record, or did last."""
        return self._store.lease()

    def identities(self) -> dict[str, str]:
        """By site, the identity key of every hospital that is enrolled and not revoked."""
        with self._lock:
            return {row.site: row.identity_key for row in self._store.sites() if not row.revoked}

    def keys(self) -> dict[str, str]:
        """The keys that signatures of the audit log are checked by."""
        return self.identities()

    def names(self) -> frozenset[str]:
        """Every site that was ever enrolled or invited to a study."""
        with self._lock:
            enrolled = {row.site for row in self._store.sites()}
            return frozenset(enrolled).union(*(self.sites_of(row) for row in self.studies()))

    def sites_of(self, study: StudyRow) -> frozenset[str]:
        """A study's roster, and whom it was offered to."""
        invited = frozenset(study.invited)
        if study.sealed is None or study.digest is None:
            return invited
        with self._lock:
            mark = (study.key, study.digest)
            if mark not in self._rosters:
                self._rosters[mark] = frozenset(entry.site for entry in parse_sealed(study.sealed).roster)
            return invited | self._rosters[mark]

    def told(self, text: str) -> str:
        """A text from beside the record, as whoever looks may read it: here, whole."""
        return text

    def coordinator_key(self) -> str | None:
        """The coordinator's public key, as its newest sealed study names it."""
        newest = next((row.sealed for row in self.studies() if row.sealed is not None), None)
        return None if newest is None else parse_sealed(newest).coordinator_key

    def releases(self, study_id: str | None = None) -> list[ReleaseRow]:
        """The models that were released, oldest first."""
        with self._lock:
            return self._store.releases(study_id)

    def shared(self, look: Look) -> list[SharedMetrics]:
        """What hospitals gave of their own metrics of a study."""
        with self._lock:
            return self._store.shared(look.study.key)

    def studies(self) -> tuple[StudyRow, ...]:
        """Every study, newest first."""
        with self._lock:
            stamp = self._store.stamp()
            if self._studies is None or self._studies[0] != stamp:
                self._studies = (stamp, tuple(self._store.studies()))
            return self._studies[1]

    def look(self, key: int) -> Look:
        """A study as it stands.

        Raises:
            InputError: no such study.
        """
        with self._lock:
            stamp = self._store.stamp()
            study = next((one for one in self.studies() if one.key == key), None) or self._store.study(key)
            kept = self._of(study)
            if kept.look is None or kept.look.stamp != stamp:
                self._refresh(study, kept)
                kept.look = self._made(study, kept, stamp)
            return kept.look

    def statuses(self, look: Look, newest: int | None = None) -> dict[int, tuple[StatusRow, ...]]:
        """By attempt, every site's status; of so many attempts alone, the newest. Those of an open attempt are not known."""
        with self._lock:
            wanted = [row.attempt for row in (look.attempts if newest is None else look.attempts[-newest:])]
            kept = self._of(look.study)
            closed = {row.attempt for row in look.attempts if row.outcome is not None}
            missing = [attempt for attempt in wanted if attempt in closed and attempt not in kept.statuses]
            if missing:
                self._take(kept, look.study.key, missing[0], look)
            return {attempt: kept.statuses.get(attempt, ()) for attempt in wanted}

    def tallies(self, look: Look) -> Mapping[str, Tally]:
        """By site, how often it was asked and did what."""
        with self._lock:
            kept = self._of(look.study)
            self.statuses(look)
            if not kept.tallies:
                rows = {row.attempt: row for row in look.attempts}
                for attempt, statuses in kept.statuses.items():
                    if attempt in rows:
                        kept.count(rows[attempt], statuses)
            return {site: kept.tallies.get(site, Tally()) for site in look.sites}

    def metrics(self, look: Look, slices: Sequence[str]) -> list[MetricRow]:
        """All metrics of these slices, of every version that was evaluated, oldest first."""
        with self._lock:
            kept, name = self._of(look.study), tuple(slices)
            at, rows = kept.metrics.get(name, ((), []))
            if at != look.stamp:
                since = rows[-1].version if rows else 0  # a resumed study may evaluate its newest model again
                fresh = self._store.metrics(look.study.key, since=since, slices=name)
                rows = [row for row in rows if row.version < since] + fresh
                kept.metrics[name] = (look.stamp, rows)
            return rows

    def measured(self, look: Look) -> tuple[MetricRow, ...]:
        """Every metric of every slice of the newest model that was evaluated."""
        with self._lock:
            kept = self._of(look.study)
            if kept.measured is None or kept.measured[0] != look.stamp:
                kept.measured = (look.stamp, tuple(self._store.metrics(look.study.key, newest=True)))
            return kept.measured[1]

    def evaluation(self, look: Look, version: int) -> Evaluation | None:
        """The summed histogram of a model version."""
        with self._lock:
            kept = self._of(look.study)
            found = kept.evaluations.get(version)
            if found is None or found[0] != look.stamp:
                kept.evaluations = {version: (look.stamp, self._store.evaluation(look.study.key, version))}
            return kept.evaluations[version][1]

    def verdicts(self, look: Look) -> tuple[Verdict, ...] | None:
        """What the gates come to; None before the first round is committed, when there is no model to hold against them, and for a
        study that trains none."""
        return gates.verdicts(self.history(look)) if look.trains and look.version > 0 else None

    def history(self, look: Look, newest: int | None = None) -> History:
        """The study for what explains and compares histories; with so many attempts alone, the newest: then its counts are of them,
        and whether it may be released is left open. What each site signed is not in it, nor are the messages of sums."""
        with self._lock:
            kept = self._of(look.study)
            found = kept.histories.get(newest)
            if found is None or found[0] != look.stamp:
                found = (look.stamp, self._history(look, newest))
                kept.histories[newest] = found
            return found[1]

    def _history(self, look: Look, newest: int | None) -> History:
        kept, statuses, shared = self._of(look.study), self.statuses(look, newest), tuple(self.shared(look))
        attempts = tuple(row for row in look.attempts if row.attempt in statuses)
        rows = tuple(row for attempt in statuses.values() for row in attempt)
        view = _view(look, kept, attempts, rows, self.measured(look))
        if newest is None:
            view = replace(view, not_releasable=gates.withheld(kept.manifest, view, kept.sealed, shared))
        opened = {row.attempt for row in attempts}
        journal = tuple(e for e in look.journal if e.kind != "opened" or e.data["attempt"] in opened)
        return History(
            study=look.study, view=view, journal=journal, alarms=look.alarms, evidence={}, shared=shared,
            calibration=calibration(self._store, look.study, view), votes=votes(self._store, look.study, view),
        )  # fmt: skip

    def _of(self, study: StudyRow) -> _Kept:
        """What is kept of a study; nothing of it changes after the seal but its rows."""
        found = self._kept.get((study.key, study.digest))
        if found is None:
            sealed = None if study.sealed is None else parse_sealed(study.sealed)
            found = _Kept(
                manifest=parse_stored(study.manifest) if sealed is None else sealed.manifest,
                sealed=sealed,
                secure=secure_words(sealed)
                if sealed is not None and sealed.manifest.privacy.secure_aggregation
                else None,
                all_others=study_costs(sealed, sealed.roster[0].site)["everyone"]
                if sealed is not None and shares_noise(sealed)
                else None,
                charges=charges(sealed),
            )
            self._kept[study.key, study.digest] = found
        return found

    def _refresh(self, study: StudyRow, kept: _Kept) -> None:
        """Take in what the record has had since."""
        after = kept.journal[-1].sequence if kept.journal else 0
        fresh = self._store.journal(study.key, without=_UNREAD, after=after)
        kept.journal.extend(fresh)
        if any(entry.kind in _PAST for entry in fresh):
            kept.attempts.clear()
            kept.statuses.clear()
            kept.tallies.clear()
            kept.metrics.clear()
        first = next((row.attempt for row in kept.attempts if row.outcome is None), None)
        since = first if first is not None else (kept.attempts[-1].attempt + 1 if kept.attempts else 1)
        kept.attempts[:] = [row for row in kept.attempts if row.attempt < since]
        kept.attempts.extend(self._store.attempts(study.key, since))

    def _made(self, study: StudyRow, kept: _Kept, stamp: Stamp) -> Look:
        newest = self._store.newest_model(study.key)
        explored = 0 if kept.sealed is None or isinstance(kept.sealed, SealedManifest) else _answered(kept.attempts)
        sites = {entry.site for entry in kept.sealed.roster} if kept.sealed is not None else set(study.invited)
        attempts = tuple(kept.attempts)
        return Look(
            stamp=stamp,
            study=study,
            manifest=kept.manifest,
            sealed=kept.sealed,
            attempts=attempts,
            journal=tuple(kept.journal),
            standings=tuple(self._store.standings(study.key)),
            alarms=tuple(alarm for alarm in self._store.alarms() if alarm.site in sites),
            version=newest[0] if newest else explored,
            model=newest[1] if newest else None,
            question=question(attempts, kept.journal) if study.state == "running" else None,
            count_deviation=kept.sealed.count_deviation if isinstance(kept.sealed, SealedManifest) else 0.0,
            charges=kept.charges,
        )

    def _take(self, kept: _Kept, key: int, since: int, look: Look) -> None:
        """Statuses of the closed attempts from one on."""
        closed = {row.attempt: row for row in look.attempts if row.outcome is not None}
        counted = bool(kept.tallies)
        found: dict[int, list[StatusRow]] = {
            attempt: [] for attempt in closed if attempt >= since and attempt not in kept.statuses
        }
        for row in self._store.statuses(key, since):
            if row.attempt in found:
                found[row.attempt].append(row)
        for attempt, rows in found.items():
            kept.statuses[attempt] = tuple(rows)
            if counted:
                kept.count(closed[attempt], rows)


def _answered(attempts: Sequence[AttemptRow]) -> int:
    return int(any(row.outcome == "committed" for row in attempts))


def _view(
    look: Look,
    kept: _Kept,
    attempts: tuple[AttemptRow, ...],
    statuses: tuple[StatusRow, ...],
    metrics: tuple[MetricRow, ...],
) -> StudyView:
    """As `readings.view`, of rows that are known."""
    study, manifest = look.study, kept.manifest
    return StudyView(
        key=study.key,
        study_id=study.study_id,
        title=manifest.study.title,
        digest=study.digest,
        state=study.state,
        reason=study.reason,
        wish=study.wish,
        rounds=look.rounds,
        version=look.version,
        model=look.model,
        epsilon=manifest.privacy.epsilon,
        delta=manifest.privacy.delta,
        epsilon_all_others=kept.all_others,
        meaning=privacy_words(manifest),
        secure=kept.secure,
        standings=look.standings,
        attempts=attempts,
        statuses=statuses,
        metrics=metrics,
        kind="train" if look.trains else "explore",
        questions=() if look.question is None else (look.question,),
        code=study.code,
    )
