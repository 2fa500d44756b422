"""Integrated gradients of a catalogue model's output. Captum's only door."""

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

    exact = copy.deepcopy(model).double().eval()
    points = torch.from_numpy(np.asarray(inputs, dtype=np.float64))
    start = torch.from_numpy(np.asarray(baseline, dtype=np.float64))[None, :]
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
