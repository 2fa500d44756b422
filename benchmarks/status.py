"""How long a study's status takes with 1 000 past rounds: `fedward coordinator status` of four sites and of 32.

A call goes to the service that runs, over gRPC and TLS, as the command's does: until the answer is there, with the details of the
newest attempts, which a person is shown, or with those of all, which `--json` prints. The command is a fresh Python that imports,
asks and prints. The record is written through the store's own API; every tenth round evaluates.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, at_most, report
from benchmarks.fleet import START_S, started
from benchmarks.long_record import write_record
from benchmarks.timing import fastest, timed
from fedward.cli.coordinator import ATTEMPTS_SHOWN
from fedward.server.control.remote import RemoteCoordinator
from fedward.server.home import CoordinatorHome

ROUNDS = 1000


def figures() -> list[Figure]:
    """The calls and the command."""
    found = []
    for sites in (4, 32):
        with tempfile.TemporaryDirectory(prefix="fedward-status-") as folder:
            home, digest = write_record(Path(folder) / "coordinator", sites, ROUNDS)
            with _asked(home, Path(folder) / "service.log") as coordinator:
                view = coordinator.status(digest)
                if (len(view.attempts), len(view.statuses)) != (ROUNDS, sites * ROUNDS):
                    raise RuntimeError(f"the record holds {len(view.attempts)} attempts, not {ROUNDS}")
                newest, everything = fastest(
                    5,
                    timed(lambda: coordinator.status(digest, ATTEMPTS_SHOWN)),  # noqa: B023
                    timed(lambda: coordinator.status(digest)),  # noqa: B023
                )
                told = _command("status", digest, "--home", str(home.path))
                helped = _command("status", "--help")
                whole, imports = fastest(3, timed(lambda: _run(told)), timed(lambda: _run(helped)))  # noqa: B023
            found += [
                at_most(f"status.call_{sites}_sites", newest, "s", 0.2),
                report(f"context.status_with_all_{sites}_sites", everything, "s"),
                report(f"context.status_command_{sites}_sites", whole, "s"),
                report(f"context.command_that_only_helps_{sites}", imports, "s"),
            ]
    return found


@contextlib.contextmanager
def _asked(home: CoordinatorHome, log: Path) -> Iterator[RemoteCoordinator]:
    """The home's service, started, and asked as its own machine's commands do."""
    with started(home, log):
        deadline = time.monotonic() + START_S
        while (service := home.service()) is None or service.control is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the service does not serve: {log.read_text(errors='replace')[-1500:]}")
            time.sleep(0.1)
        coordinator = RemoteCoordinator.at_home(home, service.control)
        try:
            yield coordinator
        finally:
            coordinator.close()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fedward.cli.main", "coordinator", *arguments]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)
