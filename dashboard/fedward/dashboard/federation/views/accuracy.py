"""The Accuracy page: does it work?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.reading import Look
from fedward.dashboard.federation.views.overview import estimate
from fedward.server.records import MetricRow
from fedward.study.manifest import Manifest

NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "auroc": ("AUROC", "of a patient with and one without the outcome, how often the first has the higher score"),
    "auprc": ("AUPRC", "mean precision over all recalls (average precision)"),
    "brier": ("Brier score", "mean squared distance of score and outcome; lower is better"),
    "calibration_error": (
        "calibration error (ECE)",
        "mean distance of score and outcome's share over bins; lower is better",
    ),
    "calibration_gap": (
        "calibration in the large",
        "mean score less the outcome's share; 0 is best, above it promises too much",
    ),
    "sensitivity": ("sensitivity", "of patients with the outcome, the share above the threshold"),
    "specificity": ("specificity", "of patients without the outcome, the share below the threshold"),
    "precision": ("precision", "of patients above the threshold, the share with the outcome"),
    "selection_rate": ("share called positive", "of all patients, the share above the threshold"),
}
"""Metrics in the order of the pages: what people call them, and what they are."""


def newest(metrics: Sequence[MetricRow], slice_: str = "everybody") -> dict[str, MetricRow]:
    """By name, the metrics of a slice of the newest version among these."""
    version = max((row.version for row in metrics), default=0)
    return {row.name: row for row in metrics if row.slice == slice_ and row.version == version}


def sentence(look: Look, metrics: Sequence[MetricRow], sites: int) -> str:
    """Does it work? The newest AUROC with its interval, on whose patients, and what is known to compare it with."""
    if not look.trains:
        return "An exploration trains no model: there is no accuracy to show."
    found = newest(metrics).get("auroc")
    if found is None:
        return "No model has been evaluated yet."
    if found.value is None:
        return (
            f"The AUROC after round {found.version} is undefined: too few patients of one outcome, or too much noise."
        )
    gate = look.manifest.gates.min_auroc if isinstance(look.manifest, Manifest) else None
    held = ""
    if gate is not None:
        held = (
            f" The study asks for at least {words.figure(gate)}: it is {'above' if found.value >= gate else 'below'}."
        )
    hospitals = words.counted(sites, "hospital", "hospitals")
    return f"AUROC {words.estimate(*estimate(found))} on patients held out at {hospitals}, after round {found.version}.{held}"


COMPARED: Final = "What pooled records would reach no coordinator knows; on public data “fedward simulate” tells."


def table(metrics: Sequence[MetricRow]) -> pd.DataFrame:
    """metric, value, low, high, what it is: of everybody, by the newest model that was evaluated."""
    found = newest(metrics)
    rows = [(label, *estimate(found[name]), meaning) for name, (label, meaning) in NAMES.items() if name in found]
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "what it is"])


def figures(metrics: Sequence[MetricRow]) -> list[tuple[str, str, str]]:
    """At most four: label, value with interval, what it means."""
    found = newest(metrics)
    return [
        (NAMES[name][0], words.estimate(*estimate(found[name])), NAMES[name][1])
        for name in ("auroc", "brier", "sensitivity", "specificity")
        if name in found
    ]


def told(row: MetricRow | None) -> str:
    return words.UNDEFINED if row is None else words.estimate(*estimate(row))


def known(value: float | None) -> float:
    return math.nan if value is None else value
