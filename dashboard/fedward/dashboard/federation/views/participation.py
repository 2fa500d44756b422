"""The Participation page: who took part, and why did someone not?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.reading import Look, Tally
from fedward.dashboard.federation.seen import named, others
from fedward.dashboard.federation.views import marks, overview
from fedward.dashboard.federation.views.overview import round_name, when
from fedward.dashboard.redaction import OTHER
from fedward.server.causes import BLAMELESS, Cause
from fedward.server.chronicle import Attempt, attempts
from fedward.server.contributing import SiteStory, stories
from fedward.server.histories import History
from fedward.server.records import StatusRow


def grid(look: Look, history: History) -> pd.DataFrame:
    """hospital, attempt, round, what, status, why, seconds: a row for each hospital and attempt, in the roster's order; where
    others are not told apart, one for each status that some of them had, and how many had it."""
    made = {one.attempt: one for one in attempts(history)}
    rows = []
    for number, statuses in history.by_attempt.items():
        one = made[number]
        why = {site: out.cause for out in one.out for site in out.sites}
        seen = {row.site: row for row in statuses}
        for site in named(look):
            row = seen.get(site)
            status = "asked" if row is None else row.status
            cause = why.get(site)
            rows.append(
                (
                    site, number, one.round, round_name(look, one.round).lower(), marks.status(status).word,
                    "" if cause is None else cause.means,
                    math.nan if row is None or row.seconds is None else row.seconds,
                )
            )  # fmt: skip
        apart = Counter(row.status for row in statuses if row.site == OTHER)
        apart["asked"] += max(others(look) - apart.total(), 0)
        rows += [
            (
                f"others: {marks.status(status).word}", number, one.round, round_name(look, one.round).lower(),
                marks.status(status).word, f"{count} of {overview.elsewhere(others(look))}", math.nan,
            )
            for status, count in apart.items() if count
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["hospital", "attempt", "round", "what", "status", "why", "seconds"])


def told(look: Look, history: History) -> list[SiteStory]:
    """The part of each hospital that is told by name in the attempts of the history, in the roster's order."""
    found = {story.site: story for story in stories(history, attempts(history))}
    return [found[site] for site in named(look) if site in found]


def sentence(look: Look, history: History) -> str:
    """Who took part, and the newest absence: who, when, why, and whether it is back."""
    made = [one for one in attempts(history) if one.outcome is not None]
    if not made:
        return "No round has ended yet."
    absent = _newest_absence(look, made)
    given, of = len(made[-1].contributed), words.counted(len(look.sites), "hospital", "hospitals")
    head = f"{given} of {of} contributed to the newest attempt."
    if absent is None:
        return f"{head} In the {words.counted(len(made), 'attempt', 'attempts')} shown {_nobody(look)} missing."
    site, one, cause, verb = absent
    back = next((later for later in made if later.attempt > one.attempt and site in later.contributed), None)
    now = f"back in {_round(look, back)}" if back else "not back yet"
    return f"{head} {site} {verb} in {_round(look, one)}: {cause.means}; {now}."


def _nobody(look: Look) -> str:
    """Who was not, as far as whoever looks is told."""
    return f"{words.listed(named(look))} was never" if others(look) else "nobody was"


def undisturbed(look: Look) -> str:
    """What is said where no cause kept a hospital out that is told by name."""
    return f"In the attempts shown {_nobody(look)} refused, dropped or absent."


def _newest_absence(look: Look, made: Sequence[Attempt]) -> tuple[str, Attempt, Cause, str] | None:
    for one in reversed(made):
        for out in one.out:
            if out.cause.name not in BLAMELESS and out.sites[0] in named(look):
                verb = {"refused": "refused", "dropped": "dropped", "absent": "was not there"}.get(
                    out.status, out.status
                )
                return out.sites[0], one, out.cause, verb
    return None


def _round(look: Look, one: Attempt) -> str:
    name = round_name(look, one.round)
    return f"{name[:1].lower()}{name[1:]}"


def sites(look: Look, tallies: Mapping[str, Tally], history: History) -> pd.DataFrame:
    """hospital, rounds contributed, refused, dropped, not asked, usual seconds, last heard of (UTC), now.

    Counts are over the whole record, `now` and seconds over the attempts of the history.
    """
    known = {story.site: story for story in told(look, history)}
    rows = []
    for site in named(look):
        tally, story = tallies.get(site, Tally()), known.get(site)
        now = "" if story is None or story.now is None else story.now.means
        rows.append(
            (
                site, tally.committed, *(tally.statuses.get(name, 0) for name in ("refused", "dropped", "absent")),
                math.nan if story is None or story.usual_seconds is None else story.usual_seconds,
                "" if story is None or story.last_seen is None else when(story.last_seen),
                now or "taking part",
            )
        )  # fmt: skip
    if others(look):
        apart = tallies.get(OTHER, Tally())
        counts = (apart.statuses.get(name, 0) for name in ("refused", "dropped", "absent"))
        rows.append(
            (
                f"{overview.elsewhere(others(look))} together",
                apart.committed,
                *counts,
                math.nan,
                "not shown",
                "not shown",
            )
        )
    columns = [
        "hospital",
        "rounds contributed",
        "refused",
        "dropped",
        "not asked",
        "usual seconds",
        "last heard of (UTC)",
        "now",
    ]
    return pd.DataFrame(rows, columns=columns)


def causes(look: Look, history: History) -> pd.DataFrame:
    """hospital, why, times, who acts, what to do: what kept hospitals out, the most frequent of each first."""
    rows = [
        (story.site, counted.cause.means, counted.times, counted.cause.who, _do(counted.cause))
        for story in told(look, history)
        for counted in story.causes
    ]
    return pd.DataFrame(rows, columns=["hospital", "why", "times", "who acts", "what to do"])


def _do(cause: Cause) -> str:
    return f"fedward explain {cause.name}" if cause.is_code else cause.do


def answers(look: Look, statuses: Mapping[int, Sequence[StatusRow]]) -> pd.DataFrame:
    """hospital, value, low, high, shown: the median time of its answers, seconds, and the fastest and slowest; of hospitals
    that are told by name."""
    took: dict[str, list[float]] = {}
    for rows in statuses.values():
        for row in rows:
            if row.status == "contributed" and row.seconds is not None:
                took.setdefault(row.site, []).append(row.seconds)
    made = [
        (site, median(took[site]), min(took[site]), max(took[site]), "")
        if site in took
        else (site, *(math.nan,) * 3, "no answer yet")
        for site in named(look)
    ]
    return pd.DataFrame(made, columns=["hospital", "value", "low", "high", "shown"])
