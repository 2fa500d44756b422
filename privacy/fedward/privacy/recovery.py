"""The way back when a ledger was lost, damaged, cut short or rolled back. A named person decides; the chain keeps who and why.

The new file holds the entries of a copy and, last, a `Recovery` that says what may be missing after them:

- `nothing`: the head file is that of the copy's last entry, and nobody knows of a newer one.
- `charges`: only charges to reservations that the copy holds can be missing, and to those of stopped studies, which their
  coordinator may have continued under the approval that they had. All of them count as spent, and are closed.
- `anything`: nobody can say. The whole budget counts as spent, for good; no study is ever admitted again.

So what was spent may be over-counted and is never under-counted, as long as the person's word holds that no study was approved
after the copy was made (`charges`). The damaged file is kept beside the new one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from fedward.privacy.chain import Chain
from fedward.privacy.durable import sync_folder
from fedward.privacy.entries import Budget, Entry, Head, Lost, Recovery
from fedward.privacy.errors import IntegrityError, UsageError
from fedward.privacy.ledgerfile import (
    head_path,
    log_path,
    read_head,
    touch_new,
    unreachable,
    write_database,
    write_head,
)
from fedward.privacy.rdp_filter import filter_order

_SHARED_MEMORY = "-shm"


@dataclass(frozen=True)
class Loss:
    """What is known of a ledger that does not hold, and of the copy that shall replace it.

    Attributes:
        copy: the chain to go on with; None when there is none, or when it is of another history than `known` proves.
        known: the newest entry that there is known to have been beyond the copy; None if none is known.
        whole: whether nothing is missing: the head file says so, and no newer head is known.
    """

    copy: Chain | None
    known: Head | None
    whole: bool


def assess(path: Path, copy: Chain | None, heads: list[Head]) -> Loss:
    """Compares a copy with the head file of `path` and other heads that are known, such as countersigned ones.

    Raises:
        UnreachableError: the head file cannot be read now.
    """
    try:
        own: Head | None = read_head(path)
    except IntegrityError:
        own = None
    known = max([*heads, *([own] if own is not None else [])], key=lambda head: head.sequence, default=None)
    if copy is None:
        return Loss(None, known, whole=False)
    for head in [*heads, *([own] if own is not None else [])]:
        if head.sequence <= copy.tail.sequence and not _holds(copy, head):
            return Loss(None, known, whole=False)  # another history: this copy is not that of what was lost
    if known is not None and known.sequence > copy.tail.sequence:
        return Loss(copy, known, whole=False)
    return Loss(copy, None, whole=own is not None and _is_newest(copy, own))


def recover(
    path: Path, loss: Loss, *, lost: Lost, by: str, reason: str, at: int, budget: Budget, lineage: str,
    key: str | None = None,
) -> Entry:  # fmt: skip
    """Puts the copy in the ledger's place, with a last entry that says what may be missing.

    No process may use the ledger meanwhile; one that has the old file open is refused at its next charge.

    Args:
        path: the ledger's file. What is there is kept as `<ledger>.replaced-N`.
        loss: what `assess` found.
        lost: what counts as spent, as above.
        by: who decides.
        reason: why.
        at: now, in Unix seconds.
        budget: of the new first link, where there is no copy.
        lineage: likewise.
        key: encrypts the new file's pages, as `Ledger.create`.

    Raises:
        UsageError: there is no copy and `lost` is not `anything`, or `nothing` is claimed where it is not known.
        InputError: a text is not of its form.
        UnreachableError: the files cannot be written; the ledger is as it was, or refuses to open.
    """
    if lost != "anything" and loss.copy is None:
        raise UsageError(
            "there is no copy to recover from", remedy="give one with --from, or write the budget off with --write-off"
        )
    if lost == "nothing" and not loss.whole:
        raise UsageError("it is not known that nothing was lost", remedy="say what may be missing")
    old = loss.copy
    chain = Chain(budget, lineage, filter_order(budget)) if old is None else Chain(old.budget, old.lineage, old.order)
    entry = (old or chain).seal(Recovery(by, reason, lost, loss.known), at)
    chain.entries = [*(old.entries if old is not None else []), entry]
    chain.tail = Head(entry.sequence, entry.digest)
    try:
        _replace(path, chain, key)
    except OSError as error:
        raise unreachable(path, error.strerror or type(error).__name__) from error
    return entry


def _replace(path: Path, chain: Chain, key: str | None) -> None:
    draft = path.with_name(path.name + ".new")
    for leftover in (draft, log_path(draft)):
        leftover.unlink(missing_ok=True)  # of a recovery that was cut off
    touch_new(draft)
    write_database(draft, chain, key)
    kept = f".replaced-{chain.tail.sequence}"
    for file in (path, log_path(path), head_path(path)):
        if file.exists():
            shutil.copy2(file, file.with_name(file.name.replace(path.name, path.name + kept, 1)))
    # SQLite would replay the old file's log into the new one. Without it the old file is older than its head: still refused.
    for file in (log_path(path), path.with_name(path.name + _SHARED_MEMORY)):
        file.unlink(missing_ok=True)
    sync_folder(path.parent)
    draft.replace(path)
    sync_folder(path.parent)
    write_head(path, chain.tail)


def _holds(chain: Chain, head: Head) -> bool:
    try:
        chain.check_witness(head)
    except IntegrityError:
        return False
    return True


def _is_newest(chain: Chain, head: Head) -> bool:
    try:
        chain.lags(head)
    except IntegrityError:
        return False
    return True
