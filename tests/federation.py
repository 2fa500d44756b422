"""An in-memory federation: real coordinator core, real nodes, real stores and ledgers; only the network is a dictionary."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedward.client import approvals, datasets
from fedward.client.approvers import default_key_file, load_key, make_key
from fedward.client.decisions import append
from fedward.client.enrolment import accept_kit, make_request
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.client.registry import add_approver
from fedward.client.statements import StartOver
from fedward.privacy.draws import SecureDraws
from fedward.privacy.ledger import Budget
from fedward.privacy.signing import Identity
from fedward.server.coordinator import LocalCoordinator
from fedward.server.exploring import run_study
from fedward.server.heads import WitnessTransport
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import Launch, Offered, Resume
from fedward.server.proposal import propose
from fedward.server.transport import Delivery
from fedward.study.heart import SITES, heart_folder
from fedward.study.kinds import AnyManifest, AnySealed, parse_sealed
from fedward.study.manifest import Manifest, load, parse

NOW = datetime(2030, 1, 1, tzinfo=UTC)


class TestClock:
    """Time that passes only when somebody sleeps."""

    __test__ = False

    def __init__(self) -> None:
        self.elapsed = 0.0

    def monotonic(self) -> float:
        return self.elapsed

    def unix(self) -> int:
        return int(NOW.timestamp() + self.elapsed)

    def sleep(self, seconds: float) -> None:
        self.elapsed += seconds


@dataclass
class MemoryTransport:
    """Delivers at once. `tamper` may change or lose a reply; `offline` sites cannot be reached."""

    nodes: dict[str, Callable[[bytes], bytes]]
    offline: set[str] = field(default_factory=set)
    tamper: Callable[[str, bytes], bytes | None] = lambda _site, reply: reply
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    _arrived: list[Delivery] = field(default_factory=list)

    def online(self) -> frozenset[str]:
        return frozenset(set(self.nodes) - self.offline)

    def send(self, requests: Mapping[str, bytes]) -> None:
        for site, payload in requests.items():
            self.sent.append((site, payload))
            if site in self.offline:
                self._arrived.append(Delivery(site, None, "offline"))
                continue
            reply = self.tamper(site, self.nodes[site](payload))
            if reply is not None:
                self._arrived.append(Delivery(site, reply))

    def poll(self) -> list[Delivery]:
        arrived, self._arrived = self._arrived, []
        return arrived


class Federation:
    """A coordinator and the four heart hospitals in one process, joined through real requests and kits."""

    def __init__(
        self, folder: Path, *, budget: Budget | None = None, sites: tuple[str, ...] = SITES, store: str | None = None
    ) -> None:
        """`store` is the URL of the database for the coordinator's store; a file else."""
        self.clock = TestClock()
        self.home = CoordinatorHome.create(
            folder / "coordinator",
            name="test",
            host="localhost",
            bind="127.0.0.1",
            port=9443,
            control_port=9444,
            now=NOW,
            store=store,
        )
        self.store = self.home.open_store()
        self.key = 0
        self.said: list[str] = []
        self.sites: dict[str, SiteHome] = {}
        coordinator = LocalCoordinator(self.home.path)
        for site in sites:
            home = SiteHome.create(folder / site, site, budget or Budget(10.0, 1e-3))
            enter_approver(home)
            accept_kit(home, coordinator.enroll(make_request(home)).kit, None, datetime.now(UTC))
            self.sites[site] = home
        coordinator.close()
        self.transport = MemoryTransport({site: self.node(site) for site in sites})

    def copy(self, folder: Path) -> Federation:
        """The same federation, with all its files, in another folder: much faster than a new one."""
        self.store.close()
        shutil.copytree(self.home.path.parent, folder, dirs_exist_ok=True)
        twin = Federation.__new__(Federation)
        twin.clock = TestClock()
        twin.clock.elapsed = self.clock.elapsed
        twin.home = CoordinatorHome.open(folder / "coordinator")
        twin.store = twin.home.open_store()
        twin.said = []
        twin.sites = {site: SiteHome.open(folder / site) for site in self.sites}
        twin.transport = MemoryTransport({site: twin.node(site) for site in twin.sites})
        twin.key = self.key
        return twin

    def sealed(self) -> AnySealed:
        """The study as it was proposed."""
        sealed = self.store.study(self.key).sealed
        assert sealed is not None
        return parse_sealed(sealed)

    def node(self, site: str) -> SiteNode:
        home = self.sites[site]
        return SiteNode(home, SiteLog(home.log_file, None), SecureDraws(), clock=self.clock.unix)

    def restart(self, site: str) -> None:
        """The node's process died and came back: memory is gone, files stay."""
        self.transport.nodes[site] = self.node(site)

    def register(self, manifest: AnyManifest) -> None:
        for site, home in self.sites.items():
            if not manifest.privacy.secure_aggregation:
                allow_plain(home)
            if isinstance(manifest, Manifest) and manifest.privacy.mechanism == "none":
                allow_without_dp(home)
            if isinstance(manifest, Manifest) and not manifest.counting.noised:
                allow_exact_counts(home)
            folder = heart_folder()
            datasets.register(
                home, manifest, folder / f"{site}.csv", folder / f"{site}.mapping.toml", self.clock.unix()
            )

    def propose(self, manifest: AnyManifest) -> AnySealed:
        self.key = self.store.create_study(
            manifest.study.id, manifest.model_dump_json(), tuple(self.sites), self.clock.unix()
        )
        sealed = propose(
            self.store,
            WitnessTransport(self.transport, self.store, self.clock),
            self.clock,
            self.store.study(self.key),
            self.home.identity(),
            self.home.settings.federation_id,
            self.said.append,
        )
        self.store.happened(self.key, Offered(), self.clock.unix())
        return sealed

    def approve(self, sealed: AnySealed, sites: tuple[str, ...] | None = None) -> None:
        for site in sites if sites is not None else tuple(self.sites):
            decide(self.sites[site], sealed, "approved", self.clock.unix())

    def launch(self) -> None:
        """What a person does, if nobody wished anything yet."""
        life = self.store.study(self.key).life
        if life.wish == "none":
            self.store.happened(self.key, Resume() if life.state == "paused" else Launch(), self.clock.unix())

    def run(self) -> None:
        self.launch()
        transport = WitnessTransport(self.transport, self.store, self.clock)
        run_study(self.home, self.store, transport, self.clock, self.said.append, self.key)

    def ready(self, manifest: AnyManifest) -> AnySealed:
        """Registered, proposed and approved by everyone."""
        self.register(manifest)
        sealed = self.propose(manifest)
        self.approve(sealed)
        return sealed


APPROVER = "tester"
"""The approver of every site of a test; the key lies in the site's folder, without a passphrase."""


def enter_approver(home: SiteHome, name: str = APPROVER) -> Identity:
    """A site's first approver, with a fresh key."""
    key = make_key(home, name, default_key_file(home, name), None)
    add_approver(home, name, key.public, by=name, signer=key, at=0)
    return key


def key_of(home: SiteHome, name: str = APPROVER) -> Identity:
    """An approver's own key."""
    return load_key(home, default_key_file(home, name), lambda: "")


def decide(
    home: SiteHome, sealed: AnySealed, state: str, at: int, by: str = APPROVER, *, unchecked: bool = False
) -> None:
    """What an approver says: approved, refused or revoked. `unchecked`: as somebody would who runs another program for it, that
    does not ask the policy."""
    signed = {"by": by, "signer": key_of(home, by), "at": at}
    if state == "approved":
        with pytest.MonkeyPatch.context() as patch:
            if unchecked:
                patch.setattr(approvals, "objections_here", lambda *_: [])
            approvals.approve(home, sealed, **signed)  # type: ignore[arg-type]
    else:
        {"refused": approvals.refuse, "revoked": approvals.revoke}[state](home, sealed, **signed)  # type: ignore[arg-type]


def undecide(home: SiteHome) -> None:
    """As if nobody had decided anything at a site, and its approver were new."""
    append(home, StartOver(reason="a test"), by=APPROVER, at=0, signer=None)
    key = key_of(home)
    add_approver(home, APPROVER, key.public, by=APPROVER, signer=key, at=0)


def allow_without_dp(home: SiteHome) -> None:
    """Let a hospital's policy accept studies without differential privacy."""
    text = home.policy_file.read_text()
    home.policy_file.write_text(text.replace("require_dp = true", "require_dp = false"))


def allow_plain(home: SiteHome) -> None:
    """Let a hospital's policy accept studies without secure aggregation."""
    text = home.policy_file.read_text()
    home.policy_file.write_text(text.replace("require_secure_aggregation = true", "require_secure_aggregation = false"))


def allow_exact_counts(home: SiteHome) -> None:
    """Let a hospital's policy accept studies whose counts of held-out patients carry no noise."""
    text = home.policy_file.read_text()
    home.policy_file.write_text(text.replace("require_evaluation_noise = true", "require_evaluation_noise = false"))


def heart_manifest(*, secure: bool = False, noised: bool = False, **changes: dict[str, object]) -> Manifest:
    """The heart study, with some of its tables changed: `training={"rounds": 2}`.

    Plain sums unless `secure`; counts as they are, every five rounds, unless `noised` as the study itself has them.
    """
    data = load(heart_folder() / "study.toml").model_dump(mode="json")
    data["privacy"]["secure_aggregation"] = secure
    if not noised:
        data["evaluation"] |= {"noise": "none", "every": 5}
    for table, values in changes.items():
        data[table] = data.get(table, {}) | values
    return parse(data)
