"""Whether enough hospitals have approved what is proposed, known before anybody launches it.

Hospitals cannot be heard but by asking: a node answers, and never calls. So the service asks from time to time, about all that is
proposed at once, in a process that ends: often while news is likely, and ever more rarely as a proposal ages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fedward.privacy.signing import Identity
from fedward.server.enrolment import outdated
from fedward.server.lifecycle import Approvals, Life
from fedward.server.proposal import VALID_DAYS, collect_standings
from fedward.server.records import StudyRow
from fedward.server.store import Store
from fedward.server.transport import Clock, Transport
from fedward.study.kinds import parse_sealed

ALL_PROPOSED: Final = -1
"""The key of a run that asks about every proposed study: the store counts studies from 1."""
LEAST_S: Final = 60.0
MOST_S: Final = 900.0
_SHARE: Final = 8
_DAY_S: Final = 86_400


def waits(study: StudyRow, now: int) -> bool:
    """Whether a study is of interest: it can be approved, nobody has launched it, and it has not expired."""
    return (
        study.state in {"proposed", "ready"}
        and study.wish == "none"
        and 0 <= now - study.created_at < VALID_DAYS * _DAY_S
    )


def ask_every(studies: Sequence[StudyRow], now: int) -> float | None:
    """Seconds between two questions: an eighth of the time since the newest of them changed, within limits; None to ask nothing.

    A proposal of two hours is asked about every quarter of an hour, and so is one of two months.
    """
    changed = [study.changed_at for study in studies if waits(study, now)]
    return min(MOST_S, max(LEAST_S, (now - max(changed)) / _SHARE)) if changed else None


def ask_approvals(
    store: Store, transport: Transport, clock: Clock, identity: Identity, report: Callable[[str], None]
) -> None:
    """Ask the sites of every proposed study that can be reached, and note whether enough have approved. Who had not been reached
    before gets the proposal by it."""
    for study in store.studies():
        if waits(study, clock.unix()):
            collect_standings(store, transport, clock, study, identity)
            life = note_approvals(store, study, clock.unix())
            if life.state != study.state:
                report(f"{study.study_id}: {life.state}")


def note_approvals(store: Store, study: StudyRow, at: int) -> Life:
    """Whether enough of those have approved who are still who they were when it was sealed."""
    sealed, gone = parse_sealed(study.sealed or b""), outdated(store, study)
    approved = [row.site for row in store.standings(study.key) if row.state == "approved" and row.site not in gone]
    return store.happened(study.key, Approvals(len(approved) >= sealed.manifest.least_sites), at)
