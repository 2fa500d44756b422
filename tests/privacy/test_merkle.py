"""Merkle trees against the ten-line definition of RFC 6962 §2.1 and the test vectors of Certificate Transparency."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.errors import IntegrityError, UsageError
from fedward.privacy.merkle import (
    Range,
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    nodes_of,
    place,
    root_of,
)

# Inputs and roots of Certificate Transparency's own tests (merkletree/merkle_tree_test.cc).
CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def mth(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word by word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while 2 * k < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


def path(m: int, entries: list[bytes]) -> list[bytes]:
    """PATH of RFC 9162 §2.1.3.1, word by word."""
    if len(entries) == 1:
        return []
    k = 1
    while 2 * k < len(entries):
        k *= 2
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def subproof(m: int, entries: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 9162 §2.1.4.1, word by word."""
    if m == len(entries):
        return [] if whole else [mth(entries)]
    k = 1
    while 2 * k < len(entries):
        k *= 2
    if m <= k:
        return [*subproof(m, entries[:k], whole), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]


class Tree:
    """A tree whose nodes are kept as the log keeps them: one after the other, in the order of completion."""

    def __init__(self, entries: list[bytes]) -> None:
        self.range, self.kept = Range(), list[bytes]()
        for entry in entries:
            self.kept += self.range.append(leaf_hash(entry))

    def node(self, level: int, index: int) -> bytes:
        return self.kept[place(level, index)]


def entries_of(size: int) -> list[bytes]:
    return [f"entry {number}".encode() for number in range(size)]


def test_roots_of_certificate_transparency() -> None:
    leaves = [bytes.fromhex(leaf) for leaf in CT_LEAVES]
    tree = Range()
    assert tree.root() == mth([])
    for leaf, root in zip(leaves, CT_ROOTS, strict=True):
        tree.append(leaf_hash(leaf))
        assert tree.root().hex() == root


def test_every_small_tree_has_the_rfcs_root_and_proofs() -> None:
    for size in range(1, 34):
        entries = entries_of(size)
        tree = Tree(entries)
        assert len(tree.kept) == nodes_of(size)
        for part in range(size + 1):
            assert root_of(tree.node, part) == mth(entries[:part])
        for number in range(size):
            proof = inclusion_proof(tree.node, number, size)
            assert proof == path(number, entries)
            check_inclusion(leaf_hash(entries[number]), number, size, mth(entries), proof)
        for old in range(1, size):
            proof = consistency_proof(tree.node, old, size)
            assert proof == subproof(old, entries, True)
            check_consistency(old, size, mth(entries[:old]), mth(entries), proof)


@given(st.integers(1, 300), st.data())
def test_a_proof_of_inclusion_holds_for_its_leaf_and_place_alone(size: int, data: st.DataObject) -> None:
    entries = entries_of(size)
    tree, root = Tree(entries), mth(entries)
    number, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(-1, size))
    proof = inclusion_proof(tree.node, number, size)
    leaf = leaf_hash(entries[number])
    check_inclusion(leaf, number, size, root, proof)
    if other != number:
        with pytest.raises(IntegrityError):
            check_inclusion(leaf, other, size, root, proof)
    for changed in _changed(proof, data):
        with pytest.raises(IntegrityError):
            check_inclusion(leaf, number, size, root, changed)
    with pytest.raises(IntegrityError):
        check_inclusion(leaf_hash(b"another"), number, size, root, proof)


@given(st.integers(1, 300), st.data())
def test_a_proof_of_consistency_holds_for_its_two_trees_alone(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    entries = entries_of(size)
    forked = [*entries[: old - 1], b"another", *entries[old:]]
    tree = Tree(entries)
    proof = consistency_proof(tree.node, old, size)
    check_consistency(old, size, mth(entries[:old]), mth(entries), proof)
    with pytest.raises(IntegrityError):
        check_consistency(old, size, mth(forked[:old]), mth(entries), proof)
    with pytest.raises(IntegrityError):
        check_consistency(old, size, mth(entries[:old]), mth(forked), proof)
    for changed in _changed(proof, data):
        with pytest.raises(IntegrityError):
            check_consistency(old, size, mth(entries[:old]), mth(entries), changed)


def _changed(proof: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    changed = [[*proof, b"\x00" * 32]]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        changed += [proof[:-1], [*proof[:at], b"\x00" * 32, *proof[at + 1 :]], proof[1:]]
    return changed


def test_what_no_tree_has_is_refused() -> None:
    tree = Tree(entries_of(3))
    for number in (-1, 3):
        with pytest.raises(UsageError):
            inclusion_proof(tree.node, number, 3)
    for old in (-1, 4):
        with pytest.raises(UsageError):
            consistency_proof(tree.node, old, 3)
        with pytest.raises(IntegrityError):
            check_consistency(old, 3, b"", b"", [])
    with pytest.raises(UsageError):
        Range(3, [b""])
    with pytest.raises(IntegrityError):
        check_consistency(0, 3, b"not the empty root", mth(entries_of(3)), [])
    check_consistency(0, 3, mth([]), mth(entries_of(3)), [])
