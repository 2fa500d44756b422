"""Fast draws of a simulation that a seed repeats: a cryptographic keystream under a key that is made of the seed.

The stream is AES-256 in counter mode, as on a node, but whoever knows the seed knows the noise: see `UnsafeSeededDraws`. Normals
are Box & Muller's (1958) in float32, some 3 ns each; one in 10^11 would lie beyond the largest, 6.6 σ. A node's draws cost ten
times that, for they hide how floating point rounds them, which nobody attacks here.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.simulations.baselines import UnsafeSeededDraws

_BLOCK = 1 << 14
_RARE = 1 / 32
"""A rate below which heads are drawn, and not coins."""
_HEADS = 256
_ZEROS = bytes(8 * _BLOCK)
_TURN = np.float32(2 * math.pi)


class UnsafeKeyedDraws(UnsafeSeededDraws):
    """Draws of a keystream that a seed repeats to the bit, on any machine."""

    def __init__(self, *seed: int) -> None:
        """Whole numbers of at least 0; each sequence of them gives a stream of its own."""
        super().__init__(*seed)
        name = "fedward/simulation/draws/" + ",".join(f"{int(part)}" for part in seed)
        self._name, self._rare = name, dict[float, _RareHeads]()
        self._cipher, self._ties = _keystream(name), _keystream(f"{name}/ties")

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Uniforms on the grid of 2^-53, shape (n,), in (0, 1)."""
        values = (self._words(n) >> np.uint64(11)) * 2.0**-53
        np.maximum(values, 2.0**-54, out=values)
        return np.asarray(values, dtype=np.float64)

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        """N(0, sigma²) of the given shape, in float32's precision.

        Raises:
            InputError: `sigma` is no finite positive number.
        """
        if not (math.isfinite(sigma) and sigma > 0):
            raise InputError("the noise has no scale", expected="a finite sigma above 0", got=repr(sigma))
        values = np.empty(shape, dtype=np.float32)
        flat = values.reshape(-1)
        for start in range(0, flat.size, 2 * _BLOCK):
            self._normals(flat[start : start + 2 * _BLOCK])
        values *= np.float32(sigma)
        return values.astype(np.float64)

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        """One Poisson sample of n patients at rate q, shape (n,). n and then m coins are those of n + m.

        Two bytes decide a coin, but for one in 65 536 that needs four more; coins of a small rate are given by `heads`.
        """
        if q >= 1:
            return np.ones(n, dtype=np.bool_)
        if q < _RARE:
            found = np.zeros(n, dtype=np.bool_)
            found[self.heads(n, q)] = True
            return found
        whole = int(q * 2**16)
        words = np.frombuffer(self._bytes(2 * n), dtype=np.uint16)
        found = np.less(words, np.uint16(whole))
        ties = np.flatnonzero(words == np.uint16(whole))
        if len(ties):
            more = np.frombuffer(self._ties.update(bytes(4 * len(ties))), dtype=np.uint32)
            found[ties] = more < np.uint32((q * 2**16 - whole) * 2**32)
        return found

    def heads(self, n: int, q: float) -> NDArray[np.int64]:
        """Where the heads of `bernoulli`'s n coins lie, in order: of a small rate without a look at the tails."""
        if q >= _RARE:
            return np.flatnonzero(self.bernoulli(n, q))
        if q not in self._rare:
            self._rare[q] = _RareHeads(_keystream(f"{self._name}/rare/{q.hex()}"), q)
        return self._rare[q].next(n)

    def _normals(self, out: NDArray[np.float32]) -> None:
        half = (out.size + 1) // 2
        words = np.frombuffer(self._bytes(8 * half), dtype=np.uint32).astype(np.float32)
        words += np.float32(0.5)
        words *= np.float32(2.0**-32)
        radius, angle = words[:half], words[half:]
        np.minimum(
            radius, np.float32(1 - 2.0**-24), out=radius
        )  # float32 rounds the last of them up to 1, whose radius is 0
        np.log(radius, out=radius)
        radius *= np.float32(-2)
        np.sqrt(radius, out=radius)
        angle *= _TURN
        np.multiply(radius, np.cos(angle), out=out[:half])
        rest = out.size - half
        np.multiply(radius[:rest], np.sin(angle[:rest]), out=out[half:])

    def _words(self, n: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._bytes(8 * n), dtype=np.uint64)

    def _bytes(self, size: int) -> bytes:
        return self._cipher.update(memoryview(_ZEROS)[:size] if size <= len(_ZEROS) else bytes(size))


class _RareHeads:
    """Coins of one small rate, told by their heads: the tails before each are geometric (Devroye 1986, X.2)."""

    def __init__(self, cipher: CipherContext, q: float) -> None:
        self._cipher, self._q, self._scale = cipher, q, 1 / math.log1p(-q) if q > 0 else -math.inf
        self._ahead: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # heads that nobody has asked for yet
        self._end = 0  # of the coins that are known, from the next one on

    def next(self, n: int) -> NDArray[np.int64]:
        """The heads of the next n coins."""
        parts = [self._ahead]
        while self._end < n:
            number = max(_HEADS, math.ceil(1.1 * (n - self._end) * self._q))  # how many at once changes no draw
            words = np.frombuffer(self._cipher.update(bytes(8 * number)), dtype=np.uint64)
            uniform = (words >> np.uint64(11)) * 2.0**-53 + 2.0**-54
            tails = np.minimum(np.log(uniform) * self._scale, 2.0**40).astype(np.int64)  # of a rate of 0 a great many
            parts.append(self._end - 1 + np.cumsum(tails + 1))
            self._end = int(parts[-1][-1]) + 1
        known = np.concatenate(parts) if len(parts) > 1 else self._ahead
        cut = int(np.searchsorted(known, n))
        self._ahead, self._end = known[cut:] - n, self._end - n
        return known[:cut]


def _keystream(name: str) -> CipherContext:
    key = hashlib.sha256(name.encode()).digest()
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
