"""What two or more audit exports, and checkpoints kept elsewhere, say of each other: forks, split views, older copies. Pure.

A log that shows different people different things holds in each of its copies. It does not hold in two of them together:
- two copies of one log differ in an entry that both have: a fork;
- a party holds a checkpoint of a log, signed by that log, which the log's own export does not contain: a split view;
- two parties hold checkpoints of one log, of one size, with different roots: a split view;
- a party holds a checkpoint of more entries than the export has: the export is an older or shortened one.

A checkpoint accuses a log only by the log's own key: a holder can make any checkpoint with a key of his own and name that key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from fedward.privacy.auditexport import AuditExport
from fedward.privacy.checkpoint import Checkpoint, Note, check_signed
from fedward.privacy.errors import IntegrityError
from fedward.privacy.merkle import HASH_BYTES, Range

_REMEDY: Final = "keep these files: together they are the proof; ask the log's owner, and tell the other sites"


@dataclass(frozen=True)
class Compared:
    """What was held against each other and agrees.

    Attributes:
        contained: (holder, origin, size) of every checkpoint that the log's own export contains.
        open: (holder, origin, size) of those that nothing here could be held against.
    """

    contained: tuple[tuple[str, str, int], ...]
    open: tuple[tuple[str, str, int], ...]


def compare(exports: Sequence[AuditExport], notes: Sequence[Note] = ()) -> Compared:
    """Hold exports, and notes kept elsewhere, against each other.

    Raises:
        IntegrityError: `audit-forked`, `split-view` or `audit-stale`; `bad-signature` where a note is not signed by the key of
            its log; `foreign-key` where a holder's checkpoint does not fit and is by another key than the log's.
    """
    for one, other in combinations(exports, 2):
        if one.origin == other.origin:
            _same(one, other)
    held = [
        _Held(export.origin, export.trailer.keys.get(note.checkpoint.origin, export.key), note.checkpoint)
        for export in exports
        for note in (*export.trailer.known, *export.trailer.cosigned)
    ]
    held += [_Held("a kept checkpoint", _signer(exports, note), note.checkpoint) for note in notes]
    _same_sizes([one for one in held if one.key])
    return _contained(exports, held)


@dataclass(frozen=True)
class _Held:
    """A checkpoint, who holds it, and the key that it was verified by; empty where nobody here knows one."""

    holder: str
    key: str
    checkpoint: Checkpoint

    @property
    def order(self) -> tuple[int, str]:
        return self.checkpoint.size, self.holder


def _signer(exports: Sequence[AuditExport], note: Note) -> str:
    """The key that signed a note: of the log's own export, or else one that an export's holder knows it by."""
    origin = note.checkpoint.origin
    own = [export.key for export in exports if export.origin == origin]
    told = [export.trailer.keys[origin] for export in exports if origin in export.trailer.keys]
    failed: IntegrityError | None = None
    for key in own or told:
        try:
            check_signed(note, key)
        except IntegrityError as error:
            failed = error
        else:
            return key
    if failed is not None:
        raise failed
    return ""


def _same(one: AuditExport, other: AuditExport) -> None:
    if one.key != other.key:
        raise _proof(f"two exports of {one.origin} are signed by different keys", "audit-forked")
    both = HASH_BYTES * min(one.size, other.size)
    if one.leaves[:both] == other.leaves[:both]:
        return
    number = next(n for n in range(both // HASH_BYTES) if one.leaf(n) != other.leaf(n))
    raise _proof(f"{one.origin} has forked: entry {number} is another in each export", "audit-forked")


def _same_sizes(held: Sequence[_Held]) -> None:
    seen: dict[tuple[str, str, int], _Held] = {}
    for one in held:
        origin, size = one.checkpoint.origin, one.checkpoint.size
        before = seen.setdefault((origin, one.key, size), one)
        if before.checkpoint.root != one.checkpoint.root:
            raise _proof(
                f"split view: at {size} entries, {origin} showed {before.holder} and {one.holder} different logs",
                "split-view",
            )


def _contained(exports: Sequence[AuditExport], held: Sequence[_Held]) -> Compared:
    newest = {export.origin: export for export in sorted(exports, key=lambda one: one.size)}
    contained, left = [], []
    for origin in sorted({one.checkpoint.origin for one in held}):
        mine = sorted((one for one in held if one.checkpoint.origin == origin), key=lambda one: one.order)
        export, range_ = newest.get(origin), Range()
        if export is None:
            _same_keys([one for one in mine if one.key])
            left += [(one.holder, origin, one.checkpoint.size) for one in mine]
            continue
        for one in mine:
            size = one.checkpoint.size
            if size > export.size:
                raise _accusation(
                    one,
                    export,
                    f"the export of {origin} is an older or shortened one: it ends at {export.size} entries, and {one.holder} "
                    f"holds a checkpoint of {size}",
                    "audit-stale",
                )
            for number in range(range_.size, size):
                range_.append(export.leaf(number))
            if range_.root() != one.checkpoint.root:
                raise _accusation(
                    one,
                    export,
                    f"split view: the log of {origin} that {one.holder} was shown at {size} entries is not the exported one",
                    "split-view",
                )
            contained.append((one.holder, origin, size))
    return Compared(tuple(contained), tuple(left))


def _same_keys(held: Sequence[_Held]) -> None:
    """Without the log's own export nobody can tell which of two keys is the log's."""
    roots: dict[int, _Held] = {}
    for one in held:
        before = roots.setdefault(one.checkpoint.size, one)
        if before.checkpoint.root != one.checkpoint.root:
            raise _foreign(
                f"{before.holder} and {one.holder} hold different checkpoints of {one.checkpoint.origin}, signed by different keys"
            )


def _accusation(held: _Held, export: AuditExport, what: str, code: str) -> IntegrityError:
    """What a checkpoint says against a log; by another key than the log's it says nothing, but of its holder."""
    if held.key == export.key:
        return _proof(what, code)
    return _foreign(
        f"{held.holder} holds a checkpoint of {export.origin} that does not fit, signed by another key than the log's"
    )


def _foreign(what: str) -> IntegrityError:
    remedy = "compare the log's key with its owner by telephone: one of the keys is not the log's, or no longer"
    return IntegrityError(what, remedy=remedy, code="foreign-key")


def _proof(what: str, code: str) -> IntegrityError:
    return IntegrityError(what, remedy=_REMEDY, code=code)
