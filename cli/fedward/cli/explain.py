"""`fedward explain NAME`: what an error code, state, outcome, reason or alarm means and what to do, from the package alone."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.cli.explanations import Explanation


def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[KIND] NAME]",
            help="An error's code, such as data-changed; or any name of the runbook, such as quorum-missed, with its kind "
            "where you want one alone: outcome quorum-missed. Without it: all.",
        ),
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the whole troubleshooting page, for an intranet or a printer.")
    ] = False,
    as_runbook: Annotated[bool, typer.Option("--runbook", help="Print the coordinator's whole runbook.")] = False,
    as_json: bool = JsonOption,
) -> None:
    """Explain an error code, or a state, outcome, status or reason: what it means, where it comes from, what to do.

    Needs no network.
    """
    from fedward.cli import explanations, runbook
    from fedward.privacy.errors import UsageError

    if as_markdown or as_runbook:
        if words or as_json or (as_markdown and as_runbook):
            raise UsageError(
                "--markdown and --runbook each print a whole page", expected="one of them, no name, and no --json"
            )
        sys.stdout.write(explanations.page() if as_markdown else runbook.page())
    elif not words:
        _say_all(as_json)
    else:
        found = _found(words)
        if as_json:
            print_json({"found": [asdict(one) for one in found]})
            return
        for number, one in enumerate(found):
            say(f"{chr(10) if number else ''}{one.title}: {one.means}.")
            _say_advice(one)


def _say_all(as_json: bool) -> None:
    from fedward.cli.explanations import explanations, groups
    from fedward.cli.runbook import parts, sections

    if as_json:
        print_json({name: one.means for name, one in (*explanations().items(), *sections().items())})
        return
    for part in parts():
        say(f"\n{part.title}")
        for section in part.sections:
            say(f"  {section.title}: {section.means}")
    for group in groups():
        say(f"\nError codes: {group.title}")
        for one in group.explanations:
            say(f"  {one.name}: {one.means}")
    say("\nOne of them: fedward explain NAME")


def _found(words: Sequence[str]) -> Sequence[Explanation]:
    """What has this name, a code first.

    Raises:
        InputError: nothing has.
        UsageError: more than a kind and a name is given.
    """
    from fedward.cli.explanations import CODE, explanations
    from fedward.cli.runbook import find, parts, sections
    from fedward.privacy.errors import InputError, UsageError

    kinds = [CODE, *(part.kind for part in parts())]
    if len(words) > 2 or (len(words) == 2 and words[0] not in kinds):
        raise UsageError("that is no kind and name", expected=f"[KIND] NAME, a kind being one of {', '.join(kinds)}")
    name, kind = words[-1], words[0] if len(words) == 2 else None
    code = explanations().get(name) if kind in {None, CODE} else None
    found = [*([code] if code is not None else []), *find(name, kind)]
    if not found:
        near = difflib.get_close_matches(name, {*explanations(), *(one.name for one in sections().values())}, n=3)
        remedy = f"did you mean {' or '.join(near)}?" if near else "fedward explain lists all"
        raise InputError("nothing has that name", got=" ".join(words)[:80], remedy=remedy)
    return found


def _say_advice(one: Explanation) -> None:
    told = (
        ("Not lost", one.kept),
        ("Likely causes", one.causes),
        ("How to resolve it", one.fix),
        ("Commands", one.run),
    )
    for heading, lines in told:
        if lines:
            say(f"\n{heading}")
            for line in lines:
                say(f"  {line}" if heading == "Commands" else f"  - {line}")
