"""Flower's simulation engine as its manual shows it: Ray, an actor with one core, its FedAvg strategy."""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peer_scripts.workload import Clock, Network, answer, asked, loader, train

client = ClientApp()


@client.train()  # type: ignore[untyped-decorator]
def _train(message: Message, context: Context) -> Message:
    model = Network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    batches = loader(int(context.node_config["num-partitions"]), int(context.node_config["partition-id"]))
    train(model, batches)
    counted = MetricRecord({"num-examples": len(batches.dataset)})  # type: ignore[arg-type]
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": counted}), reply_to=message)


def main() -> None:
    """Train and answer."""
    sites, rounds = asked()
    clock, network = Clock(), Network()
    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def _serve(grid: Grid, _context: Context) -> None:
        def ended(place: int, arrays: ArrayRecord) -> Any:
            if place:  # it also asks about the model before the first round
                clock.tick()
                network.load_state_dict(arrays.to_torch_state_dict())

        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
        strategy.start(grid, ArrayRecord(Network().state_dict()), num_rounds=rounds, evaluate_fn=ended)

    # Its own Ray, not one that somebody else runs on this machine.
    started = {"address": "local", "num_cpus": 1, "log_to_driver": False}
    resources = {"num_cpus": 1, "num_gpus": 0.0}
    run_simulation(server, client, sites, backend_config={"client_resources": resources, "init_args": started})
    answer(clock.ends, sites, network, "one Ray actor")


if __name__ == "__main__":
    main()
