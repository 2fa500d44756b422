"""What strangers send: any bytes whatever are refused by name, and nothing but a FedwardError ever comes out of a parser.

Half of the changes are made to bytes, as a network or a stranger would; the other half is made to the meaning and then
written canonically and signed again, as a party with a key of its own would. FEDWARD_FUZZ_EXAMPLES says
how many examples each parser gets.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import FedwardError
from fedward.privacy.signing import Identity
from fedward.study.heart import SITES, heart_folder
from fedward.study.manifest import RosterEntry, SealedManifest, load, parse_sealed
from fedward.study.messages import (
    Checkpoint,
    Checkpointed,
    Declare,
    Declared,
    Offer,
    Refusal,
    Reply,
    Request,
    Result,
    Standing,
    Work,
    open_reply,
    open_request,
    pack,
)

pytestmark = [pytest.mark.prove, pytest.mark.timeout(7200)]

EXAMPLES = int(os.environ.get("FEDWARD_FUZZ_EXAMPLES", "100000"))
SIGNER = Identity.generate()
ONE, TWO = "1" * 64, "2" * 64

REQUESTS: list[Request] = [
    Declare(study_id="heart", nonce=ONE),
    Offer(study=ONE, nonce=TWO, signature="abc="),
    Checkpoint(nonce=ONE, known=3),
    Work(study=ONE, round=2, attempt=3, base=TWO, dimension=4, train=True, evaluate=False),
]
REPLIES: list[Reply] = [
    Declared(site="va", request=ONE, study_id="heart", patients=200, noise_multiplier=2.5),
    Standing(site="va", request=ONE, study=TWO, state="approved", at=1),
    Checkpointed(site="va", request=ONE, checkpoint="a\nb\n", proof=(ONE, TWO), seen=4, cosignature="c"),
    Result(site="va", request=ONE, study=TWO, round=2, attempt=3, base=ONE, update_values=4, histogram_values=0),
    Refusal(site="va", request=ONE, code="not-approved", reference="0" * 12),
]

fuzzed = settings(
    max_examples=EXAMPLES // 2, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)

# ---- changes of bytes ------------------------------------------------------------------------------------------------

places = st.floats(0, 1, exclude_max=True)
"""Where, as a share of the length: so that a smaller input shrinks to a similar place."""

# Bytes that mean something to one of the layers: framing, JSON, UTF-8, numbers.
TOKENS = [
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"[" * 2000,
    b'{"a":' * 2000, b"null", b"true", b"NaN", b"Infinity", b"-0", b"1e999", b"9" * 5000, b"1.0", b" ", b"\n",
    b"FWD1", struct.pack(">I", 0), struct.pack(">I", 2**32 - 1), struct.pack(">I", 65_536),
]  # fmt: skip
pieces = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=20))
byte_changes = st.lists(
    st.tuples(st.sampled_from(["flip", "insert", "overwrite", "delete", "repeat", "cut"]), places, places, pieces),
    min_size=1,
    max_size=6,
)


def change_bytes(data: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    changed = bytearray(data)
    for kind, first, second, piece in changes:
        start = int(first * (len(changed) + 1))
        end = min(len(changed), start + 1 + int(second * 16))
        if kind == "flip" and start < len(changed):
            changed[start] ^= 1 << int(second * 8)
        elif kind == "insert":
            changed[start:start] = piece
        elif kind == "overwrite":
            changed[start : start + len(piece)] = piece
        elif kind == "delete":
            del changed[start:end]
        elif kind == "repeat":
            changed[start:start] = changed[start:end]
        elif kind == "cut":
            del changed[start:]
    return bytes(changed)


# ---- changes of meaning ----------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**400)]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 5e-324, 1.7976931348623157e308]),
    st.text(max_size=8),
    st.sampled_from(["", "\0", "a\n", "é", "\u202e", "\U0001f600", "A" * 64, "1" * 64 + "\n", "va", "x" * 10_000]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
meaning_changes = st.lists(
    st.tuples(st.sampled_from(["set", "remove", "add", "swap", "nest"]), places, places, values), min_size=1, max_size=3
)


def _slots(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a JSON value, as (container, key)."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [slot for key in keys for slot in [(value, key), *_slots(value[key])]]


def change_meaning(value: Any, changes: list[tuple[str, float, float, Any]]) -> Any:
    value = json.loads(json.dumps(value))
    for kind, first, second, new in changes:
        slots = _slots(value)
        if not slots:
            return new
        container, key = slots[int(first * len(slots))]
        if kind == "set":
            container[key] = new
        elif kind == "remove":
            del container[key]
        elif kind == "nest":
            container[key] = [container[key]]
        elif kind == "swap":
            other, place = slots[int(second * len(slots))]
            container[key], other[place] = json.loads(json.dumps([other[place], container[key]]))
        elif isinstance(container, dict):
            container[f"{key}x"] = new
        else:
            container.append(new)
    return value


def framed(header: bytes, body: bytes) -> bytes:
    signed = b"FWD1" + struct.pack(">I", len(header)) + header + body
    return signed + SIGNER.sign("message", signed)


# ---- messages --------------------------------------------------------------------------------------------------------

Open = Callable[[bytes, str], tuple[Any, bytes]]


def check_message(open_: Open, data: bytes) -> None:
    """A message is refused with a FedwardError, or it is one that its sender could have packed."""
    try:
        message, body = open_(data, SIGNER.public)
    except FedwardError as error:
        event(f"refused: {error.code}")
        return
    event("accepted")
    assert pack(message, body, SIGNER) == data


@pytest.mark.parametrize(
    ("open_", "samples"), [(open_request, REQUESTS), (open_reply, REPLIES)], ids=["request", "reply"]
)
def test_changed_bytes_of_a_message(open_: Open, samples: list[Any]) -> None:
    @fuzzed
    @given(st.sampled_from(samples), st.binary(max_size=40), byte_changes)
    def check(sample: Any, body: bytes, changes: list[tuple[str, float, float, bytes]]) -> None:
        check_message(open_, change_bytes(pack(sample, body, SIGNER), changes))

    check()


@pytest.mark.parametrize(
    ("open_", "samples"), [(open_request, REQUESTS), (open_reply, REPLIES)], ids=["request", "reply"]
)
def test_a_changed_message_that_is_signed_again(open_: Open, samples: list[Any]) -> None:
    @fuzzed
    @given(st.sampled_from(samples), st.binary(max_size=40), st.one_of(byte_changes, meaning_changes))
    def check(sample: Any, body: bytes, changes: Any) -> None:
        header = sample.model_dump(mode="json") | {"body_sha256": digest(body)}
        if changes[0][0] in {"set", "remove", "add", "swap", "nest"}:
            raw = canonical_json(change_meaning(header, changes))
        else:
            raw = change_bytes(canonical_json(header), changes)
        check_message(open_, framed(raw, body))

    check()


# ---- the sealed manifest ---------------------------------------------------------------------------------------------


def _sealed() -> SealedManifest:
    return SealedManifest(
        manifest=load(heart_folder() / "study.toml"),
        federation_id="0" * 32,
        coordinator_key=ONE,
        roster=tuple(
            RosterEntry(site=site, identity_key=f"{number}" * 64, declared_patients=100, noise_multiplier=2.0)
            for number, site in enumerate(SITES)
        ),
        sealed_at=1,
        expires_at=2,
    )


def check_sealed(data: bytes) -> None:
    try:
        sealed = parse_sealed(data)
    except FedwardError as error:
        event(f"refused: {type(error).__name__}")
        return
    event("accepted")
    assert sealed.canonical == data
    assert parse_sealed(sealed.canonical) == sealed


def test_changed_bytes_of_a_sealed_manifest() -> None:
    whole = _sealed().canonical
    assert parse_sealed(whole)

    @fuzzed
    @given(byte_changes)
    def check(changes: list[tuple[str, float, float, bytes]]) -> None:
        check_sealed(change_bytes(whole, changes))

    check()


def test_a_sealed_manifest_of_another_meaning() -> None:
    whole = json.loads(_sealed().canonical)

    @fuzzed
    @given(meaning_changes)
    def check(changes: list[tuple[str, float, float, Any]]) -> None:
        check_sealed(canonical_json(change_meaning(whole, changes)))

    check()
