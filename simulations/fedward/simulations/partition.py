"""One table cut into hospitals, so that a study can be tried where no hospitals are named. A patient's rows stay together.

iid:N           N equal parts of shuffled patients
labels:N:α      each outcome's patients by a Dirichlet(α) draw over hospitals: outcomes differ (Hsu, Qi & Brown 2019)
sizes:N:α       patients by one Dirichlet(α) draw: hospitals differ in size (Li et al. 2022, "quantity skew")
shift:N:COLUMN  patients sorted by a number and cut into N equal ranges: what the model sees differs
column:COLUMN   a hospital for each level of a column
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.privacy.errors import InputError

Kind: TypeAlias = Literal["iid", "labels", "sizes", "shift", "column"]

FORMS: Mapping[Kind, str] = {
    "iid": "iid:N",
    "labels": "labels:N:ALPHA",
    "sizes": "sizes:N:ALPHA",
    "shift": "shift:N:COLUMN",
    "column": "column:COLUMN",
}
FEWEST = 10
"""Patients of a hospital, at least. A Dirichlet draw that leaves one with fewer is drawn again."""
_DRAWS = 1000


@dataclass(frozen=True)
class Partition:
    """How to cut; what a kind does not need is 0 or empty."""

    kind: Kind
    sites: int = 0
    alpha: float = 0.0
    column: str = ""


def parse_partition(text: str) -> Partition:
    """From its text, one of `FORMS`.

    Raises:
        InputError: it is none of them.
    """
    kind, *rest = text.split(":")
    try:
        if kind == "iid" and len(rest) == 1:
            return _checked(Partition("iid", int(rest[0])), text)
        if kind == "labels" and len(rest) == 2:
            return _checked(Partition("labels", int(rest[0]), float(rest[1])), text)
        if kind == "sizes" and len(rest) == 2:
            return _checked(Partition("sizes", int(rest[0]), float(rest[1])), text)
        if kind == "shift" and len(rest) == 2 and rest[1]:
            return _checked(Partition("shift", int(rest[0]), column=rest[1]), text)
        if kind == "column" and len(rest) == 1 and rest[0]:
            return Partition("column", column=rest[0])
    except ValueError:
        pass
    raise InputError("this is no way to cut a table", expected=" or ".join(FORMS.values()), got=text)


def _checked(how: Partition, text: str) -> Partition:
    if not 1 <= how.sites <= 10_000:
        raise InputError("the number of hospitals is out of range", expected="1 to 10000", got=text)
    if how.kind in {"labels", "sizes"} and not (math.isfinite(how.alpha) and how.alpha > 0):
        raise InputError("alpha is out of range", expected="a finite number above 0", got=text)
    return how


def partition(
    frame: pd.DataFrame, how: Partition, outcome: str, generator: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """Hospitals' tables, by name; every row is in exactly one.

    Args:
        frame: a checked table, indexed by patient.
        how: how to cut it.
        outcome: the outcome's column; a patient's is that of the last row.
        generator: what is random comes from it; "shift" and "column" use none.

    Raises:
        InputError: there is no such column, too few patients, or no draw leaves each hospital its ten patients.
    """
    patients = pd.Index(dict.fromkeys(frame.index))
    last = frame[~frame.index.duplicated(keep="last")].loc[patients]
    if how.kind == "column":
        pieces = _levels(last, how.column)
    else:
        if len(patients) < FEWEST * how.sites:
            raise InputError(
                f"{len(patients)} patients are too few for {how.sites} hospitals", expected=f"{FEWEST} for each"
            )
        pieces = _numbered(_places(last, how, outcome, generator))
    return {name: frame[frame.index.isin(patients[rows])] for name, rows in pieces.items()}


def _places(
    last: pd.DataFrame, how: Partition, outcome: str, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Each hospital's patients, as places in `last`."""
    everybody = np.arange(len(last))
    if how.kind == "shift":
        values = _column(last, how.column)
        if not pd.api.types.is_numeric_dtype(values):
            raise InputError(f'column "{how.column}" is no number', remedy=f"cut with {FORMS['column']}")
        return list(np.array_split(np.argsort(values.to_numpy(), kind="stable"), how.sites))
    if how.kind == "iid":
        return list(np.array_split(generator.permutation(everybody), how.sites))
    labels = _column(last, outcome).to_numpy() if how.kind == "labels" else np.zeros(len(last))
    groups = [generator.permutation(everybody[labels == label]) for label in np.unique(labels)]
    for _ in range(_DRAWS):
        cuts = [_cut(group, generator.dirichlet(np.full(how.sites, how.alpha))) for group in groups]
        pieces = [np.concatenate(parts) for parts in zip(*cuts, strict=True)]
        if min(map(len, pieces)) >= FEWEST:
            return pieces
    raise InputError(
        f"no draw leaves each of {how.sites} hospitals {FEWEST} patients",
        remedy="choose a larger alpha or fewer hospitals",
    )


def _cut(places: NDArray[np.int64], shares: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    return list(np.split(places, np.round(np.cumsum(shares)[:-1] * len(places)).astype(np.int64)))


def _levels(last: pd.DataFrame, column: str) -> dict[str, NDArray[np.int64]]:
    values = _column(last, column).astype("object").where(lambda cells: cells.notna(), "missing").astype(str)
    found: dict[str, NDArray[np.int64]] = {}
    for level in sorted(set(values)):
        name = re.sub(r"[^a-z0-9]+", "-", f"{column}-{level}".lower()).strip("-")
        if name in found:
            raise InputError(f'two levels of "{column}" give the hospital\'s name "{name}"', remedy="rename a level")
        found[name] = np.flatnonzero((values == level).to_numpy())
    return found


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame.columns:
        raise InputError(f'there is no column "{name}" to cut by', expected=", ".join(map(str, frame.columns[:30])))
    return frame[name]


def _numbered(pieces: Iterable[NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    parts = list(pieces)
    width = len(str(len(parts)))
    return {f"site-{number:0{width}d}": part for number, part in enumerate(parts, 1)}
