"""`fedward site pause | resume`: the switch that stops all work at once and keeps the connection."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say
from fedward.cli.site_home import DEFAULT_HOME, Home
from fedward.cli.site_signer import As, KeyFile, login, signer


def pause(
    home: Home = DEFAULT_HOME,
    reason: Annotated[str, typer.Option("--reason", help="Why, for your own record; it never leaves.")] = "",
    as_json: bool = JsonOption,
) -> None:
    """Stop all work of the node at once, also in the middle of a round. Anyone here may; it survives restarts."""
    from fedward.client.home import SiteHome
    from fedward.client.pausing import pause as stop

    link = stop(SiteHome.open(home), by=login(), at=int(time.time()), reason=reason)
    if as_json:
        print_json({"paused": True, "by": link.by, "at": link.at})
        return
    say(
        "Paused. The node keeps its connection and answers no request for work; an answer that is being made stays here."
    )
    say("What was charged for a round that runs counts as spent. To go on: fedward site resume")


def resume(
    home: Home = DEFAULT_HOME,
    by: As = None,
    key: KeyFile = None,
    as_json: bool = JsonOption,
) -> None:
    """Let a paused node work again; by an approver (--as) if the policy's resume_needs_approver asks for one."""
    from fedward.client.home import SiteHome
    from fedward.client.pausing import resume as go_on
    from fedward.client.policy import load_policy

    opened = SiteHome.open(home)
    signed = by is not None or key is not None or load_policy(opened.policy_file).resume_needs_approver
    who, identity = signer(opened, by, key) if signed else (login(), None)
    link = go_on(opened, by=who, signer=identity, at=int(time.time()))
    if as_json:
        print_json({"paused": False, "by": link.by, "at": link.at})
        return
    say("Resumed: the node works on what is approved here, from the next request on.")
