"""A model's parameters as one vector, without torch, which takes a second to import: most commands only name a model."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.canonical import digest
from fedward.study.messages import floats_to_bytes

Vector: TypeAlias = NDArray[np.float32]
"""Parameters, shape (d,)."""


def vector_digest(vector: Vector) -> str:
    """The name of a model: SHA-256 of its parameters' wire bytes."""
    return digest(floats_to_bytes(vector))
