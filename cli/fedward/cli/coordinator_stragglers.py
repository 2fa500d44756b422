"""`fedward coordinator wait` and `carry-on`: a person's answer to a round that has its quorum and still waits for hospitals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.server.records import Question
    from fedward.server.views import StudyView


def wait(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Let a round that asks about its stragglers wait for them, to its deadline at most."""
    _say(open_coordinator(home).decide(study, wait=True), as_json=as_json)


def carry_on(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Let a round that asks about its stragglers end without them. Their answers do not count in it any more."""
    _say(open_coordinator(home).decide(study, wait=False), as_json=as_json)


def _say(view: StudyView, *, as_json: bool) -> None:
    if as_json:
        print_json(view.as_json())
        return
    say_questions(view)
    if not view.questions:  # its run was faster
        say(f'"{view.title}": decided; the round is over.')


def say_questions(view: StudyView) -> None:
    """What a round asks the coordinator, or what it was told."""
    for one in view.questions:
        say(f"Round {one.round} has its quorum and waits for {', '.join(one.sites)}: {_state(one)}.")
        if one.choice is None:
            say(f"  Go on without: fedward coordinator carry-on {view.study_id}")
            say(f"  Wait for them: fedward coordinator wait {view.study_id}")


def _state(one: Question) -> str:
    until = f"{datetime.fromtimestamp(one.until, UTC):%H:%M:%S} UTC"
    if one.choice == "carry-on":
        return "it goes on without them now"
    if one.choice == "wait":
        return f"it waits until {until}"
    return f"nobody has decided yet, and at {until} it goes on without them"
