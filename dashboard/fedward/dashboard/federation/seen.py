"""The record as one role may see it: what `reading.Reader` says, with the methods that pages call, and of other hospitals only what
`redaction` leaves. Pages get the one or the other by `seen`, and cannot ask for more than it has.

Everything is taken from the whole record first, as gates and ε of a part would be others, and then made anew. It is made at each
rerun for whoever looks and kept nowhere: what all sessions share is the reader, which knows nobody. A method that the reader gets
and this class has not is an error of the page that calls it; a field that a row gets is left out until it is named here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from fedward.dashboard.access import Granted, sees_all, sees_study, site_details
from fedward.dashboard.federation.reading import Look, Reader, Stamp, Tally
from fedward.dashboard.redaction import OTHER, Hidden, redacted
from fedward.privacy.errors import InputError
from fedward.server.histories import History
from fedward.server.leases import Lease
from fedward.server.records import Evaluation, MetricRow, ReleaseRow, SharedMetrics, StatusRow, StudyRow
from fedward.server.verdicts import Verdict


class Seen:
    """A record without other hospitals' details, for one look at it. Methods as the reader's."""

    def __init__(self, reader: Reader, granted: Granted) -> None:
        self._reader, self._granted = reader, granted
        self._names = reader.names()
        self._hidden = Hidden(granted, self._names)
        self._whole: dict[int, Look] = {}

    def stamp(self) -> Stamp:
        return self._reader.stamp()

    def lease(self) -> Lease | None:
        """Until when a service has the record; not which."""
        found = self._reader.lease()
        return None if found is None else Lease(0, "", "", taken_at=found.taken_at, until=found.until)

    def identities(self) -> dict[str, str]:
        """One's own."""
        return {site: key for site, key in self._reader.identities().items() if site_details(self._granted, site)}

    def keys(self) -> dict[str, str]:
        """Every hospital's: signatures are checked alike for whoever looks, and what is said of them is not the same (`told`)."""
        return self._reader.keys()

    def coordinator_key(self) -> str | None:
        return self._reader.coordinator_key()

    def told(self, text: str) -> str:
        return self._hidden.text(text)

    def studies(self) -> tuple[StudyRow, ...]:
        """Those that a role sees; their manifests are in their looks."""
        return tuple(self._hidden.study(row, "", self._reader.sites_of(row)) for row in self._visible())

    def look(self, key: int) -> Look:
        """Errors as the reader's, for a study that the role does not see too."""
        if key not in {row.key for row in self._visible()}:
            raise InputError(f"no study number {key}")  # as of one that is not in the record
        whole = self._reader.look(key)
        self._whole[key] = whole
        hidden = self._hidden
        return Look(
            stamp=whole.stamp,
            study=hidden.study(whole.study, whole.manifest.canonical.decode(), whole.sites),
            manifest=whole.manifest,
            sealed=None,
            attempts=hidden.attempts(whole.attempts),
            journal=hidden.journal(whole.journal),
            standings=hidden.standings(whole.standings),
            alarms=hidden.alarms(whole.alarms),
            version=whole.version,
            model=whole.model,
            question=None if whole.question is None else hidden.question(whole.question),
            count_deviation=whole.count_deviation,
            charges={site: one for site, one in whole.charges.items() if site_details(self._granted, site)},
        )

    def statuses(self, look: Look, newest: int | None = None) -> dict[int, tuple[StatusRow, ...]]:
        found = self._reader.statuses(self._of(look), newest)
        return {attempt: self._hidden.statuses(rows) for attempt, rows in found.items()}

    def tallies(self, look: Look) -> Mapping[str, Tally]:
        """One's own, and all others' together under one name."""
        made: dict[str, Tally] = {}
        for site, tally in self._reader.tallies(self._of(look)).items():
            made.setdefault(self._hidden.site(site), Tally()).join(tally)
        return made

    def metrics(self, look: Look, slices: Sequence[str]) -> list[MetricRow]:
        return list(self._hidden.metrics(self._reader.metrics(self._of(look), slices)))

    def measured(self, look: Look) -> tuple[MetricRow, ...]:
        return self._hidden.metrics(self._reader.measured(self._of(look)))

    def evaluation(self, look: Look, version: int) -> Evaluation | None:
        found = self._reader.evaluation(self._of(look), version)
        if found is None:
            return None
        sites, metrics = tuple(self._hidden.sites(found.sites)), self._hidden.metrics(found.metrics)
        return Evaluation(found.version, found.counts, sites, metrics)

    def shared(self, look: Look) -> list[SharedMetrics]:
        """What one's own hospital gave away."""
        return list(self._hidden.shared(self._reader.shared(self._of(look))))

    def releases(self, study_id: str | None = None) -> list[ReleaseRow]:
        ids = {row.study_id for row in self._visible()}
        return [self._release(row) for row in self._reader.releases(study_id) if row.study_id in ids]

    def verdicts(self, look: Look) -> tuple[Verdict, ...] | None:
        found = self._reader.verdicts(self._of(look))
        return None if found is None else self._hidden.verdicts(found)

    def history(self, look: Look, newest: int | None = None) -> History:
        return redacted(self._reader.history(self._of(look), newest), self._granted, self._names)

    def _visible(self) -> Iterable[StudyRow]:
        return [row for row in self._reader.studies() if sees_study(self._granted, self._reader.sites_of(row))]

    def _of(self, look: Look) -> Look:
        """The whole study that a look was made from."""
        return self._whole[look.study.key]

    def _release(self, row: ReleaseRow) -> ReleaseRow:
        """Without what was signed, which has the gates of every hospital in it; of that, only why."""
        said = json.loads(row.statement).get("reason", "") if row.statement else ""
        text = self._hidden.text
        return ReleaseRow(
            study_id=row.study_id,
            number=row.number,
            study=row.study,
            model=row.model,
            version=row.version,
            statement=json.dumps({"reason": text(str(said))}).encode(),
            signature="",
            released_at=row.released_at,
            by=text(row.by),
            withdrawn_at=row.withdrawn_at,
            withdrawn_by=None if row.withdrawn_by is None else text(row.withdrawn_by),
            withdrawn_why=None if row.withdrawn_why is None else text(row.withdrawn_why),
        )


def seen(reader: Reader, granted: Granted) -> Reader | Seen:
    """The record for whoever looks: whole for those who see everything."""
    return reader if sees_all(granted) else Seen(reader, granted)


def others(look: Look) -> int:
    """How many hospitals of a study are not told apart."""
    return look.sites.count(OTHER)


def named(look: Look) -> tuple[str, ...]:
    """The hospitals that are told by name, in the roster's order."""
    return tuple(site for site in look.sites if site != OTHER)
