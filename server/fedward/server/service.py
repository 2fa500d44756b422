"""The coordinator's service: the SuperLink, and a loop that carries out what people wished.

Wishes stand in the store. For each study that one is open for, the service keeps one Flower run alive; when the run's
process dies, or the whole service was killed, a new run continues from the store. A run that ends by itself again and
again without any progress is a fault: the study then fails, by name, instead of trying for ever.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from logging.handlers import RotatingFileHandler
from typing import TypeVar

from fedward.privacy.errors import FedwardError
from fedward.server.approvals import ALL_PROPOSED, ask_every
from fedward.server.checkpoints import NO_STUDY, has_news
from fedward.server.control.server import ControlServer
from fedward.server.flower import SuperLinkService
from fedward.server.home import CoordinatorHome, ServiceFile
from fedward.server.leases import RENEW_S
from fedward.server.lifecycle import Failed
from fedward.server.logins import Enrolled, Logins, record_logins
from fedward.server.operators import Operators
from fedward.server.records import CredentialRow, SiteRow, StudyRow
from fedward.server.store import Store
from fedward.study.files import write_atomic

BEAT_S = 0.25
TROUBLE_S = 2.0
MOST_DEATHS = 5
COMPARE_FIRST_S, COMPARE_S, COMPARE_QUIET_S = 300.0, 3600.0, 86_400.0
"""When audit logs are compared beside studies: after the start, then hourly if something was logged, and daily if not."""

T = TypeVar("T")


@dataclass
class _Running:
    """A Flower run, and where the study's journal and model stood when it began."""

    run_id: int
    since: int
    version: int


class CoordinatorService:
    """One coordinator's service. `run` blocks until `stop` is set."""

    def __init__(self, home: CoordinatorHome, stop: threading.Event, report: Callable[[str], None]) -> None:
        self._home = home
        self._stop = stop
        self._report = report
        self._runs: dict[int, _Running] = {}
        self._deaths: dict[int, int] = {}
        self._pauses: dict[str, float] = {}
        self._logins = Logins()
        self._errands: dict[int, int] = {}
        self._asked = time.monotonic()
        self._next_compare = time.monotonic() + COMPARE_FIRST_S
        self._compared = 0.0
        self._renew_at = 0.0
        self._lease = 0

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            UsageError: a service of this home runs already.
            UnreachableError: a port is in use; `lease-held`: another service serves the store; `lease-lost`: another took it over.
            IntegrityError: others may read a key.
        """
        self._home.check_keys()
        with self._home.serving():
            self._run()

    def _run(self) -> None:
        home = self._home
        home.log_folder.mkdir(parents=True, exist_ok=True)
        log = _log(home)
        store = home.open_store()
        try:
            self._lease, self._renew_at = store.take_lease(home.holder()), time.monotonic() + RENEW_S
            self._home = home.under_lease(store)
            if home.renew_certificate(datetime.now(UTC)):
                self._report("the listener's certificate was issued anew; hospitals need not do anything")
            Operators(self._home).settle_local(datetime.now(UTC))
            self._serve(store, log)
        finally:
            with contextlib.suppress(FedwardError):  # lost, or the disk may be why it ends
                store.release_lease()
            store.close()

    def _serve(self, store: Store, log: logging.Logger) -> None:
        settings, home = self._home.settings, self._home
        gate = Enrolled(store, self._logins)
        link = SuperLinkService(
            host=settings.bind, fleet_port=settings.port, control_port=settings.control_port,
            certificate=home.certificate_file, key=home.key("server.pem"), ca=home.ca_file, credentials=gate,
            flwr_home=home.path / "flower", log_file=home.log_folder / "flower.log",
        )  # fmt: skip
        link.start()
        control = ControlServer(home, store, log)
        try:
            running = ServiceFile(pid=os.getpid(), started_at=int(time.time()), control=control.start())
            if settings.operators_port is not None:
                self._report(f"serving operators on {settings.operators_bind}:{settings.operators_port}")
            write_atomic(home.service_file, running.model_dump_json().encode())
            home.record("service-started")
            self._report(f"serving hospitals on {settings.host}:{settings.port}")
            if threading.current_thread() is threading.main_thread():  # a process of its own
                gc.freeze()  # what is imported stays: collections, which large objects ask for, need not look at it
            while not self._stop.is_set():
                self._renew(store, log)
                self._beat(link, store, gate, log)
                self._stop.wait(BEAT_S)
        finally:
            home.service_file.unlink(missing_ok=True)
            control.stop()
            link.stop()
            gate.close()
            self._outliving("the logins", partial(record_logins, home, store, self._logins, log), log)
            with contextlib.suppress(FedwardError):  # the disk may be why it ends
                home.record("service-stopped")

    def _renew(self, store: Store, log: logging.Logger) -> None:
        """
        Raises:
            UnreachableError: `lease-lost`: another service has taken over.
        """
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + RENEW_S
        try:
            store.renew_lease()
        except FedwardError as error:
            if error.code == "lease-lost":
                log.error("the lease: %s", error.text())
                raise
            self._outlive("the lease", error, log)

    def _beat(self, link: SuperLinkService, store: Store, gate: Enrolled, log: logging.Logger) -> None:
        self._outliving("the certificates", partial(self._note_connected, store, gate, log), log)
        rows = self._outliving("the store", store.credentials, log)
        if rows is not None:
            self._outliving("the nodes", partial(self._retire, link, rows, log), log)
        living: dict[str, set[str]] = {}
        for row in rows or []:
            if row.lives:
                living.setdefault(row.site, set()).add(row.node_key)
        for site in self._outliving("the store", store.sites, log) or []:
            register = partial(self._register, link, store, site, living.get(site.site, set()))
            self._outliving(f'site "{site.site}"', register, log)
        studies = self._outliving("the store", store.studies, log) or []
        for study in studies:
            if study.key in self._runs:
                action = partial(self._watch, link, store, study, log)
            elif study.wish != "none":
                action = partial(self._launch, link, store, study, log)
            else:
                continue
            self._outliving(f"study {study.study_id}", action, log)
        self._outliving("the logins", partial(record_logins, self._home, store, self._logins, log), log)
        self._outliving("the audit logs", partial(self._compare, link), log)
        self._outliving("the approvals", partial(self._ask, link, studies), log)

    def _ask(self, link: SuperLinkService, studies: list[StudyRow]) -> None:
        """Ask about what is proposed when it is time."""
        every = ask_every(studies, int(time.time()))
        if every is None or time.monotonic() < self._asked + every or self._is_out(link, ALL_PROPOSED):
            return
        self._asked = time.monotonic()
        self._send(link, ALL_PROPOSED)

    def _is_out(self, link: SuperLinkService, errand: int) -> bool:
        """Whether a run that belongs to no study is under way."""
        run = self._errands.get(errand)
        if run is not None and not link.run_finished(run)[0]:
            return True
        self._errands.pop(errand, None)
        return False

    def _send(self, link: SuperLinkService, errand: int) -> None:
        self._errands[errand] = link.launch(self._config(errand))

    def _compare(self, link: SuperLinkService) -> None:
        """Compare audit logs when it is time; a study's own run does it at its begin and end."""
        if self._is_out(link, NO_STUDY):
            return
        now = time.monotonic()
        if now < self._next_compare or self._runs:
            return
        self._next_compare = now + COMPARE_S
        if now - self._compared < COMPARE_QUIET_S and not has_news(self._home):
            return
        self._compared = now
        self._send(link, NO_STUDY)

    def _outliving(self, what: str, action: Callable[[], T], log: logging.Logger) -> T | None:
        """One site's or study's trouble, or a full disk, must not stop the others: say so, and try again later."""
        if time.monotonic() < self._pauses.get(what, 0.0):
            return None
        try:
            return action()
        except FedwardError as error:
            self._outlive(what, error, log)
            return None

    def _outlive(self, what: str, error: FedwardError, log: logging.Logger) -> None:
        self._pauses[what] = time.monotonic() + TROUBLE_S
        log.error("%s: %s", what, error.text())
        self._report(f"{what}: {error.text()}")

    def _note_connected(self, store: Store, gate: Enrolled, log: logging.Logger) -> None:
        """What nodes connected with is theirs now; what they had before is replaced."""
        for fingerprint in gate.taken():
            try:
                switched = store.connected(fingerprint, int(time.time()))
            except FedwardError:
                gate.again(fingerprint)  # not lost: the next beat tries again
                raise
            if switched is not None:
                log.info("site %s: certificate %s is in use", switched.site, fingerprint[:16])

    def _retire(self, link: SuperLinkService, rows: list[CredentialRow], log: logging.Logger) -> None:
        """Let no node stay registered whose credentials are all replaced or revoked."""
        living = {row.node_key.encode() for row in rows if row.lives}
        for key in link.registered_nodes():
            if key not in living:
                link.unregister_node(key)
                sites = {row.site for row in rows if row.node_key.encode() == key}
                log.info("site %s: a node key of it may connect no more", ", ".join(sorted(sites)) or "unknown")

    def _register(self, link: SuperLinkService, store: Store, row: SiteRow, keys: set[str]) -> None:
        """Let a site's living keys connect; the one that it uses now is where its messages go."""
        for key in sorted(keys):
            node = link.register_node(key.encode())
            if key == row.node_key and node != row.node_id:
                store.set_node(row.site, node)
                self._report(f'site "{row.site}" may connect')

    def _launch(self, link: SuperLinkService, store: Store, study: StudyRow, log: logging.Logger) -> None:
        since = max((entry.sequence for entry in store.journal(study.key)), default=0)
        run_id = link.launch(self._config(study.key))
        self._runs[study.key] = _Running(run_id, since, _version(store, study.key))
        log.info("study %s (%s): run %s to %s", study.study_id, study.key, run_id, study.wish)
        self._report(f"study {study.study_id}: {study.wish}")

    def _config(self, study: int) -> dict[str, str]:
        """What a run is told: all else stands in the store."""
        return {"home": str(self._home.path.resolve()), "study": str(study), "lease": str(self._lease)}

    def _watch(self, link: SuperLinkService, store: Store, study: StudyRow, log: logging.Logger) -> None:
        running = self._runs[study.key]
        finished, status = link.run_finished(running.run_id)
        if not finished:
            return
        del self._runs[study.key]
        log.info("study %s (%s): run %s ended, %s", study.study_id, study.key, running.run_id, status)
        study = store.study(study.key)
        self._report(f"study {study.study_id}: {study.state}{f' ({study.reason})' if study.reason else ''}")
        # A run that did its work and a person who wished anew at once look alike in the study's state alone.
        news = [entry for entry in store.journal(study.key) if entry.sequence > running.since]
        settled = any(e.kind == "wish" or (e.kind == "state" and e.data["state"] != "running") for e in news)
        if settled or study.wish == "none":
            self._deaths.pop(study.key, None)
            return
        progressed = _version(store, study.key) > running.version
        self._deaths[study.key] = 1 if progressed else self._deaths.get(study.key, 0) + 1
        log.error("study %s: its run ended before its work did (%s)", study.study_id, status)
        if self._deaths[study.key] >= MOST_DEATHS:
            reason = f"its run ended {MOST_DEATHS} times without progress ({status}); see {self._home.log_folder}"
            store.happened(study.key, Failed(reason, "run-ended"), int(time.time()))


def _version(store: Store, key: int) -> int:
    newest = store.newest_model(key)
    return newest[0] if newest else 0


def _log(home: CoordinatorHome) -> logging.Logger:
    handler = RotatingFileHandler(home.log_folder / "coordinator.log", maxBytes=5_000_000, backupCount=10)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger(f"fedward.coordinator.{home.settings.federation_id}")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
