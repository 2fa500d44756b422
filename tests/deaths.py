"""At which place of a coordinator's run which process is killed: told by a file, as the processes live for many cases.

A folder holds `places`, what was passed and by whom, and `order`: the place at which a process is to be killed, and its number (0
is the one that reaches it). Once it was, the order is called `done`. A place's name says in which part of a run it is, what is done
there, and the how manieth of that name it is: `round/before send masked/1`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from pathlib import Path

FOLDER, HOME = "FEDWARD_DEATHS", "FEDWARD_DEATHS_HOME"
"""The environment variables that name the folder, and the coordinator's home."""
_VARIES = re.compile(r"[0-9a-f]{64}|\d{4,}")


class Deaths:
    """Names each place, writes it down, and carries out the order."""

    def __init__(self, folder: Path, phase: str) -> None:
        self._order, self._done = folder / "order", folder / "done"
        self._log = os.open(folder / "places", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lock = threading.Lock()
        self.enter(phase)

    def enter(self, phase: str) -> None:
        """From now on in this part of a run, whose places are counted anew."""
        self._phase = phase
        self._seen: Counter[str] = Counter()

    def reach(self, name: str) -> None:
        with self._lock:
            step = f"{self._phase}/{_VARIES.sub('*', name)}"
            self._seen[step] += 1
            place = f"{step}/{self._seen[step]}"
            os.write(self._log, f"{os.getpid()} {place}\n".encode())
            try:
                order = json.loads(self._order.read_bytes())
            except FileNotFoundError:
                return
            if order["place"] == place:
                self._order.rename(self._done)
                os.kill(order["victim"] or os.getpid(), signal.SIGKILL)
