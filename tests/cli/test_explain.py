"""`fedward explain`, the troubleshooting page and the runbook: every code and every name that the program gives a thing has a
section, every section a code or name, and every command of a section exists."""

from __future__ import annotations

import ast
import re
import shlex
from typing import get_args

import click
import pytest
import typer
from command import fedward
from source_codes import ROOT, codes_in, source_codes, source_places

from fedward.cli import runbook
from fedward.cli.explanations import Explanation, explanations, groups, page
from fedward.cli.main import app
from fedward.client.home import SiteHome
from fedward.privacy.auditentries import KINDS
from fedward.privacy.errors import InputError, RefusalError
from fedward.server import advising, chronicle
from fedward.server.alarms import INCIDENTS, Alarm
from fedward.server.causes import OWN
from fedward.server.records import State
from fedward.server.round import Outcome, Status
from fedward.study.codes import CODES

ALL = explanations()
COMMANDS = typer.main.get_command(app)
PAGE = ROOT / "docs" / "troubleshooting.md"
RUNBOOK = ROOT / "docs" / "runbook.md"
EVERY = [*ALL.values(), *runbook.sections().values()]
MEMBERS = {
    "state": set(get_args(State)),
    "failure": set(advising.NAMED),
    "outcome": set(Outcome),
    "status": set(Status),
    "reason": set(OWN),
    "standing": {*chronicle.DECISIONS, "unknown"},
    "alarm": set(Alarm),
    "incident": set(INCIDENTS),
}
"""Every name that the coordinator's program gives a thing, by kind."""
MET = ("server/", "cli/fedward/cli/coordinator", "study/fedward/study/connection.py", "privacy/fedward/privacy/errors.py",
       "privacy/fedward/privacy/audit", "privacy/fedward/privacy/log.py")  # fmt: skip
"""Where codes stand that a coordinator meets, beside those of hospitals' refusals."""


def test_every_code_has_a_section_and_every_section_a_code() -> None:
    """A new code fails here until somebody writes what to do about it, in cli/fedward/cli/explanations."""
    found = source_codes()
    assert len(found) > 150
    assert {code: place for code, place in found.items() if code not in ALL} == {}
    assert sorted(ALL.keys() - found.keys()) == []


def test_no_code_stands_twice() -> None:
    listed = [one.name for group in groups() for one in group.explanations]
    assert len(listed) == len(set(listed))


def test_the_page_is_made_from_them() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "fedward explain --markdown > docs/troubleshooting.md"
    assert RUNBOOK.read_text(encoding="utf-8") == runbook.page(), "fedward explain --runbook > docs/runbook.md"


@pytest.mark.parametrize("kind", MEMBERS)
def test_every_name_has_a_section_in_the_runbook_and_every_section_a_name(kind: str) -> None:
    """A new state, outcome or reason fails here until somebody writes what to do about it, in cli/fedward/cli/runbook."""
    assert {one.name for one in runbook.sections().values() if one.kind == kind} == MEMBERS[kind]


def test_the_runbook_has_no_other_kind() -> None:
    assert [part.kind for part in runbook.parts()] == list(MEMBERS)
    assert set(INCIDENTS) <= KINDS.keys()


def test_every_code_that_a_coordinator_meets_is_in_the_runbook_once() -> None:
    """A new one fails here until it stands in cli/fedward/cli/runbook/9-codes.toml, where what is not lost is said."""
    listed = [code for one in runbook.met() for code in one.codes]
    assert len(listed) == len(set(listed))
    theirs = {code for code, places in source_places().items() if any(place.startswith(MET) for place in places)}
    said_by_nodes = {"handler-failed", "request-malformed"}  # the coordinator repeats them: server/flower/replies.py
    assert set(listed) == theirs | CODES.keys() | said_by_nodes


@pytest.mark.parametrize("one", EVERY, ids=[one.title for one in EVERY])
def test_a_section_says_what_it_means_where_it_comes_from_and_what_to_do(one: Explanation) -> None:
    assert one.means != one.name
    assert not one.means.endswith(".")
    assert one.causes
    assert one.fix
    assert one.kind == "code" or one.kept
    for sentence in (*one.causes, *one.fix, *one.kept):
        assert sentence.endswith("."), sentence
        assert sentence.strip() == sentence


def lines() -> list[str]:
    told = {line for one in EVERY for line in one.run}
    for one in EVERY:
        told |= {line for sentence in one.fix for line in re.findall(r"`(fedward [^`]+)`", sentence)}
    return sorted(told)


@pytest.mark.parametrize("line", lines())
def test_every_command_of_a_section_exists_with_its_options(line: str) -> None:
    words = shlex.split(line)
    if words[0] != "fedward":
        assert words[0] in {
            "df",
            "grep",
            "ss",
            "timedatectl",
            "journalctl",
            "systemctl",
            "ls",
            "chmod",
            "getent",
            "curl",
        }
        return
    command: click.Command = COMMANDS
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in rest if word.startswith("-")} <= known


def test_one_code() -> None:
    ran = fedward("explain", "data-changed")
    assert ran.code == 0
    for part in (
        ALL["data-changed"].means,
        *ALL["data-changed"].causes,
        *ALL["data-changed"].fix,
        *ALL["data-changed"].run,
    ):
        assert part in ran.out
    assert ran.out.startswith("data-changed: ")
    told = fedward("explain", "data-changed", "--json").json["found"]
    assert [(one["kind"], one["name"], one["run"]) for one in told] == [
        ("code", "data-changed", ALL["data-changed"].run)
    ]


def test_a_name_of_the_runbook_with_its_kind_and_without() -> None:
    every = fedward("explain", "quorum-missed").out
    for title in ("quorum-missed: ", "failure quorum-missed: ", "outcome quorum-missed: "):
        assert title in every
    one = fedward("explain", "outcome", "quorum-missed").out
    assert one.startswith("outcome quorum-missed: ")
    assert "failure" not in one
    for said in ("Not lost", *runbook.sections()["outcome quorum-missed"].kept):
        assert said in one
    told = fedward("explain", "code", "quorum-missed", "--json").json["found"]
    assert [one["kind"] for one in told] == ["code"]


def test_all_names_and_the_whole_pages() -> None:
    listed = fedward("explain").out
    assert [one.title for one in EVERY if f"  {one.title}: " not in listed] == []
    assert fedward("explain", "--json").json.keys() == {one.title for one in EVERY}
    assert fedward("explain", "--markdown").out == page()
    assert fedward("explain", "--runbook").out == runbook.page()
    for wrong in (
        ("disk", "--markdown"),
        ("disk", "--runbook"),
        ("--markdown", "--runbook"),
        ("mood", "disk"),
        ("a", "b", "c"),
    ):
        assert fedward("explain", *wrong).code == 2


def test_a_misspelt_code() -> None:
    ran = fedward("explain", "data-chnaged")
    assert ran.code == 3
    assert "data-changed" in ran.err
    assert "stopped" in fedward("explain", "outcome", "stoped").err
    assert fedward("explain", "alarm", "quorum-missed").code == 3


@pytest.mark.parametrize(
    ("error", "pointed"),
    [
        (RefusalError("no", code="budget-exhausted", remedy="ask"), True),
        (InputError("no"), True),
        (InputError("no", remedy="mend it"), False),  # the general code says less than this remedy
        (InputError("no", code="c"), False),
    ],
)
def test_an_error_ends_with_where_more_is_said(
    error: Exception, pointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(SiteHome, "open", fail)
    told = fedward("site", "status").err.splitlines()
    assert (told[-1] == f"  more: fedward explain {error.code}") is pointed  # type: ignore[attr-defined]


def test_codes_are_found_wherever_they_are_given() -> None:
    source = (
        "GONE = 'a-constant'\n"
        "class E(X):\n    default_code = 'a-default'\n"
        "def f(x):\n    code = 'a-variable' if x else 'another-variable'\n"
        "    raise E('a sentence', code='a-keyword' if x else GONE)\n"
        "refuse('a sentence', 'by-place')\n"
    )
    found = set(codes_in(ast.parse(source), {"refuse": 1}))
    assert found == {"a-constant", "a-default", "a-variable", "another-variable", "a-keyword", "by-place"}
