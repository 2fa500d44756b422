"""Processes as Linux shows them: who belongs to a folder, who is whose child, who is still there."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""


def _all() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit()]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(fields) and fields[0] not in {b"Z", b"X"}


def children(pid: int) -> set[int]:
    """The running children of a process."""
    parents = {other: _read(other, "stat").rpartition(b")")[2].split()[1:2] for other in _all()}
    return {other for other, parent in parents.items() if parent == [str(pid).encode()] and alive(other)}


def of_folder(folder: Path) -> dict[int, str]:
    """Running processes whose command line or environment names the folder, by their command line."""
    name = str(folder).encode()
    found = [pid for pid in _all() if name in _read(pid, "cmdline") or name in _read(pid, "environ")]
    return {pid: _read(pid, "cmdline").replace(b"\0", b" ").decode() for pid in found if alive(pid)}
