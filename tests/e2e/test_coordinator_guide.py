"""The coordinator's guide, followed word for word: each command that it shows is run, from an empty machine to a completed study.

Three hospitals do their part between the steps, as people would; their nodes are threads of this process.
"""

from __future__ import annotations

import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import good
from guide import FINGERPRINT, Reader, passphrases
from loopback import Loopback, free_ports, wait_for, write_study

from fedward.server import alarms
from fedward.server.home import CoordinatorHome

HOSPITALS = ("cleveland", "hungarian", "va")
STUDY = "heart-4-hospitals"


class Coordinator(Reader):
    """Who follows the guide. `hospitals` are the others: their homes, and their nodes once they have their kits."""

    def __init__(self, folder: Path, hospitals: Loopback, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, patch)
        self.hospitals = hospitals
        self.ports = free_ports(3)
        self.fingerprints: dict[str, str] = {}

    @property
    def home(self) -> Path:
        return self.folder / "coordinator"

    def real(self, line: str) -> str:
        port, control, operators = self.ports
        line = line.replace("coordinator.example.org", "localhost").replace("--bind 0.0.0.0", "--bind 127.0.0.1")
        line = line.replace("--port 9443", f"--port {port} --control-port {control}")
        line = line.replace("--operators-port 9445", f"--operators-port {operators}")
        line = line.replace("/etc/fedward/backup-passphrase", os.environ["FEDWARD_PASSPHRASE_FILE"])
        of = re.search(r"enroll (\w+)\.request\.json", line)
        return line if of is None else FINGERPRINT.sub(self.fingerprints[of[1]], line)

    def await_started(self, log: Path) -> None:
        wait_for("the service starts", (self.home / "service.json").is_file, 60, log.read_text)

    def before(self, step: str) -> None:
        acts = {
            "3": self._shorten, "6": self._requests, "7": self._join, "8": self._approve, "9": self._restore,
            "fedward coordinator propose second.toml": lambda: self.hospitals.register(self.folder / "second.toml"),
            "fedward coordinator migrate": self.stop,
        }  # fmt: skip
        act = acts.get(step) or acts.get(step.split(".", maxsplit=1)[0])
        if act is not None:
            act()

    def _shorten(self) -> None:
        """The study of the guide, with two rounds."""
        write_study(self.folder / "heart" / "study.toml", STUDY)

    def _requests(self) -> None:
        for site in HOSPITALS:
            made = self.hospitals.ask_to_join(site, self.folder / f"{site}.request.json")
            self.fingerprints[site] = made["fingerprint"]

    def _join(self) -> None:
        for site in HOSPITALS:
            self.hospitals.join(site, self.folder / f"{site}.kit.json")
        self.hospitals.await_connected()
        self.hospitals.register(self.folder / "heart" / "study.toml")

    def _approve(self) -> None:
        self.hospitals.approve(self.hospitals.view(STUDY).digest or "", HOSPITALS)

    def _restore(self) -> None:
        """VA put an older ledger back, by the coordinator's own record."""
        store = CoordinatorHome.open(self.home).open_store()
        store.raise_alarm("va", alarms.ledger_went_back(9, 4), int(time.time()))
        store.close()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coordinator]:
    passphrases(tmp_path, monkeypatch)
    folder = tmp_path / "machine"
    hospitals = Loopback(tmp_path / "hospitals", HOSPITALS, coordinator=folder / "coordinator")
    made = Coordinator(folder, hospitals, monkeypatch)
    try:
        yield made
    finally:
        hospitals.end()
        made.stop()


@pytest.mark.timeout(600)
def test_a_coordinator_who_follows_the_guide_completes_a_study(reader: Coordinator) -> None:
    reader.follow("coordinator-guide.md")
    said = reader.said
    assert "completed, round 2 of 2" in said[f"fedward coordinator status {STUDY}"]
    assert "ALARM about va: its ledger went back" in said[f"fedward coordinator explain {STUDY}"]
    assert "alarm ledger-went-back" in said[f"fedward coordinator explain {STUDY}"]
    assert "You are anna, auditor" in said["fedward coordinator whoami --home anna.access.json"]
    assert "revoked" in said["fedward coordinator sites"]
    assert "every signature holds" in said["fedward audit transcript transcript.json"]
    assert "every entry, the root and the signature hold" in said["fedward audit verify audit.jsonl"]
    assert "up to date" in said["fedward coordinator migrate"]
    with zipfile.ZipFile(reader.folder / "heart.zip") as record:
        assert record.testzip() is None
    assert good("coordinator", "status", "--home", reader.home)["serving"] is False
    assert [json.loads(line) for line in (reader.folder / "audit.jsonl").read_text().splitlines()[:1]]
