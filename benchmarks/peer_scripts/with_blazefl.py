"""BlazeFL as its examples show it: its FedAvg server and its serial trainer, the one that trains in one thread."""

from __future__ import annotations

from typing import Any

import torch
from blazefl.contrib import FedAvgBaseClientTrainer, FedAvgBaseServerHandler
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.peer_scripts.workload import BATCH, RATE, Clock, Network, answer, asked, loader


class _Networks:
    def select_model(self, _name: str) -> nn.Module:
        return Network()


class _Sites:
    def __init__(self, sites: int) -> None:
        self.sites = sites

    def get_dataloader(
        self, *, cid: int, generator: torch.Generator | None, **_: Any
    ) -> DataLoader[tuple[torch.Tensor, ...]]:
        return loader(self.sites, cid, generator)


def main() -> None:
    """Train and answer."""
    sites, rounds = asked()
    data, networks = _Sites(sites), _Networks()
    handler = FedAvgBaseServerHandler(networks, "mlp", data, rounds, sites, 1.0, "cpu", BATCH, seed=0)
    trainer = FedAvgBaseClientTrainer(networks, "mlp", data, "cpu", sites, 1, BATCH, RATE, seed=0)
    trainer.criterion = nn.BCEWithLogitsLoss()  # its own is for classes
    clock = Clock()
    while not handler.if_stop():
        chosen, broadcast = handler.sample_clients(), handler.downlink_package()
        trainer.local_process(broadcast, chosen)
        for package in trainer.uplink_package():
            handler.load(package)
        clock.tick()
    answer(clock.ends, sites, handler.model, "serial trainer")


if __name__ == "__main__":
    main()
