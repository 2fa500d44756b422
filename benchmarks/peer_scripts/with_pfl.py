"""pfl's simulation: `FederatedAveraging` on a `SimulatedBackend` with one process, evaluation left out."""

from __future__ import annotations

from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.peer_scripts.workload import BATCH, RATE, Clock, Network, answer, asked, tensors


class _Network(Network):
    """With what pfl asks of a module."""

    def loss(self, inputs: torch.Tensor, outcomes: torch.Tensor) -> torch.Tensor:
        self.train()
        return binary_cross_entropy_with_logits(self(inputs), outcomes)

    def metrics(self, inputs: torch.Tensor, outcomes: torch.Tensor) -> dict[str, Any]:
        self.eval()
        loss = binary_cross_entropy_with_logits(self(inputs), outcomes, reduction="sum")
        return {"loss": Weighted(loss.item(), len(outcomes))}


class _Ticks(TrainingProcessCallback):  # type: ignore[misc]  # pfl is not in this environment
    def __init__(self) -> None:
        self.clock = Clock()

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        self.clock.tick()
        return False, Metrics()


def main() -> None:
    """Train and answer."""
    sites, rounds = asked()
    users = {place: PyTorchTensorDataset(tensors(sites, place), user_id=str(place)) for place in range(sites)}
    data = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(users)))
    network, ticks = _Network(), _Ticks()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=sites,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=data, val_data=data),
        PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0)),
        NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=RATE),
        callbacks=[ticks],
        send_metrics_to_platform=False,
    )
    answer(ticks.clock.ends, sites, network, "batches in a fixed order, evaluation in the first round alone")


if __name__ == "__main__":
    main()
