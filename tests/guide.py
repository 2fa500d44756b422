"""A guide of docs/, followed word for word: who reads it types each command that it shows, in the order of its steps."""

from __future__ import annotations

import io
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from command import fedward

DOCS = Path(__file__).parents[1] / "docs"
FINGERPRINT = re.compile(r"[0-9a-f]{4}(-[0-9a-f]{4}){7}")
MACHINE = "/var/lib/fedward"


def steps(guide: str) -> list[tuple[str, str]]:
    """A guide's headings and the blocks to run, in order: each is a heading or a block, and the other is empty."""
    text = (DOCS / guide).read_text(encoding="utf-8")
    return re.findall(r"^## (.*?)$|<!-- run -->\n```sh\n(.*?)```", text, re.DOTALL | re.MULTILINE)


class Reader:
    """Who follows a guide, in an empty folder that stands for the machine. What others do meanwhile is `before`."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        patch.chdir(folder)
        self.folder, self.patch = folder, patch
        self.process: subprocess.Popen[bytes] | None = None
        self.said: dict[str, str] = {}

    def before(self, step: str) -> None:
        """What others do before a heading or a line."""
        raise NotImplementedError

    def real(self, line: str) -> str:
        """A line with what its placeholders stand for here."""
        return line

    def await_started(self, log: Path) -> None:
        """Until what a line started in the background is there."""
        raise NotImplementedError

    def follow(self, guide: str) -> None:
        """Type every command of it."""
        for title, block in steps(guide):
            if title:
                self.before(title)
            for line in block.strip().splitlines():
                self.before(line)
                self.type(line)
        shown = {line for _, block in steps(guide) for line in block.splitlines() if line.startswith("fedward")}
        assert {line for line in shown if not line.endswith("&")} <= self.said.keys()

    def type(self, line: str) -> None:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.patch.setenv(name, value.replace(MACHINE, str(self.folder)))
            return
        typed = self.real(line).replace(MACHINE, str(self.folder))
        program, *arguments = shlex.split(typed.removesuffix(" &"))
        assert program == "fedward", line
        if typed.endswith(" &"):
            self.start(arguments)
            return
        self.patch.setattr("sys.stdin", io.StringIO("y\n"))  # what a person answers who is asked whether they are sure
        ran = fedward(*arguments)
        assert ran.code == 0, f"{typed}: exit {ran.code}\n{ran.out}{ran.err}"
        self.said[line] = ran.out

    def start(self, arguments: Sequence[str]) -> None:
        log = self.folder / "background.log"
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedward.cli.main", *arguments], cwd=self.folder, stdout=out, stderr=out
            )
        self.await_started(log)

    def stop(self) -> None:
        """End what was started in the background."""
        if self.process is not None:
            process, self.process = self.process, None
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0


def passphrases(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """What people would type who are asked for a passphrase."""
    for name, words in (("FEDWARD_PASSPHRASE_FILE", "four plain words here"),
                        ("FEDWARD_APPROVER_PASSPHRASE_FILE", "an approver's own words")):  # fmt: skip
        file = folder / name
        file.write_text(words)
        file.chmod(0o600)
        patch.setenv(name, str(file))
