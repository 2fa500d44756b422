"""The coordinator's reach: a round beside training at 4 and 32 sites, status after 1 000 rounds, the memory of a large study.

A round's overhead is the time between two commits without the slowest site's training and evaluation, as in `benchmarks.overhead`;
the first round warms up. Nodes are warm threads with their own TLS connections, keys and ledgers: at four sites in four processes,
at 32 in two. The peer is Flower as shipped, measured in the same run on the same machine (`benchmarks.stock_flower`): an exchange
of as many floats with as many SuperNodes, of which a round of its FedAvg takes two. FEDWARD_REACH_PEERS (4) says with how many:
32 SuperNodes start 32 processes for each exchange, which two cores need minutes for.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from statistics import median

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import memory, node_host, status
from benchmarks.figures import Figure, Part, at_most, report
from benchmarks.fleet import Fleet, fleet_manifest
from benchmarks.overhead import round_seconds, training_seconds
from benchmarks.stock_flower import exchanges
from fedward.study.models import build, dimension

ROUNDS, LEAST_ROUNDS = 12, 8
BOUNDS = {("plain", 4): 1.0, ("plain", 32): 6.0, ("secure", 4): 3.0}
PEERS = tuple(int(nodes) for nodes in os.environ.get("FEDWARD_REACH_PEERS", "4").split(",") if nodes)
LIMIT_S = 1200.0


def rounds() -> list[Figure]:
    """The overhead of a round, and its ratio to Flower's exchange with as many sites."""
    overheads = {(kind, sites): _overhead(kind, sites) for kind, sites in BOUNDS}
    found = [
        at_most(f"reach.round_{kind}_{sites}_sites", overheads[kind, sites], "seconds", bound)
        for (kind, sites), bound in BOUNDS.items()
    ]
    floats = dimension(build(fleet_manifest("size", rounds=1, quorum=3, secure=False)))
    for nodes in PEERS:
        exchange = median(exchanges(nodes, floats, 3))
        found.append(report(f"context.flower_as_shipped_{nodes}_nodes", exchange, "seconds_per_exchange"))
        for (kind, sites), overhead in overheads.items():
            if sites == nodes:
                found.append(report(f"reach.ratio_{kind}_{sites}_sites", overhead / exchange, "of_flower_as_shipped"))
    return found


def _overhead(kind: str, sites: int) -> float:
    """Median seconds of a round without the slowest site's training."""
    with tempfile.TemporaryDirectory(prefix="fedward-reach-") as folder:
        fleet = Fleet(Path(folder), sites)
        homes = list(fleet.sites.values())
        with fleet.serving():
            count = sites if sites <= 4 else 2  # a process for each hospital while the machine has room
            hosts = [node_host.Host([home.path for home in homes[place::count]]) for place in range(count)]
            try:
                fleet.await_nodes()
                digest = fleet.approved(
                    fleet_manifest(f"reach-{kind}", rounds=ROUNDS, quorum=max(3, sites - 1), secure=kind == "secure")
                )
                fleet.coordinator.launch(digest)
                study = fleet.wait_ended(digest, LIMIT_S)
            finally:
                for host in hosts:
                    host.end()
        if study.state != "completed":
            raise RuntimeError(f"the study did not complete: {study.reason}")
        training = training_seconds(homes)
        took = round_seconds(fleet.home, fleet.coordinator.status(digest))
        fleet.close()
    overheads = [seconds - training[attempt] for attempt, seconds in took.items()]
    if len(overheads) < LEAST_ROUNDS:
        raise RuntimeError(f"{len(overheads)} rounds could be measured, {LEAST_ROUNDS} are needed")
    report(f"context.round_{kind}_{sites}_sites_worst", max(overheads), "seconds")
    return median(overheads)


PARTS: list[Part] = [rounds, status.figures, memory.figures]


def main() -> int:
    """Run every part, even after one fell short: the exit status is 1 then, else 0."""
    figures = [figure for part in PARTS for figure in part()]
    return 0 if all(figure.ok for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
