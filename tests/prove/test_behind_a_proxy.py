"""A federation whose hospitals all sit behind a real proxy: rounds through it, keys rotated and a site revoked under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from command import good
from loopback import Loopback, Node, wait_for
from proxies import Tinyproxy, needs_tinyproxy

from fedward.client import rotation
from fedward.client.flower import CONNECTED, DISCONNECTED, FleetLoop
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.client.running import SiteKeys
from fedward.privacy.draws import SecureDraws
from fedward.server.home import CoordinatorHome

pytestmark = [pytest.mark.prove, pytest.mark.federation, pytest.mark.timeout(600), needs_tinyproxy]


class Behind(Loopback):
    """Nodes that take their proxy from their homes, and look their keys up as `run_node` does."""

    proxy: Tinyproxy

    def start_node(self, site: str) -> None:
        home = SiteHome.open(self.sites[site])
        kit = self.folder / f"{site}.kit.json"
        kit.write_text(home.kit().model_dump_json())
        good("site", "enroll", kit, "--proxy", f"http://127.0.0.1:{self.proxy.port}", "--home", home.path)
        told: list[tuple[str, str]] = []
        stop, node = threading.Event(), SiteNode(home, SiteLog(home.log_file, None), SecureDraws())
        keys = SiteKeys(home, node)
        loop = FleetLoop(keys.current(), node, report=lambda *said: told.append(said), stop=stop, keys=keys)
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        self.nodes[site] = Node(thread, stop, told)


@pytest.fixture
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    folder = tmp_path_factory.mktemp("behind")
    made = Behind(folder)
    try:
        made.proxy = Tinyproxy(folder, 1)  # its port is known before the coordinator's is
        made.proxy.stop()
        start = made.start_node
        made.start_node = lambda _site: None  # type: ignore[method-assign]
        made.start()
        port = CoordinatorHome.open(made.home).settings.port
        made.proxy = Tinyproxy(folder, port)
        made.start_node = start  # type: ignore[method-assign]
        for site in made.sites:
            made.start_node(site)
        made.await_connected()
        yield made
    finally:
        made.end()
        made.proxy.stop()


def test_rounds_go_through_the_proxy_while_keys_rotate_a_proxy_dies_and_a_site_is_revoked(behind: Behind) -> None:
    port = CoordinatorHome.open(behind.home).settings.port
    study = behind.study("behind-a-proxy", training={"rounds": 60}, federation={"deadline": "8s", "grace": "2s"})
    digest = behind.propose(study)
    behind.approve(digest)
    behind.launch(digest)
    behind.wait(digest, "commits a round", lambda view: view.version >= 1)

    # Keys of one site rotate.
    before = next(row.node_id for row in behind.coordinator._store.sites() if row.site == "va")
    asked = good("site", "rotate", "--home", behind.sites["va"])["request"]
    kit = good("coordinator", "enroll", asked, "--home", behind.home)["kit"]
    since = len(behind.nodes["va"].told)
    good("site", "enroll", kit, "--home", behind.sites["va"])
    told = behind.nodes["va"].told
    wait_for("va takes up its keys", lambda: {DISCONNECTED, CONNECTED} <= {code for code, _ in told[since:]}, 60)
    wait_for("its node is another", lambda: next(
        row.node_id for row in behind.coordinator._store.sites() if row.site == "va") != before)  # fmt: skip
    assert not (behind.sites["va"] / rotation.PREVIOUS).exists()
    at = behind.view(digest).version
    after = behind.wait(digest, "goes on with va", lambda view: any(
        s.site == "va" and s.status == "contributed" and s.attempt > at + 2 for s in view.statuses))  # fmt: skip

    # The proxy dies and returns.
    behind.proxy.stop()
    behind.proxy.start()
    version = after.version
    behind.wait(digest, "goes on after the proxy", lambda view: view.version > version + 1)

    # A site is revoked: rounds go on without it.
    good("coordinator", "revoke", "switzerland", "--reason", "a test", "--home", behind.home)
    wait_for("it says so", lambda: any(code == "revoked" for code, _ in behind.nodes["switzerland"].told), 30)
    attempts = len(behind.view(digest).attempts)
    view = behind.wait(digest, "goes on without it", lambda view: any(
        a.attempt > attempts + 1 and a.outcome == "committed" for a in view.attempts))  # fmt: skip
    last = max(a.attempt for a in view.attempts if a.outcome == "committed")
    assert {s.status for s in view.statuses if s.site == "switzerland" and s.attempt == last} == {"absent"}
    good("coordinator", "stop", "behind-a-proxy", "--home", behind.home)
    behind.wait_ended(digest)

    for site in behind.sites:  # nobody was charged for an attempt that was not opened, nor twice
        charges = behind.charges(site, digest)
        assert len(charges) == len(set(charges)), site
        assert set(charges) <= {(a.round, a.attempt) for a in view.attempts} | {
            (a.round, a.attempt) for a in behind.view(digest).attempts
        }, site
    assert set(behind.proxy.requests()) == {f"CONNECT localhost:{port} HTTP/1.1"}
