"""Which sums of this site's un-noised numbers were opened, for good: at most one set of sites a base model.

Two sums of equal numbers over sets that differ in one site are that site's numbers. Differential privacy makes the second
sum harmless; counts of held-out patients, and updates without it, carry no noise. So a site that has helped to open one set's
sum on a base model helps with no other set on it, whatever attempt it comes in. An honest coordinator that died before it
committed asks the same set again, which says nothing new.

One file a study, a JSON line an opened sum, on disk before the shares leave. A cut last line is of a write that no share
followed; any other damage refuses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fedward.privacy.errors import IntegrityError, UnreachableError


class Reveals:
    """The sums of one study that this site helped to open. Also kept in memory: a restored file forgets nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sets: dict[str, tuple[str, ...]] = {}

    def other_than(self, base: str, survivors: Sequence[str]) -> tuple[str, ...] | None:
        """The set whose sum on this base model was opened, if it is another one than `survivors`.

        Raises:
            IntegrityError: the file is damaged.
        """
        for known, sites in self._read().items():
            self._sets.setdefault(known, sites)
        opened = self._sets.get(base)
        return opened if opened is not None and opened != tuple(survivors) else None

    def add(self, base: str, survivors: Sequence[str]) -> None:
        """Record, on disk, that this set's sum is about to be opened.

        Raises:
            IntegrityError: another set's was.
            UnreachableError: it cannot be written; the shares must not leave.
        """
        if self.other_than(base, survivors) is not None:
            raise IntegrityError("another set's sum was opened on this base model", code="differencing")
        if base in self._sets:
            return
        try:
            self._append(json.dumps({"base": base, "sites": list(survivors)}) + "\n")
        except OSError as error:
            raise UnreachableError(
                "the opened sum cannot be recorded", got=error.strerror, remedy="free some disk", code="disk"
            ) from None
        self._sets[base] = tuple(survivors)

    def _append(self, line: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = not self._path.exists()
        with self._path.open("a+b") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() and _cut(self._path):
                file.truncate(self._path.read_bytes().rfind(b"\n") + 1)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            _sync_folder(self._path.parent)

    def _read(self) -> dict[str, tuple[str, ...]]:
        if not self._path.exists():
            return {}
        found: dict[str, tuple[str, ...]] = {}
        for line in self._path.read_bytes().split(b"\n")[:-1]:
            try:
                entry = json.loads(line)
                found[str(entry["base"])] = tuple(str(site) for site in entry["sites"])
            except (ValueError, TypeError, KeyError):
                raise IntegrityError(
                    f"{self._path.name} is damaged",
                    expected="a JSON line an opened sum",
                    remedy="restore it from a backup; without it this site cannot tell which sums were opened",
                ) from None
        return found


def _cut(path: Path) -> bool:
    return not path.read_bytes().endswith(b"\n")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
