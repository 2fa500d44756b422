"""Plots of a simulated run, as SVG: convergence, what each hospital gains over its own model, how far groups lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedward.privacy.errors import InputError
from fedward.simulations.simulate import FEDERATED, POOLED, Outcome, Summary, gains, gaps
from fedward.study.bootstrap import interval
from fedward.study.manifest import Manifest

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"
"""Of Okabe & Ito's palette, which people who see few colours tell apart."""
_MOST_NAMES = 40


def draw(folder: Path, manifest: Manifest, outcomes: Sequence[Outcome]) -> None:
    """Write convergence.svg, gain.svg and gap.svg.

    Raises:
        InputError: matplotlib is not installed.
    """
    convergence(folder / "convergence.svg", [one.curve for one in outcomes if one.vector is not None])
    gain(folder / "gain.svg", gains(outcomes))
    gap(folder / "gap.svg", gaps(manifest, outcomes))


def canvas() -> tuple[Any, Any]:
    """A figure of matplotlib's and its axes.

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
    return figure, figure.subplots()


def save(figure: Any, file: Path) -> None:
    """Write a figure as SVG, the same bytes for the same figure."""
    figure.savefig(file, metadata={"Date": None})


def convergence(file: Path, curves: Sequence[Sequence[float]]) -> None:
    """AUROC by round: one line a seed, their mean and its interval."""
    figure, axes = canvas()
    known = np.array(curves)
    rounds = np.arange(known.shape[1]) if len(known) else np.arange(0)
    for curve in known:
        axes.plot(rounds, curve, color=GREY, linewidth=0.6, alpha=0.4)
    if len(known):
        axes.plot(rounds, known.mean(axis=0), color=BLUE, linewidth=2, label=f"mean of {len(known)} seeds")
        if len(known) > 1:
            low, high = np.array([interval(values) for values in known.T]).T
            axes.fill_between(rounds, low, high, color=BLUE, alpha=0.25, label="95% of the mean")
        axes.legend(loc="lower right")
    axes.set(xlabel="round", ylabel="AUROC on all held-out patients")
    save(figure, file)


def gain(file: Path, found: Sequence[Summary]) -> None:
    """What each hospital gains over its own model: a dot and its interval; many hospitals as ranks, without names."""
    figure, axes = canvas()
    known = sorted((one for one in found if one.seeds > 1), key=lambda one: one.mean)
    dots(axes, dict(enumerate(known)), BLUE)
    if len(known) <= _MOST_NAMES:
        names = [one.slice.removeprefix("site=") for one in known]
        axes.set_xticks(np.arange(len(known)), names, rotation=30, ha="right")
    else:
        axes.set_xlabel("hospitals, by what they gain")
    axes.set_ylabel("AUROC gained over the hospital's own model")
    save(figure, file)


def gap(file: Path, found: Sequence[Summary]) -> None:
    """How far groups lie apart, by attribute and kind: the federated model beside the pooled one."""
    figure, axes = canvas()
    parts = list(dict.fromkeys(one.slice for one in found if one.model == FEDERATED))
    for model, colour, shift in ((FEDERATED, BLUE, -0.12), (POOLED, ORANGE, 0.12)):
        by = {one.slice: one for one in found if one.model == model}
        dots(axes, {place: by[part] for place, part in enumerate(parts) if part in by}, colour, shift, model)
    axes.set_xticks(np.arange(len(parts)), [part.replace("_", " ") for part in parts], rotation=30, ha="right")
    axes.set_ylabel("largest difference between groups")
    if parts:
        axes.legend()
    save(figure, file)


def dots(axes: Any, found: Mapping[int, Summary], colour: str, shift: float = 0.0, label: str | None = None) -> None:
    """Means with their intervals, each at its place, over a line at zero."""
    means = np.array([one.mean for one in found.values()])
    spans = np.array([[one.mean - one.low, one.high - one.mean] for one in found.values()]).reshape(-1, 2).T
    axes.errorbar(np.array(list(found)) + shift, means, yerr=spans, fmt="o", color=colour, capsize=4, label=label)
    axes.axhline(0, color=GREY, linewidth=0.8)
