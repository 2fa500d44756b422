"""The node's process: one warm loop, one lock, a state file for `fedward site status`, and an orderly end."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from fedward.client.enrolment import check_certificate_dates
from fedward.client.flower import FleetAddress, FleetLoop
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.privacy.draws import SecureDraws
from fedward.privacy.errors import UsageError
from fedward.study.files import read_secret, write_atomic
from fedward.study.lock import held, hold

EXPIRY_WARNING_DAYS = 30
LOCK_S = 1.0
KEYS = ("identity.pem", "node.pem", "tls.pem", "patients.key")


def run_node(home: SiteHome, report: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        UsageError: a node of this home runs already.
        InputError: the site has not joined a federation.
        IntegrityError: its certificate has expired, others may read a key, or its ledger does not hold.
    """
    kit = home.kit()
    days = check_certificate_dates(home, datetime.now(UTC))
    if days < EXPIRY_WARNING_DAYS:
        report(f"the site's certificate expires in {days} days: send a fresh request to the coordinator")
    for key in KEYS:
        read_secret(home.key(key), f"the key {key}")
    # A core dump would hold the masks' keys and patients' rows.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with _alone(home):
        log = SiteLog(home.log_file)
        log.take_over()
        node = SiteNode(home, log, SecureDraws())
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        threading.Thread(target=_warm_up, name="fedward-warm-up", daemon=True).start()

        def told(code: str, text: str) -> None:
            log.write(code, text)
            _write_state(home, code, text)
            if code != "handled":
                report(f"{code}: {text}")

        address = FleetAddress(
            host=kit.host, port=kit.port, ca=home.ca_file, certificate=home.certificate_file,
            key=home.key("tls.pem"), node_key=home.key("node.pem"),
        )  # fmt: skip
        report(f'site "{kit.site}" serves "{kit.federation_name}" at {kit.host}:{kit.port}; Ctrl-C ends it')
        _write_state(home, "starting", "")
        try:
            FleetLoop(address, node, report=told, stop=stop).run()
        finally:
            _write_state(home, "stopped", "")
            log.write("stopped")
            log.close()


def _warm_up() -> None:
    """Import what training needs now, so that the first round does not wait for it."""
    with contextlib.suppress(ImportError):  # the first round would report it by name
        import fedward.client.training  # noqa: F401, PLC0415


def _alone(home: SiteHome) -> AbstractContextManager[None]:
    return hold(
        home.path / "node.lock",
        LOCK_S,
        lambda: UsageError(
            f'the node of site "{home.site}" runs already', remedy="stop it first; one node serves all studies"
        ),
    )


def _write_state(home: SiteHome, state: str, text: str) -> None:
    data = {"pid": os.getpid(), "state": state, "text": text, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_atomic(home.path / "node.json", json.dumps(data).encode())


def node_state(home: SiteHome) -> dict[str, Any]:
    """What the node last said of itself; `stopped` when no process holds its lock."""
    path = home.path / "node.json"
    if not path.is_file():
        return {"state": "never started", "text": "", "pid": None, "at": None}
    state: dict[str, Any] = json.loads(path.read_text())
    if held(home.path / "node.lock"):
        return state
    return state | {"state": "stopped", "pid": None}
