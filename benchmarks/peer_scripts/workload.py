"""What every peer trains, so that nobody does less: patients, network, training of one site, and what is printed at the end.

Run in environments that lack Fedward, so it needs NumPy and torch alone. A script of this folder is called as
`python SCRIPT SITES ROUNDS`, with the time of its call in PEERS_BEGAN, and prints one line of JSON, its last.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

PATIENTS, WIDTH, HIDDEN, BATCH, RATE = 20_000, 30, (64, 32), 32, 0.05


@dataclass
class Clock:
    """When rounds ended."""

    ends: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """A round has ended."""
        self.ends.append(time.time())


def asked() -> tuple[int, int]:
    """How many sites and rounds; torch is held to one thread."""
    torch.set_num_threads(1)
    return int(sys.argv[1]), int(sys.argv[2])


def patients(sites: int, place: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One site's inputs (n, 30) and outcomes (n,): a logistic model whose coefficients all sites share."""
    number = PATIENTS // sites
    coefficients = np.random.default_rng(0).normal(size=WIDTH) / 2
    generator = np.random.default_rng((1, sites, place))
    inputs = generator.normal(size=(number, WIDTH))
    outcomes = generator.random(number) < 1 / (1 + np.exp(-inputs @ coefficients))
    return inputs.astype(np.float32), outcomes.astype(np.float32)


def tensors(sites: int, place: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, for torch."""
    inputs, outcomes = patients(sites, place)
    return torch.from_numpy(inputs), torch.from_numpy(outcomes)


@cache
def loader(sites: int, place: int, generator: torch.Generator | None = None) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Shuffled batches of a site, the last one smaller; made once in a process."""
    return DataLoader(TensorDataset(*tensors(sites, place)), batch_size=BATCH, shuffle=True, generator=generator)


class Network(nn.Module):
    """The MLP 30-64-32-1, from inputs (n, 30) to logits (n,)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (WIDTH, *HIDDEN)
        layers = [(nn.Linear(before, after), nn.Tanh()) for before, after in pairwise(widths)]
        self.layers = nn.Sequential(*(part for layer in layers for part in layer), nn.Linear(HIDDEN[-1], 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.squeeze(self.layers(inputs), -1)


def train(model: nn.Module, batches: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    """One epoch of plain SGD, in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for inputs, outcomes in batches:
        optimizer.zero_grad()
        torch.autograd.backward(binary_cross_entropy_with_logits(model(inputs), outcomes))
        optimizer.step()


def answer(ends: list[float], sites: int, model: nn.Module, note: str = "") -> None:
    """Print what was measured.

    Args:
        ends: when each round ended, seconds since the epoch.
        model: the global model after the last round; its mean loss over all patients tells whether it trained as ours did.
        note: what a reader should know of the peer's mode.
    """
    with torch.no_grad():
        losses = [
            float(binary_cross_entropy_with_logits(model(inputs), outcomes))
            for inputs, outcomes in (tensors(sites, place) for place in range(sites))
        ]
    found = {
        "startup_s": ends[0] - float(os.environ["PEERS_BEGAN"]),
        "round_s": [after - before for before, after in pairwise(ends)],
        "loss": sum(losses) / len(losses),
        "note": note,
    }
    sys.stdout.write(f"\n{json.dumps(found)}\n")
    sys.stdout.flush()
