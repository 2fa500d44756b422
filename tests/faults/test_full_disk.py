"""A hospital's home lies on a file system of its own, a small tmpfs that is really full; then somebody frees space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command import fedward, good
from smalldisk import SmallDisk

from fedward.client.home import SiteHome

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    with SmallDisk(tmp_path / "small", size=2) as disk:
        yield disk


def test_a_full_file_system(small: SmallDisk) -> None:
    home = small.folder / "home"
    good("site", "init", "va", "--home", home)
    before = SiteHome.open(home).audit.size
    small.fill()
    for words in (("approver", "add", "Ada", "--unencrypted"), ("request", "--out", str(home / "again.json"))):
        told = fedward("site", *words, "--home", home, "--json")
        assert told.code == 6, told
        assert told.json["error"] in {"disk", "audit-unwritable", "ledger-unreachable"}, told.json
        assert told.json["remedy"]
        shown = fedward("site", "status", "--home", home, "--json")  # SQLite needs room for its index even to read
        assert shown.code == 0 or shown.json["error"] == "ledger-unreachable", shown
    assert "disk" in fedward("site", "doctor", "--home", home, "--json").out
    small.free()
    good("site", "approver", "add", "Grace", "--unencrypted", "--home", home)
    good("site", "request", "--home", home, "--out", home / "again.json")
    opened = SiteHome.open(home)
    with opened.ledger() as ledger:
        ledger.verify()
    assert opened.audit.verify() > before
