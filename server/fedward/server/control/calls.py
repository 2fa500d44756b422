"""Every call in the audit log: what changes something each time, before it is done; what only reads, and what was refused, at
once and then at most hourly with its count. Thread-safe and bounded by who may call what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from fedward.server.control.roles import READS
from fedward.server.home import CoordinatorHome

AGAIN_S: Final = 3600.0
_MOST: Final = 2048


class Calls:
    """Enters calls in a coordinator's audit log."""

    def __init__(self, home: CoordinatorHome, now: Callable[[], float] = time.monotonic) -> None:
        self._home = home
        self._now = now
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str, str], tuple[float, int]] = {}

    def called(self, name: str, key: str, call: str) -> None:
        """A call that may be made; errors as `CoordinatorHome.record`, and then it must not be."""
        if call not in READS:
            self._home.record("called", by=name, key=key, stage=_stage(call))
        elif count := self._due((key, call, "")):
            self._home.record("called", by=name, key=key, stage=_stage(call), count=count)

    def refused(self, name: str | None, key: str, call: str, code: str) -> None:
        """A call that may not be made, or that failed by this code."""
        if count := self._due((key, call, code)):
            self._home.record("call-refused", by=name, key=key, stage=_stage(call), code=code, count=count)

    def _due(self, known: tuple[str, str, str]) -> int:
        """How many are to be entered now; 0 if it is too early."""
        now = self._now()
        with self._lock:
            at, count = self._told.get(known, (now - AGAIN_S, 0))
            if now - at < AGAIN_S:
                self._told[known] = (at, count + 1)
                return 0
            if len(self._told) >= _MOST:
                self._told.clear()
            self._told[known] = (now, 0)
            return count + 1


def _stage(call: str) -> str:
    """ClearAlarm as clear-alarm."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in call).lstrip("-")
