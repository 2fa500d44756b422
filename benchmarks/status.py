"""How long a study's status takes with 1 000 past rounds: `fedward coordinator status` of four sites and of 32.

The call is what the coordinator reads and puts together, the command a fresh Python that imports, asks and prints. The record is
written through the store's own API; every tenth round evaluates.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import Figure, at_most, report
from benchmarks.long_record import write_record
from benchmarks.timing import fastest, timed
from fedward.server.coordinator import LocalCoordinator

ROUNDS = 1000


def figures() -> list[Figure]:
    """The call and the command."""
    found = []
    for sites in (4, 32):
        with tempfile.TemporaryDirectory(prefix="fedward-status-") as folder:
            home, digest = write_record(Path(folder) / "coordinator", sites, ROUNDS)
            coordinator = LocalCoordinator(home.path)
            try:
                view = coordinator.status(digest)
                if (len(view.attempts), len(view.statuses)) != (ROUNDS, sites * ROUNDS):
                    raise RuntimeError(f"the record holds {len(view.attempts)} attempts, not {ROUNDS}")
                call, json = fastest(5, timed(lambda: coordinator.status(digest)), timed(view.as_json))  # noqa: B023
            finally:
                coordinator.close()
            command = [
                sys.executable,
                "-m",
                "fedward.cli.main",
                "coordinator",
                "status",
                digest,
                "--home",
                str(home.path),
            ]
            bare = [sys.executable, "-m", "fedward.cli.main", "coordinator", "status", "--help"]
            whole, imports = fastest(3, timed(lambda: _run(command)), timed(lambda: _run(bare)))  # noqa: B023
            found += [
                at_most(f"status.call_{sites}_sites", call, "s", 0.2),
                report(f"context.status_as_json_{sites}_sites", json, "s"),
                report(f"context.status_command_{sites}_sites", whole, "s"),
                report("context.command_that_only_helps", imports, "s"),
            ]
    return found


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)
