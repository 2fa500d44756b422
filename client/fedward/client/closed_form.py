"""The clipped sum of models of Linear layers in closed form: no gradient of a single patient is ever made.

A Linear layer's gradient of one row is the outer product of the loss's derivative δ at its output and its input a, so
that its squared norm is ‖δ‖²(‖a‖² + 1), the 1 for the bias (Goodfellow, "Efficient per-example gradient computations",
arXiv 1510.01799). The clipped sum is then (f·δ)ᵀa and Σ f·δ with each patient's factor f (Lee & Kifer, PoPETs 2021).
Several rows of one patient, its encounters, give Σ_e Σ_f (δ_e·δ_f)(a_e·a_f + 1), summed over layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedward.study.models import Logits

_PAIRS = 1 << 16
"""Pairs of encounters whose products are held at a time."""


@dataclass(frozen=True)
class Batch:
    """Sampled patients: inputs (n, width), outcomes (n,) and each row's patient in 0 … patients − 1, rising.

    `patient_of` is None where every patient has one row.
    """

    inputs: torch.Tensor
    outcomes: torch.Tensor
    patients: int
    patient_of: torch.Tensor | None = None

    @property
    def weights(self) -> torch.Tensor | None:
        """One over the number of the patient's rows, shape (n,): a patient's loss is the mean of its encounters'."""
        if self.patient_of is None:
            return None
        rows = torch.bincount(self.patient_of, minlength=self.patients)
        return (1.0 / rows.to(self.inputs.dtype))[self.patient_of]


@dataclass(frozen=True)
class _Layer:
    linear: nn.Linear
    activation: nn.Module | None

    @property
    def size(self) -> int:
        """Parameters of the layer."""
        return self.linear.weight.numel() + self.linear.bias.numel()


def layers_of(model: nn.Module) -> tuple[_Layer, ...] | None:
    """The Linear layers of a model in closed form, or None for any other: Linear, an activation, …, Linear, logits."""
    parts = list(model) if isinstance(model, nn.Sequential) else []
    if len(parts) < 2 or not isinstance(parts[-1], Logits):
        return None
    layers: list[_Layer] = []
    for part in parts[:-1]:
        if type(part) is nn.Linear:
            layers.append(_Layer(part, None))
        elif type(part) in (nn.Tanh, nn.ReLU) and layers and layers[-1].activation is None:
            layers[-1] = _Layer(layers[-1].linear, part)
        else:
            return None
    plain = layers and all(layer.linear.bias is not None for layer in layers) and layers[-1].linear.out_features == 1
    known = {id(p) for layer in layers for p in layer.linear.parameters()}
    frozen = any(not p.requires_grad or id(p) not in known for p in model.parameters())
    return tuple(layers) if plain and not frozen and len(known) == 2 * len(layers) else None


@torch.no_grad()
def clipped_sum(layers: Sequence[_Layer], batch: Batch, norm: float) -> torch.Tensor:
    """Σ over patients of min(1, C/‖g‖) g, where g is the gradient of a patient's mean cross-entropy.

    Args:
        layers: what `layers_of` gave.
        batch: the sampled patients; there may be none.
        norm: the clipping norm C. As in Opacus, the factor is C / (‖g‖ + 1e-6).

    Returns:
        One vector: each layer's weights, row by row, then its bias; the order of `named_parameters`.
    """
    inputs, errors = _passes(layers, batch)
    squares = _own_squares(inputs, errors) if batch.patient_of is None else _shared_squares(inputs, errors, batch)
    factors = squares.sqrt_().add_(1e-6).reciprocal_().mul_(norm).clamp_(max=1.0)
    if batch.patient_of is not None:
        factors = factors.to(batch.inputs.dtype)[batch.patient_of]
    total = batch.inputs.new_empty(sum(layer.size for layer in layers))
    start = 0
    for layer, a, error in zip(layers, inputs, errors, strict=True):
        error.mul_(factors[:, None])
        out, width = layer.linear.weight.shape
        end = start + layer.size
        torch.mm(error.t(), a, out=total[start : end - out].view(out, width))
        torch.sum(error, 0, out=total[end - out : end])
        start = end
    return total


def _passes(layers: Sequence[_Layer], batch: Batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Each layer's inputs (n, in) and the loss's derivatives at its outputs (n, out)."""
    inputs = [batch.inputs]
    out = batch.inputs
    for layer in layers:
        out = torch.addmm(layer.linear.bias, out, layer.linear.weight.t())
        if layer.activation is not None:
            out = out.tanh_() if isinstance(layer.activation, nn.Tanh) else out.relu_()
        inputs.append(out)
    error = inputs.pop().sigmoid().sub_(batch.outcomes[:, None])
    if (weights := batch.weights) is not None:
        error.mul_(weights[:, None])
    errors = [error]
    for below, layer in zip(reversed(layers[:-1]), reversed(layers[1:]), strict=True):
        error = error @ layer.linear.weight
        if below.activation is not None:
            after = inputs[len(layers) - len(errors)]
            error = error.mul_(1 - after * after if isinstance(below.activation, nn.Tanh) else (after > 0))
        errors.append(error)
    return inputs, errors[::-1]


def _own_squares(inputs: list[torch.Tensor], errors: list[torch.Tensor]) -> torch.Tensor:
    """Each row's squared norm, shape (n,)."""
    parts: list[torch.Tensor] = [
        torch.linalg.vecdot(a, a)
        .add_(1.0)
        .mul_(error.square()[:, 0] if error.shape[1] == 1 else torch.linalg.vecdot(error, error))
        for a, error in zip(inputs, errors, strict=True)
    ]
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0]


def _shared_squares(inputs: list[torch.Tensor], errors: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    """Each patient's squared norm, shape (patients,), in float64: encounters may cancel each other."""
    if batch.patient_of is None:
        raise ValueError("each patient has one row")
    total = torch.zeros(batch.patients, dtype=torch.float64)
    exact = [(a.double(), error.double()) for a, error in zip(inputs, errors, strict=True)]
    for left, right in _pairs(batch.patient_of, batch.patients):
        for a, error in exact:
            part = torch.linalg.vecdot(error[left], error[right]) * (torch.linalg.vecdot(a[left], a[right]) + 1.0)
            total.index_add_(0, batch.patient_of[left], part)
    return total.clamp_(min=0.0)


def _pairs(patient_of: torch.Tensor, patients: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All ordered pairs of rows of one patient, some at a time. Rows of a patient follow each other."""
    rows = torch.bincount(patient_of, minlength=patients)
    begins = rows.cumsum(0) - rows
    partners = rows[patient_of]  # of each row, itself included
    ends = partners.cumsum(0)
    start = 0
    while start < len(patient_of):
        before = int(ends[start] - partners[start])
        stop = max(start + 1, int(torch.searchsorted(ends, before + _PAIRS, right=True)))
        own = torch.arange(start, stop)
        left = own.repeat_interleave(partners[own])
        first = (partners[own].cumsum(0) - partners[own]).repeat_interleave(partners[own])
        yield left, begins[patient_of[left]] + torch.arange(len(left)) - first
        start = stop
