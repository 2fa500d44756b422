"""Three sites' whole exchange, frozen: any change of a byte on the wire shows here. And what `cryptography`, `hashlib` and
arithmetic alone make of it: the signatures, SetupHash, the masks and the two sums, without a line of the package.
"""

from __future__ import annotations

import json
import struct
from functools import cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohort import BASE, NAME, STUDY, Cohort, batch_of, identity, scripted, sites_of
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from oracles import hkdf, words

from fedward.privacy.secagg import BatchSetup, Block, RingTerms, RoundContext, SlotSum

GOLDEN = Path(__file__).parents[2] / "golden" / "secagg_transcript.json"
SITES = ("s000", "s001", "s002")
K = 4
SLOTS = ({"bits": 32, "length": 5}, {"bits": 64, "length": 3})
VALUES = (
    ([1, -2, 300, -40_000, 715_827_882], [5, 6, -7, 8, -9], [0, -1, 2, -3, 4]),
    ([10**15, -(10**15), 0], [1, 2, 3], [-(4 * 10**15), 4 * 10**15, 17]),
)
SUMS = ([6, 3, 295, -39_995, 715_827_877], [-3 * 10**15 + 1, 3 * 10**15 + 2, 20])
P = 2**256 + 297


def terms_of(bits: int, length: int) -> RingTerms:
    most = (2**31 - 1) // 3 if bits == 32 else 2**52
    return RingTerms(bits, 3, (Block("update", length, most),), b"outer")


@cache
def played() -> dict[str, Any]:
    """The exchange as it goes over the wire, in hex."""
    batch = batch_of(3, slots=K)
    parties, setup = sites_of(batch, "golden"), BatchSetup(batch)
    adverts = [party.advertise() for party in parties]
    for site, data in zip(SITES, adverts, strict=True):
        setup.advertised(site, data)
    shares = [party.share(setup.adverts()) for party in parties]
    for site, data in zip(SITES, shares, strict=True):
        setup.shared(site, data)
    deliveries = [setup.delivery(site) for site in SITES]
    opened = [party.open(data) for party, data in zip(parties, deliveries, strict=True)]
    for site, data in zip(SITES, opened, strict=True):
        setup.opened(site, data)
    cohort = Cohort(batch, parties, setup.finish())
    slots = []
    for number, (shape, values) in enumerate(zip(SLOTS, VALUES, strict=True)):
        terms = terms_of(**shape)
        context = RoundContext(cohort.opened.setup, number, 7, number + 1, BASE, terms.digest)
        slot, masked = SlotSum(cohort.opened, context, terms), []
        for party, vector in zip(parties, values, strict=True):
            party.take(context)
            masked.append(party.mask(np.array(vector).astype(terms.dtype), terms))
            slot.masked(party.site, masked[-1])
        to_confirm = slot.confirm_request()
        confirms = [party.confirm(to_confirm) for party in parties]
        for site, data in zip(SITES, confirms, strict=True):
            slot.confirmed(site, data)
        to_unmask = slot.unmask_request()
        reveals = [party.unmask(to_unmask) for party in parties]
        for site, data in zip(SITES, reveals, strict=True):
            slot.revealed(site, data)
        slots.append(
            {
                "terms": terms.digest.hex(),
                "context": context.encoded.hex(),
                "masked": [data.hex() for data in masked],
                "to_confirm": to_confirm.hex(),
                "confirms": [data.hex() for data in confirms],
                "to_unmask": shortened(to_unmask),
                "reveals": [data.hex() for data in reveals],
                "sum": slot.open()[0].tolist(),
            }
        )
    return {
        "batch": batch.digest.hex(),
        "adverts": [data.hex() for data in adverts],
        "shares": [data.hex() for data in shares],
        "deliveries": [shortened(data) for data in deliveries],
        "opened": [data.hex() for data in opened],
        "setup": cohort.opened.setup.hex(),
        "slots": slots,
    }


def shortened(data: bytes) -> str:
    """What repeats other messages."""
    return f"{len(data)} bytes, SHA-256 {sha256(data).hexdigest()}"


@cache
def frozen() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(GOLDEN.read_text())["transcript"]
    return whole


def test_three_sites_exchange_the_frozen_bytes() -> None:
    now, then = played(), frozen()
    assert now.keys() == then.keys()
    for stage in then:
        assert now[stage] == then[stage], stage


# ---- without the package ---------------------------------------------------------------------------------------------


def messages(*stages: str) -> list[list[bytes]]:
    """The stages' messages of the three sites, in order."""
    return [[bytes.fromhex(data) for data in frozen()[stage]] for stage in stages]


def in_slot(number: int, stage: str) -> list[bytes]:
    return [bytes.fromhex(data) for data in frozen()["slots"][number][stage]]


def list_of(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def batch_digest() -> bytes:
    keys = b"".join(bytes.fromhex(identity(site).public) for site in SITES)
    names = list_of(*(site.encode() for site in SITES))
    numbers = struct.pack(">BHHHH", 1, 3, 1, K, 1)
    return sha256(list_of(b"batch", numbers, bytes.fromhex(STUDY), bytes.fromhex(NAME), names, keys)).digest()


ROOTS = 39 + 32 + 3 * (128 + 32) + 64
BOX = 2 * K * 33 + 16
REVEALED = 33 + 32
CONTEXT = slice(39, 39 + 106)


def signed_part(stage: str, data: bytes) -> bytes:
    """A message up to the end of its signature."""
    return data[:ROOTS] if stage == "shares" else data[: 39 + 106 + 64 + 64] if stage == "masked" else data


def test_every_frozen_signature_holds_by_cryptography_alone() -> None:
    stages = {stage: messages(stage)[0] for stage in ("adverts", "shares", "opened")}
    everything = list(stages.items())
    for number in range(2):
        everything += [(stage, in_slot(number, stage)) for stage in ("masked", "confirms", "reveals")]
    kinds = {"adverts": 1, "shares": 2, "opened": 3, "masked": 4, "confirms": 5, "reveals": 6}
    for stage, sent in everything:
        assert len(sent) == 3
        for index, (site, data) in enumerate(zip(SITES, sent, strict=True)):
            body, signature = signed_part(stage, data)[:-64], signed_part(stage, data)[-64:]
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(identity(site).public))
            key.verify(signature, b"fedward/secagg\x00" + body)
            assert body[:7] == b"FSA1" + bytes([kinds[stage], 0, index])


def test_the_frozen_hash_of_the_setup_is_that_of_its_signed_messages() -> None:
    adverts, shares, opened = messages("adverts", "shares", "opened")
    assert batch_digest().hex() == frozen()["batch"]
    digest = sha256(b"".join(adverts)).digest()
    roots = b"".join(share[:ROOTS] for share in shares)
    setup = sha256(b"fedward setup\x00" + batch_digest() + digest + roots).digest()
    assert setup.hex() == frozen()["setup"]
    assert [word[39:71] for word in opened] == [setup] * 3
    for data in (*adverts, *shares, *opened):
        assert data[7:39] == batch_digest()
    for share in shares:
        assert share[39:71] == digest
    for number in range(2):
        for data in [message for stage in ("masked", "confirms", "reveals") for message in in_slot(number, stage)]:
            encoded = data[CONTEXT]
            assert encoded[:32] == setup
            assert struct.unpack(">HII", encoded[32:42]) == (number, 7, number + 1)
            assert encoded[42:74] == BASE
            assert encoded[74:].hex() == frozen()["slots"][number]["terms"]
            assert data[7:39] == sha256(b"fedward round context\x00" + encoded).digest()


def derived(secret: bytes, purpose: bytes, context: bytes) -> bytes:
    return hkdf(secret, b"fedward secagg 1 " + purpose + b"\x00" + context)


def secrets_of(site: str) -> tuple[X25519PrivateKey, list[bytes], list[bytes]]:
    """A site's channel key, mask keys and seeds, in the order in which it asks its entropy for them."""
    entropy = scripted(f"golden/{site}")
    channel = X25519PrivateKey.from_private_bytes(entropy(32))
    return channel, [entropy(32) for _ in range(K)], [entropy(32) for _ in range(K)]


def vector_in(data: bytes, bits: int) -> list[int]:
    raw, size = data[39 + 106 + 64 + 64 :], bits // 8
    return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]


@pytest.mark.parametrize("number", [0, 1])
def test_each_frozen_vector_is_the_plain_one_under_its_masks(number: int) -> None:
    bits, length = SLOTS[number]["bits"], SLOTS[number]["length"]
    context = sha256(b"fedward round context\x00" + in_slot(number, "masked")[0][CONTEXT]).digest()
    for me, (site, data) in enumerate(zip(SITES, in_slot(number, "masked"), strict=True)):
        _, masks, seeds = secrets_of(site)
        expected = [value % 2**bits for value in VALUES[number][me]]
        added = [(1, derived(seeds[number], b"self mask", context + struct.pack(">H", me)))]
        for peer, advert in enumerate(messages("adverts")[0]):
            if peer != me:
                public = X25519PublicKey.from_public_bytes(advert[71 + 32 * number :][:32])
                shared = X25519PrivateKey.from_private_bytes(masks[number]).exchange(public)
                pair = struct.pack(">HH", min(me, peer), max(me, peer))
                added.append((1 if me < peer else -1, derived(shared, b"pairwise mask", context + pair)))
        for sign, key in added:
            stream = words(key, bits, length)
            expected = [(value + sign * word) % 2**bits for value, word in zip(expected, stream, strict=True)]
        assert vector_in(data, bits) == expected
        committed = sha256(b"fedward seed\x00" + context + struct.pack(">H", me) + seeds[number]).digest()
        assert data[39 + 106 : 39 + 106 + 32] == committed
        assert data[39 + 106 + 32 : 39 + 106 + 64] == sha256(data[39 + 106 + 128 :]).digest()


def boxes_from(dealer: int) -> dict[int, list[bytes]]:
    """What each recipient finds in a dealer's box: opened with the recipient's own key."""
    adverts, shares = messages("adverts", "shares")
    digest, found = sha256(b"".join(adverts)).digest(), {}
    recipients = [index for index in range(3) if index != dealer]
    for place, recipient in enumerate(recipients):
        box = shares[dealer][ROOTS + BOX * place :][:BOX]
        context = batch_digest() + struct.pack(">HH", dealer, recipient) + digest
        channel = secrets_of(SITES[recipient])[0]
        shared = channel.exchange(X25519PublicKey.from_public_bytes(adverts[dealer][39:71]))
        content = AESGCM(derived(shared, b"box", context)).decrypt(bytes(12), box, context)
        found[recipient] = [content[at : at + 33] for at in range(0, len(content), 33)]
        with pytest.raises(InvalidTag):
            AESGCM(derived(shared, b"box", context)).decrypt(bytes(12), box, context + b"\x00")
        assert shares[dealer][39 + 32 + 3 * 128 + 32 * recipient :][:32] == sha256(box).digest()
    return found


def cap(batch: bytes, dealer: int, recipient: int, shares: list[bytes]) -> bytes:
    way = batch + struct.pack(">HH", dealer, recipient)
    level = [sha256(b"\x00" + way + struct.pack(">H", at) + share).digest() for at, share in enumerate(shares)]
    while len(level) > 4:
        level = [sha256(b"\x01" + one + two).digest() for one, two in list(pairwise(level))[::2]]
    return b"".join(level)


def interpolated(shares: dict[int, int]) -> int:
    """The value at 0 of the polynomial through the shares, by Lagrange's formula."""
    total = 0
    for i, share in shares.items():
        product = share
        for j in shares:
            if j != i:
                product = product * j * pow(j - i, P - 2, P) % P
        total += product
    return total % P


def test_the_frozen_boxes_hold_shares_of_each_seed_under_the_signed_roots() -> None:
    for dealer, site in enumerate(SITES):
        _, _, seeds = secrets_of(site)
        found = boxes_from(dealer)
        signed = messages("shares")[0][dealer]
        for recipient, shares in found.items():
            assert cap(batch_digest(), dealer, recipient, shares) == signed[71 + 128 * recipient :][:128]
        for number in range(2):
            reveal = in_slot(number, "reveals")[dealer]
            own = reveal[39 + 106 + 1 + dealer * REVEALED :][:33]
            seed_shares = {i + 1: int.from_bytes(shares[2 * number], "big") for i, shares in found.items()}
            seed_shares[dealer + 1] = int.from_bytes(own, "big")
            assert interpolated(seed_shares) == int.from_bytes(seeds[number], "big")


@pytest.mark.parametrize("number", [0, 1])
def test_the_frozen_sum_follows_from_the_vectors_and_the_revealed_shares(number: int) -> None:
    bits, length = SLOTS[number]["bits"], SLOTS[number]["length"]
    context = sha256(b"fedward round context\x00" + in_slot(number, "masked")[0][CONTEXT]).digest()
    vectors = [vector_in(data, bits) for data in in_slot(number, "masked")]
    total = [sum(column) for column in zip(*vectors, strict=True)]
    for dealer in range(3):
        shares = {
            revealer + 1: int.from_bytes(data[39 + 106 + 1 + dealer * REVEALED :][:33], "big")
            for revealer, data in enumerate(in_slot(number, "reveals"))
        }
        seed = interpolated(shares).to_bytes(32, "big")
        stream = words(derived(seed, b"self mask", context + struct.pack(">H", dealer)), bits, length)
        total = [value - word for value, word in zip(total, stream, strict=True)]
    half = 2 ** (bits - 1)
    signed = [(value + half) % 2**bits - half for value in total]
    assert signed == SUMS[number] == frozen()["slots"][number]["sum"]
    assert signed == [sum(column) for column in zip(*VALUES[number], strict=True)]


if __name__ == "__main__":
    about = "Three sites, t = 3, two slots, scripted entropy; see played() in tests/privacy/secagg/test_transcript.py."
    GOLDEN.write_text(json.dumps({"about": about, "transcript": played()}, indent=1) + "\n")
