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


def descendants(pid: int) -> set[int]:
    """The running processes that a process started, and that those started."""
    parents = {other: _read(other, "stat").rpartition(b")")[2].split()[1:2] for other in _all()}
    found, new = set(), {pid}
    while new:
        new = {other for other, parent in parents.items() if parent and int(parent[0]) in new} - found
        found |= new
    return {other for other in found if alive(other)}


def of_folder(folder: Path) -> dict[int, str]:
    """Running processes whose command line or environment names the folder, by their command line."""
    name = str(folder).encode()
    found = [pid for pid in _all() if name in _read(pid, "cmdline") or name in _read(pid, "environ")]
    return {pid: _read(pid, "cmdline").replace(b"\0", b" ").decode() for pid in found if alive(pid)}


def listening(pid: int) -> set[tuple[str, int]]:
    """IPv4 and IPv6 addresses and ports at which a process listens; IPv6 in the kernel's form."""
    inodes = {link.readlink().name for link in (PROC / str(pid) / "fd").iterdir() if link.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / str(pid) / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            host, _, port = fields[1].partition(":")
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add((_dotted(host) if table == "tcp" else host, int(port, 16)))
    return found


def _dotted(host: str) -> str:
    return ".".join(str(part) for part in reversed(bytes.fromhex(host)))
