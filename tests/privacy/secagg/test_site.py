"""A hospital's machine: what it does in which order, what it refuses without a trace, and what it forgets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from hashlib import sha256

import numpy as np
import pytest
from cohort import (
    BASE,
    Cohort,
    batch_of,
    cohort_of,
    identity,
    scripted,
    set_up,
    sites_of,
    small_terms,
    state,
    twin,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedward.privacy.errors import InputError
from fedward.privacy.secagg import Batch, BatchSetup, ProtocolError, RoundContext, SiteParty, SlotSum, wire
from fedward.privacy.secagg.commitments import Tree
from fedward.privacy.secagg.derivations import key_leaf, seed_leaf
from fedward.privacy.secagg.faults import COORDINATOR
from fedward.privacy.secagg.keys import agree, close_box, derive, open_box
from fedward.privacy.secagg.shamir import SHARE_BYTES, P
from fedward.privacy.secagg.site import Phase

N = 5
TERMS = small_terms(N, 4)
BATCH = batch_of(N, slots=3)
EVERYONE = frozenset(range(N))


def refused(machine: SiteParty, call: Callable[[], object]) -> ProtocolError:
    """The refusal of a call, which changed nothing."""
    before = state(machine)
    with pytest.raises(ProtocolError) as caught:
        call()
    assert state(machine) == before
    return caught.value


def zeros() -> np.ndarray:
    return np.zeros(TERMS.length, dtype=TERMS.dtype)


@pytest.fixture
def cohort() -> Cohort:
    return cohort_of(N, slots=3)


@pytest.fixture
def site(cohort: Cohort) -> SiteParty:
    return cohort.parties[1]


def confirms_of(
    cohort: Cohort, context: RoundContext, survivors: Collection[int], signers: Collection[int] | None = None
) -> bytes:
    """A request to unmask with true signatures: the coordinator and all the other members collude."""
    named = frozenset(survivors)
    confirms = [
        wire.seal_confirm(cohort.batch, i, context, named, cohort.identity(i))
        for i in sorted(named if signers is None else signers)
    ]
    return wire.confirmations_message(cohort.batch, context, named, confirms)


def asked(cohort: Cohort, context: RoundContext, survivors: Collection[int]) -> bytes:
    return wire.survivors_message(cohort.batch, context, frozenset(survivors))


# ---- setup -----------------------------------------------------------------------------------------------------------


class Setup:
    """A batch whose members have advertised and dealt, all their messages and channel keys at hand."""

    def __init__(self) -> None:
        self.batch = BATCH
        self.parties = sites_of(BATCH)
        self.adverts = [party.advertise() for party in self.parties]
        self.before = [twin(party) for party in self.parties]
        self.channels = [party._secrets.channel for party in self.parties]
        whole = b"".join(self.adverts)
        self.digest = sha256(whole).digest()
        self.shares = [party.share(whole) for party in self.parties]
        size = wire.roots_size(BATCH)
        self.roots = [share[:size] for share in self.shares]
        setup = BatchSetup(BATCH)
        for name, advert in zip(BATCH.members, self.adverts, strict=True):
            setup.advertised(name, advert)
        for name, share in zip(BATCH.members, self.shares, strict=True):
            setup.shared(name, share)
        self.coordinator = setup

    def boxes_for(self, recipient: int) -> list[bytes]:
        size = wire.box_size(BATCH)
        data = self.coordinator.delivery(BATCH.members[recipient])[len(b"".join(self.roots)) :]
        return [data[at : at + size] for at in range(0, len(data), size)]

    def key(self, dealer: int, recipient: int) -> tuple[bytes, bytes]:
        """(a box's key, its context)."""
        context = BATCH.way(dealer, recipient) + self.digest
        public = self.channels[recipient].public_key().public_bytes_raw()
        return derive(agree(self.channels[dealer], public), b"box", context), context

    def signed(self, dealer: int, recipient: int, root: bytes | None, box: bytes) -> bytes:
        """The dealer's roots, signed again, with another root and box for one recipient."""
        said = wire.open_roots(BATCH, dealer, self.roots[dealer], self.digest)
        roots, boxes = list(said.caps), list(said.boxes)
        roots[recipient] = roots[recipient] if root is None else root
        boxes[recipient] = sha256(box).digest()
        changed = wire.Roots(tuple(roots), tuple(boxes))
        return wire.seal_roots(BATCH, dealer, self.digest, changed, identity(BATCH.members[dealer]))

    def delivered(self, recipient: int, dealer: int, roots: bytes, box: bytes) -> bytes:
        """What the recipient is delivered when one dealer's roots and box are others."""
        boxes = self.boxes_for(recipient)
        boxes[dealer - (dealer > recipient)] = box
        return wire.join_delivery([*self.roots[:dealer], roots, *self.roots[dealer + 1 :]], boxes)


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_a_batch_opens_with_the_hash_that_every_member_signs(setup: Setup) -> None:
    hashes = set()
    for index, party in enumerate(setup.parties):
        opened = party.open(setup.coordinator.delivery(party.site))
        hashes.add(wire.open_opened(BATCH, index, opened))
        assert (party.phase, party.setup_hash) == (Phase.OPEN, next(iter(hashes)))
    signed = b"".join(setup.adverts), b"".join(setup.roots)
    documented = sha256(b"fedward setup\x00" + BATCH.digest + sha256(signed[0]).digest() + signed[1]).digest()
    assert hashes == {documented}


def test_who_is_not_in_the_roster_cannot_take_part() -> None:
    with pytest.raises(ProtocolError) as caught:
        SiteParty(BATCH, "mallory", identity("mallory"), scripted(""))
    assert caught.value.code == "not-a-member"
    with pytest.raises(ProtocolError) as caught:
        SiteParty(BATCH, "s001", identity("mallory"), scripted(""))
    assert (caught.value.code, caught.value.blamed) == ("key-substituted", COORDINATOR)


def test_setup_steps_come_once_each_and_in_order(setup: Setup) -> None:
    adverts, delivery = b"".join(setup.adverts), setup.coordinator.delivery("s001")
    context = RoundContext(bytes(32), 0, 1, 1, BASE, TERMS.digest)
    new = sites_of(BATCH)[1]
    steps: list[tuple[str, Callable[[SiteParty], object]]] = [
        ("advertise", lambda party: party.advertise()),
        ("share", lambda party: party.share(adverts)),
        ("open", lambda party: party.open(delivery)),
    ]
    for place in range(4):
        others = [step for at, step in enumerate(steps) if at != place]
        for _, call in others:
            assert refused(new, lambda call=call: call(new)).code == "out-of-order"
        if place < 3:
            assert refused(new, lambda: new.setup_hash).code == "out-of-order"
            assert refused(new, lambda: new.take(context)).code == "out-of-order"
            steps[place][1](new)
    assert new.phase == Phase.OPEN


def test_a_substituted_key_ends_the_batch_and_nothing_is_dealt(setup: Setup) -> None:
    """Attack 1: the coordinator puts its own key in a member's advert."""
    mine = wire.Advert(X25519PrivateKey.generate().public_key().public_bytes_raw(), (b"\x05" * 32,) * 3)
    for signer in ("mallory", BATCH.members[3]):
        forged = wire.seal_advert(BATCH, 2, mine, identity(signer))
        party = setup.before[1]
        data = b"".join([*setup.adverts[:2], forged, *setup.adverts[3:]])
        error = refused(party, lambda party=party, data=data: party.share(data))
        assert (error.code, error.blamed, error.lie) == ("key-substituted", COORDINATOR, True)


def test_a_substituted_key_of_the_site_itself_is_refused_even_with_its_own_signature(setup: Setup) -> None:
    other = wire.seal_advert(BATCH, 1, wire.Advert(b"\x09" * 32, (b"\x05" * 32,) * 3), identity("s001"))
    party = setup.before[1]
    error = refused(party, lambda: party.share(b"".join([setup.adverts[0], other, *setup.adverts[2:]])))
    assert (error.code, error.blamed) == ("key-substituted", COORDINATOR)


@pytest.mark.parametrize("change", ["reorder", "double", "leave-out", "add"])
def test_adverts_that_are_not_each_member_s_in_order_are_refused(setup: Setup, change: str) -> None:
    a = setup.adverts
    lists = {"reorder": [a[0], a[2], a[1], *a[3:]], "double": [a[0], *a[:4]], "leave-out": a[:4], "add": [*a, a[4]]}
    party = setup.before[0]
    error = refused(party, lambda: party.share(b"".join(lists[change])))
    assert error.code in {"malformed", "wrong-sender"}


@pytest.mark.parametrize("place", ["channel", "mask"])
@pytest.mark.parametrize("high_bit", [0, 0x80])
def test_a_key_of_small_order_is_refused_by_name(setup: Setup, place: str, high_bit: int) -> None:
    weak = bytes(31) + bytes([high_bit])
    said = wire.open_advert(BATCH, 3, setup.adverts[3])
    if place == "channel":
        said = dataclasses.replace(said, channel=weak)
    else:
        said = dataclasses.replace(said, masks=(*said.masks[:2], weak))
    adverts = [*setup.adverts[:3], wire.seal_advert(BATCH, 3, said, identity("s003")), setup.adverts[4]]
    party = setup.before[1]
    error = refused(party, lambda: party.share(b"".join(adverts)))
    assert (error.code, error.blamed) == ("weak-key", "s003")
    fresh = BatchSetup(BATCH)
    with pytest.raises(ProtocolError) as caught:
        fresh.advertised("s003", adverts[3])
    assert (caught.value.code, caught.value.blamed) == ("weak-key", "s003")


def test_a_damaged_box_is_blamed_on_who_carried_it(setup: Setup) -> None:
    party, (box, *_) = setup.parties[1], setup.boxes_for(1)
    for at in range(0, len(box), 7):
        damaged = box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :]
        data = setup.delivered(1, 0, setup.roots[0], damaged)
        error = refused(party, lambda data=data: party.open(data))
        assert (error.code, error.blamed) == ("box-changed", COORDINATOR)


def test_a_box_for_another_recipient_of_another_dealer_or_in_another_direction_is_refused(setup: Setup) -> None:
    """Attack 7: replay of a box. Even the dealer's own signature does not make it open."""
    party = setup.parties[1]
    for box in (setup.boxes_for(2)[0], setup.boxes_for(1)[1], setup.boxes_for(0)[0]):
        plain = setup.delivered(1, 0, setup.roots[0], box)
        assert refused(party, lambda data=plain: party.open(data)).code == "box-changed"
        signed = setup.delivered(1, 0, setup.signed(0, 1, None, box), box)
        error = refused(party, lambda data=signed: party.open(data))
        assert (error.code, error.blamed) == ("box-invalid", "s000")


def test_shares_that_are_not_those_committed_to_are_blamed_on_the_dealer(setup: Setup) -> None:
    party, (key, context) = setup.parties[1], setup.key(3, 1)
    content = bytearray(open_box(key, setup.boxes_for(1)[2], context))
    content[40] ^= 1
    box = close_box(key, bytes(content), context)
    data = setup.delivered(1, 3, setup.signed(3, 1, None, box), box)
    error = refused(party, lambda: party.open(data))
    assert (error.code, error.blamed) == ("root-mismatch", "s003")


def test_a_share_beyond_the_field_is_blamed_on_the_dealer(setup: Setup) -> None:
    party, (key, context) = setup.parties[1], setup.key(3, 1)
    content = open_box(key, setup.boxes_for(1)[2], context)
    shares = [content[at : at + SHARE_BYTES] for at in range(0, len(content), SHARE_BYTES)]
    for value in (P, 2**264 - 1):
        shares[4] = value.to_bytes(SHARE_BYTES, "big")
        box = close_box(key, b"".join(shares), context)
        data = setup.delivered(1, 3, setup.signed(3, 1, Tree(BATCH.way(3, 1), shares).cap, box), box)
        error = refused(party, lambda data=data: party.open(data))
        assert (error.code, error.blamed) == ("box-invalid", "s003")


def test_a_true_box_with_true_roots_opens(setup: Setup) -> None:
    """The control of the tests above: what they build is taken when nothing is false in it."""
    party, (key, context) = setup.parties[1], setup.key(3, 1)
    content = open_box(key, setup.boxes_for(1)[2], context)
    box = close_box(key, content, context)
    shares = [content[at : at + SHARE_BYTES] for at in range(0, len(content), SHARE_BYTES)]
    party.open(setup.delivered(1, 3, setup.signed(3, 1, Tree(BATCH.way(3, 1), shares).cap, box), box))
    assert party.phase == Phase.OPEN


def test_own_roots_that_come_back_changed_are_refused(setup: Setup) -> None:
    party = setup.parties[1]
    changed = setup.signed(1, 1, b"\x01" * 128, b"")
    error = refused(party, lambda: party.open(setup.delivered(1, 0, setup.roots[0], setup.boxes_for(1)[0])
                                              .replace(setup.roots[1], changed)))  # fmt: skip
    assert (error.code, error.blamed) == ("roots-changed", COORDINATOR)


def test_members_that_dealt_for_other_keys_are_noticed(setup: Setup) -> None:
    """A coordinator that shows members different adverts ends the batch at all of them."""
    other = sites_of(BATCH, "other")[4]
    second = [*setup.adverts[:4], other.advertise()]
    dealt = setup.before[2].share(b"".join(second))[: wire.roots_size(BATCH)]
    party = setup.parties[1]
    data = setup.delivered(1, 2, dealt, setup.boxes_for(1)[1])
    error = refused(party, lambda: party.open(data))
    assert (error.code, error.blamed) == ("adverts-unequal", COORDINATOR)


def test_an_honest_delivery_is_taken_after_every_refusal(setup: Setup) -> None:
    party, honest = setup.parties[1], setup.coordinator.delivery("s001")
    for at in range(0, len(honest), 211):
        data = honest[:at] + bytes([honest[at] ^ 0x10]) + honest[at + 1 :]
        refused(party, lambda data=data: party.open(data))
    party.open(honest)
    assert party.phase == Phase.OPEN


# ---- slots -----------------------------------------------------------------------------------------------------------


def taken(cohort: Cohort, site: SiteParty, slot: int = 0, **fields: int) -> RoundContext:
    context = cohort.context(TERMS, slot, **fields)
    site.take(context)
    return context


def test_slots_are_taken_upwards_once_each(cohort: Cohort, site: SiteParty) -> None:
    assert refused(site, lambda: taken(cohort, site, 3)).expected == "0 to 2"
    taken(cohort, site, 1)
    for slot in (0, 1, 3, 63):
        error = refused(site, lambda slot=slot: taken(cohort, site, slot, round_=9))
        assert (error.code, error.blamed) == ("slot-used", COORDINATOR)
    taken(cohort, site, 2)


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        ((1, 1), (1, 1), False),
        ((2, 3), (2, 2), False),
        ((2, 3), (2, 4), True),
        ((2, 3), (1, 9), True),  # the coordinator lost a model, and tries an earlier round again
        ((2, 3), (3, 3), False),
        ((2, 3), (3, 1), False),
        ((2**32 - 1, 2**32 - 1), (1, 1), False),
    ],
)
def test_attempts_are_taken_upwards(
    cohort: Cohort, site: SiteParty, first: tuple[int, int], second: tuple[int, int], fits: bool
) -> None:
    site.take(cohort.context(TERMS, 0, *first))
    assert site.seen == first[1]
    again = cohort.context(TERMS, 1, *second)
    if fits:
        site.take(again)
        assert site.seen == second[1]
    else:
        error = refused(site, lambda: site.take(again))
        assert (error.code, error.blamed) == ("attempt-replayed", COORDINATOR)


def test_attempts_of_earlier_runs_are_not_taken_again() -> None:
    """Attack 14: a used attempt is offered again after a restart."""
    parties = sites_of(BATCH)
    parties[1] = SiteParty(BATCH, "s001", identity("s001"), scripted("restarted"), seen=2)
    restarted = Cohort(BATCH, parties, set_up(BATCH, parties))
    for attempt in ((4, 2), (4, 1), (5, 2)):
        offered = restarted.context(TERMS, 0, *attempt)
        assert refused(parties[1], lambda offered=offered: parties[1].take(offered)).code == "attempt-replayed"
    parties[1].take(restarted.context(TERMS, 0, 4, 3))


def test_a_slot_of_another_batch_is_refused(cohort: Cohort, site: SiteParty) -> None:
    context = dataclasses.replace(cohort.context(TERMS), setup=b"\x01" * 32)
    error = refused(site, lambda: site.take(context))
    assert (error.code, error.blamed, error.lie) == ("replayed", COORDINATOR, True)


def test_a_slot_s_steps_come_once_each_and_in_order(cohort: Cohort, site: SiteParty) -> None:
    context = cohort.context(TERMS)
    confirm, unmask = asked(cohort, context, EVERYONE), confirms_of(cohort, context, EVERYONE)
    steps: list[tuple[Callable[[], object], str]] = [
        (lambda: site.take(context), "slot-used"),
        (lambda: site.mask(zeros(), TERMS), "out-of-order"),
        (lambda: site.confirm(confirm), "repeated"),
        (lambda: site.unmask(unmask), "second-unmask"),
    ]
    for place, (step, _) in enumerate(steps):
        for later, _ in steps[place + 1 :]:
            assert refused(site, later).code in ({"replayed", "out-of-order"} if place == 0 else {"out-of-order"})
        step()
        for earlier, code in steps[: place + 1]:
            assert refused(site, earlier).code == code


def test_a_step_out_of_order_says_what_was_expected_and_what_was_done_last(cohort: Cohort, site: SiteParty) -> None:
    error = refused(site, lambda: site.mask(zeros(), TERMS))
    assert (error.expected, error.got) == ("taken", "no slot")
    context = taken(cohort, site)
    error = refused(site, lambda: site.confirm(asked(cohort, context, EVERYONE)))
    assert (error.expected, error.got) == ("masked", "taken")


def test_who_sent_no_vector_signs_no_survivor_set(cohort: Cohort, site: SiteParty) -> None:
    context = taken(cohort, site)
    error = refused(site, lambda: site.confirm(asked(cohort, context, EVERYONE)))
    assert (error.code, error.lie) == ("out-of-order", False)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(3, dtype=np.uint32),
        np.zeros(5, dtype=np.uint32),
        np.zeros((4, 1), dtype=np.uint32),
        np.zeros(4, dtype=np.uint64),
        np.zeros(4, dtype=np.int32),
        np.zeros(4, dtype=np.float32),
        np.zeros(4, dtype=">u4"),
        np.zeros(8, dtype=np.uint32)[::2],
        np.broadcast_to(np.zeros(1, dtype=np.uint32), (4,)),
    ],
    ids=lambda vector: f"{vector.dtype.str}{vector.shape}{vector.strides}",
)
def test_a_vector_that_does_not_fit_is_refused_and_the_slot_can_still_be_used(
    cohort: Cohort, site: SiteParty, vector: np.ndarray
) -> None:
    context = taken(cohort, site)
    before = state(site)
    with pytest.raises(InputError):
        site.mask(vector, TERMS)
    assert state(site) == before
    assert not vector.any()
    assert refused(site, lambda: site.confirm(asked(cohort, context, EVERYONE))).code == "out-of-order"
    site.mask(zeros(), TERMS)


@pytest.mark.parametrize("vector", [np.zeros(3, dtype=np.uint32), np.zeros(4, dtype=np.uint64)], ids=["length", "ring"])
def test_a_vector_of_another_length_or_ring_is_refused_by_name(
    cohort: Cohort, site: SiteParty, vector: np.ndarray
) -> None:
    taken(cohort, site)
    with pytest.raises(InputError) as caught:
        site.mask(vector, TERMS)
    assert caught.value.code == "wrong-shape"


def test_terms_that_the_slot_was_not_taken_for_are_refused(cohort: Cohort, site: SiteParty) -> None:
    taken(cohort, site)
    others = (small_terms(N, 5), small_terms(N, 4, 64), small_terms(N + 1, 4), dataclasses.replace(TERMS, outer=b"x"))
    for terms in others:
        before = state(site)
        with pytest.raises(InputError):
            site.mask(np.zeros(terms.length, dtype=terms.dtype), terms)
        assert state(site) == before


# ---- survivors -------------------------------------------------------------------------------------------------------


def ready(cohort: Cohort, site: SiteParty, slot: int = 0) -> RoundContext:
    context = taken(cohort, site, slot)
    site.mask(zeros(), TERMS)
    return context


@pytest.mark.parametrize("quorum", [1, 5])
def test_a_survivor_set_under_the_floor_is_not_signed(quorum: int) -> None:
    cohort = cohort_of(N, quorum=quorum)
    site = cohort.parties[1]
    context = ready(cohort, site)
    for survivors in ({1}, {0, 1, 2}, {0, 1, 2, 3}):
        if len(survivors) < cohort.batch.floor:
            error = refused(site, lambda named=survivors: site.confirm(asked(cohort, context, named)))
            assert (error.code, error.blamed, error.lie) == ("survivors-too-few", COORDINATOR, True)
    site.confirm(asked(cohort, context, range(cohort.batch.floor)))


def test_a_survivor_set_without_the_site_is_not_signed(cohort: Cohort, site: SiteParty) -> None:
    context = ready(cohort, site)
    error = refused(site, lambda: site.confirm(asked(cohort, context, {0, 2, 3, 4})))
    assert (error.code, error.blamed, error.lie) == ("not-a-survivor", COORDINATOR, True)


def test_a_survivor_set_with_strangers_is_not_signed(cohort: Cohort, site: SiteParty) -> None:
    context = ready(cohort, site)
    for bit in (5, 6, 7):
        data = context.digest + bytes([0b11111 | 1 << bit])
        assert refused(site, lambda data=data: site.confirm(data)).code == "survivors-not-in-cohort"


def test_a_second_survivor_set_in_one_slot_is_not_signed(cohort: Cohort, site: SiteParty) -> None:
    """Attack 14."""
    context = ready(cohort, site)
    site.confirm(asked(cohort, context, {0, 1, 2, 3}))
    for survivors in (EVERYONE, {0, 1, 2, 4}, {1}):
        error = refused(site, lambda named=survivors: site.confirm(asked(cohort, context, named)))
        assert (error.code, error.blamed, error.lie) == ("second-survivor-set", COORDINATOR, True)
    error = refused(site, lambda: site.confirm(asked(cohort, context, {0, 1, 2, 3})))
    assert (error.code, error.lie) == ("repeated", False)
    site.unmask(confirms_of(cohort, context, {0, 1, 2, 3}))
    error = refused(site, lambda: site.confirm(asked(cohort, context, EVERYONE)))
    assert error.code == "second-survivor-set"


def test_a_request_of_another_slot_attempt_or_batch_is_a_replay(cohort: Cohort, site: SiteParty) -> None:
    """Attack 7."""
    context = ready(cohort, site)
    for fields in ({"slot": 1}, {"attempt": 2}, {"round": 2}, {"base": b"\x03" * 32}, {"setup": b"\x03" * 32}):
        other = dataclasses.replace(context, **fields)
        error = refused(site, lambda other=other: site.confirm(asked(cohort, other, EVERYONE)))
        assert (error.code, error.blamed, error.lie) == ("replayed", COORDINATOR, True)
    site.confirm(asked(cohort, context, EVERYONE))
    for fields in ({"slot": 1}, {"attempt": 2}, {"terms": b"\x03" * 32}):
        other = dataclasses.replace(context, **fields)
        error = refused(site, lambda other=other: site.unmask(confirms_of(cohort, other, EVERYONE)))
        assert error.code == "replayed"


def test_a_request_for_the_slot_before_is_late_and_no_lie(cohort: Cohort, site: SiteParty) -> None:
    old = ready(cohort, site)
    ready(cohort, site, 1)
    for call in (
        lambda: site.confirm(asked(cohort, old, EVERYONE)),
        lambda: site.unmask(confirms_of(cohort, old, EVERYONE)),
    ):
        error = refused(site, call)
        assert (error.code, error.lie) == ("replayed", False)


def test_a_site_that_left_or_restarted_answers_nothing_and_calls_it_no_lie(cohort: Cohort, site: SiteParty) -> None:
    context = ready(cohort, site)
    site.close()
    restarted = sites_of(BATCH)[1]
    for party in (site, restarted):
        calls: list[Callable[[], object]] = [
            lambda party=party: party.confirm(asked(cohort, context, EVERYONE)),
            lambda party=party: party.unmask(confirms_of(cohort, context, EVERYONE)),
            lambda party=party: party.take(context),
            lambda party=party: party.mask(zeros(), TERMS),
        ]
        assert [refused(party, call).lie for call in calls] == [False] * 4


def test_a_request_says_whom_it_names(cohort: Cohort, site: SiteParty) -> None:
    context = cohort.context(TERMS)
    for data in (asked(cohort, context, {0, 2, 4}), confirms_of(cohort, context, {0, 2, 4})):
        assert site.survivors_named(data) == ("s000", "s002", "s004")
    for data in (b"", bytes(32), context.digest + b"\xff"):
        assert refused(site, lambda data=data: site.survivors_named(data)).code in {
            "malformed",
            "survivors-not-in-cohort",
        }


# ---- unmasking -------------------------------------------------------------------------------------------------------


def confirmed(cohort: Cohort, site: SiteParty, survivors: Collection[int] = EVERYONE) -> RoundContext:
    context = ready(cohort, site)
    site.confirm(asked(cohort, context, survivors))
    return context


def test_shares_go_out_one_kind_a_peer_with_their_paths(cohort: Cohort, site: SiteParty) -> None:
    survivors = {0, 1, 2, 4}
    context = confirmed(cohort, site, survivors)
    held = [[bytes(share) for share in dealer.shares] for dealer in site._secrets.held]
    reveal = wire.open_reveal(BATCH, 1, site.unmask(confirms_of(cohort, context, survivors)), context)
    assert reveal.survivors == survivors
    for dealer, (share, _) in enumerate(reveal.shares):
        wanted, kept = (seed_leaf(0), key_leaf(0)) if dealer in survivors else (key_leaf(0), seed_leaf(0))
        assert share == held[dealer][wanted] != held[dealer][kept]


def test_the_same_peer_asked_as_survivor_and_as_dropped_gives_no_second_share(cohort: Cohort, site: SiteParty) -> None:
    """Attack 3."""
    context = confirmed(cohort, site, {0, 1, 2, 3})
    site.unmask(confirms_of(cohort, context, {0, 1, 2, 3}))
    for survivors in ({0, 1, 2, 4}, EVERYONE):
        error = refused(site, lambda named=survivors: site.unmask(confirms_of(cohort, context, named)))
        assert (error.code, error.blamed, error.lie) == ("second-unmask", COORDINATOR, True)


def test_a_second_unmask_is_refused_even_for_the_same_set(cohort: Cohort, site: SiteParty) -> None:
    """Attack 4."""
    context = confirmed(cohort, site)
    request = confirms_of(cohort, context, EVERYONE)
    site.unmask(request)
    assert refused(site, lambda: site.unmask(request)).code == "second-unmask"


def test_another_set_than_the_confirmed_one_is_not_unmasked(cohort: Cohort, site: SiteParty) -> None:
    """Attack 5: even when all other members sign it."""
    context = confirmed(cohort, site, {0, 1, 2, 3})
    for survivors in (EVERYONE, {0, 1, 2, 4}):
        error = refused(site, lambda named=survivors: site.unmask(confirms_of(cohort, context, named)))
        assert (error.code, error.blamed, error.lie) == ("survivors-unequal", COORDINATOR, True)


@pytest.mark.parametrize("quorum", [1, 5])
def test_too_few_signatures_unmask_nothing(quorum: int) -> None:
    cohort = cohort_of(N, quorum=quorum)
    site, floor = cohort.parties[1], cohort.batch.floor
    context = confirmed(cohort, site)
    for count in range(floor):
        request = confirms_of(cohort, context, EVERYONE, range(count))
        error = refused(site, lambda request=request: site.unmask(request))
        assert (error.code, error.blamed, error.lie) == ("confirmations-too-few", COORDINATOR, True)
    site.unmask(confirms_of(cohort, context, EVERYONE, range(N - floor, N)))


def test_a_confirmation_that_is_false_unmasks_nothing_and_is_blamed_on_its_bearer(
    cohort: Cohort, site: SiteParty
) -> None:
    context = confirmed(cohort, site)
    others = dataclasses.replace(context, base=b"\x03" * 32), dataclasses.replace(context, slot=1)
    false = {
        "bad-signature": wire.seal_confirm(BATCH, 2, context, EVERYONE, identity("mallory")),
        "base-mismatch": wire.seal_confirm(BATCH, 2, others[0], EVERYONE, identity("s002")),
        "replayed": wire.seal_confirm(BATCH, 2, others[1], EVERYONE, identity("s002")),
        "survivors-unequal": wire.seal_confirm(BATCH, 2, context, frozenset({0, 1, 2, 3}), identity("s002")),
    }
    for code, confirm in false.items():
        confirms = [wire.seal_confirm(BATCH, i, context, EVERYONE, identity(f"s00{i}")) for i in range(N)]
        confirms[2] = confirm
        request = wire.confirmations_message(BATCH, context, EVERYONE, confirms)
        error = refused(site, lambda request=request: site.unmask(request))
        assert (error.code, error.blamed) == (code, COORDINATOR)


def test_a_lying_coordinator_gets_one_kind_of_share_a_peer_whatever_it_asks(cohort: Cohort) -> None:
    """Every set of survivors, confirmed and unmasked in every order: one secret of each peer at most."""
    context = cohort.context(TERMS)
    sets = [frozenset(named) for named in ({0, 1, 2, 3}, {0, 1, 2, 4}, {1, 2, 3, 4}, EVERYONE)]
    for first in sets:
        site = twin(cohort.parties[1])
        site.take(context)
        site.mask(zeros(), TERMS)
        kinds: dict[int, set[int]] = {dealer: set() for dealer in range(N)}
        site.confirm(asked(cohort, context, first))
        for named in [*sets, first, *sets]:
            for call in (
                lambda named=named, site=site: site.confirm(asked(cohort, context, named)),
                lambda named=named, site=site: site.unmask(confirms_of(cohort, context, named)),
            ):
                held = [[bytes(share) for share in dealer.shares] for dealer in site._secrets.held]
                try:
                    data = call()
                except ProtocolError:
                    continue
                reveal = wire.open_reveal(BATCH, 1, data, context)
                for dealer, (share, _) in enumerate(reveal.shares):
                    kinds[dealer].add(held[dealer].index(share))
        assert [len(kind) for kind in kinds.values()] == [1] * N


# ---- erasure ---------------------------------------------------------------------------------------------------------


def is_zero(secret: bytearray) -> bool:
    return not any(secret)


def secrets_of(site: SiteParty) -> Iterator[tuple[str, int, bytearray]]:
    """(kind, slot, secret) for everything that a site must forget."""
    for kind, secrets in (("seed", site._secrets.seeds), ("key", site._secrets.masks)):
        for slot, secret in enumerate(secrets):
            yield kind, slot, secret
    for held in site._secrets.held:
        for at, share in enumerate(held.shares):
            yield "share", at // 2, share


def zeroed(site: SiteParty) -> set[tuple[str, int]]:
    found: dict[tuple[str, int], set[bool]] = {}
    for kind, slot, secret in secrets_of(site):
        found.setdefault((kind, slot), set()).add(is_zero(secret))
    assert all(len(states) == 1 for states in found.values())
    return {name for name, states in found.items() if states == {True}}


def test_secrets_are_forgotten_as_soon_as_they_have_done_their_work(cohort: Cohort, site: SiteParty) -> None:
    assert len(list(secrets_of(site))) == 3 + 3 + N * 6
    assert site._secrets.channel is None
    assert zeroed(site) == set()
    context = taken(cohort, site)
    assert zeroed(site) == set()
    site.mask(zeros(), TERMS)
    assert zeroed(site) == {("seed", 0), ("key", 0)}
    site.confirm(asked(cohort, context, EVERYONE))
    assert zeroed(site) == {("seed", 0), ("key", 0)}
    site.unmask(confirms_of(cohort, context, EVERYONE))
    assert zeroed(site) == {("seed", 0), ("key", 0), ("share", 0)}


def test_slots_that_are_passed_over_are_forgotten(cohort: Cohort, site: SiteParty) -> None:
    taken(cohort, site, 0)
    taken(cohort, site, 2)
    assert zeroed(site) == {(kind, slot) for kind in ("seed", "key", "share") for slot in (0, 1)}


def test_the_channel_key_is_dropped_when_the_boxes_are_open(setup: Setup) -> None:
    party = setup.parties[1]
    assert party._secrets.channel is not None
    party.open(setup.coordinator.delivery("s001"))
    assert party._secrets.channel is None


def test_no_box_is_closed_or_opened_without_the_channel_key(site: SiteParty) -> None:
    """No order of calls comes there: the phases refuse before."""
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    error = refused(site, lambda: site._close(0, public, b"", b""))
    assert (error.code, error.blamed) == ("out-of-order", "")


@pytest.mark.parametrize("when", ["new", "advertised", "shared", "open", "masked"])
def test_a_closed_site_has_forgotten_everything(when: str, setup: Setup) -> None:
    party = {"new": sites_of(BATCH)[1], "advertised": setup.before[1]}.get(when, setup.parties[1])
    if when in ("open", "masked"):
        party.open(setup.coordinator.delivery("s001"))
    if when == "masked":
        party.take(RoundContext(party.setup_hash, 0, 1, 1, BASE, TERMS.digest))
        party.mask(zeros(), TERMS)
    secrets = [secret for _, _, secret in secrets_of(party)]
    assert len(secrets) == {"new": 0, "advertised": 6, "shared": 12}.get(when, 36)
    party.close()
    assert all(is_zero(secret) for secret in secrets)
    assert list(secrets_of(party)) == []
    assert party._secrets.channel is None
    assert party.phase == Phase.CLOSED
    for call in (party.advertise, lambda: party.share(b""), lambda: party.open(b""), lambda: party.setup_hash):
        assert refused(party, call).code == "out-of-order"
    party.close()


def test_a_restarted_site_holds_nothing_of_the_batch(cohort: Cohort) -> None:
    """A new party draws new keys: it is in none of the old batch's slots."""
    old, new = sites_of(BATCH)[1], SiteParty(BATCH, "s001", identity("s001"), scripted("after"))
    assert wire.open_advert(BATCH, 1, old.advertise()) != wire.open_advert(BATCH, 1, new.advertise())
    error = refused(new, lambda: new.take(cohort.context(TERMS)))
    assert error.code == "out-of-order"


def test_no_secret_shows_in_a_text_of_the_machine(cohort: Cohort, site: SiteParty) -> None:
    shown = repr(site) + repr(site._secrets) + repr(site._secrets.held[0]) + str(vars(site))
    for _, _, secret in secrets_of(site):
        assert secret.hex() not in shown
        assert repr(bytes(secret))[2:-1] not in shown


def test_own_secrets_are_drawn_afresh_for_every_slot(cohort: Cohort, site: SiteParty) -> None:
    own = [bytes(secret) for kind, _, secret in secrets_of(site) if kind != "share"]
    assert len(set(own)) == len(own) == 6


def test_a_site_that_masks_twice_the_same_sends_two_unlike_vectors(cohort: Cohort, site: SiteParty) -> None:
    sent = []
    for slot in (0, 1):
        context = taken(cohort, site, slot)
        read = wire.open_masked(BATCH, 1, site.mask(zeros(), TERMS), context, TERMS.byte_length)
        sent.append((bytes(read.vector), read.commitment))
    assert sent[0][0] != sent[1][0]
    assert sent[0][1] != sent[1][1]


def test_the_machines_need_nothing_of_each_other_but_messages(cohort: Cohort) -> None:
    context = cohort.context(TERMS)
    slot = SlotSum(cohort.opened, context, TERMS)
    for party in cohort.parties:
        party.take(context)
        slot.masked(party.site, bytes(bytearray(party.mask(zeros(), TERMS))))
    assert slot.survivors == BATCH.members


def test_terms_of_a_batch_of_another_size_are_refused(cohort: Cohort) -> None:
    terms = small_terms(N + 1, 4)
    with pytest.raises(InputError):
        SlotSum(cohort.opened, cohort.context(terms), terms)


def test_batches_are_told_apart_by_every_site() -> None:
    one = cohort_of(N, slots=3)
    batch: Batch = batch_of(N, slots=3, name="c" * 32)
    two = sites_of(batch)
    opened = set_up(batch, two)
    assert opened.setup != one.opened.setup
    assert refused(two[1], lambda: two[1].take(one.context(TERMS))).code == "replayed"
