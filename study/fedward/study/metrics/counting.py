"""From scores to counts, and which of them may be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.study.attributes import attributes
from fedward.study.encoding import group_names
from fedward.study.manifest import Manifest
from fedward.study.metrics.suppression import SMALL, suppressed_slices

Counts: TypeAlias = NDArray[np.int64]
TEMPER = 4.0
"""Bins are equal in sigmoid(logit(score) / temper). Equal bins of the score itself (temper 1) would put most patients of a
confident model into the two outermost ones: with 100 bins that cost .014 of AUROC on the heart hospitals, and this costs
.001. Ten noised bins are best at temper 2, that cost .008: outer bins, nearly empty, add noise and tell little."""


EVERYBODY: Final = "everybody"


def slice_names(manifest: Manifest) -> tuple[str, ...]:
    """Names of the histogram's first axis."""
    return (EVERYBODY, *group_names(manifest))


def histogram_shape(manifest: Manifest) -> tuple[int, int, int]:
    """(groups + 1, bins, 2)."""
    return (len(slice_names(manifest)), manifest.counting.bins, 2)


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


def suppress_small(
    manifest: Manifest, counts: Mapping[str, tuple[int, int]], everybody: tuple[int, int] | None = None
) -> set[str]:
    """The groups whose (positives, negatives) must not be shown, by the rules of `suppression`.

    Args:
        manifest: the study.
        counts: of each group.
        everybody: of all patients, if counts are exact; without it, as for noised counts, nobody is taken to be of no group.
    """
    names = group_names(manifest)
    table = np.array([everybody or (0, 0), *(counts[name] for name in names)], dtype=np.int64)
    hidden = suppressed_slices(attributes(manifest), table, exact=everybody is not None)
    return {name for place, name in enumerate(names, 1) if place in hidden}


def suppress_sums(manifest: Manifest, counts: Mapping[str, tuple[int, int]]) -> set[str]:
    """The slices whose sums over hospitals must not be shown: the same ones on every page, card and verdict.

    Args:
        manifest: the study; it says whether hospitals noised their counts.
        counts: (positives, negatives) of each slice, everybody's included; of one that is missing, none.
    """
    known = {name: counts.get(name, (0, 0)) for name in slice_names(manifest)}
    if min(known[EVERYBODY]) < SMALL:
        return set(known)
    return suppress_small(manifest, known, None if manifest.counting.noised else known[EVERYBODY])
