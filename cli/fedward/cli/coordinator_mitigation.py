"""`fedward coordinator mitigation STUDY`: what a threshold for each group would do, and cost. It is applied to nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.coordinator_home import DEFAULT_HOME, Home, Reference, open_coordinator
from fedward.cli.output import JsonOption, counted, print_json, say, table

if TYPE_CHECKING:
    from fedward.server.mitigating import Mitigated
    from fedward.study.metrics.mitigation import Criterion as Chosen


class Criterion(StrEnum):
    """Which gap is to be small, as `fedward.study.metrics.mitigation` names it."""

    OPPORTUNITY = "equal_opportunity"
    ODDS = "equalized_odds"


def mitigation(
    study: Reference,
    attribute: Annotated[
        str | None,
        typer.Option("--attribute", metavar="NAME", help="Whose groups are compared; the study's first without it."),
    ] = None,
    bound: Annotated[float, typer.Option("--bound", min=0, max=1, help="What the gap between groups may be.")] = 0.05,
    criterion: Annotated[
        Criterion,
        typer.Option(
            "--criterion", help="equal_opportunity: the gap in sensitivity. equalized_odds: in specificity too."
        ),
    ] = Criterion.OPPORTUNITY,
    home: Home = DEFAULT_HOME,
    as_json: bool = JsonOption,
) -> None:
    """Say what a threshold for each group would do to a study's newest model: gaps, sensitivity and specificity, and what it costs.

    An analysis of the counts of the newest evaluation. It is applied to nothing, and groups too small to show are left out of it.
    """
    chosen: Chosen = "equalized_odds" if criterion is Criterion.ODDS else "equal_opportunity"
    made = open_coordinator(home).mitigation(study, attribute, bound, chosen)
    if as_json:
        print_json(made.as_json())
    else:
        _say(made)


def _say(made: Mitigated) -> None:
    from fedward.server.mitigating import CRITERIA, WHY, limits

    found = made.found
    pairs = list(zip(found.before.groups, found.after.groups, strict=True))
    others = [name for name in made.attributes if name != made.attribute]
    of = counted(made.sites, "site")
    say(f"{made.study_id}, the model after round {made.version}: held-out patients of {of}, by {made.attribute}.")
    asked = f"a gap of at most {found.bound:g} in {CRITERIA[found.criterion]}"
    say(f"Asked for: {asked}, with the least loss of balanced accuracy.")
    table(
        "A threshold for each group",
        ("group", "common threshold", "its own", "of so many"),
        [
            (own.group, _threshold(common.threshold), _threshold(own.threshold), str(choices))
            for (common, own), choices in zip(pairs, made.choices, strict=True)
        ],
        caption="Scores from a threshold on are called positive.",
    )
    table(
        "What it would do",
        ("group", "sensitivity", "with its own", "specificity", "with its own"),
        [
            (own.group, *_pair(common.sensitivity, own.sensitivity), *_pair(common.specificity, own.specificity))
            for common, own in pairs
        ],
    )
    table(
        "All groups that are compared",
        ("what", "common threshold", "their own"),
        [
            ("gap in sensitivity", *_pair(found.before.equal_opportunity_gap, found.after.equal_opportunity_gap)),
            ("equalised-odds gap", *_pair(found.before.equalized_odds_gap, found.after.equalized_odds_gap)),
            ("balanced accuracy", *_pair(found.before.balanced_accuracy, found.after.balanced_accuracy)),
            ("loss of it", "", f"{found.loss:z.3f}"),
        ],
        caption="A loss below 0: the common threshold is not the best one." if found.loss < 0 else None,
    )
    for one in made.left_out:
        say(f"Left out: {one.group}, {WHY[one.why]}.")
    if others:
        say(f"Other attributes: {', '.join(others)}.")
    say(limits(made))


def _pair(before: float, after: float) -> tuple[str, str]:
    return f"{before:.3f}", f"{after:.3f}"


def _threshold(threshold: float) -> str:
    """The two ends are no scores to compare with."""
    if threshold >= 1:
        return "calls nobody"
    return "calls everybody" if threshold <= 0 else f"{threshold:.3f}"
