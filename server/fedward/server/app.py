"""The ServerApp: what a Flower run of ours executes, in its own process on the coordinator's machine.

The run's configuration names the coordinator's home, the study and the service's lease; all else stands in the store. A lock on
the study keeps a second run away, should an older process still be ending: two runs never write one study. A run of a service
that another has replaced writes nothing at all.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedward.privacy.errors import FedwardError, UnreachableError
from fedward.server.approvals import ALL_PROPOSED, ask_approvals
from fedward.server.checkpoints import NO_STUDY, exchange_checkpoints
from fedward.server.exploring import run_study
from fedward.server.flower import server_app
from fedward.server.heads import WitnessTransport
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import Failed, Offered
from fedward.server.proposal import propose
from fedward.server.sites import SiteTransport
from fedward.server.store import Store
from fedward.server.transport import Transport
from fedward.study.lock import hold

LOCK_S = 120.0
"""Longer than an older process takes to end: its attempt's deadline, and what a busy machine adds."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def unix(self) -> int:
        return int(time.time())

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def main(grid: Any, config: Mapping[str, str]) -> None:
    """Carry out what is wished of one study."""
    home = CoordinatorHome.open(Path(config["home"]))
    key = int(config["study"])
    with _alone(home, key), RunLog(home.log_folder / f"study-{key}.log") as log:
        store = home.open_store()
        try:
            store.write_under(int(config["lease"]))
            _serve(
                home.under_lease(store),
                store,
                WitnessTransport(SiteTransport(grid, store), store, SystemClock()),
                key,
                log,
            )
        finally:
            store.close()


def warm_up() -> None:
    """Import what studies need, before the first order. A coordinator that takes over has no time for it."""
    from fedward.privacy.accounting import load  # noqa: PLC0415
    from fedward.study import models as _models  # noqa: F401, PLC0415 - torch takes seconds

    load()


def _serve(home: CoordinatorHome, store: Store, transport: Transport, key: int, log: RunLog) -> None:
    clock = SystemClock()
    if key == NO_STUDY:
        exchange_checkpoints(home, store, transport, clock, log.write)
        return
    if key == ALL_PROPOSED:
        ask_approvals(store, transport, clock, home.identity(), log.write)
        return
    study = store.study(key)
    if study.wish == "propose":
        try:
            sealed = propose(store, transport, clock, study, home.identity(), home.settings.federation_id, log.write)
            home.record("sealed", study=sealed.digest, study_id=study.study_id, size=len(sealed.roster))
            exchange_checkpoints(home, store, transport, clock, log.write)
            store.happened(key, Offered(), clock.unix())
        except FedwardError as error:
            log.write(f"failed: {error.text()}")
            store.happened(key, Failed(error.text(), error.code), clock.unix())
    elif study.wish != "none":
        with contextlib.suppress(FedwardError):  # its reason stands in the store and the log
            run_study(home, store, transport, clock, log.write, key)


def _alone(home: CoordinatorHome, key: int) -> AbstractContextManager[None]:
    """
    Raises:
        UnreachableError: another process still runs the study.
    """
    home.log_folder.mkdir(parents=True, exist_ok=True)
    return hold(
        home.log_folder / f"study-{key}.lock",
        LOCK_S,
        lambda: UnreachableError("another process still runs this study", remedy="wait for it to end"),
    )


class RunLog:
    """One study's log, a line an event, flushed at once. It holds no patient data: the coordinator has none."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, text: str) -> None:
        self._file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} [{os.getpid()}] {text}\n")
        self._file.flush()


app = server_app(main)
