"""Which file a researcher means by a study."""

from __future__ import annotations

from pathlib import Path


def study_file(study: Path) -> Path:
    """A study's TOML file: the path itself, study.toml of a folder, or an example's by its name where nothing has that name."""
    from fedward.study.examples import EXAMPLES, example_folder

    if study.is_dir():
        return study / "study.toml"
    return example_folder(str(study)) / "study.toml" if str(study) in EXAMPLES and not study.exists() else study
