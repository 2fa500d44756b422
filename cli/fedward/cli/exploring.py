"""How answers to an exploration, and the questions of one, are shown to people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedward.cli.output import say

if TYPE_CHECKING:
    from fedward.server.views import StudyView
    from fedward.study.answers import Answer
    from fedward.study.exploration import SealedExploration


def say_answers(view: StudyView) -> None:
    """An exploration's answers, each number with its interval, and what they mean."""
    if view.answers is None:
        say("No answers yet: enough hospitals must approve, and answer, first.")
    else:
        for answer in view.answers:
            _say_answer(answer)
        say("The last column is a 95% interval. Every number carries the hospitals' noise. An interval covers that noise, rounding "
            "and bins: it is for the value among the patients who were counted, not for others like them. "
            "Noise can make a count too small, or negative: what comes out under 11 is not shown.")  # fmt: skip
    say(f"Privacy: ε at most {view.epsilon:g} at δ = {view.delta:g} for all answers together, every planned attempt used; "
        f"{view.meaning}")  # fmt: skip


def _say_answer(answer: Answer) -> None:
    """Lines, not a table: in a narrow terminal a table would break the question into a column of words."""
    say(f"{answer.words[0].upper()}{answer.words[1:]}:")
    width = max(len(one.label) for one in answer.estimates)
    for one in answer.estimates:
        unit = "patients" if one.label == "patients" else answer.unit
        if one.value is None or one.low is None or one.high is None:
            say(f"  {one.label:<{width}}  {'-':>8}   {one.reason}")
            continue
        value, low, high = (_number(number, unit) for number in (one.value, one.low, one.high))
        say(f"  {one.label:<{width}}  {value:>8}   {low} to {high} {unit}".rstrip())


def _number(value: float, unit: str) -> str:
    return f"{value:.0f}" if unit == "patients" else f"{value:.4g}"


def say_questions(sealed: SealedExploration, site: str) -> None:
    """What an exploration would have this hospital compute and send, in plain words."""
    from fedward.study.answers import GRID, SUMS, attempt_events, deviation

    exploration, multiplier = sealed.manifest, sealed.entry(site).noise_multiplier
    say("  trains       nothing: it asks, once, for these numbers over this hospital's registered patients")
    for query in exploration.queries:
        say(f"               - {query.words}")
    say(f"  touches      {', '.join(exploration.columns) or 'no column, only the number of patients'}")
    sigma = deviation(exploration, multiplier)
    say(
        f"  noise        this hospital adds its own to each number: a standard deviation of {sigma:.1f} patients to every count"
    )
    if SUMS in attempt_events(exploration, multiplier):
        say(
            f"               and of {sigma * GRID:.0f} steps, each a {2 * GRID}th of the column's range, to a mean's sum"
        )
