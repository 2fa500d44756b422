"""What a masked vector shows to the coordinator and its colluders: nothing. Each test fails when a mask is left out.

Scripted entropy, so a right implementation always passes; chi-squared over bytes at 1e-6.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pytest
from cohort import Cohort, cohort_of, set_up, sites_of
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy import stats

from fedward.privacy.secagg import Block, RingTerms, RoundContext, wire
from fedward.privacy.secagg.derivations import pair_key, self_key, subtracts
from fedward.privacy.secagg.keys import public_of
from fedward.privacy.secagg.masks import apply
from fedward.privacy.secagg.shamir import coefficients, combine, to_element

ALPHA = 1e-6
LENGTH = 40_000
VICTIM = 1


def terms_of(n: int, bits: int = 32) -> RingTerms:
    return RingTerms(bits, n, (Block("update", LENGTH, 1000),))


def looks_uniform(vector: np.ndarray) -> bool:
    """By bytes, by the words' lowest and highest bits, and by how neighbours differ."""
    raw = np.frombuffer(vector.tobytes(), dtype=np.uint8)
    steps = np.frombuffer(np.diff(vector).tobytes(), dtype=np.uint8)
    top, ones = vector >> (8 * vector.itemsize - 1), vector & 1
    return all(stats.chisquare(np.bincount(data, minlength=256)).pvalue > ALPHA for data in (raw, steps)) and all(
        stats.binomtest(int(bit.sum()), bit.size).pvalue > ALPHA for bit in (top, ones)
    )


def sent(cohort: Cohort, context: RoundContext, terms: RingTerms, member: int = VICTIM, fill: int = 0) -> np.ndarray:
    party = cohort.parties[member]
    party.take(context)
    data = party.mask(np.full(LENGTH, fill, dtype=terms.dtype), terms)
    read = wire.open_masked(cohort.batch, member, data, context, terms.byte_length)
    return np.frombuffer(read.vector, dtype=terms.dtype).copy()


def without(vector: np.ndarray, masks: list[tuple[bytes, bool]]) -> np.ndarray:
    """The vector after masks that were added are taken out."""
    left = vector.copy()
    apply(left, [(key, not minus) for key, minus in masks])
    return left


def keys_of(cohort: Cohort, slot: int) -> tuple[list[bytes], list[bytes]]:
    """Every member's mask key and seed of a slot, read before they are forgotten."""
    parties = cohort.parties
    return [bytes(p._secrets.masks[slot]) for p in parties], [bytes(p._secrets.seeds[slot]) for p in parties]


def pair_masks(keys: list[bytes], context: RoundContext, peers: Collection[int]) -> list[tuple[bytes, bool]]:
    """The victim's masks with some peers, as the peers derive them from their own keys."""
    public = public_of(keys[VICTIM])
    return [
        (
            pair_key(X25519PrivateKey.from_private_bytes(keys[peer]), public, context, peer, VICTIM),
            subtracts(VICTIM, peer),
        )
        for peer in peers
    ]


def test_the_test_of_uniformity_notices_what_is_not_uniform() -> None:
    draw = np.random.default_rng(1)
    uniform = draw.integers(0, 2**32, LENGTH, dtype=np.uint32)
    assert looks_uniform(uniform)
    for leaking in (np.zeros(LENGTH, np.uint32), uniform & ~np.uint32(1), uniform >> 1, uniform // 3, np.sort(uniform)):
        assert not looks_uniform(leaking)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("fill", [0, 1, 1000])
def test_a_masked_vector_looks_uniform_whatever_is_in_it(fill: int, bits: int) -> None:
    cohort, terms = cohort_of(3), terms_of(3, bits)
    assert looks_uniform(sent(cohort, cohort.context(terms), terms, fill=fill))


def test_two_runs_and_two_slots_with_the_same_vector_share_nothing() -> None:
    terms, vectors = terms_of(3, 64), []
    for seed in ("one", "two"):
        parties = sites_of(cohort_of(3).batch, seed)
        cohort = Cohort(parties[0].batch, parties, set_up(parties[0].batch, parties))
        vectors += [sent(cohort, cohort.context(terms, slot), terms) for slot in range(2)]
    for one, two in combinations(vectors, 2):
        assert not np.intersect1d(one, two).size
        assert looks_uniform(one - two)
        assert looks_uniform(one ^ two)


def test_members_that_send_the_same_send_unlike_vectors() -> None:
    cohort, terms = cohort_of(3), terms_of(3)
    context = cohort.context(terms)
    vectors = [sent(cohort, context, terms, member) for member in range(3)]
    for one, two in combinations(vectors, 2):
        assert looks_uniform(one - two)


@pytest.mark.parametrize("n", [3, 5])
def test_a_site_told_of_another_model_shares_no_mask_with_the_others(n: int) -> None:
    """Attack 6: the split views do not cancel, with any of the other members."""
    cohort, terms = cohort_of(n), terms_of(n)
    context, other = cohort.context(terms), cohort.context(terms, base=b"\x0f" * 32)
    keys, seeds = keys_of(cohort, 0)
    vector = without(sent(cohort, other, terms), [(self_key(seeds[VICTIM], other, VICTIM), False)])
    peers = [peer for peer in range(n) if peer != VICTIM]
    assert looks_uniform(without(vector, pair_masks(keys, context, peers)))
    assert not without(vector, pair_masks(keys, other, peers)).any()


def test_all_masks_together_hide_and_nothing_else_does() -> None:
    """The control: who knew the seed and every pairwise key would see the vector."""
    n, fill = 5, 7
    cohort, terms = cohort_of(n), terms_of(n)
    context, (keys, seeds) = cohort.context(terms), keys_of(cohort, 0)
    vector = sent(cohort, context, terms, fill=fill)
    everything = [*pair_masks(keys, context, (0, 2, 3, 4)), (self_key(seeds[VICTIM], context, VICTIM), False)]
    assert set(without(vector, everything).tolist()) == {fill}
    for left_out in range(len(everything)):
        known = everything[:left_out] + everything[left_out + 1 :]
        assert looks_uniform(without(vector, known))


@pytest.mark.parametrize("honest", [0, 2, 3, 4])
def test_all_members_but_two_and_the_coordinator_see_nothing_of_one_vector(honest: int) -> None:
    """The masks with one honest peer, and its own, are enough."""
    cohort, terms = cohort_of(5), terms_of(5)
    context, (keys, seeds) = cohort.context(terms), keys_of(cohort, 0)
    vector = sent(cohort, context, terms)
    known = pair_masks(keys, context, [peer for peer in range(5) if peer not in (VICTIM, honest)])
    # Even after the seed was opened, as a survivor's is.
    known.append((self_key(seeds[VICTIM], context, VICTIM), False))
    assert looks_uniform(without(vector, known))


def test_the_peers_keys_alone_do_not_open_a_vector_that_was_declared_dropped() -> None:
    """All its pairwise masks become known when a slow site is taken for dropped: its own mask still hides the vector."""
    cohort, terms = cohort_of(5), terms_of(5)
    context, (keys, _) = cohort.context(terms), keys_of(cohort, 0)
    vector = sent(cohort, context, terms)
    assert looks_uniform(without(vector, pair_masks(keys, context, (0, 2, 3, 4))))


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_shares_of_fewer_than_t_members_rebuild_neither_secret(n: int) -> None:
    cohort = cohort_of(n)
    t = cohort.batch.threshold
    keys, seeds = keys_of(cohort, 0)
    for leaf, secret in ((0, seeds[VICTIM]), (1, keys[VICTIM])):
        shares = [to_element(bytes(party._secrets.held[VICTIM].shares[leaf])) for party in cohort.parties]
        value = int.from_bytes(secret, "big")
        for size in (t - 1, t):
            for members in list(combinations(range(n), size))[:20]:
                rebuilt = combine([shares[i] for i in members], coefficients([i + 1 for i in members]))
                assert (rebuilt == value) == (size == t)


def test_what_a_colluder_holds_of_one_slot_says_nothing_of_another() -> None:
    cohort = cohort_of(3, slots=3)
    found = [bytes(share) for party in cohort.parties for held in party._secrets.held for share in held.shares]
    assert len(set(found)) == len(found) == 3 * 3 * 6
    own = [keys_of(cohort, slot) for slot in range(3)]
    secrets = [secret for keys, seeds in own for secret in (*keys, *seeds)]
    assert len(set(secrets)) == len(secrets) == 18
