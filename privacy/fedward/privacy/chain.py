"""The ledger's chain: charges, the entries that hold them, and what follows from a row of entries. Pure.

`Chain` takes in rows as the ledger reads them and believes none: each must be an entry that a charge could have made, with
the next number, the digest of the entry before it, and a digest of its own that covers all its fields. What does not
hold raises IntegrityError before anything of it is taken in. Whether a charge is granted is decided here too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedward.privacy.accounting import epsilon
from fedward.privacy.canonical import canonical_json, digest_of
from fedward.privacy.errors import InputError, IntegrityError, RefusalError
from fedward.privacy.events import EVENTS, Event, History, from_record, merge, to_record

FORMAT = 2
_DIGEST_LENGTH = 64
_UNPROTECTED_SUFFIX = "-without-dp"
_LARGEST_COUNT = 2**31 - 1

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
    event: Event | None
    purpose: str = "train"

    def __post_init__(self) -> None:
        check_digest(self.study_digest, "study_digest")
        check_text(self.study_id, "study_id")
        check_text(self.purpose, "purpose")
        check_count(self.round, "round", _LARGEST_COUNT)
        check_count(self.attempt, "attempt", _LARGEST_COUNT)
        if self.event is not None and not isinstance(self.event, EVENTS):
            raise InputError("event is no mechanism", expected="an event or None", got=type(self.event).__name__)
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


class Chain:
    """A ledger's entries as far as they were read, every link checked, and what follows from them."""

    def __init__(self, budget: Budget, lineage: str) -> None:
        """An empty chain; its first link covers the budget, the lineage and the format."""
        self.budget = budget
        self.lineage = lineage
        self.tail = Head(0, genesis_digest(budget, lineage))
        self.entries: list[Entry] = []
        self.history: History = ()
        self._keys: set[tuple[str, int, int, str]] = set()

    def take_in(self, rows: Sequence[Any]) -> None:
        """Verifies and takes in the rows from the newest entry known on; that one must still be there, unchanged.

        Raises:
            IntegrityError: something does not hold; nothing was taken in.
        """
        if self.entries:
            if not rows or _entry_of(rows[0]) != self.entries[-1]:
                raise rolled_back(f"entry {self.tail.sequence} of the ledger is gone or was changed")
            rows = rows[1:]
        if not rows:
            return
        fresh = _chained(self.tail, rows)
        keys = {entry.charge.key for entry in fresh}
        if len(keys) < len(fresh) or keys & self._keys:
            raise broken("the ledger charges a second time what was charged before")
        # Everything holds: take it in at once, so that an error above leaves no entry half counted.
        self.history = merge((*self.history, *(e.charge.event for e in fresh if e.charge.event is not None)))
        self._keys |= keys
        self.entries.extend(fresh)
        self.tail = Head(fresh[-1].sequence, fresh[-1].digest)

    def admit(self, charge: Charge) -> float:
        """ε after the charge.

        Raises:
            RefusalError: `budget-exhausted` or `already-charged`.
        """
        if charge.key in self._keys:
            raise RefusalError(
                f"round {charge.round}, attempt {charge.attempt} of {charge.study_id} was charged for {charge.purpose} before",
                remedy="make a new attempt; a release is never repeated under an old charge",
                code="already-charged",
            )
        events = () if charge.event is None else (charge.event,)
        after = epsilon((*self.history, *events), self.budget.delta)
        if charge.event is not None and not after <= self.budget.epsilon:
            raise RefusalError(
                f"the privacy budget of {self.lineage} is exhausted",
                expected=f"at most ε = {self.budget.epsilon} at δ = {self.budget.delta}",
                got=f"ε = {after} with this charge, {epsilon(self.history, self.budget.delta)} without",
                remedy="end this study here; what was spent cannot be given back",
                code="budget-exhausted",
            )
        return after

    def seal(self, charge: Charge, at: int) -> Entry:
        """The entry that a charge would be, next in the chain; the chain itself stays as it is."""
        sequence, previous = self.tail.sequence + 1, self.tail.digest
        return Entry(sequence, previous, at, charge, _entry_digest(sequence, previous, at, charge))

    def lags(self, head: Head) -> bool:
        """Whether a head file is one entry behind, as a crash between commit and head leaves it; false if it is up to date.

        Raises:
            IntegrityError: it is anything else.
        """
        if head == self.tail:
            return False
        if head.sequence >= self.tail.sequence:
            raise rolled_back(
                f"the ledger ends at entry {self.tail.sequence}, but its head file has seen entry {head.sequence}"
                if head.sequence > self.tail.sequence
                else f"entry {head.sequence} of the ledger is another than its head file has seen"
            )
        if head.sequence != self.tail.sequence - 1 or head.digest != self.entries[-1].previous:
            raise broken(f"the ledger's head file (entry {head.sequence}) is not of this ledger's recent past")
        return True

    def check_witness(self, witness: Head) -> None:
        """Raises: IntegrityError if the countersigned head is none of this chain's links."""
        if witness.sequence > self.tail.sequence:
            raise rolled_back(
                f"the ledger ends at entry {self.tail.sequence}, but entry {witness.sequence} was countersigned"
            )
        known = (
            self.entries[witness.sequence - 1].digest if witness.sequence else genesis_digest(self.budget, self.lineage)
        )
        if known != witness.digest:
            raise rolled_back(f"entry {witness.sequence} of the ledger is another than was countersigned")


def genesis_digest(budget: Budget, lineage: str) -> str:
    """The first link's digest."""
    return digest_of({"format": FORMAT, "lineage": lineage, "epsilon": budget.epsilon, "delta": budget.delta})


def _entry_digest(sequence: int, previous: str, at: int, charge: Charge) -> str:
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
            "event": None if charge.event is None else to_record(charge.event),
        }
    )


def _chained(tail: Head, rows: Sequence[Any]) -> list[Entry]:
    """The entries that follow `tail`, every number, link and digest checked."""
    entries: list[Entry] = []
    for row in rows:
        entry = _entry_of(row)
        if entry.sequence != tail.sequence + 1:
            raise broken(f"entry {tail.sequence + 1} of the ledger is missing")
        if entry.previous != tail.digest:
            raise broken(f"entry {entry.sequence} of the ledger does not follow the entry before it")
        if entry.digest != _entry_digest(entry.sequence, entry.previous, entry.at, entry.charge):
            raise broken(f"entry {entry.sequence} of the ledger was changed")
        entries.append(entry)
        tail = Head(entry.sequence, entry.digest)
    return entries


def row_of(entry: Entry) -> dict[str, str | int | None]:
    """The columns of an entry."""
    charge = entry.charge
    return {
        "sequence": entry.sequence,
        "previous": entry.previous,
        "at": entry.at,
        "study_digest": charge.study_digest,
        "study_id": charge.study_id,
        "round": charge.round,
        "attempt": charge.attempt,
        "purpose": charge.purpose,
        "event": None if charge.event is None else canonical_json(to_record(charge.event)).decode(),
        "digest": entry.digest,
    }


def _entry_of(row: Any) -> Entry:
    """An entry from its row. What no charge could have written is tampering, not bad input."""
    try:
        charge = Charge(row.study_digest, row.study_id, row.round, row.attempt, _event_of(row.event), row.purpose)
        check_count(row.at, "at", 2**53)
        check_digest(row.previous, "previous")
    except InputError as error:
        raise broken(f"entry {row.sequence} of the ledger was changed") from error
    return Entry(row.sequence, row.previous, row.at, charge, row.digest)


def _event_of(text: str | None) -> Event | None:
    if text is None:
        return None
    try:
        record = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        record = None
    if not isinstance(record, dict) or canonical_json(record).decode() != text:
        raise InputError("the event is not canonical JSON")
    return from_record(record)


def check_text(value: object, name: str) -> str:
    """The text. Raises: InputError unless it is 1 to 200 printable characters."""
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise InputError(f"{name} is no name", expected="1 to 200 printable characters", got=type(value).__name__)
    return value


def check_digest(value: object, name: str) -> None:
    """Raises: InputError unless it is a SHA-256 in lower-case hex."""
    if not isinstance(value, str) or len(value) != _DIGEST_LENGTH or not set(value) <= set("0123456789abcdef"):
        raise InputError(f"{name} is no digest", expected="64 lower-case hexadecimal digits", got=type(value).__name__)


def check_count(value: object, name: str, most: int) -> None:
    """Raises: InputError unless it is a whole number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"{name} is no count", expected=f"a whole number, 0 to {most}", got=repr(value))


def broken(what: str) -> IntegrityError:
    """The error that the chain does not hold."""
    return IntegrityError(what, remedy=_RECOVER, code="ledger-broken")


def rolled_back(what: str) -> IntegrityError:
    """The error that the chain was cut short or replaced."""
    return IntegrityError(what, remedy=_RECOVER, code="ledger-rolled-back")
