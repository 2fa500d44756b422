"""An audit log as one file that anybody can check. Writes to and reads from streams; nothing else is IO.

    {"at":…,"format":1,"key":…,"kind":"fedward-audit","origin":…,"size":…}      the header: whose log, by which key, how long
    fMh4ZkBd…= {"at":…,"fields":…,"kind":…,"number":0,"salt":…}                a line an entry: its hash, base64, and the entry;
    J5ab3u4T…= -                                                               "-" once its text was removed after its retention
    {"checkpoint":…,"cosigned":…,"keys":…,"known":…}                           the trailer: notes (`privacy.checkpoint`)
    {"digests":…,"signature":…}                                                SHA-256 of header, entries and trailer, signed

Every byte is covered twice: an entry by its hash and the root in the signed checkpoint, all parts by the digests. So that what
is wrong can be named: an entry that was changed, is missing, stands in another's place, or a log that has another history.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from fedward.privacy.auditentries import MAX_ENTRY_BYTES, LogEntry, number_in, parse_entry
from fedward.privacy.canonical import canonical_json
from fedward.privacy.checkpoint import MAX_SIZE, ORIGIN, Checkpoint, Note, check_signed, cosigners, parse_note
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.merkle import HASH_BYTES, Range, leaf_hash
from fedward.privacy.signing import Identity, from_text, to_text, verify

KIND: Final = "fedward-audit"
FORMAT: Final = 1
RETENTION_S: Final = 2192 * 86_400
"""Six years: what is removed sooner was removed too soon."""

_REMOVED: Final = b"-"
_HASH_TEXT: Final = 44
_MAX_TRAILER_BYTES: Final = 64 * 2**20
_REMEDY: Final = (
    "ask for a fresh export; if it stays so, the log was tampered with, and whoever holds an older export can show it"
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trailer:
    """The notes of an export, and the keys that check them.

    Attributes:
        checkpoint: of the log as exported, signed by its key.
        cosigned: earlier ones of the same log, with the cosignatures of others.
        known: checkpoints of other logs that this party verified.
        keys: cosigner or log → public key, as this party knows it.
    """

    checkpoint: Note
    cosigned: tuple[Note, ...] = ()
    known: tuple[Note, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditExport:
    """An export that holds.

    Attributes:
        origin: the log's name.
        key: its public key, 64 hex digits.
        at: when it was exported, in Unix seconds.
        size: how many entries it has; those below `oldest` are hashes alone.
        kinds: how many entries of each kind there are.
        trailer: its notes, all of them verified.
        cosigners: who cosigned this log, at what size last, and when.
        leaves: the hashes of all entries, 32 bytes each, one after the other.
    """

    origin: str
    key: str
    at: int
    size: int
    oldest: int
    kinds: Mapping[str, int]
    trailer: Trailer
    cosigners: Mapping[str, tuple[int, int]]
    leaves: bytes

    def root(self, size: int) -> bytes:
        """The root of the first `size` entries."""
        range_ = Range()
        for number in range(size):
            range_.append(self.leaf(number))
        return range_.root()

    def leaf(self, number: int) -> bytes:
        """The hash of an entry."""
        return self.leaves[HASH_BYTES * number : HASH_BYTES * (number + 1)]


def write_audit_export(
    out: BinaryIO,
    leaves: Iterable[bytes],
    entries: Iterator[LogEntry],
    trailer: Trailer,
    identity: Identity,
    at: int,
    progress: Progress = lambda _done, _of: None,
) -> str:
    """Write an export of the log as it was at the trailer's checkpoint.

    Args:
        out: where to.
        leaves: the hashes of all its entries, in order.
        entries: those of its entries whose text is there, in order.
        trailer: its notes.
        identity: the log's key.
        at: now, in Unix seconds.
        progress: told every now and then.

    Returns:
        the file's SHA-256.
    """
    checkpoint = trailer.checkpoint.checkpoint
    header = {
        "kind": KIND, "format": FORMAT, "origin": checkpoint.origin, "key": identity.public, "at": at,
        "size": checkpoint.size,
    }  # fmt: skip
    whole = hashlib.sha256()

    def write(line: bytes, part: Any) -> None:
        part.update(line)
        whole.update(line)
        out.write(line)

    parts = {name: hashlib.sha256() for name in ("header", "entries", "trailer")}
    write(canonical_json(header) + b"\n", parts["header"])
    upcoming = next(entries, None)
    for number, leaf in enumerate(leaves):
        there = upcoming is not None and upcoming.number == number
        text = upcoming.data if there and upcoming is not None else _REMOVED
        write(to_text(leaf).encode() + b" " + text + b"\n", parts["entries"])
        if there:
            upcoming = next(entries, None)
        if number % 10_000 == 0:
            progress(number, checkpoint.size)
    write(canonical_json(_trailer_json(trailer)) + b"\n", parts["trailer"])
    digests = {name: part.hexdigest() for name, part in parts.items()}
    signature = identity.sign("audit", canonical_json(digests))
    last = canonical_json({"digests": digests, "signature": to_text(signature)}) + b"\n"
    whole.update(last)
    out.write(last)
    progress(checkpoint.size, checkpoint.size)
    return whole.hexdigest()


def read_audit_export(
    file: BinaryIO, key: str | None = None, progress: Progress = lambda _done, _of: None
) -> AuditExport:
    """Check an export whole, line by line.

    Args:
        file: the export.
        key: the log's public key as its reader knows it (64 hex digits); without it the signatures only show that the file is
            whole and that whoever made it has the key in it.
        progress: told every now and then.

    Raises:
        InputError: the file is no export, or its format is another version's.
        IntegrityError: it does not hold; the error names the first thing that is wrong. Its code is `audit-changed`,
            `audit-truncated`, `audit-reordered`, `audit-retention`, `bad-signature` or `foreign-key`.
    """
    return _Reader(file, progress).read(key)


class _Reader:
    """Reads one export."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self._parts = {name: hashlib.sha256() for name in ("header", "entries", "trailer")}
        self._kinds: dict[str, int] = {}
        self._oldest: int | None = None
        self._removed: list[tuple[int, int, int, int]] = []

    def read(self, key: str | None) -> AuditExport:
        header = self._header()
        size, origin, signer = header["size"], header["origin"], header["key"]
        leaves = bytearray()
        for number in range(size):
            self._entry(number, size, leaves, origin)
            if number % 10_000 == 0:
                self._progress(number, size)
        self._progress(size, size)
        trailer = self._trailer(size)
        self._signature(signer, key)
        self._check_trailer(trailer, origin, signer, size, bytes(leaves))
        oldest = size if self._oldest is None else self._oldest
        self._check_removed(oldest)
        return AuditExport(
            origin, signer, header["at"], size, oldest, self._kinds, trailer, _newest(trailer), bytes(leaves)
        )

    def _header(self) -> Mapping[str, Any]:
        line = self._line("header", 4096)
        found = _json(line, "the header of the export")
        if found.get("kind") != KIND:
            raise InputError("this is no export of an audit log", expected=f"a header of kind {KIND}", remedy=_REMEDY)
        if found.get("format") != FORMAT:
            raise InputError(
                "the export has a format of another version", expected=str(FORMAT), got=str(found.get("format"))[:40]
            )
        size, at = found.get("size"), found.get("at")
        whole = (
            set(found) == {"kind", "format", "origin", "key", "at", "size"}
            and type(size) is int
            and 0 < size <= MAX_SIZE
            and type(at) is int
            and at >= 0
            and re.fullmatch(ORIGIN, str(found["origin"])) is not None
            and re.fullmatch(r"[0-9a-f]{64}", str(found["key"])) is not None
        )
        if not whole:
            raise _changed("the header of the export was changed: a field is not of its form")
        return found

    def _entry(self, number: int, size: int, leaves: bytearray, origin: str) -> None:
        line = self._line("entries", MAX_ENTRY_BYTES + _HASH_TEXT + 2)
        if not line:
            raise _truncated(f"the export is cut short: entry {number} of {size} is missing")
        if line.startswith(b"{"):
            raise self._ended_early(line, number, size)
        if not line.endswith(b"\n"):
            raise _truncated(f"the export is cut short in entry {number}")
        encoded, separator, text = line[:-1].partition(b" ")
        leaf = _hash(encoded)
        if leaf is None or separator != b" ":
            raise _changed(f"entry {number} was changed: its hash is no hash")
        if text != _REMOVED:
            if leaf_hash(text) != leaf:
                raise _changed(f"entry {number} was changed: it has another hash than it had")
            self._take(text, number, size, origin)
        elif self._oldest is not None:
            raise _changed(f"the text of entry {number} was taken out, and that of earlier ones is there")
        leaves += leaf

    @staticmethod
    def _ended_early(line: bytes, number: int, size: int) -> IntegrityError:
        """The trailer stands where an entry must: entries are missing, or the header promises too many."""
        try:
            signed = parse_note(json.loads(line)["checkpoint"]).checkpoint.size
        except (ValueError, TypeError, KeyError, RecursionError, FedwardError):
            signed = size
        if signed == number:
            return _changed(f"the header of the export was changed: it says {size} entries, the checkpoint {signed}")
        return _truncated(f"entry {number} of {size} is missing: the entries end before it")

    def _take(self, text: bytes, number: int, size: int, origin: str) -> None:
        try:
            entry = parse_entry(text, number)
        except InputError as error:
            if error.code != "audit-reordered":
                raise _changed(error.what) from None
            raise self._misplaced(text, number, size) from None
        if self._oldest is None:
            self._oldest = number
        if number == 0 and (entry.kind, entry.fields.get("origin")) != ("begun", origin):
            raise _changed("entry 0 was changed: it does not begin the log that the header names")
        if entry.kind == "removed":
            first, last, newest = (int(entry.fields[name]) for name in ("first", "last", "newest"))
            self._removed.append((first, last, newest, entry.at))
        self._kinds[entry.kind] = self._kinds.get(entry.kind, 0) + 1

    def _misplaced(self, text: bytes, number: int, size: int) -> IntegrityError:
        """Another entry stands in this one's place: whether this one comes later, or is gone."""
        own = number_in(text)
        for _ in range(number, size):
            line = self._file.readline(MAX_ENTRY_BYTES + _HASH_TEXT + 2)
            if number_in(line) == number:
                return IntegrityError(
                    f"the entries were reordered: entry {own} stands where entry {number} must, which comes later",
                    remedy=_REMEDY,
                    code="audit-reordered",
                )
        return _truncated(f"entry {number} is missing: entry {own} stands in its place")

    def _trailer(self, size: int) -> Trailer:
        line = self._line("trailer", _MAX_TRAILER_BYTES)
        if not line:
            raise _truncated(f"the export is cut short: its checkpoint, after entry {size - 1}, is missing")
        if _hash(line[:_HASH_TEXT]) is not None:
            raise _changed(f"there is an entry {size}, and the header says that there are {size} in all")
        found = _json(line, "the trailer of the export")
        try:
            if set(found) != {"checkpoint", "cosigned", "known", "keys"}:
                raise InputError("its fields are others")
            keys = {str(name): str(key) for name, key in found["keys"].items()}
            if any(re.fullmatch(r"[0-9a-f]{64}", key) is None for key in keys.values()):
                raise InputError("a key is none")
            return Trailer(
                parse_note(found["checkpoint"]),
                tuple(parse_note(note) for note in found["cosigned"]),
                tuple(parse_note(note) for note in found["known"]),
                keys,
            )
        except (FedwardError, TypeError, AttributeError):
            raise _changed("the trailer of the export was changed: it is not of its form") from None

    def _signature(self, signer: str, key: str | None) -> None:
        line = self._file.readline(4096)
        if not line or not line.endswith(b"\n"):
            raise _truncated("the export is cut short: its last line, the signature, is missing or incomplete")
        if self._file.read(1):
            raise _changed("something stands after the export's last line")
        found = _json(line, "the last line of the export")
        digests, text = found.get("digests"), found.get("signature")
        if set(found) != {"digests", "signature"} or type(digests) is not dict or type(text) is not str:
            raise _changed("the last line of the export was changed: it is not of its form")
        for name, part in self._parts.items():
            if digests.get(name) != part.hexdigest():
                what = {"header": "the header", "entries": "an entry's line", "trailer": "the trailer"}[name]
                raise _changed(f"{what} of the export was changed: its digest is another")
        signature = _exact(text)
        if signature is None or set(digests) != set(self._parts):
            raise _changed("the last line of the export was changed: it is not of its form")
        if key is not None and key != signer:
            raise IntegrityError(
                "the export is of another key", expected=key, got=signer, remedy=_REMEDY, code="foreign-key"
            )
        verify(signer, "audit", canonical_json(digests), signature, "the audit export")

    def _check_trailer(self, trailer: Trailer, origin: str, signer: str, size: int, leaves: bytes) -> None:
        checkpoint = trailer.checkpoint.checkpoint
        if checkpoint.origin != origin or checkpoint.size != size:
            raise _changed(f"the export's checkpoint is of {checkpoint.size} entries of {checkpoint.origin}")
        check_signed(trailer.checkpoint, signer)
        own = sorted((note.checkpoint for note in trailer.cosigned), key=lambda one: one.size)
        if any(one.origin != origin or one.size > size for one in own):
            raise _changed("the trailer of the export was changed: it holds a checkpoint of another log as its own")
        self._check_roots([*own, checkpoint], leaves)
        for note in (*trailer.cosigned, *trailer.known):
            cosigners(note, trailer.keys)
        for note in trailer.known:
            other = note.checkpoint.origin
            if other not in trailer.keys:
                raise _changed(f"the trailer of the export was changed: it has no key for {other}")
            check_signed(note, trailer.keys[other])

    def _check_roots(self, checkpoints: list[Checkpoint], leaves: bytes) -> None:
        """Every signed root is that of the entries; the first that is not bounds where they were changed."""
        range_, good = Range(), 0
        for checkpoint in checkpoints:
            for number in range(range_.size, checkpoint.size):
                range_.append(leaves[HASH_BYTES * number : HASH_BYTES * (number + 1)])
            if range_.root() != checkpoint.root:
                raise _changed(
                    f"an entry from {good} to {checkpoint.size - 1} was changed, with its hash: "
                    f"the checkpoint at {checkpoint.size} entries has another root"
                )
            good = checkpoint.size

    def _check_removed(self, oldest: int) -> None:
        """What has no text any more was removed in the open, and not before its time."""
        covered = 0
        for first, last, newest, at in sorted(self._removed):
            if at - newest < RETENTION_S:
                raise IntegrityError(
                    f"entries {first} to {last} were removed before their six years were over",
                    remedy="ask who removed them",
                    code="audit-retention",
                )
            if first <= covered:
                covered = max(covered, last + 1)
        if covered < oldest:
            raise IntegrityError(
                f"the text of entries {covered} to {oldest - 1} is missing, and no entry says that it was removed",
                remedy=_REMEDY,
                code="audit-truncated",
            )

    def _line(self, part: str, limit: int) -> bytes:
        line = self._file.readline(limit)
        self._parts[part].update(line)
        return line


def _newest(trailer: Trailer) -> dict[str, tuple[int, int]]:
    """Cosigner → (size, time) of what it cosigned last."""
    found: dict[str, tuple[int, int]] = {}
    for note in sorted((*trailer.cosigned, trailer.checkpoint), key=lambda one: one.checkpoint.size):
        found |= {name: (note.checkpoint.size, at) for name, at in cosigners(note, trailer.keys).items()}
    return found


def _trailer_json(trailer: Trailer) -> dict[str, Any]:
    return {
        "checkpoint": trailer.checkpoint.text,
        "cosigned": [note.text for note in trailer.cosigned],
        "known": [note.text for note in trailer.known],
        "keys": dict(trailer.keys),
    }


def _json(line: bytes, what: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
        whole = isinstance(found, dict) and canonical_json(found) + b"\n" == line
    except (ValueError, RecursionError, InputError):
        whole = False
    if not whole:
        raise _changed(f"{what} was changed: it is no canonical JSON")
    result: dict[str, Any] = found
    return result


def _hash(encoded: bytes) -> bytes | None:
    raw = _exact(encoded.decode("ascii", errors="replace"))
    return raw if raw is not None and len(raw) == HASH_BYTES else None


def _exact(text: str) -> bytes | None:
    """The bytes of base64 in its only form; None if it is none. Python's decoder overlooks stray bits at the end."""
    try:
        raw = from_text(text, "base64")
    except (IntegrityError, ValueError):
        return None
    return raw if to_text(raw) == text else None


def _changed(what: str) -> IntegrityError:
    return IntegrityError(what, remedy=_REMEDY, code="audit-changed")


def _truncated(what: str) -> IntegrityError:
    return IntegrityError(what, remedy=_REMEDY, code="audit-truncated")
