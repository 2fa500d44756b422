"""Merkle commitments against a recursive oracle: a share proves its place, and nothing else does."""

from __future__ import annotations

from hashlib import sha256

import pytest
from cohort import scripted

from fedward.privacy.errors import InputError
from fedward.privacy.secagg.commitments import HASH_BYTES, Tree, depth, leaf, prove

CONTEXT = b"c" * 36
SIZES = range(1, 131)


def hashed(data: bytes) -> bytes:
    return sha256(data).digest()


def shares_of(size: int) -> list[bytes]:
    entropy = scripted("shares")
    return [entropy(33) for _ in range(size)]


def subtree(shares: list[bytes], start: int, width: int) -> bytes:
    """The hash over `width` places from `start`: half by half, missing shares being what is documented."""
    if width > 1:
        return hashed(
            b"\x01" + subtree(shares, start, width // 2) + subtree(shares, start + width // 2, width - width // 2)
        )
    if start >= len(shares):
        return hashed(b"\x02")
    return hashed(b"\x00" + CONTEXT + start.to_bytes(2, "big") + shares[start])


def holds(start: bytes, index: int, path: bytes, cap: bytes) -> bool:
    return prove([start], index, [path], [cap], len(path) // HASH_BYTES)[0]


def cap_of(shares: list[bytes]) -> bytes:
    quarter = width_of(len(shares)) // 4
    return b"".join(subtree(shares, start * quarter, quarter) for start in range(4))


def width_of(size: int) -> int:
    width = 4
    while width < size:
        width *= 2
    return width


def siblings(shares: list[bytes], index: int) -> list[bytes]:
    """From leaf to cap: of each block that the index lies in, the other half."""
    path, width = [], 1
    while width < width_of(len(shares)) // 4:
        path.append(subtree(shares, (index // width ^ 1) * width, width))
        width *= 2
    return path


@pytest.mark.parametrize("size", SIZES)
def test_cap_and_every_path_are_the_oracle_s(size: int) -> None:
    shares = shares_of(size)
    tree = Tree(CONTEXT, shares)
    assert tree.cap == cap_of(shares)
    assert 4 * 2 ** depth(size) == width_of(size)
    step = max(1, size // 16)
    for index in {*range(0, size, step), size - 1}:
        assert tree.path(index) == b"".join(siblings(shares, index))


@pytest.mark.parametrize("size", SIZES)
def test_every_share_proves_its_place_and_no_other(size: int) -> None:
    shares = shares_of(size)
    tree = Tree(CONTEXT, shares)
    for index, share in enumerate(shares):
        path = tree.path(index)
        assert len(path) == HASH_BYTES * depth(size)
        assert holds(leaf(CONTEXT, index, share), index, path, tree.cap)
        other = (index + 1) % size
        if other != index:
            assert not holds(leaf(CONTEXT, other, share), other, path, tree.cap)
            assert not holds(leaf(CONTEXT, index, share), other, path, tree.cap)
            assert not holds(leaf(CONTEXT, index, shares[other]), index, path, tree.cap)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16, 33])
def test_a_changed_share_path_or_context_proves_nothing(size: int) -> None:
    shares = shares_of(size)
    tree = Tree(CONTEXT, shares)
    for index, share in enumerate(shares):
        path = tree.path(index)
        for at in range(len(share)):
            changed = share[:at] + bytes([share[at] ^ 1]) + share[at + 1 :]
            assert not holds(leaf(CONTEXT, index, changed), index, path, tree.cap)
        for at in range(len(path)):
            changed = path[:at] + bytes([path[at] ^ 0x80]) + path[at + 1 :]
            assert not holds(leaf(CONTEXT, index, share), index, changed, tree.cap)
        assert not holds(leaf(b"d" * 36, index, share), index, path, tree.cap)
        assert not holds(leaf(CONTEXT, index, share), index, path + bytes(32), tree.cap)
        if path:
            assert not holds(leaf(CONTEXT, index, share), index, path[32:], tree.cap)


@pytest.mark.parametrize("size", [1, 6, 16, 128])
def test_each_of_many_trees_is_judged_by_itself(size: int) -> None:
    lists = [[share[::-1] for share in shares_of(size + turn)[turn:]] for turn in range(7)]
    trees = [Tree(CONTEXT, shares) for shares in lists]
    for index in {0, size // 3, size - 1}:
        leaves = [leaf(CONTEXT, index, shares[index]) for shares in lists]
        paths, caps = [tree.path(index) for tree in trees], [tree.cap for tree in trees]
        assert prove(leaves, index, paths, caps, depth(size)) == [True] * 7
        for false in range(7):
            wanted = [tree != false for tree in range(7)]
            changed = [*leaves[:false], bytes(32), *leaves[false + 1 :]]
            assert prove(changed, index, paths, caps, depth(size)) == wanted
            others = [*caps[:false], caps[false - 1], *caps[false + 1 :]]
            assert prove(leaves, index, paths, others, depth(size)) == wanted
    assert prove([], 0, [], [], depth(size)) == []


@pytest.mark.parametrize("index", [0, 1])
def test_lists_of_unlike_lengths_are_refused(index: int) -> None:
    """Else the trees at the end would go unjudged."""
    lists = [shares_of(8), shares_of(9)[1:]]
    trees = [Tree(CONTEXT, shares) for shares in lists]
    leaves = [leaf(CONTEXT, index, shares[index]) for shares in lists]
    paths, caps = [tree.path(index) for tree in trees], [tree.cap for tree in trees]
    assert prove(leaves, index, paths, caps, depth(8)) == [True, True]
    for given in ((leaves[:1], paths, caps[:1]), (leaves, paths[:1], caps[:1]), (leaves, paths, caps[:1])):
        with pytest.raises(ValueError, match="zip"):
            prove(given[0], index, given[1], given[2], depth(8))


def test_changing_any_share_changes_the_cap() -> None:
    for size in (1, 2, 5, 8, 20):
        shares = shares_of(size)
        roots = {Tree(CONTEXT, shares).cap}
        for index in range(size):
            roots.add(Tree(CONTEXT, [*shares[:index], bytes(33), *shares[index + 1 :]]).cap)
        assert len(roots) == size + 1


def test_an_inner_node_cannot_pass_for_a_share() -> None:
    shares = shares_of(16)
    tree = Tree(CONTEXT, shares)
    left = subtree(shares, 0, 2)
    assert holds(left, 0, subtree(shares, 2, 2), tree.cap)
    for index in range(2):
        assert leaf(CONTEXT, index, left) != left
        assert not holds(leaf(CONTEXT, index, left), index, subtree(shares, 2, 2), tree.cap)


def test_trees_of_different_lengths_over_the_same_shares_differ() -> None:
    shares = shares_of(130)
    assert len({Tree(CONTEXT, shares[:size]).cap for size in SIZES}) == len(SIZES)


@pytest.mark.parametrize("index", [-1, 3, 4])
def test_there_is_no_path_to_a_leaf_that_is_missing(index: int) -> None:
    with pytest.raises(InputError, match="leaf"):
        Tree(CONTEXT, shares_of(3)).path(index)


@pytest.mark.parametrize("size", [0, 2**16])
def test_a_tree_of_no_or_too_many_shares_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="leaves"):
        Tree(CONTEXT, [b""] * size)
