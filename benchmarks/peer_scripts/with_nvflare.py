"""NVFLARE's simulator: its FedAvg controller for PyTorch, each site by its client API in the simulator's own processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.base_fed_job import BaseFedJob
from nvflare.job_config.script_runner import ScriptRunner

from benchmarks.peer_scripts.nvflare_ticks import Ticks
from benchmarks.peer_scripts.workload import Network, answer, asked

HERE = Path(__file__).resolve().parent
PERIOD_S = 0.01  # how often its server looks for a round's end; shipped as 0.5, which would be most of a round

MOST_PROCESSES = 10
"""Its simulator is fastest with a process for each site, 330 MB each; with fewer, sites are started anew in every round, for
seconds each. A hundred processes would need more memory than most machines have."""


def main() -> None:
    """Train and answer."""
    sites, rounds = asked()
    processes = min(sites, MOST_PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        ticks = Path(folder) / "ticks"
        job = BaseFedJob(Network(), name="speed", min_clients=sites)
        persistor = job.comp_ids["persistor_id"]
        job.to_server(FedAvg(num_clients=sites, num_rounds=rounds, persistor_id=persistor, task_check_period=PERIOD_S))
        job.to_server(Ticks(str(ticks)))
        job.to_clients(ScriptRunner(script=str(HERE / "nvflare_site.py"), script_args=str(sites)))
        job.simulator_run(folder, n_clients=sites, threads=processes, log_config="ERROR")
        (saved,) = Path(folder).glob("**/FL_global_model.pt")
        model = Network()
        model.load_state_dict(torch.load(saved, weights_only=False)["model"])
        answer([float(line) for line in ticks.read_text().split()], sites, model, f"{processes} processes")


if __name__ == "__main__":
    main()
