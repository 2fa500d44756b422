"""`fedward coordinator policy | requests | withdraw`: what takes two persons, and what waits for the second."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, open_coordinator
from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.server.seconding import Request


def policy(
    two_persons: Annotated[
        str | None,
        typer.Option("--two-persons", metavar="ACTIONS", help="launch, release, both with a comma between, or none."),
    ] = None,
    hours: Annotated[
        int | None, typer.Option("--hours", min=1, max=720, help="How long a request waits for the second person.")
    ] = None,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Show or change what takes two persons. While anything does, a change of it takes two as well."""
    from fedward.privacy.errors import InputError
    from fedward.server.seconding import ACTIONS, Policy

    coordinator = open_coordinator(home)
    found = coordinator.policy()
    if two_persons is not None or hours is not None:
        named = {one.strip() for one in (two_persons or "").split(",")} - {"", "none"}
        if unknown := sorted(named - set(ACTIONS)):
            raise InputError(
                f"no action takes two persons by the name {unknown[0]}", expected=f"{', '.join(ACTIONS)} or none"
            )
        chosen = (
            tuple(action for action in ACTIONS if action in named) if two_persons is not None else found.two_persons
        )
        found = Policy(two_persons=chosen, hours=hours or found.hours)
        coordinator.change_policy(found)
    if as_json:
        print_json({"two_persons": list(found.two_persons), "hours": found.hours})
        return
    if found.two_persons:
        say(f"Two persons are needed to {' and to '.join(found.two_persons)}. A request waits {found.hours} hours.")
    else:
        say("Nothing takes two persons. See: fedward coordinator policy --two-persons launch,release")


def requests(home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """List what one person asked for, and waits for a second."""
    found = open_coordinator(home).waiting()
    if as_json:
        print_json({"requests": [one.model_dump() for one in found]})
        return
    if not found:
        say("Nothing waits for a second person.")
    for one in found:
        say(waits(one))


def withdraw(
    request: Annotated[str, typer.Argument(help="The request, as `requests` lists it.")],
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Take a waiting request back, one's own or another's. It can be asked anew."""
    done = open_coordinator(home).withdraw(request)
    if as_json:
        print_json(done.model_dump())
        return
    say(f'The request of {done.by} to {done.action} "{done.about}" is withdrawn.')


def waits(one: Request) -> str:
    """A request in a line."""
    until = f"{datetime.fromtimestamp(one.expires_at, UTC):%Y-%m-%d %H:%M} UTC"
    return (
        f'{one.reference}  {one.action} "{one.about}" ({one.target[:12]}): {one.by} asked; '
        f"waiting for a second operator until {until}"
    )
