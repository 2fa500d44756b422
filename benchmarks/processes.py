"""What Linux says of a process: its memory now and at its worst, its processor time, its children."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def resident_bytes(process: int) -> int:
    """Memory that a process holds now; 0 when it is gone."""
    return _status(process, "VmRSS")


def peak_bytes(process: int) -> int:
    """The most memory that a process ever held; 0 when it is gone."""
    return _status(process, "VmHWM")


def cpu_seconds(process: int) -> float:
    """User and system time of a process with all its threads (proc(5), fields 14 and 15 of stat); 0 when it is gone."""
    try:
        fields = _read(process, "stat").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share_bytes(process: int) -> int:
    """Memory that a process holds now, pages that it shares counted in parts (proc(5), Pss of smaps_rollup); 0 when it is gone."""
    return _status(process, "Pss", "smaps_rollup")


def descendants(process: int) -> list[int]:
    """The processes that a process started, and those that these started, that live."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text(encoding="ascii").split()]
    return [*found, *(one for child in found for one in descendants(child))]


def _status(process: int, field: str, file: str = "status") -> int:
    try:
        lines = _read(process, file).splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def _read(process: int, name: str) -> str:
    return Path(f"/proc/{process}/{name}").read_text(encoding="ascii", errors="replace")  # Linux, as hospitals' servers
