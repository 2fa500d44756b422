"""The Study page: is it running, and when is it done?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import Final

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.reading import Look
from fedward.dashboard.federation.seen import named, others
from fedward.dashboard.federation.views import marks
from fedward.dashboard.redaction import OTHER
from fedward.server.records import AttemptRow, MetricRow, StatusRow

RECENT: Final = 10
"""Rounds by which the time that is left is told."""
Statuses = Mapping[int, Sequence[StatusRow]]

_AT_REST: Final = {
    "draft": "Not sealed yet: the hospitals are being asked who takes part.",
    "proposed": "The hospitals can approve it, and nobody has launched it.",
    "ready": "Enough hospitals have approved it, and nobody has launched it.",
    "paused": "Paused: no hospital is asked for anything until it is resumed.",
    "stopped": "Stopped.",
    "failed": "Failed.",
    "budget-exhausted": "The privacy budget is exhausted.",
}


def title(look: Look) -> str:
    return look.manifest.study.title or look.study.study_id


def sentence(look: Look, statuses: Statuses) -> str:
    """Is it well? State, round, who contributed, how long it takes still."""
    state, done = look.study.state, f"{look.version} of {words.counted(look.rounds, 'round', 'rounds')}"
    if state == "completed":
        return f"Completed: {done} committed. {took_part(look, statuses)}"
    if state != "running":
        said = _AT_REST.get(state, f"{marks.state(state).word.capitalize()}.")
        why = f" {sentence_of(look.study.reason)}" if look.study.reason and state in _ENDED_BADLY else ""
        return f"{said}{why} {done} committed." if look.attempts or look.version else f"{said}{why}"
    if not look.attempts:
        return f"Launched, and no round has begun: {_approvals(look)}."
    newest = look.attempts[-1]
    begun = (
        f"{round_name(look, newest.round)} of {look.rounds}."
        if newest.round <= look.rounds
        else "The last model is tested."
    )
    left = remaining(look)
    eta = "" if left is None else f" {about(left)} left."
    return f"{begun} {took_part(look, statuses)}{eta}"


_ENDED_BADLY: Final = frozenset({"failed", "budget-exhausted", "stopped"})


def sentence_of(reason: str) -> str:
    """A reason as a sentence, without its remedy."""
    short = reason.partition(" To fix it: ")[0].strip().rstrip(".")
    return f"{short[:1].upper()}{short[1:]}."


def _approvals(look: Look) -> str:
    given = sum(row.state == "approved" for row in look.standings)
    return f"{given} of the {look.manifest.least_sites} approvals that it needs are given"


def round_name(look: Look, number: int) -> str:
    if not look.trains:
        return "The questions"
    return f"Round {number}" if number <= look.rounds else "Test of the last model"


def took_part(look: Look, statuses: Statuses) -> str:
    """Who contributed to the newest round that has ended: "4 of 4 hospitals contributed"."""
    ended = next((row for row in reversed(look.attempts) if row.outcome is not None and row.attempt in statuses), None)
    if ended is None:
        return ""
    given = sum(row.status == "contributed" for row in statuses[ended.attempt])
    of = words.counted(len(look.sites), "hospital", "hospitals")
    if ended.outcome != "committed":
        return f"Its newest attempt ended as {marks.outcome(ended.outcome).word}: {given} of {of} answered."
    where = "" if ended is look.attempts[-1] else f" to {_lower(round_name(look, ended.round))}"
    return f"{given} of {of} contributed{where}."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def pace(attempts: Sequence[AttemptRow]) -> float | None:
    """Seconds from one round's beginning to the next: the median over the newest committed ones; None before there is one."""
    done = [row for row in attempts if row.outcome == "committed"][-RECENT - 1 :]
    apart = [
        max(float(later.opened_at - earlier.opened_at), earlier.seconds or 0.0) for earlier, later in pairwise(done)
    ]
    took = apart or [row.seconds for row in done if row.seconds is not None]
    return median(took) if took else None


def remaining(look: Look) -> float | None:
    """Seconds until all rounds are committed, as the newest ones went; None where nothing tells."""
    speed = pace(look.attempts)
    return None if speed is None or look.study.state != "running" else speed * max(look.rounds - look.version, 0)


def about(seconds: float) -> str:
    """A time that is left, no more exactly than it is known."""
    if seconds < 1:
        return "Less than a second"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"About {seconds / size:.0f} {unit}"
    rounded = max(round(seconds / 5) * 5, 1) if seconds > 10 else round(seconds)
    return f"About {rounded:.0f} s"


def figures(look: Look, statuses: Statuses, metrics: Sequence[MetricRow]) -> list[tuple[str, str, str]]:
    """At most four: label, value, what it means."""
    ended = next((row for row in reversed(look.attempts) if row.outcome is not None and row.attempt in statuses), None)
    found = [("Rounds committed", f"{look.version} of {look.rounds}", "Rounds whose model is in the record")]
    if ended is not None:
        given = sum(row.status == "contributed" for row in statuses[ended.attempt])
        found.append(("Hospitals in the newest round", f"{given} of {len(look.sites)}", "Whose update is in its sum"))
    area = newest_auroc(metrics)
    if area is not None:
        found.append(
            ("AUROC so far", area[1], f"Held-out patients of all hospitals, after round {area[0]}; 95% interval")
        )
    left = remaining(look)
    if left is not None:
        found.append(("Time left", about(left).removeprefix("About "), f"As the newest {RECENT} rounds went"))
    return found


def newest_auroc(metrics: Sequence[MetricRow]) -> tuple[int, str] | None:
    """The version that was evaluated last, and its AUROC over everybody with its interval."""
    rows = [row for row in metrics if row.name == "auroc" and row.slice == "everybody" and row.value is not None]
    if not rows:
        return None
    newest = max(rows, key=lambda row: row.version)
    return newest.version, words.estimate(*estimate(newest))


def estimate(row: MetricRow) -> tuple[float, float, float]:
    """Value, low and high; NaN where they are undefined."""
    value, low, high = (math.nan if number is None else float(number) for number in (row.value, row.low, row.high))
    return value, low, high


def curve(metrics: Sequence[MetricRow], name: str = "auroc") -> pd.DataFrame:
    """round, mean, low, high of a metric of everybody, by the round after which it was measured."""
    rows = [
        (row.version, *estimate(row))
        for row in metrics
        if row.name == name and row.slice == "everybody" and row.value is not None
    ]
    return pd.DataFrame(rows, columns=["round", "mean", "low", "high"])


def rounds(look: Look, statuses: Statuses) -> pd.DataFrame:
    """Attempts whose statuses are given, oldest first: attempt, round, what, outcome, contributed, hospitals, seconds, …"""
    rows = []
    for row in look.attempts:
        if row.attempt not in statuses:
            continue
        seen = statuses[row.attempt]
        rows.append(
            {
                "attempt": row.attempt,
                "round": row.round,
                "what": round_name(look, row.round).lower(),
                "outcome": marks.outcome(row.outcome).word,
                "contributed": sum(one.status == "contributed" for one in seen) if seen else math.nan,
                "hospitals": len(look.sites),
                "seconds": math.nan if row.seconds is None else row.seconds,
                "began (UTC)": when(row.opened_at),
                "why": words.one_line(row.reason, 300),
            }
        )
    columns = ["attempt", "round", "what", "outcome", "contributed", "hospitals", "seconds", "began (UTC)", "why"]
    return pd.DataFrame(rows, columns=columns)


def when(at: int) -> str:
    """A time of the record for people, UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def notices(look: Look) -> list[tuple[str, str]]:
    """What a person should do something about: what it is, and the command that helps."""
    found = []
    asked = look.question
    if asked is not None and asked.choice is None:
        sites = words.listed(list(asked.sites))
        found.append(
            (
                f"Round {asked.round} has its quorum and waits for {sites}, until {when(asked.until)} UTC at most. Wait, or go on?",
                f"fedward coordinator wait {look.study.study_id}\nfedward coordinator carry-on {look.study.study_id}",
            )
        )
    for alarm in look.alarms:
        found.append(
            (
                f"{alarm.site}: {alarm.what}, seen {when(alarm.at)} UTC. "
                "It is asked nothing until a named person has cleared this.",
                f"fedward coordinator clear-alarm {alarm.site} --by NAME --reason WHY",
            )
        )
    return found


def standings(look: Look) -> pd.DataFrame:
    """hospital, says, why, since (UTC): what each said of the proposal last; those that are not told apart are counted."""
    known = {row.site: row for row in look.standings}
    rows = [
        (site, known[site].state, known[site].reason, when(known[site].at))
        if site in known
        else (site, "nothing yet", "", "")
        for site in named(look)
    ]
    said = Counter(row.state for row in look.standings if row.site == OTHER)
    said["nothing yet"] += max(others(look) - said.total(), 0)
    rows += [(elsewhere(count), state, "", "") for state, count in sorted(said.items()) if count]
    return pd.DataFrame(rows, columns=["hospital", "says", "why", "since (UTC)"])


def elsewhere(count: int) -> str:
    """Hospitals that are not told apart."""
    return words.counted(count, "other hospital", "other hospitals")
