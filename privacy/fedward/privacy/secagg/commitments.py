"""Merkle commitments to shares: a revealed share proves that it is the one that was dealt. Pure.

RFC 6962, section 2.1, in its form for a power of two: a leaf is SHA-256(0x00 ‖ context ‖ index ‖ share), an inner node
SHA-256(0x01 ‖ left ‖ right); the prefixes keep a node from passing for a leaf. Missing leaves are SHA-256(0x02). A leaf
hides its share, which is uniform on 256 bits. A dealer signs the four nodes two levels below the top in the root's place (a Merkle
cap): signed once a batch, they save a quarter of every path and of its hashes in every sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from struct import Struct

from fedward.privacy.errors import InputError

HASH_BYTES = 32
CAP = 4
CAP_BYTES = CAP * HASH_BYTES
_NOTHING = sha256(b"\x02").digest()


def depth(leaves: int) -> int:
    """Hashes of a path in a tree of so many leaves, up to its cap."""
    return max(leaves - 1, CAP - 1).bit_length() - (CAP - 1).bit_length()


def leaf(context: bytes, index: int, share: bytes) -> bytes:
    """The commitment to the share at an index; 32 bytes."""
    return sha256(b"\x00" + context + index.to_bytes(2, "big") + share).digest()


class Tree:
    """The tree over one dealer's shares for one recipient. `cap` is what the dealer signs."""

    def __init__(self, context: bytes, shares: Sequence[bytes]) -> None:
        if not 1 <= len(shares) < 2**16:
            raise InputError("a tree has 1 to 65535 leaves", got=str(len(shares)))
        level = [leaf(context, index, share) for index, share in enumerate(shares)]
        level += [_NOTHING] * ((CAP << depth(len(shares))) - len(shares))
        self._levels = [level]
        while len(level) > CAP:
            level = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
            self._levels.append(level)
        self._size = len(shares)

    @property
    def cap(self) -> bytes:
        """Its four uppermost nodes, from left to right, 128 bytes."""
        return b"".join(self._levels[-1])

    def path(self, index: int) -> bytes:
        """The siblings from leaf to cap, 32 bytes each.

        Raises:
            InputError: no such leaf.
        """
        if not 0 <= index < self._size:
            raise InputError("no such leaf", expected=f"0 to {self._size - 1}", got=str(index))
        return b"".join(level[(index >> height) ^ 1] for height, level in enumerate(self._levels[:-1]))


def prove(
    leaves: Sequence[bytes], index: int, paths: Iterable[bytes], caps: Iterable[bytes], height: int
) -> list[bool]:
    """Whether each leaf and its path lead to its tree's cap, for leaves at one index of several trees.

    Args:
        leaves: a leaf a tree.
        index: the same in every tree.
        paths: a path a tree.
        caps: a signed cap a tree.
        height: hashes of a path.
    """
    split = Struct(f"{HASH_BYTES}s" * height).unpack
    nodes = list(leaves)
    # Level by level over all trees: thousands of hashes are due at once, and a loop a path costs as much as they do.
    for siblings in zip(*map(split, paths), strict=True):
        pairs = zip(siblings, nodes, strict=True) if index & 1 else zip(nodes, siblings, strict=True)
        nodes = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        index >>= 1
    part = slice(index * HASH_BYTES, (index + 1) * HASH_BYTES)
    return [node == cap[part] for node, cap in zip(nodes, caps, strict=True)]
