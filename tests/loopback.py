"""A federation on loopback: the real service, SuperLink and TLS in this process, joined through the real commands."""

from __future__ import annotations

import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from command import good

from fedward.client.flower import CONNECTED, FleetAddress, FleetLoop
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.privacy.draws import SecureDraws
from fedward.server.coordinator import LocalCoordinator
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import ENDED
from fedward.server.service import CoordinatorService
from fedward.server.views import StudyView
from fedward.study.heart import SITES, heart_folder


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing uses now."""
    with_ports = [socket.socket() for _ in range(count)]
    try:
        for opened in with_ports:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in with_ports]
    finally:
        for opened in with_ports:
            opened.close()


def wait_for(
    what: str,
    condition: Callable[[], Any],
    seconds: float = 30.0,
    told: Callable[[], str] = lambda: "",
    every: float = 0.05,
) -> Any:
    """The first true value of `condition`. Raises: AssertionError, that names `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s. {told()}"
        time.sleep(every)


def write_study(path: Path, study_id: str, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """The heart study with two rounds and short waits, and some of its tables changed, as a TOML file."""
    data = tomllib.loads((heart_folder() / "study.toml").read_text(encoding="utf-8"))
    data["study"]["id"] = study_id
    data["training"]["rounds"] = 2
    data["federation"] |= {"deadline": "20s", "grace": "5s", "approval_deadline": "60s"}
    for table, values in (changes or {}).items():
        data[table] = data.get(table, {}) | values
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    return path


@dataclass
class Node:
    """A site's warm loop in a thread."""

    thread: threading.Thread
    stop: threading.Event
    told: list[tuple[str, str]]


class Loopback:
    """One coordinator and the four heart hospitals, or some of them. Everything that people do goes through their commands."""

    def __init__(
        self,
        folder: Path,
        sites: Iterable[str] = SITES,
        coordinator: Path | None = None,
        store: str | None = None,
    ) -> None:
        """`coordinator`: the home of one that somebody else makes and serves; by default `start` does both. `store`: a URL for
        the record."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.home = coordinator or folder / "coordinator"
        self._store = [] if store is None else ["--store", store]
        self.sites = {site: folder / site for site in sites}
        self.nodes: dict[str, Node] = {}
        self.said: list[str] = []
        self._stop = threading.Event()
        self._coordinator: LocalCoordinator | None = None
        self._failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, name="loopback-service", daemon=True)

    def start(self) -> None:
        """Make the federation, let the sites join, and connect their nodes."""
        port, control = free_ports(2)
        good("coordinator", "init", "Loopback", "--port", port, "--control-port", control, *self._store,
             "--home", self.home)  # fmt: skip
        for site in self.sites:
            made = self.ask_to_join(site)
            kit = good(
                "coordinator", "enroll", made["request"], "--fingerprint", made["fingerprint"], "--home", self.home
            )
            good("site", "enroll", kit["kit"], "--home", self.sites[site])
        self._thread.start()
        wait_for("the service starts", lambda: self.coordinator.serving() or self._failure)
        assert not self._failure, self._failure
        for site in self.sites:
            self.start_node(site)
        self.await_connected()

    def ask_to_join(self, site: str, out: Path | None = None) -> dict[str, Any]:
        """Make a site and its request to join."""
        home = self.sites[site]
        good(
            "site",
            "init",
            site,
            "--epsilon-budget",
            1000,
            "--approver",
            "tester",
            "--approver-unencrypted",
            "--home",
            home,
        )
        return good("site", "request", *([] if out is None else ["--out", out]), "--home", home)

    def join(self, site: str, kit: Path) -> None:
        """Take the kit, and connect the site's node."""
        good("site", "enroll", kit, "--home", self.sites[site])
        self.start_node(site)

    @property
    def coordinator(self) -> LocalCoordinator:
        if self._coordinator is None:
            self._coordinator = LocalCoordinator(self.home)
        return self._coordinator

    def _serve(self) -> None:
        try:
            CoordinatorService(CoordinatorHome.open(self.home), self._stop, self.said.append).run()
        except BaseException as error:  # noqa: BLE001 - shown by the test that waits for the service
            self._failure.append(error)

    def end(self) -> None:
        """Stop the nodes, then the service."""
        for site in list(self.nodes):
            self.stop_node(site)
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(30)
        if self._coordinator is not None:
            self._coordinator.close()
        assert not self._thread.is_alive()
        assert not self._failure, self._failure

    def start_node(self, site: str, port: int | None = None) -> None:
        """What `fedward site start` runs, in a thread; to another port than the kit's, if one is given."""
        home = SiteHome.open(self.sites[site])
        kit = home.kit()
        address = FleetAddress(
            host=kit.host, port=port or kit.port, ca=home.ca_file, certificate=home.certificate_file,
            key=home.key("tls.pem"), node_key=home.key("node.pem"), password=home.key_password,
        )  # fmt: skip
        told: list[tuple[str, str]] = []
        stop = threading.Event()
        node = SiteNode(home, SiteLog(home.log_file, None), SecureDraws())
        loop = FleetLoop(address, node, report=lambda code, text: told.append((code, text)), stop=stop)

        def run() -> None:
            try:
                loop.run()
            except BaseException as error:
                told.append(("died", repr(error)))
                raise

        thread = threading.Thread(target=run, name=f"loopback-{site}", daemon=True)
        thread.start()
        self.nodes[site] = Node(thread, stop, told)

    def stop_node(self, site: str) -> None:
        node = self.nodes.pop(site)
        node.stop.set()
        node.thread.join(15)
        assert not node.thread.is_alive()

    def await_connected(self) -> None:
        for site, node in self.nodes.items():
            wait_for(f"{site} connects", lambda node=node: any(code == CONNECTED for code, _ in node.told), 40)

    def study(self, study_id: str, **changes: Mapping[str, Any]) -> Path:
        """A study's TOML file, for which every site has registered its data."""
        path = write_study(self.folder / f"{study_id}.toml", study_id, changes)
        self.register(path)
        return path

    def register(self, study: Path) -> None:
        data = heart_folder()
        for site, home in self.sites.items():
            good("site", "register", "--study", study, "--csv", data / f"{site}.csv",
                 "--mapping", data / f"{site}.mapping.toml", "--home", home)  # fmt: skip

    def propose(self, study: Path) -> str:
        """The digest of the study that was sealed and offered."""
        return str(good("coordinator", "propose", study, "--home", self.home)["digest"])

    def approve(self, digest: str, sites: Iterable[str] = SITES) -> None:
        for site in sites:
            good("site", "approve", digest, "--as", "tester", "--home", self.sites[site])

    def launch(self, digest: str) -> None:
        good("coordinator", "launch", digest, "--home", self.home)

    def view(self, digest: str) -> StudyView:
        return self.coordinator.status(digest)

    def wait(self, digest: str, what: str, condition: Callable[[StudyView], Any], seconds: float = 150.0) -> StudyView:
        """The study's first view that fulfils the condition. Looked at seldom: a look at a study takes its time from the study."""
        wait_for(
            f"{digest[:12]} {what}", lambda: condition(self.view(digest)), seconds, lambda: self._told(digest), 0.25
        )
        return self.view(digest)

    def wait_ended(self, digest: str, seconds: float = 150.0) -> StudyView:
        return self.wait(digest, "ends", lambda view: view.wish == "none" and view.state in ENDED, seconds)

    def charges(self, site: str, digest: str) -> list[tuple[int, int]]:
        """(round, attempt) of every training charge of a study in a site's ledger, in order."""
        charges = [entry.charge for entry in SiteHome.open(self.sites[site]).ledger().charges()]
        return [(c.round, c.attempt) for c in charges if c.study_digest == digest and c.purpose.startswith("train")]

    def witness(self) -> str:
        """What a failed test should show beside its assertion: what nodes, service and logs last said."""
        lines = [f"the service said {self.said[-5:]}"]
        for site, node in self.nodes.items():
            lines.append(
                f"{site}: {'alive' if node.thread.is_alive() else 'its thread has ended'}; told {node.told[-4:]}"
            )
        for log in [*(home / "log" / "site.log" for home in self.sites.values()), *(self.home / "log").glob("*.log")]:
            if log.is_file():
                lines += [
                    f"--- {log.parent.parent.name}/{log.name}",
                    *log.read_text(errors="replace").splitlines()[-12:],
                ]
        return "\n".join(lines)

    def _told(self, digest: str) -> str:
        view = self.view(digest)
        return f"{view.state} ({view.reason}); {view.attempts}; {view.standings}; the service said {self.said[-5:]}"
