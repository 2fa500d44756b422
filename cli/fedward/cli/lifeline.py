"""A service that was started by another program for its own time ends with it, however that program died."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT = "FEDWARD_PARENT"
"""The environment variable by which a program asks the services that it starts to end with it: its process number."""
LOOK_S = 0.5


def end_with_parent() -> None:
    """If a parent asked for it, send this process SIGTERM once that parent is gone. Returns at once."""
    parent = os.environ.get(PARENT, "")
    if parent.isdigit():
        threading.Thread(target=_watch, args=(int(parent),), name="fedward-lifeline", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:  # an orphan gets another parent at once
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
