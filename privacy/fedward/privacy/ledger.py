"""The privacy ledger of one hospital's patients: what was charged and what is reserved, in an append-only chain on disk.

One ledger belongs to one lineage of patients for its whole life and holds **events** (such as σ, q, steps), never ε; ε is derived
by `accounting` each time it is asked for. The rules:

1. A study's whole schedule is reserved when it is approved, if it fits beside all that was charged and reserved before
   (`shares.Gate`). Charges draw from their study's reservation; what a study never charged is free again once it is released.
2. Check, append, fsync, then return. Only after `charge` has returned may the data be read. Whatever fails before leaves
   either nothing or a charge that counts although nobody was told: over-counted, never under-counted.
3. Nothing is changed or taken back. Triggers refuse UPDATE and DELETE; every entry's digest covers its fields and the
   entry before it, and the first one covers the budget, the lineage, the filter's order and the format.
4. The newest digest is also kept in a second file, `<ledger>.head`, written after the commit. A chain one entry ahead of
   its head is what a crash between the two leaves, and is mended. A chain behind its head has been rolled back.
5. One `BEGIN IMMEDIATE` transaction holds check and append of one entry, so two processes cannot spend the same remainder. No
   entry is appended before the head has reached the entry before it; so a head is never further behind than one.

The chain has no key: who can write both files can write a new history. Against that, `head` is given to others to countersign,
and `verify` takes what they countersigned. The module reads no clock: `at` says when it is, and where it may be left out,
no reservation is taken as expired.

What an entry says stands in `entries`, what a chain is in `chain`, who holds what in `shares`, the files in `ledgerfile`; the
transactions, and so SQLAlchemy, are here.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool
from sqlcipher3 import dbapi2 as sqlite3

from fedward.privacy.accounting import epsilon
from fedward.privacy.chain import FORMAT, Budget, Chain, Charge, Entry, Head, Recovery, Release, Reservation, begun
from fedward.privacy.durable import sync_folder
from fedward.privacy.entries import (
    Reason,
    What,
    broken,
    check_digest,
    check_text,
    check_time,
    rolled_back,
    row_of,
)
from fedward.privacy.errors import InputError, IntegrityError, UnreachableError, UsageError
from fedward.privacy.events import Event, History, View
from fedward.privacy.ledgerfile import (
    connect,
    head_path,
    log_path,
    read_head,
    touch_new,
    unreachable,
    write_database,
    write_head,
)
from fedward.privacy.rdp_filter import filter_order
from fedward.privacy.shares import Gate, OpenReservation, Period, StudySpending, left, period_history

__all__ = [
    "FORMAT", "Budget", "Charge", "Entry", "Gate", "Head", "Ledger", "OpenReservation", "Period", "Receipt", "Recovery",
    "Release", "Reservation", "StudySpending",
]  # fmt: skip

_COLUMNS = "sequence, previous, at, kind, body, digest"
_SELECT = text(f"SELECT {_COLUMNS} FROM entries WHERE sequence >= :since ORDER BY sequence")  # noqa: S608 - constants
_INSERT = text(
    f"INSERT INTO entries ({_COLUMNS}) VALUES (:sequence, :previous, :at, :kind, :body, :digest)"  # noqa: S608 - constants
)


@dataclass(frozen=True)
class Receipt:
    """Proof that an entry is on disk: its place in the chain, and all that was charged or reserved with it."""

    sequence: int
    entry_digest: str
    _gate: Callable[[], Gate]

    @property
    def committed(self) -> float:
        """ε of everything charged and reserved, rounded up to 1e-4; computed when it is asked for."""
        return self._gate().cost(())

    @property
    def remaining(self) -> float:
        """Budgeted ε that nobody holds, rounded down to 1e-4."""
        return left(self._gate().budget.epsilon, self.committed)


class Ledger:
    """One ledger, opened. Safe between threads and between processes; not to be carried across a fork.

    Made by `create` or `open`. Every method that touches the file raises UnreachableError if the storage cannot be used
    now, IntegrityError if the chain does not hold, and UsageError after `os.fork`.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        """Use `create` or `open`; this reads and verifies an existing file."""
        self._path = path
        self._key = key
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._engine = create_engine(
            "sqlite://", module=sqlite3, creator=lambda: connect(path, key), poolclass=QueuePool
        )
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
    def create(cls, path: Path, *, budget: Budget, lineage: str, key: str | None = None) -> Self:
        """Makes a new, empty ledger, readable by its owner only.

        Args:
            path: where; `<path>.head` is made beside it.
            budget: the lifetime budget. It can never be changed.
            lineage: which patients, as the hospital names them; no patient value.
            key: encrypts the file's pages: 64 hexadecimal digits, or None for a plain file.

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
                chain = Chain(budget, lineage, filter_order(budget))
                write_database(draft, chain, key)
                # The head first: a ledger without one is never mistaken for a new one.
                write_head(path, chain.tail)
                draft.rename(path)  # no second creation is running: it could not have made the draft
                sync_folder(path.parent)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
        return cls(path, key)

    @classmethod
    def open(cls, path: Path, *, witness: Head | None = None, key: str | None = None) -> Self:
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
        ledger = cls(path, key)
        try:
            if witness is not None:
                ledger._chain.check_witness(witness)
        except BaseException:
            ledger.close()
            raise
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
    def chain(self) -> Chain:
        """The chain as it is now, to read only."""
        self._refresh()
        return self._chain

    @property
    def head(self) -> Head:
        """The chain's newest link, for others to countersign."""
        self._refresh()
        return self._chain.tail

    @property
    def remaining(self) -> float:
        """Budgeted ε that is neither spent nor reserved, rounded down to 1e-4. Differences of ε are no ε: use `fits` to plan."""
        return left(self._chain.budget.epsilon, self.committed())

    @property
    def unprotected(self) -> int:
        """How many runs without differential privacy these patients were in. After one, no ε bounds what was learnt."""
        return sum(entry.charge.event is None for entry in self.charges())

    @property
    def written_off(self) -> bool:
        """Whether a recovery counted the whole budget as spent, since nobody knows what was lost."""
        self._refresh()
        return self._chain.shares.written_off

    def reserve(self, reservation: Reservation, *, at: int, period: Period | None = None) -> Receipt:
        """Holds a study's whole schedule for it: checks, appends and syncs. Reservations that have expired are released first.

        Args:
            reservation: all that the study may charge here.
            at: now, in Unix seconds.
            period: the hospital's sub-limit, if it has one.

        Raises:
            RefusalError: `budget-exhausted`, `period-exhausted` or `already-reserved`; nothing was reserved.
            InputError: `at` is no time, or the reservation has expired; nothing was reserved.
            UnreachableError, IntegrityError: as `charge`.
        """
        check_time(at)
        if not at < reservation.expires_at:
            raise InputError(
                f"the reservation of {reservation.study_id} would expire before it begins",
                expected=f"a time after {at}",
                got=str(reservation.expires_at),
            )
        self._refresh()
        for held in self._chain.shares.expired(at):
            self.release(held.study_digest, "expired", at=at)

        def admitted() -> Reservation:
            self._chain.admit(reservation, at, period)
            return reservation

        return self._receipt(self._append(admitted, at), at)

    def charge(self, charge: Charge, *, at: int) -> Receipt:
        """Spends privacy: checks, appends and syncs, and returns only when the charge is durable.

        Args:
            charge: what is about to be done. An event is drawn from the study's open reservation.
            at: now, in Unix seconds.

        Returns:
            The receipt. Keep the data closed until it is there.

        Raises:
            RefusalError: `not-reserved`, `reservation-expired`, `reservation-used-up` or `already-charged`; nothing was charged.
            InputError: `at` is no time; nothing was charged.
            UnreachableError: the storage failed. The charge may count (`charge-unconfirmed` if it surely does), and must be
                taken as not granted.
            IntegrityError: the chain or its head does not hold; nothing was charged.
        """
        check_time(at)

        def granted() -> Charge:
            self._chain.shares.check(charge, at)
            return charge

        return self._receipt(self._append(granted, at), at)

    def release(self, study_digest: str, reason: Reason, *, at: int) -> None:
        """Ends a study's reservation: what was not charged is free again. Does nothing if none is open.

        Raises:
            InputError: an argument is not of its form.
            UnreachableError, IntegrityError: as `charge`.
        """
        check_time(at)
        check_digest(study_digest, "study_digest")

        def decided() -> Release | None:
            study = self._chain.shares.studies.get(study_digest)
            if study is None or study.reservation is None:
                return None
            return Release(study_digest, study.study_id, reason)

        self._append(decided, at)

    def entries(self) -> list[Entry]:
        """Every entry, oldest first."""
        self._refresh()
        return list(self._chain.entries)

    def charges(self) -> list[Entry]:
        """Every charge, oldest first."""
        return [entry for entry in self.entries() if isinstance(entry.what, Charge)]

    def charges_of(self, study_digest: str) -> int:
        """How many charges a study has made, of any purpose."""
        return sum(entry.charge.study_digest == study_digest for entry in self.charges())

    def reservations(self, *, at: int | None = None) -> list[OpenReservation]:
        """The open reservations and what is left of them."""
        self._refresh()
        return self._chain.shares.open(at)

    def commitments(self, *, at: int | None = None) -> History:
        """Everything charged and the rest of every open reservation, merged: what a new schedule is calibrated on top of."""
        self._refresh()
        return self._chain.shares.committed(at)

    def committed(self, *, at: int | None = None, view: View = "coordinator") -> float:
        """ε of `commitments` at the budget's δ; at least the whole budget once it was written off."""
        return self._epsilon(self.commitments(at=at), view)

    def spent(self, view: View = "coordinator") -> float:
        """ε of all events at the budget's δ, rounded up to 1e-4. Runs without DP are not in it: see `promised`.

        Where noise was shared it depends on who looks (`events.View`); the budget binds the view of the coordinator.
        """
        self._refresh()
        return self._epsilon(self._chain.shares.charged(), view)

    def promised(self) -> float:
        """The ε that these patients can truly be told: `spent`, or infinity once any run had no differential privacy."""
        return math.inf if self.unprotected else self.spent()

    def gate(self, *, at: int | None = None, study_digest: str | None = None) -> Gate:
        """The admission rule as things stand, for many questions: a study is calibrated by bisecting over `Gate.fits`.

        Args:
            at: now, in Unix seconds; without it no reservation is taken as expired.
            study_digest: the study that asks, if it may have been charged here before.
        """
        self._refresh()
        return self._chain.gate(at, study_digest)

    def fits(self, events: Sequence[Event], *, at: int | None = None) -> bool:
        """Whether a new study with this schedule would be admitted now."""
        return self.gate(at=at).fits(events)

    def would_cost(self, events: Sequence[Event], *, at: int | None = None) -> float:
        """ε at the budget's δ if these events came on top of everything charged and reserved."""
        return self.gate(at=at).cost(events)

    def spent_in(self, period: Period, *, at: int) -> float:
        """ε of what counts for a period at `at`: what was charged in it, and all that is reserved."""
        self._refresh()
        history = period_history(self._chain.entries, period.since(at), self._chain.shares, at)
        return self._epsilon(history)

    def spent_by_study(self) -> list[StudySpending]:
        """Each study by itself, in order of its first entry."""
        self._refresh()
        return self._chain.shares.spending(self._chain.budget.delta)

    def verify(self, witness: Head | None = None) -> Head:
        """Reads the whole file again and checks every link, the head file, and a countersigned head if given.

        Returns:
            The chain's head.

        Raises:
            IntegrityError: something does not hold.
        """
        with Ledger.open(self._path, witness=witness, key=self._key) as fresh:
            fresh._chain.check_witness(self._chain.tail)
            return fresh._chain.tail

    def _epsilon(self, history: History, view: View = "coordinator") -> float:
        found = epsilon(history, self._chain.budget.delta, view)
        return max(found, self._chain.budget.epsilon) if self._chain.shares.written_off else found

    def _receipt(self, entry: Entry | None, at: int) -> Receipt:
        if entry is None:
            raise UsageError("nothing was entered in the ledger")
        shares, chain = self._chain.shares, self._chain  # what is taken in later makes other shares
        return Receipt(entry.sequence, entry.digest, lambda: shares.gate(chain.budget, chain.order, at))

    def _append(self, decide: Callable[[], What | None], at: int) -> Entry | None:
        """One transaction: what `decide` says on the newest state becomes the next entry; then the head follows."""
        with self._lock:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                self._catch_up(connection)
                self._settle_head()
                what = decide()
                if what is None:
                    return None
                entry = self._chain.seal(what, at)
                connection.execute(_INSERT, row_of(entry))
            self._confirm(entry)
            return entry

    def _confirm(self, entry: Entry) -> None:
        """After the commit: brings the head up to the chain."""
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                self._catch_up(connection)
                write_head(self._path, self._chain.tail)
        except UnreachableError as error:
            raise UnreachableError(
                f"entry {entry.sequence} is recorded and counts, but could not be confirmed: {error.what}",
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
        """Checks the file's pages, reads and checks the genesis, and forgets everything else."""
        # A page that no entry needs today may be missing or damaged; the next charge would find out.
        if (found := connection.execute(text("PRAGMA integrity_check(1)")).scalar()) != "ok":
            raise broken(f"{self._path} is damaged: {found}")
        rows = connection.execute(text("SELECT * FROM genesis")).mappings().all()
        if len(rows) != 1:
            raise broken("the first link of the ledger is missing")
        self._chain = begun(dict(rows[0]), str(self._path))

    def _catch_up(self, connection: Connection) -> None:
        """Verifies and takes in what others appended; the last entry known must still be there."""
        with self._lock:
            self._chain.take_in(connection.execute(_SELECT, {"since": self._chain.tail.sequence}).all())

    def _settle_head(self) -> None:
        """Compares the head file with the chain; mends a head that is one entry behind. Needs the write lock."""
        if self._chain.lags(read_head(self._path)):
            write_head(self._path, self._chain.tail)


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
