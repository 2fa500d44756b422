"""The durable audit log: entries are added and never changed, and their Merkle tree can prove it. IO.

`append` returns when the entry is on the disk. Several processes may append: each holds the lock while it does, and takes in first
what the others wrote. An entry is written and synced before its hashes are, so a crash leaves at most

- a line that was cut off, which nobody was promised: it is taken out, and the next entry, `mended`, says how much it was;
- entries whose hashes are missing: they are made again;

and never a hash without its entry. Where one is, entries were removed, and the log refuses to go on: `audit-truncated`.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedward.privacy.auditentries import LogEntry, Value, make_entry, parse_entry
from fedward.privacy.canonical import digest
from fedward.privacy.checkpoint import Checkpoint
from fedward.privacy.durable import replace_file, sync_folder
from fedward.privacy.errors import InputError, IntegrityError, UnreachableError, UsageError
from fedward.privacy.logfiles import Plain, Sealer, Segment, Segments, Tree, write_at
from fedward.privacy.merkle import (
    HASH_BYTES,
    Range,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    nodes_of,
    range_of,
    root_of,
)

RETENTION_DAYS: Final = 2192
"""Six years, leap days included: 45 CFR 164.316(b)(2)(i) asks for them."""

DAY_S: Final = 86_400
SEGMENT_BYTES: Final = 4 * 2**20
SEGMENT_S: Final = 31 * DAY_S

Progress = Callable[[int, int], None]
"""Told now and then how many entries of how many are done."""


@dataclass
class _State:
    """What this process knows of the files; true as long as their lengths are these."""

    range: Range
    segment: Segment
    bytes: int
    since: int
    """When the newest segment's first entry was written, Unix seconds."""


class AuditLog:
    """One party's audit log in a folder of its own. Its methods may be called from several threads and processes."""

    def __init__(self, folder: Path, sealer: Sealer | None = None) -> None:
        """Reads nothing yet; see `create` and `open`."""
        self.folder = folder
        self.segments = Segments(folder / "entries", sealer or Plain())
        self.tree = Tree(folder / "tree")
        self._state: _State | None = None
        self._threads = threading.RLock()
        self._handle: int | None = None

    @classmethod
    def create(cls, folder: Path, origin: str, at: int, sealer: Sealer | None = None) -> AuditLog:
        """A new log, whose first entry is its name; one whose creation was cut off is created again.

        Raises:
            UsageError: there is one, or the name is none.
            UnreachableError: the folder cannot be written.
        """
        log = cls(folder, sealer)
        with _writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log._held():
            if log.exists():
                raise UsageError(f"an audit log lies in {folder}", remedy="keep using it", code="audit-exists")
            with _writing(folder):
                if not log.tree.path.exists():
                    log.tree.create()
                replace_file(folder / "origin", origin.encode(), 0o600)
                sync_folder(folder.parent)
            log.append("begun", {"origin": origin}, at)
        return log

    @classmethod
    def open(cls, folder: Path, sealer: Sealer | None = None) -> AuditLog:
        """An existing log, its newest segment held against the tree and the tree against the newest checkpoint kept.

        Raises:
            InputError: there is none.
            IntegrityError: it was changed, reordered or cut short.
            UnreachableError: it cannot be read, or mended after a crash.
        """
        log = cls(folder, sealer)
        if not log.exists():
            raise InputError(f"there is no audit log in {folder}", remedy="give the right --home", code="no-audit-log")
        with log._held():
            log._refresh()
        return log

    def exists(self) -> bool:
        """Whether a log lies in the folder; one whose creation was cut off does not."""
        return (self.folder / "origin").is_file() and self.tree.path.is_file() and bool(self.segments.all())

    @property
    def origin(self) -> str:
        """The log's name."""
        try:
            return (self.folder / "origin").read_text(encoding="utf-8")
        except (OSError, ValueError):
            raise IntegrityError(
                "the audit log's name is gone or damaged", remedy=_RESTORE, code="audit-truncated"
            ) from None

    @property
    def size(self) -> int:
        """How many entries there are now."""
        return self.checkpoint().size

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        """What the log has come to, or had come to at `size` entries; not signed.

        Raises:
            UsageError: there are not so many entries.
        """
        with self._held():
            range_ = self._refresh().range
            if size is None or size == range_.size:
                return Checkpoint(self.origin, range_.size, range_.root())
            self._check_size(size)
            with self.tree.reading() as node:
                return Checkpoint(self.origin, size, root_of(node, size))

    def append(self, kind: str, fields: Mapping[str, Value | None], at: int) -> LogEntry:
        """Add an entry; it is durable on return.

        Raises:
            UsageError: it is not of its kind's form; nothing is written.
            IntegrityError: the log does not hold.
            UnreachableError: code `audit-unwritable`; nobody can rely on its being in the log.
        """
        with self._held():
            return self._append(self._refresh(at), kind, fields, at)

    def entries(self, first: int = 0) -> Iterator[LogEntry]:
        """The entries from number `first` on, or from the oldest that is still there; each held against the tree.

        Raises:
            IntegrityError: one was changed, or one is missing.
        """
        size = self.size
        segments = self.segments.all()
        with self.tree.reading() as node:
            for index, segment in enumerate(segments):
                end = segments[index + 1].first if index + 1 < len(segments) else size
                if end <= first:
                    continue
                lines, _ = self.segments.read(segment)
                if len(lines) < end - segment.first:
                    raise _truncated(segment.first + len(lines))
                for number in range(max(first, segment.first), end):
                    data = lines[number - segment.first]
                    if leaf_hash(data) != node(0, number):
                        raise _changed(number)
                    yield _parsed(data, number)

    def entry(self, number: int) -> LogEntry:
        """One entry.

        Raises:
            UsageError: there is none, or its text was removed after its retention.
            IntegrityError: it was changed.
        """
        self._check_size(number + 1)
        found = next(self.entries(number))
        if found.number != number:
            raise UsageError(
                f"the text of entry {number} was removed after its retention", expected=f"{found.number} or later"
            )
        return found

    def oldest(self) -> int:
        """The number of the oldest entry whose text is there."""
        return min((segment.first for segment in self.segments.all()), default=0)

    def leaf(self, number: int) -> bytes:
        """The hash of an entry, its text removed or not."""
        self._check_size(number + 1)
        with self.tree.reading() as node:
            return node(0, number)

    def leaves(self, size: int) -> Iterator[bytes]:
        """The hashes of the first `size` entries."""
        self._check_size(size)
        with self.tree.reading() as node:
            for number in range(size):
                yield node(0, number)

    def inclusion(self, number: int, size: int) -> list[bytes]:
        """The proof that entry `number` is in the first `size` entries; errors as `merkle.inclusion_proof`."""
        self._check_size(size)
        with self.tree.reading() as node:
            return inclusion_proof(node, number, size)

    def consistency(self, old: int, size: int) -> list[bytes]:
        """The proof that the first `old` entries are those of the first `size`; errors as `merkle.consistency_proof`."""
        self._check_size(size)
        with self.tree.reading() as node:
            return consistency_proof(node, old, size)

    @contextmanager
    def still(self) -> Iterator[Checkpoint]:
        """Nobody adds an entry during the block, so that the folder's files can be copied; gives what the log has come to."""
        with self._held():
            yield self.checkpoint()

    def keep_checkpoint(self, note: str) -> None:
        """Keep the text of the newest signed checkpoint of this log: it is compared whenever the log is opened."""
        with self._held(), _writing(self.folder):
            replace_file(self.folder / "checkpoint", note.encode(), 0o600)

    def kept_checkpoint(self) -> str | None:
        """The note that was kept last."""
        path = self.folder / "checkpoint"
        return path.read_text() if path.is_file() else None

    def rotate(self, at: int, retention_days: int = RETENTION_DAYS) -> int:
        """Remove the text of segments whose every entry is older than the retention; hashes stay, so all proofs do.

        What is removed is logged first.

        Returns:
            how many entries' texts were removed.

        Raises:
            UsageError: the retention is shorter than six years.
        """
        if retention_days < RETENTION_DAYS:
            raise UsageError(
                "audit entries are kept for six years",
                expected=f"at least {RETENTION_DAYS} days",
                got=str(retention_days),
            )
        removed = 0
        with self._held():
            for segment in self.segments.all()[:-1]:
                lines, _ = self.segments.read(segment)
                newest = max(_parsed(data, segment.first + index).at for index, data in enumerate(lines))
                if newest + retention_days * DAY_S > at:
                    break
                last = segment.first + len(lines) - 1
                self._append(self._refresh(at), "removed", {"first": segment.first, "last": last, "newest": newest}, at)
                with _writing(self.folder):
                    self.segments.remove(segment)
                removed += len(lines)
        return removed

    def verify(self, progress: Progress = lambda _done, _of: None) -> int:
        """Hold every entry against the tree, and the tree against itself; how many entries there are.

        Raises:
            IntegrityError: an entry or a hash was changed, or is missing; the first such one is named.
        """
        checkpoint = self.checkpoint()
        found = Range()
        entries = self.entries()
        oldest, removed = self.oldest(), -1
        with self.tree.reading() as node:
            for number in range(checkpoint.size):
                if number >= oldest:
                    removed = max(removed, self._told_of(next(entries)))
                for level, made in enumerate(found.append(node(0, number))):
                    if node(level, number >> level) != made:
                        raise _changed(number)
                if number % 10_000 == 0:
                    progress(number, checkpoint.size)
        if removed < oldest - 1:  # rotation logs what it removes; here somebody else did
            raise _truncated(removed + 1)
        progress(checkpoint.size, checkpoint.size)
        return checkpoint.size

    def _told_of(self, entry: LogEntry) -> int:
        """The last entry whose text this one says was removed, -1 if it says nothing of the kind; and the log's name is checked."""
        if entry.kind == "begun" and entry.fields["origin"] != self.origin:
            raise IntegrityError(
                "the audit log's name is not the one that it began with", remedy=_RESTORE, code="audit-changed"
            )
        return int(entry.fields["last"]) if entry.kind == "removed" else -1

    def _check_size(self, size: int) -> None:
        there = self.size
        if not 0 <= size <= there:
            raise UsageError(f"the audit log has {there} entries", got=str(size))

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The lock, for this thread of this process alone."""
        with self._threads:
            if self._handle is not None:
                yield
                return
            if not self.folder.is_dir():  # under a process that has it open
                raise IntegrityError("the audit log is gone", remedy=_RESTORE, code="audit-truncated")
            with _writing(self.folder):
                handle = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._handle = handle
                yield
            finally:
                self._handle = None
                os.close(handle)

    def _refresh(self, at: int | None = None) -> _State:
        """What the files say now. Read anew if another process wrote, or died writing."""
        state = self._state
        if state is not None and self._current(state):
            return state
        now = int(time.time()) if at is None else at
        with _writing(self.folder):
            self._state, torn = self._load(now)
        if torn:
            self._append(self._state, "mended", {"bytes": len(torn), "digest": digest(torn)}, now)
        return self._state

    def _current(self, state: _State) -> bool:
        try:
            return (
                self.tree.length() == HASH_BYTES * nodes_of(state.range.size)
                and state.segment.path.stat().st_size == state.bytes
            )
        except OSError:
            return False

    def _load(self, at: int) -> tuple[_State, bytes]:
        """Hold the newest segment against the tree, make hashes that a crash left out, cut off a torn line."""
        segments, known = self.segments.all(), self.tree.size()
        if not segments:
            if known:
                raise _truncated(0)
            return _State(Range(), self.segments.begin(0), 0, at), b""
        start = max((index for index, one in enumerate(segments) if one.first <= known), default=-1)
        if start < 0:
            raise IntegrityError(
                "the audit log's tree is gone, and entries that made it were removed",
                remedy="restore the folder `audit` from a backup",
                code="audit-truncated",
            )
        with self.tree.reading() as node:
            range_ = range_of(node, segments[start].first)
        torn = b""
        lines: list[bytes] = []
        for index in range(start, len(segments)):
            if segments[index].first != range_.size:
                raise _truncated(range_.size)
            lines, torn = self.segments.read(segments[index])
            self._take(range_, lines, known)
            if torn and index + 1 < len(segments):
                raise _changed(range_.size)
        if range_.size < known:
            raise _truncated(range_.size)
        self._check_kept(range_)
        newest = segments[-1]
        since = _parsed(lines[0], newest.first).at if lines else at
        whole = newest.path.stat().st_size - len(torn)
        if torn:
            os.truncate(newest.path, whole)
        return _State(range_, newest, whole, since), torn

    def _take(self, range_: Range, lines: list[bytes], known: int) -> None:
        with self.tree.reading() as node:
            for data in lines:
                number = range_.size
                made = range_.append(leaf_hash(data))
                if number >= known:
                    self.tree.write(number, made)
                elif made != [node(level, number >> level) for level in range(len(made))]:
                    raise _changed(number)

    def _check_kept(self, range_: Range) -> None:
        note = self.kept_checkpoint()
        if note is None:
            return
        lines = note.split("\n")
        size = int(lines[1]) if len(lines) > 2 and lines[1].isdigit() else -1
        if not 0 <= size <= range_.size:
            raise _truncated(range_.size)
        with self.tree.reading() as node:
            root = root_of(node, size)
        if Checkpoint(lines[0], size, root).text != "".join(f"{line}\n" for line in lines[:3]):
            raise IntegrityError(
                f"the audit log is not the one that it was at {size} entries",
                remedy="restore the folder `audit` from a backup; `fedward audit verify` on an older export shows where it differs",
                code="audit-forked",
            )

    def _append(self, state: _State, kind: str, fields: Mapping[str, Value | None], at: int) -> LogEntry:
        entry = make_entry(state.range.size, at, kind, fields)
        line = self.segments.line(entry.data)
        with _writing(self.folder):
            if state.bytes and (state.bytes + len(line) > SEGMENT_BYTES or at - state.since > SEGMENT_S):
                self.tree.sync()
                state.segment, state.bytes = self.segments.begin(state.range.size), 0
            if not state.bytes:
                state.since = at
            write_at(state.segment.path, state.bytes, line)
            state.bytes += len(line)
            self.tree.write(entry.number, state.range.append(leaf_hash(entry.data)))
        return entry


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreachableError(
            f"the audit log in {folder} cannot be written",
            got=os.strerror(error.errno or 0),
            remedy="free disk space or correct the permissions; until then nothing is done that would go unlogged",
            code="audit-unwritable",
        ) from None


def _parsed(data: bytes, number: int) -> LogEntry:
    try:
        return parse_entry(data, number)
    except InputError as error:
        reordered = error.code == "audit-reordered"
        code = "audit-reordered" if reordered else "audit-changed"
        raise IntegrityError(error.what, remedy=_RESTORE, code=code) from None


_RESTORE: Final = (
    "restore the folder `audit` from a backup; whoever holds a checkpoint or an export can show what it was"
)


def _changed(number: int) -> IntegrityError:
    return IntegrityError(f"entry {number} of the audit log was changed", remedy=_RESTORE, code="audit-changed")


def _truncated(number: int) -> IntegrityError:
    return IntegrityError(
        f"the audit log is cut short: entry {number} is missing", remedy=_RESTORE, code="audit-truncated"
    )
