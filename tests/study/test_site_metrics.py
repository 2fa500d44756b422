"""A site's own metrics: what is suppressed stays unknown, also to one who knows the rules; an enumeration is the oracle."""

from __future__ import annotations

import itertools
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.study import site_metrics as module
from fedward.study.metrics import SMALL, auroc, bin_centres, histogram_shape, slice_names
from fedward.study.site_metrics import METRICS, may_leave, named, site_metrics, suppressed

MANIFEST = heart_manifest()  # sex in two groups, age in three


def of_groups(*sizes: int) -> Any:
    """A manifest with attributes of so many groups."""
    groups = [SimpleNamespace(size=size) for size in sizes]
    return SimpleNamespace(fairness=SimpleNamespace(groups=groups))


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.group_size
    monkeypatch.setattr(module, "group_size", lambda m, a: a.size if isinstance(a, SimpleNamespace) else real(m, a))


def table(*rows: tuple[int, int]) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


@pytest.mark.parametrize(
    ("rows", "hidden"),
    [
        ([(60, 60), (30, 30), (30, 30)], set()),
        ([(60, 60), (10, 50), (50, 10)], {1, 2}),
        ([(60, 60), (10, 30), (50, 30)], {1, 2}),  # the one that is left would give it away
        ([(60, 60), (0, 30), (60, 30)], {1, 2}),  # no patient is a small count, too
        ([(100, 100), (10, 20), (40, 40), (50, 40)], {1, 2}),
        ([(100, 100), (3, 4), (12, 12), (85, 84)], {1, 2, 3}),  # two, but only 15 and 16 together
        ([(100, 100), (10, 11), (12, 11), (78, 78)], {1, 2}),
        ([(100, 100), (10, 11), (11, 11), (79, 78)], {1, 2, 3}),
        ([(10, 60), (5, 30), (5, 30)], {0, 1, 2}),
        ([(60, 60), (30, 30), (25, 30)], {2}),  # five have no group: they would follow from the others
([(90, 90), (30, 30), (15, 16), (40, 40)], {1, 2}),  # five and four of no group, 20 and 20 with the smallest
    ],
)  # fmt: skip
def test_what_is_small_and_what_would_give_it_away_is_suppressed(rows: list[tuple[int, int]], hidden: set[int]) -> None:
    assert suppressed(of_groups(len(rows) - 1), table(*rows)) == hidden


def test_attributes_are_suppressed_each_by_itself() -> None:
    rows = table((60, 60), (30, 30), (30, 30), (5, 30), (55, 30))
    assert suppressed(of_groups(2, 2), rows) == {3, 4}


def what_is_seen(manifest: Any, rows: NDArray[np.int64]) -> tuple[Any, ...]:
    """The published table: everybody's counts and the shown ones."""
    hidden = suppressed(manifest, rows)
    return tuple(None if place in hidden else tuple(row) for place, row in enumerate(rows.tolist()))


@pytest.mark.parametrize(("groups", "total"), [(2, (7, 7)), (2, (6, 9)), (3, (6, 7)), (3, (8, 6))])
@pytest.mark.parametrize("missing", [False, True])
def test_nobody_can_tell_a_suppressed_count_even_knowing_the_rules(
    groups: int, total: tuple[int, int], missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tables with these totals, by brute force, with 2 as the least count shown. Whoever sees a table knows that it is one
    of those that look alike; each suppressed count must have two values or more among them."""
    monkeypatch.setattr(module, "SMALL", 2)
    manifest = of_groups(groups)

    def ways(count: int) -> list[tuple[int, ...]]:
        parts = groups + missing
        return [w for w in itertools.product(range(count + 1), repeat=parts) if sum(w) == count]

    looks: dict[tuple[Any, ...], list[NDArray[np.int64]]] = defaultdict(list)
    for negatives, positives in itertools.product(ways(total[0]), ways(total[1])):
        rows = table(total, *zip(negatives, positives, strict=True))[: groups + 1]
        looks[what_is_seen(manifest, rows)].append(rows)
    assert len(looks) > 1
    for seen, alike in looks.items():
        for place, row in enumerate(seen):
            if row is None:
                for outcome in (0, 1):
                    assert len({int(rows[place, outcome]) for rows in alike}) >= 2, (seen, place, outcome)


@settings(max_examples=300, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=6),
    nowhere=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_no_small_count_is_shown_or_follows_by_subtraction(
    cells: list[tuple[int, int]], nowhere: tuple[int, int]
) -> None:
    groups = table(*cells)
    total = groups.sum(axis=0) + np.array(nowhere)
    rows = np.vstack([total, groups])
    hidden = suppressed(of_groups(len(cells)), rows)
    shown = [place for place in range(1, len(rows)) if place not in hidden]
    assert all((rows[place] >= SMALL).all() for place in shown)
    if 0 in hidden:
        assert shown == []
    elif shown:
        rest = total - rows[shown].sum(axis=0)
        assert not rest.any() or (rest >= 2 * SMALL).all()
        parts = len([place for place in hidden if place]) + any(nowhere)
        assert parts != 1


def histogram_of(rows: NDArray[np.int64], seed: int = 1) -> NDArray[np.int64]:
    """A histogram with these counts by slice and outcome, at random over the bins."""
    generator = np.random.default_rng(seed)
    _, bins, _ = histogram_shape(MANIFEST)
    spread = [[generator.multinomial(count, np.full(bins, 1 / bins)) for count in row] for row in rows.tolist()]
    return np.array(spread, dtype=np.int64).transpose(0, 2, 1)


def some_rows() -> NDArray[np.int64]:
    groups = len(slice_names(MANIFEST)) - 1
    sizes = [module.group_size(MANIFEST, attribute) for attribute in MANIFEST.fairness.groups]
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
        middle = bin_centres(counts.shape[1], MANIFEST.evaluation.temper)
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
