"""Commands that ask a person: at a terminal, through a pipe, and where nobody can answer."""

from __future__ import annotations

import ast
import io
import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from command import fedward, good
from federation import Federation

from fedward.cli.asking import confirm
from fedward.cli.output import counted
from fedward.client.node_state import write_state
from fedward.client.running import _alone

CLI = Path(__file__).parents[2] / "cli" / "fedward" / "cli"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What standard input holds."""
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_where_nobody_can_answer_the_error_names_yes(
    fed: Federation, typed: Callable[[str], None], tmp_path: Path
) -> None:
    site = ("--home", fed.sites["va"].path)
    who = ("--by", "IT", "--reason", "a test")
    for command in (
        ("site", "approve", fed.sealed().digest, *site),
        ("site", "withdraw", "--all", *site),
        ("site", "approver", "start-over", *who, *site),
        ("site", "ledger-recover", "--write-off", *who, *site),
        ("site", "restore", tmp_path / "none", "--write-off", *who, *site),
        ("coordinator", "revoke", "va", "--home", fed.home.path),
    ):
        typed("")
        ran = fedward(*command)
        assert ran.code == 2, (command, ran)
        assert "nobody could answer; nothing was done" in ran.err
        assert "--yes" in ran.err
        assert "interrupted" not in ran.err
    assert good("site", "review", fed.sealed().digest, *site)["state"] == "pending"


def test_a_yes_or_a_no_through_a_pipe(fed: Federation, typed: Callable[[str], None]) -> None:
    command = ("site", "approve", fed.sealed().digest, "--home", fed.sites["va"].path)
    typed("n\n")
    ran = fedward(*command)
    assert (ran.code, "the answer was no; nothing was done" in ran.err) == (2, True)
    typed("y\n")
    assert fedward(*command).code == 0


def test_ctrl_c_is_still_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(_: object) -> bool:
        raise click.Abort from KeyboardInterrupt()

    monkeypatch.setattr(click, "confirm", pressed)
    with pytest.raises(click.Abort):
        confirm("Sure?")


def test_no_command_asks_otherwise() -> None:
    for path in CLI.rglob("*.py"):
        called = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not called & {"confirm", "prompt"} or path.name == "asking.py", path


def test_numbers_are_told_as_english_does(fed: Federation) -> None:
    assert (counted(1, "more approver"), counted(2, "more approver")) == ("1 more approver", "2 more approvers")
    shown = "".join(path.read_text() for path in CLI.rglob("*.py"))
    assert "(s)" not in shown
    said = fedward("site", "policy", "check", "--home", fed.sites["va"].path).out
    assert "1 approver must sign for a study" in said


def test_a_node_that_answered_is_told_as_connected(fed: Federation) -> None:
    home = fed.sites["va"]
    write_state(home, "handled", "last request answered in 0.012 s")
    with _alone(home):
        said = fedward("site", "status", "--home", home.path).out
    assert "Node: connected (last request answered in 0.012 s)" in said


def dialogue(command: list[str], answers: list[tuple[str, str]], limit_s: float = 60) -> tuple[int, str]:
    """Runs a command at a terminal of its own, and types each answer once its question is there; exit code and all it said."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-m", "fedward.cli.main", *command])  # noqa: S606 - the program itself
    said, seen, left, end = "", 0, list(answers), time.monotonic() + limit_s
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                said += os.read(terminal, 4096).decode()
            except OSError:  # Linux: the other end is closed
                break
        if left and (found := said.find(left[0][0], seen)) >= 0:
            seen = found + len(left[0][0])
            os.write(terminal, left.pop(0)[1].encode() + b"\n")
    else:
        os.kill(child, signal.SIGKILL)
        said += "\nIT HUNG"
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def test_a_passphrase_is_typed_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDWARD_PASSPHRASE_FILE", raising=False)
    home, new, again = tmp_path / "home", "characters or more): ", "The same again: "
    command = ["site", "init", "va", "--passphrase", "--home", str(home)]
    good_one = "correct horse battery"
    code, said = dialogue(
        command, [(new, "short"), (new, good_one), (again, "correct horse butter"), (new, good_one), (again, good_one)]
    )
    assert code == 0, said
    assert "That is too short; give 12 characters or more" in said
    assert "The two differ." in said
    assert good_one not in said
    assert (home / "site.json").is_file()
    code, said = dialogue(["site", "passphrase", "--home", str(home)], [("home: ", good_one)] + [(new, "short")] * 3)
    assert code == 3, said
    assert "no new passphrase after 3 attempts; nothing was done" in said


def test_where_nobody_can_type_a_passphrase_the_error_names_the_variable(
    fed: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", nobody)
    ran = fedward("site", "approver", "add", "Bo", "--home", fed.sites["va"].path)
    assert ran.code == 3
    assert "FEDWARD_APPROVER_PASSPHRASE_FILE" in ran.err
