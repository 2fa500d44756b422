"""The support bundle of a hospital in which everything is a mark: none of them is in it, in any encoding."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from canaries import Nest, Scanner, plant
from command import good
from federation import APPROVER, Federation, allow_plain, heart_manifest, key_of
from hospital import SITE, Site

from fedward.client import datasets, support
from fedward.client.approvers import default_key_file, make_key
from fedward.client.log import SiteLog, read_log
from fedward.client.network import keep_proxy
from fedward.client.registry import add_approver
from fedward.client.support import EVENTS, support_bundle, write_bundle
from fedward.privacy.errors import InputError
from fedward.study.heart import heart_folder

ROOT = Path(__file__).parents[2]


class Hospital:
    def __init__(self, folder: Path) -> None:
        self.nest = nest = Nest("the support bundle")
        self.federation = Federation(folder / nest.text("the home's folder"), sites=("cleveland", "hungarian", SITE))
        csv, mapping = plant(nest, folder / "data", SITE)
        manifest = heart_manifest(noised=True)
        for site, home in self.federation.sites.items():
            data = (
                (csv, mapping)
                if site == SITE
                else (heart_folder() / f"{site}.csv", heart_folder() / f"{site}.mapping.toml")
            )
            datasets.register(home, manifest, *data, self.federation.clock.unix())
            allow_plain(home)
        self.sealed = self.federation.propose(manifest)
        self.federation.approve(self.sealed)
        self.home = self.federation.sites[SITE]
        self.site = Site(self.federation)

    def mark(self) -> None:
        """Marks in the policy, the log, the decisions, the network's settings, the node's state, and files of any name."""
        nest, home = self.nest, self.home
        policy = home.policy_file.read_text()
        denied = ", ".join(f'"{nest.text("a denied column")}"' for _ in range(3))
        policy = re.sub(r"(?m)^denied_columns = .*$", f"denied_columns = [{denied}]", policy)
        home.policy_file.write_text(f"{policy}# {nest.text('a comment')}\n")
        log = SiteLog(home.log_file, home.sealer(home.log_file))
        log.write(nest.slug("an event"), nest.text("a text"), study=nest.text("a field"))
        log.write("worked", nest.text("a text"), at=nest.text("a time"))
        broken = type(nest.text("a class"), (Exception,), {})(nest.text("an error"))
        log.error(broken, code=nest.slug("a code"), raised=nest.text("a raised code"))
        log.error(
            InputError(nest.text("an error of ours"), got=nest.text("what came")), code="no-data", raised="no-data"
        )
        log.close()
        name = nest.text("an approver")
        key = make_key(home, name, default_key_file(home, name), None)
        add_approver(home, name, key.public, by=APPROVER, signer=key_of(home), at=0)
        keep_proxy(
            home, f"http://{nest.slug('a login')}:{nest.slug('a password')}@{nest.slug('a proxy')}.example.org:3128"
        )
        state = {"pid": 1, "state": nest.text("a state"), "text": nest.text("its text"), "at": nest.text("its time")}
        (home.path / "node.json").write_text(json.dumps(state))
        (home.path / f"{nest.text('a file')}.csv").write_text(nest.text("a line"))
        (home.path / nest.text("a folder")).mkdir()
        (home.path / "datasets" / f"{nest.text('a registration')}.json").write_text("{}")


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    hospital = Hospital(tmp_path_factory.mktemp("support"))
    hospital.site.work()
    hospital.mark()
    return hospital


def test_no_mark_is_in_it(marked: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://x:{marked.nest.slug('a password')}@127.0.0.1:9")
    monkeypatch.setenv("FEDWARD_NOTE", marked.nest.text("the environment"))
    data = write_bundle(support_bundle(marked.home))
    hits = {hit for hit in Scanner(marked.nest.all).find(data) if not hit.short}
    assert not hits, sorted({(hit.canary.where, hit.form) for hit in hits})
    for word in (SITE, "cleveland", "heart-4-hospitals", "127.0.0.1", "localhost", str(marked.home.path), APPROVER):
        assert f'"{word}"' not in data.decode(), word
        assert word == SITE or word not in data.decode(), word
    assert not re.search(rb"[0-9a-f]{13,}", data), "no digest and no key"


def test_the_marks_would_be_found_where_they_are(marked: Hospital) -> None:
    lines = json.dumps(list(read_log(marked.home.log_file, marked.home.unsealer(marked.home.log_file))))
    found = {hit.canary.where for hit in Scanner(marked.nest.all).find(lines.encode())}
    assert {"an event", "a text", "a field", "an error", "a code", "what came"} <= found


def test_what_helps_is_in_it(marked: Hospital) -> None:
    made = json.loads(write_bundle(support_bundle(marked.home)))
    assert made["versions"]["packages"]["flwr"] == "1.42.0"
    checks = {one["check"]: (one["state"], one["code"]) for one in made["doctor"]["checks"]}
    assert checks["ledger"] == ("ok", "")
    assert checks["coordinator"][0] == "failed"
    assert checks["coordinator"][1]
    assert made["log"]["codes"] == {"no-data": 1, "other": 1}
    assert made["log"]["events"]["error"] == 2
    assert made["audit"]["kinds"]["charged"] >= 1
    assert [one["kind"] for one in made["log"]["newest_errors"][-2:]] == ["other", "InputError"]
    assert made["ledger"]["kinds"]["Charge"] >= 1
    assert made["audit"]["kinds"]["approved"] >= 1
    assert made["policy"]["denied_columns"] == {"entries": 3}
    assert made["policy"]["max_epsilon"] == 5.0
    assert made["files"]["keys"]["files"] >= 5


def test_a_broken_home_has_a_bundle_too(marked: Hospital, tmp_path: Path) -> None:
    copy = marked.federation.copy(tmp_path / "copy")
    home = copy.sites[SITE]
    home.policy_file.write_text("nonsense")
    home.ledger_file.write_bytes(b"nonsense")
    made = support_bundle(home)
    assert made["policy"] == {"failed": "bad-input"}
    assert made["ledger"] == {"failed": "ledger-broken"}


def test_a_person_writes_it_once(tmp_path: Path) -> None:
    good("site", "init", "va", "--home", tmp_path / "site")
    made = good("site", "support", tmp_path / "out.json", "--home", tmp_path / "site")
    assert made["verdict"] in {"ok", "warning"}
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "out.json").read_text())["joined"] is False


def test_every_event_that_the_node_writes_is_known() -> None:
    """A new event of the log is counted as `other` until it stands on the list."""
    sources = [path.read_text() for path in (ROOT / "client/fedward/client").glob("*.py")]
    written = {event for text in sources for event in re.findall(r'log\.write\(\s*"([a-z-]+)"', text)}
    assert written - EVENTS == set()
    assert support.OTHER not in EVENTS
