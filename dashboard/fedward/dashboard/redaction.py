"""What a role does not see is taken out of a study's record, or a run's, before any page gets it. Pure.

A hospital sees its own site's details, a viewer no site's. Every other site is `OTHER` ("another hospital"): what it did in an
attempt still counts, without name, reason, time or number of its own. Its rows have one name for all and stand in no order of their
own, so none can be followed from attempt to attempt; a page that lays out one row a site must count the rows of that name.

Sums over sites, groups' metrics, and what the study's manifest says are for all: every hospital signed the manifest. The sealed
roster (declared patients, keys), other sites' evidence and alarms, and the messages of secure sums are for none of these roles. A
text that names another site is replaced whole: its reasons stand in it. What is not named here is left out: every row is made anew,
field by field, so that a field which somebody adds later is not shown before somebody here says that it may be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from fedward.dashboard.access import Granted, sees_all, site_details
from fedward.dashboard.record import Record
from fedward.dashboard.views import View
from fedward.server.histories import History
from fedward.server.records import (
    ANSWERED,
    ASKED,
    AlarmRow,
    AttemptRow,
    Contribution,
    JournalEntry,
    MetricRow,
    Question,
    SharedMetrics,
    StandingRow,
    StatusRow,
    StudyRow,
)
from fedward.server.verdicts import Verdict
from fedward.server.views import StudyView

OTHER: Final = "another hospital"
WITHHELD: Final = "this concerns other hospitals"
_KEPT: Final[Mapping[str, frozenset[str]]] = {
    "drafted": frozenset({"study_id"}),
    "sealed": frozenset({"digest"}),
    "state": frozenset({"state", "reason"}),
    "wish": frozenset({"wish"}),
    "started": frozenset({"model"}),
    "opened": frozenset({"run", "round", "attempt", "base", "cohort"}),
    "closed": frozenset({"attempt", "outcome", "reason", "model"}),
    "gates": frozenset({"held", "missed"}),
    ASKED: frozenset({"round", "attempt", "sites", "at", "until"}),
    ANSWERED: frozenset({"round", "attempt", "choice", "by"}),
    "released": frozenset({"study_id", "number", "model", "by"}),
    "rolled-back": frozenset({"study_id", "number", "model", "by"}),
}
"""What the journal says that is no site's: kind → fields. What is not here is left out."""
_OWN: Final = frozenset({"standing", "metrics-shared"})
"""Kinds that say what one site did, which that site sees."""


def redacted(history: History, granted: Granted, known: Iterable[str] = ()) -> History:
    """A study's record as a role may see it. `known`: sites that may be named although no row of the study is theirs."""
    if sees_all(granted):
        return history
    hidden = Hidden(granted, {*known, *_sites(history)})
    return History(
        study=hidden.study(history.study, _manifest(history), history.sites),
        view=hidden.view(history.view),
        journal=hidden.journal(history.journal),
        alarms=hidden.alarms(history.alarms),
        evidence={site: said for site, said in history.evidence.items() if site_details(granted, site)},
        shared=hidden.shared(history.shared),
        calibration=history.calibration,
    )


def redacted_verdicts(verdicts: Sequence[Verdict], history: History, granted: Granted) -> tuple[Verdict, ...]:
    """Gates as a role may see them. `history` is the whole one, which they must be computed from: a part holds other gates."""
    return tuple(verdicts) if sees_all(granted) else Hidden(granted, _sites(history)).verdicts(verdicts)


def redacted_text(text: str, history: History, granted: Granted) -> str:
    """A text beside a study's record, as a role may see it: whole, or only that it concerns others."""
    return text if sees_all(granted) else Hidden(granted, _sites(history)).text(text)


def redacted_run(record: Record, shown: View, granted: Granted) -> tuple[Record, View]:
    """A simulated run as a role may see it: without other hospitals' rows, and without models that others trained alone."""
    if sees_all(granted):
        return record, shown
    hidden = Hidden(granted, _run_sites(record))
    own = hidden.frame(record.scores)
    curtain = replace(
        shown,
        models=hidden.frame(shown.models),
        hospitals=hidden.frame(shown.hospitals),
        gains=hidden.frame(shown.gains),
        hidden=len(shown.gains) - len(hidden.frame(shown.gains)),
        extras={name: hidden.frame(frame) for name, frame in shown.extras.items()},
    )
    options = {
        name: value for name, value in record.options.items() if not hidden.names(json.dumps(value, default=str))
    }
    summary = {
        name: value for name, value in record.summary.items() if not hidden.names(json.dumps(value, default=str))
    }
    return replace(record, scores=own, options=options, summary=summary), curtain


class Hidden:
    """Which names a role does not see, and what stands in their place."""

    def __init__(self, granted: Granted, sites: Iterable[str]) -> None:
        self._granted = granted
        others = sorted((site for site in sites if site and not site_details(granted, site)), key=len, reverse=True)
        names = "|".join(re.escape(site) for site in others)
        self._pattern = re.compile(rf"(?<![a-z0-9])(?:{names})(?![a-z0-9])", re.IGNORECASE) if names else None
        self._own = re.compile(rf"(?<![\w-]){re.escape(granted.site)}(?![\w-])") if granted.site else None

    def names(self, text: str) -> bool:
        """Whether a text names a site that is not to be seen."""
        rest = text if self._own is None else self._own.sub("", text)
        return self._pattern is not None and self._pattern.search(rest) is not None

    def text(self, text: str) -> str:
        return WITHHELD if self.names(text) else text

    def site(self, name: str) -> str:
        return name if site_details(self._granted, name) else OTHER

    def sites(self, names: Iterable[str]) -> list[str]:
        """Own first, so that the place says nothing of the others."""
        return sorted((self.site(name) for name in names), key=lambda name: name == OTHER)

    def study(self, row: StudyRow, manifest: str, sites: Iterable[str]) -> StudyRow:
        """Without the roster. `manifest`: as it was sealed, and before that as it was drafted."""
        return StudyRow(
            key=row.key,
            study_id=row.study_id,
            manifest=manifest,
            invited=tuple(self.sites(sites)),
            sealed=None,
            signature=None,
            digest=row.digest,
            state=row.state,
            reason=self.text(row.reason),
            wish=row.wish,
            created_at=row.created_at,
            changed_at=row.changed_at,
            code=row.code,
        )

    def view(self, view: StudyView) -> StudyView:
        return StudyView(
            key=view.key,
            study_id=view.study_id,
            title=view.title,
            digest=view.digest,
            state=view.state,
            reason=self.text(view.reason),
            wish=view.wish,
            rounds=view.rounds,
            version=view.version,
            model=view.model,
            epsilon=view.epsilon,
            delta=view.delta,
            epsilon_all_others=view.epsilon_all_others,
            meaning=view.meaning,
            secure=view.secure,
            standings=self.standings(view.standings),
            attempts=self.attempts(view.attempts),
            statuses=self.statuses(view.statuses),
            metrics=self.metrics(view.metrics),
            kind=view.kind,
            answers=view.answers,
            questions=tuple(self.question(one) for one in view.questions),
            not_releasable=tuple(self.text(one) for one in view.not_releasable),
            code=view.code,
            contributed=self._contributed(view.contributed),
        )

    def verdicts(self, found: Iterable[Verdict]) -> tuple[Verdict, ...]:
        """Of gates that were computed from the whole record: which hold, and of another hospital no value."""
        return tuple(
            Verdict(one.gate, one.side, one.limit, one.holds, of=OTHER, why=WITHHELD if one.why else "")
            if self.names(one.of)
            else Verdict(
                one.gate, one.side, one.limit, one.holds, one.value, one.low, one.high, one.of, self.text(one.why)
            )
            for one in found
        )

    def standings(self, rows: Iterable[StandingRow]) -> tuple[StandingRow, ...]:
        return tuple(sorted((self._standing(row) for row in rows), key=_place))

    def attempts(self, rows: Iterable[AttemptRow]) -> tuple[AttemptRow, ...]:
        return tuple(
            AttemptRow(
                row.attempt,
                row.round,
                row.base,
                row.outcome,
                self.text(row.reason),
                row.model,
                row.opened_at,
                row.seconds,
            )
            for row in rows
        )

    def statuses(self, rows: Iterable[StatusRow]) -> tuple[StatusRow, ...]:
        return tuple(sorted((self._status(row) for row in rows), key=_place_in_attempt))

    def metrics(self, rows: Iterable[MetricRow]) -> tuple[MetricRow, ...]:
        """Those of groups and of everybody."""
        told = list(rows)
        kept = {name for name in {row.slice for row in told} if not self.names(name)}
        return tuple(row for row in told if row.slice in kept)

    def question(self, one: Question) -> Question:
        return Question(one.round, one.attempt, tuple(self.sites(one.sites)), one.at, one.until, one.choice)

    def alarms(self, rows: Iterable[AlarmRow]) -> tuple[AlarmRow, ...]:
        """Those about one's own site."""
        return tuple(
            AlarmRow(row.site, self.text(row.what), row.at) for row in rows if site_details(self._granted, row.site)
        )

    def shared(self, rows: Iterable[SharedMetrics]) -> tuple[SharedMetrics, ...]:
        """What one's own site gave away: it signed that, and nobody else is in it."""
        return tuple(row for row in rows if site_details(self._granted, row.site))

    def journal(self, entries: Iterable[JournalEntry]) -> tuple[JournalEntry, ...]:
        return tuple(one for entry in entries if (one := self.entry(entry)) is not None)

    def entry(self, entry: JournalEntry) -> JournalEntry | None:
        """An entry of the journal; None where it is not for this role."""
        if entry.kind not in _KEPT:
            site = entry.data.get("site")
            own = entry.kind in _OWN and isinstance(site, str) and site_details(self._granted, site)
            return entry if own and not self.names(json.dumps(entry.data, default=str)) else None
        data = {name: value for name, value in entry.data.items() if name in _KEPT[entry.kind]}
        said = {name: self._field(name, value) for name, value in data.items()}
        return JournalEntry(entry.sequence, entry.at, entry.kind, said)

    def frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A table without the rows that name a hidden site."""
        if self._pattern is None or frame.empty:
            return frame
        said = frame.select_dtypes(exclude="number").astype(str)
        kept = [not any(self.names(cell) for cell in row) for row in said.itertuples(index=False, name=None)]
        return frame[kept].reset_index(drop=True)

    def _field(self, name: str, value: Any) -> Any:
        if name in {"cohort", "sites"} and isinstance(value, list):
            return self.sites(str(one) for one in value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._field("", one) for one in value]
        return value if value is None or isinstance(value, (bool, int, float)) else WITHHELD

    def _contributed(self, rows: Sequence[Contribution]) -> tuple[Contribution, ...]:
        """Own rounds, and those of all others together, as `contributions` counts them from `statuses`."""
        own = [row for row in rows if site_details(self._granted, row.site)]
        others = sum(row.rounds for row in rows) - sum(row.rounds for row in own)
        return (*own, Contribution(OTHER, others)) if len(own) < len(rows) else tuple(own)

    def _standing(self, row: StandingRow) -> StandingRow:
        if site_details(self._granted, row.site):
            return StandingRow(row.site, row.state, self.text(row.reason), row.at)
        return StandingRow(OTHER, row.state, "", 0)

    def _status(self, row: StatusRow) -> StatusRow:
        if site_details(self._granted, row.site):
            return StatusRow(row.attempt, row.site, row.status, self.text(row.reason), row.seconds)
        return StatusRow(row.attempt, OTHER, row.status, "", None)


def _place(row: StandingRow) -> tuple[bool, str]:
    return row.site == OTHER, row.state


def _place_in_attempt(row: StatusRow) -> tuple[int, bool, str]:
    return row.attempt, row.site == OTHER, row.status


def _manifest(history: History) -> str:
    return history.study.manifest if history.sealed is None else history.sealed.manifest.canonical.decode()


def _sites(history: History) -> set[str]:
    """Every site that any row names, on the roster or not."""
    view = history.view
    found = {*history.sites, *history.study.invited, *history.evidence}
    found |= {row.site for rows in (view.standings, view.statuses, view.contributed, history.alarms) for row in rows}
    found |= {site for question in view.questions for site in question.sites}
    said = (entry.data.get("site") for entry in history.journal)
    return found | {site for site in said if isinstance(site, str)}


def _run_sites(record: Record) -> set[str]:
    slices = record.scores["slice"].astype(str)
    models = record.scores["model"].astype(str)
    found = {name.removeprefix("site=") for name in slices if name.startswith("site=")}
    return found | {name.removeprefix("alone:") for name in models if name.startswith("alone:")}
