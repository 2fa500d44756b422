"""The ServerApp as a test may kill it, or another process, at any place of a run: the product's own, watched (`deaths`).

`deadly_service` starts it in place of `fedward.server.app:app`. Places are what `mortal.Places` finds below the coordinator's
home (each commit of the record, each step that makes a model's file or an entry of the audit log durable), before and after each
sending, and after replies were taken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deaths import FOLDER, HOME, Deaths
from mortal import Places

from fedward.server.app import app, warm_up
from fedward.server.batches import Batches
from fedward.server.running import StudyRun
from fedward.server.sites import SiteTransport

__all__ = ["app", "warm_up"]


def _kinds(requests: Mapping[str, bytes]) -> str:
    """What is sent: the kind in the first request's header."""
    data = next(iter(requests.values()), b"")
    return str(json.loads(data[8 : 8 + int.from_bytes(data[4:8], "big")])["kind"]) if data else "nothing"


def _watch_transport(deaths: Deaths) -> None:
    send, poll = SiteTransport.send, SiteTransport.poll

    def watched_send(self: Any, requests: Mapping[str, bytes]) -> None:
        deaths.reach(f"before send {_kinds(requests)}")
        send(self, requests)
        deaths.reach(f"after send {_kinds(requests)}")

    def watched_poll(self: Any) -> Any:
        found = poll(self)
        if found:
            deaths.reach("after replies were taken")
        return found

    SiteTransport.send, SiteTransport.poll = watched_send, watched_poll  # type: ignore[method-assign]


def _watch_parts(deaths: Deaths) -> None:
    def within(owner: Any, name: str, part: Callable[..., str], following: str) -> None:
        original = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            deaths.enter(part(*arguments))
            try:
                return original(*arguments, **named)
            finally:
                deaths.enter(following)

        setattr(owner, name, step)  # getattr above fails where the product has no such part

    def attempt(_run: Any, _study: Any, sealed: Any, good: Any, *_: Any) -> str:
        return "round" if good.checkpoint.version < sealed.manifest.training.rounds else "last"

    within(StudyRun, "_begin", lambda *_: "first", "begin")
    within(StudyRun, "_attempt", attempt, "between")
    within(Batches, "_set_up", lambda *_: "setup", "round")
    within(StudyRun, "_judge", lambda *_: "end", "end")
    within(StudyRun, "_end", lambda *_: "end", "end")


def _install() -> None:
    deaths = Deaths(Path(os.environ[FOLDER]), "begin")
    places = Places(Path(os.environ[HOME]))
    places.report = deaths.reach
    places.install()
    _watch_transport(deaths)
    _watch_parts(deaths)


_install()
