"""Which nodes were let in and which were refused, on the way from the listener's thread to the audit log.

The listener only counts: it must not wait for a disk, and whoever is refused may knock as often as it likes. Every beat of the
service takes what came: a login is entered at once, a refusal with its count, at most once a minute for a certificate and a code.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from fedward.privacy.errors import FedwardError
from fedward.server.home import CoordinatorHome
from fedward.server.records import CredentialRow
from fedward.server.store import Store
from fedward.study.connection import UNKNOWN_NODE, UNKNOWN_NOW

REFUSED_S: Final = 60.0
_MOST: Final = 1024
_GOOD_FAITH: Final = frozenset({UNKNOWN_NODE, UNKNOWN_NOW})
"""A node that outlived a restart of the SuperLink, and a store that is busy, are no attempts to get in."""


class Logins:
    """Counts what the listener tells, thread-safe and bounded."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._told: dict[tuple[str, str], float] = {}

    def heard(self, fingerprint: str, code: str) -> None:
        """A certificate's node was let in (no code), or refused with a code. Never blocks long, never raises."""
        if code in _GOOD_FAITH:
            return
        with self._lock:
            known = (fingerprint, code)
            if known not in self._counts and len(self._counts) >= _MOST:
                known = ("", "too-many")
            self._counts[known] = self._counts.get(known, 0) + 1

    def due(self) -> list[tuple[str, str, int]]:
        """(certificate, code, how often) of what is to be entered now."""
        now = self._now()
        with self._lock:
            self._told = {known: at for known, at in self._told.items() if now - at < REFUSED_S}
            found = [
                (*known, count) for known, count in self._counts.items() if not known[1] or known not in self._told
            ]
            for fingerprint, code, _ in found:
                del self._counts[fingerprint, code]
                if code:
                    self._told[fingerprint, code] = now
            return found

    def back(self, due: list[tuple[str, str, int]]) -> None:
        """What could not be entered comes with what is due next."""
        with self._lock:
            for fingerprint, code, count in due:
                self._counts[fingerprint, code] = self._counts.get((fingerprint, code), 0) + count
                self._told.pop((fingerprint, code), None)


class Enrolled:
    """The store's credentials as the hospitals' listener asks for them, and what connected since it was last asked."""

    def __init__(self, store: Store, logins: Logins) -> None:
        self._live = store.live_credentials()
        self._logins = logins
        self._seen: queue.SimpleQueue[str] = queue.SimpleQueue()

    def find(self, fingerprint: str) -> CredentialRow | None:
        return self._live.find(fingerprint)

    def connected(self, fingerprint: str) -> None:
        self._logins.heard(fingerprint, "")
        self._seen.put(fingerprint)

    def refused(self, fingerprint: str, code: str) -> None:
        self._logins.heard(fingerprint, code)

    def taken(self) -> Iterator[str]:
        """The certificates that nodes connected with, each once."""
        while not self._seen.empty():
            yield self._seen.get()

    def again(self, fingerprint: str) -> None:
        """What could not be noted is taken once more."""
        self._seen.put(fingerprint)

    def close(self) -> None:
        self._live.close()


def record_logins(home: CoordinatorHome, store: Store, logins: Logins, log: logging.Logger) -> None:
    """Enter what is due; errors as `CoordinatorHome.record`, and those of the store."""
    due = logins.due()
    sites = {row.fingerprint: row.site for row in store.credentials()} if due else {}
    while due:
        fingerprint, code, count = due[-1]
        site, key = sites.get(fingerprint), fingerprint or None
        try:
            if code:
                log.warning(
                    "refused %s: site %s, certificate %s, %d times", code, site or "unknown", fingerprint[:16], count
                )
                home.record("login-refused", site=site, key=key, code=code, count=count)
            else:
                home.record("login", site=site, key=key)
        except FedwardError:
            logins.back(due)  # not lost: the next beat tries again
            raise
        due.pop()
