"""The ServerApps' process: it imports everything once, forks a process for each run, and they end with the coordinator."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Queue
from typing import Any, Final

from flwr.serverapp import ServerApp

ORPHAN_S: Final = 3.0
"""How long a ServerApp may take to end in order once nobody waits for it."""
MOST_BYTES: Final = 65536
"""Of a message between the coordinator and the fork server."""

_orphaned = threading.Event()


def server_app(main: Callable[[Any, Mapping[str, str]], None]) -> Any:
    """The ServerApp that calls `main` with the run's grid and its run config."""
    app = ServerApp()

    def called(grid: Any, context: Any) -> None:
        main(grid, {key: str(value) for key, value in context.run_config.items()})

    app.main()(called)
    return app


def parent_alive() -> bool:
    """In the ServerApp's process: whether the coordinator that started it is still there."""
    return not _orphaned.is_set()


def serve_app() -> None:
    """The fork server: import, then fork a process for each order, until the coordinator's end of the line is gone.

    The arguments are the module to import ahead, Flower's log level, and the descriptor of the line. A message of the
    coordinator is `{"app": n, "address": …, "token": …}` with the app's own line beside it, or `{"kill": n}`. An
    answer is `{"app": n, "code": …}`, once a process has ended.
    """
    module, level, descriptor = sys.argv[1:4]
    line = socket.socket(fileno=int(descriptor))
    quiet_flower(None, level, stream=True)
    run_serverapp = importlib.import_module("flwr.superlink.runtime").run_serverapp
    component: object = None
    with contextlib.suppress(Exception):  # Flower imports it again and reports what is wrong with it
        component = importlib.import_module(module)
    found = _Forks(line).serve(getattr(component, "warm_up", lambda: None))
    if found is not None:
        _run(run_serverapp, *found)


class _Forks:
    """The children of the fork server."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._children: dict[int, int] = {}
        # Nothing happens in the handler: the signal writes to a pipe, which is waited for beside the line.
        self._ended, self._wake = os.pipe()
        os.set_blocking(self._ended, False)
        os.set_blocking(self._wake, False)
        self._handler = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def serve(self, warm_up: Callable[[], None]) -> tuple[dict[str, Any], socket.socket] | None:
        """In a child: its order and its line. None in the fork server, once the coordinator is gone.

        `warm_up` is called as soon as no order is waiting: runs of a coordinator that takes over do not wait for it.
        """
        waited: list[Any] = [self._line, self._ended]
        warm = False
        while True:
            ready, _, _ = select.select(waited, [], [], None if warm else 0)
            if not ready:
                warm = True
                _prepare(warm_up)
            if self._ended in ready:
                self._bury()
            if self._line not in ready:
                continue
            data, descriptors, _, _ = socket.recv_fds(self._line, MOST_BYTES, 1)
            if not data:
                return None
            order = json.loads(data)
            if "kill" in order:
                self._kill(order["kill"])
            elif (found := self._fork(order, descriptors[0])) is not None:
                return found

    def _fork(self, order: dict[str, Any], descriptor: int) -> tuple[dict[str, Any], socket.socket] | None:
        child = os.fork()
        if child:
            os.close(descriptor)
            self._children[child] = order["app"]
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, self._handler)
        os.close(self._ended)
        os.close(self._wake)
        self._line.close()
        return order, socket.socket(fileno=descriptor)

    def _kill(self, app: int) -> None:
        for child, its in self._children.items():  # not buried yet, so the number is still this child's
            if its == app:
                os.kill(child, signal.SIGKILL)

    def _bury(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._ended, 4096)
        for child in list(self._children):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                self._answer({"app": self._children.pop(child), "code": os.waitstatus_to_exitcode(status)})

    def _answer(self, message: Mapping[str, int]) -> None:
        with contextlib.suppress(OSError):  # the coordinator is gone: the line says so next
            self._line.send(json.dumps(message).encode())


def _prepare(warm_up: Callable[[], None]) -> None:
    """Import the rest, once for all children to come."""
    with contextlib.suppress(Exception):  # what is wrong with it, a run says
        warm_up()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page that all of them share


def _run(run_serverapp: Callable[..., None], order: Mapping[str, Any], lifeline: socket.socket) -> None:
    """One run, in a process of its own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("serverapp")  # as `ps` shows it
    threading.Thread(target=_watch_parent, args=(lifeline,), name="fedward-lifeline", daemon=True).start()
    try:
        run_serverapp(
            runtime_api_address=order["address"],
            log_queue=Queue(),  # empty: logs go to our file, not to the SuperLink's memory
            token=order["token"],
            insecure=True,
            runtime_dependency_install=False,
        )
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is over: the lifeline must not trip an orderly exit


def _watch_parent(lifeline: socket.socket) -> None:
    """End this process when the coordinator's end of the line is gone; works for SIGKILL and for zombies alike."""
    with contextlib.suppress(OSError):
        while lifeline.recv(4096):
            pass
    _orphaned.set()
    os.kill(os.getpid(), signal.SIGINT)  # Flower's handlers end the run in order
    time.sleep(ORPHAN_S)
    os._exit(1)


def quiet_flower(log_file: Path | None, level: str = "WARNING", *, stream: bool = False) -> None:
    """Send the logs of Flower and its HTTP libraries to `log_file`, or to the standard error, or nowhere."""
    handler: logging.Handler = logging.NullHandler()
    if log_file is not None:
        handler = logging.FileHandler(log_file)
    elif stream:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("flwr", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
