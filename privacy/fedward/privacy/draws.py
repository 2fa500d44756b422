"""Randomness for differential privacy: Gaussian noise and Poisson sampling from a cryptographic keystream.

A statistical generator (PCG, Mersenne Twister, a seeded torch generator) can be reconstructed from its outputs, and then
the noise can be subtracted. `SecureDraws` uses AES-256 in counter mode keyed by the operating system for every refill of
its buffer, so that no key outlives its buffer. There is no seeded variant here, on purpose: a hospital's node
must have no way to load one.

Gaussian draws follow Opacus's secure mode (`opacus.optimizers.optimizer._generate_noise`, after Holohan & Braghin,
"Secure Random Sampling in Differential Privacy", arXiv 2107.10138): the sum of four independent normals, halved. It
hardens the draw against searching the floating-point grid for the inputs that can have produced an output (Mironov, "On
significance of the least significant bits for differential privacy", CCS 2012). **Residual risk**: this is no proof.
The sum still lives on a floating-point grid, a normal here never exceeds 12.2 σ (a change of its distribution of about
2^-106), and the time a draw takes is not proven independent of its value. A discrete Gaussian has none of the first two.
Python also cannot promise that a temporary copy of the keystream is gone from memory.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedward.privacy.discrete import discrete_gaussian
from fedward.privacy.errors import InputError

_WORD = 8
_BUFFER_BYTES = 1 << 18
# Outputs of one Gaussian block: its temporaries stay in a core's cache.
_BLOCK = 1 << 13
_ZEROS = bytes(1 << 18)
# The least square of a pair's distance from the origin; below lies only the origin, where the logarithm has no value.
_LEAST_SQUARE = 2.0**-106


class Draws(Protocol):
    """What a mechanism needs to draw. A node is given `SecureDraws`; simulations and tests may inject their own."""

    def uniform(self, n: int) -> NDArray[np.float64]:
        """`n` independent uniforms in the open interval (0, 1)."""
        ...

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        """Independent N(0, sigma²) draws of the given shape; `sigma` in the units of the result."""
        ...

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        """`n` independent coins that are true with probability `q`: one Poisson sample of n patients."""
        ...

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        """`n` independent draws of N_Z(0, deviation²); `deviation` in units of the integers."""
        ...


def _count(n: int, name: str) -> int:
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
        raise InputError(f"{name} is no count", expected="a whole number of at least 0", got=repr(n))
    return int(n)


def _keystream(size: int) -> bytes:
    """`size` fresh bytes; the key is drawn for this call and dropped with it."""
    cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
    return cipher.update(memoryview(_ZEROS)[:size] if size <= len(_ZEROS) else bytes(size))


class SecureDraws:
    """Draws from a cryptographic keystream. Safe to share between threads; a forked child starts afresh.

    Small requests are cut from a buffer whose used part is overwritten at once; larger ones get a keystream of their own.
    Copying or pickling is refused: a copy would repeat the original's noise.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._used = 0
        _live.add(self)

    def __reduce__(self) -> tuple[type[SecureDraws], tuple[()]]:
        raise InputError("secure draws cannot be copied or sent", remedy="make new ones where they are needed")

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Independent uniforms on the grid of 2^-53, open at both ends.

        Args:
            n: how many.

        Returns:
            float64 of shape (n,). The grid's 0 is moved to 2^-54, so that a logarithm is finite.

        Raises:
            InputError: `n` is no whole number of at least 0.
        """
        return self._uniform(_count(n, "n"))

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        """Independent Gaussian noise, each value the halved sum of four normals.

        Args:
            shape: the shape of the result.
            sigma: standard deviation, in the units of the result (σC for a noise multiplier σ and clipping norm C).

        Returns:
            float64 of that shape.

        Raises:
            InputError: a dimension is no count, or `sigma` is no finite positive number.
        """
        dimensions = shape if isinstance(shape, tuple) else (shape,)
        size = math.prod(_count(length, "a dimension of the noise") for length in dimensions)
        if not (math.isfinite(sigma) and sigma > 0):
            raise InputError("the noise has no scale", expected="a finite sigma above 0", got=repr(sigma))
        result = np.empty(size)
        for start in range(0, size, _BLOCK):
            block = result[start : start + _BLOCK]
            block[:] = self._normals(block.size)
        result *= sigma
        return result.reshape(dimensions)

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        """One Poisson sample: each of `n` patients is in it with probability `q`, independently.

        Args:
            n: how many patients.
            q: sampling rate in (0, 1]. The rate drawn is at most 2^-64 below it.

        Returns:
            bool of shape (n,).

        Raises:
            InputError: `n` is no count or `q` is outside (0, 1].
        """
        if not (math.isfinite(q) and 0 < q <= 1):
            raise InputError("the sampling rate is no probability", expected="a number in (0, 1]", got=repr(q))
        count = _count(n, "n")
        if q == 1:
            return np.ones(count, dtype=np.bool_)
        # q·2^64 is exact in binary floating point but for a last fraction, which is cut off.
        words = np.frombuffer(self._bytes(count * _WORD), dtype=np.uint64)
        sampled: NDArray[np.bool_] = np.less(words, np.uint64(int(q * 2**64)))
        return sampled

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        """Independent draws of N_Z(0, deviation²), shape (n,), exact; arguments and errors as in `discrete`."""
        return discrete_gaussian(n, deviation)

    def _normals(self, n: int) -> NDArray[np.float64]:
        """`n` standard normals, each half the sum of four from four different pairs, by Marsaglia & Bray's polar method.

        A pair's two normals must not meet in one output: their sum is a single scaled normal, and would protect nothing.
        The offsets of one and two keep all four apart and let no two outputs share two pairs. Which tries are rejected says
        nothing of the values that are kept.
        """
        pairs = n + 2
        x, y, square = self._inside(2 * pairs)
        factor = np.log(square)
        factor /= square
        factor *= -0.5
        np.sqrt(factor, out=factor)
        x *= factor
        y *= factor
        total: NDArray[np.float64] = x[:n] + x[pairs : pairs + n]
        total += y[1 : n + 1]
        total += y[pairs + 2 :]
        return total

    def _inside(self, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """`n` uniform points of the unit disc: x, y and x² + y², of shape (n,)."""
        tries = int(n * 1.2733 + 8 * math.sqrt(n)) + 16  # too few once in 10^8 times
        points = self._signed(2 * tries).reshape(2, tries)
        square = points * points
        distance = square[0]
        distance += square[1]
        inside = np.flatnonzero(distance < 1.0)[:n]
        found = points[0].take(inside), points[1].take(inside), np.maximum(distance.take(inside), _LEAST_SQUARE)
        if len(inside) == n:
            return found
        more = self._inside(n - len(inside))
        return tuple(np.concatenate(both) for both in zip(found, more, strict=True))  # type: ignore[return-value]

    def _signed(self, n: int) -> NDArray[np.float64]:
        """`n` uniforms on the grid of 2^-53 in [-1, 1)."""
        words = np.frombuffer(self._bytes(n * _WORD), dtype=np.int64)
        values: NDArray[np.float64] = np.multiply(words >> 10, 2.0**-53)
        return values

    def _uniform(self, n: int) -> NDArray[np.float64]:
        words = np.frombuffer(self._bytes(n * _WORD), dtype=np.uint64)
        values = (words >> np.uint64(11)).astype(np.float64)
        values *= 2.0**-53
        np.maximum(values, 2.0**-54, out=values)
        return values

    def _bytes(self, size: int) -> bytes:
        if size > _BUFFER_BYTES // 4:
            return _keystream(size)
        with self._lock:
            if self._used + size > len(self._buffer):
                self._buffer = bytearray(_keystream(_BUFFER_BYTES))
                self._used = 0
            start, self._used = self._used, self._used + size
            taken = bytes(self._buffer[start : self._used])
            self._buffer[start : self._used] = bytes(size)
            return taken

    def _forget(self) -> None:
        """Drops the buffer. A new lock too: in a forked child the old one may be held by a thread that is not there."""
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._used = 0


_live: weakref.WeakSet[SecureDraws] = weakref.WeakSet()


def _forget_all() -> None:
    for draws in list(_live):
        draws._forget()


# A child of fork holds a copy of the buffer and would draw its parent's noise.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
