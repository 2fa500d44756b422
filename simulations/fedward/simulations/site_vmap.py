"""Local training of many sites at once for models without a closed form, such as convolutional ones, by `torch.func`.

One function gives a row's loss from a model's parameters; `vmap` maps its gradient over rows and sites. Everything else is
`site_stack.Stack`'s. On a CPU that is faster than site after site where batches are small, and slower where they are large:
`worth_it`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, grad, vmap
from torch.nn.functional import binary_cross_entropy_with_logits

from fedward.privacy.draws import Draws
from fedward.simulations.site_stack import Gradients, Single, Stack, single_rows
from fedward.study.encoding import Encoded, input_names
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.models import build
from fedward.study.terms import SiteTerms, site_terms

_SMALL_BATCH = 16.0
"""Patients of a batch up to which mapping pays: of 8 it took a third of the loop's time, of 32 as much or more."""
_TINY = 1e-6
"""What Opacus adds to a norm before it divides."""


class MappedGradients:
    """Gradients of a catalogue model's loss, at every site's own parameters."""

    def __init__(self, manifest: Manifest) -> None:
        self._model = build(manifest).train()
        self._named = [(name, part.shape, part.numel()) for name, part in self._model.named_parameters()]
        self.size = sum(number for _, _, number in self._named)
        self._rows = vmap(vmap(grad(self._row_loss), in_dims=(None, 0, 0)))
        self._sums = vmap(grad(self._loss))

    def summed(
        self, models: torch.Tensor, inputs: torch.Tensor, outcomes: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        """Σ over each site's real rows, shape (s, d), of models (s, d), inputs (s, b, width), outcomes and real (s, b)."""
        found: torch.Tensor = self._sums(models, inputs, outcomes, real)
        return found

    def clipped(
        self, models: torch.Tensor, inputs: torch.Tensor, outcomes: torch.Tensor, real: torch.Tensor, norm: float
    ) -> torch.Tensor:
        """The same with each row's gradient clipped to `norm` in L2; one that is not finite adds nothing, as at a node."""
        rows: torch.Tensor = self._rows(models, inputs, outcomes)
        lengths = torch.linalg.vector_norm(rows, dim=2)
        factors = (norm / (lengths + _TINY)).clamp(max=1.0) * real
        finite = lengths.isfinite()
        if not finite.all():
            rows, factors = rows.masked_fill(~finite[..., None], 0.0), factors.masked_fill(~finite, 0.0)
        return torch.einsum("sb,sbd->sd", factors, rows)

    def _row_loss(self, vector: torch.Tensor, row: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
        return self._loss(vector, row[None], outcome[None], None)

    def _loss(
        self, vector: torch.Tensor, inputs: torch.Tensor, outcomes: torch.Tensor, real: torch.Tensor | None
    ) -> torch.Tensor:
        parts, start = {}, 0
        for name, shape, number in self._named:
            parts[name] = vector[start : start + number].view(shape)
            start += number
        logits = functional_call(self._model, parts, (inputs,))
        return binary_cross_entropy_with_logits(logits, outcomes, weight=real, reduction="sum")


def worth_it(sealed: SealedManifest, training: Mapping[str, Encoded]) -> bool:
    """Whether a study's sites can be mapped, and that is faster than one after the other."""
    batches = [site_terms(sealed, entry.site).expected_batch for entry in sealed.roster]
    return single_rows(sealed, training) and float(np.mean(batches)) <= _SMALL_BATCH and mappable(sealed.manifest)


def mappable(manifest: Manifest) -> bool:
    """Whether the model runs so: one that keeps statistics, draws numbers or decides by its data does not."""
    gradients = MappedGradients(manifest)
    one = torch.zeros(1, 1)
    try:
        gradients.summed(torch.zeros(1, gradients.size), torch.zeros(1, 1, len(input_names(manifest))), one, one)
    except (RuntimeError, ValueError):
        return False
    return not any(True for _ in build(manifest).buffers())


class SiteVmap(Stack):
    """Sites of any model that `vmap` can map."""

    def __init__(self, sealed: SealedManifest, training: Mapping[str, Encoded], draws: Mapping[str, Draws]) -> None:
        """Arguments and errors as `Stack`."""
        self._mapped = MappedGradients(sealed.manifest)
        width = len(input_names(sealed.manifest)) + self._mapped.size
        super().__init__(sealed, training, draws, self._mapped.size, width)

    def _gradients(self, model: Single, terms: SiteTerms, total: Single) -> Gradients:
        return partial(self._sum, model, terms, total)

    def _sum(self, model: Single, terms: SiteTerms, total: Single, index: NDArray[np.int64], real: Single) -> None:
        if index.shape[1] == 0:
            total[:] = 0
            return
        given = (
            torch.from_numpy(model),
            torch.from_numpy(self._inputs.take(index, axis=0)),
            torch.from_numpy(self._outcomes.take(index)),
            torch.from_numpy(real),
        )
        found = self._mapped.clipped(*given, terms.clipping_norm) if terms.private else self._mapped.summed(*given)
        total[:] = found.detach().numpy()
