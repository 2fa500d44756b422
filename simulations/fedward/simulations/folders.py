"""Hospitals' data in one folder: for each hospital NAME.csv and NAME.mapping.toml, as `fedward example` writes them."""

from __future__ import annotations

from pathlib import Path

from fedward.client.mapping import load_mapping
from fedward.client.sources import read_site_table
from fedward.privacy.errors import InputError
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
    return {
        name: encode(
            read_site_table(source / f"{name}.csv", load_mapping(source / f"{name}.mapping.toml"), manifest).frame,
            manifest,
        )
        for name in hospitals(source)
    }
