"""Counts of held-out patients as they leave a hospital: noised, wherever the approved study says so."""

from __future__ import annotations

from torch import nn

from fedward.privacy.draws import Draws
from fedward.study.encoding import Encoded
from fedward.study.manifest import SealedManifest
from fedward.study.metrics import Counts, histogram
from fedward.study.models import scores


def released_counts(model: nn.Module, held_out: Encoded, sealed: SealedManifest, draws: Draws) -> Counts:
    """The histogram of a model's scores, (groups + 1, bins, 2), with fresh noise on every cell, empty ones included.

    Of a patient's encounters the last one is scored, so that a patient is in one cell of each slice at most.
    """
    unseen, plan = held_out.last_encounters(), sealed.manifest.counting
    counts = histogram(scores(model, unseen.inputs), unseen.outcomes, unseen.membership, plan.bins, plan.temper)
    if plan.noised:
        counts = counts + draws.discrete_gaussian(counts.size, sealed.count_deviation).reshape(counts.shape)
    return counts
