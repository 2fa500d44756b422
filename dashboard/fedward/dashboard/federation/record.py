"""The coordinator's audit log, read while others write it, and checked on a copy: nothing in the coordinator's home is touched.

`AuditLog` mends what a crash left when it opens a log, under a lock that it makes: a writer's right and not a reader's. So entries
are read from the files, what is new alone, each held against the log's tree; and a whole check is made of a copy.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedward.privacy.auditentries import LogEntry, parse_entry
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.log import AuditLog
from fedward.privacy.logfiles import Plain, Segments, Tree
from fedward.privacy.merkle import leaf_hash
from fedward.study.audit import FOLDER
from fedward.study.files import read_model
from fedward.study.sightings import Sightings


class Entries:
    """The entries of a log in a home folder, as far as they are whole; may be called from several threads."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        self._segments = Segments(self._folder / "entries", Plain())
        self._tree = Tree(self._folder / "tree")
        self._lock = threading.Lock()
        self._read: dict[Path, int] = {}
        self._found: list[LogEntry] = []
        self._next: int | None = None

    def all(self) -> tuple[LogEntry, ...]:
        """Every entry whose text is there, oldest first; only what was added since is read.

        Raises:
            InputError: there is no log; `no-audit-log`.
            IntegrityError: an entry is not what the log's tree says, or is missing.
        """
        if not self._tree.path.is_file():
            raise InputError(
                f"there is no audit log in {self._folder}", remedy="give the coordinator's folder", code="no-audit-log"
            )
        with self._lock:
            known = self._tree.size()
            for segment in self._segments.all():
                begun = self._read.get(segment.path, 0)
                if segment.path.stat().st_size > begun:
                    self._take(segment.path, segment.first if begun == 0 else None, begun, known)
            return tuple(self._found)

    def _take(self, path: Path, first: int | None, begun: int, known: int) -> None:
        """What a segment holds beyond a place in its file, as far as the tree has it."""
        with path.open("rb") as file:
            file.seek(begun)
            data = file.read()
        if first is not None:
            if self._next is not None and first != self._next:
                raise IntegrityError(
                    f"the audit log is cut short: entry {self._next} is missing", code="audit-truncated"
                )
            self._next = first
        number = self._next or 0
        with self._tree.reading() as node:
            for line in data.split(b"\n")[:-1]:
                if number >= known:  # its hashes are about to be written
                    break
                if leaf_hash(line) != node(0, number):
                    raise IntegrityError(f"entry {number} of the audit log was changed", code="audit-changed")
                self._found.append(parse_entry(line, number))
                begun += len(line) + 1
                number += 1
        self._read[path], self._next = begun, number


def load_sightings(home: Path) -> Sightings:
    """What hospitals have signed of the log; nothing yet, where there is no file.

    Raises:
        InputError: the file is damaged.
    """
    path = home / FOLDER / "sightings.json"
    return read_model(path, Sightings, "file of checkpoints") if path.is_file() else Sightings()


@contextmanager
def copied(home: Path) -> Iterator[AuditLog]:
    """A copy of a log as it stands, to be checked whole; errors as `AuditLog.open`.

    The tree is copied before the entries: an entry that is added meanwhile lacks its hashes, as after a crash, and the copy makes
    them again. The other way round it would look as if entries were gone.
    """
    folder = home / FOLDER
    with tempfile.TemporaryDirectory(prefix="fedward-audit-") as made:
        copy = Path(made) / FOLDER
        try:
            copy.mkdir()
            for name in ("origin", "tree", "checkpoint"):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, copy / name)
            shutil.copytree(folder / "entries", copy / "entries")
        except OSError as error:
            raise InputError(f"the audit log in {folder} cannot be read", got=str(error), code="no-audit-log") from None
        yield AuditLog.open(copy)
