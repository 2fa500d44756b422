"""FLamby's Fed-Heart-Disease table, every row that Fedward has an algorithm for: `make bench ONLY=fed_heart`.

Protocol, data and splits are `benchmarks.flamby`'s; settings are those of FLamby's configuration for its published table: rate .001
for FedAvg, FedProx (μ .01) and SCAFFOLD; FedAdam .01 and server .01; FedYogi .003162 and .01; FedAdagrad .003162 and .316228;
β .9 and .999, τ 1e-8. Pooled and local models: Adam, rate .001, 50 epochs. Means of five seeds. A row's figures are accuracies on
each hospital's test, their mean, and on all tests as one (normalised by everybody's training patients).

Server steps, control variates and gradient steps are the product's; batches are FLamby's, four patients shuffled by epoch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

# Run as a program, Python knows this folder alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, near
from benchmarks.flamby import (
    BATCH,
    SEEDS,
    TOLERANCE,
    UPDATES,
    Hospital,
    accuracy,
    batches,
    hospitals,
    initial,
    normalised,
    terms_of,
)
from fedward.client.training import train
from fedward.server.aggregation import OptimiserState, step, weighted_mean
from fedward.simulations.algorithms import ControlVariates
from fedward.simulations.baselines import UnsafeSeededDraws, pool
from fedward.study.encoding import Encoded
from fedward.study.heart import SITES
from fedward.study.models import dimension, load_vector, to_vector
from fedward.study.training import Training
from fedward.study.vectors import Vector

ROUNDS, EPOCHS, ADAM = 15, 50, 1e-3
COLUMNS = (*SITES, "mean", "pooled_test")


@dataclass(frozen=True)
class _Method:
    """A federated row: the server's side, and the hospitals' rate and pull."""

    training: Training
    rate: float
    proximal: float = 0.0


def _adaptive(algorithm: str, rate: float, server: float) -> _Method:
    data = {
        "algorithm": algorithm, "rounds": ROUNDS, "server_learning_rate": server, "server_momentum": 0.9,
        "server_beta2": 0.999, "server_epsilon": 1e-8,
    }  # fmt: skip
    return _Method(Training.model_validate(data), rate)


_PLAIN = Training(algorithm="fedavg", rounds=ROUNDS)
METHODS = {
    "fedavg": _Method(_PLAIN, 1e-3),
    "fedprox": _Method(_PLAIN, 1e-3, proximal=0.01),
    "scaffold": _Method(Training(algorithm="scaffold", rounds=ROUNDS), 1e-3),
    "fedadam": _adaptive("fedadam", 0.01, 0.01),
    "fedyogi": _adaptive("fedyogi", 0.003162, 0.01),
    "fedadagrad": _adaptive("fedadagrad", 0.003162, 0.316228),
}
PUBLISHED: dict[str, tuple[float, ...]] = {
    "pooled": (0.783, 0.764, 0.750, 0.644, 0.735, 0.795),
    "fedavg": (0.731, 0.719, 0.650, 0.640, 0.685, 0.748),
    "fedprox": (0.731, 0.719, 0.650, 0.640, 0.685, 0.748),
    "scaffold": (0.727, 0.719, 0.650, 0.640, 0.684, 0.748),
    "fedadam": (0.752, 0.746, 0.738, 0.667, 0.726, 0.779),
    "fedyogi": (0.760, 0.753, 0.738, 0.676, 0.731, 0.779),
    "fedadagrad": (0.760, 0.753, 0.738, 0.676, 0.731, 0.779),
}
PUBLISHED_LOCAL = dict(zip(SITES, (0.722, 0.629, 0.567, 0.637), strict=True))
"""Each hospital's own model, its mean accuracy over the four tests."""


def figures() -> list[Figure]:
    """Every cell of the table, within .02 of what is published."""
    torch.set_num_threads(1)  # 13 inputs: a second thread only waits
    data = hospitals()
    found: list[Figure] = []
    for method, published in PUBLISHED.items():
        runs = [
            _pooled(seed, data) if method == "pooled" else _federated(METHODS[method], seed, data) for seed in SEEDS
        ]
        for column, value in zip(COLUMNS, np.mean(runs, axis=0), strict=True):
            name, goal = f"fed_heart.{method}.{column}", published[COLUMNS.index(column)]
            found.append(near(name, float(value), "accuracy", goal, TOLERANCE))
    for place, (site, goal) in enumerate(PUBLISHED_LOCAL.items()):
        mean = float(np.mean([_local(place, seed, data) for seed in SEEDS]))
        found.append(near(f"fed_heart.local_{site}.mean", mean, "accuracy", goal, TOLERANCE))
    return found


def _federated(method: _Method, seed: int, data: dict[str, Hospital]) -> list[float]:
    training = [normalised(hospital.training, hospital.training) for hospital in data.values()]
    weights = [float(len(patients)) for patients in training]
    streams = [batches(patients, np.random.default_rng((seed, place))) for place, patients in enumerate(training)]
    model = initial(seed)
    base, state = to_vector(model), OptimiserState.zeros(dimension(model))
    control = ControlVariates(np.array(weights) / sum(weights), len(base), UPDATES, method.rate)
    for _ in range(ROUNDS):
        pulls = control.corrections() if method.training.algorithm == "scaffold" else [None] * len(streams)
        updates = [_updated(model, base, stream, method, pull) for stream, pull in zip(streams, pulls, strict=True)]
        control.learn(np.stack(updates), np.ones(len(updates), dtype=np.bool_))
        base, state = step(base, weighted_mean(updates, weights), state, method.training)
    load_vector(model, base)
    return _tested(model, data)


def _updated(model: nn.Module, base: Vector, stream: Iterator[Encoded], method: _Method, pull: Vector | None) -> Vector:
    """One hospital's round: a call a batch, so what pulls to the round's base comes as each step's correction."""
    load_vector(model, base)
    for _ in range(UPDATES):
        batch = next(stream)
        drift = to_vector(model) - base
        correction = method.proximal * drift if pull is None else pull
        train(model, batch, terms_of(len(batch), method.rate), UnsafeSeededDraws(0), correction)
    return to_vector(model) - base


def _pooled(seed: int, data: dict[str, Hospital]) -> list[float]:
    everybody = pool(hospital.training for hospital in data.values())
    return _tested(_adam(seed, normalised(everybody, everybody)), data)


def _local(place: int, seed: int, data: dict[str, Hospital]) -> float:
    """A hospital's own model: its mean accuracy over all four tests."""
    own = list(data.values())[place].training
    tests = _tested(_adam(seed, normalised(own, own)), data)
    return tests[COLUMNS.index("mean")]


def _adam(seed: int, training: Encoded) -> nn.Module:
    """FLamby's baseline: as its `fed_benchmark.py` trains a pooled and a local model."""
    model = initial(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=ADAM)
    generator = np.random.default_rng(seed)
    inputs, outcomes = torch.from_numpy(training.inputs), torch.from_numpy(training.outcomes)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.from_numpy(generator.permutation(len(training))), BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(binary_cross_entropy_with_logits(model(inputs[rows]), outcomes[rows]))
            optimizer.step()
    return model


def _tested(model: nn.Module, data: dict[str, Hospital]) -> list[float]:
    """`COLUMNS` of a model."""
    sites: Sequence[float] = [accuracy(model, normalised(one.test, one.training)) for one in data.values()]
    everybody = pool(hospital.training for hospital in data.values())
    tests = pool(hospital.test for hospital in data.values())
    return [*sites, float(np.mean(sites)), accuracy(model, normalised(tests, everybody))]


def main() -> int:
    """Run it; the exit status is 1 if a figure falls short, else 0."""
    return 0 if all(figure.ok for figure in figures()) else 1


if __name__ == "__main__":
    sys.exit(main())
