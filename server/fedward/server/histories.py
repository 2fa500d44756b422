"""All that the record holds of one study: what explaining, comparing and archiving are pure functions of. `readings` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fedward.server.records import AlarmRow, JournalEntry, SharedMetrics, StatusRow, StudyRow
from fedward.server.views import StudyView

if TYPE_CHECKING:
    from fedward.study.hospital_influence import HospitalInfluence
    from fedward.study.kinds import AnyManifest, AnySealed
    from fedward.study.metrics import CalibrationGroup


@dataclass(frozen=True)
class History:
    """A study's rows. `alarms` are those that nobody has cleared, of the whole federation; `evidence` is each site's
    signed word on the proposal. `calibration` is that of the newest evaluation, over everybody, in groups that are large enough to
    show: the counts themselves may be exact, and leave the coordinator in no other form."""

    study: StudyRow
    view: StudyView
    journal: tuple[JournalEntry, ...]
    alarms: tuple[AlarmRow, ...]
    evidence: Mapping[str, bytes]
    shared: tuple[SharedMetrics, ...] = ()
    """What hospitals gave of their own metrics."""
    calibration: tuple[CalibrationGroup, ...] = ()
    votes: HospitalInfluence | None = None
    """What held-out patients voted for in that evaluation, as it may be shown; None where none vote."""

    @cached_property
    def sealed(self) -> AnySealed | None:
        from fedward.study.kinds import parse_sealed  # noqa: PLC0415 - what only carries a history needs no manifests

        return None if self.study.sealed is None else parse_sealed(self.study.sealed)

    @cached_property
    def manifest(self) -> AnyManifest:
        """As it was sealed; before that, as it was drafted."""
        from fedward.study.kinds import parse_stored  # noqa: PLC0415

        return parse_stored(self.study.manifest) if self.sealed is None else self.sealed.manifest

    @property
    def sites(self) -> tuple[str, ...]:
        """The roster; before the seal, who was invited."""
        if self.sealed is None:
            return tuple(sorted(self.study.invited))
        return tuple(entry.site for entry in self.sealed.roster)

    @cached_property
    def by_attempt(self) -> Mapping[int, tuple[StatusRow, ...]]:
        """Every attempt's statuses, by site."""
        found: dict[int, list[StatusRow]] = {row.attempt: [] for row in self.view.attempts}
        for row in self.view.statuses:
            found.setdefault(row.attempt, []).append(row)
        return {attempt: tuple(rows) for attempt, rows in found.items()}

    @cached_property
    def asked(self) -> Mapping[int, tuple[str, ...]]:
        """Whom each attempt asked."""
        opened = (entry.data for entry in self.journal if entry.kind == "opened")
        return {data["attempt"]: tuple(data["cohort"]) for data in opened}
