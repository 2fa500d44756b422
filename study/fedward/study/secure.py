"""What one secure sum asks of its members, derived from the sealed manifest alone: both sides compute it, neither sends it.

The vector is (update, histogram), each present when the round trains or evaluates. Site i puts its update into the ring as
    uᵢ · (Nᵢ / N_max) / grid,   Nᵢ its declared training cohort, N_max the roster's largest,
so that the sum over the survivors S, times grid · N_max / Σ_S Nᵢ, is Δ = Σ Nᵢ uᵢ / Σ Nᵢ. There is no coordinate for weights:
they are the approval's constants. The update bound Bᵢ is the manifest's; left out, it is what clipping and noise can reach
(`terms.most_update`), or 100 without differential privacy. The grid is the finest that lets n sites at their bounds not wrap.

With shared noise a site puts its sum of clipped gradients, integers already and noised, into the ring as it is. One unit is then
worth −lr γ / N_max, so that the same division by Σ_S Nᵢ / N_max gives Δ = −lr γ Σ zᵢ / Σ Nᵢ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.canonical import digest_of
from fedward.privacy.errors import InputError
from fedward.privacy.secagg.contexts import Batch, least_threshold
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.secagg.masks import Ring
from fedward.privacy.secagg.ring import Block, RingTerms, encode, encode_counts, encode_noised, most_per_member
from fedward.privacy.secagg.shamir import Entropy
from fedward.privacy.shared_noise import SharedNoise
from fedward.study.evaluation import most_noise
from fedward.study.manifest import BaseSealed, SealedManifest
from fedward.study.metrics import Counts
from fedward.study.shared import shared_noise
from fedward.study.terms import DEFAULT_BOUND, most_patients, most_update, site_terms, training_cohort
from fedward.study.votes import fit_together, given_shape, voted_features

_UPDATE, _HISTOGRAM = "update", "histogram"


@dataclass(frozen=True)
class SecureTerms:
    """The ring's terms, and what turns a site's numbers into ring integers and a sum back into numbers.

    Attributes:
        ring: bits, members, blocks; its digest, which RoundCtx binds every member's masks to, covers all the rest.
        grid: the weighted update that one unit stands for; below 0 with shared noise, as updates go against gradients.
        weights: Nᵢ / N_max of each site of the roster, in (0, 1].
        bounds: Bᵢ, the largest L2 norm of each site's update.
        shape: that of the counts (`votes.given_shape`), or None when the round does not evaluate.
        noise: the noise that sites share, or None where an update is a vector of reals.
        count_noise: what a site's noise adds to a count at most, up or down; 0 where counts carry none.
        voted: the features that patients vote for; 0 without votes.
    """

    ring: RingTerms
    grid: float
    weights: dict[str, float]
    bounds: dict[str, float]
    shape: tuple[int, ...] | None
    noise: SharedNoise | None = None
    count_noise: int = 0
    voted: int = 0

    def encode(
        self,
        site: str,
        update: NDArray[np.float32] | NDArray[np.int64] | None,
        counts: Counts | None,
        entropy: Entropy,
    ) -> tuple[Ring, bool]:
        """A site's vector in the ring, shape (m,), and whether its update was clipped to the bound.

        Raises:
            InputError: a part is missing or superfluous, not finite, or of another shape.
        """
        names = {block.name for block in self.ring.blocks}
        if {_UPDATE} & names != ({_UPDATE} if update is not None else set()) or (counts is None) != (
            self.shape is None
        ):
            raise InputError("the vector has other parts than its terms", expected=", ".join(names), code="wrong-shape")
        vector: Ring = np.zeros(self.ring.length, dtype=self.ring.dtype)
        clipped, start = False, 0
        for block in self.ring.blocks:
            part = vector[start : start + block.length]
            start += block.length
            if block.name == _UPDATE and update is not None and self.noise is not None:
                encode_noised(update, part)  # type: ignore[arg-type]  # another type is refused there
            elif block.name == _UPDATE and update is not None:
                clipped = encode(
                    update,  # type: ignore[arg-type]  # another type is refused there
                    bound=self.bounds[site],
                    weight=self.weights[site],
                    grid=self.grid,
                    most=block.most,
                    out=part,
                    entropy=entropy,
                )
            elif counts is not None:
                encode_counts(counts.reshape(-1), block.most, part, least=-self.count_noise)
        return vector, clipped

    def decode(
        self, blocks: Sequence[NDArray[np.int64]], survivors: Sequence[str]
    ) -> tuple[NDArray[np.float64] | None, Counts | None]:
        """Δ, shape (d,), and the summed histogram, from an opened sum; each None when it was not asked for.

        Raises:
            ProtocolError: the sum is beyond what its survivors could honestly make; nobody can be named.
        """
        delta: NDArray[np.float64] | None = None
        counts: Counts | None = None
        for block, values in zip(self.ring.blocks, blocks, strict=True):
            if block.name == _UPDATE:
                total = values.astype(np.float64) * self.grid
                self._check_norm(total, survivors)
                delta = total / sum(self.weights[site] for site in survivors)
            elif self.shape is not None:
                counts = values.reshape(self.shape)
                _check_counts(counts, self.count_noise * len(survivors), self.voted)
        return delta, counts

    def _check_norm(self, total: NDArray[np.float64], survivors: Sequence[str]) -> None:
        # Rounding moves each coordinate of each site by less than one unit.
        rounding = abs(self.grid) * math.sqrt(total.size) * len(survivors)
        most = sum(self.weights[site] * self.bounds[site] for site in survivors) + rounding
        norm = float(np.linalg.norm(total))
        if not norm <= most * (1 + 1e-9):
            raise _beyond(f"the summed update has a norm of {norm:.4g}, its sites' bounds allow {most:.4g}")


def secure_terms(sealed: SealedManifest, members: int, *, dimension: int, train: bool, evaluate: bool) -> SecureTerms:
    """The terms of a round for a cohort of so many members.

    Raises:
        InputError: the sum could wrap: too many sites or patients for the ring.
    """
    largest = max(training_cohort(sealed, entry.site) for entry in sealed.roster)
    weights = {entry.site: training_cohort(sealed, entry.site) / largest for entry in sealed.roster}
    bits = sealed.manifest.privacy.ring_bits
    most = most_per_member(bits, members)
    noise = shared_noise(sealed, dimension)
    bounds = {entry.site: update_bound(sealed, entry.site, dimension) for entry in sealed.roster}
    shape = given_shape(sealed.manifest) if evaluate else None
    count_noise = most_noise(sealed) if evaluate else 0
    blocks: list[Block] = []
    if train:
        blocks.append(Block(_UPDATE, dimension, most))
    if shape is not None:
        patients = max(most_patients(sealed, entry.site) for entry in sealed.roster)
        blocks.append(Block(_HISTOGRAM, math.prod(shape), patients + count_noise))
    if noise is None:
        grid = max(weights[site] * bounds[site] for site in weights) / most
    else:
        grid = -site_terms(sealed, sealed.roster[0].site).learning_rate * noise.step / largest
    outer = {
        "grid": grid,
        "weights": weights,
        "bounds": bounds,
        "shape": list(shape) if shape else None,
        "count_noise": count_noise,
    }
    if noise is not None:
        outer["deviation"] = noise.deviation
    ring = RingTerms(bits, members, tuple(blocks), bytes.fromhex(digest_of(outer)))
    voted = voted_features(sealed.manifest) if evaluate else 0
    return SecureTerms(ring, grid, weights, bounds, shape, noise, count_noise, voted)


def update_bound(sealed: SealedManifest, site: str, dimension: int) -> float:
    """B: the largest L2 norm of a site's update in a secure sum."""
    noise = shared_noise(sealed, dimension)
    if noise is not None:
        rate = site_terms(sealed, site).learning_rate
        return rate * noise.most_norm(most_patients(sealed, site), 1) / training_cohort(sealed, site)
    given = sealed.manifest.privacy.update_bound
    if given is not None:
        return given
    reachable = most_update(sealed, site, dimension)
    return reachable if math.isfinite(reachable) else DEFAULT_BOUND


def batch_of(sealed: BaseSealed, name: str, cohort: Sequence[str], threshold: int, slots: int) -> Batch:
    """A batch over sites of the roster, with the keys and the quorum that the hospital approved.

    Raises:
        ProtocolError: a site is not in the roster or out of its order, or a floor is violated.
    """
    entries = [entry for entry in sealed.roster if entry.site in set(cohort)]
    if [entry.site for entry in entries] != list(cohort):
        raise ProtocolError(
            "the cohort is not made of the roster's sites, each once, in roster order",
            code="cohort-foreign",
            blamed="coordinator",
            got=", ".join(cohort)[:200],
        )
    return Batch(
        study=sealed.digest,
        batch=name,
        members=tuple(cohort),
        keys=tuple(entry.identity_key for entry in entries),
        threshold=threshold,
        quorum=sealed.manifest.federation.quorum,
        slots=slots,
        withstands=sealed.manifest.privacy.colluders,
    )


def secure_words(sealed: BaseSealed) -> str:
    """What secure aggregation promises in this study, and what it asks for, in one paragraph for people."""
    sites, colluders = len(sealed.roster), sealed.manifest.privacy.colluders
    floor = max(least_threshold(sites, colluders), sealed.manifest.federation.quorum)
    spare = (
        f"up to {sites - floor} of the {sites} sites may drop out of a round"
        if sites > floor
        else f"all {sites} sites must stay through every round: a single dropout costs the attempt"
    )
    others = "1 site" if colluders == 1 else f"{colluders} sites"
    return (
        "Secure aggregation: the coordinator learns sums only, even if it lies and colludes with up to "
        f"{others}; with all sites there, {spare}."
    )


def check_plan(sealed: SealedManifest, dimension: int) -> None:
    """Refuse at planning what no round could do: a secure sum of the whole roster that would not fit the ring.

    Raises:
        InputError: it would not fit.
    """
    if sealed.manifest.privacy.secure_aggregation:
        secure_terms(sealed, len(sealed.roster), dimension=dimension, train=True, evaluate=True)


def _check_counts(counts: Counts, noise: int, voted: int) -> None:
    if (counts < -noise).any():
        raise _beyond("the summed histogram holds a negative count that no noise explains")
    if noise == 0 and not fit_together(counts, voted):
        raise _beyond("the summed histogram counts more patients in a group than in all, or more votes")


def _beyond(what: str) -> ProtocolError:
    remedy = "a site sent a false vector; sums hide which"
    return ProtocolError(what, code="sum-out-of-bounds", lie=False, remedy=remedy)
