"""Hospitals' data in one folder: for each hospital NAME.csv and NAME.mapping.toml, as `fedward example` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fedward.client.mapping import load_mapping
from fedward.client.sources import read_site_table
from fedward.privacy.errors import InputError
from fedward.simulations.partition import Partition, partition
from fedward.study.encoding import Encoded, encode
from fedward.study.manifest import Manifest


def hospitals(source: Path) -> list[str]:
    """The names of the hospitals whose data lies in a folder.

    Raises:
        InputError: there is none, or one lacks its mapping.
    """
    names = sorted(path.name.removesuffix(".csv") for path in source.glob("*.csv"))
    lacking = [name for name in names if not (source / f"{name}.mapping.toml").is_file()]
    if lacking or not names:
        raise InputError(
            f"no {lacking[0]}.mapping.toml in {source}" if lacking else f"no hospital's data in {source}",
            expected="NAME.csv and NAME.mapping.toml for each hospital",
        )
    return names


def read_hospitals(source: Path, manifest: Manifest) -> dict[str, Encoded]:
    """Each hospital's patients as the study's model sees them.

    Raises:
        InputError: as `hospitals`, or a table does not fit its mapping or the study.
    """
    return {name: encode(frame, manifest) for name, frame in _tables(source, manifest).items()}


def cut_hospitals(source: Path, manifest: Manifest, how: Partition, seed: int = 0) -> dict[str, Encoded]:
    """All patients of a folder as one table, cut into hospitals anew; arguments and errors as `read_hospitals` and `partition`.

    The same identifier in two files is two patients.
    """
    tables = _tables(source, manifest)
    whole = pd.concat([frame.set_axis(f"{name}/" + frame.index, axis=0) for name, frame in tables.items()])
    return cut_table(whole, manifest, how, seed)


def cut_table(whole: pd.DataFrame, manifest: Manifest, how: Partition, seed: int = 0) -> dict[str, Encoded]:
    """A checked table, indexed by patient, cut into hospitals; it may have more columns, to cut by. Errors as `partition`."""
    pieces = partition(whole, how, manifest.outcome.column, np.random.default_rng(seed))
    return {name: encode(frame, manifest) for name, frame in pieces.items()}


def _tables(source: Path, manifest: Manifest) -> dict[str, pd.DataFrame]:
    return {
        name: read_site_table(source / f"{name}.csv", load_mapping(source / f"{name}.mapping.toml"), manifest).frame
        for name in hospitals(source)
    }
