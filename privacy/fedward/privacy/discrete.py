"""The discrete Gaussian N_Z(0, σ²), drawn exactly: OpenDP's sampler, over the operating system's random generator.

Canonne, Kamath & Steinke 2020, algorithm 3. Integers on integers: no floating-point grid, so nothing to search (Mironov 2012).
OpenDP is entered here only. About 25 µs a draw.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError

MOST_DEVIATION = 2.0**40
"""Above this a draw could leave the 64 bits that it is added in, with a probability that is not negligible."""


def discrete_gaussian(n: int, deviation: float) -> NDArray[np.int64]:
    """`n` independent draws, shape (n,).

    Args:
        n: how many.
        deviation: σ, in units of the integers that the noise is added to.

    Raises:
        InputError: `n` is no count, or `deviation` is not in (0, 2^40].
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
        raise InputError("the noise has no length", expected="a whole number of at least 0", got=repr(n))
    if not (math.isfinite(deviation) and 0 < deviation <= MOST_DEVIATION):
        raise InputError("the noise has no scale", expected="a number in (0, 2^40]", got=repr(deviation))
    return np.array(_mechanism(float(deviation))([0] * int(n)), dtype=np.int64)


@lru_cache(maxsize=64)
def _mechanism(deviation: float) -> Any:
    from opendp.domains import atom_domain, vector_domain  # noqa: PLC0415 - loads a library of 60 MB
    from opendp.measurements import make_gaussian  # noqa: PLC0415
    from opendp.metrics import l2_distance  # noqa: PLC0415
    from opendp.mod import enable_features  # noqa: PLC0415

    enable_features("contrib")
    return make_gaussian(vector_domain(atom_domain(T="i64")), l2_distance(T="f64"), scale=deviation)
