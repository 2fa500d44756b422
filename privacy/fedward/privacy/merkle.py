"""Merkle trees as RFC 6962 §2.1 and RFC 9162 §2.1 have them: roots, and proofs of inclusion and of consistency. Pure.

    leaf(d) = SHA-256(0x00 ‖ d)        node(l, r) = SHA-256(0x01 ‖ l ‖ r)        root of nothing = SHA-256("")

A tree of n leaves is split at the largest power of two below n. `Range` appends with at most one hash a level. A full subtree of
2^level leaves never changes once it is there, so all of them can be kept in one file in the order in which they are completed:
`place` says where, and proofs of any size are made from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from fedward.privacy.errors import IntegrityError, UsageError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

Nodes = Callable[[int, int], bytes]
"""(level, index) → the root of the full subtree over the leaves [index·2^level, (index + 1)·2^level)."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of an entry's bytes as a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Range:
    """The compact range of a growing tree: the roots of its full subtrees, the largest first."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """A tree of `size` leaves with these roots; empty without.

        Raises:
            UsageError: there are not as many roots as the size has ones in binary.
        """
        if size < 0 or len(peaks) != size.bit_count():
            raise UsageError("no such compact range", expected=f"{max(size, 0).bit_count()} roots", got=str(len(peaks)))
        self.size = size
        self._peaks = list(peaks)

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf's hash; the roots of the subtrees that it completes, itself first."""
        made, size = [leaf], self.size
        while size & 1:
            made.append(node_hash(self._peaks.pop(), made[-1]))
            size >>= 1
        self._peaks.append(made[-1])
        self.size += 1
        return made

    def root(self) -> bytes:
        """The tree's root (MTH)."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


def place(level: int, index: int) -> int:
    """Where a full subtree's root lies among those of all, in the order of completion: after leaf (index + 1)·2^level - 1."""
    before = ((index + 1) << level) - 1
    return nodes_of(before) + level


def nodes_of(size: int) -> int:
    """How many full subtrees a tree of `size` leaves has."""
    return 2 * size - size.bit_count()


def range_of(nodes: Nodes, size: int) -> Range:
    """The compact range of the first `size` leaves."""
    peaks, start = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            peaks.append(nodes(level, start >> level))
            start += 1 << level
    return Range(size, peaks)


def root_of(nodes: Nodes, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return range_of(nodes, size).root()


def inclusion_proof(nodes: Nodes, number: int, size: int) -> list[bytes]:
    """PATH(number, D[size]) of RFC 9162 §2.1.3.1: the hashes that lead from a leaf to the root, the leaf's sibling first.

    Raises:
        UsageError: the tree has no such leaf.
    """
    if not 0 <= number < size:
        raise UsageError(f"a tree of {size} leaves has no leaf {number}", expected=f"0 to {size - 1}")
    proof, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if number < middle:
            proof.append(_subtree(nodes, middle, end))
            end = middle
        else:
            proof.append(_subtree(nodes, start, middle))
            start = middle
    return proof[::-1]


def consistency_proof(nodes: Nodes, old: int, size: int) -> list[bytes]:
    """PROOF(old, D[size]) of RFC 9162 §2.1.4.1: that the first `old` leaves are a prefix; empty where nothing is to be shown.

    Raises:
        UsageError: the old tree is the larger one.
    """
    if not 0 <= old <= size:
        raise UsageError(f"a tree of {size} leaves contains none of {old}", expected=f"0 to {size}")
    if old in {0, size}:
        return []
    proof, start, end, known = [], 0, size, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_subtree(nodes, middle, end))
            end = middle
        else:
            proof.append(_subtree(nodes, start, middle))
            start, known = middle, False
    # What the verifier holds already, the old tree as a whole, is not said again.
    return [*([] if known else [_subtree(nodes, start, end)]), *proof[::-1]]


def check_inclusion(leaf: bytes, number: int, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Verify a proof of inclusion as RFC 9162 §2.1.3.2 does.

    Raises:
        IntegrityError: that leaf is not shown to be there.
    """
    if not 0 <= number < size:
        raise _false("inclusion", f"a tree of {size} leaves has no leaf {number}")
    place_, last, found = number, size - 1, leaf
    for other in proof:
        if last == 0:
            raise _false("inclusion", "it is too long")
        if place_ & 1 or place_ == last:
            found = node_hash(other, found)
            while not place_ & 1 and place_:
                place_, last = place_ >> 1, last >> 1
        else:
            found = node_hash(found, other)
        place_, last = place_ >> 1, last >> 1
    if last or found != root:
        raise _false("inclusion", "it is too short" if last else "it leads to another root")


def check_consistency(old: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> None:
    """Verify a proof of consistency as RFC 9162 §2.1.4.2 does: the tree of `size` leaves begins with that of `old`.

    Raises:
        IntegrityError: that is not shown.
    """
    if not 0 <= old <= size:
        raise _false("consistency", f"a tree of {size} leaves contains none of {old}")
    if old in {0, size}:
        if proof or (old == size and old_root != root) or (old == 0 and old_root != EMPTY_ROOT):
            raise _false("consistency", "the roots differ" if not proof else "it is too long")
        return
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        raise _false("consistency", "it is empty")
    place_, last = old - 1, size - 1
    while place_ & 1:
        place_, last = place_ >> 1, last >> 1
    before = after = hashes[0]
    for other in hashes[1:]:
        if last == 0:
            raise _false("consistency", "it is too long")
        if place_ & 1 or place_ == last:
            before, after = node_hash(other, before), node_hash(other, after)
            while not place_ & 1 and place_:
                place_, last = place_ >> 1, last >> 1
        else:
            after = node_hash(after, other)
        place_, last = place_ >> 1, last >> 1
    if last or before != old_root or after != root:
        raise _false("consistency", "it is too short" if last else "it leads to other roots")


def _subtree(nodes: Nodes, start: int, end: int) -> bytes:
    width = end - start
    if width & (width - 1) == 0:
        level = width.bit_length() - 1
        return nodes(level, start >> level)
    middle = start + _split(width)
    return node_hash(_subtree(nodes, start, middle), _subtree(nodes, middle, end))


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1


def _false(kind: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"the proof of {kind} does not hold: {why}",
        remedy="ask for it again; if it stays false, the log was changed or shows different people different things",
        code="audit-forked" if kind == "consistency" else "audit-changed",
    )
