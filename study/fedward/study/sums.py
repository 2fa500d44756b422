"""What one sum is made of, for either kind of study: the shape of the counts, and the terms of a secure sum.

A training study's terms are in `secure`. An exploration's vector has the two blocks of its answers (`answers.Shape`), signed
integers that carry the site's noise already. A site's coordinate is at most the patients that it may show, times what one of
them adds, and the noise, which is beyond ten deviations with a probability below 2^-70 (a discrete Gaussian is
sub-Gaussian with its own σ: Canonne, Kamath & Steinke 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.canonical import digest_of
from fedward.privacy.errors import InputError
from fedward.privacy.secagg.masks import Ring
from fedward.privacy.secagg.ring import Block, RingTerms, encode_counts
from fedward.privacy.secagg.shamir import Entropy
from fedward.study import answers
from fedward.study.exploration import SealedExploration
from fedward.study.kinds import AnySealed
from fedward.study.metrics import Counts
from fedward.study.secure import SecureTerms, secure_terms
from fedward.study.terms import most_patients
from fedward.study.votes import given_shape

TAIL = 10.0
"""Deviations of noise that a coordinate has room for."""


@dataclass(frozen=True)
class AnswerTerms:
    """The ring's terms of an exploration, with the interface of `SecureTerms`."""

    ring: RingTerms

    def encode(
        self,
        site: str,
        update: NDArray[np.float32] | NDArray[np.int64] | None,
        counts: Counts | None,
        entropy: Entropy,
    ) -> tuple[Ring, bool]:
        """A site's noised answers in the ring, shape (m,); nothing is ever clipped.

        Raises:
            InputError: there is an update or no answers, the shape is another, or an answer is beyond its bound.
        """
        del site, entropy
        if update is not None or counts is None or counts.shape != (self.ring.length,):
            raise InputError("the vector has other parts than its terms", expected="answers", code="wrong-shape")
        vector: Ring = np.zeros(self.ring.length, dtype=self.ring.dtype)
        start = 0
        for block in self.ring.blocks:
            end = start + block.length
            encode_counts(counts[start:end], block.most, vector[start:end], least=-block.most)
            start = end
        return vector, False

    def decode(
        self, blocks: Sequence[NDArray[np.int64]], survivors: Sequence[str]
    ) -> tuple[NDArray[np.float64] | None, Counts | None]:
        """No Δ, and the summed noisy answers, shape (counts + sums,). The ring's own bounds were checked at opening."""
        del survivors
        return None, np.concatenate(list(blocks))


def most_each(ring: RingTerms) -> Counts:
    """The most that one site adds to each coordinate, shape (m,)."""
    return np.concatenate([np.full(block.length, block.most, dtype=np.int64) for block in ring.blocks])


def answer_terms(sealed: SealedExploration, members: int) -> AnswerTerms:
    """The terms of an exploration's sum for a cohort of so many members.

    Raises:
        InputError: the sum could wrap: too many sites or patients, or too much noise, for the ring.
    """
    exploration, shape = sealed.manifest, answers.shape_of(sealed.manifest)
    deviations = {e.site: answers.deviation(exploration, e.noise_multiplier) for e in sealed.roster}
    most = max(most_patients(sealed, site) + math.ceil(TAIL * sigma) for site, sigma in deviations.items())
    blocks = [Block("counts", shape.counts, most)]
    if shape.sums:
        blocks.append(Block("sums", shape.sums, answers.GRID * most))
    outer = bytes.fromhex(digest_of({"deviations": deviations}))
    return AnswerTerms(RingTerms(exploration.privacy.ring_bits, members, tuple(blocks), outer))


def sum_terms(
    sealed: AnySealed, members: int, *, dimension: int, train: bool, evaluate: bool
) -> SecureTerms | AnswerTerms:
    """The terms of a secure sum of either kind of study; errors as `secure.secure_terms`."""
    if isinstance(sealed, SealedExploration):
        return answer_terms(sealed, members)
    return secure_terms(sealed, members, dimension=dimension, train=train, evaluate=evaluate)


def counts_shape(sealed: AnySealed) -> tuple[int, ...]:
    """The shape of the counts that a site gives when it is asked for some."""
    if isinstance(sealed, SealedExploration):
        return (answers.shape_of(sealed.manifest).length,)
    return given_shape(sealed.manifest)
