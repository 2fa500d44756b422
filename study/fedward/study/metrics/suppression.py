"""Which slices of a table may be shown, so that no small count is shown or follows from what is. Pure.

The table is (slice × outcome): everybody, then the groups of each attribute (`fedward.study.attributes`). A slice is shown whole or
not at all. `SMALL` = 11.

A single attribute, by itself:
1. a group with fewer than 11 patients of either outcome is suppressed;
2. patients of no group (the attribute is missing) count as one more group: though it is not shown, the others would give it away;
3. complementary: what is suppressed of an attribute is known in sum, by subtraction from everybody. So it has at least 22 patients
   of each outcome together, hence two groups or more; the smallest are added until it has, or none is left to show;
4. if everybody is fewer than 11 of either outcome, nothing is shown.

A crossed attribute is a table whose margins are the two single attributes that it crosses; patients without one are a row, or a
column, of their own, that is never shown:
5. its suppressed cells are a whole block, every one of some rows in every one of some columns. The block holds each cell of
   fewer than 11 of either outcome, and every cell of a suppressed single group, lest they add up to it. Rows and columns are added,
   the smallest first, until each row and each column of the block has at least 22 patients of each outcome in it, hence two cells
   or more, or none is left to add; suppressed single groups of one attribute count as one, for they are known in sum.
6. crossed attributes that make a ring (sex & age, age & site, site & sex) are suppressed whole, all of them, if any has a
   suppressed cell: for a ring there is no such argument as this.

Why that is enough: given everything shown, what is known of a block is the sum of each of its rows and columns, or of the
suppressed single ones together. A table of whole numbers of at least 0 exists for any such sums, and a cell with row p and column q
of a block of n takes every value from max(0, p + q − n) to min(p, q) (Dobra & Fienberg 2000): a range of min(p, q, n − p, n − q),
at least 22, or 11 where a row or column of fewer than 22 is all in the block. All parts of a suppressed single group are suppressed
in every table, so it may be of any size that the sum allows, and tables without a ring that agree in their margins are always those
of some patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedward.study.attributes import Attribute

SMALL: Final = 11
"""Counts below this are not shown (CMS cell-size suppression policy: 1 to 10)."""

Table = NDArray[np.int64]


def suppressed_slices(attributes: Sequence[Attribute], table: Table, *, exact: bool = True) -> frozenset[int]:
    """The slices that may not be shown.

    Args:
        attributes: single ones first.
        table: counts (slices, 2) by outcome.
        exact: whether the groups of an attribute and those of none add up to everybody. Where noise was added they do not: then
            everybody's counts are not looked at, and nobody is taken to be of no group.
    """
    if exact and not (table[0] >= SMALL).all():
        return frozenset(range(len(table)))
    margins: list[_Margin] = []
    hidden: set[int] = set()
    for attribute in attributes:
        groups = table[attribute.slices.start : attribute.slices.stop]
        if attribute.crosses is None:
            nowhere = table[0] - groups.sum(axis=0) if exact else np.zeros(2, dtype=np.int64)
            margins.append(_Margin.of(groups, nowhere))
            places = set(margins[-1].hidden - {len(groups)})
        else:
            places = _hidden_cells(groups, *(margins[place] for place in attribute.crosses), exact=exact)
        hidden |= {attribute.first + place for place in places}
    rings = _rings(attributes)
    if any(place in hidden for ring in rings for place in ring.slices):
        hidden |= {place for ring in rings for place in ring.slices}
    return frozenset(hidden)


def suppressed_cells(counts: Table, nowhere: int = 0) -> frozenset[int]:
    """The counts (n,) that may not be shown of patients in one group each, or in none; rules 1 to 3 of one outcome alone.

    Args:
        counts: exact ones, whose sum with `nowhere` is known.
        nowhere: how many are in no group, which is never shown; 0 where that may be known.
    """
    both = np.array([nowhere, *counts.tolist()], dtype=np.int64)[:, None].repeat(2, axis=1)
    return frozenset(_Margin.of(both[1:], both[0]).hidden - {len(counts)})


def _rings(attributes: Sequence[Attribute]) -> list[Attribute]:
    """The crossed attributes that are part of a ring: their two are crossed by way of others, too."""
    edges = {place: set(one.crosses) for place, one in enumerate(attributes) if one.crosses is not None}
    found = []
    for place, ends in edges.items():
        others, reached = [edge for other, edge in edges.items() if other != place], {min(ends)}
        for _ in others:  # as often as the longest way has steps
            reached = reached.union(*(edge for edge in others if edge & reached))
        if ends <= reached:
            found.append(attributes[place])
    return found


@dataclass(frozen=True)
class _Margin:
    """A single attribute: counts (groups, 2), of no group (2,), and which are suppressed; the group after the last is no group."""

    groups: Table
    nowhere: Table
    hidden: frozenset[int]

    @classmethod
    def of(cls, groups: Table, nowhere: Table) -> _Margin:
        """By rules 1 to 3."""
        cells = np.vstack([groups, nowhere]) if nowhere.any() else groups
        hidden = {place for place in range(len(cells)) if (cells[place] < SMALL).any()}
        shown = _by_size(cells, hidden)
        while hidden and shown and not (cells[sorted(hidden)].sum(axis=0) >= 2 * SMALL).all():
            hidden.add(shown.pop(0))
        return cls(groups, nowhere, frozenset(hidden))


def _by_size(cells: Table, without: set[int] | frozenset[int]) -> list[int]:
    """Places of counts (n, 2), the smallest first."""
    return sorted(set(range(len(cells))) - without, key=lambda place: (int(cells[place].sum()), place))


def _hidden_cells(cells: Table, rows: _Margin, columns: _Margin, *, exact: bool) -> set[int]:
    """The suppressed groups of a crossed attribute: places in its counts, (rows × columns, 2)."""
    down, across = len(rows.groups), len(columns.groups)
    full = cells.reshape(down, across, 2)
    if exact:
        full = _with_missing(full, rows, columns)
    small: NDArray[np.bool_] = np.asarray((full < SMALL).any(axis=2))
    small[down:] &= full[down:].any(axis=2)  # that nobody is without a group may be known, as for a single attribute
    small[:, across:] &= full[:, across:].any(axis=2)
    chosen = _block(full, small, rows.hidden, columns.hidden)
    return {row * across + column for row in chosen[0] for column in chosen[1] if row < down and column < across}


def _with_missing(cells: Table, rows: _Margin, columns: _Margin) -> Table:
    """The table with a column of patients who lack the second attribute, and a row of those who lack the first, if any do."""
    if columns.nowhere.any():
        cells = np.concatenate([cells, (rows.groups - cells.sum(axis=1))[:, None]], axis=1)
    if rows.nowhere.any():
        whole = np.vstack([columns.groups, columns.nowhere[None]])[: cells.shape[1]]
        cells = np.concatenate([cells, (whole - cells.sum(axis=0))[None]], axis=0)
    return cells


def _block(
    full: Table, small: NDArray[np.bool_], hidden_rows: frozenset[int], hidden_columns: frozenset[int]
) -> tuple[set[int], set[int]]:
    """Rule 5: the rows and columns of the suppressed block; `full` is (rows, columns, 2), with those of no group."""
    rows = set(np.flatnonzero(small.any(axis=1)).tolist()) | hidden_rows
    columns = set(np.flatnonzero(small.any(axis=0)).tolist()) | hidden_columns
    if not rows and not columns:
        return rows, columns
    if hidden_rows:
        columns = set(range(full.shape[1]))
    if hidden_columns:
        rows = set(range(full.shape[0]))
    more_rows, more_columns = _by_size(full.sum(axis=1), rows), _by_size(full.sum(axis=0), columns)
    while True:
        block = full[np.ix_(sorted(rows), sorted(columns))]
        if more_columns and not _enough(block.sum(axis=1), sorted(rows), hidden_rows):
            columns.add(more_columns.pop(0))
        elif more_rows and not _enough(block.sum(axis=0), sorted(columns), hidden_columns):
            rows.add(more_rows.pop(0))
        else:
            return rows, columns


def _enough(sums: Table, lines: Sequence[int], hidden: frozenset[int]) -> bool:
    """Whether each line of a block, of sums (lines, 2), has enough patients in it: so many are never in one small cell."""
    alone = [place for place, line in enumerate(lines) if line not in hidden]
    together = [place for place, line in enumerate(lines) if line in hidden]
    parts = [*sums[alone], *([sums[together].sum(axis=0)] if together else [])]
    return all((part >= 2 * SMALL).all() for part in parts)
