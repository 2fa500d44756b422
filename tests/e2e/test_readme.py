"""Every command that the README shows is run: the walk-through on one machine, each role in its own home folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import demos
import pytest
from typer.main import get_command

from fedward.cli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```sh\n(.*?)```", README, re.DOTALL)
SITES = ("cleveland", "hungarian", "va")
ROLES = ("coordinator", *SITES, "researcher")


class Machines:
    """Each role's folder stands for its machine: a home of its own, and files that people send each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.digest = ""
        for role in ROLES:
            (folder / role).mkdir()
            (folder / role / "passphrase").write_text("what an approver types")
            (folder / role / "passphrase").chmod(0o600)
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            self.port, self.control = one.getsockname()[1], two.getsockname()[1]

    def run(self, role: str, line: str) -> str:
        line = (
            line.replace("coordinator.example.org", "localhost")
            .replace("0.0.0.0", "127.0.0.1")  # noqa: S104  # what the README shows; tests bind to loopback
            .replace("DIGEST", self.digest)
        )
        line = line.replace("--port 9443", f"--port {self.port} --control-port {self.control}")
        environment = os.environ | {
            "HOME": str(self.folder / role),
            "FEDWARD_APPROVER_PASSPHRASE_FILE": str(self.folder / role / "passphrase"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        where = self.folder / role
        if line.endswith("&"):
            with (where / "service.log").open("wb") as log:
                process = subprocess.Popen(
                    ["bash", "-c", f"exec {line.removesuffix('&')}"], cwd=where, env=environment, stdout=log, stderr=log
                )
            self.started.append(process)
            return ""
        done = subprocess.run(
            ["bash", "-c", line], cwd=where, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, f"{role}$ {line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def send(self) -> None:
        """What people send each other between the steps of the walk-through."""
        coordinator = self.folder / "coordinator"
        for site in SITES:
            here = self.folder / site
            for source, target in (
                (here / f"{site}.request.json", coordinator),
                (coordinator / f"{site}.kit.json", here),
                (coordinator / "transcript.json", here),
            ):
                if source.is_file():
                    shutil.copyfile(source, target / source.name)
            for name in ("study.toml", f"{site}.csv", f"{site}.mapping.toml"):
                if (coordinator / "heart" / name).is_file():
                    shutil.copyfile(coordinator / "heart" / name, here / name)

    def await_running(self, role: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            home = self.folder / role / ".fedward"
            if role == "coordinator" and (home / "coordinator" / "service.json").is_file():
                return
            state = home / "site" / "node.json"
            if state.is_file() and json.loads(state.read_text())["state"] == "connected":
                return
            time.sleep(0.1)
        pytest.fail(f"{role} did not come up:\n{(self.folder / role / 'service.log').read_text()}")

    def end(self) -> None:
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            assert process.wait(20) == 0


@pytest.mark.timeout(900)  # some sixty commands, each a process that imports torch
def test_the_walk_through_runs_as_written(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    said: dict[str, str] = {}
    try:
        for role, block in BLOCKS:
            machines.send()
            for line in block.strip().splitlines():
                out = machines.run(role, line)
                said[line] = out
                if line.endswith("&"):
                    machines.await_running(role)
                found = re.search(r"digest ([0-9a-f]{64})", out)
                machines.digest = found[1][:12] if found else machines.digest
    finally:
        machines.end()
    assert "completed, round 15 of 15" in said["fedward coordinator status heart-4-hospitals"]
    assert "16 charges" in said["fedward site ledger"], said["fedward site ledger"]  # 15 rounds, one evaluation
    assert "no incident" in said["fedward site incidents"]
    assert "every signature holds" in next(out for line, out in said.items() if "audit transcript" in line)
    text = (tmp_path / "researcher" / "result.json").read_text()
    assert len(text.splitlines()) == 1, "standard output is one JSON object and nothing else"
    result = json.loads(text)
    (folder,) = (tmp_path / "researcher").glob("fedward-demo-*")
    demos.check(result, folder, rounds=5)
    assert 0.7 < result["auroc"]["federated"] < 1
    assert result["privacy"]["study_epsilon"] == 2


def _commands() -> set[str]:
    root = get_command(app)
    names = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        names |= {f"fedward {name} {sub}" for sub in below} if below else {f"fedward {name}"}
    return names


def test_every_command_is_in_the_readme_or_on_the_page_of_commands() -> None:
    pages = re.sub(r"\s+", " ", README + (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"))
    missing = sorted(command for command in _commands() if command not in pages)
    assert not missing


def test_every_fedward_command_in_the_readme_exists() -> None:
    shown = set(re.findall(r"fedward (?:site|coordinator|audit) [a-z-]+|fedward (?:demo|example)", README))
    assert shown <= _commands()
    assert len(shown) > 10


@pytest.mark.parametrize("role", ROLES)
def test_each_role_has_a_block_that_runs(role: str) -> None:
    assert any(name == role for name, _ in BLOCKS)
