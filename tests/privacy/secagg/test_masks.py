"""Masks against Python's integers: what is added can be taken out, and nothing else happens to the vector."""

from __future__ import annotations

import numpy as np
import pytest
from cohort import scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import words

from fedward.privacy.errors import InputError
from fedward.privacy.secagg.masks import apply

WIDTHS = {32: np.dtype("<u4"), 64: np.dtype("<u8")}
# Around the cipher's 16 bytes and the 64 KiB that are walked at once, for words of 4 and of 8 bytes.
LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 8191, 8192, 8193, 16383, 16384, 16385, 32769]


def expected(values: list[int], masks: list[tuple[bytes, bool]], bits: int) -> list[int]:
    for key, minus in masks:
        sign = -1 if minus else 1
        mask = words(key, bits, len(values))
        values = [(value + sign * word) % 2**bits for value, word in zip(values, mask, strict=True)]
    return values


def vector_of(bits: int, length: int, seed: str = "vector") -> np.ndarray:
    return np.frombuffer(scripted(seed)(length * bits // 8), dtype=WIDTHS[bits]).copy()


def masks_of(*minus: bool) -> list[tuple[bytes, bool]]:
    return [(scripted(f"key {place}")(32), sign) for place, sign in enumerate(minus)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("bits", WIDTHS)
def test_masking_is_the_oracle_s_addition_modulo_the_ring(bits: int, length: int) -> None:
    vector, masks = vector_of(bits, length), masks_of(False, True, False)
    wanted = expected(vector.tolist(), masks, bits)
    apply(vector, masks)
    assert vector.tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([32, 64]),
    length=st.integers(1, 70),
    masks=st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.booleans()), max_size=6),
)
def test_masks_of_any_number_and_sign_are_the_oracle_s(bits: int, length: int, masks: list[tuple[bytes, bool]]) -> None:
    vector = vector_of(bits, length)
    wanted = expected(vector.tolist(), masks, bits)
    apply(vector, iter(masks))
    assert vector.tolist() == wanted


@pytest.mark.parametrize("length", [1, 16385, 100_000])
@pytest.mark.parametrize("bits", WIDTHS)
def test_what_is_added_can_be_taken_out_again(bits: int, length: int) -> None:
    vector = vector_of(bits, length)
    before = vector.copy()
    masks = masks_of(False, True, False, False)
    apply(vector, masks)
    assert not np.array_equal(vector, before)
    apply(vector, [(key, not minus) for key, minus in reversed(masks)])
    assert np.array_equal(vector, before)


def test_a_mask_of_one_and_its_opposite_at_another_cancel_in_the_sum() -> None:
    one, two = vector_of(32, 20_000, "one"), vector_of(32, 20_000, "two")
    wanted = one + two
    key = scripted("pair")(32)
    apply(one, [(key, False)])
    apply(two, [(key, True)])
    assert np.array_equal(one + two, wanted)


def test_the_words_of_a_mask_do_not_repeat_across_blocks() -> None:
    vector = np.zeros(100_000, dtype=np.uint64)
    apply(vector, masks_of(False))
    assert np.unique(vector).size == vector.size


def test_masking_without_masks_changes_nothing() -> None:
    vector = vector_of(64, 1000)
    before = vector.copy()
    apply(vector, [])
    assert np.array_equal(vector, before)


def readonly() -> np.ndarray:
    vector = vector_of(32, 8)
    vector.flags.writeable = False
    return vector


@pytest.mark.parametrize(
    "vector",
    [
        readonly(),
        vector_of(32, 8)[::2],
        vector_of(64, 8)[::-1],
        vector_of(32, 8).reshape(2, 4),
        vector_of(32, 8)[0:1].reshape(()),
        vector_of(32, 8).view(np.int32),
        vector_of(64, 8).view(np.int64),
        vector_of(32, 8).view(np.float32),
        vector_of(64, 8).view(np.float64),
        vector_of(32, 8).view(np.uint8),
        vector_of(32, 8).view(np.uint16),
        vector_of(32, 8).astype(object),
    ],
    ids=lambda vector: f"{vector.dtype}{vector.shape}",
)
def test_a_vector_of_another_kind_is_refused_and_untouched(vector: np.ndarray) -> None:
    before = vector.tobytes() if vector.dtype != object else vector.tolist()
    with pytest.raises(InputError, match="vector"):
        apply(vector, masks_of(False))
    assert (vector.tobytes() if vector.dtype != object else vector.tolist()) == before


@pytest.mark.parametrize("dtype", [">u4", ">u8"])
def test_a_vector_of_the_other_byte_order_is_refused(dtype: str) -> None:
    vector = np.arange(8).astype(dtype)
    with pytest.raises(InputError, match="vector"):
        apply(vector, masks_of(False))
    assert vector.tolist() == list(range(8))


def test_a_key_of_another_length_changes_nothing() -> None:
    vector = vector_of(32, 20_000)
    before = vector.copy()
    with pytest.raises(ValueError, match="key"):
        apply(vector, [*masks_of(False), (b"short", False)])
    assert np.array_equal(vector, before)
