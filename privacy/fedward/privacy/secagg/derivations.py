"""What both sides derive for one slot: pairwise mask keys, self-mask keys, commitments to seeds. Pure.

For members i < j the mask of the pair is added by i and subtracted by j, so it cancels in a sum of both. Every derivation is
bound to RoundCtx: members that were told different things share no mask.
"""

from __future__ import annotations

import struct
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedward.privacy.secagg.contexts import RoundContext
from fedward.privacy.secagg.keys import agree, derive


def pair_key(private: X25519PrivateKey, public: bytes, context: RoundContext, own: int, other: int) -> bytes:
    """The key of the mask that members `own` and `other` share; the same from either side."""
    pair = struct.pack(">HH", min(own, other), max(own, other))
    return derive(agree(private, public), b"pairwise mask", context.digest + pair)


def subtracts(own: int, other: int) -> bool:
    """Whether `own` subtracts the mask that it shares with `other`."""
    return own > other


def self_key(seed: bytes | bytearray, context: RoundContext, own: int) -> bytes:
    """The key of a member's self-mask, which keeps its vector hidden when its pairwise masks become known."""
    return derive(seed, b"self mask", context.digest + struct.pack(">H", own))


def commitment(seed: bytes | bytearray, context: RoundContext, own: int) -> bytes:
    """H(seed): what a rebuilt seed is compared with. Hiding, as a seed is uniform on 256 bits."""
    return sha256(b"fedward seed\x00" + context.digest + struct.pack(">H", own) + bytes(seed)).digest()


def seed_leaf(slot: int) -> int:
    """The index of a slot's seed share in a recipient's tree."""
    return 2 * slot


def key_leaf(slot: int) -> int:
    """The index of a slot's mask-key share in a recipient's tree."""
    return 2 * slot + 1
