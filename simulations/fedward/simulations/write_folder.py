"""Made-up hospitals as files: a folder such as real hospitals' exports would make, to try how many of them a study can have."""

from __future__ import annotations

import shutil
from pathlib import Path

import tomli_w

from fedward.privacy.errors import UsageError
from fedward.simulations.options import load_study
from fedward.simulations.synthetic import synthetic_tables


def write_hospitals(
    folder: Path, study: Path, sites: int, patients: int, shift: float = 0.0, seed: int = 0
) -> list[str]:
    """Write study.toml and, for each made-up hospital, NAME.csv and NAME.mapping.toml.

    `folders.read_hospitals` gives the very patients of `synthetic.synthetic` back.

    Args:
        folder: a new or empty one.
        study: the study's TOML file, which is copied.
        sites: how many hospitals.
        patients: of each.
        shift: by how much hospitals' truths differ.
        seed: at least 0.

    Returns:
        the hospitals' names.

    Raises:
        UsageError: the folder is not empty.
        InputError: as `synthetic`, or the study cannot be read.
    """
    manifest, _ = load_study(study)
    tables = synthetic_tables(manifest, sites, patients, shift, seed)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", remedy="give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(study, folder / "study.toml")
    taken = {manifest.outcome.column, *(feature.column for feature in manifest.features)}
    patient = next(name for name in ("patient", "patient_id", "made_up_patient_id") if name not in taken)
    for site, table in tables.items():
        # Every digit of a float is written, so that a file says exactly what was drawn.
        table.to_csv(folder / f"{site}.csv", index_label=patient)
        (folder / f"{site}.mapping.toml").write_text(_mapping(site, patient), encoding="utf-8")
    return list(tables)


def _mapping(site: str, patient: str) -> str:
    """The table is in the study's own columns and levels: only the patient is to be named."""
    return tomli_w.dumps({"source": {"path": f"{site}.csv", "patient_id": patient}})
