"""The node's process: one warm loop, one lock, a state file for `fedward site status`, and an orderly end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime

from fedward.client import rotation
from fedward.client.datasets import file_digest
from fedward.client.enrolment import check_certificate_dates
from fedward.client.flower import (
    ACTIVATION_REFUSED,
    CERTIFICATE_REFUSED,
    CLOCK_SKEW,
    CONNECTED,
    CREDENTIALS_UNREADABLE,
    HANDLED,
    KEY_REFUSED,
    SERVER_UNTRUSTED,
    TLS_INTERCEPTED,
    FleetAddress,
    FleetLoop,
)
from fedward.client.health import ADDRESS, HealthServer
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.made_code import compute_without_made_code, may_make_code
from fedward.client.network import kept_proxy
from fedward.client.node import SiteNode
from fedward.client.node_state import node_lock, write_state
from fedward.client.stock import StockTaker
from fedward.client.vitals import Vitals
from fedward.privacy.draws import SecureDraws
from fedward.privacy.errors import FedwardError, UsageError
from fedward.study.connection import REFUSALS
from fedward.study.enrolment import check_kit
from fedward.study.files import read_secret
from fedward.study.lock import hold

EXPIRY_WARNING_DAYS = 30
LOCK_S = 1.0
GRACE_S = 20.0
LOGIN_REFUSED = frozenset(
    {
        *(ACTIVATION_REFUSED, CERTIFICATE_REFUSED, CLOCK_SKEW, CREDENTIALS_UNREADABLE, KEY_REFUSED, SERVER_UNTRUSTED),
        *(TLS_INTERCEPTED, *REFUSALS),
    }
)
KEYS = ("identity.pem", "node.pem", "tls.pem", "patients.key")


def run_node(
    home: SiteHome, report: Callable[[str], None], *, metrics: int | None = None, grace_s: float = GRACE_S
) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP opens the log's file anew.

    Args:
        home: the site.
        report: tells a person, on the terminal or in the journal.
        metrics: the port of 127.0.0.1 for metrics and health; 0 takes a free one, None listens nowhere.
        grace_s: how long, after the signal, a request under way may still be answered. Then it is abandoned and the process
            ends: what was charged stays charged, and the coordinator takes the site as dropped out.

    Raises:
        UsageError: a node of this home runs already.
        InputError: the site has not joined a federation.
        IntegrityError: its certificate has expired, others may read a key, or its ledger does not hold.
        UnreachableError: the metrics' port is in use.
    """
    kit = home.kit()
    check_kit(kit)
    days = check_certificate_dates(home, datetime.now(UTC))
    if days < EXPIRY_WARNING_DAYS:
        report(f"the site's certificate expires in {days} days: send a fresh request to the coordinator")
    for key in KEYS:
        read_secret(home.key(key), f"the key {key}")
    # A core dump would hold the masks' keys and patients' rows.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not may_make_code():
        compute_without_made_code()
    with _alone(home), contextlib.ExitStack() as ending:
        log = SiteLog(home.log_file, seal=home.sealer(home.log_file))
        log.take_over()
        node, vitals, stop = SiteNode(home, log, SecureDraws()), Vitals(), threading.Event()
        log.watch(vitals.logged)
        if metrics is not None:
            port = _listen(home, vitals, metrics, ending)
            report(f"metrics and health at http://{ADDRESS}:{port}/metrics, /healthz and /readyz")
        home.record("node-started", digest=file_digest(home.policy_file))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        signal.signal(signal.SIGHUP, lambda *_: log.reopen())
        threading.Thread(target=_warm_up, name="fedward-warm-up", daemon=True).start()

        logins = _Logins(home, log)

        def told(code: str, text: str) -> None:
            log.write(code, text)
            logins.told(code)
            vitals.told(code)
            write_state(home, code, text)
            if code != "handled":
                report(f"{code}: {text}")

        report(f'site "{kit.site}" serves "{kit.federation_name}" at {kit.host}:{kit.port}; Ctrl-C ends it')
        write_state(home, "starting", "")
        keys = SiteKeys(home, node)
        loop = FleetLoop(
            keys.current(), vitals.timed(node), report=told, stop=stop, contact=vitals.heard, keys=keys,
            session_file=home.path / "session.json",
        )  # fmt: skip
        end = _End(home, log, loop, stop, grace_s)
        try:
            loop.run()
        finally:
            end.in_order()


def _listen(home: SiteHome, vitals: Vitals, port: int, ending: contextlib.ExitStack) -> int:
    server = HealthServer(port, vitals.signs, StockTaker(home))
    server.start()
    ending.callback(server.close)
    return server.port


class SiteKeys:
    """The home's keys for the running node: what a rotation put there is picked up at the next activation."""

    def __init__(self, home: SiteHome, node: SiteNode) -> None:
        self._home = home
        self._node = node

    def current(self) -> FleetAddress:
        """The address and files of now; the node signs with the identity of now. Errors as `fleet_address`."""
        rotation.carry_on(self._home)
        self._node.look_up_identity()
        return fleet_address(self._home)

    def used(self) -> None:
        """The coordinator let the node in: keys from before a rotation are of no use any more."""
        rotation.connected(self._home)


class _End:
    """The end of a node: in order when its loop has ended, or by abandoning the request under way when patience has."""

    def __init__(self, home: SiteHome, log: SiteLog, loop: FleetLoop, stop: threading.Event, grace_s: float) -> None:
        self._home, self._log, self._loop, self._stop = home, log, loop, stop
        self._grace_s = grace_s
        self._ended = threading.Event()
        self._once = threading.Lock()
        threading.Thread(target=self._wait, name="fedward-end", daemon=True).start()

    def in_order(self) -> None:
        """The loop has ended, and with it the node's session."""
        self._ended.set()
        if self._once.acquire(blocking=False):
            self._close()

    def _wait(self) -> None:
        self._stop.wait()
        if self._ended.wait(self._grace_s) or not self._once.acquire(blocking=False):
            return
        try:
            self._log.write("abandoned", f"a request was not answered within {self._grace_s:g} s of the signal to stop")
            self._loop.abandon()
            self._close()
        finally:
            # The thread that works on the request cannot be stopped in any other way. Everything durable is so at every instant.
            os._exit(0)

    def _close(self) -> None:
        write_state(self._home, "stopped", "")
        self._log.write("stopped")
        _record_quietly(self._home, self._log, "node-stopped")
        self._log.close()


class _Logins:
    """Enters in the audit log when the coordinator took this node in, and when it or its certificate was refused."""

    def __init__(self, home: SiteHome, log: SiteLog) -> None:
        self._home = home
        self._log = log
        self._last = ""

    def told(self, code: str) -> None:
        """What the connection says of itself; a refusal that goes on is entered once."""
        if code == CONNECTED:
            _record_quietly(self._home, self._log, "login")
        elif code in LOGIN_REFUSED and code != self._last:
            _record_quietly(self._home, self._log, "login-refused", code=code)
        if code != HANDLED:
            self._last = code


def _record_quietly(home: SiteHome, log: SiteLog, kind: str, *, code: str | None = None) -> None:
    """Where no request is answered, a log that cannot be written is told; the next request is refused for it."""
    try:
        home.record(kind, code=code)
    except FedwardError as error:
        log.error(error, code=error.code)


def fleet_address(home: SiteHome) -> FleetAddress:
    """Where the coordinator listens and with which files this site proves itself there.

    Raises:
        InputError: the site has not joined a federation.
    """
    kit = home.kit()
    return FleetAddress(
        host=kit.host, port=kit.port, ca=home.ca_file, certificate=home.certificate_file,
        key=home.key("tls.pem"), node_key=home.key("node.pem"), password=home.key_password,
        proxy=kept_proxy(home),
    )  # fmt: skip


def _warm_up() -> None:
    """Import what training needs now, so that the first round does not wait for it."""
    with contextlib.suppress(ImportError):  # the first round would report it by name
        import fedward.client.training  # noqa: F401, PLC0415


def _alone(home: SiteHome) -> AbstractContextManager[None]:
    return hold(
        node_lock(home),
        LOCK_S,
        lambda: UsageError(
            f'the node of site "{home.site}" runs already',
            remedy="nothing, if it is meant to run: one node serves all studies; else stop that one first",
        ),
    )
