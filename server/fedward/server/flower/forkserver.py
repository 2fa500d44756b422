"""`ForkServer`: the coordinator's side of the process that forks a ServerApp for each run.

A ServerApp's imports take seconds and a third of a gigabyte; a fork of what has imported them takes milliseconds and shares their
memory. Between the coordinator and each ServerApp there is a socket pair, which tells either that the other has ended, however it
ended; between the coordinator and the fork server there is another, for orders.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedward.privacy.errors import UnreachableError
from fedward.server.flower.process import MOST_BYTES, ORPHAN_S

UNKNOWN: Final = -1
"""The exit code of a ServerApp whose fork server died before it."""
_CODE_S: Final = 1.0
"""From a ServerApp's end to its exit code, at most."""


@dataclass
class App:
    """A ServerApp's process."""

    number: int
    line: socket.socket
    """Ends when the process does; and the process ends when this is shut."""
    code: int | None = None


class ForkServer:
    """Starts ServerApps. Safe to use from any thread."""

    def __init__(
        self, component: str, *, home: Path, environment: Mapping[str, str], log_file: Path | None, log_level: str
    ) -> None:
        """`component` is the ServerApp as `module:attribute`; what a ServerApp prints goes to `log_file`, or nowhere."""
        self._arguments = [component.partition(":")[0], log_level]
        self._environment = _app_environment(home, environment)
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._apps: dict[int, App] = {}
        self._numbers = 0
        self._lock = threading.RLock()

    def start(self) -> None:
        """Let it import, unless it runs already."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._close()
                self._spawn()

    def fork(self, order: Mapping[str, str]) -> App:
        """A ServerApp that carries out an order. Orders go over the line: a command line is read by every user of the machine.

        Raises:
            UnreachableError: the fork server ended twice in a row before it took the order.
        """
        with self._lock:
            for _ in range(2):
                self.start()
                with contextlib.suppress(OSError):  # it died between the look and the order
                    return self._send(order)
                self._end_process()
        raise UnreachableError(
            "The process that starts ServerApps ended before it took an order", remedy="look into Flower's log file"
        )

    def poll(self, app: App) -> int | None:
        """The exit code of a ServerApp that has ended; None while it runs."""
        with self._lock:
            if app.code is None and _is_over(app.line):
                deadline = time.monotonic() + _CODE_S
                while app.code is None and self._hear(deadline - time.monotonic()):
                    pass
                app.code = UNKNOWN if app.code is None else app.code
                self._apps.pop(app.number, None)
            return app.code

    def end(self, app: App) -> None:
        """End a ServerApp kindly (its line ends), then not."""
        with contextlib.suppress(OSError):
            app.line.shutdown(socket.SHUT_WR)
        if not select.select([app.line], [], [], ORPHAN_S + 1)[0]:
            with self._lock, contextlib.suppress(OSError):
                if self._line is not None:
                    self._line.send(json.dumps({"kill": app.number}).encode())
            select.select([app.line], [], [], _CODE_S)
        self.poll(app)
        app.line.close()

    def stop(self) -> None:
        """End the fork server; ServerApps that run go on until they are ended. May be called twice."""
        with self._lock:
            self._end_process()

    def _send(self, order: Mapping[str, str]) -> App:
        line = self._line
        if line is None:
            raise BrokenPipeError
        self._numbers += 1
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                message = json.dumps({"app": self._numbers, **order}).encode()
                socket.send_fds(line, [message], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        app = self._apps[self._numbers] = App(self._numbers, ours)
        return app

    def _hear(self, seconds: float) -> bool:
        """Take one message of the fork server; False if none comes in time, or none will come any more."""
        if self._line is None or not select.select([self._line], [], [], max(0.0, seconds))[0]:
            return False
        try:
            data = self._line.recv(MOST_BYTES)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        app = self._apps.get(message["app"])
        if app is not None:
            app.code = message["code"]
        return True

    def _spawn(self) -> None:
        command = "from fedward.server.flower import serve_app; serve_app()"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, open(self._log_file or os.devnull, "ab") as log:  # noqa: PTH123 - os.devnull is no path of ours
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-c", command, *self._arguments, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                # A Ctrl-C in the coordinator's terminal is the coordinator's to handle.
                start_new_session=True,
            )
        self._line = ours

    def _end_process(self) -> None:
        self._close()
        if self._process is not None:
            self._process.kill()  # it keeps nothing, and may be in the middle of its imports
            self._process.wait()
            self._process = None

    def _close(self) -> None:
        while self._hear(0.0):  # the codes of those that ended before it
            pass
        if self._line is not None:
            self._line.close()
            self._line = None


def _is_over(line: socket.socket) -> bool:
    """Whether the other side of an app's line, which never speaks, has gone."""
    return bool(select.select([line], [], [], 0)[0])


def _app_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The ServerApps' environment: they speak to the loopback listener only, never through a proxy."""
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"}
    environment = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    return {**environment, "FLWR_HOME": str(home), "NO_PROXY": "*", **extra}
