"""A command that must end in time, with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from itertools import count
from pathlib import Path

_MARK = "FEDWARD_PEER"
_numbers = count()


class NotMeasuredError(Exception):
    """Why a peer has no figures; one line."""


def finish(command: list[str], limit_s: float, environment: dict[str, str], folder: Path | None = None) -> str:
    """Run a command to its end; what it printed.

    Args:
        command: the program and its arguments.
        limit_s: seconds after which it is ended, with all that it started.
        environment: its environment variables.
        folder: where it runs; here by default.

    Raises:
        NotMeasuredError: it could not start, failed (then the last line of its error), or did not end in time.
    """
    mark = f"{_MARK}={os.getpid()}-{next(_numbers)}"
    try:
        process = subprocess.Popen(
            command, env=environment | dict([mark.split("=")]), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise NotMeasuredError(f"{command[0]} did not start: {error}") from error
    try:
        printed, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise NotMeasuredError(f"did not end within {limit_s:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _end_marked(mark.encode())
        process.wait()
    if process.returncode:
        raise NotMeasuredError(last_line(errors) or last_line(printed) or f"ended with code {process.returncode}")
    return printed


def _end_marked(mark: bytes) -> None:
    """End what left the process group (NVFLARE's workers do), found by the mark in its environment, where /proc tells it."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark in entry.read_bytes().split(b"\0"):
                os.kill(int(entry.parent.name), signal.SIGKILL)


def last_line(text: str) -> str:
    """The last line that says something; pip's warnings do not."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    return lines[-1] if lines else ""
