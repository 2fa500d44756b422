"""Audit: can I trust this record?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedward.dashboard import words
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.record import copied, load_sightings
from fedward.dashboard.federation.views import auditing as views
from fedward.dashboard.federation.views import marks
from fedward.dashboard.sheet import PRINTED, Sheet
from fedward.privacy.auditentries import LogEntry
from fedward.privacy.errors import FedwardError
from fedward.server.home import CoordinatorHome

SHOWN = 500
"""Entries that the table shows; a search looks through all."""
ELSEWHERE = "The audit log lies in the coordinator's own folder, and this is its database alone."
CHECKED = "Every entry and every hash is computed again, on a copy; signatures are checked by the keys that hospitals had enrolled."
_MARKS = {True: marks.HOLDS, False: marks.FAILS, None: marks.UNKNOWN}


def sentence(here: Here, home: CoordinatorHome, entries: Sequence[LogEntry], made: Sequence[views.Check] | None) -> str:
    """`made`: what was verified, None before."""
    return views.sentence(len(entries), made, signed(here, home), len(here.reader.keys()))


def signed(here: Here, home: CoordinatorHome) -> list[views.Countersigned]:
    return views.countersigned(load_sightings(home.path), here.reader.keys())


def verify(here: Here, home: CoordinatorHome) -> Iterator[views.Check]:
    """Every check, each as it is done; a log that cannot be read at all is one that fails."""
    try:
        sightings, key = load_sightings(home.path), here.reader.coordinator_key()
        with copied(home.path) as log:
            yield from views.checks(log, home.settings.federation_id, key, sightings, here.reader.keys())
    except FedwardError as error:
        yield views.Check("The log can be read", False, error.what)


def results(sheet: Sheet, made: Sequence[views.Check]) -> None:
    """What each check came to."""
    for check in made:
        sheet.marked(_MARKS[check.holds], f"{check.name}: {check.found}")


def vouched(here: Here, home: CoordinatorHome, sheet: Sheet, size: int) -> None:
    """Up to which entry of so many each hospital has signed the log."""
    sheet.heading(f"Up to where {'each' if here.whole else 'your'} hospital vouches for it")
    sites = sorted(here.reader.identities())
    frame = views.signatures(signed(here, home), sites, size)
    sheet.table("countersignatures", frame, "countersignatures", open_=len(sites) <= PRINTED)


def listed(sheet: Sheet, entries: Sequence[LogEntry], wanted: str = "") -> None:
    """The newest entries in which every word that is looked for stands."""
    found = views.table(entries, wanted)
    sheet.note(
        f"{len(found)} of {words.counted(len(entries), 'entry', 'entries')}"
        + (f"; the newest {SHOWN} are shown" if len(found) > SHOWN else "")
    )
    sheet.table("audit entries", found[:SHOWN], "audit", open_=True)
