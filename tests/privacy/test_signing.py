"""Signatures: by one key, over these bytes, for one purpose. Anything else does not hold."""

from __future__ import annotations

import hashlib
from typing import get_args

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.errors import IntegrityError
from fedward.privacy.signing import SIGNATURE_BYTES, Identity, Purpose, fingerprint, from_text, to_text, verify

ALICE, BOB = Identity.generate(), Identity.generate()
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

# RFC 8032, section 7.1, test 1
RFC_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_a_key_of_the_standard_has_the_standard_s_public_key() -> None:
    assert Identity(Ed25519PrivateKey.from_private_bytes(RFC_SECRET)).public == RFC_PUBLIC


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=100), purpose=st.sampled_from(PURPOSES))
def test_a_signature_holds_for_its_key_data_and_purpose_only(data: bytes, purpose: Purpose) -> None:
    signature = ALICE.sign(purpose, data)
    assert len(signature) == SIGNATURE_BYTES
    verify(ALICE.public, purpose, data, signature, "it")
    others = [(BOB.public, purpose, data), (ALICE.public, purpose, data + b"\0")]
    others += [(ALICE.public, other, data) for other in PURPOSES if other != purpose]
    for public, other, changed in others:
        with pytest.raises(IntegrityError) as caught:
            verify(public, other, changed, signature, "it")
        assert caught.value.code == "bad-signature"


def test_the_signed_bytes_are_those_that_the_documentation_says() -> None:
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(ALICE.public))
    public.verify(ALICE.sign("kit", b"data"), b"fedward/kit\x00data")


def test_no_purpose_s_frame_can_begin_another_s() -> None:
    frames = [b"fedward/" + purpose.encode() + b"\x00" for purpose in PURPOSES]
    assert not any(a != b and a.startswith(b) for a in frames for b in frames)


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    signature = ALICE.sign("message", b"data")
    for bit in range(8 * SIGNATURE_BYTES):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            verify(ALICE.public, "message", b"data", bytes(changed), "it")


@pytest.mark.parametrize(
    "public",
    ["", "zz" * 32, "00" * 31, "00" * 33, ALICE.public.upper() + "0", "ff" * 32],
    ids=["empty", "no hex", "short", "zeros and one more", "a key and one more", "no point"],
)
def test_what_is_no_key_verifies_nothing(public: str) -> None:
    with pytest.raises(IntegrityError):
        verify(public, "message", b"data", ALICE.sign("message", b"data"), "it")


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)])
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(IntegrityError):
        verify(ALICE.public, "message", b"data", signature, "it")


def test_a_key_comes_back_from_its_pem() -> None:
    again = Identity.from_pem(ALICE.pem())
    assert again.public == ALICE.public
    verify(ALICE.public, "kit", b"x", again.sign("kit", b"x"), "it")


def encrypted() -> bytes:
    best = serialization.BestAvailableEncryption(b"secret")
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, best
    )


def elliptic() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "pem",
    [b"", b"no key", ALICE.pem()[:60], encrypted(), elliptic()],
    ids=["empty", "no key", "cut", "encrypted", "elliptic"],
)
def test_a_file_that_is_no_identity_is_refused(pem: bytes) -> None:
    with pytest.raises(IntegrityError, match="identity key"):
        Identity.from_pem(pem)


def test_an_identity_shows_no_secret() -> None:
    secret = b"".join(ALICE.pem().splitlines()[1:-1]).decode()
    assert secret not in repr(ALICE) + str(ALICE) + repr(vars(ALICE))


def test_a_fingerprint_is_half_the_key_s_sha256_in_groups() -> None:
    expected = hashlib.sha256(bytes.fromhex(RFC_PUBLIC)).hexdigest()[:32]
    assert fingerprint(RFC_PUBLIC).replace("-", "") == expected
    assert [len(part) for part in fingerprint(RFC_PUBLIC).split("-")] == [4] * 8
    assert fingerprint("not hex") == "(no key)"


@given(data=st.binary(max_size=80))
def test_bytes_come_back_from_text(data: bytes) -> None:
    assert from_text(to_text(data), "it") == data


@pytest.mark.parametrize("text", ["a", "a b=", "é===", "AAAA\n", "=AAA"])
def test_text_that_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        from_text(text, "the signature")
