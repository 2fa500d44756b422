"""Metrics from counts: `python benchmarks/metrics.py` prints its figures, one a line, and exits with 1 if any falls short.

Fifty sites' histograms of twelve groups and a thousand bins, all measures of every group at once; and scikit-learn and fairlearn on
the raw scores of the very patients behind the same counts, which a coordinator never has. Their numbers must be the same.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from fairlearn.metrics import MetricFrame
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, Part, at_least, at_most, report
from benchmarks.timing import fastest, timed
from fedward.study.metrics import bin_centres, bin_edges
from fedward.study.metrics.measures import first_bin, point_measures
from fedward.study.metrics.mitigation import mitigate

SITES, GROUPS, BINS, PATIENTS = 50, 12, 1000, 200
"""Patients of each group of each site."""
REPETITIONS = 100
Real = NDArray[np.float64]


def every_group_of_every_site() -> list[Figure]:
    """Milliseconds of all measures, and how many times as long the libraries take on raw patients."""
    scores, outcomes, groups = _patients()
    centres = bin_centres(BINS, 1.0)
    counts, first = _counts(scores, outcomes, groups), first_bin(centres, 0.5)
    (ours,) = fastest(REPETITIONS, timed(lambda: point_measures(counts, centres, first)))
    began = time.perf_counter()  # more than half a minute: once is enough
    expected = _libraries(scores, outcomes, groups)
    libraries = time.perf_counter() - began
    _same(point_measures(counts, centres, first), expected)
    return [
        at_most("metrics.50_sites_12_groups_1000_bins", 1000 * ours, "ms", 50.0),
        report("metrics.libraries_on_raw_patients", 1000 * libraries, "ms"),
        at_least("metrics.libraries_beside_counts", libraries / ours, "ratio", 1.0),
    ]


def thresholds_of_each_group() -> list[Figure]:
    """Seconds to find the best thresholds of twelve groups of a hundred bins, under equalised odds."""
    scores, outcomes, groups = _patients()
    counts = _counts(scores, outcomes, groups).sum(0).reshape(GROUPS, 100, -1, 2).sum(2).astype(np.float64)
    names, edges = [f"group {place}" for place in range(GROUPS)], bin_edges(100, 1.0)
    (took,) = fastest(3, timed(lambda: mitigate(counts, edges, names, 50, 0.02, "equalized_odds")))
    return [at_most("metrics.thresholds_of_12_groups_100_bins", took, "s", 10.0)]


def _patients() -> tuple[Real, NDArray[np.int64], NDArray[np.int64]]:
    """Scores, outcomes and groups, each (sites, patients); scores are middles of bins, so that binning loses nothing."""
    rng = np.random.default_rng(7)
    groups = np.tile(np.repeat(np.arange(GROUPS), PATIENTS), (SITES, 1))
    outcomes = (rng.random(groups.shape) < 0.4).astype(np.int64)
    raw = 1 / (1 + np.exp(-(rng.normal(size=groups.shape) + 1.5 * (outcomes - 0.4) + 0.05 * groups)))
    return (np.floor(raw * BINS) + 0.5) / BINS, outcomes, groups


def _counts(scores: Real, outcomes: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(sites, groups, bins, 2)."""
    counts = np.zeros((SITES, GROUPS, BINS, 2), dtype=np.int64)
    np.add.at(counts, (np.arange(SITES)[:, None], groups, (scores * BINS).astype(np.int64), outcomes), 1)
    return counts


def _specificity(outcomes: NDArray[np.int64], scores: Real) -> float:
    return float(recall_score(outcomes, scores >= 0.5, pos_label=0))


_LIBRARY = {
    "auroc": roc_auc_score,
    "auprc": average_precision_score,
    "brier": brier_score_loss,
    "sensitivity": lambda outcomes, scores: recall_score(outcomes, scores >= 0.5),
    "specificity": _specificity,
    "precision": lambda outcomes, scores: precision_score(outcomes, scores >= 0.5),
    "selection_rate": lambda _outcomes, scores: (scores >= 0.5).mean(),
    "calibration_gap": lambda outcomes, scores: scores.mean() - outcomes.mean(),
}


def _libraries(scores: Real, outcomes: NDArray[np.int64], groups: NDArray[np.int64]) -> dict[str, Real]:
    """The same from raw patients, site by site: fairlearn's frame of scikit-learn's metrics by group."""
    frames = [
        MetricFrame(metrics=_LIBRARY, y_true=ill, y_pred=score, sensitive_features=group).by_group
        for score, ill, group in zip(scores, outcomes, groups, strict=True)
    ]
    return {name: np.array([frame[name].to_numpy(dtype=float) for frame in frames]) for name in _LIBRARY}


def _same(ours: dict[str, Real], libraries: dict[str, Real]) -> None:
    for name, expected in libraries.items():
        far = float(np.abs(ours[name] - expected).max())
        if not far < 1e-9:
            raise RuntimeError(f"{name} from counts is {far:g} from the libraries'")


PARTS: list[Part] = [every_group_of_every_site, thresholds_of_each_group]


def main() -> int:
    """Run it; the exit status is 1 if a figure falls short, else 0."""
    return 0 if all(figure.ok for part in PARTS for figure in part()) else 1


if __name__ == "__main__":
    sys.exit(main())
