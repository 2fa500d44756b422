"""What the metrics read from a site's home: budget, entries, decisions that wait, disk, certificate; kept for a while.

Verifying a ledger for every scrape would cost more than a round: what was read is good for `KEPT_S`, by one reader at a time.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from cryptography import x509

from fedward.client import approvals
from fedward.client.decisions import load
from fedward.client.exposition import Stock
from fedward.client.home import SiteHome
from fedward.privacy.errors import FedwardError

KEPT_S: Final = 30.0
T = TypeVar("T")


class StockTaker:
    """Takes stock of one home, at most once in `KEPT_S` seconds."""

    def __init__(self, home: SiteHome, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[float, Stock] | None = None

    def __call__(self) -> Stock:
        """The newest stock. Never raises: what cannot be read is left out."""
        with self._lock:
            now = self._clock()
            if self._kept is None or not 0 <= now - self._kept[0] < KEPT_S:
                self._kept = (now, self._take(now))
            return self._kept[1]

    def _take(self, now: float) -> Stock:
        home = self._home
        spent, committed, budget, entries = _or_none(lambda: self._ledger(now)) or (None, None, None, None)
        return Stock(
            spent=spent,
            committed=committed,
            budget=budget,
            ledger_entries=entries,
            audit_entries=_or_none(lambda: home.audit.size),
            pending=_or_none(lambda: pending(home, now)),
            disk_free_bytes=_or_none(lambda: shutil.disk_usage(home.path).free),
            certificate_s=_or_none(lambda: _expires(home) - now),
        )

    def _ledger(self, now: float) -> tuple[float, float, float, int]:
        with self._home.ledger() as ledger:
            return ledger.spent(), ledger.committed(at=int(now)), ledger.budget.epsilon, len(ledger.entries())


def pending(home: SiteHome, now: float) -> int:
    """How many proposed studies, not expired, nobody here has decided on."""
    waiting = [sealed for sealed in approvals.proposals(home) if now < sealed.expires_at]
    decisions = load(home)
    return sum(decisions.standing(sealed.digest, int(now)).state == "pending" for sealed in waiting)


def _expires(home: SiteHome) -> float:
    made = x509.load_pem_x509_certificate(home.certificate_file.read_bytes())
    return made.not_valid_after_utc.timestamp()


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (FedwardError, OSError, ValueError):
        return None
