"""How well a model fits each site's training patients: q-FedAvg weighs by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest
from fedward.study.models import build, load_vector
from fedward.study.vectors import Vector


class SiteLosses:
    """Each site's mean cross-entropy per patient, all in one pass; a patient's encounters make one loss, their mean."""

    def __init__(self, manifest: Manifest, tables: Sequence[Encoded]) -> None:
        self._model = build(manifest)
        self._inputs = torch.from_numpy(np.concatenate([table.inputs for table in tables]))
        self._outcomes = torch.from_numpy(np.concatenate([table.outcomes for table in tables]))
        shares = [1 / (np.bincount(table.owners)[table.owners] * len(table)) for table in tables]
        self._shares = np.concatenate(shares)
        self._sites = np.repeat(np.arange(len(tables)), [len(table.outcomes) for table in tables])

    @torch.no_grad()
    def at(self, vector: Vector) -> NDArray[np.float64]:
        """At a model's parameters, shape (d,): shape (s,)."""
        load_vector(self._model, vector)
        self._model.eval()
        losses = binary_cross_entropy_with_logits(self._model(self._inputs), self._outcomes, reduction="none")
        found = np.bincount(self._sites, losses.double().numpy() * self._shares)
        return np.asarray(found, dtype=np.float64)
