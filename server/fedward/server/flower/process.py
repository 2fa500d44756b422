"""The ServerApp's process: what it does, and how the coordinator starts it, gives it its orders and ends it."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Queue
from typing import Any, Final

from flwr.serverapp import ServerApp

from fedward.privacy.errors import UnreachableError

_ORPHAN_S: Final = 3.0

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
    """The ServerApp's process: import, wait for orders on the standard input, run, and end with the coordinator.

    The arguments are the module to import ahead and Flower's log level.
    """
    module, level = sys.argv[1:3]
    quiet_flower(None, level, stream=True)
    run_serverapp = importlib.import_module("flwr.superlink.runtime").run_serverapp
    with contextlib.suppress(Exception):  # Flower imports it again and reports what is wrong with it
        component = importlib.import_module(module)
        if not select.select([0], [], [], 0)[0]:  # no order is waiting: there is time
            getattr(component, "warm_up", lambda: None)()
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    threading.Thread(target=_watch_parent, name="fedward-lifeline", daemon=True).start()
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


def _watch_parent() -> None:
    """End this process when the coordinator's end of the pipe is gone; works for SIGKILL and for zombies alike."""
    # The bare descriptor: a thread that waits in sys.stdin's buffer makes the interpreter abort when it ends.
    while os.read(0, 4096):
        pass
    _orphaned.set()
    os.kill(os.getpid(), signal.SIGINT)  # Flower's handlers end the run in order
    time.sleep(_ORPHAN_S)
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


def spawn(
    component: str, *, home: Path, environment: Mapping[str, str], log_file: Path | None, log_level: str
) -> subprocess.Popen[bytes]:
    """A process that has imported everything and waits for its orders."""
    command = "from fedward.server.flower import serve_app; serve_app()"
    with open(log_file or os.devnull, "ab") as log:  # noqa: PTH123 - os.devnull is no path of ours
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-c", command, component.partition(":")[0], log_level],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=_app_environment(home, environment),
            # A Ctrl-C in the coordinator's terminal is the coordinator's to handle.
            start_new_session=True,
        )


def _app_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The ServerApp's environment: it speaks to the loopback listener only, never through a proxy."""
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"}
    environment = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    return {**environment, "FLWR_HOME": str(home), "NO_PROXY": "*", **extra}


def give_order(app: subprocess.Popen[bytes], order: Mapping[str, str]) -> None:
    """Tell a waiting process what to run. Over the pipe: a command line is read by every user of the machine."""
    if app.stdin is None:
        raise UnreachableError("The ServerApp's process has no pipe")
    try:
        app.stdin.write(json.dumps(dict(order)).encode() + b"\n")
        app.stdin.flush()
    except OSError:  # it died between the look and the order
        raise UnreachableError("The ServerApp's process ended before it had its orders") from None


def end_process(app: subprocess.Popen[bytes]) -> None:
    """End a process kindly (its pipe closes), then not."""
    with contextlib.suppress(OSError):
        if app.stdin is not None:
            app.stdin.close()
    try:
        app.wait(_ORPHAN_S + 1)
    except subprocess.TimeoutExpired:
        app.kill()
        app.wait()
