"""What is wrong with the cells, collected over all columns before anything is decided."""

from __future__ import annotations

from collections.abc import Sequence

from fedward.client.quality import LISTED, Kind, Problem, ProblemCount

ALWAYS_REFUSED: frozenset[Kind] = frozenset({"missing-patient", "duplicate-patient", "missing-value"})
BECOMES_MISSING: frozenset[Kind] = frozenset({"not-a-number", "unknown-level", "other-unit"})
INVALID: frozenset[Kind] = BECOMES_MISSING | {"out-of-bounds", "unknown-outcome"}
DONE: dict[Kind, str] = {
    "out-of-bounds": "clipped to the bound",
    "not-a-number": "read as missing",
    "other-unit": "read as missing",
    "unknown-level": "read as missing",
    "missing-outcome": "row excluded",
    "unknown-outcome": "row excluded",
}


class Findings:
    """Wrong cells of a sheet by column and kind. `index` is a row's place in it, from 0."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = rows
        self._found: dict[tuple[str, Kind], list[int]] = {}
        self._texts: dict[tuple[str, Kind], list[str]] = {}
        self._places: set[tuple[str, int]] = set()
        self.fatal: set[tuple[str, Kind]] = set()

    def add(self, column: str, kind: Kind, index: int, text: str) -> None:
        """Note a cell, unless it is noted already; only the first `LISTED` of a column and kind keep their text."""
        if (column, index) in self._places:
            return
        self._places.add((column, index))
        self._found.setdefault((column, kind), []).append(index)
        listed = self._texts.setdefault((column, kind), [])
        if len(listed) < LISTED:
            listed.append(text)
        if kind in ALWAYS_REFUSED:
            self.fatal.add((column, kind))

    def places(self, column: str, *kinds: Kind) -> list[int]:
        """The rows whose cells of the column are wrong in one of these ways."""
        return [index for kind in kinds for index in self._found.get((column, kind), ())]

    def judge(self, column: str, present: int, *, may_miss: bool) -> None:
        """Invalid values of a column are fatal if they are most of those present, or would become missing and must not."""
        found = {kind for kind in INVALID if (column, kind) in self._found}
        if 2 * len(self.places(column, *found)) <= present:
            found &= frozenset() if may_miss else BECOMES_MISSING
        self.fatal |= {(column, kind) for kind in found}

    def refused(self, *, clip: bool) -> bool:
        return bool(self.fatal if clip else self._found)

    def counts(self) -> list[ProblemCount]:
        return [
            ProblemCount(column, kind, len(found), tuple(self._rows[index] for index in found[:LISTED]))
            for (column, kind), found in self._found.items()
        ]

    def problems(self, *, refused: bool) -> list[Problem]:
        """One by one, in the sheet's order."""
        listed = [
            Problem(self._rows[index], column, kind, text, "table refused" if refused else DONE[kind])
            for (column, kind), found in self._found.items()
            for index, text in zip(found, self._texts[column, kind], strict=False)
        ]
        return sorted(listed, key=lambda problem: problem.row)
