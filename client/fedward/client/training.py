"""Local training: patient-level DP-SGD with Opacus (hooks mode), or plain SGD where the study promises no ε.

Abadi et al. 2016, algorithm 1: each step samples patients by Poisson at rate q, clips each patient's gradient to C in
L2, adds N(0, σ²C²) to the sum, and divides by q·N₀. N₀ is declared and public; an empty batch still takes its noisy
step. Noise and sampling come from a CSPRNG (`privacy.draws`), injected as `Draws`. The noisy sum is stored as float32,
as the wire is; the residual of Mironov 2012's attack is what `privacy.draws` states.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError
from fedward.study.encoding import Encoded
from fedward.study.models import Vector, to_vector
from fedward.study.terms import SiteTerms

# Inputs are data and need no gradient, which torch remarks on once a step; the hooks do not care.
warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)


class PatientOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Opacus's optimiser with noise from the injected draws; hooks and accounting calls stay as they are."""

    def __init__(self, optimizer: torch.optim.Optimizer, terms: SiteTerms, draws: Draws) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=terms.noise_multiplier,
            max_grad_norm=terms.clipping_norm,
            expected_batch_size=terms.expected_batch,
        )
        self._draws = draws

    def add_noise(self) -> None:
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = torch.from_numpy(self._draws.gaussian(tuple(parameter.shape), deviation))
            parameter.grad = (parameter.summed_grad.double() + noise).to(parameter.dtype).view_as(parameter)
            parameter.summed_grad._processed = True  # as Opacus's own add_noise marks it


def train(model: nn.Module, data: Encoded, terms: SiteTerms, draws: Draws) -> Vector:
    """Train in place from the model's parameters and return the update (trained − base), shape (d,) float32.

    Raises:
        FedwardError: training produced a number that is not finite; nothing of it may leave.
    """
    base = to_vector(model)
    anchors = [parameter.detach().clone() for parameter in model.parameters()]
    inputs, outcomes = torch.from_numpy(data.inputs), torch.from_numpy(data.outcomes)
    step = _private_step(model, terms, draws) if terms.private else _plain_step(model, terms)
    model.train()
    for _ in range(terms.steps):
        chosen = torch.from_numpy(np.flatnonzero(draws.bernoulli(len(data), terms.sampling_rate)))
        step(inputs[chosen], outcomes[chosen], anchors)
    update = to_vector(model) - base
    if not np.isfinite(update).all():
        raise FedwardError("training did not stay finite", remedy="lower the learning rate", code="training-diverged")
    return update


def _private_step(model: nn.Module, terms: SiteTerms, draws: Draws) -> Any:
    GradSampleHooks(model, loss_reduction="sum")
    inner = torch.optim.SGD(model.parameters(), lr=terms.learning_rate)
    optimizer = PatientOptimizer(inner, terms, draws)

    def step(inputs: torch.Tensor, outcomes: torch.Tensor, anchors: list[torch.Tensor]) -> None:
        optimizer.zero_grad()
        if len(outcomes) == 0:
            for parameter in model.parameters():
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
        else:
            torch.autograd.backward(_loss(model, inputs, outcomes))
        if optimizer.pre_step():
            _pull(model, anchors, terms.proximal)
            inner.step()

    return step


def _plain_step(model: nn.Module, terms: SiteTerms) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=terms.learning_rate)

    def step(inputs: torch.Tensor, outcomes: torch.Tensor, anchors: list[torch.Tensor]) -> None:
        optimizer.zero_grad()
        if len(outcomes) == 0:
            return
        torch.autograd.backward(_loss(model, inputs, outcomes) / terms.expected_batch)
        _pull(model, anchors, terms.proximal)
        optimizer.step()

    return step


def _loss(model: nn.Module, inputs: torch.Tensor, outcomes: torch.Tensor) -> torch.Tensor:
    """Summed over patients, so that each patient's gradient stands alone."""
    return binary_cross_entropy_with_logits(model(inputs), outcomes, reduction="sum")


def _pull(model: nn.Module, anchors: list[torch.Tensor], proximal: float) -> None:
    """FedProx (Li et al. 2020, eq. 2): add μ(w − w₀) after the noise, as post-processing that costs no privacy."""
    if proximal == 0:
        return
    for parameter, anchor in zip(model.parameters(), anchors, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - anchor, alpha=proximal)
