"""From scores to counts, and which of them may be shown."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.study.encoding import group_names, group_size
from fedward.study.manifest import Manifest

Counts: TypeAlias = NDArray[np.int64]
TEMPER = 4.0
"""Bins are equal in sigmoid(logit(score) / temper). Equal bins of the score itself (temper 1) would put most patients of a
confident model into the two outermost ones: with 100 bins that cost .014 of AUROC on the heart hospitals, and this costs
.001. A few noised bins are better equal in the score: empty outer bins would add noise and tell nothing."""
SMALL = 11
"""Counts below this are not shown (CMS cell-size suppression policy: 1 to 10)."""


def slice_names(manifest: Manifest) -> tuple[str, ...]:
    """Names of the histogram's first axis."""
    return ("everybody", *group_names(manifest))


def histogram_shape(manifest: Manifest) -> tuple[int, int, int]:
    """(groups + 1, bins, 2)."""
    return (len(slice_names(manifest)), manifest.evaluation.bins, 2)


def histogram(
    scores: NDArray[np.float64],
    outcomes: NDArray[np.float32],
    membership: NDArray[np.bool_],
    bins: int,
    temper: float = TEMPER,
) -> Counts:
    """Counts (groups + 1, bins, 2) of scores (n,) in [0, 1], outcomes (n,) in {0, 1} and membership (n, groups).

    Raises:
        InputError: lengths differ, a score is not in [0, 1], or an outcome not in {0, 1}.
    """
    if not (len(scores) == len(outcomes) == len(membership)):
        raise InputError("scores, outcomes and groups differ in length")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InputError("a score is not in [0, 1]", code="not-finite")
    if not ((outcomes == 0) | (outcomes == 1)).all():
        raise InputError("an outcome is neither 0 nor 1")
    cells = np.minimum((_tempered(scores, temper) * bins).astype(np.int64), bins - 1) * 2 + outcomes.astype(np.int64)
    everybody = np.ones((len(scores), 1), dtype=np.bool_)
    columns = np.concatenate([everybody, membership], axis=1).T
    counts = [np.bincount(cells[column], minlength=bins * 2).reshape(bins, 2) for column in columns]
    return np.stack(counts).astype(np.int64)


def _tempered(scores: NDArray[np.float64], temper: float) -> NDArray[np.float64]:
    """sigmoid(logit(s) / temper), written so that 0 and 1 need no special case."""
    if temper == 1:
        return scores
    high, low = scores ** (1 / temper), (1 - scores) ** (1 / temper)
    return np.asarray(high / (high + low))


def bin_edges(bins: int, temper: float = TEMPER) -> NDArray[np.float64]:
    """The scores at which bins begin and end, shape (bins + 1,), from 0 to 1."""
    return _tempered(np.arange(bins + 1) / bins, 1 / temper)


def bin_centres(bins: int, temper: float = TEMPER) -> NDArray[np.float64]:
    """The score at the middle of each bin, shape (bins,)."""
    return _tempered((np.arange(bins) + 0.5) / bins, 1 / temper)


def suppress_small(manifest: Manifest, counts: dict[str, tuple[int, int]]) -> set[str]:
    """The groups whose (positives, negatives) must not be shown: one of the two is under `SMALL`, or, when a single group
    of an attribute is hidden so, the smallest other one, which would give it away by subtraction from everybody."""
    hidden: set[str] = set()
    names = iter(group_names(manifest))
    for attribute in manifest.fairness.groups:
        size = group_size(manifest, attribute)
        members = [next(names) for _ in range(size)]
        small = {name for name in members if min(counts[name]) < SMALL}
        others = sorted((name for name in members if name not in small), key=lambda name: sum(counts[name]))
        hidden |= small | (set(others[:1]) if len(small) == 1 else set())
    return hidden
