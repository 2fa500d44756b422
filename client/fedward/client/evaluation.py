"""Counts of held-out patients: as they are, which stay here, and as they leave, noised wherever the approved study says so."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedward.privacy.draws import Draws
from fedward.study.attribution import one_by_one
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.metrics import Counts, histogram
from fedward.study.votes import drawn, middle_patient, patient_shares, voted_features


def held_out_counts(model: nn.Module, held_out: Encoded, manifest: Manifest) -> Counts:
    """The histogram of a model's scores, (groups + 1, bins, 2).

    Of a patient's encounters the last one is scored, so that a patient is in one cell of each slice at most.
    """
    unseen, plan = held_out.last_encounters(), manifest.counting
    scores = _scores_one_by_one(model, unseen.inputs)
    return histogram(scores, unseen.outcomes, unseen.membership, plan.bins, plan.temper)


def held_out_votes(model: nn.Module, held_out: Encoded, manifest: Manifest, draws: Draws) -> Counts:
    """Votes (features,) of the same encounters, one a patient at most, each from the patient's own row and its own draw."""
    inputs = held_out.last_encounters().inputs
    shares = patient_shares(manifest, one_by_one(model, inputs, middle_patient(manifest)))
    return drawn(shares, draws.uniform(len(inputs)))


def no_votes(manifest: Manifest) -> Counts:
    """The votes of a hospital that gives none."""
    return np.zeros(voted_features(manifest), dtype=np.int64)


@torch.no_grad()
def _scores_one_by_one(model: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each row's predicted probability, shape (n,), from that row alone; ½ where the model gives no number.

    In a product of many rows the last bits of one depend on how many others there are and on its place among them, and a model
    can be made for which they decide everybody's bin. So each row is computed by itself, in the same memory.
    """
    model.eval()
    row = torch.empty((1, inputs.shape[1]), dtype=torch.float32)
    found = np.empty(len(inputs))
    for place, values in enumerate(torch.from_numpy(inputs)):
        found[place] = torch.sigmoid(model(row.copy_(values)).double()).item()
    return np.nan_to_num(found, nan=0.5)


def noised(counts: Counts, sealed: SealedManifest, draws: Draws) -> Counts:
    """The counts as they leave: with fresh noise on every cell, empty ones included, where the study noises its counts."""
    if not sealed.manifest.counting.noised:
        return counts
    return counts + draws.discrete_gaussian(counts.size, sealed.count_deviation).reshape(counts.shape)
