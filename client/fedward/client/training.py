"""Local training: patient-level DP-SGD on Opacus's optimiser, or plain SGD where the study promises no ε.

Abadi et al. 2016, algorithm 1: each step samples patients by Poisson at rate q, clips each patient's gradient to C in
L2, adds N(0, σ²C²) to the sum, and divides by q·N₀. N₀ is declared and public; an empty batch still takes its noisy
step. Several rows of a patient, its encounters, are sampled together and make one loss, their mean, and one gradient.
Models of Linear layers take the clipped sum in closed form (`closed_form`), the others per-patient gradients by Opacus's
rules for layers (`row_gradients`, or its hooks); all are the same mechanism. Noise and sampling come from a CSPRNG
(`privacy.draws`), injected as `Draws`. The noisy sum is stored as float32, as the wire is; the residual of Mironov
2012's attack is what `privacy.draws` states. The clipped sum in closed form is made in float64, from models that do not amplify
round-off (`check_amplification`); other models' is float32's, and no bound on what round-off adds to its sensitivity is proven.

With shared noise a round is one clipped sum over every patient, `unnoised_sum`: in float64, and wrapped in a type that gives
nothing out but integers with their noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleHooks
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedward.client.closed_form import Batch, check_amplification, clipped_sum, few_threads, layers_of
from fedward.client.row_gradients import RowGradients, supported
from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError
from fedward.privacy.shared_noise import UnnoisedSum
from fedward.study.encoding import Encoded
from fedward.study.models import to_vector
from fedward.study.terms import SiteTerms
from fedward.study.vectors import Vector

# Inputs are data and need no gradient, which torch remarks on once a step; the hooks do not care.
warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)


_NOISE_AHEAD = 4096


def noise_ahead(steps: int, size: int) -> int:
    """For how many of a round's steps noise is drawn at once: of a small model several, for a call costs more than its draws."""
    return max(1, min(steps, _NOISE_AHEAD // max(1, size)))


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
        self._noise: Iterator[NDArray[np.float64]] = iter(())
        self._size = sum(parameter.numel() for parameter in self.params)
        self._ahead = noise_ahead(terms.steps, self._size)

    @property
    def accumulated_iterations(self) -> int:
        return 1  # a step is one batch; Opacus asks for every parameter

    def clip_and_accumulate(self) -> None:
        for parameter, summed in zip(self.params, _clipped(self.grad_samples, self.max_grad_norm), strict=True):
            parameter.summed_grad = summed.view_as(parameter)
            parameter.grad_sample = None  # never twice: Opacus raises where there is none

    def add_noise(self) -> None:
        noise = self._draw()
        start = 0
        for parameter in self.params:
            end = start + parameter.numel()
            parameter.grad = _noised(parameter.summed_grad, noise[start:end], parameter.detach().numpy().dtype)
            start = end
            parameter.summed_grad._processed = True  # as Opacus's own add_noise marks it

    def _draw(self) -> NDArray[np.float64]:
        """One step's noise, shape (d,) float64."""
        row = next(self._noise, None)
        if row is None:
            deviation = self.noise_multiplier * self.max_grad_norm
            self._noise = iter(self._draws.gaussian((self._ahead, self._size), deviation))
            row = next(self._noise)
        return row


class ClosedFormOptimizer(PatientOptimizer):
    """The same, with the clipped sum in closed form: nothing has a `grad_sample`, and `take` says what was sampled.

    The model's parameters become views of one vector, `flat`, which alone is optimised: its names and shapes stay.
    """

    def __init__(self, model: nn.Module, terms: SiteTerms, draws: Draws) -> None:
        if layers_of(model) is None:
            raise FedwardError("the model has no closed form", code="no-closed-form")
        self.flat = _flattened(model)
        self._layers = layers_of(model) or ()  # again: the parameters lie in other memory now
        self._batch: Batch | None = None
        super().__init__(torch.optim.SGD([self.flat], lr=terms.learning_rate), terms, draws)

    @property
    def grad_samples(self) -> list[torch.Tensor]:
        return [self.flat]  # Opacus asks only whether there are any

    def take(self, batch: Batch) -> None:
        """What the next step is about."""
        self._batch = batch

    def clip_and_accumulate(self) -> None:
        if self._batch is None:
            raise FedwardError("a step without a batch", code="no-batch")
        flat = self.flat.detach().numpy()
        check_amplification(self._layers, max(float(flat.max()), -float(flat.min())))
        summed = clipped_sum(self._layers, self._batch, self.max_grad_norm)
        self.flat.summed_grad = torch.from_numpy(summed)  # type: ignore[attr-defined]
        self._batch = None  # never twice

    def add_noise(self) -> None:
        summed: torch.Tensor = self.flat.summed_grad  # type: ignore[attr-defined]
        self.flat.grad = _noised(summed, self._draw(), self.flat.detach().numpy().dtype)
        summed._processed = True  # type: ignore[attr-defined]


def _noised(summed: torch.Tensor, noise: NDArray[np.float64], stored: Any) -> torch.Tensor:
    """The sum of both in float64, stored as the model is, float32, in the shape of the first."""
    exact = summed.numpy()
    noisy = np.add(exact, noise.reshape(exact.shape), out=np.empty(exact.shape, stored), casting="same_kind")
    return torch.from_numpy(noisy)


def _flattened(model: nn.Module) -> nn.Parameter:
    """One vector that holds all the model's parameters, which become views of it."""
    parameters = list(model.parameters())
    flat = nn.Parameter(torch.cat([parameter.detach().reshape(-1) for parameter in parameters]))
    parts = torch.split(flat.detach(), [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data = part.view_as(parameter)
    return flat


_Step: TypeAlias = Callable[[Batch], None]


def train(model: nn.Module, data: Encoded, terms: SiteTerms, draws: Draws, correction: Vector | None = None) -> Vector:
    """Train in place from the model's parameters and return the update (trained − base), shape (d,) float32.

    `correction`, shape (d,), joins every step's gradient after its noise: SCAFFOLD's control variates. It must not be of these
    patients but through what has left with noise.

    Raises:
        FedwardError: training produced a number that is not finite, nothing of it may leave (with noise that is decided by the
            noisy sums alone, as each patient's part is finite); or the study's noise is shared, and
            is added to `unnoised_sum`.
    """
    if terms.honest_sites:
        raise FedwardError("a site's part of shared noise is no noise for an update of its own", code="noise-is-shared")
    base = to_vector(model)
    layers = layers_of(model) if terms.private else None
    if not terms.private:
        step = _plain_step(model, terms, correction)
    elif layers is not None:
        step = _closed_step(model, terms, draws, correction)
    else:
        step = _hooked_step(model, terms, draws, correction)
    model.train()
    with few_threads(layers or ()):
        # In closed form float64: how float32 rounds one row depends on the others enough to move a sum by more than C.
        for batch in _batches(data, terms, draws, data.inputs.dtype if layers is None else np.dtype(np.float64)):
            step(batch)
    update = to_vector(model) - base
    if not np.isfinite(update).all():
        raise FedwardError("training did not stay finite", remedy="lower the learning rate", code="training-diverged")
    return update


def unnoised_sum(model: nn.Module, data: Encoded, norm: float) -> UnnoisedSum:
    """Every patient's gradient, clipped to `norm` in L2, summed: shape (d,). The model is float64 from then on.

    In float64, so that round-off is negligible beside the sensitivity that is accounted (`shared_noise.ROUND_OFF`).

    Raises:
        FedwardError: the sum is not finite; nothing of it may leave.
    """
    model.double().train()
    batch = _everybody(data, np.dtype(np.float64))
    layers = layers_of(model)
    if layers is not None:
        check_amplification(layers)
        return UnnoisedSum(clipped_sum(layers, batch, norm))
    parameters = list(model.parameters())
    if batch.patients == 0:
        return UnnoisedSum(np.zeros(sum(parameter.numel() for parameter in parameters)))
    _row_gradients(model)(lambda: _loss(model, batch))
    if batch.patient_of is not None:
        _gather(model, batch.patients, torch.from_numpy(batch.patient_of))
    samples = [parameter.grad_sample.detach() for parameter in parameters]  # type: ignore[attr-defined]
    return UnnoisedSum(torch.cat(_clipped(samples, norm)).numpy())


def _clipped(samples: Sequence[torch.Tensor], norm: float) -> list[torch.Tensor]:
    """Each parameter's sum, shape (size,), of patients' gradients that are clipped as one vector; as in Opacus, by
    C / (‖g‖ + 1e-6). As in `clipped_sum`, a patient of whom ‖g‖ is not finite adds nothing."""
    rows = [sample.flatten(1) for sample in samples]
    norms = torch.stack([torch.linalg.vector_norm(one, dim=1) for one in rows]).norm(dim=0)
    factors = (norm / (norms + 1e-6)).clamp_(max=1.0)
    if not (finite := norms.isfinite()).all():
        rows = [torch.where(finite[:, None], one, torch.zeros_like(one)) for one in rows]
        factors = torch.where(finite, factors, torch.zeros_like(factors))
    return [factors @ one for one in rows]


def _everybody(data: Encoded, dtype: np.dtype[Any]) -> Batch:
    """All patients, the rows of each together."""
    order = np.argsort(data.owners, kind="stable")
    inputs, outcomes = (part[order].astype(dtype, copy=False) for part in (data.inputs, data.outcomes))
    return Batch(inputs, outcomes, len(data), data.owners[order] if len(data) != len(order) else None)


def _batches(data: Encoded, terms: SiteTerms, draws: Draws, dtype: np.dtype[Any]) -> Iterator[Batch]:
    """A Poisson sample of patients for each step, each with all its rows."""
    everybody = _everybody(data, dtype)
    inputs, outcomes, patients = everybody.inputs, everybody.outcomes, everybody.patients
    several = everybody.patient_of is not None
    owners = np.arange(patients) if everybody.patient_of is None else everybody.patient_of
    for _ in range(terms.steps):
        mask = draws.bernoulli(patients, terms.sampling_rate)
        chosen = np.flatnonzero(mask[owners] if several else mask)
        number = int(np.count_nonzero(mask)) if several else len(chosen)
        if number == patients:
            yield everybody
            continue
        place = (np.cumsum(mask) - 1)[owners[chosen]] if several else None
        yield Batch(inputs[chosen], outcomes[chosen], number, place)


def _closed_step(model: nn.Module, terms: SiteTerms, draws: Draws, correction: Vector | None = None) -> _Step:
    optimizer = ClosedFormOptimizer(model, terms, draws)
    pull = _Pull([optimizer.flat], terms.proximal, correction)

    def step(batch: Batch) -> None:
        optimizer.take(batch)
        if optimizer.pre_step():
            pull()
            _descend(optimizer.flat, terms.learning_rate)

    return step


def _descend(parameter: nn.Parameter, rate: float) -> None:
    """Plain SGD's step; what torch's own does around it takes as long as a small model's whole step."""
    if parameter.grad is not None:
        parameter.detach().add_(parameter.grad, alpha=-rate)


def _hooked_step(model: nn.Module, terms: SiteTerms, draws: Draws, correction: Vector | None = None) -> _Step:
    differentiate = _row_gradients(model)
    optimizer = PatientOptimizer(torch.optim.SGD(model.parameters(), lr=terms.learning_rate), terms, draws)
    parameters = list(model.parameters())
    pull = _Pull(parameters, terms.proximal, correction)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        if batch.patients == 0:
            for parameter in model.parameters():
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))  # type: ignore[attr-defined]
        else:
            differentiate(lambda: _loss(model, batch))
            if batch.patient_of is not None:
                _gather(model, batch.patients, torch.from_numpy(batch.patient_of))
        if optimizer.pre_step():
            pull()
            for parameter in parameters:
                _descend(parameter, terms.learning_rate)

    return step


def _row_gradients(model: nn.Module) -> Callable[[Callable[[], torch.Tensor]], None]:
    """What writes each row's gradient of a loss to `grad_sample`."""
    if supported(model):
        return RowGradients(model).compute
    GradSampleHooks(model, loss_reduction="sum")
    return lambda loss: torch.autograd.backward(loss())


def _gather(model: nn.Module, patients: int, patient_of: torch.Tensor) -> None:
    """From a gradient of each row to one of each patient."""
    for parameter in model.parameters():
        rows: torch.Tensor = parameter.grad_sample  # type: ignore[attr-defined]
        gathered = rows.new_zeros((patients, *parameter.shape)).index_add_(0, patient_of, rows)
        parameter.grad_sample = gathered  # type: ignore[attr-defined]


def _plain_step(model: nn.Module, terms: SiteTerms, correction: Vector | None = None) -> _Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=terms.learning_rate)
    pull = _Pull(list(model.parameters()), terms.proximal, correction)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        if batch.patients == 0:  # the pull is there without a patient too, as it is with noise
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        else:
            torch.autograd.backward(_loss(model, batch) / terms.expected_batch)
        pull()
        optimizer.step()

    return step


def _loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Summed over patients, so that each patient's gradient stands alone."""
    weights = None if batch.weights is None else torch.from_numpy(batch.weights)
    logits, outcomes = model(torch.from_numpy(batch.inputs)), torch.from_numpy(batch.outcomes)
    return binary_cross_entropy_with_logits(logits, outcomes, weight=weights, reduction="sum")


class _Pull:
    """What joins a step's gradient after its noise, as post-processing that costs no privacy: FedProx's μ(w − w₀)
    (Li et al. 2020, eq. 2), and a correction that is the same for all steps."""

    def __init__(self, parameters: list[nn.Parameter], proximal: float, correction: Vector | None) -> None:
        self._proximal = proximal
        self._anchors = [(parameter, parameter.detach().clone()) for parameter in parameters] if proximal else []
        self._corrections = (
            [] if correction is None else list(zip(parameters, _parts(parameters, correction), strict=True))
        )

    def __call__(self) -> None:
        for parameter, anchor in self._anchors:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=self._proximal)
        for parameter, part in self._corrections:
            if parameter.grad is not None:
                parameter.grad.add_(part)


def _parts(parameters: list[nn.Parameter], vector: Vector) -> list[torch.Tensor]:
    """A vector, shape (d,), cut into the parameters' shapes."""
    parts = torch.split(torch.from_numpy(vector.astype(np.float32)), [parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
