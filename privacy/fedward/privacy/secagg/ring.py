"""Real vectors and counts as integers of the ring Z_2^b, so that sums are exact and masks are uniform. Pure.

1. A vector is made of blocks (the update, the histogram). A block says the most that one member may put into a
   coordinate, in absolute value. n · most ≤ 2^(b−1) − 1 for every block, or the terms are refused at planning: a sum of
   honest members never wraps.
2. An update is refused if a value is not finite; scaled as a whole so that its L2 norm is at most the bound, in
   float64; divided by the grid; clamped to ±most; and rounded at random to one of the two neighbouring integers, so
   that its expectation is kept. Chances are exact to 2^-32, drawn from a keystream. An integer stays as it is, so the
   clamp holds after rounding too.
3. A sum is read as signed integers. A coordinate beyond what its members could have made is refused.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256, shake_256

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.privacy.secagg.contexts import framed
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.secagg.masks import Ring, keystream
from fedward.privacy.secagg.shamir import Entropy

MAX_LENGTH = 2**27
"""Coordinates of a vector (512 MiB at 32 bits); more is refused before anything is allocated."""

_EXACT = 2**52
_STEP = 1 << 13  # OpenBLAS shares out a product of more than 10 000 numbers, and then waits for busy cores


@dataclass(frozen=True)
class Block:
    """A part of the vector: its name, how many coordinates, and the most that one member adds to one of them."""

    name: str
    length: int
    most: int


@dataclass(frozen=True)
class RingTerms:
    """What the members of a sum agreed on: the ring's bits (32 or 64), how many they are, the vector's blocks.

    `outer` is the digest of whatever else they agreed on (grid, weights, bounds), so that `digest` binds it too.

    Raises:
        InputError: a sum of such members could wrap, or the vector is empty or too long.
    """

    bits: int
    members: int
    blocks: tuple[Block, ...]
    outer: bytes = b""

    def __post_init__(self) -> None:
        if self.bits not in (32, 64):
            raise InputError("there is no such ring", expected="32 or 64 bits", got=str(self.bits))
        if self.members < 1:
            raise InputError("a sum has members", got=str(self.members))
        if not self.blocks or any(block.length < 1 or block.most < 1 for block in self.blocks):
            raise InputError("a vector has blocks with at least one coordinate that may be at least 1")
        if self.length > MAX_LENGTH:
            raise InputError("the vector is too long", expected=f"at most {MAX_LENGTH}", got=str(self.length))
        for block in self.blocks:
            if self.members * block.most > self.largest:
                raise InputError(
                    f"the sum of {self.members} sites could overflow the ring of {self.bits} bits",
                    expected=f"at most {self.largest // self.members} in each coordinate of the {block.name}",
                    got=str(block.most),
                    remedy="use a ring of 64 bits, fewer sites or smaller declared cohorts",
                    code="ring-overflow",
                )

    @cached_property
    def digest(self) -> bytes:
        """The terms digest that stands in RoundCtx, 32 bytes."""
        blocks = [framed(block.name.encode(), struct.pack(">QQ", block.length, block.most)) for block in self.blocks]
        return sha256(framed(b"terms", struct.pack(">HH", self.bits, self.members), self.outer, *blocks)).digest()

    @property
    def largest(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    @property
    def length(self) -> int:
        return sum(block.length for block in self.blocks)

    @property
    def dtype(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        return np.dtype("<u4") if self.bits == 32 else np.dtype("<u8")

    @property
    def byte_length(self) -> int:
        return self.length * self.bits // 8

    def open_sum(self, total: Ring, members: int) -> list[NDArray[np.int64]]:
        """The blocks of an unmasked sum, as signed integers.

        Raises:
            InputError: the vector is not of these terms.
            ProtocolError: a coordinate is beyond what so many members could have made; nobody can be named.
        """
        if total.shape != (self.length,) or total.dtype != self.dtype or not 1 <= members <= self.members:
            raise InputError("a sum does not fit its terms", expected=f"({self.length},)", got=str(total.shape))
        signed = total.view("<i4" if self.bits == 32 else "<i8")
        opened, start = [], 0
        for block in self.blocks:
            part = signed[start : start + block.length]
            start += block.length
            # Both ends: the absolute value of the least integer is not representable.
            if int(part.max()) > members * block.most or int(part.min()) < -members * block.most:
                raise ProtocolError(
                    f"the sum's {block.name} is beyond what its {members} sites could have made",
                    expected=f"at most {members * block.most} in a coordinate",
                    remedy="a site sent a false vector, or sites were asked for different things; nobody can be named",
                    code="sum-out-of-bounds",
                    lie=False,
                )
            opened.append(part.astype(np.int64))
        return opened


def most_per_member(bits: int, members: int) -> int:
    """The largest `most` with n · most ≤ 2^(b−1) − 1, and exact in float64: 10 737 418 for n = 200 at 32 bits."""
    return min(int(2 ** (bits - 1) - 1) // members, _EXACT)


def clipping_factor(values: NDArray[np.float32] | NDArray[np.float64], bound: float) -> float:
    """min(1, bound / ‖values‖₂), in float64.

    Raises:
        InputError: a value is not finite, the values are no vector of floats, or the bound is not above 0.
    """
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise InputError("the update is no vector of floats", expected="(d,) float32 or float64", code="wrong-shape")
    if not (math.isfinite(bound) and bound > 0):
        raise InputError("the update's bound is not above 0", got=repr(bound))
    square = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # looked at below
        for start in range(0, values.size, _STEP):
            part = values[start : start + _STEP].astype(np.float64)
            square += float(part @ part)
    if not math.isfinite(square):
        # Squares of finite numbers can overflow; say which it was.
        if not np.isfinite(values).all():
            raise InputError("the update holds a number that is not finite", code="not-finite")
        raise InputError("the update is too large to be measured", code="out-of-bounds")
    norm = math.sqrt(square)
    return 1.0 if norm <= bound else bound / norm


def encode(
    values: NDArray[np.float32] | NDArray[np.float64],
    *,
    bound: float,
    weight: float,
    grid: float,
    most: int,
    out: Ring,
    entropy: Entropy,
) -> bool:
    """Clip, weigh and round a vector of reals into the ring.

    Args:
        values: shape (d,), the update.
        bound: the largest L2 norm that it may have before it is weighed.
        weight: what it is multiplied by, above 0.
        grid: the real value of one unit of the ring.
        most: the largest absolute integer of a coordinate.
        out: shape (d,), written.
        entropy: gives the key of the rounding's keystream.

    Returns:
        Whether the vector was longer than the bound, and was clipped.

    Raises:
        InputError: a value is not finite, or the shapes or terms do not fit. Nothing was written then.
    """
    factor = clipping_factor(values, bound)
    _check_out(out, most)
    scale = factor * weight / grid if math.isfinite(grid) and grid > 0 else math.nan
    # The largest product must stay finite too: 0 · ∞ is no number, and would pass for one in the ring.
    if not (math.isfinite(weight) and weight > 0 and scale > 0 and math.isfinite(scale * max(bound, 1.0))):
        raise InputError("a weight or grid is out of range", got=f"{weight!r} and {grid!r}")
    if out.shape != values.shape:
        raise InputError("the update has the wrong size", expected=str(out.shape), got=str(values.shape))
    signed = out.view("<i4" if out.dtype.itemsize == 4 else "<i8")
    stream = keystream(entropy(32))
    for start in range(0, values.size, _STEP):
        part = values[start : start + _STEP].astype(np.float64)
        part *= scale
        np.clip(part, -most, most, out=part)
        low = np.floor(part)
        part -= low
        part *= 2.0**32
        draws = np.frombuffer(stream.update(bytes(4 * part.size)), dtype="<u4")
        low += draws < part
        signed[start : start + _STEP] = low
    return factor < 1.0


def _check_out(out: Ring, most: int) -> None:
    if not isinstance(out, np.ndarray) or out.dtype not in (np.dtype("<u4"), np.dtype("<u8")) or out.ndim != 1:
        raise InputError("the output is no vector of the ring", expected="(m,) uint32 or uint64")
    limit = min(int(2 ** (8 * out.dtype.itemsize - 1) - 1), _EXACT)
    if type(most) is not int or not 1 <= most <= limit:
        raise InputError("a coordinate's limit does not fit the ring", expected=f"1 to {limit}", got=repr(most))


def repeatable(values: NDArray[np.float32] | NDArray[np.float64]) -> Entropy:
    """Entropy for `encode` that follows from the vector alone: a vector that is rounded again is rounded alike.

    For vectors that carry no noise and that no ε speaks of: an attempt that is repeated then says nothing new of them, and its
    sum is the same, bit by bit. Whoever knows the vector could foretell its rounding, and has nothing to learn from it.
    """
    seed = sha256(b"fedward rounding" + np.ascontiguousarray(values).tobytes()).digest()
    return lambda size: shake_256(seed).digest(size)


def encode_counts(counts: NDArray[np.int64], most: int, out: Ring, *, least: int = 0) -> None:
    """Put counts, shape (h,), into the ring as they are; noised ones may be negative.

    Raises:
        InputError: another shape or type, or a count that is below `least`, which is at least −most, or above `most`.
    """
    _check_out(out, most)
    if not isinstance(counts, np.ndarray) or counts.dtype != np.int64 or counts.shape != out.shape:
        raise InputError("the counts have the wrong shape or type", expected=f"{out.shape} int64", code="wrong-shape")
    if counts.size and not (int(counts.min()) >= max(least, -most) and int(counts.max()) <= most):
        raise InputError("a count is out of bounds", expected=f"{max(least, -most)} to {most}", code="out-of-bounds")
    out[:] = counts.astype(out.dtype)  # a negative one is read back as what it is: two's complement


def encode_noised(values: NDArray[np.int64], out: Ring) -> None:
    """Put integers that carry their noise, shape (d,), into the ring: modulo 2^b, nothing clamped and nothing refused for its size.

    The noise may be of any size, and to treat its rare large values otherwise would change its distribution.

    Raises:
        InputError: another shape or type: only what was rounded and noised before is of integers.
    """
    _check_out(out, 1)
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.shape != out.shape:
        raise InputError(
            "the noised sum has the wrong shape or type", expected=f"{out.shape} int64", code="wrong-shape"
        )
    out[:] = values.astype(np.uint64).astype(out.dtype)
