"""`fedward coordinator explain STUDY`: what happened to a study, at whom and why, and what to do next, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.server.advising import Step
    from fedward.server.causes import Cause
    from fedward.server.contributing import SiteStory
    from fedward.server.explaining import Explained


def explain(study: Reference, home: Home = DEFAULT_HOME, as_json: bool = JsonOption) -> None:
    """Say in plain words what happened to a study: every round, every hospital's part, each reason, and what comes next."""
    from fedward.server import explaining

    coordinator = open_coordinator(home)
    found = explaining.explain(coordinator.history(study), serving=coordinator.serving())
    if as_json:
        print_json(found.as_json() | {"remedies": _remedies(found)})
        return
    _say_head(found)
    _say_events(found)
    say("\nThe hospitals")
    for site in found.sites:
        _say_site(site, found)
    _say_causes(found)
    if found.committed and found.not_releasable:
        say(f"\nThe model may not become a release: {'; '.join(found.not_releasable)}.")
    say("\nWhat comes next")
    for step in found.steps:
        _say_step(step)
    say(f"\nMore in the runbook (docs/runbook.md): {', '.join(found.runbook)}")
    say(f"  one of them: fedward explain {found.runbook[0]}")


def _say_head(found: Explained) -> None:
    say(f'"{found.title}" ({found.study_id}, {(found.digest or "not sealed")[:12]})')
    say(f"{found.state.upper()}: {found.why}.")
    if found.kind == "explore":
        say(
            f"It asks hospitals for noised counts, once. At least {found.least_sites} must answer, and only their sum is kept."
        )
        return
    say(
        f"It trains one model in {found.rounds} rounds. In a round every hospital trains on its own patients, and what it sends is "
        f"combined with the others'. A round is committed, and then stays, if at least {found.least_sites} hospitals took part; "
        "else it is tried again."
    )


def _say_events(found: Explained) -> None:
    say("\nWhat happened (UTC)")
    day = ""
    for event in found.events:
        at = datetime.fromtimestamp(event.at, UTC)
        if f"{at:%Y-%m-%d}" != day:
            day = f"{at:%Y-%m-%d}"
            say(f"  {day}")
        say(f"    {at:%H:%M:%S}  {event.words}")


def _say_site(site: SiteStory, found: Explained) -> None:
    from fedward.cli.runbook import sections

    standing = sections().get(f"standing {site.standing}")
    parts = [standing.means if standing is not None else site.standing]
    if found.kind == "train" and site.committed:
        parts.append(f"in {site.contributed} of {site.committed} committed rounds")
        if site.weight is not None:
            parts.append(f"{100 * site.weight:.0f}% of the weight")
    if site.usual_seconds is not None:
        parts.append(f"answers within {site.usual_seconds:.1f} s")
    if site.last_seen is not None:
        parts.append(f"last heard of {datetime.fromtimestamp(site.last_seen, UTC):%Y-%m-%d %H:%M:%S}")
    if site.longest is not None:
        parts.append(f"longest absence: {_absence(site, found)}")
    say(f"  {site.site}: {'; '.join(parts)}")
    for counted in site.causes:
        say(f"    {counted.times} × {counted.cause.name}: {counted.cause.means}")
        if counted.cause.name in {"other", "answer-refused"} or counted.cause.is_code:
            say(f"        the record says: {counted.detail}")


def _absence(site: SiteStory, found: Explained) -> str:
    away = site.longest
    if away is None:
        return ""
    ends = (away.first_round, away.last_round)
    first, last = (f"round {n}" if n <= found.rounds else "the test of the last model" for n in ends)
    rounds = first if first == last else f"{first} to {last}"
    since, until = (datetime.fromtimestamp(at, UTC) for at in (away.since, away.until))
    when = f"at {since:%H:%M:%S}" if away.attempts == 1 else f"{since:%H:%M:%S} to {until:%H:%M:%S}"
    return f"{away.attempts} attempt{'s' if away.attempts > 1 else ''}, {rounds} ({when})"


def _causes(found: Explained) -> Iterator[Cause]:
    """Every cause that is spoken of, once."""
    seen = set()
    for cause in [c.cause for site in found.sites for c in site.causes] + [s.cause for s in found.steps if s.cause]:
        if cause.name not in seen:
            seen.add(cause.name)
            yield cause


def _say_causes(found: Explained) -> None:
    """Who does what about each cause; a cause that needs nobody is left out."""
    told = [cause for cause in _causes(found) if _fix(cause)]
    if not told:
        return
    say("\nThe reasons, and who does what about them")
    for cause in told:
        say(f"  {cause.name}: {cause.who}")
        for line in _fix(cause):
            say(f"    - {line}")
        for command in _commands(cause):
            say(
                f"        {command.replace('DIGEST', (found.digest or 'DIGEST')[:12]).replace('STUDY', found.study_id)}"
            )


def _fix(cause: Cause) -> Sequence[str]:
    from fedward.cli.explanations import explanations

    told = explanations().get(cause.name) if cause.is_code else None
    return told.fix if told is not None else [cause.do] if cause.do else []


def _commands(cause: Cause) -> Sequence[str]:
    from fedward.cli.explanations import explanations

    told = explanations().get(cause.name) if cause.is_code else None
    return told.run if told is not None else []


def _remedies(found: Explained) -> dict[str, Any]:
    """By cause: who does what about it."""
    return {
        cause.name: {"means": cause.means, "who": cause.who, "fix": list(_fix(cause)), "run": list(_commands(cause))}
        for cause in _causes(found)
    }


def _say_step(step: Step) -> None:
    who = ", ".join(step.sites) if step.sites and step.who != "the coordinator" else step.who
    about = f" (about {', '.join(step.sites)})" if step.sites and step.who == "the coordinator" else ""
    do = step.do or (f"{step.cause.means}; see {step.cause.name} above" if step.cause is not None else "")
    if who == "nobody":
        say(f"  - {do[:1].upper()}{do[1:]}.")
    elif step.sites and not about:
        say(f"  - At {who}: {do}.")
    else:
        say(f"  - {who[:1].upper()}{who[1:]}{about}: {do}.")
    for command in step.run:
        say(f"      {command}")
