"""What a ledger's entries say: charges, reservations, releases and recoveries, and the links that hold them. Pure.

An entry's body is canonical JSON. Its digest covers the body, its kind, number and time, and the entry before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from fedward.privacy.canonical import canonical_json, digest_of
from fedward.privacy.errors import InputError, IntegrityError, UsageError
from fedward.privacy.events import EVENTS, Event, History, from_record, merge, to_record

FORMAT = 3
_DIGEST_LENGTH = 64
_UNPROTECTED_SUFFIX = "-without-dp"
_LARGEST_COUNT = 2**31 - 1
_LARGEST_TIME = 2**53

_RECOVER = (
    "stop training here and look for the newer copy of the ledger and its head file; put both back, or let a named person "
    "recover it from an export: `fedward site ledger-recover --help` (what may have been lost then counts as spent)"
)

Reason: TypeAlias = Literal[
    "completed", "stopped", "refused", "revoked", "withdrawn", "superseded", "expired", "replaced", "rejected"
]
Lost: TypeAlias = Literal["nothing", "charges", "anything"]


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
class Head:
    """The newest entry's number (0 before the first one) and digest: what others countersign."""

    sequence: int
    digest: str


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

    KIND: ClassVar[str] = "charge"

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
class Reservation:
    """All that a study may charge at this hospital, held for it from its approval on.

    Attributes:
        study_digest: SHA-256 of the manifest, lower-case hex.
        study_id: the manifest's name for it, for people.
        events: the study's whole schedule, spare attempts included; kept merged. At least one event.
        expires_at: from then on nothing can be charged to it, in Unix seconds.
        cohort: the fingerprint of the patients that it is for, 64 lower-case hex digits.

    Raises:
        InputError: a field is not of its form.
    """

    KIND: ClassVar[str] = "reservation"

    study_digest: str
    study_id: str
    events: History
    expires_at: int
    cohort: str

    def __post_init__(self) -> None:
        check_digest(self.study_digest, "study_digest")
        check_text(self.study_id, "study_id")
        check_count(self.expires_at, "expires_at", _LARGEST_TIME)
        check_digest(self.cohort, "cohort")
        if not self.events or not all(isinstance(event, EVENTS) for event in self.events):
            raise InputError("a reservation holds no events", expected="at least one event, and only events")
        object.__setattr__(self, "events", merge(self.events))


@dataclass(frozen=True)
class Release:
    """The end of a study's reservation: what was not charged is free again.

    Raises:
        InputError: a field is not of its form.
    """

    KIND: ClassVar[str] = "release"

    study_digest: str
    study_id: str
    reason: Reason

    def __post_init__(self) -> None:
        check_digest(self.study_digest, "study_digest")
        check_text(self.study_id, "study_id")
        _check_choice(self.reason, "reason", get_args(Reason))


@dataclass(frozen=True)
class Recovery:
    """A named person put a ledger back that was lost, damaged or rolled back.

    Attributes:
        by: who decided it.
        reason: why, in their words; no patient value.
        lost: what may be missing between the entry before and `known`. `nothing`: the copy is whole. `charges`: charges to open
            reservations, and of stopped studies; these count as spent in full. `anything`: the whole budget counts as spent, for
            good.
        known: the newest entry that the lost ledger is known to have had; None if that is not known. The recovery's own number
            is higher, so that no number ever stands for two entries that others may have countersigned.

    Raises:
        InputError: a field is not of its form.
    """

    KIND: ClassVar[str] = "recovery"

    by: str
    reason: str
    lost: Lost
    known: Head | None

    def __post_init__(self) -> None:
        check_text(self.by, "by")
        check_text(self.reason, "reason")
        _check_choice(self.lost, "lost", get_args(Lost))
        if self.known is not None:
            check_count(self.known.sequence, "known.sequence", _LARGEST_TIME)
            check_digest(self.known.digest, "known.digest")


What: TypeAlias = Charge | Reservation | Release | Recovery


@dataclass(frozen=True)
class Entry:
    """One link of the chain; `at` is in Unix seconds, as the caller said."""

    sequence: int
    previous: str
    at: int
    what: What
    digest: str

    @property
    def charge(self) -> Charge:
        """The charge of an entry that is one.

        Raises:
            UsageError: it is another kind of entry.
        """
        if not isinstance(self.what, Charge):
            raise UsageError(f"entry {self.sequence} of the ledger is no charge", got=self.what.KIND)
        return self.what


def genesis_digest(budget: Budget, lineage: str, order: float) -> str:
    """The first link's digest; `order` is the Rényi order of the budget's filter."""
    return digest_of(
        {"format": FORMAT, "lineage": lineage, "epsilon": budget.epsilon, "delta": budget.delta, "order": order}
    )


def sealed_entry(sequence: int, previous: str, at: int, what: What) -> Entry:
    """The entry with its digest."""
    return _linked(sequence, previous, at, what, _text_of(what))


def _linked(sequence: int, previous: str, at: int, what: What, text: str) -> Entry:
    link = {"sequence": sequence, "previous": previous, "at": at, "kind": what.KIND, "body": text}
    return Entry(sequence, previous, at, what, digest_of(link))


def row_of(entry: Entry) -> dict[str, str | int]:
    """The columns of an entry."""
    return {
        "sequence": entry.sequence,
        "previous": entry.previous,
        "at": entry.at,
        "kind": entry.what.KIND,
        "body": _text_of(entry.what),
        "digest": entry.digest,
    }


def entry_of(row: Any) -> Entry:
    """An entry from its row, with fields as `row_of` names them. What nothing could have written is tampering, not bad input.

    Raises:
        IntegrityError: a field is not of its form, or the digest is another.
    """
    try:
        check_count(row.sequence, "sequence", _LARGEST_TIME)
        check_digest(row.previous, "previous")
        check_count(row.at, "at", _LARGEST_TIME)
        entry = _linked(row.sequence, row.previous, row.at, _what_of(row.kind, row.body), row.body)
    except InputError as error:
        raise broken(f"entry {row.sequence} of the ledger was changed") from error
    if entry.digest != row.digest:
        raise broken(f"entry {row.sequence} of the ledger was changed")
    return entry


def body_of(what: What) -> dict[str, Any]:
    """The fields as JSON data."""
    if isinstance(what, Recovery):
        known = None if what.known is None else vars(what.known)
        return {"by": what.by, "reason": what.reason, "lost": what.lost, "known": known}
    body: dict[str, Any] = {"study_digest": what.study_digest, "study_id": what.study_id}
    if isinstance(what, Release):
        return body | {"reason": what.reason}
    if isinstance(what, Reservation):
        events = [_record(event) for event in what.events]
        return body | {"events": events, "expires_at": what.expires_at, "cohort": what.cohort}
    event = None if what.event is None else _record(what.event)
    return body | {"round": what.round, "attempt": what.attempt, "purpose": what.purpose, "event": event}


@lru_cache(maxsize=4096)
def _record(event: Event) -> Mapping[str, Any]:
    """To read only: a study's charges are all alike."""
    return to_record(event)


def _text_of(what: What) -> str:
    return canonical_json(body_of(what)).decode()


def _what_of(kind: object, text: object) -> What:
    try:
        body = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise InputError("the entry's body is no JSON object")
    what = _read(kind, body)
    # Also refuses another spelling of the same values, fields too many, and events that are not merged.
    if _text_of(what) != text:
        raise InputError("the entry's body is not canonical JSON")
    return what


def _read(kind: object, body: Mapping[str, Any]) -> What:
    fields = dict(body)
    try:
        if kind == Charge.KIND:
            event = fields.pop("event")
            return Charge(event=None if event is None else from_record(event), **fields)
        if kind == Reservation.KIND:
            return Reservation(events=tuple(from_record(event) for event in fields.pop("events")), **fields)
        if kind == Release.KIND:
            return Release(**fields)
        if kind == Recovery.KIND:
            known = fields.pop("known")
            return Recovery(known=None if known is None else Head(**known), **fields)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError("the entry's body has other fields than its kind") from error
    raise InputError("the entry's kind is unknown", got=repr(kind)[:80])


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


def check_order(value: object) -> float:
    """The Rényi order. Raises: InputError unless it is a finite number above 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 1):
        raise InputError("the filter's order is none", expected="a number above 1", got=repr(value))
    return float(value)


def check_time(value: object, name: str = "at") -> None:
    """Raises: InputError unless it is a time in Unix seconds."""
    check_count(value, name, _LARGEST_TIME)


def _check_choice(value: object, name: str, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is unknown", expected=", ".join(choices), got=repr(value)[:80])


def broken(what: str) -> IntegrityError:
    """The error that the chain does not hold."""
    return IntegrityError(what, remedy=_RECOVER, code="ledger-broken")


def rolled_back(what: str) -> IntegrityError:
    """The error that the chain was cut short or replaced."""
    return IntegrityError(what, remedy=_RECOVER, code="ledger-rolled-back")
