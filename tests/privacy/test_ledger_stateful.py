"""Any order of reserving, charging, releasing, expiring, reopening and recovering, against a model that is only lists."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fedward.privacy.accounting import epsilon, epsilon_rdp
from fedward.privacy.errors import IntegrityError, RefusalError
from fedward.privacy.events import CountEvent, DpEvent, Event, merge
from fedward.privacy.ledger import Budget, Charge, Ledger, Period, Reservation
from fedward.privacy.ledgerfile import read_chain
from fedward.privacy.recovery import assess, recover

BUDGET, PERIOD = Budget(3.0, 1e-5), Period(1, 2.0)
DAY = 86_400
STUDIES = ["a" * 64, "b" * 64, "c" * 64]
STEPS = [DpEvent(8.0, 1.0, 1), DpEvent(4.0, 0.3, 1), CountEvent(20.0, 1, 2, 1), DpEvent(6.0, 1.0, 1, share=(0.0, 0.5))]
studies, events = st.sampled_from(STUDIES), st.sampled_from(STEPS)


@dataclass
class Share:
    """What a study has: events of one step each."""

    charged: list[tuple[int, Event]] = field(default_factory=list)
    held: list[Event] | None = None
    expires_at: int = 0


class Machine(RuleBasedStateMachine):
    """The ledger may refuse more than the budget alone asks; it may never grant more, nor forget."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "ledger"
        self.book = Ledger.create(self.path, budget=BUDGET, lineage="x")
        self.shares = {study: Share() for study in STUDIES}
        self.keys: set[tuple[str, int]] = set()
        self.now = 1

    def teardown(self) -> None:
        self.book.close()
        shutil.rmtree(self.folder)

    def charged(self, since: int = -1) -> list[Event]:
        return [event for share in self.shares.values() for at, event in share.charged if at > since]

    def held(self) -> list[Event]:
        open_ = [share for share in self.shares.values() if share.held is not None and self.now < share.expires_at]
        return [event for share in open_ for event in share.held or []]

    @rule(
        study=studies,
        event=events,
        count=st.integers(1, 14),
        last=st.sampled_from([1, DAY, 3 * DAY]),
        limited=st.booleans(),
    )
    def reserve(self, study: str, event: Event, count: int, last: int, limited: bool) -> None:
        share, new = self.shares[study], [event] * count
        wanted = Reservation(study, "s", tuple(new), self.now + last, "d" * 64)
        expired = [s for s in self.shares.values() if s.held is not None and self.now >= s.expires_at]
        whole = epsilon([*self.charged(), *self.held(), *new], BUDGET.delta)
        in_period = epsilon([*self.charged(self.now - DAY), *self.held(), *new], BUDGET.delta)
        busy = share.held is not None and self.now < share.expires_at
        try:
            self.book.reserve(wanted, at=self.now, period=PERIOD if limited else None)
        except RefusalError as error:
            if error.code == "already-reserved":
                assert busy
            elif error.code == "period-exhausted":
                assert limited
                assert in_period > PERIOD.epsilon
            else:
                # Over the budget, or over the filter, which is looser than RDP's ε at its best order.
                assert epsilon_rdp([*self.charged(), *self.held(), *new], BUDGET.delta) > BUDGET.epsilon * 0.97
        else:
            assert not busy
            assert whole <= BUDGET.epsilon
            assert not limited or in_period <= PERIOD.epsilon
            share.held, share.expires_at = new, self.now + last
            expired = [one for one in expired if one is not share]
        for one in expired:
            one.held = None

    @rule(study=studies, event=events, round_=st.integers(0, 30), steps=st.integers(1, 2))
    def charge(self, study: str, event: Event, round_: int, steps: int) -> None:
        share, taken = self.shares[study], [event] * steps
        left = list(share.held or [])
        enough = left.count(event) >= steps
        may = (study, round_) not in self.keys and enough and self.now < share.expires_at
        try:
            self.book.charge(Charge(study, "s", round_, 0, replace(event, steps=steps)), at=self.now)
        except RefusalError:
            assert not may
        else:
            assert may
            self.keys.add((study, round_))
            for one in taken:
                left.remove(one)
                share.charged.append((self.now, one))
            share.held = left

    @rule(study=studies)
    def release(self, study: str) -> None:
        # Not "stopped": of such a study a recovery counts the whole plan (`attacks/test_a_lost_study_that_went_on`).
        self.book.release(study, "completed", at=self.now)
        self.shares[study].held = None

    @rule(seconds=st.sampled_from([1, DAY // 2, DAY]))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        for study, share in self.shares.items():
            if share.held and self.now >= share.expires_at:
                with pytest.raises(RefusalError):
                    self.book.charge(Charge(study, "s", 31, self.now, share.held[0]), at=self.now)

    @rule()
    def reopen(self) -> None:
        self.book.close()
        self.book = Ledger.open(self.path)

    @rule(study=studies, round_=st.integers(40, 60))
    def lose_the_newest(self, study: str, round_: int) -> None:
        """The file is put back to before an entry; the recovery counts all that the copy held."""
        self.book.close()
        copy = read_chain(self.path)
        self.book = Ledger.open(self.path)
        self.book.charge(Charge(study, "s", len(copy.entries), 9, None, "evaluate-without-dp"), at=self.now)
        self.book.close()
        self.path.unlink()
        with pytest.raises(IntegrityError):
            Ledger.open(self.path)
        recover(
            self.path,
            assess(self.path, copy, []),
            lost="charges",
            by="Ada",
            reason="x",
            at=self.now,
            budget=BUDGET,
            lineage="y",
        )
        self.book = Ledger.open(self.path)
        for share in self.shares.values():
            share.charged += [(self.now, event) for event in share.held or []]
            share.held = None

    @invariant()
    def counts_what_the_model_counts(self) -> None:
        if not hasattr(self, "book"):
            return
        everything = [*self.charged(), *self.held()]
        assert self.book.commitments(at=self.now) == merge(everything)
        assert self.book.spent() == epsilon(self.charged(), BUDGET.delta)
        assert self.book.committed(at=self.now) <= BUDGET.epsilon
        held = {one.reservation.study_digest: one.remaining for one in self.book.reservations(at=self.now)}
        assert held == {
            study: merge(share.held)
            for study, share in self.shares.items()
            if share.held is not None and self.now < share.expires_at
        }


TestLedger = Machine.TestCase
TestLedger.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
