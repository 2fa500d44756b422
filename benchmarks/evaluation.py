"""What noised evaluation reports on the heart hospitals, beside the truth: `python benchmarks/evaluation.py`.

For each ε and each of 20 seeds the embedded study is trained by the product's own code (`simulations.baselines`) at that ε, and its
last model is evaluated as the hospitals would: each one's histogram with its own discrete Gaussian noise, summed, read by
`study.metrics`; five times over. "Exact" is the AUROC of the raw scores of the same held-out patients; "in bins" is what bins
alone take off it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedward.simulations.baselines import UnsafeSeededDraws, auroc, federate, predict, rehearse, split
from fedward.simulations.expected import split_key
from fedward.simulations.folders import read_hospitals
from fedward.study.encoding import Encoded
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest, SealedManifest, load, parse
from fedward.study.metrics import estimates, histogram, slice_names

EPSILONS = (0.5, 1.0, 3.0, 8.0)
SEEDS = range(20)
NOISES = range(1, 6)
"""Each model is evaluated five times over, with noise of its own: 20 evaluations tell too little of how often intervals hold."""
COLUMNS = (
    "ε",
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


def main() -> None:
    """Print the table."""
    data = load(heart_folder() / "study.toml").model_dump(mode="json")
    hospitals = read_hospitals(heart_folder(), parse(data))
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for epsilon in EPSILONS:
        data["privacy"] |= {"epsilon": epsilon}
        manifest = parse(data)
        sealed = rehearse(manifest, {site: len(table) for site, table in hospitals.items()})
        print(
            _row(epsilon, sealed, [report for seed in SEEDS for report in _runs(manifest, sealed, hospitals, seed)]),
            flush=True,
        )


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


def _row(epsilon: float, sealed: SealedManifest, runs: Sequence[Report]) -> str:
    known = [run for run in runs if np.isfinite(run.value)]
    exact, loss = np.mean([run.exact for run in runs]), np.mean([run.binned - run.exact for run in runs])
    cells = [f"{epsilon:g}", f"{sealed.count_deviation:.2f}", f"{exact:.3f} (in bins {loss:+.3f})"]
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
    main()
