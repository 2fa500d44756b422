"""fluke's FedAVG over its own clients and `FastDataLoader`, which is faster than torch's; no evaluation."""

from __future__ import annotations

from typing import Any

import torch
from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.data import DataSplitter, DummyDataContainer, FastDataLoader
from fluke.utils import FederationObserver

from benchmarks.peer_scripts.workload import BATCH, RATE, Clock, Network, answer, asked, tensors


class _Ticks(FederationObserver):  # type: ignore[misc]  # fluke is not in this environment
    def __init__(self) -> None:
        self.clock = Clock()

    def end_round(self, round: int) -> None:  # noqa: A002, ARG002
        self.clock.tick()


def main() -> None:
    """Train and answer."""
    sites, rounds = asked()
    FlukeENV().set_eval_cfg(server=False)
    options: Any = DDict(
        model=Network(),
        client={
            "batch_size": BATCH, "local_epochs": 1, "loss": torch.nn.BCEWithLogitsLoss,
            "optimizer": {"name": "SGD", "lr": RATE}, "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1},
        },
        server={"weighted": True},
    )  # fmt: skip
    data = [
        FastDataLoader(*tensors(sites, place), num_labels=2, batch_size=BATCH, shuffle=True) for place in range(sites)
    ]
    container = DummyDataContainer(data, [None] * sites, None, num_classes=2)
    federation, ticks = FedAVG(sites, DataSplitter(container), options), _Ticks()
    federation.set_callbacks(ticks)
    federation.run(rounds, 1.0)
    answer(ticks.clock.ends, sites, federation.server.model.cpu(), "its own loader")


if __name__ == "__main__":
    main()
