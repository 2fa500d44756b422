"""What more sites cost: up to 200 warm simulated sites over the real SuperLink, and a model of how that grows.

Nodes are threads of two processes on this machine, each with its own keys, TLS connections, ledger and data, and train for real.
They share two cores with the coordinator, so a round's time is an upper bound. What the coordinator itself spends is counted apart:
processor seconds of the service (SuperLink and listener) and of the ServerApp, HTTP requests of the sites, and peak memory. Each is
fitted as a + b n over the sizes; `b` is what one more site costs.

FEDWARD_SCALE_SIZES (25,50,100,200), FEDWARD_SCALE_ROUNDS (20, of plain sums at the largest size; all else runs four) and
FEDWARD_SCALE_KINDS (plain,secure) choose less.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import node_host, processes
from benchmarks.figures import Figure, report
from benchmarks.fleet import Fleet, fleet_manifest
from fedward.server.lifecycle import ENDED

SIZES = tuple(int(size) for size in os.environ.get("FEDWARD_SCALE_SIZES", "25,50,100,200").split(","))
ROUNDS = int(os.environ.get("FEDWARD_SCALE_ROUNDS", "20"))
KINDS = tuple(os.environ.get("FEDWARD_SCALE_KINDS", "plain,secure").split(","))
FEW_ROUNDS = 4
HOSTS = 2
LIMIT_S = 3600.0
MB = 1e6


@dataclass(frozen=True)
class Load:
    """What a study of a size cost: medians and means of a round, and peaks."""

    sites: int
    round_s: float
    requests: float
    service_cpu_s: float
    app_cpu_s: float
    nodes_cpu_s: float
    service_mb: float
    app_mb: float


@dataclass(frozen=True)
class Spent:
    """What was spent up to now."""

    service_s: float
    nodes_s: float
    requests: int


def figures() -> list[Figure]:
    """Each size's figures, and the model, by kind of sum."""
    found = []
    for kind in KINDS:
        loads = [_measure(kind, size, _rounds(kind, size)) for size in SIZES]
        for load in loads:
            found += _figures(kind, load)
        found += _model(kind, loads)
    return found


def _rounds(kind: str, size: int) -> int:
    return ROUNDS if kind == "plain" and size == max(SIZES) else min(ROUNDS, FEW_ROUNDS)


def _measure(kind: str, sites: int, rounds: int) -> Load:
    with tempfile.TemporaryDirectory(prefix="fedward-scale-") as folder:
        return _run(Path(folder), kind, sites, rounds)


def _run(folder: Path, kind: str, sites: int, rounds: int) -> Load:
    fleet = Fleet(folder, sites)
    manifest = fleet_manifest(
        f"load-{kind}", rounds=rounds, quorum=max(3, 2 * sites // 3), secure=kind == "secure",
        federation={"deadline": "30min", "grace": "10min"},
    )  # fmt: skip
    homes = [home.path for home in fleet.sites.values()]
    node_host.expect(manifest)
    with fleet.serving() as service:
        hosts = [node_host.Host(homes[place::HOSTS]) for place in range(HOSTS)]
        try:
            fleet.await_nodes()
            digest = fleet.approved(manifest)
            began = _spent(service, hosts)
            fleet.coordinator.launch(digest)
            app_s, app_bytes = _watch(fleet, digest, service)
            ended = _spent(service, hosts)
        finally:
            for host in hosts:
                host.end()
        study = fleet.study(digest)
        if study.state != "completed":
            raise RuntimeError(f"{sites} sites: the study did not complete: {study.reason}. {fleet.last_words()}")
        attempts = [row for row in fleet.store.attempts(study.key) if row.outcome == "committed"]
        peak = processes.peak_bytes(service)
    fleet.close()
    done = len(attempts)
    return Load(
        sites=sites,
        round_s=median(row.seconds or 0.0 for row in attempts[1:]),  # the first loads each site's data
        requests=(ended.requests - began.requests) / done,
        service_cpu_s=(ended.service_s - began.service_s) / done,
        app_cpu_s=app_s / done,
        nodes_cpu_s=(ended.nodes_s - began.nodes_s) / done,
        service_mb=peak / MB,
        app_mb=app_bytes / MB,
    )


def _spent(service: int, hosts: list[node_host.Host]) -> Spent:
    nodes = sum(processes.cpu_seconds(host.process.pid or 0) for host in hosts)
    return Spent(processes.cpu_seconds(service), nodes, sum(host.requests for host in hosts))


def _watch(fleet: Fleet, digest: str, service: int) -> tuple[float, int]:
    """Processor seconds and peak memory of the ServerApp of a study that is followed to its end: the busiest child."""
    seconds: dict[int, float] = {}
    memory: dict[int, int] = {}

    def ended() -> bool:
        for child in processes.descendants(service):
            seconds[child] = max(seconds.get(child, 0.0), processes.cpu_seconds(child))
            memory[child] = max(memory.get(child, 0), processes.peak_bytes(child))
        return fleet.study(digest).state in ENDED

    fleet.wait("the study ends", ended, LIMIT_S)
    busiest = max(seconds, key=lambda child: seconds[child])
    return seconds[busiest], memory[busiest]


def _figures(kind: str, load: Load) -> list[Figure]:
    at = f"{kind}_{load.sites}_sites"
    return [
        report(f"scale.round_{at}", load.round_s, "s"),
        report(f"scale.requests_{at}", load.requests, "requests_per_round"),
        report(f"scale.service_cpu_{at}", load.service_cpu_s, "cpu_s_per_round"),
        report(f"scale.server_app_cpu_{at}", load.app_cpu_s, "cpu_s_per_round"),
        report(f"context.nodes_cpu_{at}", load.nodes_cpu_s, "cpu_s_per_round"),
        report(f"scale.service_memory_{at}", load.service_mb, "MB"),
        report(f"scale.server_app_memory_{at}", load.app_mb, "MB"),
    ]


def _model(kind: str, loads: list[Load]) -> list[Figure]:
    """a + b n by least squares; the largest of its errors tells what does not grow so."""
    if len(loads) < 3:  # two points fit any line
        return []
    found = []
    sites = np.array([load.sites for load in loads], dtype=float)
    for name, unit in (("round_s", "s"), ("requests", "requests"), ("service_cpu_s", "cpu_s"), ("app_cpu_s", "cpu_s"),
                       ("service_mb", "MB"), ("app_mb", "MB")):  # fmt: skip
        values = np.array([getattr(load, name) for load in loads])
        slope, base = np.polyfit(sites, values, 1)
        worst = float(np.max(np.abs(base + slope * sites - values) / values))
        found += [
            report(f"scale.model_{kind}_{name}_base", float(base), unit),
            report(f"scale.model_{kind}_{name}_each_site", float(slope), unit),
            report(f"context.model_{kind}_{name}_worst_error", worst, "of_the_measured"),
        ]
    return found


def main() -> int:
    """Print every figure; there is no target to fall short of."""
    figures()
    return 0


if __name__ == "__main__":
    sys.exit(main())
