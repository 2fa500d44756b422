"""What every error code means, what it comes from and how to resolve it: the files beside this one, a group each.

`fedward explain` shows them without a network; docs/troubleshooting.md is made from them. A code of `fedward.study.codes`
takes its meaning from there. Under `[advice.NAME]` stands what several codes of a group share.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fedward.study.codes import CODES

CODE = "code"


@dataclass(frozen=True)
class Explanation:
    """One name of a kind: an error's code, or what the runbook explains.

    Attributes:
        means: a clause without a full stop.
        causes, fix: sentences.
        run: commands.
        kept: sentences: what is not lost, whatever else happened. A code has none: it is said once for many (`runbook`).
    """

    kind: str
    name: str
    means: str
    causes: Sequence[str]
    fix: Sequence[str]
    run: Sequence[str]
    kept: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Its heading on a page, and what `fedward explain` takes."""
        return self.name if self.kind == CODE else f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Group:
    """Codes that belong together, in the order of the page."""

    title: str
    lead: str
    explanations: tuple[Explanation, ...]


@cache
def groups() -> tuple[Group, ...]:
    """Every group, in the order of the files' numbers."""
    found = [entry for entry in files(__name__).iterdir() if entry.name.endswith(".toml")]
    found.sort(key=lambda entry: int(entry.name.partition("-")[0]))
    return tuple(_group(tomllib.loads(entry.read_text(encoding="utf-8"))) for entry in found)


@cache
def explanations() -> Mapping[str, Explanation]:
    """Every explanation, by its code."""
    return {one.name: one for group in groups() for one in group.explanations}


def _group(read: dict[str, Any]) -> Group:
    shared = read.get("advice", {})
    made = []
    for code, told in read["code"].items():
        whole = shared.get(told.get("advice"), {}) | told
        means = whole.get("means") or CODES.get(code, code)
        made.append(Explanation(CODE, code, means, whole["causes"], whole["fix"], whole.get("run", [])))
    return Group(read["title"], read.get("lead", "").strip(), tuple(made))


def page() -> str:
    """docs/troubleshooting.md."""
    parts = [_HEAD]
    for group in groups():
        parts.append(f"## {group.title}\n")
        if group.lead:
            parts.append(group.lead + "\n")
        parts += [section(one) for one in group.explanations]
    return "\n".join(parts)


def section(one: Explanation) -> str:
    """A name's section of a page."""
    lines = [f"### {one.title}\n", f"{one.means[:1].upper()}{one.means[1:]}.\n"]
    if one.kept:
        lines.append(f"**Not lost:** {' '.join(one.kept)}\n")
    lines += ["**Likely causes**\n", *(f"- {cause}" for cause in one.causes)]
    lines += ["\n**How to resolve it**\n", *(f"- {step}" for step in one.fix)]
    if one.run:
        lines += ["\n```sh", *one.run, "```"]
    return "\n".join(lines) + "\n"


_HEAD = """\
# Troubleshooting, by error code

An error names its code with `--json`, in a site's log, and in every refusal; without `--json` it ends with the command that
explains it. `fedward explain CODE` prints a section of this page, and needs no network; `fedward site doctor` looks at everything
at once.

This page is made from `cli/fedward/cli/explanations` (`fedward explain --markdown`). A test holds that every code has a section,
and every section a code. Capitals in the commands stand for your own: STUDY, DIGEST, FILE.
"""
