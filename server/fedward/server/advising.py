"""What comes next in a study, and who does it: from its state, the reason for it, and what keeps each site out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fedward.server.causes import COORDINATOR, HOSPITAL, NOBODY, Cause, of_reason
from fedward.server.chronicle import SAID_NO
from fedward.server.contributing import SiteStory
from fedward.server.histories import History
from fedward.server.lifecycle import PLAN_USED_UP, SITES_SPENT, is_busy

FAILURES: Final = (
    ("the planned attempts are used up", PLAN_USED_UP),
    ("the study has expired", "expired"),
    ("too few sites can still approve", "not-approved"),
    ("too few sites approved in time", "not-approved"),
    ("too few sites take part", "too-few-sites"),
    ("its run ended", "run-ended"),
    ("no committed model of the study can be gone on from", "no-good-model"),
)
"""How a failure's reason began, beside a round's missed quorum, and its name: records of earlier versions have no code."""
NAMED: Final = frozenset({name for _, name in FAILURES} | {"quorum-missed", SITES_SPENT, "other"})
"""Failures that have a name of their own; any other is named by its error's code."""


@dataclass(frozen=True)
class Step:
    """Something that somebody does next.

    Attributes:
        who: the coordinator, a hospital or nobody.
        sites: the hospitals, where it is theirs to do.
        do: what, a sentence without a full stop.
        run: commands.
        cause: why a site is out, where that is what the step removes.
    """

    who: str
    do: str
    sites: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    cause: Cause | None = None


def failure(history: History) -> str | None:
    """The name of why a study failed or is exhausted; None for any other study."""
    view = history.view
    if view.state not in {"failed", "budget-exhausted"}:
        return None
    if view.code is not None:
        return view.code
    reason = view.reason
    if reason.startswith("round ") and " found no quorum in " in reason:
        return "quorum-missed"
    return next((name for begin, name in FAILURES if reason.startswith(begin)), "other")


def next_steps(history: History, stories: Sequence[SiteStory], *, serving: bool | None) -> tuple[Step, ...]:
    """What is to do now, first things first. `serving`: whether the coordinator's service runs, None where that is not known."""
    view, study = history.view, history.view.study_id
    if view.state == "completed":
        return (*_alarms(history), *_lost(history), _completed(history))
    steps = [*_alarms(history), *_lost(history)]
    if is_busy(history.study.life) and serving is False:
        steps.append(
            Step(COORDINATOR, "start the service: nothing moves without it", run=("fedward coordinator start",))
        )
    if view.wish == "run":  # launched, whether or not the service has begun
        return (*steps, *_running(history, stories))
    if view.state == "draft":
        steps.append(Step(NOBODY, "wait: the service is asking the hospitals who takes part, and seals the study then"))
    elif view.state in {"proposed", "ready"}:
        steps += _approvals(history, stories)
        least = history.manifest.least_sites
        asked = (
            "launch it" if view.state == "ready" else f"launch it; it begins as soon as {least} hospitals have approved"
        )
        steps.append(Step(COORDINATOR, asked, run=(f"fedward coordinator launch {study}",)))
    elif view.state == "paused":
        rest = "Until then no hospital is asked, and what is reserved there stays reserved"
        resume = (f"fedward coordinator resume {study}",)
        steps.append(Step(COORDINATOR, f"to go on, resume it: {_where(history)}. {rest}", run=resume))
    elif view.state == "running":
        steps += _running(history, stories)
    elif view.state == "stopped":
        again = Step(
            COORDINATOR,
            f"to continue, launch it: {_where(history)}",
            run=(f"fedward coordinator launch {study}",),
        )
        steps.append(again if history.sealed is not None else _again(study))
    else:
        steps += _failed(history, stories)
    return tuple(steps)


def _running(history: History, stories: Sequence[SiteStory]) -> Iterator[Step]:
    study, least = history.view.study_id, history.manifest.least_sites
    if not history.view.attempts and _approved(stories) < least:
        yield from _approvals(history, stories)
        yield Step(NOBODY, f"it begins by itself as soon as {least} hospitals have approved; {_approved(stories)} have")
        return
    for asked in history.view.questions:
        if asked.choice is None:
            yield Step(
                COORDINATOR,
                f"decide whether round {asked.round} waits for {', '.join(asked.sites)}: without a decision it does, to its end",
                run=(f"fedward coordinator wait {study}", f"fedward coordinator carry-on {study}"),
            )
    yield from _out(stories)
    follow = (f"fedward coordinator status {study} --follow",)
    yield Step(NOBODY, f"wait: {_where(history)} by itself", run=follow)


def _failed(history: History, stories: Sequence[SiteStory]) -> Iterator[Step]:
    study, name = history.view.study_id, failure(history)
    launch = (f"fedward coordinator launch {study}",)
    if name == "quorum-missed":
        yield from _out(stories)
        yield Step(
            COORDINATOR,
            f"launch it again when {history.manifest.least_sites} hospitals are there: {_where(history)}",
            run=launch,
        )
    elif name == "not-approved":
        yield from _approvals(history, stories)
        yield Step(COORDINATOR, f"launch it again when {history.manifest.least_sites} have approved", run=launch)
    elif name == PLAN_USED_UP:
        yield from _out(stories)
        yield _again(
            study,
            f"the study's privacy budget was made for {history.manifest.planned_attempts} attempts, and all are used: no more can "
            "be asked of patients. Committed rounds stay. Propose it again, with more privacy.spare_attempts",
            verb="clone" if history.view.version == 0 or history.view.kind == "explore" else "extend",
        )
    elif name == SITES_SPENT:
        yield from _out(stories)
        yield Step(
            COORDINATOR,
            "nobody can raise what hospitals have spent. If some of them find room (another study that reserved budget ends, a new "
            f"period begins, their policy changes), launch it again: {_where(history)}",
            run=launch,
        )
        yield _again(study, "or propose a version that costs less: fewer rounds, a smaller ε, or other hospitals")
    elif name == "expired":
        yield _again(study, "hospitals' approvals hold until a study expires, and it has. Propose it again")
    elif name == "too-few-sites" or history.sealed is None:
        yield from _unready(history)
        yield _again(study, "when they are ready, propose it again")
    else:
        remedy = history.view.reason.partition(" To fix it: ")[2].rstrip(".")
        yield Step(COORDINATOR, remedy or "read the reason above, and the log folder of the coordinator's home")
        yield Step(COORDINATOR, f"then launch it again: {_where(history)}", run=launch)


def _completed(history: History) -> Step:
    study = history.view.study_id
    run = [f"fedward coordinator {'answers' if history.view.kind == 'explore' else 'status'} {study}"]
    run.append(f"fedward coordinator export {study} --out {study}.zip")
    words = "the study is done. To see what came out, and to put the record into an archive"
    if history.view.kind == "train":
        words += "; and to see how the model stands with its gates, before anybody uses it"
        run.append(f"fedward coordinator gates {study}")
    return Step(NOBODY, words, run=tuple(run))


def _again(study: str, why: str = "it was never sealed. Propose it again", verb: str = "clone") -> Step:
    """Another version: `clone` begins anew, `extend` goes on from the last model."""
    draft = f"{study}-again.toml"
    return Step(
        COORDINATOR,
        why,
        run=(f"fedward coordinator {verb} {study} --out {draft}", f"fedward coordinator propose {draft}"),
    )


def _where(history: History) -> str:
    """Where a study goes on."""
    view = history.view
    if view.kind == "explore":
        return "it goes on with its questions"
    if view.version >= view.rounds:
        return "it goes on with the test of the last model"
    kept = "nothing is committed yet" if view.version == 0 else f"{view.version} of {view.rounds} rounds are kept"
    return f"it goes on with round {view.version + 1} ({kept})"


def _approved(stories: Sequence[SiteStory]) -> int:
    return sum(story.standing == "approved" for story in stories)


def _approvals(history: History, stories: Sequence[SiteStory]) -> Iterator[Step]:
    """Whose approval is missing."""
    digest = (history.view.digest or "DIGEST")[:12]
    review = (f"fedward site review {digest}", f"fedward site approve {digest}")
    waiting = tuple(
        s.site for s in stories if s.site in history.sites and s.standing in {"pending", "unknown", "expired"}
    )
    if waiting:
        yield Step(
            HOSPITAL, "review the study and decide: its approvers approve or refuse it", sites=waiting, run=review
        )
    no = tuple(s.site for s in stories if s.site in history.sites and s.standing in SAID_NO)
    if no:
        yield Step(
            HOSPITAL,
            "people there said no. That stands unless they approve it; the coordinator can only ask them",
            sites=no,
        )
    yield from _unready(history, {"unwilling"})


def _unready(
    history: History, states: frozenset[str] | set[str] = frozenset({"absent", "unwilling"})
) -> Iterator[Step]:
    """Sites whose node does not take part, and why."""
    for row in history.view.standings:
        if row.state in states:
            cause = of_reason(row.reason)
            do = cause.do if cause.name != "other" else f"the record says: {row.reason}"
            yield Step(cause.who, do, sites=(row.site,), cause=cause)


def _alarms(history: History) -> Iterator[Step]:
    for alarm in history.alarms:
        if alarm.site in history.sites:
            yield Step(
                COORDINATOR,
                f"telephone {alarm.site} about its alarm ({alarm.what}), find out what happened, and say so",
                run=(f"fedward coordinator clear-alarm {alarm.site} --by NAME --reason TEXT",),
            )


def _lost(history: History) -> Iterator[Step]:
    if any(one.outcome == "lost" for one in history.view.attempts):
        yield Step(
            COORDINATOR,
            "find out what damaged the models' files before it happens again: the disk, its memory, or who can write there. "
            "Damaged ones are kept in the home's folder `models`, as *.damaged",
        )


def _out(stories: Sequence[SiteStory]) -> Iterator[Step]:
    """What each cause needs that keeps sites out now; the alarms stand by themselves."""
    by_cause: dict[str, list[SiteStory]] = {}
    for story in stories:
        if story.now is not None and story.now.name != "records-alarm":
            by_cause.setdefault(story.now.name, []).append(story)
    for found in by_cause.values():
        cause = found[0].now
        if cause is not None:
            yield Step(cause.who, cause.do, sites=tuple(story.site for story in found), cause=cause)
