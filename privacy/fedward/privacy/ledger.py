"""The privacy ledger of one hospital's patients: what was charged, in an append-only chain on disk.

One ledger belongs to one lineage of patients for its whole life and holds **events** (such as σ, q, steps), never ε; ε is derived
by `accounting` each time it is asked for. The rules:

1. Check, append, fsync, then return. Only after `charge` has returned may the data be read. Whatever fails before leaves
   either nothing or a charge that counts although nobody was told: over-counted, never under-counted.
2. Nothing is changed or taken back. Triggers refuse UPDATE and DELETE; every entry's digest covers its fields and the
   entry before it, and the first one covers the budget, the lineage and the format.
3. The newest digest is also kept in a second file, `<ledger>.head`, written after the commit. A chain one entry ahead of
   its head is what a crash between the two leaves, and is mended. A chain behind its head has been rolled back.
4. One `BEGIN IMMEDIATE` transaction holds check and append, so two processes cannot spend the same remainder. No entry
   is appended before the head has reached the entry before it; so a head is never further behind than one.

The chain has no key: who can write both files can write a new history. Against that, `head` is given to others to countersign,
and `verify` takes what they countersigned. The module reads no clock.

What a chain is stands in `chain`, its files in `ledgerfile`; the transactions, and so SQLAlchemy, are here.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from fedward.privacy.accounting import epsilon
from fedward.privacy.chain import (
    FORMAT,
    Budget,
    Chain,
    Charge,
    Entry,
    Head,
    broken,
    check_count,
    check_text,
    rolled_back,
    row_of,
)
from fedward.privacy.durable import sync_folder
from fedward.privacy.errors import InputError, IntegrityError, UnreachableError, UsageError
from fedward.privacy.events import Event
from fedward.privacy.ledgerfile import (
    connect,
    head_path,
    log_path,
    read_head,
    touch_new,
    unreachable,
    write_genesis,
    write_head,
)

__all__ = ["FORMAT", "Budget", "Charge", "Entry", "Head", "Ledger", "Receipt", "StudySpending"]

_COLUMNS = "sequence, previous, at, study_digest, study_id, round, attempt, purpose, event, digest"
_SELECT = text(f"SELECT {_COLUMNS} FROM entries WHERE sequence >= :since ORDER BY sequence")  # noqa: S608 - constants
_INSERT = text(
    f"INSERT INTO entries ({_COLUMNS}) VALUES "  # noqa: S608 - constants
    "(:sequence, :previous, :at, :study_digest, :study_id, :round, :attempt, :purpose, "
    ":event, :digest)"
)


@dataclass(frozen=True)
class Receipt:
    """Proof that a charge is on disk: its place in the chain, and ε spent and left after it."""

    sequence: int
    entry_digest: str
    epsilon_after: float
    remaining: float


@dataclass(frozen=True)
class StudySpending:
    """One study's charges by themselves. Studies' ε do not add up to the ledger's; they compose to less."""

    study_digest: str
    study_id: str
    charges: int
    unprotected: int
    epsilon: float


class Ledger:
    """One ledger, opened. Safe between threads and between processes; not to be carried across a fork.

    Made by `create` or `open`. Every method that touches the file raises UnreachableError if the storage cannot be used
    now, IntegrityError if the chain does not hold, and UsageError after `os.fork`.
    """

    def __init__(self, path: Path) -> None:
        """Use `create` or `open`; this reads and verifies an existing file."""
        self._path = path
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._engine = create_engine("sqlite://", creator=lambda: connect(path), poolclass=QueuePool)
        event.listen(self._engine, "begin", _begin)
        try:
            with self._transaction("BEGIN") as connection:
                self._start(connection)
                self._catch_up(connection)
                head = read_head(path)
            if head != self._chain.tail:
                # Another process may be between its commit and its head: look again with the lock in hand.
                with self._transaction("BEGIN IMMEDIATE") as connection:
                    self._catch_up(connection)
                    self._settle_head()
        except BaseException:
            self._engine.dispose()
            raise

    @classmethod
    def create(cls, path: Path, *, budget: Budget, lineage: str) -> Self:
        """Makes a new, empty ledger, readable by its owner only.

        Args:
            path: where; `<path>.head` is made beside it.
            budget: the lifetime budget. It can never be changed.
            lineage: which patients, as the hospital names them; no patient value.

        Raises:
            InputError: the file exists, or an earlier creation was cut off, or `lineage` is not printable text.
            IntegrityError: there is no ledger, but a head of one that held charges.
            UnreachableError: the folder cannot be written.
        """
        check_text(lineage, "lineage")
        if path.exists():
            raise InputError(f"{path} exists", remedy="open it; a lineage has one ledger for its whole life")
        # SQLite would replay another ledger's left-over log into the new file.
        if log_path(path).exists():
            raise InputError(
                f"{log_path(path)} is left over from another ledger", remedy="move it away, then try again"
            )
        if head_path(path).exists() and read_head(path).sequence > 0:
            raise rolled_back(f"{path} is gone, but {head_path(path).name} shows that it held charges")
        draft = path.with_name(path.name + ".new")
        with _storage(path):
            touch_new(draft)
            try:
                # Again, now that no other creation can be running: one may have finished since the first look.
                if path.exists():
                    raise InputError(f"{path} exists", remedy="open it; a lineage has one ledger for its whole life")
                genesis = write_genesis(draft, budget, lineage)
                # The head first: a ledger without one is never mistaken for a new one.
                write_head(path, Head(0, genesis))
                draft.rename(path)  # no second creation is running: it could not have made the draft
                sync_folder(path.parent)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return cls(path)

    @classmethod
    def open(cls, path: Path, *, witness: Head | None = None) -> Self:
        """Opens a ledger and verifies the chain whole, against its head and against a countersigned one if given.

        Raises:
            InputError: there is no ledger at `path`, or it has a format that this version does not know.
            IntegrityError: the chain is broken, cut short or rolled back.
            UnreachableError: the file cannot be read, or its head cannot be mended.
        """
        if not path.exists():
            if head_path(path).exists() and read_head(path).sequence > 0:
                raise rolled_back(f"{path} is gone, but its head file is there")
            raise InputError(f"there is no ledger at {path}", remedy="create it, or correct the path")
        ledger = cls(path)
        if witness is not None:
            ledger._chain.check_witness(witness)
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the file. Nothing is pending: every charge was durable when it returned."""
        self._engine.dispose()

    @property
    def budget(self) -> Budget:
        """The lifetime budget."""
        return self._chain.budget

    @property
    def lineage(self) -> str:
        """Which patients this ledger is about."""
        return self._chain.lineage

    @property
    def head(self) -> Head:
        """The chain's newest link, for others to countersign."""
        self._refresh()
        return self._chain.tail

    @property
    def remaining(self) -> float:
        """Budgeted ε that is left, rounded down to 1e-4. Differences of ε are no ε: use `would_cost` to plan."""
        return _remaining(self._chain.budget, self.spent())

    @property
    def unprotected(self) -> int:
        """How many runs without differential privacy these patients were in. After one, no ε bounds what was learnt."""
        self._refresh()
        return sum(entry.charge.event is None for entry in self._chain.entries)

    def charge(self, charge: Charge, *, at: int) -> Receipt:
        """Spends privacy: checks, appends and syncs, and returns only when the charge is durable.

        Args:
            charge: what is about to be done.
            at: now, in Unix seconds.

        Returns:
            The receipt. Keep the data closed until it is there.

        Raises:
            RefusalError: `budget-exhausted` or `already-charged`; nothing was charged.
            InputError: `at` is no time; nothing was charged.
            UnreachableError: the storage failed. The charge may count (`charge-unconfirmed` if it surely does), and must be
                taken as not granted.
            IntegrityError: the chain or its head does not hold; nothing was charged.
        """
        check_count(at, "at", 2**53)
        with self._lock:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                self._catch_up(connection)
                self._settle_head()
                after = self._chain.admit(charge)
                entry = self._chain.seal(charge, at)
                connection.execute(_INSERT, row_of(entry))
            self._confirm(entry)
        return Receipt(entry.sequence, entry.digest, after, _remaining(self._chain.budget, after))

    def charges(self) -> list[Entry]:
        """Every charge, oldest first."""
        self._refresh()
        return list(self._chain.entries)

    def charges_of(self, study_digest: str) -> int:
        """How many charges a study has made, of any purpose."""
        self._refresh()
        return sum(entry.charge.study_digest == study_digest for entry in self._chain.entries)

    def spent(self) -> float:
        """ε of all events at the budget's δ, rounded up to 1e-4. Runs without DP are not in it: see `promised`."""
        self._refresh()
        return epsilon(self._chain.history, self._chain.budget.delta)

    def promised(self) -> float:
        """The ε that these patients can truly be told: `spent`, or infinity once any run had no differential privacy."""
        return math.inf if self.unprotected else self.spent()

    def would_cost(self, events: Sequence[Event]) -> float:
        """ε at the budget's δ if these events came on top of everything charged so far."""
        self._refresh()
        return epsilon((*self._chain.history, *events), self._chain.budget.delta)

    def spent_by_study(self) -> list[StudySpending]:
        """Each study by itself, in order of its first charge."""
        self._refresh()
        studies: dict[str, list[Charge]] = {}
        for entry in self._chain.entries:
            studies.setdefault(entry.charge.study_digest, []).append(entry.charge)
        return [self._spending(charges) for charges in studies.values()]

    def verify(self, witness: Head | None = None) -> Head:
        """Reads the whole file again and checks every link, the head file, and a countersigned head if given.

        Returns:
            The chain's head.

        Raises:
            IntegrityError: something does not hold.
        """
        with Ledger.open(self._path, witness=witness) as fresh:
            fresh._chain.check_witness(self._chain.tail)
            return fresh._chain.tail

    def _spending(self, charges: list[Charge]) -> StudySpending:
        events = [charge.event for charge in charges if charge.event is not None]
        return StudySpending(
            study_digest=charges[0].study_digest,
            study_id=charges[0].study_id,
            charges=len(charges),
            unprotected=len(charges) - len(events),
            epsilon=epsilon(events, self._chain.budget.delta),
        )

    def _confirm(self, entry: Entry) -> None:
        """After the commit: brings the head up to the chain."""
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                self._catch_up(connection)
                write_head(self._path, self._chain.tail)
        except UnreachableError as error:
            raise UnreachableError(
                f"charge {entry.sequence} is recorded and counts, but could not be confirmed: {error.what}",
                remedy=f"{error.remedy}; then make a new attempt, this one must not run",
                code="charge-unconfirmed",
            ) from error

    def _refresh(self) -> None:
        with self._lock, self._transaction("BEGIN") as connection:
            self._catch_up(connection)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        if os.getpid() != self._pid:
            raise UsageError("a ledger was carried across a fork", remedy="open it again in the new process")
        with (
            _storage(self._path),
            self._engine.connect().execution_options(begin=begin) as connection,
            connection.begin(),
        ):
            yield connection

    def _start(self, connection: Connection) -> None:
        """Reads and checks the genesis, and forgets everything else."""
        rows = connection.execute(text("SELECT format, lineage, epsilon, delta, digest FROM genesis")).all()
        if len(rows) != 1:
            raise broken("the first link of the ledger is missing")
        version, lineage, epsilon_, delta, claimed = rows[0]
        if version != FORMAT:
            raise InputError(
                f"{self._path} has a format of another version",
                expected=str(FORMAT),
                got=str(version),
                remedy="use the Fedward version that wrote it, or upgrade",
            )
        try:
            chain = Chain(Budget(epsilon_, delta), check_text(lineage, "lineage"))
        except InputError as error:
            raise broken("the first link of the ledger is no budget") from error
        if claimed != chain.tail.digest:
            raise broken("the ledger's budget or lineage was changed")
        self._chain = chain

    def _catch_up(self, connection: Connection) -> None:
        """Verifies and takes in what others appended; the last entry known must still be there."""
        with self._lock:
            self._chain.take_in(connection.execute(_SELECT, {"since": self._chain.tail.sequence}).all())

    def _settle_head(self) -> None:
        """Compares the head file with the chain; mends a head that is one entry behind. Needs the write lock."""
        if self._chain.lags(read_head(self._path)):
            write_head(self._path, self._chain.tail)


def _remaining(budget: Budget, spent: float) -> float:
    if not math.isfinite(spent):
        return 0.0
    left = Decimal(repr(budget.epsilon)) - Decimal(repr(spent))
    return max(0.0, float(left.quantize(Decimal("0.0001"), rounding=ROUND_FLOOR)))


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(str(connection.get_execution_options().get("begin", "BEGIN")))


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turns what SQLite and the file system say into errors that say what to do."""
    try:
        yield
    except DBAPIError as error:
        raise _translated(path, error.orig) from error
    except sqlite3.Error as error:
        raise _translated(path, error) from error
    except OSError as error:
        raise unreachable(path, error.strerror or type(error).__name__) from error


def _translated(path: Path, error: BaseException | None) -> IntegrityError | UnreachableError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return broken(f"{path} is damaged: {error}")
    # A missing table or column: not a ledger, or not whole.
    if primary in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH):
        return broken(f"{path} does not keep a ledger's rules: {error}")
    return unreachable(path, str(error))
