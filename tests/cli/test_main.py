"""What holds for every command: help, one JSON object, exit codes, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from command import fedward

from fedward.cli.main import app
from fedward.client.home import SiteHome
from fedward.privacy import errors

PATIENT = "patient 4711"


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app)))
LEAVES = [path for path, command in COMMANDS.items() if not isinstance(command, click.Group)]


def test_the_commands_are_those_of_the_two_roles_and_the_demo() -> None:
    assert {path[0] for path in LEAVES} >= {"site", "coordinator", "demo"}
    assert {path[1] for path in LEAVES if path[0] == "site"} >= {
        "init", "request", "enroll", "register", "review", "approve", "refuse", "revoke", "approver", "start", "status", "ledger"
    }  # fmt: skip
    assert {path[1] for path in LEAVES if path[0] == "coordinator"} >= {
        "init", "start", "enroll", "sites", "propose", "launch", "status", "stop"
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_explains_the_command_and_each_of_its_options(path: tuple[str, ...]) -> None:
    ran = fedward(*path, "--help")
    assert (ran.code, ran.err) == (0, "")
    command = COMMANDS[path]
    assert command.help
    assert command.help.split()[0] in ran.out
    for parameter in command.params:
        record = parameter.get_help_record(click.Context(command))
        assert record, f"{parameter.name} is hidden"
        assert len(record[1].split("[")[0]) > 10, f"{parameter.name} has no help"
        assert record[0].split()[0].strip("[],") in ran.out


@pytest.mark.parametrize("path", [p for p in LEAVES if p[-1] != "start"], ids=" ".join)
def test_every_command_that_tells_something_has_json(path: tuple[str, ...]) -> None:
    assert "--json" in {opt for parameter in COMMANDS[path].params for opt in parameter.opts}


def test_help_is_instant() -> None:
    code = (
        "import sys\nfrom fedward.cli.main import _code\ncode = _code(['--help'])\n"
        "heavy = sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'torch', 'flwr', 'pandas', 'numpy', 'opacus', 'sqlalchemy', 'pydantic', 'streamlit'})\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Hospitals train one model together" in done.stdout


def test_version() -> None:
    ran = fedward("--version")
    assert ran.code == 0
    assert ran.out.startswith("fedward ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["lunch"],
        ["site", "aprove"],
        ["site", "init"],
        ["site", "init", "a", "--epsilon-budget", "much"],
        ["site", "register", "--csv", "a.csv"],
        ["coordinator", "init", "A", "--port", "0"],
        ["coordinator", "launch"],
        ["demo", "--rounds", "0"],
        ["demo", "--no-dp", "--epsilon", "1"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    ran = fedward(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert "rror" in ran.err
    assert "Traceback" not in ran.err
    told = fedward(*arguments, "--json")
    assert told.code == 2
    assert told.json["exit_code"] == 2
    assert told.json["what"]


def all_errors(kind: type[errors.FedwardError]) -> Iterator[type[errors.FedwardError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from all_errors(inner)


def test_each_class_of_error_has_its_exit_code() -> None:
    codes = {kind.__name__: kind.exit_code for kind in all_errors(errors.FedwardError)}
    assert codes.items() >= {
        "UsageError": 2, "InputError": 3, "RefusalError": 4, "IntegrityError": 5, "UnreachableError": 6
    }.items()  # fmt: skip


def fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(SiteHome, "open", fail)


def test_error_says_what_was_expected_what_came_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(monkeypatch, errors.RefusalError("no", expected="[bold]yes[/]", got="no", remedy="ask", code="c"))
    ran = fedward("site", "status")
    assert ran.code == 4
    assert ran.out == ""
    lines = [line.strip() for line in ran.err.splitlines()]
    assert lines == ["error: no", "expected: [bold]yes[/]", "got: no", "to fix it: ask"]
    assert fedward("site", "status", "--json").json == {
        "error": "c", "what": "no", "expected": "[bold]yes[/]", "got": "no", "remedy": "ask", "exit_code": 4
    }  # fmt: skip


def test_a_bug_shows_its_kind_and_place_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(monkeypatch, ValueError(PATIENT))
    for ran in (fedward("site", "status"), fedward("site", "status", "--json")):
        assert ran.code == 1
        assert PATIENT not in ran.out + ran.err
        assert "ValueError at test_main.py" in ran.out + ran.err
        assert "Traceback" not in ran.err


def test_a_refusal_of_the_system_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(monkeypatch, PermissionError(13, "Permission denied", "/somewhere/site.json"))
    ran = fedward("site", "status")
    assert ran.code == 1
    assert "/somewhere/site.json" in ran.err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=["Ctrl-C", "abort"])
def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    fails_with(monkeypatch, error)
    ran = fedward("site", "status")
    assert ran.code == 130
    assert "nothing that was recorded is lost" in ran.err


def test_real_ctrl_c_is_exit_code_130() -> None:
    code = (
        "import os, signal, sys\nfrom fedward.client.home import SiteHome\nfrom fedward.cli.main import run\n"
        "SiteHome.open = lambda path: os.kill(os.getpid(), signal.SIGINT)\nrun(['site', 'status'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert "nothing that was recorded is lost" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fedward.cli.main", "site", "init", "a", "--home", str(tmp_path / "a"), "--json"],
        stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),  # as Python starts it
    )  # fmt: skip
    os.close(write)
    assert done.returncode in {0, 1, 120}
    assert "Traceback" not in done.stderr


def test_json_is_one_object_even_with_odd_names(tmp_path: Path) -> None:
    ran = fedward("coordinator", "init", 'Ärzte [red]& "Co"\n', "--home", tmp_path / "c", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["name"] == 'Ärzte [red]& "Co"\n'


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (("site", "status"), ("torch", "flwr", "scipy.stats")),
        (("coordinator", "status"), ("torch", "flwr", "scipy.stats")),
    ],
)
def test_a_command_that_only_looks_waits_for_no_heavy_import(command: tuple[str, str], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys; from fedward.cli.main import app; import contextlib\n"
        f"with contextlib.suppress(BaseException): app([*{command!r}, '--home', '/nonexistent'])\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stdout
