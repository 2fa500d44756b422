"""kill -9 while a ledger is being charged: no charge that was acknowledged may ever be missing."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from fedward.privacy.accounting import epsilon
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Charge, Ledger, Reservation

BUDGET = Budget(50.0, 1e-5)
EVENT = DpEvent(30.0, 1.0, 1)
STUDY = "a" * 64
KILLS = int(os.environ.get("FEDWARD_KILLS", "10"))


def charge_for_ever(path: Path, life: int, acknowledge: int) -> None:
    """The child: charges, and writes a line only once the receipt is in its hands."""
    with Ledger.open(path) as ledger:
        for round_ in range(100_000):
            receipt = ledger.charge(Charge(STUDY, "kill", round_, life, EVENT), at=life)
            os.write(acknowledge, f"{receipt.sequence} {receipt.entry_digest}\n".encode())


def one_life(path: Path, life: int, seconds: float) -> list[str]:
    """Forks, kills the child after `seconds`, returns what it had acknowledged."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            charge_for_ever(path, life, write)
        finally:
            os._exit(1)
    os.close(write)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read) as lines:
        return [line for line in lines.read().split("\n") if line]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.timeout(180 + 5 * KILLS)
def test_kill_9_never_loses_an_acknowledged_charge(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path, budget=BUDGET, lineage="kill") as made:
        made.reserve(Reservation(STUDY, "kill", (DpEvent(30.0, 1.0, 20_000),), 10**10, "c" * 64), at=0)
    epsilon([EVENT], BUDGET.delta)  # the children inherit the loaded accountant, so that they spend their life charging
    moment = random.Random(20240607)  # noqa: S311 - only the moments of the kills
    acknowledged: list[str] = []
    for life in range(KILLS):
        acknowledged += one_life(path, life, moment.uniform(0.05, 0.3))
        with Ledger.open(path) as ledger:
            found = {f"{entry.sequence} {entry.digest}" for entry in ledger.charges()}
            assert set(acknowledged) <= found
            # At most the charge in flight at each kill counts without having been acknowledged.
            assert len(found) <= len(acknowledged) + life + 1
            assert ledger.spent() == epsilon([EVENT] * len(found), BUDGET.delta)
    assert len(acknowledged) >= KILLS
