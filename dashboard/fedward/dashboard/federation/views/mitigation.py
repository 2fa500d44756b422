"""What a threshold for each group would do, as the Fairness page tells it: frames and words of `server.mitigating`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.views.fairness import SUPPRESSED
from fedward.privacy.errors import FedwardError
from fedward.server.mitigating import Mitigated
from fedward.study.metrics.mitigation import Criterion

BOUNDS: Final = (0.02, 0.05, 0.1)
"""What the gap may be, to choose from."""
CRITERIA: Final[Mapping[str, Criterion]] = {
    "equal opportunity": "equal_opportunity",
    "equalised odds": "equalized_odds",
}
MEASURES: Final = ("sensitivity", "specificity")
_LEFT_OUT: Final = {"small": SUPPRESSED, "noise": words.UNDEFINED}


def by_group(made: Mitigated, measure: str) -> pd.DataFrame:
    """group, common, own, threshold, own_threshold, choices, shown: a rate of each group at the common threshold and at its own.

    `choices` says among how many thresholds the own one was chosen; groups that are left out come last, without numbers.
    """
    rows: list[tuple[object, ...]] = []
    for before, after, choices in zip(made.found.before.groups, made.found.after.groups, made.choices, strict=True):
        rates = (getattr(before, measure), getattr(after, measure))
        rows.append((words.group(after.group), *rates, before.threshold, after.threshold, float(choices), "estimate"))
    rows += [(words.group(one.group), *([math.nan] * 5), _LEFT_OUT[one.why]) for one in made.left_out]
    return pd.DataFrame(rows, columns=["group", "common", "own", "threshold", "own_threshold", "choices", "shown"])


def sentence(made: Mitigated) -> str:
    """The gap that was to be small, before and after, and what that costs."""
    found = made.found
    gap = "equal_opportunity_gap" if found.criterion == "equal_opportunity" else "equalized_odds_gap"
    named = "gap in sensitivity" if found.criterion == "equal_opportunity" else "equalised-odds gap"
    before, after = found.before, found.after
    accuracy = f"{words.figure(after.balanced_accuracy)} instead of {words.figure(before.balanced_accuracy)}"
    return (
        f"With the common threshold of {words.figure(before.groups[0].threshold)} the {named} is "
        f"{words.figure(getattr(before, gap))}. With a threshold for each group it would be {words.figure(getattr(after, gap))}, "
        f"and balanced accuracy over these groups {accuracy} ({words.signed(-found.loss)})."
    )


def refused(error: FedwardError) -> str:
    """Why there is no analysis."""
    return f"Not shown: {error.what}." + (f" {error.got[:1].upper()}{error.got[1:]}." if error.got else "")
