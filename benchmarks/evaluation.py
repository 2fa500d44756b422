"""What noised evaluation reports on the heart hospitals, beside the truth: `python benchmarks/evaluation.py`.

For each ε and each of 20 seeds the embedded study is trained by the product's own code (`simulations.baselines`) at that ε, and its
last model is evaluated as the hospitals would: each one's histogram with its own discrete Gaussian noise, summed, read by
`study.metrics`; five times over. "Exact" is the AUROC of the raw scores of the same held-out patients; "in bins" is what bins
alone take off it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from fedward.privacy.accounting import epsilon
from fedward.simulations.baselines import UnsafeSeededDraws, auroc, predict, rehearse, split
from fedward.simulations.expected import split_key
from fedward.simulations.folders import read_hospitals
from fedward.simulations.rounds import federate
from fedward.study.encoding import Encoded
from fedward.study.evaluation import count_events
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest, SealedManifest, load, parse
from fedward.study.metrics import estimates, histogram, slice_names
from fedward.study.schedule import training_schedule

EPSILONS = (0.5, 1.0, 3.0, 8.0)
SEEDS = range(20)
NOISES = range(1, 6)
"""Each model is evaluated five times over, with noise of its own: 20 evaluations tell too little of how often intervals hold."""
COLUMNS = (
    "ε of training",
    "of evaluation",
    "charged in all",
    "noise a cell and hospital",
    "exact AUROC",
    "reported (mean ± deviation)",
    "mean error",
    "95% interval's width",
    "holds exact",
    "undefined",
)


@dataclass(frozen=True)
class Report:
    """One seed: the exact AUROC, what was reported with its interval (NaN where undefined), and exact counts' value."""

    exact: float
    value: float
    low: float
    high: float
    binned: float


def table() -> list[str]:
    """The lines of the table, in Markdown."""
    data = load(heart_folder() / "study.toml").model_dump(mode="json")
    hospitals = read_hospitals(heart_folder(), parse(data))
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for target in EPSILONS:
        data["privacy"] |= {"epsilon": target}
        manifest = parse(data)
        sealed = rehearse(manifest, {site: len(table) for site, table in hospitals.items()})
        runs = [report for seed in SEEDS for report in _runs(manifest, sealed, hospitals, seed)]
        lines.append(_row(sealed, runs))
    return lines


def _runs(manifest: Manifest, sealed: SealedManifest, hospitals: dict[str, Encoded], seed: int) -> list[Report]:
    splits = {site: split(table, manifest.training.holdout, split_key(seed, site)) for site, table in hospitals.items()}
    model = federate(sealed, {site: part.training for site, part in splits.items()}, UnsafeSeededDraws(seed))
    unseen, plan = [part.held_out for part in splits.values()], manifest.counting
    parts = [
        histogram(predict(manifest, model, part), part.outcomes, part.membership, plan.bins, plan.temper)
        for part in unseen
    ]
    truth, counts = auroc(manifest, model, unseen), np.sum(parts, axis=0)
    binned = estimates(manifest, counts, 0.0, slice_names(manifest))[0].value or np.nan
    deviation = sealed.count_deviation * len(parts) ** 0.5
    reports = []
    for noise in NOISES:
        draws = UnsafeSeededDraws(seed, noise)
        noises = [draws.discrete_gaussian(counts.size, sealed.count_deviation) for _ in parts]
        noisy = counts + np.sum(noises, axis=0).reshape(counts.shape)
        found = estimates(manifest, noisy, deviation, slice_names(manifest))[0]
        value, low, high = (np.nan if number is None else number for number in (found.value, found.low, found.high))
        reports.append(Report(truth, value, low, high, binned))
    return reports


def _row(sealed: SealedManifest, runs: Sequence[Report]) -> str:
    known = [run for run in runs if np.isfinite(run.value)]
    exact, loss = np.mean([run.exact for run in runs]), np.mean([run.binned - run.exact for run in runs])
    delta, trained = (
        sealed.manifest.privacy.delta or 0.0,
        training_schedule(sealed.manifest).events(sealed.roster[0].noise_multiplier),
    )
    counted = count_events(sealed.manifest, sealed.count_deviation)
    costs = [epsilon(events, delta) for events in (trained, counted, (*trained, *counted))]
    cells = [*(f"{cost:.3f}" for cost in costs), f"{sealed.count_deviation:.2f}", f"{exact:.3f} (in bins {loss:+.3f})"]
    if known:
        values = np.array([run.value for run in known])
        error = np.mean([abs(run.value - run.exact) for run in known])
        width = np.mean([run.high - run.low for run in known])
        held = np.mean([run.low <= run.exact <= run.high for run in known])
        cells += [f"{values.mean():.3f} ± {values.std(ddof=1):.3f}", f"{error:.3f}", f"{width:.2f}", f"{held:.0%}"]
    else:
        cells += ["-"] * 4
    return "| " + " | ".join([*cells, f"{len(runs) - len(known)} of {len(runs)}"]) + " |"


if __name__ == "__main__":
    print("\n".join(table()))
