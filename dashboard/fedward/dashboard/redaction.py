"""What a role does not see is taken out of a study's record, or a run's, before any page gets it. Pure.

A hospital sees its own site's details, a viewer no site's. Every other site is `OTHER` ("another hospital"): what it did in an
attempt still counts, without name, reason, time or number of its own. Its rows have one name for all and stand in no order of their
own, so none can be followed from attempt to attempt; a page that lays out one row a site must count the rows of that name.

Sums over sites, groups' metrics, and what the study's manifest says are for all: every hospital signed the manifest. The sealed
roster (declared patients, keys), other sites' evidence and alarms, and the messages of secure sums are for none of these roles. A
text that names another site is replaced whole: its reasons stand in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from fedward.dashboard.access import Granted, site_details
from fedward.dashboard.record import Record
from fedward.dashboard.views import View
from fedward.server.histories import History
from fedward.server.records import ANSWERED, ASKED, Contribution, JournalEntry, StandingRow, StatusRow, StudyRow
from fedward.server.verdicts import Verdict
from fedward.server.views import StudyView

OTHER: Final = "another hospital"
WITHHELD: Final = "this concerns other hospitals"
_SEES_ALL: Final = frozenset({"coordinator", "auditor"})
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
    ANSWERED: frozenset({"round", "attempt", "choice"}),
}
"""What the journal says that is no site's: kind → fields. What is not here is left out."""


def redacted(history: History, granted: Granted) -> History:
    """A study's record as a role may see it."""
    if granted.role in _SEES_ALL:
        return history
    hidden = _Hidden(granted, _sites(history))
    return History(
        study=hidden.study(history),
        view=hidden.view(history.view),
        journal=tuple(one for entry in history.journal if (one := hidden.entry(entry)) is not None),
        alarms=tuple(row for row in history.alarms if site_details(granted, row.site)),
        evidence={site: said for site, said in history.evidence.items() if site_details(granted, site)},
    )


def redacted_verdicts(verdicts: Sequence[Verdict], history: History, granted: Granted) -> tuple[Verdict, ...]:
    """Gates as a role may see them. `history` is the whole one, which they must be computed from: a part holds other gates."""
    if granted.role in _SEES_ALL:
        return tuple(verdicts)
    hidden = _Hidden(granted, _sites(history))
    return tuple(
        replace(one, value=None, low=None, high=None, of=OTHER, why=hidden.text(one.why) if one.why else "")
        if hidden.names(one.of)
        else replace(one, why=hidden.text(one.why))
        for one in verdicts
    )


def redacted_text(text: str, history: History, granted: Granted) -> str:
    """A text beside a study's record, as a role may see it: whole, or only that it concerns others."""
    return text if granted.role in _SEES_ALL else _Hidden(granted, _sites(history)).text(text)


def redacted_run(record: Record, shown: View, granted: Granted) -> tuple[Record, View]:
    """A simulated run as a role may see it: without other hospitals' rows, and without models that others trained alone."""
    if granted.role in _SEES_ALL:
        return record, shown
    hidden = _Hidden(granted, _run_sites(record))
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


class _Hidden:
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

    def study(self, history: History) -> StudyRow:
        """Without the roster; the manifest as it was sealed."""
        return replace(
            history.study,
            manifest=history.study.manifest if history.sealed is None else history.sealed.manifest.canonical.decode(),
            invited=tuple(self.sites(history.sites)),
            sealed=None,
            signature=None,
            reason=self.text(history.study.reason),
        )

    def view(self, view: StudyView) -> StudyView:
        return replace(
            view,
            reason=self.text(view.reason),
            standings=tuple(sorted((self._standing(row) for row in view.standings), key=_place)),
            attempts=tuple(replace(row, reason=self.text(row.reason)) for row in view.attempts),
            statuses=tuple(sorted((self._status(row) for row in view.statuses), key=_place_in_attempt)),
            metrics=tuple(row for row in view.metrics if not self.names(row.slice)),
            questions=tuple(replace(one, sites=tuple(self.sites(one.sites))) for one in view.questions),
            not_releasable=tuple(self.text(one) for one in view.not_releasable),
            contributed=self._contributed(view.contributed),
        )

    def entry(self, entry: JournalEntry) -> JournalEntry | None:
        """An entry of the journal; None where it is not for this role."""
        if entry.kind not in _KEPT:
            site = entry.data.get("site")
            own = entry.kind == "standing" and isinstance(site, str) and site_details(self._granted, site)
            return entry if own and not self.names(json.dumps(entry.data, default=str)) else None
        data = {name: value for name, value in entry.data.items() if name in _KEPT[entry.kind]}
        return replace(entry, data={name: self._field(name, value) for name, value in data.items()})

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
            return replace(row, reason=self.text(row.reason))
        return StandingRow(OTHER, row.state, "", 0)

    def _status(self, row: StatusRow) -> StatusRow:
        if site_details(self._granted, row.site):
            return replace(row, reason=self.text(row.reason))
        return StatusRow(row.attempt, OTHER, row.status, "", None)


def _place(row: StandingRow) -> tuple[bool, str]:
    return row.site == OTHER, row.state


def _place_in_attempt(row: StatusRow) -> tuple[int, bool, str]:
    return row.attempt, row.site == OTHER, row.status


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
