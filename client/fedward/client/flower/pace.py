"""How long the loop waits: between two polls, and after a failure."""

from __future__ import annotations

import random
import time
from typing import Final

_MAX_BACKOFF_S: Final = 5.0
# How long polls stay fast after a message: the next stage of a round usually follows within this.
_BUSY_S: Final = 3.0
# A poll that took longer was held open by the coordinator until it had news: polling on at once costs nothing.
_HELD_S: Final = 0.5


class Pace:
    """How long to wait between two polls: short while a round is on, long when nothing happens."""

    def __init__(self, busy_s: float, idle_s: float) -> None:
        self._busy_s = busy_s
        self._idle_s = idle_s
        self._next_s = busy_s
        self._busy_until = 0.0

    def after_message(self) -> None:
        """The round goes on: poll fast again."""
        self._next_s = self._busy_s
        self._busy_until = time.monotonic() + _BUSY_S

    def after_silence(self, took_s: float) -> float:
        """The seconds to wait after a poll that took `took_s` seconds and brought nothing."""
        if took_s >= _HELD_S:
            return self._busy_s
        if time.monotonic() >= self._busy_until:
            self._next_s = min(self._next_s * 1.5, self._idle_s)
        return self._next_s


class Backoff:
    """Growing waits with jitter, so that the hospitals of a restarted coordinator do not return in step."""

    def __init__(self, first: float = 0.2) -> None:
        self._first = first
        self._next = first

    def next(self) -> float:
        """The next wait in seconds."""
        wait = self._next
        self._next = min(self._next * 2, _MAX_BACKOFF_S)
        return wait * random.uniform(0.8, 1.0)  # noqa: S311 - jitter, no secret

    def reset(self) -> bool:
        """Start over; true if there was a failure since the last reset."""
        failed = self._next != self._first
        self._next = self._first
        return failed
