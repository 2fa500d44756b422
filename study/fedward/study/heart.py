"""The embedded example: four real hospitals' heart patients, their mappings and the study `heart-4-hospitals`."""

from __future__ import annotations

from pathlib import Path

from fedward.study.examples import example_folder

SITES = ("cleveland", "hungarian", "switzerland", "va")
"""The four hospitals: each has `<site>.csv` and `<site>.mapping.toml` in `heart_folder()`."""


def heart_folder() -> Path:
    """The folder with `study.toml`, the CSV files and their mappings; errors as `example_folder`."""
    return example_folder("heart")
