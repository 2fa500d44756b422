"""Integrated gradients of a catalogue model's output: many patients' by Captum, whose only door this is, and each by itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedward.privacy.errors import InputError
from fedward.study.encoding import Matrix

STEPS: Final = 64
_BATCH: Final = 65_536
"""Points of all paths together that are worked on at once."""
_MOST_GAP: Final = 0.05


@dataclass(frozen=True)
class Attributed:
    """`values` (n, width): what each input adds to a patient's log-odds beside the baseline's. `gap`: how far their sums are from
    the model's own difference at worst, as a share of the largest difference."""

    values: NDArray[np.float64]
    gap: float


def installed() -> None:
    """
    Raises:
        InputError: Captum is not installed.
    """
    if find_spec("captum") is None:
        raise InputError("explanations need Captum", remedy='pip install "fedward[explain]"', code="no-captum")


def integrated_gradients(model: nn.Module, inputs: Matrix, baseline: NDArray[np.float64]) -> Attributed:
    """The gradients of the logit, integrated from a baseline (width,) to each input (n, width): Sundararajan et al. 2017, eq. 1.

    Raises:
        InputError: `no-captum`; or the attributions do not add up to the model's output, which is then no function to integrate.
    """
    installed()
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - an extra, and slow

    exact, points, start = _doubles(model, inputs, baseline)
    found = IntegratedGradients(exact).attribute(
        points, start, n_steps=STEPS, internal_batch_size=max(_BATCH, len(points))
    )
    values = np.asarray(found.detach().numpy(), dtype=np.float64)
    with torch.no_grad():
        difference = (exact(points) - exact(start)).numpy()
    largest = float(np.abs(difference).max(initial=0.0))
    gap = float(np.abs(values.sum(1) - difference).max(initial=0.0)) / largest if largest > 0 else 0.0
    if not gap <= _MOST_GAP:
        raise InputError(
            "the model's attributions do not add up to its output",
            expected=f"a gap of at most {_MOST_GAP:g} of the largest difference",
            got=f"{gap:.3g}",
            remedy="its output jumps, or is not finite: such a model has no integrated gradients",
        )
    return Attributed(values, gap)


def one_by_one(model: nn.Module, inputs: Matrix, baseline: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same attributions (n, width), each row's from that row alone; what the model makes of it is not checked, and may be NaN.

    In a product of many rows the last bits of one depend on the others, and whether rows are refused must not depend on one of
    them. Captum works its steps out anew in each call, which for single rows takes 10 to 25 times as long: so this is the same
    rule (its default, Gauss-Legendre's), written out. A hospital's node needs no Captum.
    """
    exact, points, start = _doubles(model, inputs, baseline)
    places, weights = (torch.from_numpy(one)[:, None] for one in np.polynomial.legendre.leggauss(STEPS))
    values, path = np.empty(inputs.shape), torch.empty(STEPS, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    for row, point in enumerate(points):
        way = point - start
        with torch.no_grad():
            path.copy_(start + (places + 1) / 2 * way)
        [slopes] = torch.autograd.grad(exact(path).sum(), path)
        values[row] = (way * (weights / 2 * slopes).sum(0)).numpy()[0]
    return values


def _doubles(
    model: nn.Module, inputs: Matrix, baseline: NDArray[np.float64]
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A copy of the model, and the inputs and the baseline (1, width), as float64."""
    points = torch.from_numpy(np.asarray(inputs, dtype=np.float64))
    return copy.deepcopy(model).double().eval(), points, torch.from_numpy(np.asarray(baseline, dtype=np.float64))[None]
