"""Runs the monitor: Streamlit on loopback, without telemetry, until somebody ends it."""

from __future__ import annotations

import contextlib
import socket
import threading
from importlib.util import find_spec
from pathlib import Path

from fedward.privacy.errors import InputError, UnreachableError

HOST = "127.0.0.1"
PORT = 8501
"""Streamlit's own; where it is taken and none was asked for, any free one serves."""

_HOSTS = (HOST, "localhost")
"""Names that a browser may have come by: a page of somebody else whose name resolves to here reads nothing."""
_OPTIONS = {
    "server.address": HOST,
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.toolbarMode": "viewer",
    "logger.hideWelcomeMessage": "true",
    "logger.level": "error",
}


def installed() -> None:
    """
    Raises:
        InputError: Streamlit is not installed.
    """
    if find_spec("streamlit") is None:
        raise InputError("the monitor needs Streamlit", remedy='pip install "fedward[monitor]"', code="no-streamlit")


def free_port(wanted: int | None) -> int:
    """The port asked for; else the usual one, or any that is free.

    Raises:
        UnreachableError: the port asked for is taken or may not be used.
    """
    if wanted is not None:
        if _bound(wanted) is None:
            raise UnreachableError(
                f"port {wanted} of {HOST} is taken or may not be used",
                remedy="choose another --port, or leave it out",
                code="port-taken",
            )
        return wanted
    return _bound(PORT) or _bound(0) or PORT


def _bound(port: int) -> int | None:
    """The port that could be bound, 0 standing for any; None where it could not."""
    with contextlib.closing(socket.socket()) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((HOST, port))
        except OSError:
            return None
        return int(opened.getsockname()[1])


def serve(kind: str, named: str, port: int, browser: bool) -> None:
    """Serve a monitor until SIGINT or SIGTERM.

    Args:
        kind: "run" or "store", as `app` reads it.
        named: the run's folder, or the store's place.
        port: of 127.0.0.1.
        browser: whether to open it there.
    """
    from streamlit.web.cli import main  # noqa: PLC0415 - slow, and a node may lack it

    threading.Thread(target=_warm, daemon=True).start()
    # Imported before anybody waits for the first page.
    from fedward.dashboard import charts  # noqa: F401, PLC0415
    from fedward.dashboard.federation import reading  # noqa: F401, PLC0415

    options = _OPTIONS | {"server.port": str(port), "server.headless": "false" if browser else "true"}
    script = str(Path(__file__).with_name("app.py"))
    flags = [f"--{name}={value}" for name, value in options.items()]
    flags += [f"--server.allowedHosts={host}" for host in _HOSTS]
    main.main(["run", script, *flags, "--", kind, named], prog_name="streamlit", standalone_mode=False)


def _warm() -> None:
    """The first ε of a process takes seconds, for what it imports: let nobody wait for that on the Privacy page."""
    from fedward.privacy.accounting import epsilon  # noqa: PLC0415
    from fedward.privacy.events import DpEvent  # noqa: PLC0415

    epsilon((DpEvent(2.0, 1.0, 1),), 1e-3)
