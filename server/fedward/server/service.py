"""The coordinator's service: the SuperLink, and a loop that carries out what people wished.

Wishes stand in the store. For each study that one is open for, the service keeps one Flower run alive; when the run's
process dies, or the whole service was killed, a new run continues from the store. A run that ends by itself again and
again without any progress is a fault: the study then fails, by name, instead of trying for ever.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from logging.handlers import RotatingFileHandler
from typing import TypeVar

from fedward.privacy.errors import FedwardError
from fedward.server.coordinator import under_way
from fedward.server.flower import SuperLinkService
from fedward.server.home import CoordinatorHome, ServiceFile
from fedward.server.records import SiteRow, StudyRow
from fedward.server.store import Store
from fedward.study.files import write_atomic

BEAT_S = 0.25
TROUBLE_S = 2.0
MOST_DEATHS = 5

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

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            UsageError: a service of this home runs already.
            UnreachableError: a port is in use.
            IntegrityError: others may read a key.
        """
        self._home.check_keys()
        with self._home.serving():
            self._run()

    def _run(self) -> None:
        settings, home = self._home.settings, self._home
        home.log_folder.mkdir(parents=True, exist_ok=True)
        log = _log(home)
        link = SuperLinkService(
            host=settings.bind, fleet_port=settings.port, control_port=settings.control_port,
            certificate=home.certificate_file, key=home.key("server.pem"), ca=home.ca_file,
            flwr_home=home.path / "flower", log_file=home.log_folder / "flower.log",
        )  # fmt: skip
        store = Store.open(home.store_file)
        link.start()
        try:
            write_atomic(
                home.service_file, ServiceFile(pid=os.getpid(), started_at=int(time.time())).model_dump_json().encode()
            )
            self._report(f"serving hospitals on {settings.host}:{settings.port}")
            while not self._stop.is_set():
                self._beat(link, store, log)
                self._stop.wait(BEAT_S)
        finally:
            home.service_file.unlink(missing_ok=True)
            link.stop()
            store.close()

    def _beat(self, link: SuperLinkService, store: Store, log: logging.Logger) -> None:
        for site in self._outliving("the store", store.sites, log) or []:
            self._outliving(f'site "{site.site}"', partial(self._register, link, store, site), log)
        for study in self._outliving("the store", store.studies, log) or []:
            if study.key in self._runs:
                action = partial(self._watch, link, store, study, log)
            elif under_way(study):
                action = partial(self._launch, link, store, study, log)
            else:
                continue
            self._outliving(f"study {study.study_id}", action, log)

    def _outliving(self, what: str, action: Callable[[], T], log: logging.Logger) -> T | None:
        """One site's or study's trouble, or a full disk, must not stop the others: say so, and try again later."""
        if time.monotonic() < self._pauses.get(what, 0.0):
            return None
        try:
            return action()
        except FedwardError as error:
            self._pauses[what] = time.monotonic() + TROUBLE_S
            log.error("%s: %s", what, error.text())
            self._report(f"{what}: {error.text()}")
            return None

    def _register(self, link: SuperLinkService, store: Store, row: SiteRow) -> None:
        node = link.register_node(row.node_key.encode())
        if node != row.node_id:
            store.set_node(row.site, node)
            self._report(f'site "{row.site}" may connect')

    def _launch(self, link: SuperLinkService, store: Store, study: StudyRow, log: logging.Logger) -> None:
        since = max((entry.sequence for entry in store.journal(study.key)), default=0)
        run_id = link.launch({"home": str(self._home.path.resolve()), "study": str(study.key)})
        self._runs[study.key] = _Running(run_id, since, _version(store, study.key))
        log.info("study %s (%s): run %s to %s", study.study_id, study.key, run_id, study.wish)
        self._report(f"study {study.study_id}: {study.wish}")

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
        if settled or not under_way(study):
            self._deaths.pop(study.key, None)
            return
        progressed = _version(store, study.key) > running.version
        self._deaths[study.key] = 1 if progressed else self._deaths.get(study.key, 0) + 1
        log.error("study %s: its run ended before its work did (%s)", study.study_id, status)
        if self._deaths[study.key] >= MOST_DEATHS:
            reason = f"its run ended {MOST_DEATHS} times without progress ({status}); see {self._home.log_folder}"
            store.set_state(study.key, "failed", reason, int(time.time()))


def _version(store: Store, key: int) -> int:
    checkpoint = store.checkpoint(key)
    return checkpoint.version if checkpoint else 0


def _log(home: CoordinatorHome) -> logging.Logger:
    handler = RotatingFileHandler(home.log_folder / "coordinator.log", maxBytes=5_000_000, backupCount=10)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger(f"fedward.coordinator.{home.settings.federation_id}")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
