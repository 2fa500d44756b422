"""Flower's own simulation as shipped, as the peer of a simulated round: a ClientApp as its tutorials write it, FedAvg, Ray.

20 000 patients over 100 sites, an MLP 30-64-32-1, a DataLoader with batches of 32, one epoch a round; `run_simulation` in a process
of its own. In its favour: no dashboard, no evaluation, and each site's patients made once a worker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

SITES, PATIENTS, WIDTH, HIDDEN, BATCH, RATE = 100, 20_000, 30, (64, 32), 32, 0.05
ROUNDS = 11
LIMIT_S = 240.0

client, server = ClientApp(), ServerApp()
_loaders: dict[int, Any] = {}


def measure(workers: int) -> tuple[float, float]:
    """Seconds of a round, the fastest of all but the first; and of start-up: from the process's start to the end of its first
    round, less a round.

    Raises:
        RuntimeError: it did not run; the end of what it said is repeated.
    """
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # what Ray calls its binding to loopback, on Linux too
    path = os.pathsep.join((str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")))
    began = time.time()
    done = subprocess.run(
        # As a module that workers import: what is defined in a program itself is pickled with every message.
        [
            sys.executable,
            "-c",
            "from benchmarks.stock_simulation import main; main(WORKERS)".replace("WORKERS", str(workers)),
        ],
        env=os.environ | quiet | loopback | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    ends = [float(line.removeprefix("round ")) for line in done.stdout.splitlines() if line.startswith("round ")]
    if done.returncode != 0 or len(ends) != ROUNDS:
        raise RuntimeError(f"Flower's simulation could not be measured:\n{done.stderr[-1500:]}")
    a_round = float(np.diff(ends).min())
    return a_round, ends[0] - began - a_round


def _network() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(WIDTH, HIDDEN[0]),
        nn.ReLU(),
        nn.Linear(HIDDEN[0], HIDDEN[1]),
        nn.ReLU(),
        nn.Linear(HIDDEN[1], 1),
    )


def _loader(place: int) -> Any:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    if place not in _loaders:
        generator, number = np.random.default_rng(place), PATIENTS // SITES
        inputs = torch.from_numpy(generator.normal(size=(number, WIDTH)).astype(np.float32))
        outcomes = torch.from_numpy((generator.random((number, 1)) < 0.3).astype(np.float32))
        _loaders[place] = DataLoader(TensorDataset(inputs, outcomes), batch_size=BATCH, shuffle=True)
    return _loaders[place]


@client.train()  # type: ignore[untyped-decorator]  # flwr ships no types
def _train(message: Message, context: Context) -> Message:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    model = _network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loader = _loader(int(context.node_config["partition-id"]))
    for inputs, outcomes in loader:
        optimizer.zero_grad()
        torch.autograd.backward(binary_cross_entropy_with_logits(model(inputs), outcomes))
        optimizer.step()
    metrics = MetricRecord({"num-examples": len(loader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@server.main()  # type: ignore[untyped-decorator]
def _serve(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
    def ended(round_: int, _arrays: ArrayRecord) -> None:
        if round_:  # 0 is before the first
            print(f"round {time.time()}", flush=True)

    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=SITES)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(_network().state_dict()),
        num_rounds=ROUNDS,
        train_config=ConfigRecord({"lr": RATE}),
        evaluate_fn=ended,
    )


def main(workers: int) -> None:
    """Run it, and print the wall-clock time at the end of each round, one a line."""
    from flwr.simulation import run_simulation

    # Ours: Ray joins a cluster that happens to run here, and waits for one that has ended.
    start = {"address": "local", "num_cpus": workers, "_node_ip_address": "127.0.0.1", "include_dashboard": False}
    config = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": start}
    run_simulation(server, client, SITES, backend_config=config)
