"""One holder at a time of a file, which the operating system frees however its holder dies (flock(2))."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fedward.privacy.errors import FedwardError


@contextlib.contextmanager
def hold(path: Path, patience: float, refusal: Callable[[], FedwardError]) -> Iterator[None]:
    """Hold the file for the block, waiting for at most `patience` seconds; one that only looks holds it for an instant.

    Raises:
        FedwardError: another holds it; the error is what `refusal` gives.
    """
    with path.open("a") as lock:
        deadline = time.monotonic() + patience
        while not _taken(lock.fileno(), fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise refusal()
            time.sleep(0.05)
        yield


def held(path: Path) -> bool:
    """Whether another holds the file now. Shared: two that look at the same time do not see each other."""
    with path.open("a") as lock:
        return not _taken(lock.fileno(), fcntl.LOCK_SH)


def _taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
