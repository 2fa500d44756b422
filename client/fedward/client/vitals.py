"""The running node's signs of life, as it counts them itself: connected or not, last contact, answers and refusals by code.

Numbers of events and codes of closed lists alone; nothing of a patient, a study or a file is kept here. Safe between threads.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fedward.client.door import Released
from fedward.client.flower import CONNECTED, HANDLED, Handler
from fedward.study.codes import leaving

QUIET_S: Final = 300.0
"""A loop that neither reached the coordinator nor told of a failure for so long hangs: failures are told once a minute."""


@dataclass(frozen=True)
class Signs:
    """The signs of life at one moment. Times are Unix seconds; None where it never happened.

    Attributes:
        state: the last code of the connection.
        since: when the node started.
        heard_at: when the coordinator last answered a poll or a heartbeat.
        told_at: when the loop last said anything.
        busy_s: how long the present request has been worked on; 0 if there is none.
    """

    state: str = "starting"
    connected: bool = False
    since: float = 0.0
    heard_at: float | None = None
    told_at: float = 0.0
    busy_s: float = 0.0
    answered: int = 0
    trained: int = 0
    incidents: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)

    def alive(self, now: float) -> bool:
        """Whether the loop goes on: it polls, tells of its failures, or works on a request."""
        return self.busy_s > 0 or now - max(self.told_at, self.heard_at or 0.0) <= QUIET_S


class Vitals:
    """Counts as the node runs. Hand `told` to the loop's report, `heard` to its contact, `logged` to the log."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since = self._told_at = clock()
        self._state, self._connected = "starting", False
        self._heard_at: float | None = None
        self._busy_since: float | None = None
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def told(self, code: str) -> None:
        """The connection's report, by its code."""
        with self._lock:
            self._told_at = self._clock()
            if code in {CONNECTED, HANDLED}:
                self._heard_at = self._told_at
            if code == HANDLED:
                self._counts["answered"] += 1
                return
            self._state, self._connected = code, code == CONNECTED

    def heard(self) -> None:
        """The coordinator answered."""
        with self._lock:
            self._heard_at = self._clock()

    def logged(self, event: str, fields: Mapping[str, object]) -> None:
        """A line of the node's log, by its event; texts are not looked at."""
        with self._lock:
            if event == "error" and "raised" in fields:  # the node's refusals name what was raised; other errors do not
                self._refused[leaving(fields.get("code"))] += 1
            elif event in {"worked", "incident"}:
                self._counts[event] += 1

    def timed(self, handler: Handler) -> Handler:
        """The handler, watched: how long the present request takes."""

        def watched(request: bytes, /) -> Released:
            with self._lock:
                self._busy_since = self._clock()
            try:
                return handler(request)
            finally:
                with self._lock:
                    self._busy_since = None

        return watched

    def signs(self) -> Signs:
        """All of it, now."""
        with self._lock:
            busy = 0.0 if self._busy_since is None else max(self._clock() - self._busy_since, 1e-3)
            return Signs(
                self._state, self._connected, self._since, self._heard_at, self._told_at, busy,
                self._counts["answered"], self._counts["worked"], self._counts["incident"], dict(self._refused),
            )  # fmt: skip
