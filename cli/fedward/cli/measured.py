"""What the coordinator measured on held-out patients, from the hospitals' summed counts alone."""

from __future__ import annotations

from collections.abc import Sequence

from fedward.cli.output import table
from fedward.server.records import MetricRow
from fedward.study.metrics.naming import NAMES

__all__ = ["NAMES", "is_told", "print_measured"]


def print_measured(metrics: Sequence[MetricRow]) -> None:
    """A table: the metrics of everybody, each group's AUROC, and the gaps between groups."""
    shown = [
        (metric.slice, NAMES.get(metric.name, metric.name), _value(metric), _range(metric))
        for metric in metrics
        if is_told(metric.slice, metric.name)
    ]
    if shown:
        table(
            "Measured on held-out patients, from summed counts",
            ("who", "what", "value", "95% interval"),
            shown,
            caption="Intervals hold what chance and noise on the counts can do. Undefined: too few patients for the noise. Called "
            "positive: from evaluation.threshold of the study on, 0.5 if it names none.",
        )


def is_told(slice_: str, name: str) -> bool:
    """Whether people are shown a metric: the rest is in `--json`."""
    if slice_ == "everybody":
        return True
    return name in {"auroc", "worst_auroc", "calibration_spread"} or (
        name.endswith("_gap") and name != "calibration_gap"
    )


def _value(metric: MetricRow) -> str:
    return "undefined" if metric.value is None else f"{metric.value:.3f}"


def _range(metric: MetricRow) -> str:
    return "" if metric.low is None or metric.high is None else f"{metric.low:.2f} to {metric.high:.2f}"
