"""The primitives give the standards' answers, and our bindings give what slow oracles give."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from cohort import BASE, TERMS, scripted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ctr, hkdf

from fedward.privacy.errors import InputError
from fedward.privacy.secagg import RoundContext
from fedward.privacy.secagg.derivations import commitment, key_leaf, pair_key, seed_leaf, self_key, subtracts
from fedward.privacy.secagg.keys import agree, close_box, derive, is_small_order, open_box, public_of
from fedward.privacy.secagg.masks import keystream
from fedward.privacy.signing import Identity

GOLDEN = Path(__file__).parents[2] / "golden" / "secagg_derivations.json"
CONTEXT = RoundContext(b"\x07" * 32, 3, 4, 5, BASE, TERMS)
keys = st.binary(min_size=32, max_size=32)
h = bytes.fromhex

# ---- X25519, RFC 7748 ------------------------------------------------------------------------------------------------

Q = 2**255 - 19


def ladder(scalar: int, u: int) -> tuple[int, int]:
    """The Montgomery ladder of RFC 7748, section 5: scalar times the point at u, as (x, z)."""
    x1, x2, z2, x3, z3 = u, 1, 0, u, 1
    for bit in reversed(range(scalar.bit_length())):
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a, b * b, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % Q, x1 * (da - cb) ** 2 % Q
        x2, z2 = aa * bb % Q, e * (aa + 121665 * e) % Q
        if scalar >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return x2 % Q, z2 % Q


def x25519(scalar: bytes, point: bytes) -> bytes:
    clamped = int.from_bytes(scalar, "little") & ~7 & (2**255 - 1) | 2**254
    x, z = ladder(clamped, int.from_bytes(point, "little") & (2**255 - 1))
    return (x * pow(z, Q - 2, Q) % Q).to_bytes(32, "little")


NINE = (9).to_bytes(32, "little")


@pytest.mark.parametrize(
    ("scalar", "point", "product"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_agreement_gives_the_products_of_rfc_7748(scalar: str, point: str, product: str) -> None:
    assert x25519(h(scalar), h(point)) == h(product)
    assert agree(X25519PrivateKey.from_private_bytes(h(scalar)), h(point)) == h(product)


def test_iterated_agreement_gives_the_results_of_rfc_7748() -> None:
    k = u = NINE
    for turn in range(1, 1001):
        k, u = agree(X25519PrivateKey.from_private_bytes(k), u), k
        if turn == 1:
            assert k == h("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
    assert k == h("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")


def test_two_parties_agree_as_in_rfc_7748() -> None:
    alice = h("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = h("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert public_of(alice) == h("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert public_of(bob) == h("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = h("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert agree(X25519PrivateKey.from_private_bytes(alice), public_of(bob)) == shared
    assert agree(X25519PrivateKey.from_private_bytes(bob), public_of(alice)) == shared


@settings(max_examples=15, deadline=None)
@given(keys)
def test_a_public_key_is_the_ladder_s(private: bytes) -> None:
    assert public_of(private) == public_of(bytearray(private)) == x25519(private, NINE)


# The curve has 8 times, its twist 4 times as many points as these primes say (RFC 7748, section 4.1; Bernstein 2006).
PRIMES = (2**252 + 27742317777372353535851937790883648493, 2**253 - 55484635554744707071703875581767296995)


def small_points() -> dict[int, int]:
    """The u of every point that 8 kills, with its order: what is left of many points times the large prime orders."""
    orders = {}
    for prime in PRIMES:
        for start in range(2, 60):
            x, z = ladder(prime, start)
            u = x * pow(z, Q - 2, Q) % Q
            killing = [order for order in (2, 4, 8) if z and ladder(order, u)[1] == 0]
            if killing:
                orders[u] = killing[0]
    return orders


SMALL = sorted(u + times * Q for u in small_points() for times in range(2) if u + times * Q < 2**255)


def test_the_small_points_are_as_many_as_the_curve_and_its_twist_have() -> None:
    # 8 points in a cycle: beside the neutral element one u of order 2, one of 4, two of 8. The twist's 4: u = 0 again, one.
    assert sorted(small_points().values()) == [2, 4, 4, 8, 8]
    assert {0, 1, Q - 1, Q, Q + 1} < set(SMALL)
    assert len(SMALL) == 7


@pytest.mark.parametrize("high_bit", [0, 1])
@pytest.mark.parametrize("u", SMALL)
def test_every_encoding_of_a_small_point_is_refused(u: int, high_bit: int) -> None:
    public = (u | high_bit << 255).to_bytes(32, "little")
    private = X25519PrivateKey.generate()
    assert is_small_order(public)
    with pytest.raises(ValueError, match=r"(?i)computing shared key"):
        private.exchange(X25519PublicKey.from_public_bytes(public))
    with pytest.raises(InputError, match="public key"):
        agree(private, public)


@settings(max_examples=100, deadline=None)
@given(st.one_of(keys, st.sampled_from([u + d for u in SMALL for d in (-1, 1)]).map(lambda u: u % 2**255)))
def test_is_small_order_refuses_what_cryptography_refuses_and_nothing_else(key: bytes | int) -> None:
    public = key if isinstance(key, bytes) else key.to_bytes(32, "little")
    try:
        agree(X25519PrivateKey.generate(), public)
        small = False
    except InputError:
        small = True
    assert is_small_order(public) == small


@pytest.mark.parametrize("size", [0, 31, 33])
def test_what_is_no_public_key_is_not_agreed_with(size: int) -> None:
    with pytest.raises(InputError):
        agree(X25519PrivateKey.generate(), bytes(size))


# ---- Ed25519, RFC 8032 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_signatures_are_those_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(h(secret))
    assert key.sign(h(message)) == h(signature)
    identity = Identity(key)
    assert identity.public == public
    framed = b"fedward/secagg\x00" + h(message)
    assert identity.sign("secagg", h(message)) == key.sign(framed)
    Ed25519PublicKey.from_public_bytes(h(public)).verify(identity.sign("secagg", h(message)), framed)


# ---- HKDF-SHA-256, RFC 5869 ------------------------------------------------------------------------------------------


def test_key_derivation_gives_the_third_case_of_rfc_5869() -> None:
    expected = h("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")
    assert HKDF(SHA256(), 42, None, b"").derive(b"\x0b" * 22) == expected
    assert hkdf(b"\x0b" * 22, b"", 42) == expected


@settings(max_examples=100)
@given(secret=st.binary(min_size=1, max_size=64), purpose=st.binary(max_size=20), context=st.binary(max_size=150))
def test_a_derived_key_is_hkdf_over_purpose_and_context(secret: bytes, purpose: bytes, context: bytes) -> None:
    expected = hkdf(secret, b"fedward secagg 1 " + purpose + b"\x00" + context)
    assert derive(secret, purpose, context) == derive(bytearray(secret), purpose, context) == expected


# ---- AES-256-CTR, NIST SP 800-38A ------------------------------------------------------------------------------------

AES_KEY = h("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
PLAIN = h(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)


def test_the_bare_cipher_gives_case_f_1_5() -> None:
    assert ctr(AES_KEY, 16, int.from_bytes(PLAIN[:16], "big")) == h("f3eed1bdb5d2a03c064b5a7e3db181f8")


def test_counter_mode_gives_case_f_5_5() -> None:
    first = h("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    expected = h(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    assert Cipher(algorithms.AES(AES_KEY), modes.CTR(first)).encryptor().update(PLAIN) == expected
    stream = ctr(AES_KEY, 64, int.from_bytes(first, "big"))
    assert bytes(a ^ b for a, b in zip(PLAIN, stream, strict=True)) == expected


@settings(max_examples=50)
@given(key=keys, sizes=st.lists(st.integers(0, 100), max_size=6))
def test_a_keystream_counts_from_zero_and_goes_on_where_it_was(key: bytes, sizes: list[int]) -> None:
    stream = keystream(key)
    assert b"".join(stream.update(bytes(size)) for size in sizes) == ctr(key, sum(sizes))


# ---- AES-256-GCM -----------------------------------------------------------------------------------------------------


def test_boxes_are_of_the_cipher_of_nist_s_cases() -> None:
    # "The Galois/Counter Mode of Operation", test case 16.
    key = h("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
    plain = h(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    expected = h(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"
    )
    sealed = AESGCM(key).encrypt(h("cafebabefacedbaddecaf888"), plain, h("feedfacedeadbeeffeedfacedeadbeefabaddad2"))
    assert sealed == expected
    # Test case 14 has the nonce of our boxes.
    assert close_box(bytes(32), bytes(16), b"") == h("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")


@settings(max_examples=60, deadline=None)
@given(key=keys, content=st.binary(max_size=100), context=st.binary(max_size=70), other=st.binary(max_size=70))
def test_a_box_opens_in_its_own_context_only(key: bytes, content: bytes, context: bytes, other: bytes) -> None:
    box = close_box(key, content, context)
    assert len(box) == len(content) + 16
    assert open_box(key, box, context) == content
    if other != context:
        with pytest.raises(InputError, match="box"):
            open_box(key, box, other)


def test_no_changed_box_and_no_other_key_opens_it() -> None:
    key, context = scripted("key")(32), b"context"
    box = close_box(key, b"content", context)
    for bit in range(8 * len(box)):
        changed = bytearray(box)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InputError, match="box"):
            open_box(key, bytes(changed), context)
    for cut in range(len(box)):
        with pytest.raises(InputError, match="box"):
            open_box(key, box[:cut], context)
    with pytest.raises(InputError, match="box"):
        open_box(scripted("other")(32), box, context)


# ---- what both sides derive ------------------------------------------------------------------------------------------


def calculated() -> dict[str, str]:
    """Every derivation of one slot by the oracles above: nothing of the package is used but the context's bytes."""
    one, two, seed = (scripted(name)(32) for name in ("one", "two", "seed"))
    encoded = struct.pack(">HII", 3, 4, 5)
    digest = hashlib.sha256(b"fedward round context\x00" + b"\x07" * 32 + encoded + BASE + TERMS).digest()
    pair = hkdf(x25519(one, x25519(two, NINE)), b"fedward secagg 1 pairwise mask\x00" + digest + b"\x00\x02\x00\x0b")
    own = hkdf(seed, b"fedward secagg 1 self mask\x00" + digest + b"\x00\x02")
    committed = hashlib.sha256(b"fedward seed\x00" + digest + b"\x00\x02" + seed).digest()
    masks = {"pair_mask": ctr(pair, 48), "self_mask": ctr(own, 48)}
    values = {"context": digest, "pair_key": pair, "self_key": own, "commitment": committed, **masks}
    return {name: value.hex() for name, value in values.items()}


def test_derivations_are_the_golden_ones() -> None:
    golden = json.loads(GOLDEN.read_text())["values"]
    assert calculated() == golden
    one, two, seed = (scripted(name)(32) for name in ("one", "two", "seed"))
    pair = pair_key(X25519PrivateKey.from_private_bytes(one), public_of(two), CONTEXT, 2, 11)
    own = self_key(seed, CONTEXT, 2)
    assert {
        "context": CONTEXT.digest.hex(),
        "pair_key": pair.hex(),
        "self_key": own.hex(),
        "commitment": commitment(seed, CONTEXT, 2).hex(),
        "pair_mask": keystream(pair).update(bytes(48)).hex(),
        "self_mask": keystream(own).update(bytes(48)).hex(),
    } == golden


@settings(max_examples=25, deadline=None)
@given(one=keys, two=keys, pair=st.lists(st.integers(0, 199), min_size=2, max_size=2, unique=True))
def test_a_pair_derives_one_key_and_opposite_signs(one: bytes, two: bytes, pair: list[int]) -> None:
    i, j = pair
    own = pair_key(X25519PrivateKey.from_private_bytes(one), public_of(two), CONTEXT, i, j)
    assert own == pair_key(X25519PrivateKey.from_private_bytes(two), public_of(one), CONTEXT, j, i)
    assert {subtracts(i, j), subtracts(j, i)} == {True, False}
    assert subtracts(i, j) == (j < i)


def test_no_two_derivations_of_a_slot_give_the_same_key() -> None:
    secret = scripted("secret")(32)
    private, public = X25519PrivateKey.from_private_bytes(secret), public_of(scripted("peer")(32))
    other = RoundContext(CONTEXT.setup, CONTEXT.slot + 1, CONTEXT.round, CONTEXT.attempt, BASE, TERMS)
    made = [
        make
        for context in (CONTEXT, other)
        for make in (
            *(self_key(secret, context, i) for i in range(5)),
            *(commitment(secret, context, i) for i in range(5)),
            *(pair_key(private, public, context, i, j) for i in range(5) for j in range(i + 1, 5)),
        )
    ]
    assert len(set(made)) == len(made)


def test_each_slot_has_two_leaves_of_its_own() -> None:
    leaves = [leaf for slot in range(64) for leaf in (seed_leaf(slot), key_leaf(slot))]
    assert leaves == list(range(128))


if __name__ == "__main__":
    about = "One slot's derivations by HMAC, a Montgomery ladder and the bare AES; see calculated() in test_known_answers.py."
    GOLDEN.write_text(json.dumps({"about": about, "values": calculated()}, indent=1) + "\n")
