"""What a node that is killed leaves to the next one of its home: the session that it was in, and the message that it had taken."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_MOST_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Left:
    """A session that ended without a word: the node's number at the SuperLink, and the header of the message that it had taken and
    not answered; empty if none."""

    node_id: int
    message: bytes


class Remembered:
    """A file that says which session the node of this home is in, for as long as it is in one.

    Flower refuses a node that it still counts as online, 20 s long after a crash, since it cannot tell a restart from a second node
    with the same key. The home can: one node runs in it at a time, by its lock. So only that node may end the session,
    in the same folder of the same machine, since the machine's start; a copy of the home elsewhere must not.

    It helps, and nothing depends on it: a file that cannot be written or read, or is damaged, is as none.
    """

    def __init__(self, file: Path | None) -> None:
        """`file` lies in the home, of which the caller holds the lock; None remembers nothing."""
        self._file = file
        self._node_id: int | None = None

    def left(self) -> Left | None:
        """What the node before this one left, if it did not end in order."""
        if self._file is None or self._node_id is not None:
            return None
        try:
            with self._file.open("rb") as file:
                said = json.loads(file.read(_MOST_BYTES))
            found = Left(int(said["node"]), base64.b64decode(said["message"], validate=True))
            return found if said["place"] == _place(self._file.parent) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def entered(self, node_id: int) -> None:
        """The node is in a session from now on, and works on nothing."""
        self._node_id = node_id
        self._say(b"")

    def took(self, message: bytes) -> None:
        """The node has taken the message with this header; the SuperLink delivers it to nobody else."""
        self._say(message)

    def answered(self) -> None:
        """The message that it took last needs no answer any more."""
        self._say(b"")

    def gone(self) -> None:
        """The session has ended in order, or the SuperLink has forgotten it."""
        self._node_id = None
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _say(self, message: bytes) -> None:
        """Not synced: it is for a process that dies, and a machine that starts again has another place."""
        if self._file is None or self._node_id is None:
            return
        with contextlib.suppress(OSError):
            said = {
                "place": _place(self._file.parent),
                "node": self._node_id,
                "message": base64.b64encode(message).decode(),
            }
            draft = self._file.with_suffix(".new")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                json.dump(said, file)
            draft.replace(self._file)


def _place(folder: Path) -> list[str | int]:
    """This folder, on this machine since its start. Raises: OSError where that cannot be told."""
    seen = folder.stat()
    return [_BOOT.read_text(encoding="ascii").strip(), seen.st_dev, seen.st_ino]
