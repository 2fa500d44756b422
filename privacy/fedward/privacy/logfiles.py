"""The files of an audit log: segments of entries, a line each, and the hashes of all subtrees in one file. IO.

    entries/000000000000.log   a segment, named by the number of its first entry; the newest one grows
    tree                       32 bytes a full subtree, in the order of completion (`merkle.place`); it is never cut
    lock                       held by whoever appends

A line is an entry's bytes, or base64 of them sealed where the site's home is encrypted. The tree can be made again from the
entries as long as these are there; it is kept because old segments are removed one day, and proofs must go on.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fedward.privacy.durable import sync_folder
from fedward.privacy.errors import FedwardError, IntegrityError
from fedward.privacy.merkle import HASH_BYTES, nodes_of, place

_SUFFIX: Final = ".log"
_UNWRITTEN: Final = bytes(HASH_BYTES)


class Sealer(Protocol):
    """Encrypts an entry's bytes at rest. The identity where nothing is encrypted."""

    def seal(self, data: bytes, /) -> bytes: ...

    def unseal(self, data: bytes, /) -> bytes: ...


class Plain:
    """Keeps bytes as they are."""

    def seal(self, data: bytes, /) -> bytes:
        return data

    def unseal(self, data: bytes, /) -> bytes:
        return data


@dataclass(frozen=True)
class Segment:
    """One file of entries, from the number `first` on."""

    path: Path
    first: int


class Segments:
    """All segments of a log."""

    def __init__(self, folder: Path, sealer: Sealer) -> None:
        self._folder = folder
        self._sealer = sealer
        self._plain = isinstance(sealer, Plain)

    def all(self) -> list[Segment]:
        """Oldest first."""
        found = sorted(path for path in self._folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())
        return [Segment(path, int(path.stem)) for path in found]

    def begin(self, first: int) -> Segment:
        """A new, empty segment, durable."""
        segment = Segment(self._folder / f"{first:012d}{_SUFFIX}", first)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(segment.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        sync_folder(self._folder)
        return segment

    def line(self, data: bytes) -> bytes:
        """An entry's bytes as a line of a segment."""
        return (data if self._plain else base64.b64encode(self._sealer.seal(data))) + b"\n"

    def read(self, segment: Segment) -> tuple[list[bytes], bytes]:
        """The entries' bytes of a segment's whole lines, and what follows the last line end: a write that was cut off.

        Raises:
            IntegrityError: a line cannot be unsealed.
        """
        *lines, torn = segment.path.read_bytes().split(b"\n")
        return [self._opened(line, segment.first + index) for index, line in enumerate(lines)], torn

    def remove(self, segment: Segment) -> None:
        """Delete a segment's file, durably."""
        segment.path.unlink(missing_ok=True)
        sync_folder(self._folder)

    def _opened(self, line: bytes, number: int) -> bytes:
        if self._plain:
            return line
        try:
            return self._sealer.unseal(base64.b64decode(line, validate=True))
        except (ValueError, FedwardError):
            raise IntegrityError(
                f"entry {number} of the audit log was changed: it cannot be opened", code="audit-changed"
            ) from None


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Write at the end of a file whose length must be `offset`; durable on return. A write that fails is taken back."""
    handle = os.open(path, os.O_WRONLY)
    try:
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(handle, data[done:], offset + done)
            os.fdatasync(handle)
        except OSError:
            with contextlib.suppress(OSError):  # if this fails too, the next append finds a torn line and says so
                os.ftruncate(handle, offset)
            raise
    finally:
        os.close(handle)


class Tree:
    """The file of hashes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """An empty file, durable; raises FileExistsError where there is one."""
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        sync_folder(self.path.parent)

    def length(self) -> int:
        """How long the file is."""
        return self.path.stat().st_size

    def size(self) -> int:
        """How many leaves the file has whole. Hashes that a power cut left unwritten, zeros, do not count."""
        nodes = self.length() // HASH_BYTES
        size = _leaves(nodes)
        with self.reading() as node:
            while size > 0 and _UNWRITTEN in [node(level, (size - 1) >> level) for level in _levels(size)]:
                size -= 1
        return size

    def write(self, size: int, made: list[bytes]) -> None:
        """Keep the subtrees that leaf number `size` completes. Not synced: the entries are, and make it again."""
        handle = os.open(self.path, os.O_WRONLY)
        try:
            data, offset, done = b"".join(made), HASH_BYTES * nodes_of(size), 0
            while done < len(data):
                done += os.pwrite(handle, data[done:], offset + done)
        finally:
            os.close(handle)

    def sync(self) -> None:
        """Make it durable: before a segment that could make it again is closed."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def reading(self) -> Iterator[_Reader]:
        """Subtrees by level and index."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            yield _Reader(handle)
        finally:
            os.close(handle)


class _Reader:
    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __call__(self, level: int, index: int) -> bytes:
        data = os.pread(self._handle, HASH_BYTES, HASH_BYTES * place(level, index))
        if len(data) != HASH_BYTES:
            raise IntegrityError(
                "the audit log's tree is cut short",
                remedy="restore the folder `audit` from a backup",
                code="audit-truncated",
            )
        return data


def _levels(size: int) -> range:
    """The levels of the subtrees that the last of `size` leaves completes."""
    return range((size & -size).bit_length())


def _leaves(nodes: int) -> int:
    """The most leaves whose subtrees are among the first `nodes`."""
    size = (nodes + 1) // 2
    while nodes_of(size + 1) <= nodes:
        size += 1
    while size > 0 and nodes_of(size) > nodes:
        size -= 1
    return size
