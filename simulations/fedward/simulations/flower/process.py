"""The driver's process as its parent has it: started, spoken to, and ended with everything that it started."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fedward.simulations.flower.parcels import Header, receive, send

END_S = 10.0
"""How long it may take to end by itself."""


class Driver:
    """A driver and the socket to it."""

    def __init__(self, setup: Header, patience: float) -> None:
        """Start it; `setup` is what it must know, and `patience` how many seconds it may leave a message unread."""
        # Where Ray would go: below a deep folder its sockets' names would have more than the 107 characters allowed.
        self._folder = Path(tempfile.mkdtemp(prefix="fedward-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp")))  # noqa: S108
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", max(1, int(patience)), 0))
        command = [sys.executable, "-m", "fedward.simulations.flower.driver", str(theirs.fileno())]
        with theirs, (self._folder / "log").open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then ends the other.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                env=_environment(local=setup["address"] is None),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self.send(dict(setup) | {"folder": str(self._folder)})

    def send(self, header: Header, parcel: bytes = b"") -> None:
        """Raises OSError as `parcels.send`."""
        send(self._connection, header, parcel)

    def receive(self, seconds: float) -> tuple[dict[str, Any], bytes] | None:
        """What comes within so many seconds, or None. Raises EOFError and OSError as `parcels.receive`."""
        return receive(self._connection) if self._connection.poll(max(0.0, seconds)) else None

    def last_words(self) -> str:
        """The last line that the process wrote."""
        lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else "nothing was said"

    def close(self) -> None:
        """End the process and Ray's, whatever they are at."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        _kill_session(self._process.pid)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _kill_session(leader: int) -> None:
    """Ray gives some of its processes groups of their own, and two of them outlive a driver that was killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    for path in Path("/proc").glob("[0-9]*/stat"):  # elsewhere than on Linux there is none
        with contextlib.suppress(OSError):
            session = int(path.read_text().rpartition(")")[2].split()[3])
            if session == leader:
                os.kill(int(path.parent.name), signal.SIGKILL)


def _environment(*, local: bool) -> dict[str, str]:
    """The driver's environment, which Ray's processes inherit where they are ours."""
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    loopback = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what Ray calls its binding to loopback, on Linux too
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_health_check_failure_threshold": "200",  # a machine that stalls for a minute has not lost its only node
    }
    return os.environ | quiet | (loopback if local else {})
