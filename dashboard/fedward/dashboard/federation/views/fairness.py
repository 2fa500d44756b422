"""The Fairness page: for whom does it work less well?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.reading import Look
from fedward.dashboard.federation.views import accuracy
from fedward.dashboard.federation.views.overview import estimate
from fedward.server.records import MetricRow
from fedward.study.manifest import Manifest
from fedward.study.metrics import EVERYBODY, SMALL, slice_names, suppress_sums

SHOWN: Final = (
    "auroc",
    "auprc",
    "brier",
    "calibration_error",
    "calibration_gap",
    "sensitivity",
    "specificity",
    "selection_rate",
)
"""Columns of the heat map."""
LOWER: Final = frozenset({"brier", "calibration_error"})
"""Where less is better."""
NEAR_ZERO: Final = frozenset({"calibration_gap"})
"""Where nearer to zero is better."""
NEUTRAL: Final = frozenset({"selection_rate"})
"""What is neither better nor worse by itself."""
GAPS: Final[Mapping[str, tuple[str, str]]] = {
    "equalized_odds_gap": ("equalised odds", "largest difference in sensitivity or specificity between two groups"),
    "equal_opportunity_gap": ("equal opportunity", "largest difference in sensitivity between two groups"),
    "demographic_parity_gap": (
        "demographic parity",
        "largest difference between two groups in the share above the threshold",
    ),
    "predictive_parity_gap": ("predictive parity", "largest difference in precision between two groups"),
}
SUPPRESSED: Final = f"< {SMALL}"

Contrasts = Mapping[tuple[str, str], tuple[float, float, float]]


def groups(look: Look) -> tuple[str, ...]:
    """The fairness groups, in the manifest's order."""
    return slice_names(look.manifest)[1:] if isinstance(look.manifest, Manifest) else ()


def attributes(look: Look) -> tuple[str, ...]:
    """The slices that gaps are kept under."""
    if not isinstance(look.manifest, Manifest):
        return ()
    return tuple(dict.fromkeys(words.attribute(name) for name in groups(look)))


def hidden(look: Look, measured: Sequence[MetricRow]) -> frozenset[str]:
    """Slices that may not be shown: too few patients of an outcome, or what would give such a group away."""
    if not isinstance(look.manifest, Manifest):
        return frozenset()
    counts = {row.slice: (row.positives, row.negatives) for row in measured}
    return frozenset(suppress_sums(look.manifest, counts))


def heat(look: Look, measured: Sequence[MetricRow]) -> pd.DataFrame:
    """group, metric, value, low, high, told, shade, shown: one row a cell; everybody first, then groups as the manifest has them.

    `shade` is how much better (above 0) or worse than everybody's the value is; NaN where neither. `shown` is "estimate",
    "suppressed" or "undefined".
    """
    small, rows = hidden(look, measured), []
    found = {(row.slice, row.name): row for row in measured}
    for name in (EVERYBODY, *groups(look)):
        for metric in SHOWN:
            row, whole = found.get((name, metric)), found.get((EVERYBODY, metric))
            label, value = accuracy.NAMES[metric][0], (math.nan,) * 3 if row is None else estimate(row)
            if name in small:
                rows.append((group(name), label, math.nan, math.nan, math.nan, SUPPRESSED, math.nan, "suppressed"))
                continue
            shown = "estimate" if math.isfinite(value[0]) else "undefined"
            shade = math.nan if whole is None else _better(metric, value[0], estimate(whole)[0])
            rows.append((group(name), label, *value, words.estimate(*value), shade, shown))
    return pd.DataFrame(rows, columns=["group", "metric", "value", "low", "high", "told", "shade", "shown"])


def _better(metric: str, value: float, whole: float) -> float:
    if metric in NEUTRAL:
        return math.nan
    if metric in NEAR_ZERO:
        return abs(whole) - abs(value)
    return whole - value if metric in LOWER else value - whole


def group(name: str) -> str:
    return EVERYBODY if name == EVERYBODY else words.group(name)


def contrast(look: Look, measured: Sequence[MetricRow], made: Contrasts, metric: str) -> pd.DataFrame:
    """group, value, low, high, patients, shown: each group's metric less everybody's, the worst first; suppressed ones last."""
    small, patients = hidden(look, measured), {row.slice: row.positives + row.negatives for row in measured}
    rows = []
    for name in groups(look):
        value = made.get((name, metric), (math.nan,) * 3)
        if name in small:
            rows.append((group(name), math.nan, math.nan, math.nan, math.nan, "suppressed"))
        else:
            shown = "estimate" if math.isfinite(value[0]) else words.UNDEFINED
            rows.append((group(name), *value, float(patients.get(name, 0)), shown))
    frame = pd.DataFrame(rows, columns=["group", "value", "low", "high", "patients", "shown"])
    order = frame["value"] if metric not in LOWER else -frame["value"]
    if metric in NEAR_ZERO:
        order = -frame["value"].abs()
    return frame.loc[order.sort_values(na_position="last", kind="stable").index].reset_index(drop=True)


def gaps(look: Look, rows: Sequence[MetricRow], measured: Sequence[MetricRow]) -> pd.DataFrame:
    """round, attribute, gap, value, low, high: by the round after which the model was measured.

    An attribute of which a group is suppressed is left out: its gap would tell of that group.
    """
    small, known = {words.attribute(name) for name in hidden(look, measured)}, frozenset(attributes(look))
    named = [
        (row.version, row.slice, GAPS[row.name][0], *estimate(row))
        for row in rows
        if row.name in GAPS and row.slice in known and row.slice not in small
    ]
    return pd.DataFrame(named, columns=["round", "attribute", "gap", "mean", "low", "high"]).dropna(subset=["mean"])


def sentence(look: Look, measured: Sequence[MetricRow], made: Contrasts) -> str:
    """For whom does it work less well? The largest gap between a group and everybody, surest first, with its interval."""
    if not look.trains:
        return "An exploration trains no model: there is no fairness to show."
    if not groups(look):
        return "The study names no fairness groups."
    if not measured:
        return "No model has been evaluated yet."
    small = hidden(look, measured) - {EVERYBODY}
    found = [
        (value[0], value, metric, name)
        for metric in ("auroc", "sensitivity", "specificity")
        for name in groups(look)
        if name not in small and math.isfinite((value := made.get((name, metric), (math.nan,) * 3))[0])
    ]
    hiding = f" {words.counted(len(small), 'group is', 'groups are')} too small to show." if small else ""
    if not found:
        return f"No group's metrics can be told.{hiding}"
    sure = [one for one in found if one[1][2] < 0]
    worst = min(sure or found, key=lambda one: one[0])
    if worst[0] >= 0:
        return f"No group's AUROC, sensitivity or specificity lies below everybody's.{hiding}"
    label = accuracy.NAMES[worst[2]][0].partition(" at ")[0]
    doubt = "" if sure else " Its interval holds zero, as every group's does."
    return f"Largest gap below everybody: {label}, {group(worst[3])}, {words.difference(*worst[1])}.{doubt}{hiding}"
