"""`fedward example`: the embedded heart study as files, to read, to edit and to try the commands with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say


def example(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder for the files.")] = Path("heart"),
    as_json: bool = JsonOption,
) -> None:
    """Write the example study: study.toml and, for four hospitals, a CSV and the mapping that translates it.

    The data is UCI Heart Disease (CC BY 4.0; see ATTRIBUTION.md in the folder). Start your own study and mapping from it.
    """
    from fedward.privacy.errors import UsageError
    from fedward.study.heart import heart_folder

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", remedy="give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sorted(heart_folder().iterdir()):
        if source.suffix in {".csv", ".toml", ".md"}:
            shutil.copyfile(source, folder / source.name)
            written.append(source.name)
    if as_json:
        print_json({"folder": str(folder), "files": written})
        return
    say(f"Wrote to {folder}: {', '.join(written)}")
    say(f"Next: read {folder}/study.toml; then fedward coordinator --help, fedward site --help")
