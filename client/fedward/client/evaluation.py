"""Counts of held-out patients: as they are, which stay here, and as they leave, noised wherever the approved study says so."""

from __future__ import annotations

from torch import nn

from fedward.privacy.draws import Draws
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.metrics import Counts, histogram
from fedward.study.models import scores


def held_out_counts(model: nn.Module, held_out: Encoded, manifest: Manifest) -> Counts:
    """The histogram of a model's scores, (groups + 1, bins, 2).

    Of a patient's encounters the last one is scored, so that a patient is in one cell of each slice at most.
    """
    unseen, plan = held_out.last_encounters(), manifest.counting
    return histogram(scores(model, unseen.inputs), unseen.outcomes, unseen.membership, plan.bins, plan.temper)


def noised(counts: Counts, sealed: SealedManifest, draws: Draws) -> Counts:
    """The counts as they leave: with fresh noise on every cell, empty ones included, where the study noises its counts."""
    if not sealed.manifest.counting.noised:
        return counts
    return counts + draws.discrete_gaussian(counts.size, sealed.count_deviation).reshape(counts.shape)
