"""What a study needs on one machine: splits, a sealed manifest, seeded draws; and what to hold it against: each hospital alone,
and the pool that privacy forbids.

The manifest is sealed with placeholder keys, since nobody has to be convinced. The baselines train the study's own model on the
same encoding, so that a difference comes from who saw which patients.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.optimize import minimize
from scipy.special import expit
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedward.client.closed_form import layers_of
from fedward.client.datasets import declared
from fedward.client.split import held_out
from fedward.privacy.errors import InputError
from fedward.study.encoding import Encoded
from fedward.study.evaluation import count_deviation
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest, explain
from fedward.study.metrics import exact_auroc
from fedward.study.models import build, load_vector, scores, to_vector
from fedward.study.schedule import least_noise
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


class UnsafeSeededDraws:
    """Draws that a seed repeats: for simulations only, where the patients are public or made up.

    Unsafe, because whoever knows or finds the seed computes the noise and subtracts it, and PCG64 can be reconstructed
    from its outputs: there is then no privacy at all, whatever ε the accounting shows. It lives in `simulations`, which
    no module of a node imports, so that a node cannot load it.
    """

    def __init__(self, *seed: int) -> None:
        """Whole numbers of at least 0; each sequence of them gives a stream of its own."""
        self._generator = np.random.default_rng(seed)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Uniforms, shape (n,), in (0, 1) up to a chance of 2^-53 for the 0."""
        return self._generator.random(n)

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        """N(0, sigma²) of the given shape.

        Raises:
            InputError: `sigma` is no finite positive number.
        """
        if not (np.isfinite(sigma) and sigma > 0):
            raise InputError("the noise has no scale", expected="a finite sigma above 0", got=repr(sigma))
        return np.asarray(self._generator.normal(0.0, sigma, shape), dtype=np.float64)

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        """One Poisson sample of n patients at rate q, shape (n,)."""
        return self.uniform(n) < q

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        """N_Z(0, deviation²), shape (n,), by rejection (Canonne, Kamath & Steinke 2020, algorithm 3, in floating point).

        Raises:
            InputError: `deviation` is no finite positive number.
        """
        if not (np.isfinite(deviation) and deviation > 0):
            raise InputError("the noise has no scale", expected="a finite deviation above 0", got=repr(deviation))
        scale = math.floor(deviation) + 1
        found = np.zeros(0, dtype=np.int64)
        while len(found) < n:
            # A discrete Laplace is the difference of two geometric draws.
            tries = self._generator.geometric(-math.expm1(-1 / scale), (2, 2 * (n - len(found)) + 16))
            laplace = (tries[0] - tries[1]).astype(np.int64)
            bias = (np.abs(laplace) - deviation**2 / scale) ** 2 / (2 * deviation**2)
            found = np.concatenate([found, laplace[self.uniform(len(laplace)) < np.exp(-bias)]])
        return found[:n]


@dataclass(frozen=True)
class Split:
    """A hospital's patients: those who train and those who never do."""

    training: Encoded
    held_out: Encoded


def split(data: Encoded, share: float, key: bytes) -> Split:
    """Split as a node does, by a keyed hash of the patient: `key` has 32 bytes and stands for the hospital's own.

    Raises:
        InputError: the key has another length.
    """
    mask = held_out(data.patients, share, key)
    return Split(data.select(~mask), data.select(mask))


def pool(parts: Iterable[Encoded]) -> Encoded:
    """Several hospitals' patients as one table, in the order given. Their identifiers get the hospital's number before
    them: the same one at two hospitals is two patients.

    Raises:
        InputError: there is none.
    """
    tables = list(parts)
    if not tables:
        raise InputError("there is nothing to pool", expected="at least one hospital's patients")
    return Encoded(
        patients=tuple(f"{number}/{patient}" for number, table in enumerate(tables) for patient in table.patients),
        inputs=np.concatenate([table.inputs for table in tables]),
        outcomes=np.concatenate([table.outcomes for table in tables]),
        membership=np.concatenate([table.membership for table in tables]),
    )


def rehearse(
    manifest: Manifest, patients: Mapping[str, int], *, noise_multiplier: float | None = None
) -> SealedManifest:
    """The manifest sealed for a simulation: σ calibrated as at hospitals that have spent nothing yet, cohorts rounded as in a
    real study, keys placeholders.

    Args:
        manifest: the study.
        patients: each hospital's number of patients, held-out ones included, as it would register them.
        noise_multiplier: σ, where it is known already; else it is calibrated.

    Raises:
        InputError: the roster does not fit the study.
        RefusalError: no noise multiplier in reach keeps the manifest's promise.
    """
    sigma = least_noise(manifest) if noise_multiplier is None else noise_multiplier
    try:
        roster = tuple(
            RosterEntry(
                site=site,
                # Nobody holds the private half of a hash: nothing can ever be signed in this roster's name.
                identity_key=_placeholder(site),
                declared_patients=declared(patients[site]),
                noise_multiplier=sigma,
            )
            for site in sorted(patients)
        )
        return SealedManifest(
            manifest=manifest,
            federation_id="0" * 32,
            coordinator_key=_placeholder("coordinator"),
            roster=roster,
            count_deviation=count_deviation(manifest),
            sealed_at=0,
            expires_at=1,
        )
    except ValidationError as error:
        raise InputError(
            "these hospitals do not fit the study",
            got=explain(error),
            remedy="plan for at least as many hospitals as the quorum, each with a name of lower-case letters, digits, - and _",
        ) from None


def _placeholder(name: str) -> str:
    return hashlib.sha256(b"fedward/simulation/" + name.encode()).hexdigest()


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


def pooled(manifest: Manifest, hospitals: Iterable[Encoded], penalty: float = PENALTY) -> Vector:
    """What all training patients together would give, which privacy forbids; arguments and errors as `local_only`."""
    return local_only(manifest, pool(hospitals), penalty)


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


def predict(manifest: Manifest, vector: Vector, data: Encoded) -> NDArray[np.float64]:
    """Predicted probabilities of a model's parameters, shape (n,).

    Raises:
        InputError: the parameters do not fit the study's model.
    """
    model = build(manifest)
    load_vector(model, vector)
    return scores(model, data.inputs)


def auroc(manifest: Manifest, vector: Vector, patients: Sequence[Encoded]) -> float:
    """AUROC of a model over several hospitals' patients taken together, on raw scores.

    Raises:
        InputError: they do not have both outcomes, or the parameters do not fit.
    """
    together = pool(patients)
    found = exact_auroc(predict(manifest, vector, together), together.outcomes)
    if found is None:
        raise InputError("AUROC needs patients of both outcomes", got=f"{len(together)} patients of at most one")
    return found.value
