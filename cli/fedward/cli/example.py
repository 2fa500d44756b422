"""`fedward example`: the embedded studies as files, to read, to edit and to try the commands with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.output import JsonOption, print_json, say

_NEXT = {
    "heart": "Next: read {0}/study.toml; then fedward coordinator --help, fedward site --help",
    "diabetes130": (
        "Next: download the data from https://doi.org/10.24432/C5230J; then "
        "fedward simulate {0}/study.toml --sites diabetes130:PATH, the zip file's"
    ),
    "pneumonia": (
        "Next: download pneumoniamnist.npz from https://medmnist.com; then "
        "fedward simulate {0}/study.toml --sites medmnist:PATH --partition labels:5:0.5"
    ),
    "synthetic": "Next: fedward simulate {0}/study.toml --sites {0}",
}


def example(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[heart|diabetes130|pneumonia|synthetic]",
            help="Which one. Another word is the folder for heart's files.",
        ),
    ] = "heart",
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A new or empty folder for the files; the example's name.")
    ] = None,
    sites: Annotated[int, typer.Option(min=1, max=10_000, help="synthetic: how many hospitals.")] = 200,
    patients: Annotated[int, typer.Option(min=1, max=1_000_000, help="synthetic: patients of each.")] = 40,
    shift: Annotated[float, typer.Option(min=0, help="synthetic: by how much hospitals' own truths differ.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="synthetic: what is drawn.")] = 0,
    study: Annotated[
        Path, typer.Option(metavar="STUDY", help="synthetic: the study to make patients up for, as of simulate.")
    ] = Path("heart"),
    as_json: bool = JsonOption,
) -> None:
    """Write an example: a study and what goes with it. Start your own study and mapping from it.

    heart has four hospitals' data and mappings (UCI Heart Disease, CC BY 4.0; see ATTRIBUTION.md in the folder). diabetes130 and
    pneumonia are studies of public data to download yourself. synthetic makes hospitals up, with their data and mappings.
    """
    from fedward.study.examples import EXAMPLES

    if what not in {*EXAMPLES, "synthetic"} and folder is None:
        what, folder = "heart", Path(what)
    target = folder or Path(what)
    written = _made_up(target, study, sites, patients, shift, seed) if what == "synthetic" else _copied(target, what)
    if as_json:
        print_json({"folder": str(target), "files": written})
        return
    shown = written if len(written) <= 20 else [*written[:4], f"and {len(written) - 4} more"]
    say(f"Wrote to {target}: {', '.join(shown)}")
    say(_NEXT[what].format(target))


def _copied(folder: Path, name: str) -> list[str]:
    from fedward.privacy.errors import UsageError
    from fedward.study.examples import example_folder

    source = example_folder(name)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", remedy="give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file in sorted(source.iterdir()):
        if file.suffix in {".csv", ".toml", ".md"}:
            shutil.copyfile(file, folder / file.name)
            written.append(file.name)
    return written


def _made_up(folder: Path, study: Path, sites: int, patients: int, shift: float, seed: int) -> list[str]:
    from fedward.simulations.write_folder import write_hospitals
    from fedward.study.examples import study_file

    names = write_hospitals(folder, study_file(study), sites, patients, shift, seed)
    return ["study.toml", *(f"{name}{suffix}" for name in names for suffix in (".csv", ".mapping.toml"))]
