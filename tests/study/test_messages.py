"""Messages on the wire: what was packed comes back equal; anything else is refused before it is believed."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, RefusalError
from fedward.privacy.signing import SIGNATURE_BYTES, Identity
from fedward.study import messages as module
from fedward.study.codes import CODES
from fedward.study.messages import (
    Declare,
    Declared,
    Offer,
    Refusal,
    Reply,
    Request,
    Result,
    Standing,
    Work,
    counts_from_bytes,
    counts_to_bytes,
    floats_from_bytes,
    floats_to_bytes,
    open_reply,
    open_request,
    pack,
)
from fedward.study.versions import PROTOCOL

SIGNER = Identity.generate()
OTHER = Identity.generate()

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
counts = st.integers(0, 2**53 - 1)
rounds = st.integers(1, 10_001)
attempts = st.integers(1, 1_000_000)
requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(Declare, study_id=names, nonce=digests),
    st.builds(Offer, study=digests, nonce=digests, signature=st.text("abcXYZ+/=", max_size=100)),
    st.builds(
        Work,
        study=digests,
        round=rounds,
        attempt=attempts,
        base=digests,
        dimension=st.integers(1, 200_000_000),
        train=st.booleans(),
        evaluate=st.booleans(),
    ),
)
replies: st.SearchStrategy[Reply] = st.one_of(
    st.builds(
        Declared, site=names, request=digests, study_id=names, patients=counts, noise_multiplier=st.floats(0, 1e4)
    ),
    st.builds(
        Standing,
        site=names,
        request=digests,
        study=digests,
        state=st.sampled_from(["pending", "approved", "refused", "revoked", "expired", "withdrawn"]),
        at=counts,
    ),
    st.builds(
        Result,
        site=names,
        request=digests,
        study=digests,
        round=rounds,
        attempt=attempts,
        base=digests,
        update_values=counts,
        histogram_values=counts,
    ),
    st.builds(
        Refusal,
        site=names,
        request=digests,
        code=st.sampled_from(sorted(CODES)),
        reference=st.text("0123456789abcdef", min_size=12, max_size=12),
    ),
)
bodies = st.binary(max_size=200)

WORK = Work(
    study="1" * 64, round=2, attempt=3, base="2" * 64, dimension=4, train=True, evaluate=False
)  # the tests below change its header's fields one by one


def frame(header: bytes, body: bytes = b"", signer: Identity = SIGNER) -> bytes:
    """A rightly signed message around any header: what a party with a key could send."""
    framed = b"FWD1" + struct.pack(">I", len(header)) + header + body
    return framed + signer.sign("message", framed)


def header(body: bytes = b"", **changes: object) -> dict[str, Any]:
    return WORK.model_dump(mode="json") | {"body_sha256": digest(body)} | changes


@settings(max_examples=100, deadline=None)
@given(message=requests, body=bodies)
def test_a_request_comes_back_equal(message: Request, body: bytes) -> None:
    got, got_body = open_request(pack(message, body, SIGNER), SIGNER.public)
    assert got == message.model_copy(update={"body_sha256": digest(body)})
    assert got_body == body


@settings(max_examples=100, deadline=None)
@given(message=replies, body=bodies)
def test_a_reply_comes_back_equal(message: Reply, body: bytes) -> None:
    got, got_body = open_reply(pack(message, body, SIGNER), SIGNER.public)
    assert got == message.model_copy(update={"body_sha256": digest(body)})
    assert got_body == body


def test_every_single_bit_that_flips_is_refused() -> None:
    data = pack(WORK, b"four", SIGNER)
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(FedwardError):
            open_request(bytes(changed), SIGNER.public)


def test_every_truncation_and_extension_is_refused() -> None:
    data = pack(WORK, b"four", SIGNER)
    for cut in [*(data[:n] for n in range(len(data))), data + b"\0", b"\0" + data, data + data]:
        with pytest.raises(FedwardError):
            open_request(cut, SIGNER.public)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_header_that_is_changed_and_signed_again_is_refused_or_canonical(place: int, byte: int) -> None:
    """Even a sender with a key can write each message in one way only."""
    raw = bytearray(canonical_json(header(b"four")))
    raw[place % len(raw)] = byte
    data = frame(bytes(raw), b"four")
    try:
        got, body = open_request(data, SIGNER.public)
    except FedwardError as error:
        found, again = error.code, b""
    else:
        found, again = "", pack(got, body, SIGNER)
    assert found in {"malformed", "version-mismatch"} or again == data


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "result"},
        {"kind": "obey"},
        {"extra": 1},
        {"round": 0},
        {"round": 10_002},
        {"round": 2.0},
        {"round": "2"},
        {"round": True},
        {"round": None},
        {"attempt": 0},
        {"attempt": 1_000_001},
        {"dimension": 0},
        {"dimension": 200_000_001},
        {"dimension": 10**400},
        {"train": 1},
        {"train": "true"},
        {"study": "A" * 64},
        {"study": "1" * 63},
        {"study": "1" * 64 + "\n"},
        {"base": None},
        {"protocol": "1"},
        {"protocol": 1.0},
        {"protocol": True},
        {"protocol": None},
    ],
)
def test_a_signed_header_with_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        open_request(
            frame(json.dumps(header() | change, sort_keys=True, separators=(",", ":")).encode()), SIGNER.public
        )
    assert caught.value.code == "malformed"


@pytest.mark.parametrize("protocol", [PROTOCOL + 1, PROTOCOL - 1, 0, 2**40])
def test_another_protocol_is_told_by_name_whatever_else_its_header_says(protocol: int) -> None:
    """A newer wheel's message may have fields that nobody here knows; a reply is told as well as a request."""
    raw = canonical_json({"protocol": protocol, "kind": "dance", "with": ["anyone"]})
    for open_ in (open_request, open_reply):
        with pytest.raises(RefusalError) as refused:
            open_(frame(raw), SIGNER.public)
        assert refused.value.code == "version-mismatch"
    with pytest.raises(IntegrityError):  # nobody but the other side is believed to be of another version
        open_request(frame(raw), OTHER.public)


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(header()).encode(),
        canonical_json(header())[:-1] + b',"round":3}',
        canonical_json(header()).replace(b'"work"', rb'"w\u006frk"'),
        canonical_json(header()) + b" ",
        b"",
        b"null",
        b"[]",
        b"[" * 60_000,
        b"\xff" * 20,
    ],
    ids=["spaces", "double-key", "escape", "tail", "empty", "null", "list", "deep", "no-utf8"],
)
def test_a_header_that_is_not_canonical_is_refused(raw: bytes) -> None:
    with pytest.raises(InputError) as caught:
        open_request(frame(raw), SIGNER.public)
    assert caught.value.code == "malformed"


def test_a_missing_field_is_refused_and_never_given_its_default() -> None:
    short = header()
    del short["body_sha256"]
    with pytest.raises(InputError, match="not canonical"):
        open_request(frame(canonical_json(short)), SIGNER.public)


def test_a_body_that_the_header_does_not_name_is_refused() -> None:
    with pytest.raises(IntegrityError, match="body"):
        open_request(frame(canonical_json(header(b"four")), b"five"), SIGNER.public)


def test_a_message_by_another_key_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        open_request(pack(WORK, b"", OTHER), SIGNER.public)
    assert caught.value.code == "bad-signature"


def test_a_signature_for_another_purpose_is_refused() -> None:
    framed = pack(WORK, b"", SIGNER)[:-SIGNATURE_BYTES]
    with pytest.raises(IntegrityError):
        open_request(framed + SIGNER.sign("manifest", framed), SIGNER.public)


def test_a_request_is_no_reply_and_a_reply_no_request() -> None:
    reply = Refusal(site="a", request="1" * 64, code="not-approved", reference="0" * 12)
    with pytest.raises(InputError):
        open_reply(pack(WORK, b"", SIGNER), SIGNER.public)
    with pytest.raises(InputError):
        open_request(pack(reply, b"", SIGNER), SIGNER.public)


def test_a_refusal_has_no_room_for_text() -> None:
    for code in ("patient 4711", "Patient", "a" * 49, "", "smith", "not-approved-4711"):
        with pytest.raises(ValueError, match="code"):
            Refusal(site="a", request="1" * 64, code=code, reference="0" * 12)
    with pytest.raises(ValueError, match="reference"):
        Refusal(site="a", request="1" * 64, code="not-approved", reference="john smith 1")


def test_a_reply_with_a_code_that_is_not_on_the_list_is_refused() -> None:
    fields = {"kind": "refusal", "site": "a", "request": "1" * 64, "blames": "", "reference": "0" * 12,
              "protocol": PROTOCOL}  # fmt: skip
    for code, accepted in (("not-approved", True), ("smith-4711", False)):
        data = frame(canonical_json(fields | {"code": code, "body_sha256": digest(b"")}))
        if accepted:
            assert open_reply(data, SIGNER.public)[0].kind == "refusal"
        else:
            with pytest.raises(InputError, match="code"):
                open_reply(data, SIGNER.public)


def test_an_oversize_message_is_refused_before_anything_is_done_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack(WORK, bytes(1000), SIGNER)
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", len(data))
    assert open_request(data, SIGNER.public)[1] == bytes(1000)
    assert len(pack(WORK, bytes(1000), SIGNER)) == len(data)  # the largest that can be sent can be opened
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", len(data) - 1)
    monkeypatch.setattr(module, "verify", lambda *_: pytest.fail("looked at"))
    with pytest.raises(InputError, match="too large"):
        open_request(data, SIGNER.public)
    with pytest.raises(InputError, match="too large to send"):
        pack(WORK, bytes(1000), SIGNER)


@pytest.mark.parametrize("length", [2**32 - 1, 65_537, 10_000])
def test_a_false_header_length_is_refused(length: int) -> None:
    data = bytearray(pack(WORK, b"", SIGNER))
    data[4:8] = struct.pack(">I", length)
    with pytest.raises(InputError, match="header length is false"):
        open_request(bytes(data), SIGNER.public)


# --- numbers ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=50))
def test_floats_come_back_bit_for_bit(values: list[float]) -> None:
    vector = np.array(values, dtype=np.float32)
    data = floats_to_bytes(vector)
    assert data == struct.pack(f"<{len(values)}f", *values)
    assert floats_from_bytes(data, len(values), "x").tobytes() == vector.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_number_that_is_not_finite_is_refused(bad: float, place: int) -> None:
    vector = np.zeros(3, dtype=np.float32)
    vector[place] = bad
    with pytest.raises(InputError) as caught:
        floats_from_bytes(vector.tobytes(), 3, "the update")
    assert caught.value.code == "not-finite"


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_vector_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(InputError) as caught:
        floats_from_bytes(bytes(size), 3, "the update")
    assert caught.value.code == "wrong-shape"


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(0, 2**63 - 1), min_size=6, max_size=6))
def test_counts_come_back_row_by_row(values: list[int]) -> None:
    counts = np.array(values, dtype=np.int64).reshape(1, 3, 2)
    data = counts_to_bytes(counts)
    assert data == struct.pack("<6q", *values)
    assert np.array_equal(counts_from_bytes(data, (1, 3, 2)), counts)
    # A transposed view has the same bytes in memory, but not row by row.
    assert counts_to_bytes(counts.T) == struct.pack("<6q", *counts.T.reshape(-1).tolist())


@pytest.mark.parametrize(
    ("data", "code"),
    [(bytes(47), "wrong-shape"), (bytes(56), "wrong-shape"), (struct.pack("<6q", 0, 0, -1, 0, 0, 0), "out-of-bounds")],
)
def test_counts_of_another_size_or_below_zero_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(InputError) as caught:
        counts_from_bytes(data, (1, 3, 2))
    assert caught.value.code == code
