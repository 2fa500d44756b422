"""What each site did in a study: how often it took part, when it was heard of last, how long it was away, and for which causes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedward.server.causes import BLAMELESS, Cause
from fedward.server.chronicle import Attempt
from fedward.server.histories import History
from fedward.server.pacing import KEPT
from fedward.study.manifest import SealedManifest
from fedward.study.terms import training_cohort


@dataclass(frozen=True)
class Absence:
    """Attempts in a row in which a site gave nothing, for causes of its own; `since` and `until` are unix times of the first
    and last of them."""

    attempts: int
    first_round: int
    last_round: int
    since: int
    until: int


@dataclass(frozen=True)
class Counted:
    """A cause, how often it kept a site out, and one of the texts that the record has of it."""

    cause: Cause
    times: int
    detail: str


@dataclass(frozen=True)
class SiteStory:
    """One site's part.

    Attributes:
        standing: what the site said of the proposal last.
        contributed: committed training rounds that it is in, of `committed` ones.
        share: the same, as a share; None before the first one.
        weight: its mean share of the sum's weights over the committed training rounds, by the declared patients that weigh it;
            None where nothing is committed, or updates are not summed by weight.
        streak: newest committed training rounds in a row that it is in.
        longest_streak: the most in a row.
        usual_seconds: the longest of its last answers, as the coordinator measured them; None if none was.
        last_seen: unix time of the last thing that is known to come from it; None if nothing is.
        now: why it is out since the newest attempt; None when it is not.
    """

    site: str
    standing: str
    contributed: int
    committed: int
    last_seen: int | None
    longest: Absence | None
    share: float | None
    weight: float | None
    streak: int
    longest_streak: int
    usual_seconds: float | None
    causes: tuple[Counted, ...]
    now: Cause | None


def stories(history: History, made: Sequence[Attempt]) -> tuple[SiteStory, ...]:
    """Every site's part, by name."""
    standings = {row.site: row for row in history.view.standings}
    contributions = history.view.contributions()
    committed = [one for one in made if one.outcome == "committed" and one.round <= history.view.rounds]
    rounds, weights = len(committed), _weights(history, committed)
    answers = _answers(history)
    found = []
    for site in sorted({*history.sites, *standings, *contributions}):
        causes = {one.attempt: _cause(one, site) for one in made}
        standing = standings.get(site)
        found.append(
            SiteStory(
                site=site,
                standing=standing.state if standing is not None else "unknown",
                contributed=contributions.get(site, 0),
                committed=rounds,
                last_seen=_last_seen(history, made, site),
                longest=_longest(made, causes),
                share=contributions.get(site, 0) / rounds if rounds else None,
                weight=weights.get(site, 0.0) if weights else None,
                streak=_streaks(committed, site)[-1],
                longest_streak=max(_streaks(committed, site)),
                usual_seconds=max(answers.get(site, [])[-KEPT:], default=None),
                causes=_counted(made, site),
                now=next((_own(causes[one.attempt]) for one in reversed(made) if _tells(one, causes, site)), None),
            )
        )
    return tuple(found)


def _weights(history: History, committed: Sequence[Attempt]) -> Mapping[str, float]:
    """Each site's mean share of the weights in committed rounds of training; empty where there is none."""
    sealed = history.sealed
    if not isinstance(sealed, SealedManifest) or sealed.manifest.training.aggregation != "mean" or not committed:
        return {}
    found: dict[str, float] = {}
    for one in committed:
        weights = {site: training_cohort(sealed, site) for site in one.contributed}
        for site, weight in weights.items():
            found[site] = found.get(site, 0.0) + weight / sum(weights.values()) / len(committed)
    return found


def _answers(history: History) -> Mapping[str, list[float]]:
    """Seconds of each site's answers, oldest first."""
    found: dict[str, list[float]] = {}
    for row in history.view.statuses:
        if row.status == "contributed" and row.seconds is not None:
            found.setdefault(row.site, []).append(row.seconds)
    return found


def _streaks(committed: Sequence[Attempt], site: str) -> list[int]:
    """After each committed round, and before the first, how many in a row the site was in."""
    found = [0]
    for one in committed:
        found.append(found[-1] + 1 if site in one.contributed else 0)
    return found


def _cause(one: Attempt, site: str) -> Cause | None:
    return next((out.cause for out in one.out if site in out.sites), None)


def _own(cause: Cause | None) -> Cause | None:
    return None if cause is None or cause.name in BLAMELESS else cause


def _tells(one: Attempt, causes: Mapping[int, Cause | None], site: str) -> bool:
    """Whether an attempt tells if a site is there: an open one and one that others ended do not."""
    cause = causes[one.attempt]
    return site in one.contributed or (cause is not None and (cause.name not in BLAMELESS or cause.name == "not-asked"))


def _last_seen(history: History, made: Sequence[Attempt], site: str) -> int | None:
    times = [int(one.at + (one.seconds or 0)) for one in made if _heard(one, site)]
    times += [
        entry.at
        for entry in history.journal
        if entry.kind == "standing" and entry.data["site"] == site and entry.data["state"] != "absent"
    ]
    return max(times, default=None)


def _heard(one: Attempt, site: str) -> bool:
    return site in one.contributed or any(site in out.sites and out.status == "refused" for out in one.out)


def _longest(made: Sequence[Attempt], causes: Mapping[int, Cause | None]) -> Absence | None:
    """The longest run of attempts without a site; those that say nothing of it neither count nor end a run."""
    best: list[Attempt] = []
    run: list[Attempt] = []
    for one in made:
        cause = causes[one.attempt]
        if cause is None or cause.name == "not-asked":
            run = []
        elif cause.name not in BLAMELESS:
            run.append(one)
            best = list(run) if len(run) > len(best) else best
    if not best:
        return None
    return Absence(len(best), best[0].round, best[-1].round, best[0].at, best[-1].at)


def _counted(made: Sequence[Attempt], site: str) -> tuple[Counted, ...]:
    """Causes, most frequent first."""
    found: dict[str, Counted] = {}
    for one in made:
        for out in one.out:
            if site in out.sites:
                before = found.get(out.cause.name)
                found[out.cause.name] = Counted(out.cause, 1 + (before.times if before else 0), out.detail)
    return tuple(sorted(found.values(), key=lambda one: (-one.times, one.cause.name)))
