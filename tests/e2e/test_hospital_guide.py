"""The hospital's guide, followed word for word: each command that it shows is run, from an empty machine to the first round.

The other two hospitals and the coordinator do their part between the steps, as people would.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import good
from guide import FINGERPRINT, Reader, passphrases
from loopback import Loopback, wait_for, write_study

from fedward.study.heart import heart_folder

OTHERS = ("cleveland", "hungarian")
STUDY = "heart-guide"


class Hospital(Reader):
    """Who follows the guide at the hospital "va"."""

    def __init__(self, folder: Path, others: Loopback, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, patch)
        self.others = others
        self.digest = ""

    @property
    def home(self) -> Path:
        return self.folder / "va"

    def real(self, line: str) -> str:
        return FINGERPRINT.sub(self.fingerprint(), line.replace("DIGEST", self.digest[:12]))

    def await_started(self, log: Path) -> None:
        state = self.home / "node.json"
        wait_for("the node connects", lambda: state.is_file() and json.loads(state.read_text())["state"] in
                 {"connected", "handled"}, 60, log.read_text)  # fmt: skip

    def fingerprint(self) -> str:
        """The coordinator's, as heard by telephone."""
        from fedward.privacy.signing import fingerprint
        from fedward.server.home import CoordinatorHome

        return fingerprint(CoordinatorHome.open(self.others.home).identity().public)

    def before(self, step: str) -> None:
        number = step.split(".", maxsplit=1)[0]
        if number == "5":
            request = next(path for path in (self.home, self.folder) for path in path.glob("va.request.json"))
            good("coordinator", "enroll", request, "--out", self.folder / "va.kit.json", "--home", self.others.home)
        elif number == "7":
            for name in ("va.csv", "va.mapping.toml"):
                shutil.copy(heart_folder() / name, self.folder)
            shutil.copy(self.others.folder / f"{STUDY}.toml", self.folder / "study.toml")
        elif number == "9":
            self.digest = self.others.propose(self.folder / "study.toml")
            self.others.approve(self.digest, OTHERS)
            wait_for("the proposal arrives", lambda: list((self.home / "proposals").glob("*.json")))
        elif number == "10":
            self.others.launch(self.digest)
            self.others.wait(self.digest, "has a round", lambda view: any(a.outcome for a in view.attempts))
        elif step == "Stop it":
            self.others.wait_ended(self.digest)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hospital]:
    others = Loopback(tmp_path / "others", OTHERS)
    others.start()
    others.register(write_study(others.folder / f"{STUDY}.toml", STUDY))
    passphrases(tmp_path, monkeypatch)
    made = Hospital(tmp_path / "machine", others, monkeypatch)
    try:
        yield made
    finally:
        made.stop()
        others.end()


@pytest.mark.timeout(600)
def test_a_hospital_that_follows_the_guide_takes_part_in_a_round(reader: Hospital) -> None:
    reader.follow("hospital-guide.md")
    said = reader.said
    assert "trains" in said["fedward site review DIGEST"]
    assert "charge" in said["fedward site ledger"]
    assert "every entry, the root and the signature hold" in said["fedward audit verify audit.jsonl"]
    assert (reader.folder / "certificates").is_dir()
    assert os.environ["FEDWARD_SITE_HOME"] == str(reader.home)
