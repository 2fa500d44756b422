"""What differential privacy costs a step of local training, against stock Opacus and against training without privacy.

Ours is `train` as the node calls it: Poisson sampling and noise from the operating system's CSPRNG, clipping, division, the step.
Stock Opacus is what its documentation shows: `PrivacyEngine.make_private` on a DataLoader, hooks, torch's own noise. Plain
is SGD on tensors with batches drawn by torch, and no privacy. One thread; the fastest of several turns, all in one run.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.figures import Figure, at_least, at_most, report
from benchmarks.timing import fastest, timed
from fedward.client.training import train
from fedward.privacy.draws import SecureDraws
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, parse
from fedward.study.models import build
from fedward.study.terms import SiteTerms

RATE, NOISE, CLIPPING, LEARNING = 0.1, 1.0, 1.0, 0.05
TABLE_STEPS, TABLE_TURNS = 100, 12
IMAGE_STEPS, IMAGE_TURNS = 24, 10
WIDTH, SIDE = 30, 28


def figures() -> list[Figure]:
    found: list[Figure] = []
    for name, model in (
        ("logistic", _table_model(name="logistic-regression")),
        ("mlp", _table_model(name="mlp", hidden=[64, 32])),
    ):
        for batch in (64, 256):
            found += _table(f"{name}_{batch}", model, batch)
    return found + _images()


def _table(name: str, model: nn.Module, batch: int) -> list[Figure]:
    data = _patients(round(batch / RATE), WIDTH)
    ours, stock, plain = _times(model, data, batch, TABLE_STEPS, TABLE_TURNS)
    return [
        report(f"context.{name}_step", ours * 1e6, "us"),
        at_least(f"training.{name}_faster_than_stock_opacus", stock / ours, "times", 4),
        at_most(f"training.{name}_cost_of_privacy", ours / plain, "of_plain_sgd", 1.5),
    ]


def _images() -> list[Figure]:
    """The catalogue's convolutional network, whose per-patient gradients come from Opacus's hooks."""
    batch = 64
    data = _patients(round(batch / RATE), SIDE * SIDE)
    ours, stock, plain = _times(_image_model(), data, batch, IMAGE_STEPS, IMAGE_TURNS)
    return [
        report("context.cnn_step", ours * 1e3, "ms"),
        report("context.cnn_cost_of_privacy", ours / plain, "of_plain_sgd"),
        at_least("training.cnn_faster_than_stock_opacus", stock / ours, "times", 1.4),
    ]


def _times(model: nn.Module, data: Encoded, batch: int, steps: int, turns: int) -> list[float]:
    """Seconds a step: ours, stock Opacus, plain SGD."""
    terms = SiteTerms(steps, LEARNING, RATE, float(batch), CLIPPING, NOISE, 0.0)
    draws = SecureDraws()

    def ours() -> None:
        train(deepcopy(model), data, terms, draws)

    stock, plain = _stock(deepcopy(model), data, batch, steps), _plain(deepcopy(model), data, batch, steps)
    return [seconds / steps for seconds in fastest(turns, timed(ours), timed(stock), timed(plain))]


def _stock(model: nn.Module, data: Encoded, batch: int, steps: int) -> Callable[[], None]:
    dataset = TensorDataset(torch.from_numpy(data.inputs), torch.from_numpy(data.outcomes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its noise is not cryptographic, which is the point
        private, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING),
            data_loader=DataLoader(dataset, batch_size=batch),
            noise_multiplier=NOISE,
            max_grad_norm=CLIPPING,
        )

    def run() -> None:
        done = 0
        while done < steps:
            for inputs, outcomes in loader:
                optimizer.zero_grad()
                torch.autograd.backward(binary_cross_entropy_with_logits(private(inputs), outcomes))
                optimizer.step()
                done += 1
                if done == steps:
                    return

    return run


def _plain(model: nn.Module, data: Encoded, batch: int, steps: int) -> Callable[[], None]:
    inputs, outcomes = torch.from_numpy(data.inputs), torch.from_numpy(data.outcomes)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING)

    def run() -> None:
        for _ in range(steps):
            rows = torch.randint(len(outcomes), (batch,))
            optimizer.zero_grad()
            torch.autograd.backward(binary_cross_entropy_with_logits(model(inputs[rows]), outcomes[rows]))
            optimizer.step()

    return run


def _patients(number: int, width: int) -> Encoded:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(number, width)).astype(np.float32)
    outcomes = (generator.random(number) < 0.3).astype(np.float32)
    names = tuple(f"p{one}" for one in range(number))
    return Encoded(names, inputs, outcomes, np.zeros((number, 0), np.bool_))


def _table_model(**model: object) -> nn.Module:
    numeric = {"type": "numeric", "bounds": [-3.0, 3.0]}
    return build(_study([{"column": f"x{place}", **numeric} for place in range(WIDTH)], model))


def _image_model() -> nn.Module:
    image: dict[str, object] = {"type": "image", "column": "scan", "shape": [1, SIDE, SIDE]}
    return build(_study([image], {"name": "groupnorm-cnn", "channels": [16, 32]}))


def _study(features: list[dict[str, object]], model: dict[str, object]) -> Manifest:
    return parse(
        {
            "study": {"id": "speed", "title": "A study to be timed"},
            "outcome": {"column": "y"},
            "features": features,
            "model": model,
            "training": {"algorithm": "fedavg", "rounds": 1, "missing": "refuse"},
            "federation": {"quorum": 3},
            "privacy": {"mechanism": "none"},
        }
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(0 if all(figure.ok for figure in figures()) else 1)
