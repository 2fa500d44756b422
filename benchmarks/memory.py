"""The memory of a coordinator with a 10-million-parameter study: its service and its ServerApp together, during real rounds.

Four nodes on loopback with TLS whose updates are made up, vectors of the model's size, go the real way: packed, signed, masked
where the study says so, stored by the SuperLink, admitted, summed, committed. The peak is of both processes' resident memory, and
of the one that waits for the next run, summed as it is sampled every 20 ms. Nodes are not counted: they are on hospitals' machines.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import node_host, processes
from benchmarks.figures import Figure, at_most, report
from benchmarks.fleet import Fleet, fleet_manifest
from fedward.study.models import build, dimension

SITES, ROUNDS = 4, 3
HIDDEN = [3150, 3150]
LEAST_PARAMETERS = 10_000_000
LIMIT_S = 600.0
GB = 1e9


def figures() -> list[Figure]:
    """The peak with sums that the coordinator sees, and with secure ones."""
    found = []
    for name in ("plain", "secure"):
        with tempfile.TemporaryDirectory(prefix="fedward-memory-") as folder:
            found += _measure(Path(folder), name)
    return found


def _measure(folder: Path, name: str) -> list[Figure]:
    manifest = fleet_manifest(
        f"large-{name}", rounds=ROUNDS, quorum=3, secure=name == "secure",
        model={"name": "mlp", "hidden": HIDDEN}, federation={"deadline": "10min", "grace": "5min"},
        evaluation={"noise": "none", "every": ROUNDS},
    )  # fmt: skip
    parameters = dimension(build(manifest))
    if parameters < LEAST_PARAMETERS:
        raise RuntimeError(f"the model has {parameters} parameters")
    fleet = Fleet(folder, SITES)
    with fleet.serving() as service:
        node_host.expect(manifest)
        host = node_host.Host([home.path for home in fleet.sites.values()], made_up=True)
        try:
            fleet.await_nodes()
            digest = fleet.approved(manifest)
            with _Peak(service) as peak:
                began = time.monotonic()
                fleet.coordinator.launch(digest)
                study = fleet.wait_ended(digest, LIMIT_S)
                took = time.monotonic() - began
        finally:
            host.end()
    if study.state != "completed":
        raise RuntimeError(f"the study did not complete: {study.reason}")
    fleet.close()
    return [
        at_most(f"memory.coordinator_{name}", peak.together / GB, "GB", 1.5),
        report(f"context.memory_service_{name}", peak.service / GB, "GB"),
        report(f"context.memory_server_app_{name}", peak.apps / GB, "GB"),
        report(f"context.memory_parameters_{name}", parameters / 1e6, "million"),
        report(f"context.memory_study_{name}", took, "s"),
    ]


class _Peak:
    """The most memory of a service and its children: together, and each by itself."""

    def __init__(self, service: int) -> None:
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.together = self.service = self.apps = 0

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            own = processes.share_bytes(self._service)
            apps = sum(processes.share_bytes(child) for child in processes.descendants(self._service))
            self.together = max(self.together, own + apps)
            self.service, self.apps = max(self.service, own), max(self.apps, apps)


def main() -> int:
    return 0 if all(figure.ok for figure in figures()) else 1


if __name__ == "__main__":
    sys.exit(main())
