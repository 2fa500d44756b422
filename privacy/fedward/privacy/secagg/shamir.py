"""Shamir's secret sharing over a prime field wide enough for a 256-bit secret. Pure.

Shamir, "How to share a secret", CACM 1979: f(x) = s + a₁x + … + a_{t−1}x^{t−1} over GF(P), share i is f(i), i = 1…n. Any t
shares give s = Σ λᵢ f(i) with λᵢ = Π_{j≠i} j / (j − i); t − 1 shares say nothing about s.

    1. P = 2²⁵⁶ + 297, the smallest prime above 2²⁵⁶: every 32-byte string is a secret, without rejection.
    2. Coefficients are uniform on the field but for 2⁻¹³⁰ (49 random bytes mod P, as RFC 9380, section 5.1, asks).
    3. The λᵢ depend on the set of shares alone: they are computed once for all secrets of a survivor set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from fedward.privacy.errors import InputError

P = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
_COEFFICIENT_BYTES = 49

Entropy = Callable[[int], bytes]
"""Gives that many unpredictable bytes: `os.urandom` at a site, something scripted in a test."""


def split(secret: bytes, threshold: int, members: int, entropy: Entropy) -> list[bytes]:
    """Deal a secret.

    Args:
        secret: 32 bytes.
        threshold: shares that give it back; fewer say nothing.
        members: how many shares.
        entropy: fresh randomness for the coefficients.

    Returns:
        Shares 1…n, 33 bytes each, big endian.

    Raises:
        InputError: the secret is not 32 bytes, or 1 ≤ threshold ≤ members does not hold.
    """
    if len(secret) != SECRET_BYTES:
        raise InputError("a secret has the wrong length", expected=f"{SECRET_BYTES} bytes", got=f"{len(secret)}")
    if not 1 <= threshold <= members:
        raise InputError("the threshold does not fit", expected=f"1 to {members}", got=str(threshold))
    size = _COEFFICIENT_BYTES * (threshold - 1)
    raw = entropy(size)
    if len(raw) != size:
        raise InputError("the source of randomness gave too little", expected=f"{size} bytes", got=f"{len(raw)}")
    descending = [
        int.from_bytes(raw[start : start + _COEFFICIENT_BYTES], "big") % P
        for start in range(0, size, _COEFFICIENT_BYTES)
    ]
    descending.append(int.from_bytes(secret, "big"))
    return [_evaluate(descending, x).to_bytes(SHARE_BYTES, "big") for x in range(1, members + 1)]


def _evaluate(descending: Sequence[int], x: int) -> int:
    # x is small, so a number that is not reduced grows by a byte a step: one reduction at the end is faster.
    value = 0
    for coefficient in descending:
        value = value * x + coefficient
    return value % P


def to_element(share: bytes) -> int:
    """A share as a field element.

    Raises:
        InputError: not 33 bytes, or not below P.
    """
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= P:
        raise InputError("a share is no element of the field", expected=f"{SHARE_BYTES} bytes below P")
    return value


def coefficients(points: Sequence[int]) -> list[int]:
    """λᵢ for the shares at these points, in their order.

    Raises:
        InputError: no point, a point outside 1…P − 1, or one twice.
    """
    if not points or len(set(points)) != len(points) or not all(1 <= x < P for x in points):
        raise InputError("shares must be at different points above 0", got=str(list(points)))
    # Points are small, and so are these products: one reduction at the end is faster.
    return [prod(j for j in points if j != i) * pow(prod(j - i for j in points if j != i), -1, P) % P for i in points]


def combine(elements: Sequence[int], lambdas: Sequence[int]) -> int:
    """The secret as a field element: Σ λᵢ sᵢ mod P. It may exceed 32 bytes if a dealer lied.

    Raises:
        InputError: not one coefficient a share.
    """
    if len(elements) != len(lambdas):
        raise InputError("there must be one coefficient a share", got=f"{len(elements)} and {len(lambdas)}")
    return sum(share * weight for share, weight in zip(elements, lambdas, strict=True)) % P
