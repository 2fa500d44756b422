"""The clipped sum of models of Linear layers in closed form: no gradient of a single patient is ever made.

A Linear layer's gradient of one row is the outer product of the loss's derivative δ at its output and its input a, so
that its squared norm is ‖δ‖²(‖a‖² + 1), the 1 for the bias (Goodfellow, "Efficient per-example gradient computations",
arXiv 1510.01799). The clipped sum is then (f·δ)ᵀa and Σ f·δ with each patient's factor f (Lee & Kifer, PoPETs 2021).
Several rows of one patient, its encounters, give Σ_e Σ_f (δ_e·δ_f)(a_e·a_f + 1), summed over layers.

The arithmetic is NumPy's, on the memory of the model's own tensors: at a study's sizes an operation of torch spends most of its
time on the way in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import nn

from fedward.privacy.errors import FedwardError
from fedward.study.models import Logits

_PAIRS = 1 << 16
"""Pairs of encounters whose products are held at a time."""

_FEW_PARAMETERS = 1 << 20

_MOST_AMPLIFICATION = 1e9
"""What a model may make of a rounding error: in float64 it then stays below 1e-6 of a patient's part of a sum."""

Floats: TypeAlias = NDArray[Any]
"""float32 or float64."""


@dataclass(frozen=True)
class Batch:
    """Sampled patients: inputs (n, …), outcomes (n,) and each row's patient in 0 … patients − 1, rising.

    `patient_of` is None where every patient has one row.
    """

    inputs: Floats
    outcomes: Floats
    patients: int
    patient_of: NDArray[np.int64] | None = None

    @property
    def weights(self) -> Floats | None:
        """One over the number of the patient's rows, shape (n,): a patient's loss is the mean of its encounters'."""
        if self.patient_of is None:
            return None
        rows = np.bincount(self.patient_of, minlength=self.patients)
        return (1.0 / np.maximum(rows, 1)).astype(self.inputs.dtype)[self.patient_of]


@dataclass(frozen=True)
class Layer:
    """A Linear layer: views of its weight (out, in) and its bias (out,), and what follows it."""

    weight: Floats
    bias: Floats
    activation: type[nn.Module] | None

    @property
    def size(self) -> int:
        """Parameters of the layer."""
        return self.weight.size + self.bias.size


def layers_of(model: nn.Module) -> tuple[Layer, ...] | None:
    """The Linear layers of a model in closed form, or None for any other: Linear, an activation, …, Linear, logits.

    They see what training does to the parameters, unless a parameter is given other memory.
    """
    parts = list(model) if isinstance(model, nn.Sequential) else []
    if len(parts) < 2 or not isinstance(parts[-1], Logits):
        return None
    linears: list[nn.Linear] = []
    activations: list[type[nn.Module] | None] = []
    for part in parts[:-1]:
        if type(part) is nn.Linear:
            linears.append(part)
            activations.append(None)
        elif type(part) in (nn.Tanh, nn.ReLU) and linears and activations[-1] is None:
            activations[-1] = type(part)
        else:
            return None
    plain = linears and all(linear.bias is not None for linear in linears) and linears[-1].out_features == 1
    known = {id(p) for linear in linears for p in linear.parameters()}
    frozen = any(not p.requires_grad or id(p) not in known for p in model.parameters())
    if not plain or frozen or len(known) != 2 * len(linears):
        return None
    return tuple(
        Layer(linear.weight.detach().numpy(), linear.bias.detach().numpy(), activation)
        for linear, activation in zip(linears, activations, strict=True)
    )


def check_amplification(layers: Sequence[Layer], largest: float = math.inf) -> None:
    """That a model's outputs depend on round-off by little, whoever's rows they are of. It reads no data.

    In a product of many rows the last bits of one depend on how many others there are and on its place among them. A model can be
    made for which those bits turn everybody's gradient round, so that one patient less moves the sum by far more than C.

    Args:
        layers: what `layers_of` gave.
        largest: the largest absolute parameter, if it is known; it often decides at once.

    Raises:
        FedwardError: `training-diverged`: the product over layers of their largest absolute row sums is above 1e9.
    """
    # A row sums at most its length times the largest. NaN, the first argument of `max`, stays and fails both comparisons.
    if math.prod(max((layer.weight.shape[1] + 1) * largest, 1.0) for layer in layers) <= _MOST_AMPLIFICATION:
        return
    with np.errstate(all="ignore"):
        found = math.prod(
            max(float((np.abs(layer.weight).sum(axis=1, dtype=np.float64) + np.abs(layer.bias)).max()), 1.0)
            for layer in layers
        )
    if not found <= _MOST_AMPLIFICATION:
        raise FedwardError(
            "the model's parameters are too large for its gradients to be told from round-off",
            expected=f"layers that amplify by at most {_MOST_AMPLIFICATION:g}",
            got=f"{found:.2g}",
            remedy="lower the learning rate",
            code="training-diverged",
        )


@contextmanager
def few_threads(layers: Sequence[Layer]) -> Iterator[None]:
    """One thread for NumPy's products of small layers, process-wide, meanwhile: a second one saves little on an idle machine, and
    on a busy one the first waits for it ten times as long as the product takes."""
    if sum(layer.size for layer in layers) > _FEW_PARAMETERS:
        yield
        return
    with _blas().limit(limits=1):
        yield


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def clipped_sum(layers: Sequence[Layer], batch: Batch, norm: float) -> Floats:
    """Σ over patients of min(1, C/‖g‖) g, where g is the gradient of a patient's mean cross-entropy.

    A patient of whom ‖g‖ is not finite adds nothing: else one patient could make the sum no number, which no noise hides.

    Args:
        layers: what `layers_of` gave.
        batch: the sampled patients; there may be none.
        norm: the clipping norm C. As in Opacus, the factor is C / (‖g‖ + 1e-6).

    Returns:
        One vector: each layer's weights, row by row, then its bias; the order of `named_parameters`.
    """
    with np.errstate(all="ignore"):  # what is not finite is left out
        inputs, errors = _passes(layers, batch)
        squares = _own_squares(inputs, errors) if batch.patient_of is None else _shared_squares(inputs, errors, batch)
        factors = np.minimum(norm / (np.sqrt(squares) + 1e-6), 1.0).astype(batch.inputs.dtype, copy=False)
        if batch.patient_of is not None:
            squares, factors = squares[batch.patient_of], factors[batch.patient_of]
        if not (finite := np.isfinite(squares)).all():
            inputs, errors = ([np.where(finite[:, None], part, 0) for part in parts] for parts in (inputs, errors))
            factors = np.where(finite, factors, 0)
        total = np.empty(sum(layer.size for layer in layers), batch.inputs.dtype)
        start = 0
        for layer, a, error in zip(layers, inputs, errors, strict=True):
            np.multiply(error, factors[:, None], out=error)
            end = start + layer.size
            bias = end - layer.bias.size
            np.matmul(error.T, a, out=total[start:bias].reshape(layer.weight.shape))
            np.sum(error, axis=0, out=total[bias:end])
            start = end
    return total


def _passes(layers: Sequence[Layer], batch: Batch) -> tuple[list[Floats], list[Floats]]:
    """Each layer's inputs (n, in) and the loss's derivatives at its outputs (n, out)."""
    inputs = [batch.inputs]
    out = batch.inputs
    for layer in layers:
        out = out @ layer.weight.T
        out += layer.bias
        if layer.activation is nn.ReLU:
            np.maximum(out, 0.0, out=out)
        elif layer.activation is nn.Tanh:
            np.tanh(out, out=out)
        inputs.append(out)
    logits = inputs.pop()
    error = 1.0 / (1.0 + np.exp(-logits))
    error -= batch.outcomes[:, None]
    if (weights := batch.weights) is not None:
        error *= weights[:, None]
    errors = [_through(layers[-1], logits, error)]
    for place in range(len(layers) - 1, 0, -1):
        errors.append(_through(layers[place - 1], inputs[place], errors[-1] @ layers[place].weight))
    return inputs, errors[::-1]


def _through(layer: Layer, after: Floats, error: Floats) -> Floats:
    """The derivatives at a layer's output from those after its activation, in place."""
    if layer.activation is nn.ReLU:
        error *= after > 0
    elif layer.activation is nn.Tanh:
        error *= 1 - after * after
    return error


def _own_squares(inputs: list[Floats], errors: list[Floats]) -> Floats:
    """Each row's squared norm, shape (n,)."""
    total = np.zeros(len(inputs[0]), inputs[0].dtype)
    for a, error in zip(inputs, errors, strict=True):
        part = _dots(a, a)
        part += 1.0
        part *= _dots(error, error)
        total += part
    return total


def _dots(left: Floats, right: Floats) -> Floats:
    """Row by row: (n, w) and (n, w) give (n,)."""
    found: Floats = np.einsum("ij,ij->i", left, right)
    return found


def _shared_squares(inputs: list[Floats], errors: list[Floats], batch: Batch) -> Floats:
    """Each patient's squared norm, shape (patients,), in float64: encounters may cancel each other."""
    if batch.patient_of is None:
        raise ValueError("each patient has one row")
    total = np.zeros(batch.patients)
    exact = [(a.astype(np.float64), error.astype(np.float64)) for a, error in zip(inputs, errors, strict=True)]
    for left, right in _pairs(batch.patient_of, batch.patients):
        owners = batch.patient_of[left]
        for a, error in exact:
            part = _dots(error[left], error[right]) * (_dots(a[left], a[right]) + 1.0)
            total += np.bincount(owners, weights=part, minlength=batch.patients)
    return np.maximum(total, 0.0)


def _pairs(patient_of: NDArray[np.int64], patients: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All ordered pairs of rows of one patient, some at a time. Rows of a patient follow each other."""
    rows = np.bincount(patient_of, minlength=patients)
    begins = rows.cumsum() - rows
    partners = rows[patient_of]  # of each row, itself included
    ends = partners.cumsum()
    start = 0
    while start < len(patient_of):
        before = int(ends[start] - partners[start])
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS, side="right")))
        own = np.arange(start, stop)
        left = own.repeat(partners[own])
        first = (partners[own].cumsum() - partners[own]).repeat(partners[own])
        yield left, begins[patient_of[left]] + np.arange(len(left)) - first
        start = stop
