"""What an auditor checks afterwards: that all members signed one setup, and the survivors of each sum one set, a slot once."""

from __future__ import annotations

import dataclasses
from hashlib import sha256

import pytest
from cohort import Cohort, cohort_of, identity, small_terms

from fedward.privacy.secagg import ProtocolError, wire
from fedward.privacy.secagg.transcript import BatchRecord, SumRecord, check_batch, check_sums, setup_hash

N = 5
TERMS = small_terms(N, 2)
EVERYONE = frozenset(range(N))


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return cohort_of(N, slots=3)


@pytest.fixture(scope="module")
def record(cohort: Cohort) -> BatchRecord:
    return cohort.opened.record


def with_one(record: BatchRecord, field: str, index: int, data: bytes) -> BatchRecord:
    whole = list(getattr(record, field))
    whole[index] = data
    return dataclasses.replace(record, **{field: tuple(whole)})


def sum_of(
    cohort: Cohort, slot: int, named: frozenset[int] = EVERYONE, signers: frozenset[int] | None = None
) -> SumRecord:
    context = cohort.context(TERMS, slot)
    return SumRecord(
        context,
        tuple(
            wire.seal_confirm(cohort.batch, i, context, named, cohort.identity(i))
            for i in sorted(named if signers is None else signers)
        ),
    )


def refused(cohort: Cohort, *sums: SumRecord) -> str:
    with pytest.raises(ProtocolError) as caught:
        check_sums(cohort.opened.record, cohort.opened.setup, sums)
    return caught.value.code


def test_an_honest_batch_is_found_good(cohort: Cohort, record: BatchRecord) -> None:
    assert check_batch(record) == cohort.opened.setup == cohort.parties[0].setup_hash


@pytest.mark.parametrize("field", ["adverts", "roots", "opened"])
def test_every_message_of_a_setup_is_needed_and_checked(record: BatchRecord, field: str) -> None:
    whole = getattr(record, field)
    for index in range(N):
        for at in (0, 5, 20, 50, len(whole[index]) - 1):
            damaged = whole[index][:at] + bytes([whole[index][at] ^ 1]) + whole[index][at + 1 :]
            with pytest.raises(ProtocolError):
                check_batch(with_one(record, field, index, damaged))
        with pytest.raises(ProtocolError) as caught:
            check_batch(dataclasses.replace(record, **{field: whole[:index] + whole[index + 1 :]}))
        assert (caught.value.code, caught.value.blamed, caught.value.lie) == ("setup-incomplete", "", False)


def signed_over(record: BatchRecord) -> BatchRecord:
    """The record with every later message signed again over the earlier ones, as if all members had colluded."""
    batch, digest = record.batch, sha256(b"".join(record.adverts)).digest()
    keys = [identity(site) for site in batch.members]
    bodies = [raw[:39] + digest + raw[71:-64] for raw in record.roots]
    whole = [body + raw[-64:] for body, raw in zip(bodies, record.roots, strict=True)]
    if whole != list(record.roots):
        whole = [body + key.sign("secagg", body) for body, key in zip(bodies, keys, strict=True)]
    setup = setup_hash(batch, digest, whole)
    words = [wire.seal_opened(batch, i, setup, key) for i, key in enumerate(keys)]
    return BatchRecord(batch, record.adverts, tuple(whole), tuple(words))


@pytest.mark.parametrize(("field", "code"), [("adverts", "key-substituted"), ("roots", "bad-signature")])
def test_one_forged_message_is_noticed_even_if_all_else_was_signed_over_it(
    record: BatchRecord, field: str, code: str
) -> None:
    assert check_batch(signed_over(record)) == check_batch(record)
    body = getattr(record, field)[2][:-64]
    forged = signed_over(with_one(record, field, 2, body + identity("mallory").sign("secagg", body)))
    with pytest.raises(ProtocolError) as caught:
        check_batch(forged)
    assert (caught.value.code, caught.value.blamed) == (code, "s002")


def test_a_member_that_signed_another_setup_is_named(record: BatchRecord) -> None:
    word = wire.seal_opened(record.batch, 2, b"\x01" * 32, identity("s002"))
    with pytest.raises(ProtocolError) as caught:
        check_batch(with_one(record, "opened", 2, word))
    assert (caught.value.code, caught.value.blamed) == ("setup-mismatch", "s002")


def test_sums_are_found_good_with_their_survivors_and_signers(cohort: Cohort) -> None:
    sums = [sum_of(cohort, 0), sum_of(cohort, 2, EVERYONE - {3}), ]  # fmt: skip
    checked = check_sums(cohort.opened.record, cohort.opened.setup, sums)
    assert [one.context for one in checked] == [one.context for one in sums]
    assert checked[1].survivors == checked[1].signers == ("s000", "s001", "s002", "s004")
    fewer = sum_of(cohort, 1, EVERYONE, EVERYONE - {0})
    (one,) = check_sums(cohort.opened.record, cohort.opened.setup, [fewer])
    assert (one.survivors, one.signers) == (cohort.batch.members, cohort.batch.members[1:])


def test_a_slot_used_twice_is_noticed(cohort: Cohort) -> None:
    assert refused(cohort, sum_of(cohort, 1), sum_of(cohort, 1)) == "slot-used"
    assert refused(cohort, sum_of(cohort, 1), sum_of(cohort, 0)) == "slot-used"
    assert refused(cohort, sum_of(cohort, 3)) == "slot-used"


def test_a_sum_of_another_batch_is_noticed(cohort: Cohort) -> None:
    context = dataclasses.replace(cohort.context(TERMS, 0), setup=bytes(32))
    signed = [wire.seal_confirm(cohort.batch, i, context, EVERYONE, cohort.identity(i)) for i in range(N)]
    assert refused(cohort, SumRecord(context, tuple(signed))) == "replayed"


def test_signatures_for_another_use_of_the_slot_are_noticed(cohort: Cohort) -> None:
    one = sum_of(cohort, 0)
    for name, value, code in (
        ("base", b"\x0f" * 32, "base-mismatch"),
        ("terms", b"\x0f" * 32, "terms-mismatch"),
        ("attempt", 9, "replayed"),
    ):
        context = dataclasses.replace(one.context, **{name: value})
        assert refused(cohort, SumRecord(context, one.confirmations)) == code


def test_too_few_or_doubled_signatures_are_noticed(cohort: Cohort) -> None:
    one = sum_of(cohort, 0)
    assert refused(cohort, SumRecord(one.context, ())) == "confirmations-too-few"
    assert refused(cohort, SumRecord(one.context, one.confirmations[:3])) == "confirmations-too-few"
    for doubled in ((*one.confirmations, one.confirmations[0]), (one.confirmations[0],) * 4):
        assert refused(cohort, SumRecord(one.context, doubled)) == "signers-not-distinct"
    beyond = one.confirmations[4][:5] + b"\x00\x05" + one.confirmations[4][7:]
    for last in (b"short", b"", beyond):
        assert refused(cohort, SumRecord(one.context, (*one.confirmations[:4], last))) == "signers-not-distinct"


def test_signatures_over_unlike_sets_or_by_the_dropped_are_noticed(cohort: Cohort) -> None:
    one, other = sum_of(cohort, 0), sum_of(cohort, 0, EVERYONE - {4})
    for cut in range(1, 4):
        mixed = (*one.confirmations[:cut], *other.confirmations[cut:])
        assert refused(cohort, SumRecord(one.context, mixed)) == "survivors-unequal"
    assert refused(cohort, sum_of(cohort, 0, EVERYONE - {4}, EVERYONE)) == "survivors-unequal"
    assert refused(cohort, sum_of(cohort, 0, frozenset({0, 1, 2}), EVERYONE - {4})) == "survivors-unequal"


def test_a_forged_signature_of_a_sum_is_noticed(cohort: Cohort) -> None:
    one = sum_of(cohort, 0)
    forged = wire.seal_confirm(cohort.batch, 2, one.context, EVERYONE, identity("mallory"))
    confirmations = (*one.confirmations[:2], forged, *one.confirmations[3:])
    assert refused(cohort, SumRecord(one.context, confirmations)) == "bad-signature"
