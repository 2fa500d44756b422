"""The coordinator's machines: what it takes from whom, and what it gives out. Orders: test_orders.py; blame: test_blame.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
from cohort import Cohort, Dropouts, batch_of, cohort_of, identity, securely_summed, sites_of, small_terms, state

from fedward.privacy.errors import InputError
from fedward.privacy.secagg import BatchSetup, Block, ProtocolError, RingTerms, SlotSum, wire

N = 5
TERMS = small_terms(N, 4)
BATCH = batch_of(N)


def refused(machine: object, call: Callable[[], object]) -> ProtocolError:
    before = state(machine)
    with pytest.raises(ProtocolError) as caught:
        call()
    assert state(machine) == before
    return caught.value


def zeros() -> np.ndarray:
    return np.zeros(TERMS.length, dtype=TERMS.dtype)


@pytest.fixture
def cohort() -> Cohort:
    return cohort_of(N)


# ---- setup -----------------------------------------------------------------------------------------------------------


def test_who_is_not_in_the_cohort_is_not_heard(cohort: Cohort) -> None:
    setup, slot = BatchSetup(BATCH), SlotSum(cohort.opened, cohort.context(TERMS), TERMS)
    for call in (
        lambda: setup.advertised("mallory", b""),
        lambda: setup.shared("mallory", b""),
        lambda: setup.opened("mallory", b""),
    ):
        assert refused(setup, call).code == "not-a-member"
    for call in (
        lambda: slot.masked("mallory", b""),
        lambda: slot.confirmed("mallory", b""),
        lambda: slot.revealed("mallory", b""),
    ):
        assert refused(slot, call).code == "not-a-member"


def test_a_member_that_never_comes_is_named_and_nobody_lied() -> None:
    setup = BatchSetup(BATCH)
    for party in sites_of(BATCH):
        if party.site != "s003":
            setup.advertised(party.site, party.advertise())
    error = refused(setup, setup.adverts)
    assert (error.code, error.lie) == ("setup-incomplete", False)
    assert "s003" in str(error)
    assert "s002" not in str(error)


def dealt() -> tuple[BatchSetup, list[bytes]]:
    """A setup in which everyone has advertised, and what the members deal."""
    parties, setup = sites_of(BATCH), BatchSetup(BATCH)
    for party in parties:
        setup.advertised(party.site, party.advertise())
    adverts = setup.adverts()
    return setup, [party.share(adverts) for party in parties]


def test_shares_for_other_adverts_are_refused() -> None:
    setup, _ = dealt()
    others, other = sites_of(BATCH, "other"), BatchSetup(BATCH)
    for party in others:
        other.advertised(party.site, party.advertise())
    shares = others[1].share(other.adverts())
    error = refused(setup, lambda: setup.shared("s001", shares))
    assert (error.code, error.blamed) == ("adverts-unequal", "s001")


def test_a_box_that_is_not_the_one_its_dealer_signed_is_refused_where_it_comes_in() -> None:
    """Else the coordinator passes it on, and is blamed for it by the recipient."""
    setup, shares = dealt()
    first = wire.roots_size(BATCH)
    for box in range(N - 1):
        at = first + box * wire.box_size(BATCH) + 5
        damaged = shares[1][:at] + bytes([shares[1][at] ^ 1]) + shares[1][at + 1 :]
        error = refused(setup, lambda data=damaged: setup.shared("s001", data))
        assert (error.code, error.blamed) == ("box-changed", "s001")
    setup.shared("s001", shares[1])


def test_a_share_message_of_another_length_is_blamed_on_its_sender() -> None:
    setup, shares = dealt()
    for data in (b"", shares[1][:-1], shares[1] + b"\x00"):
        error = refused(setup, lambda data=data: setup.shared("s001", data))
        assert (error.code, error.blamed) == ("malformed", "s001")


def test_every_member_is_delivered_its_own_boxes_and_all_roots() -> None:
    setup, shares = dealt()
    for site, data in zip(BATCH.members, shares, strict=True):
        setup.shared(site, data)
    first, size = wire.roots_size(BATCH), wire.box_size(BATCH)
    for recipient, site in enumerate(BATCH.members):
        wanted = b"".join(share[:first] for share in shares)
        for dealer, share in enumerate(shares):
            peers = [peer for peer in range(N) if peer != dealer]
            if recipient != dealer:
                at = first + peers.index(recipient) * size
                wanted += share[at : at + size]
        assert setup.delivery(site) == setup.delivery(site) == wanted


def test_a_member_that_opened_another_setup_is_named() -> None:
    setup, shares = dealt()
    for site, data in zip(BATCH.members, shares, strict=True):
        setup.shared(site, data)
    word = wire.seal_opened(BATCH, 1, b"\x01" * 32, identity("s001"))
    error = refused(setup, lambda: setup.opened("s001", word))
    assert (error.code, error.blamed) == ("setup-mismatch", "s001")


def test_what_comes_twice_is_refused_once_more_and_is_no_lie(cohort: Cohort) -> None:
    """A reply may be delivered twice."""
    setup, shares = dealt()
    setup.shared("s001", shares[1])
    slot, messages = cohort.masked_in(cohort.context(TERMS), TERMS)
    confirm = cohort.parties[1].confirm(slot.confirm_request())
    slot.confirmed("s001", confirm)
    for machine, call in (
        (setup, lambda: setup.advertised("s001", b"")),
        (setup, lambda: setup.shared("s001", shares[1])),
        (slot, lambda: slot.masked("s001", messages[1])),
        (slot, lambda: slot.confirmed("s001", confirm)),
    ):
        error = refused(machine, call)
        assert (error.code, error.blamed, error.lie) == ("repeated", "s001", False)


def test_an_open_batch_is_what_its_members_signed(cohort: Cohort) -> None:
    setup, shares = dealt()
    raw, first = setup.adverts(), wire.roots_size(BATCH)
    adverts = [wire.open_advert(BATCH, i, data) for i, data in enumerate(wire.split_adverts(BATCH, raw))]
    assert cohort.opened.adverts == adverts
    digest = sha256(raw).digest()
    assert cohort.opened.roots == [wire.open_roots(BATCH, i, share[:first], digest) for i, share in enumerate(shares)]


# ---- sums ------------------------------------------------------------------------------------------------------------


def test_a_sum_of_another_batch_slot_or_terms_is_never_begun(cohort: Cohort) -> None:
    context = cohort.context(TERMS)
    for changed in (
        dataclasses.replace(context, setup=b"\x01" * 32),
        dataclasses.replace(context, slot=BATCH.slots),
        dataclasses.replace(context, terms=b"\x01" * 32),
    ):
        with pytest.raises(InputError):
            SlotSum(cohort.opened, changed, TERMS)
    for terms in (small_terms(N, 5), small_terms(N, 4, 64), small_terms(N - 1, 4)):
        with pytest.raises(InputError):
            SlotSum(cohort.opened, context, terms)


def test_a_vector_for_another_base_model_is_refused_by_name(cohort: Cohort) -> None:
    """Attack 6: one site was sent another base model. Its masks cancel with nobody's, so the sum must not take it."""
    slot = SlotSum(cohort.opened, cohort.context(TERMS), TERMS)
    party = cohort.parties[1]
    party.take(cohort.context(TERMS, base=b"\x0f" * 32))
    data = party.mask(zeros(), TERMS)
    error = refused(slot, lambda: slot.masked("s001", data))
    assert error.code == "base-mismatch"
    assert "s001" in str(error)


def test_a_vector_of_another_slot_or_attempt_is_refused_by_name(cohort: Cohort) -> None:
    slot = SlotSum(cohort.opened, cohort.context(TERMS), TERMS)
    for index, fields in enumerate(({"slot": 1}, {"attempt": 2}, {"round_": 2})):
        party = cohort.parties[index]
        party.take(cohort.context(TERMS, **fields))
        data = party.mask(zeros(), TERMS)
        error = refused(slot, lambda site=party.site, data=data: slot.masked(site, data))
        assert (error.code, error.blamed) == ("replayed", party.site)


def test_one_site_s_vector_cannot_be_sent_by_another(cohort: Cohort) -> None:
    context = cohort.context(TERMS)
    slot = SlotSum(cohort.opened, context, TERMS)
    cohort.taken(context)
    data = cohort.parties[1].mask(zeros(), TERMS)
    assert refused(slot, lambda: slot.masked("s002", data)).code == "wrong-sender"
    slot.masked("s001", data)


def test_a_vector_that_comes_after_the_set_was_closed_is_left_out(cohort: Cohort) -> None:
    context = cohort.context(TERMS)
    slot, _ = cohort.masked_in(context, TERMS, range(4))
    party = cohort.parties[4]
    party.take(context)
    data = party.mask(zeros(), TERMS)
    error = refused(slot, lambda: slot.masked("s004", data))
    assert (error.code, error.lie) == ("out-of-order", False)
    assert slot.survivors == BATCH.members[:4]
    for call in (slot.confirmed, slot.revealed):
        error = refused(slot, lambda call=call: call("s004", b""))
        assert (error.code, error.blamed, error.lie) == ("not-a-survivor", "s004", True)


def test_a_confirmation_or_reveal_for_another_set_names_its_sender(cohort: Cohort) -> None:
    """Even under its sender's own signature."""
    context, others = cohort.context(TERMS), frozenset({0, 1, 2, 3})
    slot, _ = cohort.masked_in(context, TERMS)
    data = wire.seal_confirm(BATCH, 1, context, others, identity("s001"))
    error = refused(slot, lambda: slot.confirmed("s001", data))
    assert (error.code, error.blamed, error.lie) == ("survivors-unequal", "s001", True)
    request = slot.confirm_request()
    for party in cohort.parties:
        slot.confirmed(party.site, party.confirm(request))
    honest = wire.open_reveal(BATCH, 1, cohort.parties[1].unmask(slot.unmask_request()), context)
    data = wire.seal_reveal(BATCH, 1, dataclasses.replace(honest, survivors=others), identity("s001"))
    error = refused(slot, lambda: slot.revealed("s001", data))
    assert (error.code, error.blamed, error.lie) == ("survivors-unequal", "s001", True)


def test_the_confirmations_are_what_an_auditor_can_check(cohort: Cohort) -> None:
    context = cohort.context(TERMS)
    slot, _ = cohort.confirmed_in(context, TERMS, {0, 1, 3, 4})
    assert len(slot.confirmations) == 4
    for index, raw in zip((0, 1, 3, 4), slot.confirmations, strict=True):
        assert wire.open_confirm(BATCH, index, raw, context).survivors == {0, 1, 3, 4}


def test_a_sum_that_is_open_does_not_open_to_something_else(cohort: Cohort) -> None:
    context = cohort.context(TERMS)
    slot, request = cohort.confirmed_in(context, TERMS)
    for party in cohort.parties:
        slot.revealed(party.site, party.unmask(request))
    assert slot.open()[0].tolist() == [0, 0, 0, 0]
    error = refused(slot, slot.open)
    assert (error.code, error.blamed, error.lie) == ("repeated", "", False)


def test_more_reveals_than_needed_change_nothing(cohort: Cohort) -> None:
    sums = []
    for revealing in (range(4), range(1, 5), range(5)):
        fresh = cohort_of(N)
        context = fresh.context(TERMS)
        slot, request = fresh.confirmed_in(context, TERMS)
        for index in revealing:
            party = fresh.parties[index]
            slot.revealed(party.site, party.unmask(request))
        sums.append(slot.open()[0].tolist())
    assert sums == [[0] * 4] * 3


@pytest.mark.parametrize("bits", [32, 64])
def test_a_sum_beyond_what_its_survivors_could_make_is_refused_and_nobody_is_named(bits: int) -> None:
    """A false vector is uniform: only the sum shows it. The least amount over the bound is noticed."""
    cohort = cohort_of(N)
    for slot, beyond in enumerate((0, 1)):
        terms = RingTerms(bits, N, (Block("update", 2, 100), Block("histogram", 2, 7)))
        vectors = [np.array([100, -100, 7, -7])] * 4 + [np.array([100, -100 - beyond, 7, -7])]
        context = cohort.context(terms, slot)
        if not beyond:
            opened = securely_summed(cohort, context, terms, vectors)
            assert [block.tolist() for block in opened] == [[500, -500], [35, -35]]
            continue
        with pytest.raises(ProtocolError) as caught:
            securely_summed(cohort, context, terms, vectors)
        assert (caught.value.code, caught.value.blamed, caught.value.lie) == ("sum-out-of-bounds", "", False)


@pytest.mark.parametrize("stage", ["before_masked", "before_confirm", "before_unmask"])
@pytest.mark.parametrize(("n", "t", "quorum"), [(3, 3, 1), (5, 4, 1), (5, 5, 1), (6, 5, 1), (5, 4, 5), (8, 6, 7)])
def test_one_dropout_too_many_is_refused_by_name_at_every_stage(stage: str, n: int, t: int, quorum: int) -> None:
    """Attack 11, k > n − t; as many as are tolerated are summed exactly."""
    terms = small_terms(n, 3)
    # Reveals are needed of t members only, whatever the quorum.
    tolerated = n - (t if stage == "before_unmask" else max(t, quorum))
    for slot, dropping in enumerate((tolerated, tolerated + 1)):
        cohort = cohort_of(n, t=t, quorum=quorum)
        vectors = [np.array([index, -index, 10**6]) for index in range(n)]
        dropouts = Dropouts(**{stage: frozenset(range(n - dropping, n))})
        context = cohort.context(terms, slot)
        summed = n - dropping if stage == "before_masked" else n
        if dropping == tolerated:
            assert securely_summed(cohort, context, terms, vectors, dropouts)[0].tolist() == (
                sum(vectors[:summed]).tolist()
            )
            continue
        with pytest.raises(ProtocolError) as caught:
            securely_summed(cohort, context, terms, vectors, dropouts)
        error = caught.value
        assert (error.code, error.blamed, error.lie) == ("survivors-too-few", "", False)
        assert str(n - dropping) in str(error)
