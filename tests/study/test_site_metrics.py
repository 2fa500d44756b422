"""A site's own metrics: rounded, suppressed whole, and of no other form."""

from __future__ import annotations

import numpy as np
from federation import heart_manifest
from numpy.typing import NDArray

from fedward.study.attributes import attributes
from fedward.study.metrics import auroc, bin_centres, histogram_shape, slice_names
from fedward.study.site_metrics import METRICS, may_leave, named, site_metrics, suppressed

MANIFEST = heart_manifest()  # sex in two groups, age in three


def table(*rows: tuple[int, int]) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


def histogram_of(rows: NDArray[np.int64], seed: int = 1) -> NDArray[np.int64]:
    """A histogram with these counts by slice and outcome, at random over the bins."""
    generator = np.random.default_rng(seed)
    _, bins, _ = histogram_shape(MANIFEST)
    spread = [[generator.multinomial(count, np.full(bins, 1 / bins)) for count in row] for row in rows.tolist()]
    return np.array(spread, dtype=np.int64).transpose(0, 2, 1)


def some_rows() -> NDArray[np.int64]:
    groups = len(slice_names(MANIFEST)) - 1
    sizes = [len(attribute.groups) for attribute in attributes(MANIFEST)]
    assert sum(sizes) == groups
    rows = [(120, 120)]
    for size in sizes:
        rows += [(20, 20)] * (size - 1) + [(120 - 20 * (size - 1), 120 - 20 * (size - 1))]
    rows[1] = (4, 20)
    rows[2] = (rows[2][0] + 16, rows[2][1])
    return table(*rows)


def test_the_values_are_those_of_the_slices_rounded_and_the_suppressed_ones_are_none() -> None:
    counts = histogram_of(some_rows())
    values = site_metrics(MANIFEST, counts)
    hidden = suppressed(MANIFEST, counts.sum(axis=1))
    assert {1, 2} <= hidden
    assert 0 not in hidden
    for place, one in enumerate(values):
        if place in hidden:
            assert one == (None,) * len(METRICS)
            continue
        curve = auroc(counts[place])
        assert curve is not None
        middle = bin_centres(counts.shape[1], MANIFEST.counting.temper)
        losses = counts[place, :, 0] * middle**2 + counts[place, :, 1] * (1 - middle) ** 2
        error = losses.sum() / counts[place].sum()
        assert one[:2] == tuple(counts[place].sum(axis=0))
        assert one[2:] == (round(100 * curve.value), round(100 * error))
    assert may_leave(values, MANIFEST)
    told = named(MANIFEST, values)
    assert told[slice_names(MANIFEST)[1]] is None
    assert told["everybody"] == {"negatives": 120, "positives": 120, "auroc": values[0][2] / 100,  # type: ignore[operator]
                                 "brier": values[0][3] / 100}  # type: ignore[operator] # fmt: skip


def test_no_other_form_may_leave() -> None:
    good = site_metrics(MANIFEST, histogram_of(some_rows()))
    assert may_leave(good, MANIFEST)
    first = good[0]
    for false in (
        first[:3], (*first, 1), (10, *first[1:]), (0, *first[1:]), (True, *first[1:]), (12.0, *first[1:]), ("12", *first[1:]),
        (None, *first[1:]), (-11, *first[1:]), (*first[:2], 101, 3), (*first[:2], 0.5, 3), (10**9, *first[1:]), list(first),
    ):  # fmt: skip
        assert not may_leave((false, *good[1:]), MANIFEST), false
    assert not may_leave(good[:-1], MANIFEST)
    assert not may_leave((*good, first), MANIFEST)
    assert not may_leave(list(good), MANIFEST)
    assert not may_leave(None, MANIFEST)
