"""The messages: where each field lies, and by what name each false one is refused. Any bytes whatever: test_fuzz.py."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from hashlib import sha256

import pytest
from cohort import BASE, batch_of, identity, small_terms
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.secagg import Batch, ProtocolError, RoundContext, wire
from fedward.privacy.secagg.commitments import depth
from fedward.privacy.secagg.faults import COORDINATOR
from fedward.privacy.signing import Identity

BATCH = batch_of(10, slots=3)
NAME, KEY = BATCH.members[1], identity(BATCH.members[1])
TERMS = small_terms(10, 4)
CONTEXT = RoundContext(b"\x07" * 32, 1, 4, 5, BASE, TERMS.digest)
DIGEST, COMMITMENT = b"\x08" * 32, b"\x09" * 32
SURVIVORS = frozenset({0, 1, 2, 4, 5, 6, 8, 9})
VECTOR = bytes(range(16))
ADVERT = wire.Advert(b"\x0a" * 32, tuple(bytes([11 + i]) * 32 for i in range(3)))
ROOTS = wire.Roots(tuple(bytes([i]) * 128 for i in range(10)), tuple(bytes([100 + i]) * 32 for i in range(10)))
SHARES = tuple((bytes([i]) * 33, bytes([i + 50]) * 32 * depth(6)) for i in range(10))
REVEAL = wire.Reveal(CONTEXT, SURVIVORS, SHARES)
BITMAP = bytes([0b01110111, 0b11])


def advert(batch: Batch = BATCH, sender: int = 1, key: Identity = KEY) -> bytes:
    return wire.seal_advert(batch, sender, ADVERT, key)


def roots(batch: Batch = BATCH, sender: int = 1, key: Identity = KEY) -> bytes:
    return wire.seal_roots(batch, sender, DIGEST, ROOTS, key)


def opened(batch: Batch = BATCH, sender: int = 1, key: Identity = KEY) -> bytes:
    return wire.seal_opened(batch, sender, DIGEST, key)


def masked(context: RoundContext = CONTEXT, sender: int = 1, key: Identity = KEY) -> bytes:
    return wire.seal_masked(sender, context, COMMITMENT, memoryview(VECTOR), key)


def confirm(context: RoundContext = CONTEXT, sender: int = 1, key: Identity = KEY) -> bytes:
    return wire.seal_confirm(BATCH, sender, context, SURVIVORS, key)


def reveal(context: RoundContext = CONTEXT, sender: int = 1, key: Identity = KEY) -> bytes:
    return wire.seal_reveal(BATCH, sender, dataclasses.replace(REVEAL, context=context), key)


Made = Callable[..., bytes]
Read = Callable[[bytes], object]
IN_SETUP: list[tuple[int, Made, Read]] = [
    (1, advert, lambda data: wire.open_advert(BATCH, 1, data)),
    (2, roots, lambda data: wire.open_roots(BATCH, 1, data, DIGEST)),
    (3, opened, lambda data: wire.open_opened(BATCH, 1, data)),
]
IN_A_SLOT: list[tuple[int, Made, Read]] = [
    (4, masked, lambda data: wire.open_masked(BATCH, 1, data, CONTEXT, 16)),
    (5, confirm, lambda data: wire.open_confirm(BATCH, 1, data, CONTEXT)),
    (6, reveal, lambda data: wire.open_reveal(BATCH, 1, data, CONTEXT)),
]
MESSAGES = IN_SETUP + IN_A_SLOT
each = pytest.mark.parametrize(("kind", "make", "read"), MESSAGES, ids=[make.__name__ for _, make, _ in MESSAGES])


def refused(read: Read, data: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        read(data)
    return caught.value


# ---- layout ----------------------------------------------------------------------------------------------------------


def test_what_was_sealed_is_what_is_read() -> None:
    assert wire.open_advert(BATCH, 1, advert()) == ADVERT
    assert wire.open_roots(BATCH, 1, roots(), DIGEST) == ROOTS
    assert wire.open_opened(BATCH, 1, opened()) == DIGEST
    read = wire.open_masked(BATCH, 1, masked(), CONTEXT, 16)
    assert (read.context, read.commitment, bytes(read.vector)) == (CONTEXT, COMMITMENT, VECTOR)
    assert wire.open_confirm(BATCH, 1, confirm(), CONTEXT) == wire.Confirm(CONTEXT, SURVIVORS)
    assert wire.open_reveal(BATCH, 1, reveal(), CONTEXT) == REVEAL


@each
def test_a_message_is_laid_out_as_documented(kind: int, make: Made, read: Read) -> None:
    fields = {
        "advert": ADVERT.channel + b"".join(ADVERT.masks),
        "roots": DIGEST + b"".join(ROOTS.caps) + b"".join(ROOTS.boxes),
        "opened": DIGEST,
        "masked": CONTEXT.encoded + COMMITMENT + sha256(VECTOR).digest(),
        "confirm": CONTEXT.encoded + BITMAP,
        "reveal": CONTEXT.encoded + BITMAP + b"".join(share + path for share, path in SHARES),
    }[make.__name__]
    context = BATCH.digest if kind <= 3 else CONTEXT.digest
    body = b"FSA1" + bytes([kind, 0, 1]) + context + fields
    data = make()
    after = VECTOR if make is masked else b""
    assert data[: len(body)] == body
    assert data[len(body) + 64 :] == after
    signature = data[len(body) : len(body) + 64]
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(KEY.public)).verify(signature, b"fedward/secagg\x00" + body)


@pytest.mark.parametrize("n", [3, 4, 8, 9, 16, 17, 200])
@pytest.mark.parametrize("slots", [1, 2, 3, 64])
def test_sizes_are_known_from_the_batch_alone(n: int, slots: int) -> None:
    batch = batch_of(n, slots=slots)
    path, bitmap, frame = 32 * max((2 * slots - 1).bit_length() - 2, 0), -(-n // 8), 39 + 64
    assert wire.advert_size(batch) == frame + 32 * (slots + 1)
    assert wire.roots_size(batch) == frame + 32 + (128 + 32) * n
    assert wire.box_size(batch) == 2 * slots * 33 + 16
    assert wire.confirm_size(batch) == frame + 106 + bitmap
    assert wire.reveal_size(batch) == frame + 106 + bitmap + n * (33 + path)
    assert wire.masked_size(10) == frame + 106 + 64 + 10


@given(st.integers(3, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_a_set_of_members_is_a_bitmap(case: tuple[int, set[int]]) -> None:
    n, members = case
    batch = batch_of(n)
    data = wire.encode_set(batch, frozenset(members))
    assert len(data) == -(-n // 8)
    assert {i for i in range(8 * len(data)) if data[i // 8] >> i % 8 & 1} == members
    assert wire.decode_set(batch, data, "") == members


@pytest.mark.parametrize("n", [3, 7, 9, 10, 15])
def test_survivors_that_are_not_in_the_cohort_are_refused(n: int) -> None:
    batch = batch_of(n)
    size = -(-n // 8)
    for bit in range(n, 8 * size):
        error = refused(lambda data: wire.decode_set(batch, data, "who"), (1 << bit).to_bytes(size, "little"))
        assert (error.code, error.blamed) == ("survivors-not-in-cohort", "who")


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_set_of_another_length_is_refused(size: int) -> None:
    error = refused(lambda data: wire.decode_set(BATCH, data, "who"), bytes(size))
    assert (error.code, error.blamed) == ("malformed", "who")


# ---- refusals by name ------------------------------------------------------------------------------------------------


@each
def test_a_message_of_another_length_is_malformed(kind: int, make: Made, read: Read) -> None:
    data = make()
    for wrong in (b"", data[:-1], data + b"\x00", data[1:], data * 2):
        error = refused(read, wrong)
        assert (error.code, error.blamed) == ("malformed", NAME)
        assert f"{len(wrong)} bytes" in str(error)


@each
def test_a_message_of_another_version_or_kind_is_malformed(kind: int, make: Made, read: Read) -> None:
    data = make()
    for wrong in (b"FSA2" + data[4:], data[:4] + bytes([kind % 6 + 1]) + data[5:], data[:4] + b"\x00" + data[5:]):
        assert (refused(read, wrong).code, refused(read, wrong).blamed) == ("malformed", NAME)


@each
def test_one_member_cannot_speak_for_another(kind: int, make: Made, read: Read) -> None:
    other = identity(BATCH.members[2])
    for signer in (other, KEY):
        error = refused(read, make(sender=2, key=signer))
        assert (error.code, error.blamed) == ("wrong-sender", NAME)
    forged = refused(read, make(key=other))
    assert forged.code == ("key-substituted" if kind == 1 else "bad-signature")


@each
def test_a_message_by_a_key_that_is_not_the_roster_s_is_refused(kind: int, make: Made, read: Read) -> None:
    error = refused(read, make(key=identity("mallory")))
    assert error.code == ("key-substituted" if kind == 1 else "bad-signature")
    assert (error.blamed, error.lie) == (NAME, True)


@each
def test_a_signature_for_another_purpose_is_refused(kind: int, make: Made, read: Read) -> None:
    data = bytearray(make())
    end = len(data) - len(VECTOR) if make is masked else len(data)
    data[end - 64 : end] = KEY.sign("message", bytes(data[: end - 64]))
    assert refused(read, bytes(data)).code in {"bad-signature", "key-substituted"}


@pytest.mark.parametrize(("kind", "make", "read"), IN_SETUP, ids=[make.__name__ for _, make, _ in IN_SETUP])
@pytest.mark.parametrize(
    "fields", [{"study": "6" * 64}, {"batch": "c" * 32}, {"threshold": 8}, {"quorum": 2}, {"withstands": 2}]
)
def test_a_replay_from_another_study_or_batch_is_refused(kind: int, make: Made, read: Read, fields: dict) -> None:
    error = refused(read, make(batch=dataclasses.replace(BATCH, **fields)))
    assert (error.code, error.blamed) == ("replayed", NAME)


@pytest.mark.parametrize(("kind", "make", "read"), IN_A_SLOT, ids=[make.__name__ for _, make, _ in IN_A_SLOT])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"setup": DIGEST}, "replayed"),
        ({"slot": 0}, "replayed"),
        ({"round": 3}, "replayed"),
        ({"attempt": 4}, "replayed"),
        ({"base": b"\x03" * 32}, "base-mismatch"),
        ({"terms": b"\x03" * 32}, "terms-mismatch"),
        ({"slot": 0, "base": b"\x03" * 32}, "replayed"),
    ],
)
def test_a_message_for_another_use_of_the_slot_is_refused_by_what_differs(
    kind: int, make: Made, read: Read, fields: dict, code: str
) -> None:
    error = refused(read, make(context=dataclasses.replace(CONTEXT, **fields)))
    assert (error.code, error.blamed) == (code, NAME)
    assert NAME in error.what


@pytest.mark.parametrize(("kind", "make", "read"), IN_A_SLOT, ids=[make.__name__ for _, make, _ in IN_A_SLOT])
def test_a_head_that_names_another_context_than_the_fields_is_malformed(kind: int, make: Made, read: Read) -> None:
    data = make()
    end = len(data) - len(VECTOR) if make is masked else len(data)
    body = data[:7] + DIGEST + data[39 : end - 64]
    error = refused(read, body + KEY.sign("secagg", body) + data[end:])
    assert (error.code, error.blamed) == ("malformed", NAME)


@pytest.mark.parametrize(("kind", "make", "read"), IN_A_SLOT, ids=[make.__name__ for _, make, _ in IN_A_SLOT])
@pytest.mark.parametrize("numbers", [(64, 1, 1), (65535, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_an_impossible_context_is_blamed_on_the_member_that_signed_it(
    kind: int, make: Made, read: Read, numbers: tuple[int, int, int]
) -> None:
    data = make()
    end = len(data) - len(VECTOR) if make is masked else len(data)
    encoded = data[39:71] + struct.pack(">HII", *numbers) + data[81:145]
    body = data[:7] + sha256(b"fedward round context\x00" + encoded).digest() + encoded + data[145 : end - 64]
    error = refused(read, body + KEY.sign("secagg", body) + data[end:])
    assert (error.code, error.blamed) == ("malformed", NAME)


@pytest.mark.parametrize(("kind", "make", "read"), IN_A_SLOT[1:], ids=["confirm", "reveal"])
def test_a_set_beyond_the_cohort_is_blamed_on_the_member_that_signed_it(kind: int, make: Made, read: Read) -> None:
    data = make()
    body = data[:145] + bytes([BITMAP[0], 0b111]) + data[147:-64]
    error = refused(read, body + KEY.sign("secagg", body))
    assert (error.code, error.blamed) == ("survivors-not-in-cohort", NAME)


def test_a_vector_damaged_in_transit_is_refused_and_named() -> None:
    data = masked()
    for at in range(len(data) - 16, len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        error = refused(lambda changed: wire.open_masked(BATCH, 1, changed, CONTEXT, 16), damaged)
        assert (error.code, error.blamed) == ("vector-damaged", NAME)


def test_roots_for_other_adverts_are_refused() -> None:
    error = refused(lambda data: wire.open_roots(BATCH, 1, data, COMMITMENT), roots())
    assert error.code == "adverts-unequal"


def test_what_was_passed_on_is_blamed_on_who_passed_it_on() -> None:
    """The name in a forged message is no evidence against its bearer."""
    forger = identity("mallory")
    for read, data in (
        (lambda data: wire.open_advert(BATCH, 1, data, COORDINATOR), advert(key=forger)),
        (lambda data: wire.open_roots(BATCH, 1, data, DIGEST, COORDINATOR), roots(key=forger)),
        (lambda data: wire.open_confirm(BATCH, 1, data, CONTEXT, COORDINATOR), confirm(key=forger)),
        (lambda data: wire.open_confirm(BATCH, 1, data[:-1], CONTEXT, COORDINATOR), confirm()),
    ):
        assert refused(read, data).blamed == COORDINATOR


def test_the_sender_is_read_from_a_whole_head_only() -> None:
    head = advert()[:39]
    assert wire.sender_of(head) == wire.sender_of(head + b"\x00") == 1
    assert wire.sender_of(head[:5] + b"\xff\xfe" + head[7:]) == 65534
    assert wire.sender_of(head[:-1]) is wire.sender_of(b"") is None


# ---- messages of the coordinator -------------------------------------------------------------------------------------


def test_the_coordinator_s_lists_come_apart_as_they_were_joined() -> None:
    adverts = [bytes([i]) * wire.advert_size(BATCH) for i in range(10)]
    signed = [bytes([i]) * wire.roots_size(BATCH) for i in range(10)]
    boxes = [bytes([i]) * wire.box_size(BATCH) for i in range(9)]
    assert wire.split_adverts(BATCH, b"".join(adverts)) == adverts
    assert wire.split_delivery(BATCH, wire.join_delivery(signed, boxes)) == (signed, boxes)
    assert wire.split_shares(BATCH, signed[3] + b"".join(boxes), "s") == (signed[3], boxes)


def test_a_request_to_confirm_is_the_context_s_digest_and_the_set() -> None:
    request = wire.survivors_message(BATCH, CONTEXT, SURVIVORS)
    assert request == CONTEXT.digest + BITMAP
    assert wire.open_survivors(BATCH, request) == (CONTEXT.digest, SURVIVORS)


def test_a_false_request_to_confirm_is_blamed_on_the_coordinator() -> None:
    request = wire.survivors_message(BATCH, CONTEXT, SURVIVORS)
    for wrong, code in (
        (b"", "malformed"),
        (request[:-1], "malformed"),
        (request + b"\x00", "malformed"),
        (request[:-1] + b"\x07", "survivors-not-in-cohort"),
    ):
        error = refused(lambda data: wire.open_survivors(BATCH, data), wrong)
        assert (error.code, error.blamed) == (code, COORDINATOR)


def signed_by(*members: int, survivors: frozenset[int] = SURVIVORS) -> bytes:
    confirms = [wire.seal_confirm(BATCH, i, CONTEXT, SURVIVORS, identity(BATCH.members[i])) for i in members]
    return wire.confirmations_message(BATCH, CONTEXT, survivors, confirms)


def test_a_request_to_unmask_is_the_set_and_its_signatures() -> None:
    request = signed_by(0, 1, 4)
    assert request[:36] == CONTEXT.digest + BITMAP + b"\x00\x03"
    digest, survivors, confirms = wire.open_confirmations(BATCH, request)
    assert (digest, survivors, [signer for signer, _ in confirms]) == (CONTEXT.digest, SURVIVORS, [0, 1, 4])
    assert b"".join(raw for _, raw in confirms) == request[36:]


def test_a_request_to_unmask_that_ends_before_its_signatures_is_refused() -> None:
    request = signed_by(0)
    for size in range(36):
        error = refused(lambda data: wire.open_confirmations(BATCH, data), request[:size])
        assert (error.code, error.blamed) == ("malformed", COORDINATOR)


@pytest.mark.parametrize("signers", [(0, 0), (1, 0), (0, 1, 1), (3,), (0, 3), (7, 8), (0, 1, 2, 4, 5, 6, 8, 9, 9)])
def test_signers_that_are_not_distinct_survivors_in_order_are_refused(signers: tuple[int, ...]) -> None:
    error = refused(lambda data: wire.open_confirmations(BATCH, data), signed_by(*signers))
    assert (error.code, error.blamed) == ("signers-not-distinct", COORDINATOR)


@pytest.mark.parametrize("signer", [10, 255, 65535])
def test_a_signer_beyond_the_cohort_is_refused(signer: int) -> None:
    request = bytearray(signed_by(0))
    request[36 + 5 : 36 + 7] = struct.pack(">H", signer)
    assert refused(lambda data: wire.open_confirmations(BATCH, data), bytes(request)).code == "signers-not-distinct"


@pytest.mark.parametrize("count", [0, 1, 3, 11, 65535])
def test_a_count_that_is_not_the_number_of_signatures_is_refused(count: int) -> None:
    request = bytearray(signed_by(0, 1))
    request[34:36] = struct.pack(">H", count)
    error = refused(lambda data: wire.open_confirmations(BATCH, data), bytes(request))
    assert (error.code, error.blamed) == ("malformed", COORDINATOR)
