"""From a site's checked table to the numbers that a model sees, by public constants only.

A number becomes (x − middle) / half-range of the manifest's clinical bounds, in [−1, 1]; a level becomes one-hot; a
pixel is scaled as a number. A missing value becomes the middle (0) or no level, and an indicator says so: nothing is
estimated from patients, so encoding costs no privacy. Sizes are fixed by the manifest alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.study.attributes import attributes
from fedward.study.manifest import CategoricalFeature, Feature, ImageFeature, Manifest, NumericFeature

if TYPE_CHECKING:
    import pandas as pd  # a table is given: what only reads a manifest need not wait for the import

Matrix: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """A row an encounter: inputs (n, width) float32, outcomes (n,) float32 in {0, 1}, membership (n, groups) bool.

    `patients` names each row's patient, shape (n,). Most studies have one row a patient; the length is that of patients.
    """

    patients: tuple[str, ...]
    inputs: Matrix
    outcomes: NDArray[np.float32]
    membership: NDArray[np.bool_]

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """Each row's patient as a number, shape (n,): 0 is the patient of the first row, 1 the next new one."""
        numbers = {patient: number for number, patient in enumerate(dict.fromkeys(self.patients))}
        return np.array([numbers[patient] for patient in self.patients], dtype=np.int64)

    def __len__(self) -> int:
        return len(set(self.patients))

    def last_encounters(self) -> Encoded:
        """One row a patient: its last one, in the table's order."""
        places = {patient: row for row, patient in enumerate(self.patients)}
        mask = np.zeros(len(self.patients), dtype=np.bool_)
        mask[list(places.values())] = True
        return self.select(mask)

    def select(self, mask: NDArray[np.bool_]) -> Encoded:
        """The rows where the mask, shape (n,), is true."""
        chosen = tuple(patient for patient, keep in zip(self.patients, mask, strict=True) if keep)
        return Encoded(chosen, self.inputs[mask], self.outcomes[mask], self.membership[mask])


def input_names(manifest: Manifest) -> tuple[str, ...]:
    """The name of each input column, in order: `age`, `age:missing`, `cp=typical`, …"""
    indicator = manifest.training.missing == "midpoint"
    names: list[str] = []
    for feature in manifest.features:
        if isinstance(feature, NumericFeature):
            names.append(feature.column)
        elif isinstance(feature, CategoricalFeature):
            names.extend(f"{feature.column}={level}" for level in feature.levels)
        else:
            names.extend(f"{feature.column}_{index}" for index in range(feature.pixels))
        if indicator and not isinstance(feature, ImageFeature):
            names.append(f"{feature.column}:missing")
    return tuple(names)


def feature_spans(manifest: Manifest) -> Iterator[tuple[Feature, slice]]:
    """Each feature with its inputs' columns, as `input_names` orders them."""
    indicator, start = manifest.training.missing == "midpoint", 0
    for feature in manifest.features:
        if isinstance(feature, ImageFeature):
            size = feature.pixels
        else:
            size = (len(feature.levels) if isinstance(feature, CategoricalFeature) else 1) + indicator
        yield feature, slice(start, start + size)
        start += size


def group_names(manifest: Manifest) -> tuple[str, ...]:
    """The name of each fairness group, in order: `sex=female`, `age in [0, 50)`, …, `sex=female & age in [0, 50)`, …"""
    return tuple(name for attribute in attributes(manifest) for name in attribute.groups)


def encode(frame: pd.DataFrame, manifest: Manifest) -> Encoded:
    """A checked table (index: patient; columns: the study's) as matrices.

    Raises:
        InputError: a column is absent, or a value is missing where the manifest refuses missing values.
    """
    wanted = [column for feature in manifest.features for column in feature_columns(feature)]
    absent = [column for column in (*wanted, manifest.outcome.column) if column not in frame.columns]
    if absent:
        raise InputError("the table lacks columns of the study", expected=", ".join(absent[:10]))
    blocks = [_block(frame, feature, manifest) for feature in manifest.features]
    return Encoded(
        patients=tuple(str(patient) for patient in frame.index),
        inputs=np.concatenate(blocks, axis=1).astype(np.float32),
        outcomes=frame[manifest.outcome.column].to_numpy(dtype=np.float32),
        membership=_membership(frame, manifest),
    )


def feature_columns(feature: NumericFeature | CategoricalFeature | ImageFeature) -> list[str]:
    """The table's columns that hold a feature."""
    if isinstance(feature, ImageFeature):
        return [f"{feature.column}_{index}" for index in range(feature.pixels)]
    return [feature.column]


def _block(
    frame: pd.DataFrame, feature: NumericFeature | CategoricalFeature | ImageFeature, manifest: Manifest
) -> NDArray[np.float64]:
    if isinstance(feature, CategoricalFeature):
        values = frame[feature.column].to_numpy(dtype=object)
        block = np.stack([values == level for level in feature.levels], axis=1).astype(np.float64)
        missing = ~block.any(axis=1)
    else:
        low, high = feature.bounds
        raw = frame[feature_columns(feature)].to_numpy(dtype=np.float64)
        gaps = np.isnan(raw)
        missing = gaps.any(axis=1)
        block = np.where(gaps, 0.0, (raw - (low + high) / 2) / ((high - low) / 2))
    if manifest.training.missing == "refuse":
        if missing.any():
            raise InputError(
                f'column "{feature.column}" has missing values',
                expected='none, as missing = "refuse" says',
                got=f"{int(missing.sum())} rows",
            )
        return block
    if isinstance(feature, ImageFeature):
        return block
    return np.column_stack([block, missing.astype(np.float64)])


def _membership(frame: pd.DataFrame, manifest: Manifest) -> NDArray[np.bool_]:
    levels = {f.column: f.levels for f in manifest.features if isinstance(f, CategoricalFeature)}
    columns: list[NDArray[np.bool_]] = []
    for group in manifest.fairness.groups:
        if group.cut is None:
            values = frame[group.column].to_numpy(dtype=object)
            columns.extend(values == level for level in levels[group.column])
        else:
            numbers = frame[group.column].to_numpy(dtype=np.float64)
            edges = pairwise(group.cut)
            columns.extend((numbers >= low) & (numbers < high) for low, high in edges)
    if not columns:
        return np.zeros((len(frame), 0), dtype=np.bool_)
    return _with_crossed(np.stack(columns, axis=1).astype(np.bool_), manifest)


def _with_crossed(singles: NDArray[np.bool_], manifest: Manifest) -> NDArray[np.bool_]:
    """Membership in single groups, shape (n, single groups), and then in the crossed ones: who is in both."""
    found, blocks = attributes(manifest), [singles]
    for crossed in found:
        if crossed.crosses is not None:
            one, other = (singles[:, found[place].columns] for place in crossed.crosses)
            blocks.append((one[:, :, None] & other[:, None, :]).reshape(len(singles), -1))
    return np.concatenate(blocks, axis=1)
