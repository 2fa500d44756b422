"""The ledger's chain: rows of entries, every link checked, and what follows from them. Pure.

`Chain` takes in rows as the ledger reads them and believes none: each must be an entry that could have been made, with the next
number, the digest of the entry before it, a digest of its own that covers all its fields, and a place in the order of
charges and reservations that the rules allow. What does not hold raises IntegrityError before anything of it is taken in.
Numbers go up by one, but for a recovery, which skips those of the entries that may have been lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedward.privacy.accounting import epsilon
from fedward.privacy.entries import (
    FORMAT,
    Budget,
    Charge,
    Entry,
    Head,
    Recovery,
    Release,
    Reservation,
    What,
    broken,
    check_order,
    check_text,
    entry_of,
    genesis_digest,
    rolled_back,
    sealed_entry,
)
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.shares import Gate, Period, Shares, period_history

__all__ = [
    "FORMAT", "Budget", "Chain", "Charge", "Entry", "Head", "Recovery", "Release", "Reservation", "begun", "genesis_of",
]  # fmt: skip


class Chain:
    """A ledger's entries as far as they were read, and what follows from them."""

    def __init__(self, budget: Budget, lineage: str, order: float) -> None:
        """An empty chain; its first link covers the budget, the lineage, the filter's order and the format."""
        self.budget = budget
        self.lineage = lineage
        self.order = order
        self.tail = Head(0, genesis_digest(budget, lineage, order))
        self.entries: list[Entry] = []
        self.shares = Shares()

    def take_in(self, rows: Sequence[Any]) -> None:
        """Verifies and takes in the rows from the newest entry known on; that one must still be there, unchanged.

        Raises:
            IntegrityError: something does not hold; nothing was taken in.
        """
        if self.entries:
            if not rows or entry_of(rows[0]) != self.entries[-1]:
                raise rolled_back(f"entry {self.tail.sequence} of the ledger is gone or was changed")
            rows = rows[1:]
        if not rows:
            return
        fresh = _chained(self.tail, rows)
        shares = self.shares.copy()
        for entry in fresh:
            try:
                shares.check(entry.what, entry.at)
            except RefusalError as error:
                raise broken(f"entry {entry.sequence} of the ledger is one that its rules do not allow") from error
            shares.apply(entry)
        # Everything holds: take it in at once, so that an error above leaves no entry half counted.
        self.shares = shares
        self.entries.extend(fresh)
        self.tail = Head(fresh[-1].sequence, fresh[-1].digest)

    def gate(self, at: int | None, study_digest: str | None = None) -> Gate:
        """The admission rule for a new schedule, as things stand."""
        return self.shares.gate(self.budget, self.order, at, study_digest)

    def admit(self, reservation: Reservation, at: int, period: Period | None) -> None:
        """Whether the reservation may be made now.

        Raises:
            RefusalError: `already-reserved`, `budget-exhausted` or `period-exhausted`.
        """
        self.shares.check(reservation, at)
        self.gate(at, reservation.study_digest).check(reservation.study_id, reservation.events)
        if period is None:
            return
        after = epsilon(
            (*period_history(self.entries, period.since(at), self.shares, at), *reservation.events), self.budget.delta
        )
        if not after <= period.epsilon:
            raise RefusalError(
                f"{reservation.study_id} does not fit into what this hospital allows in {period.days} days",
                expected=f"at most ε = {period.epsilon} at δ = {self.budget.delta}",
                got=f"ε = {after} with it",
                remedy="approve it later, or ask whether the policy's max_epsilon_per_period may be larger",
                code="period-exhausted",
            )

    def seal(self, what: What, at: int) -> Entry:
        """The entry that this would be, next in the chain; the chain itself stays as it is."""
        sequence = self.tail.sequence
        if isinstance(what, Recovery) and what.known is not None:
            sequence = max(sequence, what.known.sequence)
        return sealed_entry(sequence + 1, self.tail.digest, at, what)

    def lags(self, head: Head) -> bool:
        """Whether a head file is one entry behind, as a crash between commit and head leaves it; false if it is up to date.

        Raises:
            IntegrityError: it is anything else.
        """
        if head == self.tail:
            return False
        if head.sequence > self.tail.sequence:
            raise rolled_back(
                f"the ledger ends at entry {self.tail.sequence}, but its head file has seen entry {head.sequence}"
            )
        self.check_witness(head, "its head file has seen")
        newest = self.entries[-1]
        if head.digest != newest.previous and not isinstance(newest.what, Recovery):
            raise broken(f"the ledger's head file (entry {head.sequence}) is not of this ledger's recent past")
        return True

    def check_witness(self, witness: Head, seen: str = "was countersigned") -> None:
        """Raises: IntegrityError if the countersigned head is none of this chain's links, nor one that a recovery gave up."""
        number = witness.sequence
        if number > self.tail.sequence:
            raise rolled_back(f"the ledger ends at entry {self.tail.sequence}, but entry {number} {seen}")
        if number == 0:
            anew = (
                bool(self.entries) and self.entries[0].sequence > 1
            )  # a recovery began this file, the first link was lost
            known = witness.digest if anew else genesis_digest(self.budget, self.lineage, self.order)
        else:
            after = next(entry for entry in self.entries if entry.sequence >= number)
            known = after.digest
            if after.sequence > number:  # a recovery skipped it
                given_up = after.what.known if isinstance(after.what, Recovery) else None
                known = given_up.digest if given_up is not None and given_up.sequence == number else witness.digest
        if known != witness.digest:
            raise rolled_back(f"entry {number} of the ledger is another than {seen}")


def begun(genesis: Mapping[str, Any], where: str) -> Chain:
    """The empty chain of a first link, with the fields format, lineage, epsilon, delta, order and digest.

    Raises:
        InputError: the format is another version's.
        IntegrityError: the fields or their digest do not hold.
    """
    version = genesis.get("format")
    if version != FORMAT:
        newer = isinstance(version, int) and version > FORMAT
        raise InputError(
            f"{where} has a format of another version",
            expected=str(FORMAT),
            got=str(version)[:80],
            remedy="use the Fedward version that wrote it, or a newer one"
            if newer
            else "use the version that wrote it. To go on with this one, nobody can say what was spent: "
            "`fedward site ledger-recover --write-off` counts the whole budget as spent",
            code="ledger-format",
        )
    try:
        budget = Budget(genesis["epsilon"], genesis["delta"])
        chain = Chain(budget, check_text(genesis["lineage"], "lineage"), check_order(genesis["order"]))
    except (InputError, KeyError) as error:
        raise broken("the first link of the ledger is no budget") from error
    if genesis.get("digest") != chain.tail.digest:
        raise broken("the ledger's budget or lineage was changed")
    return chain


def genesis_of(chain: Chain) -> dict[str, Any]:
    """The first link's fields, as `begun` takes them."""
    first = genesis_digest(chain.budget, chain.lineage, chain.order)
    return {
        "format": FORMAT, "lineage": chain.lineage, "epsilon": chain.budget.epsilon, "delta": chain.budget.delta,
        "order": chain.order, "digest": first,
    }  # fmt: skip


def _chained(tail: Head, rows: Sequence[Any]) -> list[Entry]:
    """The entries that follow `tail`, every number, link and digest checked."""
    entries: list[Entry] = []
    for row in rows:
        entry = entry_of(row)
        known = entry.what.known if isinstance(entry.what, Recovery) else None
        skipped = known is not None and entry.sequence == known.sequence + 1 and known.sequence > tail.sequence
        if entry.sequence != tail.sequence + 1 and not skipped:
            raise broken(f"entry {tail.sequence + 1} of the ledger is missing")
        if entry.previous != tail.digest:
            raise broken(f"entry {entry.sequence} of the ledger does not follow the entry before it")
        entries.append(entry)
        tail = Head(entry.sequence, entry.digest)
    return entries
