"""Who is blamed for what: a false path its revealer, a false secret its dealer; and nobody honest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
from cohort import Cohort, batch_of, cohort_of, drawing, scripted, set_up, sites_of, small_terms, state

from fedward.privacy.secagg import ProtocolError, SlotSum, site, wire
from fedward.privacy.secagg.shamir import P, split

N = 5
TERMS = small_terms(N, 3)
BATCH = batch_of(N)
EVIL = 3


def refused(machine: object, call: Callable[[], object]) -> ProtocolError:
    before = state(machine)
    with pytest.raises(ProtocolError) as caught:
        call()
    assert state(machine) == before
    return caught.value


def revealed_in(cohort: Cohort, members: Collection[int] | None = None) -> tuple[SlotSum, list[tuple[str, bytes]]]:
    """A slot's sum before its reveals, and every survivor's reveal."""
    slot, request = cohort.confirmed_in(cohort.context(TERMS), TERMS, members)
    sites = [party for party in cohort.parties if party.site in slot.survivors]
    return slot, [(party.site, party.unmask(request)) for party in sites]


def changed_reveal(cohort: Cohort, index: int, data: bytes, dealer: int, **fields: bytes) -> bytes:
    """With another share or path for one dealer, signed again."""
    context = cohort.context(TERMS)
    reveal = wire.open_reveal(BATCH, index, data, context)
    shares = list(reveal.shares)
    share, path = shares[dealer]
    shares[dealer] = (fields.get("share", share), fields.get("path", path))
    return wire.seal_reveal(BATCH, index, wire.Reveal(context, reveal.survivors, tuple(shares)), cohort.identity(index))


# ---- revealers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [None, (0, 1, 2, 3)], ids=["all-survive", "one-dropped"])
@pytest.mark.parametrize("what", ["share", "path"])
def test_a_changed_share_or_path_names_the_revealer_and_counts_for_nothing(
    what: str, members: tuple[int, ...] | None
) -> None:
    """Attack 10."""
    cohort = cohort_of(N)
    slot, reveals = revealed_in(cohort, members)
    name, honest = reveals[1]
    for dealer in range(N):
        share, path = wire.open_reveal(BATCH, 1, honest, cohort.context(TERMS)).shares[dealer]
        part = share if what == "share" else path
        for at in (0, len(part) // 2, len(part) - 1):
            false = part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :]
            data = changed_reveal(cohort, 1, honest, dealer, **{what: false})
            error = refused(slot, lambda data=data: slot.revealed(name, data))
            assert (error.code, error.blamed, error.lie) == ("false-share", "s001", True)
    slot.revealed(name, honest)


def test_the_other_secret_s_share_with_its_true_path_is_false() -> None:
    """A revealer that sends a survivor's key share instead of its seed share is named."""
    cohort = cohort_of(N)
    held = [[bytes(share) for share in dealer.shares] for dealer in cohort.parties[1]._secrets.held]
    trees = [dealer.tree for dealer in cohort.parties[1]._secrets.held]
    slot, reveals = revealed_in(cohort)
    name, honest = reveals[1]
    for dealer in range(N):
        for leaf in (1, 2, 3):
            data = changed_reveal(cohort, 1, honest, dealer, share=held[dealer][leaf], path=trees[dealer].path(leaf))
            assert refused(slot, lambda data=data: slot.revealed(name, data)).blamed == "s001"


def test_another_member_s_true_share_is_false_in_one_s_own_reveal() -> None:
    cohort = cohort_of(N)
    slot, reveals = revealed_in(cohort)
    theirs = wire.open_reveal(BATCH, 2, reveals[2][1], cohort.context(TERMS)).shares
    for dealer in range(N):
        share, path = theirs[dealer]
        data = changed_reveal(cohort, 1, reveals[1][1], dealer, share=share, path=path)
        error = refused(slot, lambda data=data: slot.revealed("s001", data))
        assert (error.code, error.blamed) == ("false-share", "s001")


def test_the_others_open_the_sum_without_a_false_revealer() -> None:
    cohort = cohort_of(N)
    slot, reveals = revealed_in(cohort)
    for index, (name, data) in enumerate(reveals):
        if index == EVIL:
            false = changed_reveal(cohort, index, data, 0, share=bytes(33))
            assert refused(slot, lambda name=name, false=false: slot.revealed(name, false)).blamed == name
        else:
            slot.revealed(name, data)
    assert slot.open()[0].tolist() == [0, 0, 0]


def test_with_too_many_false_revealers_nothing_is_opened() -> None:
    cohort = cohort_of(N)
    slot, reveals = revealed_in(cohort)
    for index, (name, data) in enumerate(reveals):
        if index < 2:
            false = changed_reveal(cohort, index, data, 4, path=bytes(64))
            refused(slot, lambda name=name, false=false: slot.revealed(name, false))
        else:
            slot.revealed(name, data)
    error = refused(slot, slot.open)
    assert (error.code, error.blamed, error.lie) == ("survivors-too-few", "", False)


# ---- dealers ---------------------------------------------------------------------------------------------------------

Split = Callable[[bytes], list[bytes]]


def polynomial_shares(secret: int, degree: int) -> list[bytes]:
    """Shares of any field element, also one that is no 32-byte secret, over a polynomial of any degree."""
    draw = drawing(secret)
    coefficients = [secret, *(draw.randrange(P) for _ in range(degree))]
    values = [sum(c * pow(x, power, P) for power, c in enumerate(coefficients)) % P for x in range(1, N + 1)]
    return [value.to_bytes(33, "big") for value in values]


def another_secret(secret: bytes) -> list[bytes]:
    return split(bytes([secret[0] ^ 0x40]) + secret[1:], BATCH.threshold, N, scripted("evil"))


def a_secret_beyond_32_bytes(secret: bytes) -> list[bytes]:
    return polynomial_shares(2**256 + 5, BATCH.threshold - 1)


def a_polynomial_of_too_high_degree(secret: bytes) -> list[bytes]:
    return polynomial_shares(int.from_bytes(secret, "big"), BATCH.threshold)


def one_share_of_another_polynomial(secret: bytes) -> list[bytes]:
    shares = split(secret, BATCH.threshold, N, scripted("evil"))
    return [another_secret(secret)[0], *shares[1:]]


LIES: list[Split] = [
    another_secret,
    a_secret_beyond_32_bytes,
    a_polynomial_of_too_high_degree,
    one_share_of_another_polynomial,
]


def with_a_false_dealer(monkeypatch: pytest.MonkeyPatch, lie: Split, kinds: Collection[str]) -> Cohort:
    """A batch in which one member deals false shares of its seeds or keys, under proper roots."""
    parties = sites_of(BATCH)
    evil = parties[EVIL]
    deal = evil._deal

    def falsely() -> object:
        own = {"seed": evil._secrets.seeds, "key": evil._secrets.masks}
        false = {bytes(secret) for kind in kinds for secret in own[kind]}
        with monkeypatch.context() as patch:
            patch.setattr(site, "split", lambda secret, *rest: lie(secret) if secret in false else split(secret, *rest))
            return deal()

    monkeypatch.setattr(evil, "_deal", falsely)
    return Cohort(BATCH, parties, set_up(BATCH, parties))


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("kind", ["seed", "key"])
def test_proven_shares_of_a_false_secret_name_the_dealer(
    monkeypatch: pytest.MonkeyPatch, kind: str, lie: Split
) -> None:
    """Attack 10. A survivor's seed is rebuilt; the mask key of a dealer that drops out."""
    cohort = with_a_false_dealer(monkeypatch, lie, [kind])
    slot, reveals = revealed_in(cohort, None if kind == "seed" else {0, 1, 2, 4})
    for name, data in reveals:
        slot.revealed(name, data)
    error = refused(slot, slot.open)
    assert (error.code, error.blamed, error.lie) == ("false-dealer", "s003", True)


@pytest.mark.parametrize("members", [None, {0, 1, 2, 4}], ids=["seed", "key"])
def test_a_secret_that_is_true_but_for_2_to_the_256_names_the_dealer(
    monkeypatch: pytest.MonkeyPatch, members: set[int] | None
) -> None:
    """Cut to 32 bytes it would pass. Only a secret below 297 has such a twin in the field, so this dealer draws one."""
    parties, small = sites_of(BATCH), bytes(31) + b"\x05"
    rest = parties[EVIL]._entropy
    monkeypatch.setattr(parties[EVIL], "_entropy", lambda size: small if size == 32 else rest(size))

    def twins(secret: bytes, *rest: Any) -> list[bytes]:
        return polynomial_shares(2**256 + 5, BATCH.threshold - 1) if secret == small else split(secret, *rest)

    monkeypatch.setattr(site, "split", twins)
    slot, reveals = revealed_in(Cohort(BATCH, parties, set_up(BATCH, parties)), members)
    for name, data in reveals:
        slot.revealed(name, data)
    error = refused(slot, slot.open)
    assert (error.code, error.blamed) == ("false-dealer", "s003")


def test_a_dealer_s_own_share_beyond_the_field_is_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else ever sees it before it is revealed, with a true path."""

    def beyond(secret: bytes) -> list[bytes]:
        shares = split(secret, BATCH.threshold, N, scripted("evil"))
        return [*shares[:EVIL], P.to_bytes(33, "big"), *shares[EVIL + 1 :]]

    slot, reveals = revealed_in(with_a_false_dealer(monkeypatch, beyond, ["seed"]))
    for name, data in reveals:
        if name == "s003":
            error = refused(slot, lambda data=data: slot.revealed("s003", data))
            assert (error.code, error.blamed) == ("false-share", "s003")
        else:
            slot.revealed(name, data)
    assert slot.open()[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["seed", "key"])
def test_a_false_secret_that_is_not_needed_disturbs_nobody(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The control: the mask key of a survivor and the seed of a dropped member are never rebuilt."""
    cohort = with_a_false_dealer(monkeypatch, another_secret, [kind])
    slot, reveals = revealed_in(cohort, None if kind == "key" else {0, 1, 2, 4})
    for name, data in reveals:
        slot.revealed(name, data)
    assert slot.open()[0].tolist() == [0, 0, 0]


def test_a_commitment_to_another_seed_names_its_member() -> None:
    cohort = cohort_of(N)
    context = cohort.context(TERMS)
    slot = SlotSum(cohort.opened, context, TERMS)
    for index, party in enumerate(cohort.parties):
        party.take(context)
        data = party.mask(np.zeros(3, dtype=np.uint32), TERMS)
        if index == EVIL:
            read = wire.open_masked(BATCH, index, data, context, TERMS.byte_length)
            data = wire.seal_masked(index, context, b"\x01" * 32, read.vector, cohort.identity(index))
        slot.masked(party.site, data)
    request = slot.confirm_request()
    for party in cohort.parties:
        slot.confirmed(party.site, party.confirm(request))
    request = slot.unmask_request()
    for party in cohort.parties:
        slot.revealed(party.site, party.unmask(request))
    error = refused(slot, slot.open)
    assert (error.code, error.blamed) == ("false-dealer", "s003")
