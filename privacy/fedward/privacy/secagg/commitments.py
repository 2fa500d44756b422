"""Merkle commitments to shares: a revealed share proves that it is the one that was dealt. Pure.

RFC 6962, section 2.1, in its form for a power of two: a leaf is SHA-256(0x00 ‖ context ‖ index ‖ share), an inner node
SHA-256(0x01 ‖ left ‖ right); the prefixes keep a node from passing for a leaf. Missing leaves are SHA-256(0x02). A leaf
hides its share, which is uniform on 256 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from fedward.privacy.errors import InputError

HASH_BYTES = 32
_NOTHING = sha256(b"\x02").digest()


def depth(leaves: int) -> int:
    """Hashes of a path in a tree of so many leaves."""
    return max(leaves - 1, 0).bit_length()


def leaf(context: bytes, index: int, share: bytes) -> bytes:
    """The commitment to the share at an index; 32 bytes."""
    return sha256(b"\x00" + context + index.to_bytes(2, "big") + share).digest()


class Tree:
    """The tree over one dealer's shares for one recipient. `root` is what the dealer signs."""

    def __init__(self, context: bytes, shares: Sequence[bytes]) -> None:
        if not 1 <= len(shares) < 2**16:
            raise InputError("a tree has 1 to 65535 leaves", got=str(len(shares)))
        level = [leaf(context, index, share) for index, share in enumerate(shares)]
        level += [_NOTHING] * ((1 << depth(len(shares))) - len(shares))
        self._levels = [level]
        while len(level) > 1:
            level = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
            self._levels.append(level)
        self._size = len(shares)

    @property
    def root(self) -> bytes:
        return self._levels[-1][0]

    def path(self, index: int) -> bytes:
        """The siblings from leaf to root, 32 bytes each.

        Raises:
            InputError: no such leaf.
        """
        if not 0 <= index < self._size:
            raise InputError("no such leaf", expected=f"0 to {self._size - 1}", got=str(index))
        return b"".join(level[(index >> height) ^ 1] for height, level in enumerate(self._levels[:-1]))


def root_of(start: bytes, index: int, path: bytes) -> bytes:
    """The root that a leaf and its path lead to; compare it with the signed one."""
    node = start
    for at in range(0, len(path), HASH_BYTES):
        sibling = path[at : at + HASH_BYTES]
        node = sha256(b"\x01" + sibling + node if index & 1 else b"\x01" + node + sibling).digest()
        index >>= 1
    return node
