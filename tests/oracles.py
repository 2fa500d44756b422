"""Slow ways to the same bytes: key derivation from HMAC alone, keystreams from the bare block cipher."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def hkdf(secret: bytes, info: bytes, size: int = 32) -> bytes:
    """HKDF-SHA-256 without a salt (RFC 5869)."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    output = block = b""
    for counter in range(1, -(-size // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([counter]), "sha256")
        output += block
    return output[:size]


def ctr(key: bytes, size: int, first: int = 0) -> bytes:
    """An AES keystream: each counter block, from the first on, through the cipher (NIST SP 800-38A, section 6.5)."""
    ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - each block is another counter
    counters = range(first, first + -(-size // 16))
    return ecb.update(b"".join((counter % 2**128).to_bytes(16, "big") for counter in counters))[:size]


def words(key: bytes, bits: int, count: int) -> list[int]:
    """A keystream as little-endian words."""
    size = bits // 8
    whole = ctr(key, count * size)
    return [int.from_bytes(whole[at : at + size], "little") for at in range(0, count * size, size)]
