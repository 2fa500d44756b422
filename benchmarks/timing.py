"""Times that can be compared on a machine that others use too: repetitions take turns, and the fastest of each counts.

Whatever else runs only adds to a time, so the least is nearest to what the work itself takes. Taking turns lets a slow minute
meet everyone alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Work: TypeAlias = Callable[[], float]
"""Does something once and says how many seconds of it count."""


def timed(function: Callable[[], object]) -> Work:
    """Work of which everything counts."""

    def work() -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    return work


def fastest(repetitions: int, *works: Work) -> list[float]:
    """The least seconds of each, in their order."""
    turns = [[work() for work in works] for _ in range(repetitions)]
    return [min(times) for times in zip(*turns, strict=True)]
