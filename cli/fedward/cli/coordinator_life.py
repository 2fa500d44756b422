"""`fedward coordinator pause | resume | stop STUDY`: what a person wishes of a study that is under way."""

from __future__ import annotations

from typing import Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, print_json, say


def pause(
    study: Reference,
    now: Annotated[
        bool,
        typer.Option(
            "--now/--after-round",
            help="Cut the attempt under way off: it counts as one of those that were planned. By default it is ended first.",
        ),
    ] = False,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Let a launched study rest. No hospital is asked and nothing is spent until `resume`; what is reserved stays reserved."""
    view = open_coordinator(home).pause(study, now=now)
    if as_json:
        print_json(view.as_json())
        return
    if view.state == "paused":
        say(f'"{view.title}" is paused.')
    else:
        how = "within seconds" if now else "as soon as the attempt under way has ended"
        say(f'"{view.title}": it will be paused {how}.')
    say(f"To go on: fedward coordinator resume {view.study_id}")


def resume(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Go on with a paused study, from its last committed round."""
    view = open_coordinator(home).resume(study)
    if as_json:
        print_json(view.as_json())
        return
    say(f'"{view.title}" goes on. Follow it: fedward coordinator status {view.study_id} --follow')


def stop(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Stop a study. Committed rounds and models stay, hospitals free what they reserved; `launch` continues it."""
    view = open_coordinator(home).stop(study)
    if as_json:
        print_json(view.as_json())
        return
    say(f'"{view.title}": stop is {"done" if view.state == "stopped" else "asked for; its run ends within seconds"}.')
