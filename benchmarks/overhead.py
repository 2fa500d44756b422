"""What a round costs beside training, what an idle hospital node costs, and how long the demo's federation takes.

The federation is the demo's: a coordinator with its SuperLink and four nodes, five processes on loopback with mutual TLS,
driven by the real commands. A round's time is the time between two commits, so that nothing is left out: the choice
of the cohort, the journal, the messages, the hospitals' ledgers, admission, aggregation, the commit. From it goes the
time of the slowest site's training and evaluation, which each site's own log tells. The first round warms up.

The peer is Flower as shipped (`benchmarks.stock_flower`), measured in the same run on the same machine: an exchange of
as many floats with two SuperNodes, and with four as context. A round of Flower's own FedAvg takes two such exchanges.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, report
from benchmarks.stock_flower import exchanges
from fedward.cli.demo_federation import DemoFederation, demo_study
from fedward.client.home import SiteHome
from fedward.client.node_state import node_state
from fedward.server.home import CoordinatorHome
from fedward.server.views import StudyView
from fedward.study.heart import heart_folder
from fedward.study.models import build, dimension

ROUNDS = 15
LEAST_ROUNDS = 10
SETTLE_S = 5.0
IDLE_S = 20.0
PEER_EXCHANGES = {2: 7, 4: 3}
PUBLISHED_PEER_S = 6.3
"""Flower 1.42 with two SuperNodes and 1 000 floats, as measured when Fedward was designed: context."""


def figures() -> list[Figure]:
    """Fedward's figures, then the peer's and their ratio."""
    with tempfile.TemporaryDirectory(prefix="fedward-overhead-") as name:
        found, overhead, floats = _fedward(Path(name))
    return found + _peer(overhead, floats)


def _fedward(folder: Path) -> tuple[list[Figure], float, int]:
    """The figures of one demo federation, the median overhead in seconds, and the model's number of floats."""
    source = heart_folder()
    study = demo_study(source, folder, rounds=ROUNDS, epsilon=None, no_dp=False)
    with DemoFederation(folder, source, study, _say) as federation:
        began = time.monotonic()
        federation.set_up()
        ready = time.monotonic()
        view = federation.train(progress=False)
        trained = time.monotonic()
        homes = [federation.home(site) for site in federation.names]
        rounds, training = round_seconds(federation.coordinator_home, view), training_seconds(homes)
        overheads = [seconds - training[attempt] for attempt, seconds in rounds.items()]
        if len(overheads) < LEAST_ROUNDS:
            raise RuntimeError(f"{len(overheads)} rounds could be measured, {LEAST_ROUNDS} are needed")
        overhead = median(overheads)
        found = [
            report("foundation.round_overhead", overhead, "seconds", "<=1.5", overhead <= 1.5),
            report("context.round_overhead_worst", max(overheads), "seconds"),
            report("context.round", median(rounds.values()), "seconds"),
            report("context.round_training", median(training[attempt] for attempt in rounds), "seconds"),
            _below("foundation.demo_federation", trained - ready, "seconds", 90),
            report("context.demo_set_up", ready - began, "seconds"),
        ]
        found += _idle(homes)
        return found, overhead, dimension(build(federation.manifest))


def round_seconds(home: CoordinatorHome, view: StudyView) -> dict[int, float]:
    """Seconds from commit to commit by attempt, read from the study's log; the first round has no commit before it."""
    commits: dict[int, datetime] = {}
    for line in (home.log_folder / f"study-{view.key}.log").read_text(encoding="utf-8").splitlines():
        at, _, said = line.split(" ", 2)
        if said.startswith("attempt ") and ": committed" in said:
            commits[int(said.split()[1].rstrip(":"))] = datetime.fromisoformat(at)
    trained = {a.attempt for a in view.attempts if a.outcome == "committed" and a.round <= view.rounds}
    return {
        attempt: (at - commits[attempt - 1]).total_seconds()
        for attempt, at in commits.items()
        if attempt in trained and attempt - 1 in commits
    }


def training_seconds(homes: list[SiteHome]) -> dict[int, float]:
    """Seconds of the slowest site's training and evaluation, by attempt."""
    slowest: dict[int, float] = {}
    for home in homes:
        for line in home.log_file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["event"] == "worked":
                attempt, seconds = int(entry["attempt"]), float(entry["train_ms"]) / 1000
                slowest[attempt] = max(seconds, slowest.get(attempt, 0.0))
    return slowest


def _idle(homes: list[SiteHome]) -> list[Figure]:
    """The hungriest node's share of a core while nothing happens, and the largest one's memory after the rounds."""
    processes = [int(node_state(home)["pid"]) for home in homes]
    resident = max(_resident_bytes(process) for process in processes)
    time.sleep(SETTLE_S)  # a node polls fast for a while after a round
    before, began = [_cpu_seconds(process) for process in processes], time.monotonic()
    time.sleep(IDLE_S)
    after, took = [_cpu_seconds(process) for process in processes], time.monotonic() - began
    share = 100 * max(late - early for early, late in zip(before, after, strict=True)) / took
    return [
        _below("foundation.idle_node", share, "percent_of_a_core", 2),
        _below("foundation.node_memory", resident / 1e6, "MB", 700),
    ]


def _cpu_seconds(process: int) -> float:
    """User and system time of a process with all its threads (proc(5), fields 14 and 15 of stat)."""
    fields = _proc(process, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(process: int) -> int:
    return int(_proc(process, "statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _proc(process: int, name: str) -> str:
    return Path(f"/proc/{process}/{name}").read_text(encoding="ascii", errors="replace")  # Linux, as hospitals' servers


def _peer(overhead: float, floats: int) -> list[Figure]:
    found = [report("context.flower_as_shipped_published", PUBLISHED_PEER_S, "seconds_per_exchange")]
    by_nodes = {}
    for nodes, count in PEER_EXCHANGES.items():
        _say(f"measuring Flower as shipped: {count} exchanges with {nodes} SuperNodes")
        by_nodes[nodes] = median(exchanges(nodes, floats, count))
        found.append(report(f"context.flower_as_shipped_{nodes}_nodes", by_nodes[nodes], "seconds_per_exchange"))
    # Two nodes, though Fedward has four: what is published, and kinder to the peer.
    found.append(_below("foundation.round_overhead_ratio", overhead / by_nodes[2], "of_flower_as_shipped", 1))
    return found


def _below(name: str, value: float, unit: str, bound: float) -> Figure:
    return report(name, value, unit, f"<{bound:g}", value < bound)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
