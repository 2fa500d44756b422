"""The privacy ledger of one hospital's patients: what was charged, in an append-only chain on disk.

One ledger belongs to one lineage of patients for its whole life and holds **events** (σ, q, steps), never ε; ε is derived
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
"""

from __future__ import annotations

import json
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
from typing import Any, Self

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from fedward.privacy.accounting import DpEvent, History, epsilon, merge
from fedward.privacy.canonical import canonical_json, digest_of
from fedward.privacy.errors import InputError, IntegrityError, RefusalError, UnreachableError, UsageError

FORMAT = 1
# How long a charge waits for another process's charge, in seconds.
_PATIENCE = 30.0
_DIGEST_LENGTH = 64
_UNPROTECTED_SUFFIX = "-without-dp"
_LARGEST_COUNT = 2**31 - 1

_SCHEMA = (
    """CREATE TABLE genesis (
        id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, lineage TEXT NOT NULL,
        epsilon REAL NOT NULL, delta REAL NOT NULL, digest TEXT NOT NULL)""",
    """CREATE TABLE entries (
        sequence INTEGER PRIMARY KEY, previous TEXT NOT NULL, at INTEGER NOT NULL, study_digest TEXT NOT NULL,
        study_id TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, purpose TEXT NOT NULL,
        noise_multiplier REAL, sampling_rate REAL, steps INTEGER, digest TEXT NOT NULL,
        UNIQUE (study_digest, round, attempt, purpose))""",
    *(
        f"""CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table}
        BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END"""
        for table in ("genesis", "entries")
        for action in ("UPDATE", "DELETE")
    ),
)
_COLUMNS = (
    "sequence, previous, at, study_digest, study_id, round, attempt, purpose, "
    "noise_multiplier, sampling_rate, steps, digest"
)
_SELECT = text(f"SELECT {_COLUMNS} FROM entries WHERE sequence >= :since ORDER BY sequence")  # noqa: S608 - constants
_INSERT = text(
    f"INSERT INTO entries ({_COLUMNS}) VALUES "  # noqa: S608 - constants
    "(:sequence, :previous, :at, :study_digest, :study_id, :round, :attempt, :purpose, "
    ":noise_multiplier, :sampling_rate, :steps, :digest)"
)

_RECOVER = (
    "stop training here, look for the newer copy of the ledger and its head file and put both back; if they are lost, a "
    "named person must recover the ledger from the countersigned head, counting every charge that was made since"
)


@dataclass(frozen=True)
class Budget:
    """What a lineage of patients may lose in all studies together: ε at δ, for its lifetime.

    Raises:
        InputError: ε is no finite number above 0 or δ is outside (0, 1).
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"the budget's {name} is no number", got=repr(value))
            object.__setattr__(self, name, float(value))
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise InputError("the budget's epsilon gives no bound", expected="above 0", got=repr(self.epsilon))
        if not 0 < self.delta < 1:
            raise InputError("the budget's delta is no probability", expected="in (0, 1)", got=repr(self.delta))


@dataclass(frozen=True)
class Charge:
    """What a study is about to do to the patients' privacy in one attempt of one round.

    Attributes:
        study_digest: SHA-256 of the manifest, lower-case hex.
        study_id: the manifest's name for it, for people.
        round: the study's round, from 0 (evaluations count rounds of their own purpose).
        attempt: the try at that round, from 0.
        event: the mechanism, or None for a run without differential privacy.
        purpose: what for. It ends in `-without-dp` exactly if `event` is None.

    Raises:
        InputError: a field is not of its form.
    """

    study_digest: str
    study_id: str
    round: int
    attempt: int
    event: DpEvent | None
    purpose: str = "train"

    def __post_init__(self) -> None:
        _check_digest(self.study_digest, "study_digest")
        _check_text(self.study_id, "study_id")
        _check_text(self.purpose, "purpose")
        _check_count(self.round, "round", _LARGEST_COUNT)
        _check_count(self.attempt, "attempt", _LARGEST_COUNT)
        if self.event is not None and not isinstance(self.event, DpEvent):
            raise InputError("event is no mechanism", expected="a DpEvent or None", got=type(self.event).__name__)
        if (self.event is None) != self.purpose.endswith(_UNPROTECTED_SUFFIX):
            raise InputError(
                "purpose and event disagree about differential privacy",
                expected=f"a purpose that ends in {_UNPROTECTED_SUFFIX} exactly when there is no event",
                got=f"purpose {self.purpose}, {'no event' if self.event is None else 'an event'}",
            )

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What may be charged only once."""
        return self.study_digest, self.round, self.attempt, self.purpose


@dataclass(frozen=True)
class Entry:
    """One charge as it stands in the chain; `at` is in Unix seconds, as the caller said."""

    sequence: int
    previous: str
    at: int
    charge: Charge
    digest: str


@dataclass(frozen=True)
class Head:
    """The newest entry's number (0 before the first charge) and digest: what others countersign."""

    sequence: int
    digest: str


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
        self._engine = create_engine("sqlite://", creator=lambda: _connect(path), poolclass=QueuePool)
        event.listen(self._engine, "begin", _begin)
        try:
            with self._transaction("BEGIN") as connection:
                self._start(connection)
                self._catch_up(connection)
                head = _read_head(path)
            if head != self._tail:
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
        _check_text(lineage, "lineage")
        if path.exists():
            raise InputError(f"{path} exists", remedy="open it; a lineage has one ledger for its whole life")
        # SQLite would replay another ledger's left-over log into the new file.
        if _log_path(path).exists():
            raise InputError(
                f"{_log_path(path)} is left over from another ledger", remedy="move it away, then try again"
            )
        if _head_path(path).exists() and _read_head(path).sequence > 0:
            raise _rolled_back(f"{path} is gone, but {_head_path(path).name} shows that it held charges")
        draft = path.with_name(path.name + ".new")
        with _storage(path):
            _touch_new(draft)
            try:
                genesis = _write_genesis(draft, budget, lineage)
                # The head first: a ledger without one is never mistaken for a new one.
                _write_head(path, Head(0, genesis))
                draft.rename(path)  # no second creation is running: it could not have made the draft
                _sync_folder(path.parent)
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
            if _head_path(path).exists() and _read_head(path).sequence > 0:
                raise _rolled_back(f"{path} is gone, but its head file is there")
            raise InputError(f"there is no ledger at {path}", remedy="create it, or correct the path")
        ledger = cls(path)
        if witness is not None:
            ledger._check_witness(witness)
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
        return self._budget

    @property
    def lineage(self) -> str:
        """Which patients this ledger is about."""
        return self._lineage

    @property
    def head(self) -> Head:
        """The chain's newest link, for others to countersign."""
        self._refresh()
        return self._tail

    @property
    def remaining(self) -> float:
        """Budgeted ε that is left, rounded down to 1e-4. Differences of ε are no ε: use `would_cost` to plan."""
        return _remaining(self._budget, self.spent())

    @property
    def unprotected(self) -> int:
        """How many runs without differential privacy these patients were in. After one, no ε bounds what was learnt."""
        self._refresh()
        return sum(entry.charge.event is None for entry in self._entries)

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
        _check_count(at, "at", 2**53)
        with self._lock:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                self._catch_up(connection)
                self._settle_head()
                after = self._admit(charge)
                entry = _seal(self._tail, charge, at)
                connection.execute(_INSERT, _row_of(entry))
            self._confirm(entry)
        return Receipt(entry.sequence, entry.digest, after, _remaining(self._budget, after))

    def charges(self) -> list[Entry]:
        """Every charge, oldest first."""
        self._refresh()
        return list(self._entries)

    def charges_of(self, study_digest: str) -> int:
        """How many charges a study has made, of any purpose."""
        self._refresh()
        return sum(entry.charge.study_digest == study_digest for entry in self._entries)

    def spent(self) -> float:
        """ε of all events at the budget's δ, rounded up to 1e-4. Runs without DP are not in it: see `promised`."""
        self._refresh()
        return epsilon(self._history, self._budget.delta)

    def promised(self) -> float:
        """The ε that these patients can truly be told: `spent`, or infinity once any run had no differential privacy."""
        return math.inf if self.unprotected else self.spent()

    def would_cost(self, events: Sequence[DpEvent]) -> float:
        """ε at the budget's δ if these events came on top of everything charged so far."""
        self._refresh()
        return epsilon((*self._history, *events), self._budget.delta)

    def spent_by_study(self) -> list[StudySpending]:
        """Each study by itself, in order of its first charge."""
        self._refresh()
        studies: dict[str, list[Charge]] = {}
        for entry in self._entries:
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
            fresh._check_witness(self._tail)
            return fresh._tail

    def _spending(self, charges: list[Charge]) -> StudySpending:
        events = [charge.event for charge in charges if charge.event is not None]
        return StudySpending(
            study_digest=charges[0].study_digest,
            study_id=charges[0].study_id,
            charges=len(charges),
            unprotected=len(charges) - len(events),
            epsilon=epsilon(events, self._budget.delta),
        )

    def _admit(self, charge: Charge) -> float:
        """ε after the charge, or a refusal."""
        if charge.key in self._keys:
            raise RefusalError(
                f"round {charge.round}, attempt {charge.attempt} of {charge.study_id} was charged for {charge.purpose} before",
                remedy="make a new attempt; a release is never repeated under an old charge",
                code="already-charged",
            )
        events = () if charge.event is None else (charge.event,)
        after = epsilon((*self._history, *events), self._budget.delta)
        if charge.event is not None and not after <= self._budget.epsilon:
            raise RefusalError(
                f"the privacy budget of {self._lineage} is exhausted",
                expected=f"at most ε = {self._budget.epsilon} at δ = {self._budget.delta}",
                got=f"ε = {after} with this charge, {epsilon(self._history, self._budget.delta)} without",
                remedy="end this study here; what was spent cannot be given back",
                code="budget-exhausted",
            )
        return after

    def _confirm(self, entry: Entry) -> None:
        """After the commit: brings the head up to the chain."""
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                self._catch_up(connection)
                _write_head(self._path, self._tail)
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
            raise _broken("the first link of the ledger is missing")
        version, lineage, epsilon_, delta, claimed = rows[0]
        if version != FORMAT:
            raise InputError(
                f"{self._path} has a format of another version",
                expected=str(FORMAT),
                got=str(version),
                remedy="use the Fedward version that wrote it, or upgrade",
            )
        try:
            self._budget, self._lineage = Budget(epsilon_, delta), _check_text(lineage, "lineage")
        except InputError as error:
            raise _broken("the first link of the ledger is no budget") from error
        if claimed != _genesis_digest(self._budget, self._lineage):
            raise _broken("the ledger's budget or lineage was changed")
        self._tail = Head(0, claimed)
        self._entries: list[Entry] = []
        self._keys: set[tuple[str, int, int, str]] = set()
        self._history: History = ()

    def _catch_up(self, connection: Connection) -> None:
        """Verifies and takes in what others appended; the last entry known must still be there."""
        with self._lock:
            rows = connection.execute(_SELECT, {"since": self._tail.sequence}).all()
            if self._entries:
                if not rows or _entry_of(rows[0]) != self._entries[-1]:
                    raise _rolled_back(f"entry {self._tail.sequence} of the ledger is gone or was changed")
                rows = rows[1:]
            if not rows:
                return
            fresh = _chained(self._tail, rows)
            keys = {entry.charge.key for entry in fresh}
            if len(keys) < len(fresh) or keys & self._keys:
                raise _broken("the ledger charges a second time what was charged before")
            # Everything holds: take it in at once, so that an error above leaves no entry half counted.
            self._history = merge((*self._history, *(e.charge.event for e in fresh if e.charge.event is not None)))
            self._keys |= keys
            self._entries.extend(fresh)
            self._tail = Head(fresh[-1].sequence, fresh[-1].digest)

    def _settle_head(self) -> None:
        """Compares the head file with the chain; mends a head that is one entry behind. Needs the write lock."""
        head = _read_head(self._path)
        if head == self._tail:
            return
        if head.sequence >= self._tail.sequence:
            raise _rolled_back(
                f"the ledger ends at entry {self._tail.sequence}, but its head file has seen entry {head.sequence}"
                if head.sequence > self._tail.sequence
                else f"entry {head.sequence} of the ledger is another than its head file has seen"
            )
        if head.sequence != self._tail.sequence - 1 or head.digest != self._entries[-1].previous:
            raise _broken(f"the ledger's head file (entry {head.sequence}) is not of this ledger's recent past")
        _write_head(self._path, self._tail)

    def _check_witness(self, witness: Head) -> None:
        if witness.sequence > self._tail.sequence:
            raise _rolled_back(
                f"the ledger ends at entry {self._tail.sequence}, but entry {witness.sequence} was countersigned"
            )
        known = (
            self._entries[witness.sequence - 1].digest
            if witness.sequence
            else _genesis_digest(self._budget, self._lineage)
        )
        if known != witness.digest:
            raise _rolled_back(f"entry {witness.sequence} of the ledger is another than was countersigned")


def _check_text(value: object, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise InputError(f"{name} is no name", expected="1 to 200 printable characters", got=type(value).__name__)
    return value


def _check_digest(value: object, name: str) -> None:
    if not isinstance(value, str) or len(value) != _DIGEST_LENGTH or not set(value) <= set("0123456789abcdef"):
        raise InputError(f"{name} is no digest", expected="64 lower-case hexadecimal digits", got=type(value).__name__)


def _check_count(value: object, name: str, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"{name} is no count", expected=f"a whole number, 0 to {most}", got=repr(value))


def _remaining(budget: Budget, spent: float) -> float:
    if not math.isfinite(spent):
        return 0.0
    left = Decimal(repr(budget.epsilon)) - Decimal(repr(spent))
    return max(0.0, float(left.quantize(Decimal("0.0001"), rounding=ROUND_FLOOR)))


def _broken(what: str) -> IntegrityError:
    return IntegrityError(what, remedy=_RECOVER, code="ledger-broken")


def _rolled_back(what: str) -> IntegrityError:
    return IntegrityError(what, remedy=_RECOVER, code="ledger-rolled-back")


# --- the chain -------------------------------------------------------------------------------------------------------


def _genesis_digest(budget: Budget, lineage: str) -> str:
    return digest_of({"format": FORMAT, "lineage": lineage, "epsilon": budget.epsilon, "delta": budget.delta})


def _entry_digest(sequence: int, previous: str, at: int, charge: Charge) -> str:
    mechanism = charge.event and {
        "noise_multiplier": charge.event.noise_multiplier,
        "sampling_rate": charge.event.sampling_rate,
        "steps": charge.event.steps,
    }
    return digest_of(
        {
            "sequence": sequence,
            "previous": previous,
            "at": at,
            "study_digest": charge.study_digest,
            "study_id": charge.study_id,
            "round": charge.round,
            "attempt": charge.attempt,
            "purpose": charge.purpose,
            "event": mechanism,
        }
    )


def _seal(tail: Head, charge: Charge, at: int) -> Entry:
    sequence = tail.sequence + 1
    return Entry(sequence, tail.digest, at, charge, _entry_digest(sequence, tail.digest, at, charge))


def _chained(tail: Head, rows: Sequence[Any]) -> list[Entry]:
    """The entries that follow `tail`, every number, link and digest checked."""
    entries: list[Entry] = []
    for row in rows:
        entry = _entry_of(row)
        if entry.sequence != tail.sequence + 1:
            raise _broken(f"entry {tail.sequence + 1} of the ledger is missing")
        if entry.previous != tail.digest:
            raise _broken(f"entry {entry.sequence} of the ledger does not follow the entry before it")
        if entry.digest != _entry_digest(entry.sequence, entry.previous, entry.at, entry.charge):
            raise _broken(f"entry {entry.sequence} of the ledger was changed")
        entries.append(entry)
        tail = Head(entry.sequence, entry.digest)
    return entries


def _row_of(entry: Entry) -> dict[str, str | int | float | None]:
    charge, mechanism = entry.charge, entry.charge.event
    return {
        "sequence": entry.sequence,
        "previous": entry.previous,
        "at": entry.at,
        "study_digest": charge.study_digest,
        "study_id": charge.study_id,
        "round": charge.round,
        "attempt": charge.attempt,
        "purpose": charge.purpose,
        "noise_multiplier": None if mechanism is None else mechanism.noise_multiplier,
        "sampling_rate": None if mechanism is None else mechanism.sampling_rate,
        "steps": None if mechanism is None else mechanism.steps,
        "digest": entry.digest,
    }


def _entry_of(row: Any) -> Entry:
    """An entry from its row. What no charge could have written is tampering, not bad input."""
    try:
        mechanism = (row.noise_multiplier, row.sampling_rate, row.steps)
        event_ = None if mechanism == (None, None, None) else DpEvent(*mechanism)
        charge = Charge(row.study_digest, row.study_id, row.round, row.attempt, event_, row.purpose)
        _check_count(row.at, "at", 2**53)
        _check_digest(row.previous, "previous")
    except InputError as error:
        raise _broken(f"entry {row.sequence} of the ledger was changed") from error
    return Entry(row.sequence, row.previous, row.at, charge, row.digest)


# --- storage ---------------------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that has vanished must not come back empty.
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(str(connection.get_execution_options().get("begin", "BEGIN")))


def _write_genesis(draft: Path, budget: Budget, lineage: str) -> str:
    """Fills the draft and closes it, which folds its write-ahead log into it. Returns the first link's digest."""
    first = _genesis_digest(budget, lineage)
    connection = _connect(draft)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(
            "INSERT INTO genesis VALUES (1, ?, ?, ?, ?, ?)", (FORMAT, lineage, budget.epsilon, budget.delta, first)
        )
        connection.execute("COMMIT")
    finally:
        connection.close()
    return first


def _touch_new(draft: Path) -> None:
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _log_path(draft).unlink(missing_ok=True)
    except FileExistsError as error:
        raise InputError(
            f"{draft} exists: a ledger is being created here, or creating it was cut off",
            remedy="if no other creation is running, delete that file and try again; it holds no charge",
        ) from error


def _log_path(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def _read_head(path: Path) -> Head:
    try:
        found = json.loads(_head_path(path).read_bytes())
        head = Head(found["sequence"], found["digest"])
        _check_count(head.sequence, "sequence", 2**53)
        _check_digest(head.digest, "digest")
    except FileNotFoundError as error:
        raise _broken(f"the ledger's head file {_head_path(path).name} is missing") from error
    except OSError as error:
        raise _unreachable(path, error.strerror or type(error).__name__) from error
    except (ValueError, TypeError, KeyError, InputError) as error:
        raise _broken(f"the ledger's head file {_head_path(path).name} is no head") from error
    return head


def _write_head(path: Path, head: Head) -> None:
    """Replaces the head file in one step, and returns when it is on disk."""
    final = _head_path(path)
    draft = final.with_name(final.name + ".new")
    handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(canonical_json({"sequence": head.sequence, "digest": head.digest}) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    draft.replace(final)
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows has no handle of a folder to sync; its rename is journalled
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        raise _unreachable(path, error.strerror or type(error).__name__) from error


def _translated(path: Path, error: BaseException | None) -> IntegrityError | UnreachableError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _broken(f"{path} is damaged: {error}")
    # A missing table or column: not a ledger, or not whole.
    if primary in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH):
        return _broken(f"{path} does not keep a ledger's rules: {error}")
    return _unreachable(path, str(error))


def _unreachable(path: Path, why: str) -> UnreachableError:
    return UnreachableError(
        f"the ledger {path} cannot be used now: {why}",
        remedy="see that the disk has space, that its owner runs this, and that no other program holds the file",
        code="ledger-unreachable",
    )
