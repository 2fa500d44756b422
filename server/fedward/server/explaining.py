"""A study explained: its state and why, what happened in order, each site's part, and what comes next. Pure.

It holds no patient's value: names, codes, times and counts of rounds, all from the coordinator's own record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedward.server.advising import NAMED, Step, failure, next_steps
from fedward.server.alarms import kind_of
from fedward.server.chronicle import Attempt, Event, attempts, bare, chronicle
from fedward.server.contributing import SiteStory, stories
from fedward.server.histories import History
from fedward.server.releasing import trained_by
from fedward.server.round import Outcome


@dataclass(frozen=True)
class Explained:
    """What `explain` finds. `why` says in words why the study is in its state; `failure` names a failed one's reason.

    `runbook` are the titles of what the runbook says about all that is named here, each a kind and a name, or an error's code.
    """

    study_id: str
    title: str
    digest: str | None
    kind: str
    state: str
    why: str
    failure: str | None
    rounds: int
    committed: int
    least_sites: int
    sites: tuple[SiteStory, ...]
    events: tuple[Event, ...]
    steps: tuple[Step, ...]
    trained_by: tuple[str, ...]
    """Sites that are in a committed round of training."""
    not_releasable: tuple[str, ...]
    """Why the newest model may not become a release; see `gates.withheld`."""
    runbook: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(history: History, *, serving: bool | None = None) -> Explained:
    """A study explained. `serving`: whether the coordinator's service runs, None where that is not known."""
    view, made = history.view, attempts(history)
    told = stories(history, made)
    return Explained(
        study_id=view.study_id,
        title=view.title,
        digest=view.digest,
        kind=view.kind,
        state=view.state,
        why=_why(history, told),
        failure=failure(history),
        rounds=view.rounds,
        committed=view.version,
        least_sites=history.manifest.least_sites,
        sites=told,
        events=chronicle(history),
        steps=next_steps(history, told, serving=serving),
        trained_by=trained_by(view),
        not_releasable=view.not_releasable,
        runbook=tuple(dict.fromkeys(_titles(history, made, told))),
    )


def _titles(history: History, made: Sequence[Attempt], told: Sequence[SiteStory]) -> Iterator[str]:
    """What the runbook says more of, from the whole to the single; what is as it should be is left out."""
    yield f"state {history.view.state}"
    name = failure(history)
    if name is not None:
        yield f"failure {name}" if name in NAMED else name
    yield from (f"outcome {one.outcome}" for one in made if one.outcome not in {None, Outcome.COMMITTED})
    yield from (f"status {out.status}" for one in made for out in one.out)
    causes = [counted.cause for story in told for counted in story.causes]
    yield from (cause.name if cause.is_code else f"reason {cause.name}" for cause in causes)
    yield from (f"standing {story.standing}" for story in told if story.standing != "approved")
    yield from (f"alarm {kind_of(alarm.what)}" for alarm in history.alarms if alarm.site in history.sites)


def _why(history: History, told: tuple[SiteStory, ...]) -> str:
    """The state in a sentence's words."""
    view, least = history.view, history.manifest.least_sites
    done = (
        f"{view.version} of {view.rounds} rounds are committed"
        if view.kind == "train"
        else "its questions are answered"
    )
    approved = [story.site for story in told if story.standing == "approved"]
    waits = f"{len(approved)} of the {least} approvals that it needs are given"
    if view.wish == "run" and view.state != "running":
        return f"it is launched, and the service is about to begin; {waits}"
    if view.state in {"failed", "budget-exhausted"}:
        return bare(view.reason)
    if view.state == "running" and not view.attempts and len(approved) < least:
        return f"it is launched and waits for hospitals' approvals; {waits}"
    return {
        "completed": f"it ran to its end: {done}",
        "stopped": f"{view.reason or 'a person stopped it'}; {done}",
        "paused": f"a person paused it; {done}. No hospital is asked for anything until it is resumed",
        "draft": "it is not sealed yet: the hospitals are being asked who takes part",
        "proposed": f"the hospitals can approve it, and nobody has launched it; {waits}, as far as is known: "
        "the coordinator asks them from time to time, and at the launch",
        "ready": f"enough hospitals have approved it, and nobody has launched it; {waits}",
    }.get(view.state, f"it is launched; {done}")
