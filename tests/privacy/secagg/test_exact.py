"""The unmasked sum is the plain sum, exactly. A few cases of what `make prove ONLY=secagg` does in thousands."""

from __future__ import annotations

import numpy as np
import pytest
from cohort import Dropouts, cohort_of, drawing, securely_summed
from sums import Tally, check_algebra, check_sums, random_dropouts

from fedward.privacy.secagg import Block, ProtocolError, RingTerms, least_threshold
from fedward.privacy.secagg.ring import most_per_member


def test_sums_of_few_sites_are_exact_whoever_drops_out() -> None:
    tally, draw = Tally(), drawing(1)
    for batch in range(15):
        check_sums(tally, f"few/{batch}", draw.randint(3, 8), 4)
    assert tally.cases == 60
    assert set(tally.seen) >= {
        "of 32 bits",
        "of 64 bits",
        "with t above the least",
        "dropped before masked",
        "dropped before confirm",
        "dropped before unmask",
        "without a dropout",
        "at the largest sum",
    }


def test_a_sum_of_twenty_sites_is_exact() -> None:
    tally = Tally()
    check_sums(tally, "twenty", 20, 1)
    assert tally.cases == 1


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_most_of_every_site_is_summed_exactly(sign: int, bits: int) -> None:
    """Attack 12, over the whole protocol."""
    n = 7
    largest = (2 ** (bits - 1) - 1) // n
    terms = RingTerms(bits, n, (Block("update", 2, largest), Block("histogram", 1, most_per_member(bits, n))))
    cohort = cohort_of(n)
    vectors = [[sign * block.most % 2**bits for block in terms.blocks for _ in range(block.length)] for _ in range(n)]
    opened = securely_summed(
        cohort, cohort.context(terms), terms, [np.array(one, dtype=terms.dtype) for one in vectors]
    )
    assert [block.tolist() for block in opened] == [[sign * n * block.most] * block.length for block in terms.blocks]


@pytest.mark.parametrize("n", [3, 4, 5, 9])
def test_every_single_dropout_at_every_stage_is_borne_or_refused(n: int) -> None:
    """Attack 11 for k = 1: each site at each stage."""
    terms = RingTerms(32, n, (Block("update", 3, 1000),))
    for stage in ("before_masked", "before_confirm", "before_unmask"):
        for site in range(n):
            cohort = cohort_of(n)
            vectors = [np.arange(3) - 100 * index for index in range(n)]
            dropouts = Dropouts(**{stage: frozenset({site})})
            left_out = {site} if stage == "before_masked" else set()
            context = cohort.context(terms)
            if not cohort.batch.tolerated:
                with pytest.raises(ProtocolError) as caught:
                    securely_summed(cohort, context, terms, vectors, dropouts)
                assert caught.value.code == "survivors-too-few"
                continue
            wanted = sum(vector for index, vector in enumerate(vectors) if index not in left_out)
            assert securely_summed(cohort, context, terms, vectors, dropouts)[0].tolist() == wanted.tolist()


def test_masks_cancel_in_every_subset() -> None:
    tally = Tally()
    for number in range(60):
        check_algebra(tally, f"masks/{number}", 3 + number % 12)
    check_algebra(tally, "masks/large", 60)
    assert tally.cases == 61


def test_dropouts_are_drawn_at_every_stage_and_never_too_many() -> None:
    draw, most = drawing(2), Tally()
    for _ in range(500):
        n = draw.randint(3, 30)
        t = draw.randint(least_threshold(n), n)
        floor = max(t, draw.randint(1, n))
        dropouts = random_dropouts(draw, n, t, floor)
        first, second, third = dropouts.before_masked, dropouts.before_confirm, dropouts.before_unmask
        assert len(first | second | third) == len(first) + len(second) + len(third)
        assert n - len(first) - len(second) >= floor
        assert n - len(first) - len(second) - len(third) >= t
        most.add(*(["all that are borne"] if n - len(first | second | third) == t < n else []))
    assert most.seen["all that are borne"] > 50
