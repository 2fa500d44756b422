"""What a person does with a site's ledger beside reading it: export it, verify it, and recover it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedward.client.decisions import load
from fedward.client.home import SiteHome
from fedward.client.statements import Approve
from fedward.privacy.chain import Chain
from fedward.privacy.entries import Budget, Entry, Head, Lost
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UsageError
from fedward.privacy.ledgerexport import read_export, write_export
from fedward.privacy.ledgerfile import read_chain
from fedward.privacy.recovery import Loss, assess, recover
from fedward.study.files import write_atomic
from fedward.study.lock import hold

_LOCK_S = 1.0

_SQLITE = b"SQLite format 3\0"
_EXPORT = b'{"at":'
"""The first bytes of an export, which is canonical JSON."""

Statement = Literal["none-approved", "write-off"]


@dataclass(frozen=True)
class Recovered:
    """What a recovery did: its entry, what it counts as lost, and the number of entries that it took over."""

    entry: Entry
    lost: Lost
    entries: int


def export_ledger(home: SiteHome, out: Path, at: int) -> Head:
    """Writes the signed export of the whole ledger to a file; an older export there is replaced.

    Raises:
        IntegrityError: the ledger does not hold.
    """
    with home.ledger() as ledger:
        chain = ledger.chain
        write_atomic(out, write_export(chain, home.identity(), home.site, at), 0o600)
        return chain.tail


def recover_ledger(
    home: SiteHome,
    *,
    by: str,
    reason: str,
    at: int,
    copy: Path | None = None,
    head: Head | None = None,
    statement: Statement | None = None,
    budget: Budget | None = None,
) -> Recovered:
    """Puts a ledger back in order that does not open, or that is older than a head that somebody holds.

    Args:
        home: the site.
        by: who decides.
        reason: why.
        at: now, in Unix seconds.
        copy: an export or a copy of the ledger's file; without it, the file as it lies there.
        head: a head that is known from elsewhere, such as the coordinator.
        statement: what the person answers for: `none-approved` since the copy was made, or `write-off` of the whole budget.
        budget: for the first link of a written-off ledger of which no copy is left.

    Raises:
        UsageError: the ledger holds, the node runs, or a statement is needed.
        IntegrityError: the copy does not hold, or is of another site's ledger.
        InputError: there is no copy, or a text is not of its form.
    """
    busy = UsageError("the node of this site runs", remedy="stop it first; a ledger is not replaced under it")
    with hold(home.path / "node.lock", _LOCK_S, lambda: busy):
        heads = [found for found in (head, _countersigned(home)) if found is not None]
        if statement != "write-off" and copy is None and _in_order(home, heads):
            raise UsageError(
                "the ledger holds, there is nothing to recover", remedy="fedward site ledger --verify shows it"
            )
        loss = assess(home.ledger_file, _chain(home, copy, statement), heads)
        lost = _lost(home, loss, statement)
        entry = recover(
            home.ledger_file, loss, lost=lost, by=by, reason=reason, at=at,
            budget=budget or Budget(10.0, 1e-3), lineage=os.urandom(16).hex(), key=home.ledger_key,
        )  # fmt: skip
        home.record("ledger-recovered", at=at, by=by, entry=entry.sequence, reason=lost)
        return Recovered(entry, lost, 0 if loss.copy is None else len(loss.copy.entries))


def _lost(home: SiteHome, loss: Loss, statement: Statement | None) -> Lost:
    if statement == "write-off":
        return "anything"
    if loss.copy is None:
        raise UsageError(
            "there is no copy of this ledger's history to go on with",
            remedy="give another one with --from FILE, or write the budget off with --write-off",
        )
    if loss.whole:
        return "nothing"
    if statement is None:
        raise UsageError(
            "entries after the copy may be lost",
            got="no head that shows where the ledger ended"
            if loss.known is None
            else f"entry {loss.known.sequence} was there",
            remedy="say --none-approved if no study was approved here since the copy was made: all that is reserved in it then "
            "counts as spent. Say --write-off if nobody knows: the whole budget then counts as spent, for good",
        )
    newest = max((entry.at for entry in loss.copy.entries), default=0)
    if any(isinstance(link.what, Approve) and link.at > newest for link in load(home).links):
        raise UsageError(
            "a study was approved here after the copy's last entry",
            remedy="find a newer copy, or write the budget off with --write-off",
        )
    return "charges"


def _in_order(home: SiteHome, heads: list[Head]) -> bool:
    try:
        with home.ledger() as ledger:
            for known in heads:
                ledger.verify(known)
    except (IntegrityError, InputError):
        return False
    return True


def _countersigned(home: SiteHome) -> Head | None:
    try:
        return home.countersigned_head()
    except FedwardError:
        return None  # damaged, like the ledger perhaps; what a person has from the coordinator comes by --head


def _chain(home: SiteHome, copy: Path | None, statement: Statement | None) -> Chain | None:
    if copy is not None:
        return _chain_of(home, copy)
    try:
        return read_chain(home.ledger_file, home.ledger_key)
    except (IntegrityError, InputError):
        if statement == "write-off":
            return None
        raise


def _chain_of(home: SiteHome, copy: Path) -> Chain:
    """The chain of an export by this site, or of a copy of a ledger's file."""
    try:
        with copy.open("rb") as file:
            start = file.read(len(_SQLITE))
        if start.startswith(_EXPORT):
            return read_export(copy.read_bytes(), home.identity().public).chain
        # A copy from before the home was encrypted is a plain database.
        return read_chain(copy, None if start == _SQLITE else home.ledger_key)
    except OSError as error:
        raise InputError(f"cannot read {copy}", got=error.strerror or type(error).__name__) from None
