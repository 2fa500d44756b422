"""Noise that the sites of a secure sum share, so that the sum carries the noise of a pool. Pure but for the injected draws.

1. A site sums its patients' clipped gradients in float64 and rounds the sum once to the grid γ, to the nearest integer.
   One patient moves that integer vector by at most Δ = (C + γ√d) / γ in L2: the sum by C, each rounding by γ/2 a coordinate.
   Float64's round-off, of far below C · 2^-20, is counted in. γ is at most 0.01 C / √d, and as fine as the ring allows.
2. It adds N_Z(0, σ²) to each coordinate, exact and after rounding, and clamps nothing afterwards: a clamp would bias the noise.
3. σ = z Δ / √m. m honest sites, the patient's own among them, are in every sum that can be opened, so that their noise adds
   up to z Δ or more, and one site's alone is z Δ / √m. `events.SharedEvent` says what that costs, against whom.
4. The ring's wrap-around is after the noise, so it costs no privacy. γ is chosen so that a sum of honest sites wraps with
   probability at most 2^-40. N_Z(0, σ²) is as subgaussian as N(0, σ²): E exp(tX) is exp(t²σ²/2) times a quotient of
   theta sums that Poisson's formula bounds by 1 (Canonne, Kamath & Steinke 2020).

After Kairouz, Liu & Steinke, "The Distributed Discrete Gaussian Mechanism", ICML 2021. Two things differ: a site sums many
patients before it rounds once, so that no conditional rounding is needed, and nothing is rotated or clamped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.discrete import MOST_DEVIATION
from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError, InputError
from fedward.privacy.events import SharedEvent, number

MOST_ROUNDING = 0.01
"""γ√d over C: rounding adds at most this much to the sensitivity."""
WRAP_CHANCE_LOG2 = -40
"""A sum of honest sites wraps around with a chance of at most 2 to this power."""
ROUND_OFF = 2.0**-20
"""What float64 may add to a clipped sum's sensitivity, over C: far above what it does for 1e8 patients."""

# γ = C 2^-24 rounds a million parameters to 6e-5 C: finer would gain nothing, and the noise would outgrow its sampler.
_FINEST = 24


@dataclass(frozen=True)
class SharedNoise:
    """One site's part in a sum with shared noise; every site of the study has the same.

    Attributes:
        clipping_norm: C, the most in L2 that one patient's gradient has.
        step: γ, the real value of one unit of the integers.
        dimension: d, the vector's length.
        sites: m, the honest sites that are sure to be in the sum.
        deviation: σ of a site's noise, in units of the integers.

    Raises:
        InputError: a value is out of its range, or the grid is too coarse: γ√d > 0.01 C.
    """

    clipping_norm: float
    step: float
    dimension: int
    sites: int
    deviation: float

    def __post_init__(self) -> None:
        if not number(self.clipping_norm, "clipping_norm") > 0 or not number(self.step, "step") > 0:
            raise InputError("a clipping norm or a grid is not above 0", got=f"{self.clipping_norm!r}, {self.step!r}")
        if self.dimension < 1 or self.sites < 1:
            raise InputError("a sum has coordinates and sites", got=f"{self.dimension}, {self.sites}")
        if not self.step * math.sqrt(self.dimension) <= MOST_ROUNDING * self.clipping_norm:
            raise InputError(
                "the grid is too coarse for shared noise",
                expected=f"at most {MOST_ROUNDING} C / √d = {MOST_ROUNDING * self.clipping_norm / math.sqrt(self.dimension):.3g}",
                got=f"{self.step:.3g}",
                remedy="use a ring of 64 bits",
                code="ring-overflow",
            )
        if not 0.5 <= self.deviation <= MOST_DEVIATION:
            raise InputError("the noise does not fit the grid", expected="0.5 to 2^40 units", got=repr(self.deviation))

    @property
    def sensitivity(self) -> float:
        """Δ in units of the integers: (C + γ√d) / γ, and float64's round-off."""
        return self.clipping_norm * (1 + ROUND_OFF) / self.step + math.sqrt(self.dimension)

    def event(self, steps: int) -> SharedEvent:
        """What `steps` such sums cost."""
        return SharedEvent(self.deviation / self.sensitivity, self.sites, steps)

    def most_coordinate(self, patients: int, members: int) -> float:
        """The most that a site with so many patients puts into a coordinate, in absolute value.

        Exceeded by none of `members` such sites in any coordinate, but with a chance of 2^-40: 2 n d exp(−λ²/2σ²) of the noise.
        """
        chance = math.log(2 * members * self.dimension) - WRAP_CHANCE_LOG2 * math.log(2)
        return patients * self.clipping_norm / self.step + 1 + self.deviation * math.sqrt(2 * chance)

    def most_norm(self, patients: int, members: int) -> float:
        """The largest L2 norm of a sum of `members` sites with `patients` in all, in reals, but with a chance below 1e-30.

        The noise's norm is at most √n σ (√d + 12): Hsu, Kakade & Zhang 2012, theorem 1, for subgaussian vectors.
        """
        rounding = members * self.step * math.sqrt(self.dimension)
        noise = self.step * self.deviation * math.sqrt(members) * (math.sqrt(self.dimension) + 12)
        return 1.01 * (patients * self.clipping_norm + rounding + noise)


def share_noise(
    noise_multiplier: float,
    *,
    clipping_norm: float,
    dimension: int,
    sites: int,
    patients: int,
    members: int,
    bits: int,
) -> SharedNoise:
    """The finest grid that a ring holds, and the noise for it.

    Args:
        noise_multiplier: z, the pool's noise over the sensitivity.
        clipping_norm: C.
        dimension: d.
        sites: m, the honest sites that are sure to be in the sum.
        patients: the most that one site sums over.
        members: sites of the sum.
        bits: of the ring.

    Raises:
        InputError: a value is out of its range, or no grid of at most 0.01 C / √d holds the sum.
    """
    if not number(noise_multiplier, "noise_multiplier") > 0:
        raise InputError("the noise is not above 0", got=repr(noise_multiplier))
    coarsest = math.ceil(math.log2(math.sqrt(max(dimension, 1)) / MOST_ROUNDING))
    most = min(int(2 ** (bits - 1) - 1) // max(members, 1), 2**52)
    for fineness in range(_FINEST, coarsest - 1, -1):
        # A power of two times C: every site computes the same bits.
        step = clipping_norm / 2.0**fineness
        sensitivity = SharedNoise(clipping_norm, step, dimension, sites, 1.0).sensitivity
        deviation = math.ceil(noise_multiplier * sensitivity / math.sqrt(sites) * (1 + 1e-12))
        if deviation <= MOST_DEVIATION:
            noise = SharedNoise(clipping_norm, step, dimension, sites, float(deviation))
            if noise.most_coordinate(patients, members) <= most:
                return noise
    raise InputError(
        f"the sum of {members} sites could overflow the ring of {bits} bits",
        expected=f"at most {most} in a coordinate, on a grid of at most {MOST_ROUNDING} C / √d",
        remedy="use a ring of 64 bits, fewer sites or smaller declared cohorts",
        code="ring-overflow",
    )


class UnnoisedSum:
    """A site's sum of clipped gradients before its noise. It leaves this object as `noised` integers, and in no other way.

    It is no array, has no elements, and can be neither copied, stored nor sent.
    """

    __slots__ = ("__values",)

    def __init__(self, values: NDArray[np.float64]) -> None:
        """`values`: shape (d,), float64, in reals.

        Raises:
            InputError: another shape or type.
            FedwardError: a value is not finite; nothing of the sum may leave.
        """
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype != np.float64 or not values.size:
            raise InputError("a sum of gradients is a vector", expected="(d,) float64", code="wrong-shape")
        if not np.isfinite(values).all():
            raise FedwardError("the gradients did not stay finite", code="training-diverged")
        self.__values = values

    def noised(self, noise: SharedNoise, draws: Draws) -> NDArray[np.int64]:
        """Rounded to the grid, with this site's noise: integers, shape (d,).

        Raises:
            InputError: the sum has another dimension than the terms, or is too large for integers of 64 bits.
        """
        if self.__values.shape != (noise.dimension,):
            raise InputError("the sum has the wrong size", expected=f"({noise.dimension},)", code="wrong-shape")
        scaled = np.rint(self.__values / noise.step)
        if not float(np.abs(scaled).max()) <= 2.0**52:
            raise InputError("the sum is too large for its grid", code="out-of-bounds")
        return scaled.astype(np.int64) + draws.discrete_gaussian(noise.dimension, noise.deviation)

    def __repr__(self) -> str:
        return "UnnoisedSum(kept here)"

    def __reduce__(self) -> NoReturn:
        raise InputError("an un-noised sum cannot be copied, stored or sent", remedy="call noised")
