"""Any order of calls, against models of the rules: each machine answers, or refuses by the rule's name and stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import numpy as np
import pytest
from cohort import Cohort, batch_of, cohort_of, sites_of, small_terms, state, twin
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fedward.privacy.secagg import BatchSetup, ProtocolError, RoundContext, SlotSum, wire

N, SLOTS, ME = 5, 3, 1
TERMS = small_terms(N, 2)
EVERYONE = frozenset(range(N))
runs = settings(max_examples=60, stateful_step_count=25, deadline=None, database=None)

several = st.lists(st.integers(0, N - 1), min_size=1, max_size=N)
subsets = st.one_of(
    st.sampled_from([EVERYONE, EVERYONE - {0}, EVERYONE - {4}]), st.frozensets(st.integers(0, N - 1), max_size=N)
)


tally: dict[str, set[tuple[str, str]]] = {}
"""By machine: what each step ended in."""


def outcome(machine: object, step: str, call: Callable[[], Any]) -> tuple[str, Any]:
    """(the refusal's code or "", the answer); a refusal has changed nothing."""
    before = state(machine)
    try:
        answer, code = call(), ""
    except ProtocolError as error:
        assert state(machine) == before
        answer, code = None, error.code
    tally.setdefault(type(machine).__name__, set()).add((step, code))
    return code, answer


class AnyOrderAtASite(RuleBasedStateMachine):
    """A hospital among members that sign whatever the coordinator asks: rules 3 to 6 of `site`."""

    def __init__(self) -> None:
        super().__init__()
        self.cohort: Cohort = cohort_of(N, slots=SLOTS)
        self.site = self.cohort.parties[ME]
        self.shares = [[bytes(share) for share in held.shares] for held in self.site._secrets.held]
        self.contexts: list[RoundContext] = []
        self.seen, self.step, self.named = 0, "none", frozenset[int]()
        self.closed = False
        self.sent: set[int] = set()
        self.signed: dict[int, set[frozenset[int]]] = {}
        self.revealed: dict[tuple[int, int], set[bytes]] = {}

    def expect(self, step: str, wanted: str, call: Callable[[], Any]) -> Any:
        code, answer = outcome(self.site, step, call)
        assert code == wanted or (self.closed and code == "out-of-order"), (code, wanted)
        return answer

    @property
    def last(self) -> int:
        return self.contexts[-1].slot if self.contexts else -1

    @rule(slot=st.integers(0, SLOTS), number=st.tuples(st.integers(1, 3), st.integers(1, 4)))
    def take(self, slot: int, number: tuple[int, int]) -> None:
        context = self.cohort.context(TERMS, slot, *number)
        wanted = ""
        if self.closed:
            wanted = "out-of-order"
        elif not self.last < slot < SLOTS:
            wanted = "slot-used"
        elif number[1] <= self.seen:
            wanted = "attempt-replayed"
        self.expect("take", wanted, lambda: self.site.take(context))
        if not wanted:
            self.contexts.append(context)
            self.seen, self.step, self.named = number[1], "taken", frozenset()

    @rule()
    def mask(self) -> None:
        wanted = "" if self.step == "taken" and not self.closed else "out-of-order"
        self.expect("mask", wanted, lambda: self.site.mask(np.zeros(2, dtype=np.uint32), TERMS))
        if not wanted:
            assert self.last not in self.sent
            self.sent.add(self.last)
            self.step = "masked"

    def is_current(self, context: RoundContext) -> bool:
        return bool(self.contexts) and context == self.contexts[-1] and not self.closed

    def context(self, place: int) -> RoundContext:
        return self.contexts[-place - 1] if place < len(self.contexts) else self.cohort.context(TERMS, 0, 9, 9)

    @rule(place=st.sampled_from([0, 0, 0, 0, 1, 9]), survivors=subsets)
    def confirm(self, place: int, survivors: frozenset[int]) -> None:
        context = self.context(place)
        wanted = ""
        if not self.is_current(context):
            wanted = "replayed"
        elif self.step in ("confirmed", "revealed"):
            wanted = "repeated" if survivors == self.named else "second-survivor-set"
        elif self.step != "masked":
            wanted = "out-of-order"
        elif ME not in survivors:
            wanted = "not-a-survivor"
        elif len(survivors) < self.cohort.batch.floor:
            wanted = "survivors-too-few"
        request = wire.survivors_message(self.cohort.batch, context, survivors)
        answer = self.expect("confirm", wanted, lambda: self.site.confirm(request))
        if not wanted:
            self.step, self.named = "confirmed", survivors
            read = wire.open_confirm(self.cohort.batch, ME, answer, context)
            self.signed.setdefault(self.last, set()).add(read.survivors)

    @rule(place=st.sampled_from([0, 0, 0, 0, 1, 9]), survivors=subsets, absent=st.frozensets(st.integers(0, N - 1)))
    def unmask(self, place: int, survivors: frozenset[int], absent: frozenset[int]) -> None:
        self.unmasked(self.context(place), survivors, sorted(survivors - absent))

    @precondition(lambda self: self.named)
    @rule(extra=st.sampled_from([(), (0,), (N - 1,)]))
    def unmask_the_named(self, extra: tuple[int, ...]) -> None:
        self.unmasked(self.context(0), self.named, sorted({*self.named, *extra}))

    def unmasked(self, context: RoundContext, survivors: frozenset[int], signers: Collection[int]) -> None:
        batch = self.cohort.batch
        wanted = ""
        if not survivors.issuperset(signers):
            wanted = "signers-not-distinct"
        elif not self.is_current(context):
            wanted = "replayed"
        elif self.step == "revealed":
            wanted = "second-unmask"
        elif self.step != "confirmed":
            wanted = "out-of-order"
        elif survivors != self.named:
            wanted = "survivors-unequal"
        elif len(signers) < batch.floor:
            wanted = "confirmations-too-few"
        confirms = [wire.seal_confirm(batch, i, context, survivors, self.cohort.identity(i)) for i in signers]
        request = wire.confirmations_message(batch, context, survivors, confirms)
        answer = self.expect("unmasked", wanted, lambda: self.site.unmask(request))
        if not wanted:
            self.step = "revealed"
            for dealer, (share, _) in enumerate(wire.open_reveal(batch, ME, answer, context).shares):
                assert share in self.shares[dealer][2 * self.last : 2 * self.last + 2]
                self.revealed.setdefault((self.last, dealer), set()).add(share)

    @rule(survivors=st.sampled_from([EVERYONE, EVERYONE - {0}, EVERYONE - {4}]))
    def go_on(self, survivors: frozenset[int]) -> None:
        """What an honest coordinator would ask for next."""
        if self.step in ("none", "revealed"):
            self.take(self.last + 1, (1, self.seen + 1))
        elif self.step == "taken":
            self.mask()
        elif self.step == "masked":
            self.confirm(0, survivors)
        else:
            self.unmask_the_named(())

    @precondition(lambda self: len(self.contexts) > 1)
    @rule()
    def close(self) -> None:
        self.site.close()
        self.closed = True

    @invariant()
    def one_kind_of_share_a_slot_and_peer(self) -> None:
        assert all(len(shares) == 1 for shares in self.revealed.values())

    @invariant()
    def one_survivor_set_a_slot(self) -> None:
        assert all(len(sets) == 1 for sets in self.signed.values())
        assert self.signed.keys() <= self.sent

    @invariant()
    def the_highest_attempt_is_remembered(self) -> None:
        assert self.site.seen == self.seen


class AnyOrderOfASum(RuleBasedStateMachine):
    """One slot's sum, whose members' messages come in any order, or twice: rules 2 to 4 of `coordinator`."""

    def __init__(self) -> None:
        super().__init__()
        self.cohort = cohort_of(N, slots=SLOTS)
        self.batch, self.context = self.cohort.batch, self.cohort.context(TERMS)
        self.slot = SlotSum(self.cohort.opened, self.context, TERMS)
        self.vectors = [np.array([7 * i - 9, 10**6 * i]) for i in range(N)]
        self.masked_: list[bytes] = []
        shares = [[[bytes(share) for share in held.shares] for held in p._secrets.held] for p in self.cohort.parties]
        self.shares = shares
        for party, vector in zip(self.cohort.parties, self.vectors, strict=True):
            party.take(self.context)
            self.masked_.append(party.mask(vector.astype(np.uint32), TERMS))
        self.sent, self.confirmed_, self.revealed_ = frozenset[int](), set[int](), set[int]()
        self.closed = self.opened = False

    def expect(self, step: str, wanted: str, call: Callable[[], Any]) -> Any:
        code, answer = outcome(self.slot, step, call)
        assert code == wanted
        return answer

    @rule(members=several)
    def masked(self, members: list[int]) -> None:
        for i in members:
            wanted = "repeated" if i in self.sent else "out-of-order" if self.closed else ""
            self.expect("masked", wanted, lambda i=i: self.slot.masked(self.batch.members[i], self.masked_[i]))
            if not wanted:
                self.sent |= {i}

    @rule()
    def ask_to_confirm(self) -> None:
        wanted = "survivors-too-few" if len(self.sent) < self.batch.floor else ""
        request = self.expect("ask_to_confirm", wanted, self.slot.confirm_request)
        if not wanted:
            self.closed = True
            assert wire.open_survivors(self.batch, request) == (self.context.digest, self.sent)

    def of_a_survivor(self, i: int, named: frozenset[int], done: set[int]) -> str:
        if i in done:
            return "repeated"
        if not self.closed or i not in self.sent:
            return "not-a-survivor"
        return "" if named == self.sent else "survivors-unequal"

    @precondition(lambda self: self.closed)
    @rule(members=several, other=st.sampled_from([None, None, None, EVERYONE, EVERYONE - {0}]))
    def confirmed(self, members: list[int], other: frozenset[int] | None) -> None:
        named = self.sent if other is None else other
        for i in members:
            wanted = self.of_a_survivor(i, named, self.confirmed_)
            data = wire.seal_confirm(self.batch, i, self.context, named, self.cohort.identity(i))
            self.expect("confirmed", wanted, lambda i=i, data=data: self.slot.confirmed(self.batch.members[i], data))
            if not wanted:
                self.confirmed_.add(i)

    @rule()
    def ask_to_unmask(self) -> None:
        wanted = "survivors-too-few" if len(self.confirmed_) < self.batch.floor else ""
        request = self.expect("ask_to_unmask", wanted, self.slot.unmask_request)
        if not wanted:
            signers = [signer for signer, _ in wire.open_confirmations(self.batch, request)[2]]
            assert signers == sorted(self.confirmed_)

    @rule(members=several, other=st.sampled_from([None, None, None, EVERYONE, EVERYONE - {0}]))
    def revealed(self, members: list[int], other: frozenset[int] | None) -> None:
        named = self.sent if other is None else other
        leaves = [0 if dealer in named else 1 for dealer in range(N)]
        for i in members:
            wanted = self.of_a_survivor(i, named, self.revealed_)
            trees = [held.tree for held in self.cohort.parties[i]._secrets.held]
            shares = tuple((self.shares[i][dealer][at], trees[dealer].path(at)) for dealer, at in enumerate(leaves))
            reveal = wire.Reveal(self.context, named, shares)
            data = wire.seal_reveal(self.batch, i, reveal, self.cohort.identity(i))
            self.expect("revealed", wanted, lambda i=i, data=data: self.slot.revealed(self.batch.members[i], data))
            if not wanted:
                self.revealed_.add(i)

    @rule()
    def open(self) -> None:
        too_few = len(self.revealed_) < self.batch.threshold
        wanted = "survivors-too-few" if too_few else "repeated" if self.opened else ""
        answer = self.expect("open", wanted, self.slot.open)
        if not wanted:
            self.opened = True
            assert answer[0].tolist() == sum(self.vectors[i] for i in self.sent).tolist()

    @rule(members=st.sampled_from([range(N), range(1, N), range(N - 1)]))
    def go_on(self, members: range) -> None:
        """What honest members would send next."""
        if not self.closed:
            self.masked(list(members))
            self.ask_to_confirm()
        elif len(self.confirmed_) < self.batch.floor:
            self.confirmed(list(members), None)
        else:
            self.revealed(list(members), None)

    @invariant()
    def the_survivors_are_those_in_the_sum(self) -> None:
        assert self.slot.survivors == tuple(self.batch.members[i] for i in sorted(self.sent))


@cache
def honest_setup() -> tuple[list[bytes], list[bytes], list[bytes], list[bytes]]:
    """Adverts, shares, deliveries and words of three members."""
    batch = batch_of(3)
    parties, setup = sites_of(batch), BatchSetup(batch)
    adverts = [party.advertise() for party in parties]
    shares = [party.share(b"".join(adverts)) for party in parties]
    for site, advert in zip(batch.members, adverts, strict=True):
        setup.advertised(site, advert)
    for site, share in zip(batch.members, shares, strict=True):
        setup.shared(site, share)
    deliveries = [setup.delivery(site) for site in batch.members]
    words = [party.open(delivery) for party, delivery in zip(parties, deliveries, strict=True)]
    return adverts, shares, deliveries, words


class AnyOrderOfASetup(RuleBasedStateMachine):
    """A batch's setup, whose members' messages come in any order, or twice: rule 1 of `coordinator`."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = batch_of(3)
        self.setup = BatchSetup(self.batch)
        self.adverts, self.shares, self.deliveries, self.words = honest_setup()
        self.done: dict[str, set[int]] = {"advertised": set(), "shared": set(), "opened": set()}

    def expect(self, step: str, wanted: str, call: Callable[[], Any]) -> Any:
        code, answer = outcome(self.setup, step, call)
        assert code == wanted
        return answer

    def all_have(self, what: str) -> bool:
        return len(self.done[what]) == 3

    @rule()
    def go_on(self) -> None:
        """What honest members would send next, and the coordinator ask for after it."""
        what = next((what for what, members in self.done.items() if len(members) < 3), "opened")
        for i in range(3):
            self.message(what, i)
        self.ask_for_adverts()
        self.ask_for_a_delivery(1)
        self.finish()

    @rule(what=st.sampled_from(["advertised", "shared", "opened"]), i=st.integers(0, 2))
    def message(self, what: str, i: int) -> None:
        before = {"advertised": None, "shared": "advertised", "opened": "shared"}[what]
        wanted = ""
        if i in self.done[what]:
            wanted = "repeated"
        elif before and not self.all_have(before):
            wanted = "setup-incomplete"
        data = {"advertised": self.adverts, "shared": self.shares, "opened": self.words}[what][i]
        self.expect("message", wanted, lambda: getattr(self.setup, what)(self.batch.members[i], data))
        if not wanted:
            self.done[what].add(i)

    @rule()
    def ask_for_adverts(self) -> None:
        answer = self.expect(
            "ask_for_adverts", "" if self.all_have("advertised") else "setup-incomplete", self.setup.adverts
        )
        assert answer in (None, b"".join(self.adverts))

    @rule(i=st.integers(0, 2))
    def ask_for_a_delivery(self, i: int) -> None:
        wanted = "" if self.all_have("shared") else "setup-incomplete"
        answer = self.expect("ask_for_a_delivery", wanted, lambda: self.setup.delivery(self.batch.members[i]))
        assert answer in (None, self.deliveries[i])

    @rule()
    def finish(self) -> None:
        opened = self.expect("finish", "" if self.all_have("opened") else "setup-incomplete", self.setup.finish)
        if opened is not None:
            assert opened.setup == wire.open_opened(self.batch, 0, self.words[0])


DEEPEST = {
    AnyOrderAtASite: ("SiteParty", {"take", "mask", "confirm", "unmasked"}),
    AnyOrderOfASum: ("SlotSum", {"masked", "ask_to_confirm", "confirmed", "ask_to_unmask", "revealed", "open"}),
    AnyOrderOfASetup: ("BatchSetup", {"message", "ask_for_adverts", "ask_for_a_delivery", "finish"}),
}


@pytest.mark.parametrize("machine", DEEPEST, ids=lambda machine: machine.__name__)
def test_any_order_is_answered_as_the_model_says(machine: type[RuleBasedStateMachine]) -> None:
    name, steps = DEEPEST[machine]
    tally.pop(name, None)
    run_state_machine_as_test(machine, settings=runs)
    assert {step for step, code in tally[name] if not code} == steps, "some step was never reached"
    assert len({code for _, code in tally[name]}) >= 3


def test_a_twin_shares_nothing_that_changes() -> None:
    """What these tests compare and go back to is really apart."""
    site = cohort_of(N, slots=SLOTS).parties[ME]
    other, before = twin(site), state(site)
    other.close()
    assert state(site) == before != state(other)
