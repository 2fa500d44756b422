"""The embedded example: four real hospitals' heart patients, their mappings and the study `heart-4-hospitals`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fedward.privacy.errors import InputError

SITES = ("cleveland", "hungarian", "switzerland", "va")
"""The four hospitals: each has `<site>.csv` and `<site>.mapping.toml` in `heart_folder()`."""


def heart_folder() -> Path:
    """The folder with `study.toml`, the CSV files and their mappings.

    Raises:
        InputError: the package was installed without its data, or inside a zip file.
    """
    folder = resources.files("fedward.study").joinpath("data").joinpath("heart")
    if not isinstance(folder, Path) or not folder.is_dir():
        raise InputError(
            "the embedded heart study is not there as files",
            expected="the folder data/heart of the installed package fedward.study",
            remedy="install fedward again, as a wheel unpacked into a folder",
        )
    return folder
