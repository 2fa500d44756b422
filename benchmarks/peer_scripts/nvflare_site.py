"""A site's training script, as NVFLARE's client API has it; its simulator runs it for each site."""

from __future__ import annotations

import sys

import nvflare.client as flare
import torch

from benchmarks.peer_scripts.workload import Network, loader, train


def main() -> None:
    """Train whenever the server asks."""
    torch.set_num_threads(1)
    flare.init()
    sites, place = int(sys.argv[1]), int(flare.get_site_name().removeprefix("site-")) - 1
    batches, model = loader(sites, place), Network()
    while flare.is_running():
        asked = flare.receive()
        model.load_state_dict({name: torch.as_tensor(value) for name, value in asked.params.items()})
        train(model, batches)
        flare.send(flare.FLModel(params=model.cpu().state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": len(batches)}))


if __name__ == "__main__":
    main()
