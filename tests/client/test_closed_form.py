"""The closed form against automatic differentiation, one patient at a time, in the precision of each."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info
from torch import nn

from fedward.client import closed_form
from fedward.client.closed_form import Batch, clipped_sum, layers_of
from fedward.privacy.errors import FedwardError
from fedward.study.models import Logits

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}


def network(widths: list[int], activation: type[nn.Module] | None, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(widths):
        layers += [nn.Linear(narrow, wide), *([activation()] if activation else [])]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1), Logits()).to(dtype)


def reference(model: nn.Module, batch: Batch, norm: float) -> list[torch.Tensor]:
    """Each patient's mean loss differentiated alone in float64, clipped, and summed."""
    exact = network_like(model)
    owner = torch.from_numpy(np.arange(len(batch.inputs)) if batch.patient_of is None else batch.patient_of)
    inputs, outcomes = torch.from_numpy(batch.inputs).double(), torch.from_numpy(batch.outcomes).double()
    total = [torch.zeros_like(parameter) for parameter in exact.parameters()]
    for patient in range(batch.patients):
        own = owner == patient
        sign = 2 * outcomes[own] - 1
        loss = nn.functional.softplus(-sign * exact(inputs[own])).mean()
        gradient = torch.autograd.grad(loss, list(exact.parameters()))
        size = torch.cat([part.reshape(-1) for part in gradient]).norm()
        factor = min(1.0, norm / (float(size) + 1e-6))  # Opacus's clipping factor
        total = [whole + factor * part for whole, part in zip(total, gradient, strict=True)]
    return total


def network_like(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def agree(found: closed_form.Floats, wanted: list[torch.Tensor], tolerance: float) -> None:
    flat = torch.cat([part.reshape(-1) for part in wanted])
    assert float((torch.from_numpy(found).double() - flat).norm()) <= tolerance * float(flat.norm())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, None])
@pytest.mark.parametrize("widths", [[7], [7, 5], [6, 8, 4]], ids=str)
@pytest.mark.parametrize("owners", [None, [0, 0, 1, 2, 2, 2, 2, 3, 4, 5, 5, 6]], ids=["rows", "encounters"])
@pytest.mark.parametrize("norm", [0.05, 0.6, 1e3])
def test_agrees_with_micro_batches(
    dtype: torch.dtype, activation: type[nn.Module] | None, widths: list[int], owners: list[int] | None, norm: float
) -> None:
    model = network(widths, activation, dtype)
    layers = layers_of(model)
    assert layers is not None
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn((12, widths[0]), generator=generator, dtype=dtype)
    outcomes = (torch.rand(12, generator=generator) < 0.5).to(dtype)
    patient_of = None if owners is None else np.array(owners)
    batch = Batch(inputs.numpy(), outcomes.numpy(), 12 if owners is None else 7, patient_of)
    wanted = reference(model, batch, norm)
    agree(clipped_sum(layers, batch, norm), wanted, TOLERANCE[dtype])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 20))
def test_pairs_are_all_rows_of_one_patient_with_each_other(rows: list[int], at_once: int) -> None:
    patient_of = np.array([patient for patient, count in enumerate(rows) for _ in range(count)])
    held = closed_form._PAIRS
    closed_form._PAIRS = at_once
    try:
        parts = list(closed_form._pairs(patient_of, len(rows)))
    finally:
        closed_form._PAIRS = held
    found = sorted((int(a), int(b)) for left, right in parts for a, b in zip(left, right, strict=True))
    every = itertools.product(range(len(patient_of)), repeat=2)
    assert found == [(a, b) for a, b in every if patient_of[a] == patient_of[b]]


def test_encounters_that_cancel_each_other_have_no_norm() -> None:
    """Two encounters alike but for the outcome: their gradients nearly cancel, and float32 would leave a residue."""
    model = network([3], None, torch.float32)
    layers = layers_of(model)
    assert layers is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    inputs = np.array([[300.0, -20.0, 5.0]] * 2, np.float32)
    batch = Batch(inputs, np.array([0.0, 1.0], np.float32), 1, np.array([0, 0]))
    found = clipped_sum(layers, batch, 1.0)
    assert float(np.abs(found).max()) < 1e-6


def test_nobody_sampled_sums_to_nothing() -> None:
    layers = layers_of(network([4, 3], nn.Tanh, torch.float32))
    assert layers is not None
    found = clipped_sum(layers, Batch(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0, None), 1.0)
    assert found.shape == (3 * 4 + 3 + 3 + 1,)
    assert not found.any()


def frozen() -> nn.Module:
    model = network([4, 3], nn.Tanh, torch.float32)
    next(model.parameters()).requires_grad_(False)
    return model


class Wider(nn.Linear):
    """Somebody's own layer: what its forward does is not known here."""


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 1),
        nn.Sequential(nn.Linear(3, 1)),
        nn.Sequential(Logits()),
        nn.Sequential(nn.Linear(3, 2), Logits()),
        nn.Sequential(nn.Linear(3, 1, bias=False), Logits()),
        nn.Sequential(nn.Tanh(), nn.Linear(3, 1), Logits()),
        nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Tanh(), nn.Linear(3, 1), Logits()),
        nn.Sequential(nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 1), Logits()),
        nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1), Logits()),
        nn.Sequential(Wider(3, 1), Logits()),
        frozen(),
    ],
)
def test_other_models_have_no_closed_form(model: nn.Module) -> None:
    assert layers_of(model) is None


def test_a_layer_used_twice_has_no_closed_form() -> None:
    shared = nn.Linear(3, 3)
    assert layers_of(nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(3, 1), Logits())) is None


def test_an_activation_after_the_last_layer_is_differentiated_too() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.Tanh(), Logits()).double()
    layers = layers_of(model)
    batch = Batch(np.random.default_rng(0).normal(size=(4, 3)), np.array([0.0, 1.0, 1.0, 0.0]), 4, None)
    if layers is not None:
        agree(clipped_sum(layers, batch, 0.3), reference(model, batch, 0.3), 1e-6)


def test_inputs_are_left_as_they_were() -> None:
    layers = layers_of(network([4, 3], nn.ReLU, torch.float32))
    assert layers is not None
    inputs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    before = inputs.copy()
    clipped_sum(layers, Batch(inputs, np.ones(5, np.float32), 5, None), 0.1)
    assert np.array_equal(inputs, before)


def test_products_of_small_layers_take_one_thread_and_of_large_ones_all() -> None:
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    small, large = (
        layers_of(network([4, 3], None, torch.float32)),
        layers_of(network([1024, 1100], None, torch.float32)),
    )
    assert small is not None
    assert large is not None
    before = threads()
    with closed_form.few_threads(small):
        assert threads() == {1}
    with closed_form.few_threads(large):
        assert threads() == before
    assert threads() == before


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_a_model_that_amplifies_round_off_or_is_no_number_is_refused(value: float) -> None:
    model = network([3, 4], nn.ReLU, torch.float32)
    closed_form.check_amplification(layers_of(model) or (), 1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    layers = layers_of(model)
    assert layers is not None
    for largest in (math.inf, value):
        with pytest.raises(FedwardError) as caught:
            closed_form.check_amplification(layers, largest)
        assert caught.value.code == "training-diverged"
