"""What is suppressed stays unknown, also to one who knows the rules: enumerations and linear programs are the oracles."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp

from fedward.study.attributes import Attribute
from fedward.study.metrics import SMALL, suppressed_slices
from fedward.study.metrics import suppression as module

Rows = NDArray[np.int64]


def of_sizes(*sizes: int, cross: tuple[tuple[int, int], ...] = ()) -> list[Attribute]:
    """Single attributes of so many groups, and those of them that are crossed."""
    found: list[Attribute] = []
    first = 1
    for place, size in enumerate(sizes):
        found.append(Attribute(f"a{place}", tuple(f"a{place}={group}" for group in range(size)), first))
        first += size
    for one, other in cross:
        names = tuple(f"{a} & {b}" for a, b in itertools.product(found[one].groups, found[other].groups))
        found.append(Attribute(f"a{one} & a{other}", names, first, (one, other)))
        first += len(names)
    return found


def table(*rows: tuple[int, int]) -> Rows:
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
    assert suppressed_slices(of_sizes(len(rows) - 1), table(*rows)) == hidden


def test_attributes_are_suppressed_each_by_itself() -> None:
    rows = table((60, 60), (30, 30), (30, 30), (5, 30), (55, 30))
    assert suppressed_slices(of_sizes(2, 2), rows) == {3, 4}


def what_is_seen(found: list[Attribute], rows: NDArray[np.int64]) -> tuple[Any, ...]:
    """The published table: everybody's counts and the shown ones."""
    hidden = suppressed_slices(found, rows)
    return tuple(None if place in hidden else tuple(row) for place, row in enumerate(rows.tolist()))


@pytest.mark.parametrize(("groups", "total"), [(2, (7, 7)), (2, (6, 9)), (3, (6, 7)), (3, (8, 6))])
@pytest.mark.parametrize("missing", [False, True])
def test_nobody_can_tell_a_suppressed_count_even_knowing_the_rules(
    groups: int, total: tuple[int, int], missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tables with these totals, by brute force, with 2 as the least count shown. Whoever sees a table knows that it is one
    of those that look alike; each suppressed count must have two values or more among them."""
    monkeypatch.setattr(module, "SMALL", 2)
    found = of_sizes(groups)

    def ways(count: int) -> list[tuple[int, ...]]:
        parts = groups + missing
        return [w for w in itertools.product(range(count + 1), repeat=parts) if sum(w) == count]

    looks: dict[tuple[Any, ...], list[NDArray[np.int64]]] = defaultdict(list)
    for negatives, positives in itertools.product(ways(total[0]), ways(total[1])):
        rows = table(total, *zip(negatives, positives, strict=True))[: groups + 1]
        looks[what_is_seen(found, rows)].append(rows)
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
    hidden = suppressed_slices(of_sizes(len(cells)), rows)
    shown = [place for place in range(1, len(rows)) if place not in hidden]
    assert all((rows[place] >= SMALL).all() for place in shown)
    if 0 in hidden:
        assert shown == []
    elif shown:
        rest = total - rows[shown].sum(axis=0)
        assert not rest.any() or (rest >= 2 * SMALL).all()
        parts = len([place for place in hidden if place]) + any(nowhere)
        assert parts != 1


# --- crossed attributes ---------------------------------------------------------------------------------------------------


def crossed(cells: Rows, cross: tuple[tuple[int, int], ...] = ((0, 1),)) -> Rows:
    """The table (slices, 2) of patients (rows + 1, columns + 1[, …], 2); the last of each axis lacks that attribute."""
    axes = range(cells.ndim - 1)
    singles = [cells.sum(axis=tuple(other for other in axes if other != axis))[:-1] for axis in axes]
    pairs = [
        cells.sum(axis=tuple(other for other in axes if other not in pair))[:-1, :-1].reshape(-1, 2) for pair in cross
    ]
    return np.vstack([cells.reshape(-1, 2).sum(axis=0)[None], *singles, *pairs])


def without_missing(cells: Rows) -> Rows:
    """The same with nobody who lacks an attribute."""
    return np.pad(cells, [*([(0, 1)] * (cells.ndim - 1)), (0, 0)])


@pytest.mark.parametrize(
    ("cells", "hidden"),
    [
        ([[30, 30], [30, 30]], set()),
        ([[5, 30], [30, 30]], {5, 6, 7, 8}),  # of a table of two by two, one cell and the margins give all
        # The block is the small cell's row and column, and the smallest others.
        ([[5, 30, 40, 90], [30, 40, 40, 90], [50, 50, 60, 90]], {8, 9, 12, 13}),
        # Another small cell in another place: two rows and two columns are enough.
        ([[5, 30, 40], [30, 5, 40], [50, 50, 60]], {7, 8, 10, 11}),
        # 7 and 10 in the first column are fewer than 22: a third row is added.
        ([[7, 30, 40], [12, 30, 40], [50, 30, 60], [50, 60, 61]], {8, 9, 11, 12, 14, 15}),
        # A suppressed single group hides its whole row, and its complement too.
        ([[2, 4], [30, 40], [50, 60]], {1, 2, 6, 7, 8, 9}),
    ],
)
def test_crossed_cells_are_suppressed_in_blocks(cells: list[list[int]], hidden: set[int]) -> None:
    both = np.stack([np.array(cells)] * 2, axis=-1)
    found = of_sizes(*both.shape[:2], cross=((0, 1),))
    assert suppressed_slices(found, crossed(without_missing(both))) == hidden


def test_tables_that_make_a_ring_are_suppressed_together_and_others_are_not() -> None:
    cells = np.full((2, 2, 2, 2), 30)
    cells[0, 0] = 2  # the cell of the first two attributes: 4 patients
    rows = {cross: crossed(without_missing(cells), cross) for cross in (((0, 1), (0, 2)), ((0, 1), (0, 2), (1, 2)))}
    hidden = {cross: suppressed_slices(of_sizes(2, 2, 2, cross=cross), table) for cross, table in rows.items()}
    assert [sorted(places) for places in hidden.values()] == [[*range(7, 11)], [*range(7, 19)]]


def test_every_cell_of_a_group_that_is_suppressed_as_a_complement_is_too() -> None:
    """Three patients lack the first attribute: its smaller group is suppressed with them, and so are all its parts."""
    cells = without_missing(np.full((2, 3, 2), 40))
    cells[1] += cells[1] // 4
    cells[2, 0] = 3
    hidden = suppressed_slices(of_sizes(2, 3, cross=((0, 1),)), crossed(cells))
    assert hidden == {1, 6, 7, 8}


def test_noised_counts_that_do_not_add_up_are_no_patients_without_a_group() -> None:
    cells = np.stack([np.array([[30, 30], [30, 30]])] * 2, axis=-1)
    rows, found = crossed(without_missing(cells)), of_sizes(2, 2, cross=((0, 1),))
    rows[0] += 3
    assert suppressed_slices(found, rows) == {1, 3, 5, 6, 7, 8}
    assert suppressed_slices(found, rows, exact=False) == set()
    rows[5] = (4, 40)
    assert suppressed_slices(found, rows, exact=False) == {5, 6, 7, 8}
    rows[0] = (0, 0)
    assert suppressed_slices(found, rows, exact=False) == {5, 6, 7, 8}


def ways(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All that many counts with that total."""
    if parts == 1:
        yield (total,)
        return
    for count in range(total + 1):
        for rest in ways(total - count, parts - 1):
            yield (count, *rest)


@pytest.mark.parametrize(
    ("shape", "totals", "missing"),
    [((2, 2), (8, 5), 0), ((2, 3), (6, 2), 0), ((2, 2), (4, 1), 1)],
)
def test_nobody_can_tell_a_suppressed_cell_or_group_even_knowing_the_rules(
    shape: tuple[int, int], totals: tuple[int, int], missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tables with these totals, by brute force, with 1 or 2 as the least count shown (the rules are the same)."""
    monkeypatch.setattr(module, "SMALL", 2 if min(totals) > 2 else 1)
    found, size = of_sizes(*shape, cross=((0, 1),)), (shape[0] + missing, shape[1] + missing)
    looks: dict[bytes, tuple[frozenset[int], list[Rows]]] = {}
    whole = [[np.array(one).reshape(size) for one in ways(total, size[0] * size[1])] for total in totals]
    for negatives, positives in itertools.product(*whole):
        cells = np.stack([negatives, positives], axis=-1)
        rows = crossed(cells if missing else without_missing(cells))
        hidden = suppressed_slices(found, rows)
        seen = rows.copy()
        seen[sorted(hidden)] = -1
        looks.setdefault(seen.tobytes(), (hidden, []))[1].append(rows)
    partly = 0
    for hidden, alike in looks.values():
        values = np.stack(alike)
        partly += 0 < len(hidden) < values.shape[1]
        for place in hidden:
            assert np.ptp(values[:, place], axis=0).min() > 0, (place, alike[0].tolist())
    assert partly


def ranges(
    found: list[Attribute], rows: Rows, hidden: frozenset[int], shape: tuple[int, ...], outcome: int
) -> dict[int, int]:
    """How far apart the least and the largest value of each hidden slice are, among all tables of whole patients that show the
    same; of one outcome. `shape` is that of the table of all attributes, each with those who lack it."""
    size = int(np.prod(shape))
    places = np.arange(size).reshape(shape)
    members = [places]
    for one in found:
        if one.crosses is None:
            axis = found.index(one)
            members += [places.take(group, axis=axis) for group in range(len(one.groups))]
        else:
            low, high = one.crosses
            members += [
                np.moveaxis(places, (low, high), (0, 1))[a, b]
                for a, b in itertools.product(range(shape[low] - 1), range(shape[high] - 1))
            ]
    sums = np.zeros((len(rows), size))
    for place, member in enumerate(members):
        sums[place, member.ravel()] = 1
    shown = [place for place in range(len(rows)) if place not in hidden]
    known = LinearConstraint(sums[shown], rows[shown, outcome], rows[shown, outcome])
    widths = {}
    for place in hidden:
        ends = [milp(sign * sums[place], integrality=np.ones(size), constraints=known) for sign in (1, -1)]
        assert all(end.success for end in ends)
        widths[place] = round(-ends[1].fun - ends[0].fun)
    return widths


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_hidden_slice_of_tables_that_share_attributes_is_left_open(data: st.DataObject) -> None:
    """Three attributes, two or three pairs of them crossed: an integer program finds the least and the largest value of each hidden
    slice given all that is shown, in every table together."""
    sizes = data.draw(st.tuples(st.integers(2, 3), st.integers(2, 4), st.integers(2, 3)))
    cross = data.draw(st.sampled_from([((0, 1), (1, 2)), ((0, 1), (0, 2), (1, 2))]))
    lacking = data.draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    shape, seed = tuple(size + 1 for size in sizes), data.draw(st.integers(0, 2**20))
    scale, few = data.draw(st.sampled_from([3.0, 10.0, 40.0])), data.draw(st.integers(0, 3))
    generator = np.random.default_rng(seed)
    cells = generator.poisson(scale * generator.uniform(0.3, 2, (*shape, 2)))
    for _ in range(few):  # a small crossed cell, of either or both outcomes
        one, other = cross[generator.integers(len(cross))]
        part = np.moveaxis(cells, (one, other), (0, 1))[
            generator.integers(sizes[one]), generator.integers(sizes[other])
        ]
        part[:, int(generator.integers(2)) :] = generator.poisson(0.8)
    for axis, lacks in enumerate(lacking):
        last = np.moveaxis(cells, axis, 0)[-1]
        last[...] = generator.poisson(0.4, last.shape) if lacks else 0
    rows, found = crossed(cells, cross), of_sizes(*sizes, cross=cross)
    hidden = suppressed_slices(found, rows)
    assert all((rows[place] >= SMALL).all() for place in set(range(len(rows))) - hidden)
    if 0 in hidden:
        assert len(hidden) == len(rows)
        return
    for outcome in (0, 1):
        widths = ranges(found, rows, hidden, shape, outcome)
        for one in found:
            places = [place for place in one.slices if place in hidden]
            sides = [] if one.crosses is None else [place for side in one.crosses for place in found[side].slices]
            all_large = all(rows[place, outcome] >= 2 * SMALL for place in sides if place not in hidden)
            least = 2 * SMALL if all_large and len(places) < len(one.groups) else SMALL
            assert all(widths[place] >= least for place in places), (one.name, widths, rows.tolist())


def test_without_the_rule_for_blocks_the_oracle_finds_what_follows() -> None:
    """The oracle itself: two cells a row and a column are suppressed, and yet one follows, as a bridge between two blocks."""
    pattern = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    cells = without_missing(np.stack([np.full((4, 4), 30)] * 2, axis=-1))
    found = of_sizes(4, 4, cross=((0, 1),))
    hidden = frozenset(9 + 4 * row + column for row in range(4) for column in range(4) if pattern[row][column])
    widths = ranges(found, crossed(cells), hidden, (5, 5), 0)
    assert widths.pop(9 + 4 * 1 + 2) == 0
    assert min(widths.values()) >= SMALL
