"""A model's parameters as one vector, without torch, which takes a second to import: most commands only name a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.canonical import digest
from fedward.study.messages import floats_to_bytes

Vector: TypeAlias = NDArray[np.float32]
"""Parameters, shape (d,)."""


BLOCK: Final = 1 << 20
"""Parameters that are worked on at a time where a large model would need a second copy of itself."""


def blocks(size: int) -> Iterator[slice]:
    """The whole of a vector's indices, in order."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def norm(vector: Vector) -> float:
    """The L2 norm, summed in float64; not finite where a parameter is not."""
    squares = (float(np.square(vector[part], dtype=np.float64).sum()) for part in blocks(len(vector)))
    return math.sqrt(sum(squares))


def vector_digest(vector: Vector) -> str:
    """The name of a model: SHA-256 of its parameters' wire bytes."""
    return digest(floats_to_bytes(vector))
