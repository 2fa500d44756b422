"""Plots of a sweep, as SVG: AUROC along the field, such as ε; convergence, gains and gaps of what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedward.simulations.plots import BLUE, GREY, ORANGE, canvas, dots, save
from fedward.simulations.scores import EVERYBODY, FEDERATED, POOLED, Summary
from fedward.simulations.simulate import Outcome, gains, gaps, summarise
from fedward.study.bootstrap import interval
from fedward.study.manifest import Manifest

Chosen = Mapping[str, tuple[Manifest, Sequence[Outcome]]]


def draw_sweep(folder: Path, along: str, chosen: Chosen) -> None:
    """Write auroc.svg, convergence.svg, gain.svg and gap.svg.

    Args:
        folder: made if it is not there.
        along: the field.
        chosen: for each of its values, in the order to be drawn, the chosen study and its outcomes.

    Raises:
        InputError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _auroc(folder / "auroc.svg", along, chosen)
    _convergence(folder / "convergence.svg", along, chosen)
    gained = {value: gains(outcomes) for value, (_, outcomes) in chosen.items()}
    _by_value(folder / "gain.svg", along, gained, "AUROC gained over a hospital's own model")
    parted = {
        value: [
            one for one in gaps(manifest, outcomes) if one.model == FEDERATED and one.slice.endswith(": equalized_odds")
        ]
        for value, (manifest, outcomes) in chosen.items()
    }
    _by_value(folder / "gap.svg", along, parted, "equalized odds: largest difference between groups")


def _auroc(file: Path, along: str, chosen: Chosen) -> None:
    figure, axes = canvas()
    for model, colour, shift in ((FEDERATED, BLUE, 0.0), (POOLED, ORANGE, 0.08), ("alone, mean", GREY, -0.08)):
        found = [
            next((one for one in summarise(outcomes) if (one.model, one.slice) == (model, EVERYBODY)), None)
            for _, outcomes in chosen.values()
        ]
        places = np.array([place for place, one in enumerate(found) if one is not None])
        known = [one for one in found if one is not None]
        spans = np.array([[one.mean - one.low, one.high - one.mean] for one in known]).reshape(-1, 2).T
        axes.errorbar(
            places + shift, [one.mean for one in known], yerr=spans, fmt="o-", color=colour, capsize=4, label=model
        )
    axes.set_xticks(np.arange(len(chosen)), list(chosen))
    axes.set(xlabel=along, ylabel="AUROC on held-out patients (test)")
    axes.legend()
    save(figure, file)


def _convergence(file: Path, along: str, chosen: Chosen) -> None:
    figure, axes = canvas()
    for place, (value, (_, outcomes)) in enumerate(chosen.items()):
        curves = np.array([one.curve for one in outcomes if one.vector is not None])
        if not len(curves):
            continue
        rounds, colour = np.arange(curves.shape[1]), f"C{place}"
        axes.plot(rounds, curves.mean(axis=0), color=colour, label=f"{along} = {value}")
        if len(curves) > 1:
            low, high = np.array([interval(values) for values in curves.T]).T
            axes.fill_between(rounds, low, high, color=colour, alpha=0.2)
    axes.set(xlabel="round", ylabel="AUROC on all held-out patients")
    axes.legend(loc="lower right")
    save(figure, file)


def _by_value(file: Path, along: str, found: Mapping[str, Sequence[Summary]], label: str) -> None:
    """Dots of each hospital or attribute, a colour for each value."""
    figure, axes = canvas()
    parts = list(dict.fromkeys(one.slice for values in found.values() for one in values))
    for place, (value, values) in enumerate(found.items()):
        by = {one.slice: one for one in values}
        shift = 0.6 * ((place + 0.5) / len(found) - 0.5)
        found_at = {spot: by[part] for spot, part in enumerate(parts) if part in by}
        dots(axes, found_at, f"C{place}", shift, f"{along} = {value}")
    names = [part.removeprefix("site=").split(":")[0] for part in parts]
    axes.set_xticks(np.arange(len(parts)), names, rotation=30, ha="right")
    axes.set_ylabel(label)
    if parts:
        axes.legend()
    save(figure, file)
