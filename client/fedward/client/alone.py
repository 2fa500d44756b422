"""What a hospital reaches alone, without privacy and without anybody else: what a study is held against. Nothing of it leaves.

A hospital's own people see by it what a study is worth to them (`fedward site metrics --alone`); a simulation has it of every
hospital, and of the pool that privacy forbids.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedward.client.closed_form import layers_of
from fedward.privacy.errors import InputError
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest
from fedward.study.models import build, to_vector
from fedward.study.vectors import Vector

PENALTY = 10.0
"""λ of the baselines' ridge, one for every hospital and study: where the heart hospitals alone did best on splits that no
figure uses (the table in `benchmarks/accuracy.py`), so that what federation gains is not owed to a weak comparison."""

_MOST_STEPS = 1000
_FLAT = 1e-5
"""Largest entry of the summed loss's gradient at which a baseline of up to a thousand patients counts as converged; a patient's own
is about 1, and round-off grows with their number."""
_SMALL = 5000
"""Rows up to which a network of Linear layers is fitted by full batches."""
_MOST_EPOCHS, _PATIENCE, _BATCH = 100, 10, 32


def local_only(manifest: Manifest, training: Encoded, penalty: float = PENALTY) -> Vector:
    """What a hospital reaches alone, without privacy: the study's model fitted to its training patients.

    Minimises Σᵢ BCE(xᵢ, yᵢ) + λ/2 ‖W‖² in float64 until the gradient is flat: one linear layer by Newton's method in a trust
    region (Nocedal & Wright 2006, algorithm 4.3), a small network of Linear layers by full-batch L-BFGS (ibid., 7.5). W are the
    weights; biases and norms' scales (parameters of one dimension) are not penalised. Other models, and what does not become flat,
    are trained by Adam until a fifth of the patients, left out for that, is fitted no better (`_stopped_early`).

    Args:
        manifest: the study; of its training table nothing is used but the encoding's.
        training: the hospital's training patients.
        penalty: λ.

    Returns:
        the parameters, shape (d,) float32.

    Raises:
        InputError: the penalty is not above 0, or the patients do not have both outcomes.
    """
    if not (np.isfinite(penalty) and penalty > 0):
        raise InputError("the penalty is no finite number above 0", got=repr(penalty))
    if len(np.unique(training.outcomes)) < 2:
        # Without a penalty on it the bias would grow for ever, and an AUROC of such a model says nothing.
        raise InputError("a baseline needs patients of both outcomes", got=f"{len(training)} patients of at most one")
    model = build(manifest).double().train()
    layers = layers_of(model)
    if layers is not None and len(layers) == 1:
        found = _newton(training, penalty)
        if found is not None:
            return found
    elif layers is not None and len(training.outcomes) <= _SMALL:
        inputs, outcomes = (torch.from_numpy(part).double() for part in (training.inputs, training.outcomes))
        if _fitted(model, inputs, outcomes, penalty):
            return to_vector(model)
    return _stopped_early(manifest, training, penalty)


def _flat(rows: int) -> float:
    return _FLAT * max(1.0, rows / 1000)


def _newton(training: Encoded, penalty: float) -> Vector | None:
    """Weights, then bias, of ridge-penalised logistic regression; None if the gradient did not become flat."""
    rows = np.column_stack([training.inputs, np.ones(len(training.inputs))]).astype(np.float64)
    outcomes = training.outcomes.astype(np.float64)
    ridge = np.append(np.full(rows.shape[1] - 1, penalty), 0.0)

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = rows @ w
        value = np.logaddexp(0, scores).sum() - outcomes @ scores + (ridge * w**2).sum() / 2
        return float(value), rows.T @ (expit(scores) - outcomes) + ridge * w

    def curvature(w: NDArray[np.float64]) -> NDArray[np.float64]:
        chance = expit(rows @ w)
        return np.asarray((rows * (chance * (1 - chance))[:, None]).T @ rows + np.diag(ridge))

    flat = _flat(len(rows))
    done = minimize(
        loss, np.zeros(rows.shape[1]), jac=True, hess=curvature, method="trust-exact", options={"gtol": flat / 10}
    )
    return done.x.astype(np.float32) if np.abs(done.jac).max() <= flat else None


def _fitted(model: nn.Module, inputs: torch.Tensor, outcomes: torch.Tensor, penalty: float) -> bool:
    """Fits a model in place by L-BFGS; whether its gradient is flat then."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    flat = _flat(len(outcomes))
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=_MOST_STEPS,
        tolerance_grad=flat / 10,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = binary_cross_entropy_with_logits(model(inputs), outcomes, reduction="sum")
        total = fit + penalty / 2 * torch.stack([weight.square().sum() for weight in weights]).sum()
        torch.autograd.backward(total)
        return total.detach()

    optimizer.step(loss)  # type: ignore[no-untyped-call]  # torch's L-BFGS is untyped
    loss()
    steepest = max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)
    return steepest <= flat


def _stopped_early(manifest: Manifest, training: Encoded, penalty: float) -> Vector:
    """A network trained by Adam (Kingma & Ba 2015) at its customary rate, with early stopping (Prechelt 1998).

    A fifth of the patients is left out to tell when: after ten epochs in which they are fitted no better, the best epoch's
    parameters stand. Seeded by constants: the same patients give the same model.
    """
    generator = np.random.default_rng(0)
    place = generator.permutation(len(training))
    judges = (place < max(1, len(training) // 5))[training.owners]
    inputs, outcomes = torch.from_numpy(training.inputs), torch.from_numpy(training.outcomes)
    learners, judged = np.flatnonzero(~judges), torch.from_numpy(np.flatnonzero(judges))
    model = build(manifest).train()
    decay = penalty / max(1, len(learners))  # the ridge, a patient
    groups: list[dict[str, Any]] = [
        {"params": [one for one in model.parameters() if one.dim() > 1], "weight_decay": decay},
        {"params": [one for one in model.parameters() if one.dim() <= 1]},
    ]
    optimizer = torch.optim.Adam(groups, lr=1e-3)
    best, least, waited = to_vector(model), math.inf, 0
    for _ in range(_MOST_EPOCHS):
        order = torch.from_numpy(generator.permutation(learners))
        for batch in torch.split(order, _BATCH):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(binary_cross_entropy_with_logits(model(inputs[batch]), outcomes[batch]))
            optimizer.step()
        with torch.no_grad():
            loss = float(binary_cross_entropy_with_logits(model(inputs[judged]), outcomes[judged]))
        best, least, waited = (to_vector(model), loss, 0) if loss < least else (best, least, waited + 1)
        if waited == _PATIENCE:
            break
    return best
