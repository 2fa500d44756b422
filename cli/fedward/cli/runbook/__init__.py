"""What every state, outcome, status, reason and alarm that a coordinator meets means, and what to do: the files beside this one.

`fedward explain` shows them without a network; docs/runbook.md is made from them. A file holds one kind of names. Under
`[section.NAME]` stands what is said of one; what all of a kind keep is said once, in the file's head. Error codes are explained in
`fedward.cli.explanations`; this page lists those that a coordinator meets, and links to them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fedward.cli.explanations import Explanation, explanations, section
from fedward.server.causes import OWN
from fedward.study.codes import CODES


@dataclass(frozen=True)
class Part:
    """The sections of one kind, in the order of the page."""

    kind: str
    title: str
    lead: str
    sections: tuple[Explanation, ...]


@dataclass(frozen=True)
class Met:
    """Codes that a coordinator meets in one place, and what is not lost there."""

    title: str
    kept: str
    codes: tuple[str, ...]


@cache
def parts() -> tuple[Part, ...]:
    """Every kind, in the order of the files' numbers."""
    return tuple(_part(one) for one in _files() if "kind" in one)


@cache
def sections() -> Mapping[str, Explanation]:
    """Every section, by its title."""
    return {one.title: one for part in parts() for one in part.sections}


def met() -> tuple[Met, ...]:
    """Every code that a coordinator meets, by where."""
    return tuple(
        Met(one["title"], one["kept"], tuple(CODES if one.get("refusals") else one["codes"]))
        for one in _codes()["group"]
    )


def find(name: str, kind: str | None = None) -> tuple[Explanation, ...]:
    """The sections of this name: of one kind, or of all."""
    return tuple(one for one in sections().values() if one.name == name and kind in {None, one.kind})


@cache
def _files() -> tuple[dict[str, Any], ...]:
    found = [entry for entry in files(__name__).iterdir() if entry.name.endswith(".toml")]
    found.sort(key=lambda entry: int(entry.name.partition("-")[0]))
    return tuple(tomllib.loads(entry.read_text(encoding="utf-8")) for entry in found)


def _codes() -> dict[str, Any]:
    return next(one for one in _files() if "group" in one)


def _part(read: dict[str, Any]) -> Part:
    kind = read["kind"]
    made = tuple(_section(kind, name, read.get("kept", []), told) for name, told in read["section"].items())
    return Part(kind, read["title"], read["lead"].strip(), made)


def _section(kind: str, name: str, kept: Sequence[str], told: dict[str, Any]) -> Explanation:
    # A reason's meaning stands where the coordinator finds it, as a code's does.
    means = told.get("means") or (OWN[name][0] if kind == "reason" and name in OWN else name)
    return Explanation(kind, name, means, told["causes"], told["fix"], told.get("run", []), kept=told.get("kept", kept))


def page() -> str:
    """docs/runbook.md."""
    return "\n".join([_HEAD, *(line for part in parts() for line in _of_part(part)), *_of_codes()])


def _of_part(part: Part) -> Iterator[str]:
    yield f"## {part.title}\n"
    yield part.lead + "\n"
    for one in part.sections:
        yield section(one)


def _of_codes() -> Iterator[str]:
    read = _codes()
    yield f"## {read['title']}\n"
    yield read["lead"].strip() + "\n"
    for one in met():
        yield f"### {one.title}\n"
        yield f"**Not lost:** {one.kept}\n"
        yield "\n".join(f"- [{code}](troubleshooting.md#{code}): {explanations()[code].means}" for code in one.codes)
        yield ""


_HEAD = """\
# Runbook: what happened, what is not lost, what to do

For coordinators. `fedward coordinator explain STUDY` says what happened to a study and names the sections of this page that concern
it; `fedward explain outcome quorum-missed` prints one without a network, and `fedward explain quorum-missed` everything of that
name.

Four things hold whatever happens:

- **A committed round stays.** Model, outcome and metrics were written in one transaction before anybody was told.
- **Nothing counts twice.** An attempt's number is used once; a late or repeated answer is refused.
- **A hospital's ε is never under-counted.** Its ledger is charged before a patient's row is read, and once an attempt at most.
- **Waiting is safe.** A study that you leave alone for a night spends nothing but the attempts that it was made for.

This page is made from `cli/fedward/cli/runbook` (`fedward explain --runbook`). A test holds that every state, outcome, status,
reason, standing, alarm and code that the program has is here, and nothing else. Capitals in the commands stand for your own: STUDY,
SITE, FILE. Commands that begin with `fedward site` are for the hospital.
"""
