"""A real federation with a hospital full of canaries: none is in any byte that it gives to the network, nor printed, nor in
anything that the coordinator keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from canaries import Nest, Scanner, plant
from command import good
from loopback import Loopback, wait_for, write_study

from fedward.client.flower.session import _BoundedSend
from fedward.client.home import SiteHome
from fedward.study.heart import SITES, heart_folder

pytestmark = [pytest.mark.federation, pytest.mark.timeout(480)]
SITE = "va"
STUDY = "no-leak"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Every request of every site as it enters TLS: its address, its headers and its body."""
    heard: list[bytes] = []
    real = _BoundedSend.intercept

    def intercept(self: _BoundedSend, context: Any, call_next: object) -> Any:
        request = context.request
        heard.append(
            b"\n".join(
                [str(request.url).encode(), *(b"%s: %s" % pair for pair in request.headers.raw), request.content]
            )
        )
        return real(self, context, call_next)

    monkeypatch.setattr(_BoundedSend, "intercept", intercept)
    return heard


def register(loopback: Loopback, nest: Nest, folder: Path) -> Path:
    """The study, and every site's data; one site's is full of canaries."""
    path = write_study(loopback.folder / f"{STUDY}.toml", STUDY, {"federation": {"deadline": "90s", "grace": "60s"}})
    planted = plant(nest, folder, SITE)
    for site, home in loopback.sites.items():
        ours = (heart_folder() / f"{site}.csv", heart_folder() / f"{site}.mapping.toml")
        csv, mapping = planted if site == SITE else ours
        good("site", "register", "--study", path, "--csv", csv, "--mapping", mapping, "--home", home)
    return path


def test_no_canary_leaves_a_real_node(
    loopback: Loopback, said: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    nest = Nest("end to end")
    path = register(loopback, nest, tmp_path / nest.text("a folder"))
    home = SiteHome.open(loopback.sites[SITE])
    policy = home.policy_file.read_text()
    home.policy_file.write_text(f"{policy}# {nest.text('the policy')}\n")
    from fedward.client import datasets

    real, failing = datasets.load, iter([nest.text("a failure")])

    def load(home: Any, dataset: datasets.Dataset, manifest: Any) -> Any:
        """The hospital's first reading fails, with what it read in the error."""
        if manifest.study.id == STUDY and dataset.patients == 200:
            mark = next(failing, None)
            if mark is not None:
                raise ValueError(f"{mark} in /data/{mark}.csv")
        return real(home, dataset, manifest)

    monkeypatch.setattr(datasets, "load", load)
    digest = loopback.propose(path)
    loopback.approve(digest, [site for site in SITES if site != SITE])
    where, who = ("--home", loopback.sites[SITE]), nest.text("who approved")
    good("site", "approver", "add", who, "--unencrypted", "--as", "tester", *where)
    good("site", "approve", digest, "--as", who, *where)
    capfd.readouterr()
    loopback.launch(digest)
    view = loopback.wait_ended(digest, 240)
    good("site", "approver", "remove", who, "--as", "tester", *where)
    loopback.stop_node(SITE)
    loopback.start_node(SITE)
    wait_for("the node is back", lambda: any(code == "connected" for code, _ in loopback.nodes[SITE].told), 40)
    home.policy_file.write_text(policy)

    assert (view.state, view.version) == ("completed", 2), view.reason
    refused = {status.reason for status in view.statuses if status.site == SITE and status.status == "refused"}
    assert any("internal-error" in reason for reason in refused), view.statuses

    scanner = Scanner(nest.all)
    assert len(nest.all) >= 1_000
    everything = b"".join(said)
    assert everything.count(b"FWD1") > 20
    assert b"/v1/fleet/push-object" in everything
    hits = scanner.find(everything)
    assert {hit for hit in hits if not hit.short} == set()
    assert len(hits) < 3  # four bytes, by chance: 1 600 values in a megabyte of random numbers, once in two runs

    out, err = capfd.readouterr()
    assert scanner.find((out + err).encode()) == set()
    for code, text in loopback.nodes[SITE].told:
        assert scanner.find(f"{code}: {text}".encode()) == set()
    kept = [Path(folder) / name for folder, _, names in os.walk(loopback.home) for name in names]
    assert len(kept) > 5
    for file in kept:
        assert {hit for hit in scanner.find(_content(file)) if not hit.short} == set(), file
    told = home.log_file.read_bytes()
    assert scanner.find(told), "the hospital itself is told what failed"


def _content(file: Path) -> bytes:
    """Read by another process: the service runs in this one, and whoever closes a store's file here drops SQLite's locks on it
    (https://www.sqlite.org/howtocorrupt.html, section 2.2); the next to leave then deletes its log."""
    return subprocess.run([str(shutil.which("cat")), "--", str(file)], check=True, capture_output=True).stdout
