"""The embedded examples: studies as files, by name. Only the heart study has its data with it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fedward.privacy.errors import InputError

EXAMPLES = ("heart", "diabetes130", "pneumonia")
"""Names that stand for a study wherever a command takes one."""


def example_folder(name: str) -> Path:
    """The folder of one of `EXAMPLES`, with its `study.toml`.

    Raises:
        InputError: there is no such example, or the package was installed without its data, or inside a zip file.
    """
    if name not in EXAMPLES:
        raise InputError(f'there is no example "{name}"', expected=", ".join(EXAMPLES))
    folder = resources.files("fedward.study").joinpath("data").joinpath(name)
    if not isinstance(folder, Path) or not folder.is_dir():
        raise InputError(
            f"the embedded {name} study is not there as files",
            expected=f"the folder data/{name} of the installed package fedward.study",
            remedy="install fedward again, as a wheel unpacked into a folder",
        )
    return folder


def study_file(study: Path | str) -> Path:
    """A study's TOML file: the path itself, study.toml of a folder, or an example's by its name where nothing has that name."""
    path = Path(study)
    if path.is_dir():
        return path / "study.toml"
    return example_folder(str(study)) / "study.toml" if str(study) in EXAMPLES and not path.exists() else path
