"""Masks: AES-256-CTR keystreams added to, or taken from, a vector of ring integers. Pure.

A mask's key is used for this one keystream, so the counter starts at 0 (NIST SP 800-38A, section 6.5). A keystream is read as
little-endian words of the ring. The vector is walked once, a block at a time that stays in a core's cache together with
its keystream; every mask is applied to a block before the next block is touched.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from fedward.privacy.errors import InputError

Ring = NDArray[np.uint32] | NDArray[np.uint64]
_BLOCK_BYTES = 1 << 16
_CIPHER_BLOCK = 16
_COUNTER = bytes(_CIPHER_BLOCK)
_ZEROS = memoryview(bytes(_BLOCK_BYTES))


def keystream(key: bytes) -> CipherContext:
    """The stream of a 32-byte key, from its beginning."""
    return Cipher(algorithms.AES(key), modes.CTR(_COUNTER)).encryptor()


def check(vector: Ring) -> None:
    """
    Raises:
        InputError: not one-dimensional, of another type or byte order, not contiguous, or not writable.
    """
    if vector.ndim != 1 or vector.dtype not in (np.dtype("<u4"), np.dtype("<u8")):
        raise InputError("a vector of the ring is needed", expected="(m,) uint32 or uint64", got=str(vector.dtype))
    if not (vector.flags.c_contiguous and vector.flags.writeable):
        raise InputError("a contiguous, writable vector is needed")


def apply(vector: Ring, masks: Iterable[tuple[bytes, bool]]) -> None:
    """Add masks to a vector in place, modulo its ring.

    Args:
        vector: shape (m,), uint32 or uint64, little endian, contiguous and writable.
        masks: each a 32-byte key and whether its mask is subtracted.

    Raises:
        InputError: the vector is of another kind.
    """
    check(vector)
    streams = [(keystream(key).update_into, np.subtract if minus else np.add) for key, minus in masks]
    word = vector.dtype.itemsize
    buffer = bytearray(_BLOCK_BYTES + _CIPHER_BLOCK - 1)
    whole = np.frombuffer(buffer, dtype=vector.dtype, count=_BLOCK_BYTES // word)
    step = _BLOCK_BYTES // word
    for start in range(0, vector.size, step):
        block = vector[start : start + step]
        zeros = _ZEROS[: block.size * word]
        mask = whole[: block.size]
        for expand, combine in streams:
            expand(zeros, buffer)
            combine(block, mask, out=block)
