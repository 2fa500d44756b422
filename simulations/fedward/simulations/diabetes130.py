"""A user's own download of UCI's Diabetes 130-US Hospitals, as one checked table of patients to be cut into hospitals.

The data names no hospital. What stands for one where nothing else is asked for is the admitting physician's specialty: `SPECIALTY`.

Stays that ended in death or hospice are left out, since nobody could come back from them. A patient's stays are ordered from the
latest to the first, by `encounter_id`, the only order that the data has: a model is tested on a patient's last row, and the latest
stay of a patient is by its nature seldom followed by another (5%, against 9% of the first). Strack et al. 2014 used the first.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fedward.client.mapping import Mapping as SiteMapping
from fedward.client.mapping import load_mapping
from fedward.client.quality import WHAT
from fedward.client.sources import read_site_table
from fedward.privacy.errors import InputError
from fedward.simulations.archives import MOST_BYTES, member
from fedward.study.examples import example_folder
from fedward.study.manifest import Manifest

FILE = "diabetic_data.csv"
PATIENT, ENCOUNTER, DISCHARGE, PHYSICIAN = (
    "patient_nbr",
    "encounter_id",
    "discharge_disposition_id",
    "medical_specialty",
)
DEATH_OR_HOSPICE = frozenset({"11", "13", "14", "19", "20", "21"})
SPECIALTY = "specialty"
"""The column that the pseudo-sites are levels of: the specialty of the physician who admitted the patient, rare ones together."""

_LEVELS: Mapping[str, str] = {
    "?": "not recorded",
    "InternalMedicine": "internal medicine",
    "Family/GeneralPractice": "family practice",
    "Emergency/Trauma": "emergency",
    "Cardiology": "cardiology",
    "Nephrology": "nephrology",
    "Orthopedics": "orthopedics",
    "Orthopedics-Reconstructive": "orthopedics",
    "Radiologist": "radiology",
    "Radiology": "radiology",
    "Pulmonology": "pulmonology",
    "Psychiatry": "psychiatry",
}


@dataclass(frozen=True)
class Stays:
    """The download's table.

    Attributes:
        frame: a row a stay, indexed by patient; the study's columns, `SPECIALTY`, and the file's own columns where the study
            has none of that name, whole numbers as such and the rest as text. A patient's stays run from the latest to the first.
        left_out: stays that ended in death or hospice.
        clipped: values above or below the study's bounds, which became the bound.
    """

    frame: pd.DataFrame = field(repr=False)
    left_out: int
    clipped: int


def read_stays(path: Path, manifest: Manifest) -> Stays:
    """Read a download through the product's own mapping and checks.

    Args:
        path: the zip file, the unpacked folder, or `diabetic_data.csv`.
        manifest: the study: the example's, or another one of this data's columns.

    Raises:
        InputError: there is no such file, it is not this data, or it does not fit the study.
    """
    raw = _raw(path)
    kept = raw[~raw[DISCHARGE].isin(DEATH_OR_HOSPICE)]
    if kept.empty:
        raise InputError(f"{FILE} has no stay that anybody could come back from", got=f"{len(raw)} rows")
    kept = kept.iloc[np.argsort(-kept[ENCOUNTER].to_numpy(dtype=np.int64), kind="stable")]
    frame, clipped = _translated(kept, manifest)
    return Stays(_with_own_columns(frame, kept), len(raw) - len(kept), clipped)


# ---- the file -------------------------------------------------------------------------------------------------------


def _raw(path: Path) -> pd.DataFrame:
    """The file's cells as it has them, all text."""
    flaw, raw = "", pd.DataFrame()
    try:
        raw = pd.read_csv(io.StringIO(_text(path)), dtype=object, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        flaw = str(error).strip()
    lacking = [name for name in (ENCOUNTER, PATIENT, DISCHARGE, PHYSICIAN) if name not in raw.columns]
    if not flaw and lacking:
        raise InputError(
            f"{path.name} is not UCI's diabetes data",
            expected=f'a column "{lacking[0]}"',
            got=", ".join(map(str, raw.columns[:10])),
        )
    if not flaw and not raw[ENCOUNTER].str.fullmatch(r"[0-9]{1,18}").all():
        flaw = f"an {ENCOUNTER} that is no whole number"
    if flaw:
        raise InputError(f"{path.name} holds no {FILE} as UCI offers it", got=flaw, remedy="download it again")
    return raw


def _text(path: Path) -> str:
    found = _located(path)
    if found.suffix == ".zip":
        data = member(found, FILE)
    elif found.stat().st_size > MOST_BYTES:
        raise InputError(f"{found.name} is too large", expected=f"at most {MOST_BYTES} bytes")
    else:
        data = found.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            f"{found.name} holds no text", expected=f"UCI's zip file, its folder, or {FILE}", got="binary data"
        ) from None


def _located(path: Path) -> Path:
    """The file to read: the path itself or, in a folder, the table or else the only zip file."""
    if path.is_file():
        return path
    inside = [path / FILE, *sorted(path.glob(f"*/{FILE}"))] if path.is_dir() else []
    found = [file for file in inside if file.is_file()] or (sorted(path.glob("*.zip")) if path.is_dir() else [])
    if len(found) != 1:
        raise InputError(
            f"no diabetes data at {path}",
            expected=f"the zip file that UCI offers, the folder of it, or {FILE}",
            got="several candidates" if found else "none of these",
            remedy="download it from https://doi.org/10.24432/C5230J",
        )
    return found[0]


# ---- the study's columns --------------------------------------------------------------------------------------------


def _translated(raw: pd.DataFrame, manifest: Manifest) -> tuple[pd.DataFrame, int]:
    """The rows in the study's columns, in their order, and how many values were clipped."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        raw.to_csv(path, index=False)
        table = read_site_table(path, _mapping(manifest), manifest)
    # A hospital may let a code become missing and look at its report; of this data all codes are known.
    strange = [count for count in table.report.counts if count.kind != "out-of-bounds"]
    if strange:
        raise InputError(
            f"{FILE} is not the data that the mapping is for",
            got="; ".join(f"{one.column}: {one.count} × {WHAT[one.kind]}" for one in strange[:10]),
            remedy="give UCI's file as it is, or correct the study's columns",
        )
    return table.frame, sum(count.count for count in table.report.counts)


def _mapping(manifest: Manifest) -> SiteMapping:
    """The example's mapping, as far as the study has its columns; others have the file's own names and codes."""
    mapping = load_mapping(example_folder("diabetes130") / "mapping.toml")
    wanted = {manifest.outcome.column, *(feature.column for feature in manifest.features)}
    return mapping.model_copy(
        update={"columns": {name: column for name, column in mapping.columns.items() if name in wanted}}
    )


def _with_own_columns(frame: pd.DataFrame, raw: pd.DataFrame) -> pd.DataFrame:
    """With what the file itself has, for a partition to cut by: whole numbers as such, "?" missing there too."""
    own = raw[[name for name in raw.columns if name not in frame.columns]].set_index(frame.index)
    place = own[PHYSICIAN].map(lambda name: _LEVELS.get(name, "surgery" if name.startswith("Surg") else "other"))
    own = own.mask(own == "?")
    whole = [name for name in own.columns if own[name].str.fullmatch(r"[0-9]{1,18}").eq(True).all()]
    return pd.concat([frame, own.astype(dict.fromkeys(whole, np.int64))], axis=1).assign(**{SPECIALTY: place})
