"""The time by which a node judges: the machine's, but never before what this site has already seen.

An approval, a study or a reservation that has expired must not come back because the machine's clock is set back, be it by a
correction or by somebody who wants it. What a site has seen is the newest time that this process was told, and that of the audit
log's newest entry, so that a restart forgets nothing. A jump back by more than a day is taken as it is: then the clock was wrong
before, and holding on to its time would keep this site from working for as long. Either way it is noted in the audit log, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fedward.client.home import SiteHome
from fedward.privacy.errors import FedwardError

LONGEST_S: Final = 86_400
"""A jump back that is held against the newest time seen; one that is longer corrects a clock that was wrong."""
NOTED_S: Final = 60
"""A jump back that is worth an entry: less is what time synchronisation does every day."""


class SiteClock:
    """Unix seconds that do not go back. Not for measuring how long something takes."""

    def __init__(self, home: SiteHome, clock: Callable[[], float]) -> None:
        """`clock` is the machine's, Unix seconds."""
        self._home = home
        self._clock = clock
        self._newest = _newest_entry(home)
        self._noted = False

    def __call__(self) -> float:
        """Now. A jump back is noted; where it cannot be noted, the next entry that must be written says why."""
        now = self._clock()
        back = self._newest - now
        if not back > 0:
            self._newest, self._noted = now, False
            return now
        held = back <= LONGEST_S
        if back > NOTED_S and not self._noted:
            self._noted = True
            self._note(int(now), int(back))
        if held:
            return self._newest
        self._newest = now
        return now

    def _note(self, now: int, back: int) -> None:
        try:
            self._home.record("clock-set-back", at=now, count=back)
        except FedwardError:
            self._noted = False  # whatever is asked of the node next is refused for the log


def _newest_entry(home: SiteHome) -> float:
    """When the audit log's newest entry was written; 0 where the log cannot be read, for which every request is refused."""
    try:
        size = home.audit.size
        return float(home.audit.entry(size - 1).at) if size else 0.0
    except FedwardError:
        return 0.0
