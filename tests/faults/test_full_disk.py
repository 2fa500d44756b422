"""A hospital's home lies on a file system of its own, a small tmpfs that is really full; then somebody frees space."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import fedward, good

from fedward.client.home import SiteHome

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    folder = tmp_path / "small"
    folder.mkdir()
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs; tests/faults/test_node_survives.py lets every write fail without")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False)
    if done.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        gc.collect()  # a command that ran in this process may have left a connection in a cycle
        subprocess.run([umount, str(folder)], check=True)


def _fill(folder: Path) -> Path:
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def test_a_full_file_system(small: Path) -> None:
    home = small / "home"
    good("site", "init", "va", "--home", home)
    before = SiteHome.open(home).audit.size
    filler = _fill(small)
    for words in (("approver", "add", "Ada", "--unencrypted"), ("request", "--out", str(home / "again.json"))):
        told = fedward("site", *words, "--home", home, "--json")
        assert told.code == 6, told
        assert told.json["error"] in {"disk", "audit-unwritable", "ledger-unreachable"}, told.json
        assert told.json["remedy"]
        shown = fedward("site", "status", "--home", home, "--json")  # SQLite needs room for its index even to read
        assert shown.code == 0 or shown.json["error"] == "ledger-unreachable", shown
    assert "disk" in fedward("site", "doctor", "--home", home, "--json").out
    filler.unlink()
    good("site", "approver", "add", "Grace", "--unencrypted", "--home", home)
    good("site", "request", "--home", home, "--out", home / "again.json")
    opened = SiteHome.open(home)
    with opened.ledger() as ledger:
        ledger.verify()
    assert opened.audit.verify() > before
