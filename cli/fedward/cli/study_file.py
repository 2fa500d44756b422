"""Which file a researcher means by a study."""

from __future__ import annotations

from pathlib import Path


def study_file(study: Path) -> Path:
    """A study's TOML file: the path itself, study.toml of a folder, or the example's for "heart" where nothing has that name."""
    from fedward.study.heart import heart_folder

    if study.is_dir():
        return study / "study.toml"
    return heart_folder() / "study.toml" if str(study) == "heart" and not study.exists() else study
