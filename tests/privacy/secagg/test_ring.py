"""Reals in the ring: unbiased rounding, bounds that hold after it, sums that cannot wrap, and refusals that change nothing."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from cohort import scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import words
from scipy import stats

from fedward.privacy.errors import InputError
from fedward.privacy.secagg import Block, ProtocolError, RingTerms, ring
from fedward.privacy.secagg.ring import MAX_LENGTH, clipping_factor, encode, encode_counts, most_per_member

ALPHA = 1e-6
FLOATS = [np.float32, np.float64]
UNTOUCHED = 0xABCDEF01
STEP = 1 << 14


def encoded(
    values: np.ndarray, *, bound: float = 1e9, weight: float = 1.0, grid: float = 1.0, most: int = 10**6,
    bits: int = 32, seed: str = "rounding",
) -> np.ndarray:  # fmt: skip
    """The vector as signed integers."""
    out = np.full(values.shape, UNTOUCHED, dtype=f"<u{bits // 8}")
    encode(values, bound=bound, weight=weight, grid=grid, most=most, out=out, entropy=scripted(seed))
    return out.view(f"<i{bits // 8}").astype(np.int64)


# ---- rounding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fraction", [0.0625, 0.1, 0.5, 0.75, 0.999])
@pytest.mark.parametrize("whole", [-3, -1, 0, 2])
def test_rounding_goes_up_as_often_as_the_fraction_says(whole: int, fraction: float, dtype: type) -> None:
    value = np.full(60_000, whole + fraction, dtype=dtype)
    exact = float(value[0]) - whole
    up = encoded(value, seed=f"{whole}{fraction}") - whole
    assert set(np.unique(up)) <= {0, 1}
    assert stats.binomtest(int(up.sum()), up.size, exact).pvalue > ALPHA


def test_a_rounded_sum_is_right_on_average() -> None:
    values = np.random.default_rng(5).normal(0, 3, 300)
    turns = 600
    total = sum(encoded(values, seed=f"turn {turn}") for turn in range(turns))
    fraction = values - np.floor(values)
    deviations = (total / turns - values) / np.sqrt(fraction * (1 - fraction) / turns)
    assert stats.chi2.sf(float(deviations @ deviations), values.size) > ALPHA
    assert np.abs(deviations).max() < 6


def test_neighbouring_coordinates_are_rounded_independently() -> None:
    up = encoded(np.full(80_000, 0.5))
    pairs = np.bincount(up[0::2] * 2 + up[1::2], minlength=4)
    assert stats.chisquare(pairs).pvalue > ALPHA


def oracle(values: np.ndarray, scale: Fraction, most: int, seed: str) -> list[int]:
    """Floor, plus one where the keystream's 32-bit word is below the fraction times 2³²; in rationals."""
    draws = words(scripted(seed)(32), 32, values.size)
    rounded = []
    for value, draw in zip(values.tolist(), draws, strict=True):
        exact = min(max(Fraction(value) * scale, Fraction(-most)), Fraction(most))
        low = math.floor(exact)
        rounded.append(low + (draw < (exact - low) * 2**32))
    return rounded


@pytest.mark.parametrize("length", [1, 5, STEP - 1, STEP, STEP + 1, 2 * STEP + 3])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", [32, 64])
def test_rounding_is_the_rational_oracle_s(bits: int, dtype: type, length: int) -> None:
    # The scale is a power of two, so that the float64 product is exact.
    values = np.random.default_rng(length).normal(0, 400, length).astype(dtype)
    got = encoded(values, weight=0.5, grid=2.0**-9, most=200_000, bits=bits, seed="oracle")
    assert got.tolist() == oracle(values, Fraction(256), 200_000, "oracle")
    assert length < 100 or np.abs(got).max() == 200_000


@pytest.mark.parametrize(("byte", "up"), [(b"\x00", 1), (b"\xff", 0)])
def test_at_the_ends_of_the_keystream_integers_stay_and_fractions_move(
    byte: bytes, up: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        def update(self, data: bytes) -> bytes:
            return byte * len(data)

    monkeypatch.setattr(ring, "keystream", lambda _: Stream())
    assert encoded(np.array([0.0, 5.0, -5.0])).tolist() == [0, 5, -5]
    assert encoded(np.array([0.5, 5.001, -5.001])).tolist() == [up, 5 + up, -6 + up]


@pytest.mark.parametrize("bits", [32, 64])
def test_integers_stay_as_they_are(bits: int) -> None:
    values = np.array([0, 1, -1, 7, -7, 2**19, -(2**19), 10**6, -(10**6)], dtype=np.float64)
    for seed in range(20):
        assert encoded(values, bits=bits, seed=str(seed)).tolist() == values.tolist()


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**40), 2.0**40), min_size=1, max_size=20),
    weight=st.floats(1e-6, 1e6),
    grid=st.floats(1e-6, 1e6),
    most=st.integers(1, 2**31 - 1),
    seed=st.text(max_size=4),
)
def test_rounding_stays_within_a_unit_and_within_the_most(
    values: list[float], weight: float, grid: float, most: int, seed: str
) -> None:
    vector = np.array(values)
    got = encoded(vector, bound=2.0**50, weight=weight, grid=grid, most=most, seed=seed)
    assert np.abs(got).max() <= most
    wanted = np.clip(vector * (weight / grid), -most, most)
    assert (np.abs(got - wanted) < 1).all()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("beyond", [0.0, 1e-9, 0.5, 0.999, 1.0, 1e30])
def test_rounding_up_never_exceeds_the_most(sign: int, beyond: float) -> None:
    most = 10_737_418
    for seed in range(20):
        value = np.full(50, sign * (most + beyond))
        assert encoded(value, bound=1e300, most=most, seed=str(seed)).tolist() == [sign * most] * 50


def test_what_is_just_below_an_integer_is_rounded_to_it_or_one_below() -> None:
    values = np.array([5e-324, -5e-324, 1 - 2**-53, -(2**-60), np.nextafter(3, 4), np.nextafter(-3, -4)])
    for seed in range(20):
        got = encoded(values, seed=str(seed))
        assert ((got == np.floor(values)) | (got == np.ceil(values))).all()


def test_every_call_takes_a_fresh_key() -> None:
    asked: list[int] = []
    entropy = scripted("fresh")

    def recorded(size: int) -> bytes:
        asked.append(size)
        return entropy(size)

    outs = [np.zeros(1000, dtype=np.uint32) for _ in range(2)]
    for out in outs:
        encode(np.full(1000, 0.5), bound=1e9, weight=1.0, grid=1.0, most=9, out=out, entropy=recorded)
    assert asked == [32, 32]
    assert not np.array_equal(*outs)


# ---- clipping --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30),
    bound=st.floats(1e-3, 1e6),
    dtype=st.sampled_from(FLOATS),
)
def test_the_factor_brings_the_norm_to_the_bound(values: list[float], bound: float, dtype: type) -> None:
    vector = np.array(values, dtype=dtype)
    norm = math.sqrt(sum(Fraction(value) ** 2 for value in vector.tolist()))
    factor = clipping_factor(vector, bound)
    assert 0 < factor <= 1
    assert math.isclose(factor, min(1.0, bound / norm) if norm else 1.0, rel_tol=1e-12)


def test_a_norm_is_that_of_the_whole_vector_across_blocks() -> None:
    for length in (STEP - 1, STEP, STEP + 1, 5 * STEP + 2):
        assert math.isclose(clipping_factor(np.ones(length, dtype=np.float32), 1.0), length**-0.5, rel_tol=1e-12)


def test_a_longer_update_is_clipped_as_a_whole_and_said_to_be() -> None:
    values = np.array([3e5, -4e5])
    out = np.zeros(2, dtype=np.uint32)
    arguments: dict[str, Any] = {"weight": 1.0, "grid": 1.0, "most": 10**6, "out": out, "entropy": scripted("")}
    assert encode(values, bound=5e4, **arguments)
    assert out.view(np.int32).tolist() == [30_000, -40_000]
    assert not encode(values, bound=5e5, **arguments)
    assert out.view(np.int32).tolist() == [300_000, -400_000]


def test_squares_that_float32_cannot_hold_are_measured() -> None:
    values = np.array([3e25, 4e25], dtype=np.float32)
    assert math.isclose(clipping_factor(values, 1.0), 1 / 5e25, rel_tol=1e-6)
    assert encoded(values, bound=5e3).tolist() in ([2999, 4000], [3000, 4000], [2999, 3999], [3000, 3999])


def test_an_update_too_large_to_be_measured_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        clipping_factor(np.full(4, 1e200), 1.0)
    assert caught.value.code == "out-of-bounds"


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(InputError, match="bound"):
        clipping_factor(np.ones(3), bound)


def test_an_update_of_zeros_is_never_clipped() -> None:
    assert clipping_factor(np.zeros(5), 1e-300) == 1.0
    assert encoded(np.zeros(5)).tolist() == [0] * 5


# ---- refusals --------------------------------------------------------------------------------------------------------


def with_bad(value: float, place: int, dtype: type = np.float64) -> np.ndarray:
    values = np.ones(2 * STEP + 5, dtype=dtype)
    values[place] = value
    return values


BAD_VECTORS = [
    *[(with_bad(value, place), "not-finite") for value in (math.nan, math.inf, -math.inf) for place in (0, STEP, -1)],
    *[(with_bad(value, 7, np.float32), "not-finite") for value in (math.nan, math.inf, -math.inf)],
    (np.array([math.inf, -math.inf] + [1.0] * (2 * STEP + 3)), "not-finite"),
    (np.ones(2 * STEP + 5).tolist(), "wrong-shape"),
    (tuple(np.ones(2 * STEP + 5)), "wrong-shape"),
    (1.0, "wrong-shape"),
    (None, "wrong-shape"),
    (np.float64(1.0), "wrong-shape"),
    (np.ones((2 * STEP + 5, 1)), "wrong-shape"),
    (np.ones(()), "wrong-shape"),
    (np.ones(2 * STEP + 5, dtype=np.int64), "wrong-shape"),
    (np.ones(2 * STEP + 5, dtype=np.float16), "wrong-shape"),
    (np.ones(2 * STEP + 5, dtype=np.longdouble), "wrong-shape"),
    (np.ones(2 * STEP + 5, dtype=np.complex128), "wrong-shape"),
    (np.ones(2 * STEP + 5, dtype=bool), "wrong-shape"),
    (np.ones(2 * STEP + 5, dtype=object), "wrong-shape"),
    (np.ones(2 * STEP + 5, dtype=">f8"), "wrong-shape"),
    (np.ones(1), "bad-input"),
    (np.ones(0), "bad-input"),
    (np.ones(2 * STEP + 4), "bad-input"),
    (np.ones(2 * STEP + 6), "bad-input"),
]


@pytest.mark.parametrize(("values", "code"), BAD_VECTORS, ids=range(len(BAD_VECTORS)))
def test_what_is_no_update_is_refused_with_the_reason_and_nothing_is_written(values: Any, code: str) -> None:
    for bits in (32, 64):
        out = np.full(2 * STEP + 5, UNTOUCHED, dtype=f"<u{bits // 8}")
        with pytest.raises(InputError) as caught:
            encode(values, bound=1e300, weight=1.0, grid=1.0, most=9, out=out, entropy=scripted(""))
        assert caught.value.code == code
        assert (out == UNTOUCHED).all()


@pytest.mark.parametrize(
    "terms",
    [
        *[{name: value} for name in ("weight", "grid", "bound") for value in (0.0, -1.0, math.nan, math.inf, -math.inf)],
        *[{"most": value} for value in (0, -1, 2**52 + 1)],
    ],
)  # fmt: skip
def test_a_weight_grid_bound_or_limit_out_of_range_is_refused(terms: dict[str, Any]) -> None:
    out = np.full(3, UNTOUCHED, dtype=np.uint64)
    arguments = {"bound": 1.0, "weight": 1.0, "grid": 1.0, "most": 9, **terms}
    with pytest.raises(InputError):
        encode(np.ones(3), **arguments, out=out, entropy=scripted(""))
    assert (out == UNTOUCHED).all()


@pytest.mark.parametrize(("weight", "grid"), [(1.0, 5e-324), (1e300, 1e-300), (1.7e308, 0.5)])
def test_a_weight_that_overflows_on_its_grid_is_refused_or_clamped(weight: float, grid: float) -> None:
    out = np.full(3, UNTOUCHED, dtype=np.uint32)
    arguments: dict[str, Any] = {"bound": 10.0, "weight": weight, "grid": grid, "most": 9, "entropy": scripted("")}
    try:
        encode(np.array([0.0, 1.0, -1.0]), **arguments, out=out)
    except InputError:
        assert (out == UNTOUCHED).all()
    else:
        assert out.view(np.int32).tolist() == [0, 9, -9]


@pytest.mark.parametrize(("bound", "weight", "grid"), [(10.0, 1.7e308, 1.0), (1.5, 1.7e308, 1.0), (1.0, 1e-300, 1e300)])
def test_a_scale_that_overflows_or_vanishes_within_the_bound_is_refused(
    bound: float, weight: float, grid: float
) -> None:
    out = np.full(3, UNTOUCHED, dtype=np.uint32)
    with pytest.raises(InputError, match="weight or grid"):
        encode(np.array([0.0, 1.0, -1.0]), bound=bound, weight=weight, grid=grid, most=9, out=out, entropy=scripted(""))
    assert (out == UNTOUCHED).all()


def test_the_largest_scale_whose_products_are_finite_is_taken() -> None:
    assert encoded(np.array([0.0, 1.0, 0.0]), bound=1.0, weight=1.7e308, most=9).tolist() == [0, 9, 0]
    assert encoded(np.array([0.0, -0.5, 0.0]), bound=0.5, weight=1.7e308, most=9).tolist() == [0, -9, 0]


@pytest.mark.parametrize(
    "out",
    [
        [0, 0, 0],
        np.zeros(3, dtype=np.int32),
        np.zeros(3, dtype=np.int64),
        np.zeros(3, dtype=np.float64),
        np.zeros(3, dtype=np.uint16),
        np.zeros(3, dtype=">u4"),
        np.zeros((3, 1), dtype=np.uint32),
        np.zeros((), dtype=np.uint64),
    ],
    ids=range(8),
)
def test_an_output_that_is_no_vector_of_the_ring_is_refused(out: Any) -> None:
    before = np.array(out)
    with pytest.raises(InputError, match="output"):
        encode(np.ones(3), bound=9.0, weight=1.0, grid=1.0, most=9, out=out, entropy=scripted(""))
    with pytest.raises(InputError, match="output"):
        encode_counts(np.ones(before.shape, dtype=np.int64), 9, out)
    assert np.array_equal(np.array(out), before)


@pytest.mark.parametrize(("bits", "largest"), [(32, 2**31 - 1), (64, 2**52)])
def test_a_limit_is_from_1_to_the_largest_that_the_ring_holds_exactly(bits: int, largest: int) -> None:
    for most in (1, largest):
        assert encoded(np.array([-1.0, 1.0, 0.0]), most=most, bits=bits).tolist() == [-1, 1, 0]
        encode_counts(np.array([0, 1, most], dtype=np.int64), most, np.zeros(3, dtype=f"<u{bits // 8}"))
    for wrong in (0, largest + 1, 1.0, True):
        with pytest.raises(InputError, match="limit"):
            encoded(np.zeros(3), most=wrong, bits=bits)


def test_a_limit_that_the_ring_cannot_hold_is_refused() -> None:
    out = np.full(3, UNTOUCHED, dtype=np.uint32)
    with pytest.raises(InputError):
        encode(np.full(3, 1e12), bound=1e13, weight=1.0, grid=1.0, most=2**31, out=out, entropy=scripted(""))
    assert (out == UNTOUCHED).all()


# ---- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_counts_go_into_the_ring_as_they_are(bits: int) -> None:
    counts = np.array([0, 1, 5, 10**6], dtype=np.int64)
    out = np.full(4, UNTOUCHED, dtype=f"<u{bits // 8}")
    encode_counts(counts, 10**6, out)
    assert out.tolist() == counts.tolist()


@pytest.mark.parametrize("bits", [32, 64])
def test_noised_counts_may_be_negative_and_their_sum_is_read_back(bits: int) -> None:
    terms = RingTerms(bits, 3, (Block("histogram", 4, 50),))
    parts = [np.array(counts, dtype=np.int64) for counts in ([-50, 50, 0, -1], [-50, 50, 3, 2], [-50, 50, -4, -1])]
    total = np.zeros(4, dtype=f"<u{bits // 8}")
    for part in parts:
        out = np.empty(4, dtype=total.dtype)
        encode_counts(part, 50, out, least=-50)
        total += out
    assert terms.open_sum(total, 3)[0].tolist() == [-150, 150, -1, 0]


@pytest.mark.parametrize(("count", "least"), [(-7, -6), (-1, 0), (-11, -20), (11, -20)])
def test_counts_beyond_what_noise_reaches_are_refused(count: int, least: int) -> None:
    out = np.full(1, UNTOUCHED, dtype=np.uint32)
    with pytest.raises(InputError) as caught:
        encode_counts(np.array([count], dtype=np.int64), 10, out, least=least)
    assert caught.value.code == "out-of-bounds"
    assert (out == UNTOUCHED).all()


BAD_COUNTS = [
    (np.array([0, 1, -1], dtype=np.int64), "out-of-bounds"),
    (np.array([0, 1, 11], dtype=np.int64), "out-of-bounds"),
    (np.array([0, 1, np.iinfo(np.int64).min], dtype=np.int64), "out-of-bounds"),
    (np.array([0, 1, np.iinfo(np.int64).max], dtype=np.int64), "out-of-bounds"),
    (np.array([0, 1, 2], dtype=np.int32), "wrong-shape"),
    (np.array([0, 1, 2], dtype=np.uint64), "wrong-shape"),
    (np.array([0, 1, 2], dtype=np.float64), "wrong-shape"),
    (np.array([0, 1, 1], dtype=bool), "wrong-shape"),
    (np.array([1], dtype=np.int64), "wrong-shape"),
    (np.array([0, 1], dtype=np.int64), "wrong-shape"),
    (np.array([0, 1, 2, 3], dtype=np.int64), "wrong-shape"),
    (np.array([[0, 1, 2]], dtype=np.int64), "wrong-shape"),
    (np.int64(1), "wrong-shape"),
    ([0, 1, 2], "wrong-shape"),
    (None, "wrong-shape"),
]


@pytest.mark.parametrize(("counts", "code"), BAD_COUNTS, ids=range(len(BAD_COUNTS)))
def test_what_are_no_counts_is_refused_and_nothing_is_written(counts: Any, code: str) -> None:
    out = np.full(3, UNTOUCHED, dtype=np.uint32)
    with pytest.raises(InputError) as caught:
        encode_counts(counts, 10, out)
    assert caught.value.code == code
    assert (out == UNTOUCHED).all()


# ---- terms -----------------------------------------------------------------------------------------------------------


def terms_of(bits: int, members: int, *blocks: tuple[int, int]) -> RingTerms:
    return RingTerms(bits, members, tuple(Block(f"b{at}", length, most) for at, (length, most) in enumerate(blocks)))


def test_two_hundred_members_may_put_ten_million_in_a_coordinate() -> None:
    assert most_per_member(32, 200) == 10_737_418


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("members", [1, 2, 3, 7, 64, 199, 200])
def test_terms_take_the_most_that_cannot_wrap_and_nothing_beyond(bits: int, members: int) -> None:
    largest = 2 ** (bits - 1) - 1
    assert terms_of(bits, members, (1, largest // members)).largest == largest
    for blocks in ([(1, largest // members + 1)], [(5, 1), (1, largest // members + 1)], [(1, 2**80)]):
        with pytest.raises(InputError) as caught:
            terms_of(bits, members, *blocks)
        assert caught.value.code == "ring-overflow"
    most = most_per_member(bits, members)
    assert most == min(largest // members, 2**52)
    terms_of(bits, members, (1, most))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("members", [3, 200])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_most_of_every_member_sums_exactly(sign: int, members: int, bits: int) -> None:
    most = most_per_member(bits, members)
    terms = terms_of(bits, members, (3, most))
    total = np.zeros(3, dtype=terms.dtype)
    for member in range(members):
        out = np.zeros(3, dtype=terms.dtype)
        values = np.full(3, sign * float(most))
        encode(values, bound=1e300, weight=1.0, grid=1.0, most=most, out=out, entropy=scripted(str(member)))
        total += out
    (opened,) = terms.open_sum(total, members)
    assert opened.tolist() == [sign * members * most] * 3


@pytest.mark.parametrize(
    ("bits", "members", "blocks"),
    [
        (16, 3, [(1, 1)]),
        (0, 3, [(1, 1)]),
        (128, 3, [(1, 1)]),
        (32, 0, [(1, 1)]),
        (32, -3, [(1, 1)]),
        (32, 3, []),
        (32, 3, [(0, 1)]),
        (32, 3, [(-1, 1)]),
        (32, 3, [(1, 0)]),
        (32, 3, [(1, -1)]),
        (32, 3, [(1, 1), (0, 1)]),
    ],
)
def test_terms_that_make_no_vector_are_refused(bits: int, members: int, blocks: list[tuple[int, int]]) -> None:
    with pytest.raises(InputError):
        terms_of(bits, members, *blocks)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("blocks", [[(MAX_LENGTH + 1, 1)], [(2**30, 1)], [(2**62, 1)], [(MAX_LENGTH, 1), (1, 1)]])
def test_terms_that_claim_gigabytes_are_refused_before_anything_is_allocated(
    bits: int, blocks: list[tuple[int, int]]
) -> None:
    assert sum(length for length, _ in blocks) * bits // 8 >= 512 * 2**20
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="too long"):
            terms_of(bits, 3, *blocks)
        assert tracemalloc.get_traced_memory()[1] < 2**16
    finally:
        tracemalloc.stop()


def test_terms_know_their_size_without_allocating_it() -> None:
    terms = terms_of(64, 3, (MAX_LENGTH - 1, 5), (1, 7))
    assert (terms.length, terms.byte_length, terms.dtype) == (MAX_LENGTH, 8 * MAX_LENGTH, np.dtype("<u8"))
    assert terms_of(32, 3, (5, 1)).byte_length == 20


def test_changing_any_one_field_changes_the_digest_of_terms() -> None:
    block, other = Block("update", 4, 100), Block("histogram", 3, 7)
    terms = RingTerms(32, 5, (block, other), b"outer")
    others = [
        RingTerms(64, 5, (block, other), b"outer"),
        RingTerms(32, 6, (block, other), b"outer"),
        RingTerms(32, 5, (block, other), b"outer."),
        RingTerms(32, 5, (block, other)),
        RingTerms(32, 5, (other, block), b"outer"),
        RingTerms(32, 5, (block,), b"outer"),
        RingTerms(32, 5, (block, Block("histogran", 3, 7)), b"outer"),
        RingTerms(32, 5, (block, Block("histogram", 4, 7)), b"outer"),
        RingTerms(32, 5, (block, Block("histogram", 3, 8)), b"outer"),
        RingTerms(32, 5, (block, Block("histogram", 7, 3)), b"outer"),
    ]
    assert len({terms.digest, *(one.digest for one in others)}) == 1 + len(others)

    def list_of(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    blocks = [
        list_of(b"update", bytes([0] * 7 + [4] + [0] * 7 + [100])),
        list_of(b"histogram", bytes([0] * 7 + [3] + [0] * 7 + [7])),
    ]
    assert terms.digest == sha256(list_of(b"terms", bytes([0, 32, 0, 5]), b"outer", *blocks)).digest()


# ---- opened sums -----------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_sum_opens_to_its_blocks_as_signed_integers(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([32, 64]))
    members = data.draw(st.integers(1, 200))
    largest = (2 ** (bits - 1) - 1) // members
    sizes = st.tuples(st.integers(1, 4), st.integers(1, largest))
    blocks = data.draw(st.lists(sizes, min_size=1, max_size=3))
    terms = terms_of(bits, members, *blocks)
    wanted = [
        data.draw(st.lists(st.integers(-members * most, members * most), min_size=length, max_size=length))
        for length, most in blocks
    ]
    total = np.array([value % 2**bits for block in wanted for value in block], dtype=terms.dtype)
    opened = terms.open_sum(total, members)
    assert [block.tolist() for block in opened] == wanted
    assert all(block.dtype == np.int64 for block in opened)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("members", [1, 3, 5])
def test_a_coordinate_beyond_what_the_members_could_make_is_refused(bits: int, members: int) -> None:
    terms = terms_of(bits, 5, (2, 100), (2, 7))
    limits = (100, 100, 7, 7)
    within = np.array([members * limit for limit in limits], dtype=np.int64)
    for sign in (-1, 1):
        assert terms.open_sum((sign * within).astype(terms.dtype), members)
        for place in range(4):
            for value in (sign * (members * limits[place] + 1), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1):
                total = (sign * within).astype(terms.dtype)
                total[place] = value % 2**bits
                with pytest.raises(ProtocolError) as caught:
                    terms.open_sum(total, members)
                assert (caught.value.code, caught.value.blamed, caught.value.lie) == ("sum-out-of-bounds", "", False)


@pytest.mark.parametrize(
    ("total", "members"),
    [
        (np.zeros(3, dtype=np.uint32), 3),
        (np.zeros(5, dtype=np.uint32), 3),
        (np.zeros((4, 1), dtype=np.uint32), 3),
        (np.zeros(4, dtype=np.uint64), 3),
        (np.zeros(4, dtype=np.int32), 3),
        (np.zeros(4, dtype=np.float32), 3),
        (np.zeros(4, dtype=">u4"), 3),
        (np.zeros(4, dtype=np.uint32), 0),
        (np.zeros(4, dtype=np.uint32), -1),
        (np.zeros(4, dtype=np.uint32), 6),
    ],
)
def test_what_is_no_sum_of_these_terms_does_not_open(total: np.ndarray, members: int) -> None:
    with pytest.raises(InputError):
        terms_of(32, 5, (4, 100)).open_sum(total, members)
