"""Plots of a simulated run, as SVG: how the model converges, and what each hospital gains over its own model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedward.privacy.errors import InputError
from fedward.simulations.simulate import Outcome, gains
from fedward.study.bootstrap import interval

_BLUE, _GREY = "#0b6e99", "#777777"


def draw(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write convergence.svg and gain.svg.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - a researcher's machine alone has it
    except ModuleNotFoundError:
        raise InputError(
            "plots need matplotlib", remedy='pip install "fedward[simulation]"', code="no-matplotlib"
        ) from None
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    curves = np.array([one.curve for one in outcomes if one.vector is not None])
    rounds = np.arange(curves.shape[1]) if len(curves) else np.arange(0)
    for curve in curves:
        axes.plot(rounds, curve, color=_GREY, linewidth=0.6, alpha=0.4)
    if len(curves):
        axes.plot(rounds, curves.mean(axis=0), color=_BLUE, linewidth=2, label=f"mean of {len(curves)} seeds")
        if len(curves) > 1:
            low, high = np.array([interval(values) for values in curves.T]).T
            axes.fill_between(rounds, low, high, color=_BLUE, alpha=0.25, label="95% of the mean")
        axes.legend(loc="lower right")
    axes.set(xlabel="round", ylabel="AUROC on all held-out patients")
    figure.savefig(folder / "convergence.svg", metadata={"Date": None})

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    found = [one for one in gains(outcomes) if one.seeds > 1]
    places = np.arange(len(found))
    means = np.array([one.mean for one in found])
    spans = np.array([[one.mean - one.low, one.high - one.mean] for one in found]).reshape(-1, 2).T
    axes.errorbar(places, means, yerr=spans, fmt="o", color=_BLUE, capsize=4)
    axes.axhline(0, color=_GREY, linewidth=0.8)
    axes.set_xticks(places, [one.slice.removeprefix("site=") for one in found], rotation=30, ha="right")
    axes.set_ylabel("AUROC gained over the hospital's own model")
    figure.savefig(folder / "gain.svg", metadata={"Date": None})
