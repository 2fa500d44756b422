"""Who holds which part of a budget: what studies were charged, what is reserved for them, and what still fits. Pure.

`Shares` follows the entries one by one and refuses what their order does not allow. `Gate` is the admission rule (ADR 9):

1. The pessimistic PLD of everything charged, everything reserved and the new schedule stays within the budget.
2. Unless the new schedule is the only one, the Rényi filter of `rdp_filter` holds too. PLDs compose only for mechanisms that
   were fixed before the first answer; a later study is chosen by people who have seen earlier studies' results.
3. A first study may be admitted by the first rule alone. Once it has been charged, the filter counts its whole schedule if that
   is over the filter's limit, however much of it was charged: then no other study is ever admitted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR, Decimal
from functools import lru_cache

from fedward.privacy.accounting import epsilon
from fedward.privacy.entries import Budget, Charge, Entry, Recovery, Release, Reservation
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.events import Event, History, merge
from fedward.privacy.rdp_filter import filter_limit, filter_spent

_DAY_S = 86_400


@dataclass(frozen=True)
class Period:
    """A sub-limit that the hospital sets itself: at most ε in any `days` days, at the lifetime's δ.

    Raises:
        InputError: `days` is below 1 or ε is no finite number above 0.
    """

    days: int
    epsilon: float

    def __post_init__(self) -> None:
        if isinstance(self.days, bool) or not isinstance(self.days, int) or not 1 <= self.days <= 36_525:
            raise InputError("the period is no number of days", expected="1 to 36525", got=repr(self.days))
        if not (isinstance(self.epsilon, (int, float)) and math.isfinite(self.epsilon) and self.epsilon > 0):
            raise InputError("the period's epsilon gives no bound", expected="above 0", got=repr(self.epsilon))

    def since(self, at: int) -> int:
        """What was charged after this moment counts at `at`."""
        return at - self.days * _DAY_S


@dataclass(frozen=True)
class OpenReservation:
    """A reservation that was not released, and what of it was not charged yet (merged; may be empty)."""

    reservation: Reservation
    remaining: History


@dataclass(frozen=True)
class StudySpending:
    """One study by itself. Studies' ε do not add up to the ledger's; they compose to less.

    Attributes:
        charges: how many charges, with and without an event.
        unprotected: how many of them without one.
        epsilon: ε of what was charged.
        reserved: ε of what is still reserved, by itself; 0 when nothing is.
    """

    study_digest: str
    study_id: str
    charges: int
    unprotected: int
    epsilon: float
    reserved: float


@dataclass
class _Study:
    """One study's share; every counter is from a mechanism (an event of one step) to steps."""

    study_id: str
    charged: Counter[Event] = field(default_factory=Counter)
    plan: Counter[Event] = field(default_factory=Counter)
    rest: Counter[Event] = field(default_factory=Counter)
    reservation: Reservation | None = None
    keys: set[tuple[str, int, int, str]] = field(default_factory=set)
    unprotected: int = 0
    stopped: bool = False
    """Ended by its coordinator, who may go on with it: it is then reserved again without anybody's approval."""

    def copy(self) -> _Study:
        return replace(
            self, charged=self.charged.copy(), plan=self.plan.copy(), rest=self.rest.copy(), keys=self.keys.copy()
        )

    def planned_with(self, events: Sequence[Event]) -> Counter[Event]:
        """The schedule once `events` are reserved too: what was planned from the start, if that covers them."""
        wanted = self.charged + steps_of(events)
        return self.plan if self.charged and wanted <= self.plan else wanted

    def open_at(self, at: int | None) -> bool:
        return self.reservation is not None and (at is None or at < self.reservation.expires_at)


@dataclass(frozen=True)
class Gate:
    """Whether a study's schedule may be admitted, as the ledger stood at one moment.

    Attributes:
        budget: the lifetime budget.
        order: the Rényi order of the filter.
        commitments: everything charged and everything reserved for others, merged.
        locked: whether rule 3 admits no other study.
        unfiltered: the schedules that rule 1 alone decides, as steps by mechanism: None is every schedule, since it would be the
            only one; else what is left of this very study's schedule, when it was charged before and was the only one.
        written_off: whether a recovery wrote the budget off.
    """

    budget: Budget
    order: float
    commitments: History
    locked: bool
    unfiltered: Counter[Event] | None
    written_off: bool

    def fits(self, events: Sequence[Event]) -> bool:
        """Whether the schedule may be admitted. True for less noise implies true for more."""
        return not self.written_off and self._passes_filter(events) and self.cost(events) <= self.budget.epsilon

    def _passes_filter(self, events: Sequence[Event]) -> bool:
        if self.unfiltered is None or steps_of(events) <= self.unfiltered:
            return True
        total = filter_spent((*self.commitments, *events), self.order)
        return not self.locked and total <= filter_limit(self.budget, self.order)

    def cost(self, events: Sequence[Event]) -> float:
        """ε at the budget's δ of the commitments and these events."""
        return math.inf if self.written_off else epsilon((*self.commitments, *events), self.budget.delta)

    def check(self, what: str, events: Sequence[Event]) -> None:
        """Raises: RefusalError `budget-exhausted` unless the schedule fits."""
        if self.fits(events):
            return
        after = self.cost(events)
        why = (
            ""
            if not after <= self.budget.epsilon
            else ", but by the Rényi filter that studies after the first must pass"
        )
        raise RefusalError(
            f"{what} does not fit into what is left of the privacy budget",
            expected=f"at most ε = {self.budget.epsilon} at δ = {self.budget.delta} for all studies together",
            got="a budget that was written off" if self.written_off else f"ε = {after} with it{why}",
            remedy="ask for a study with a smaller ε or fewer steps; what was spent cannot be given back",
            code="budget-exhausted",
        )


class Shares:
    """The state that a row of entries leaves. Rules of order are checked here, ε is not."""

    def __init__(self) -> None:
        self.studies: dict[str, _Study] = {}
        self.written_off = False
        self.recovered: list[tuple[int, History]] = []
        self._own: set[str] = set()

    def copy(self) -> Shares:
        """A copy that can take entries in and leaves this one as it is; it shares studies until it changes them."""
        twin = Shares()
        twin.studies = dict(self.studies)
        twin.written_off = self.written_off
        twin.recovered = list(self.recovered)
        return twin

    def check(self, what: object, at: int) -> None:
        """Whether this may come next.

        Raises:
            RefusalError: `already-charged`, `not-reserved`, `reservation-expired`, `reservation-used-up` for a charge,
                `already-reserved` for a reservation, `not-reserved` for a release.
        """
        if isinstance(what, Charge):
            self._check_charge(what, at)
        elif isinstance(what, Reservation) and self._reservation(what.study_digest) is not None:
            raise RefusalError(
                f"{what.study_id} has a reservation already",
                remedy="release it first, if the study was sealed anew; a study is reserved once",
                code="already-reserved",
            )
        elif isinstance(what, Release) and self._reservation(what.study_digest) is None:
            raise _not_reserved(what.study_id)

    def _check_charge(self, charge: Charge, at: int) -> None:
        study = self.studies.get(charge.study_digest, _Study(charge.study_id))
        if charge.key in study.keys:
            raise RefusalError(
                f"round {charge.round}, attempt {charge.attempt} of {charge.study_id} was charged for {charge.purpose} before",
                remedy="make a new attempt; a release is never repeated under an old charge",
                code="already-charged",
            )
        if charge.event is None:
            return
        held = self._reservation(charge.study_digest)
        if held is None:
            raise _not_reserved(charge.study_id)
        if at >= held.expires_at:
            raise RefusalError(
                f"the reservation of {charge.study_id} has expired",
                expected=f"a charge before {held.expires_at}",
                got=str(at),
                remedy="approve a new proposal of the study, or end it here",
                code="reservation-expired",
            )
        if not steps_of([charge.event]) <= study.rest:
            raise RefusalError(
                f"the reservation of {charge.study_id} does not hold this charge any more",
                got=f"{charge.event.KIND}, {charge.event.steps} steps",
                remedy="end the study here: all that was approved, spare attempts included, is spent",
                code="reservation-used-up",
            )

    def apply(self, entry: Entry) -> None:
        """Takes an entry in; it must pass `check`."""
        what = entry.what
        if isinstance(what, Recovery):
            self._recover(what, entry.at)
            return
        study = self._changeable(what.study_digest, what.study_id)
        if isinstance(what, Charge):
            study.keys.add(what.key)
            if what.event is None:
                study.unprotected += 1
            else:
                steps = steps_of([what.event])
                study.charged += steps
                study.rest -= steps
        elif isinstance(what, Reservation):
            study.plan = study.planned_with(what.events)
            study.reservation, study.rest, study.stopped = what, steps_of(what.events), False
        else:
            study.reservation, study.rest, study.stopped = None, Counter(), what.reason == "stopped"

    def _changeable(self, study_digest: str, study_id: str) -> _Study:
        """The study, of this object alone."""
        if study_digest not in self._own:
            self._own.add(study_digest)
            found = self.studies.get(study_digest)
            self.studies[study_digest] = _Study(study_id) if found is None else found.copy()
        return self.studies[study_digest]

    def _recover(self, what: Recovery, at: int) -> None:
        if what.lost == "nothing":
            return
        self.written_off |= what.lost == "anything"
        for digest in list(self.studies):
            study = self._changeable(digest, "")
            # A stopped study may have gone on after the copy was made, and have charged what was left of its plan.
            lost = study.plan - study.charged if study.stopped else study.rest
            self.recovered.append((at, history_of([lost])))
            study.charged += lost
            study.reservation, study.rest = None, Counter()

    def charged(self) -> History:
        """Everything charged, merged."""
        return history_of(study.charged for study in self.studies.values())

    def committed(self, at: int | None) -> History:
        """Everything charged and the rest of every reservation that is open and, at `at`, has not expired."""
        rests = [study.rest for study in self.studies.values() if study.open_at(at)]
        return history_of([*(study.charged for study in self.studies.values()), *rests])

    def open(self, at: int | None) -> list[OpenReservation]:
        """The reservations that are open and, at `at`, have not expired, oldest study first."""
        return [
            OpenReservation(study.reservation, history_of([study.rest]))
            for study in self.studies.values()
            if study.reservation is not None and study.open_at(at)
        ]

    def expired(self, at: int) -> list[Reservation]:
        """The reservations that are still open and should not be."""
        found = [study.reservation for study in self.studies.values()]
        return [held for held in found if held is not None and at >= held.expires_at]

    def gate(self, budget: Budget, order: float, at: int | None, study_digest: str | None = None) -> Gate:
        """The admission rule for a new schedule of this study (None: of a study that was never here)."""
        others = any(s.charged or s.open_at(at) for digest, s in self.studies.items() if digest != study_digest)
        own = self.studies.get(study_digest, _Study("")) if study_digest is not None else _Study("")
        unfiltered = Counter() if others else own.plan - own.charged if own.charged else None
        # Admitted by rule 1 alone and charged: its guarantee is that of its schedule and of nothing after it.
        limit = filter_limit(budget, order)
        wholes = [filter_spent(history_of([study.plan]), order) for study in self.studies.values() if study.charged]
        locked = not all(whole <= limit for whole in wholes)
        return Gate(budget, order, self.committed(at), locked, unfiltered, self.written_off)

    def spending(self, delta: float) -> list[StudySpending]:
        """Each study by itself, oldest first."""
        return [
            StudySpending(
                study_digest=digest,
                study_id=study.study_id,
                charges=len(study.keys),
                unprotected=study.unprotected,
                epsilon=epsilon(history_of([study.charged]), delta),
                reserved=epsilon(history_of([study.rest]), delta),
            )
            for digest, study in self.studies.items()
        ]

    def _reservation(self, study_digest: str) -> Reservation | None:
        study = self.studies.get(study_digest)
        return None if study is None else study.reservation


def period_history(entries: Iterable[Entry], since: int, shares: Shares, at: int) -> History:
    """What counts for a period: what was charged or lost after `since`, and the rest of the open reservations."""
    charged = [
        entry.what.event
        for entry in entries
        if isinstance(entry.what, Charge) and entry.what.event is not None and entry.at > since
    ]
    lost = [event for lost_at, events in shares.recovered if lost_at > since for event in events]
    return merge((*charged, *lost, *(event for held in shares.open(at) for event in held.remaining)))


def steps_of(events: Iterable[Event]) -> Counter[Event]:
    """Steps by mechanism."""
    steps: Counter[Event] = Counter()
    for event in events:
        steps[_mechanism(event)] += event.steps
    return steps


@lru_cache(maxsize=4096)
def _mechanism(event: Event) -> Event:
    return replace(event, steps=1)


def history_of(parts: Iterable[Counter[Event]]) -> History:
    """The parts together, merged."""
    return merge(replace(one, steps=n) for part in parts for one, n in part.items() if n > 0)


def left(budget: float, spent: float) -> float:
    """What remains of ε, rounded down to 1e-4; never below 0."""
    if not math.isfinite(spent):
        return 0.0
    rest = Decimal(repr(budget)) - Decimal(repr(spent))
    return max(0.0, float(rest.quantize(Decimal("0.0001"), rounding=ROUND_FLOOR)))


def _not_reserved(study_id: str) -> RefusalError:
    return RefusalError(
        f"nothing is reserved for {study_id}",
        remedy="approve the study, which reserves what it may cost; a study that was ended or rejected needs a new approval",
        code="not-reserved",
    )
