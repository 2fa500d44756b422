"""Data registered for a study: where it lies, what it was when a person registered it, and how many patients.

Registration records the SHA-256 of the file and the mapping. A node reads them once for each registration and refuses
anything else, so that what was reviewed is what trains. Nothing of a registration leaves but, where policy allows, a rounded count.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from fedward.client.cohort import fingerprint
from fedward.client.home import SiteHome
from fedward.client.mapping import load_mapping
from fedward.client.quality import QualityReport
from fedward.client.sources import read_site_table
from fedward.privacy.canonical import digest_of
from fedward.privacy.errors import InputError, IntegrityError
from fedward.study.encoding import Encoded, encode
from fedward.study.fields import NAME, Part
from fedward.study.files import read_model, write_atomic
from fedward.study.kinds import AnyManifest
from fedward.study.manifest import HEX_KEY, BaseManifest, Manifest

ROUNDING = 10


def declared(patients: int) -> int:
    """A count as it may leave: rounded to tens, at least ten."""
    return max(ROUNDING, round(patients / ROUNDING) * ROUNDING)


class Dataset(Part):
    format: Annotated[int, Field(ge=1, le=1)] = 1
    study_id: Annotated[str, Field(pattern=NAME)]
    csv: str
    mapping: str
    csv_sha256: Annotated[str, Field(pattern=HEX_KEY)]
    mapping_sha256: Annotated[str, Field(pattern=HEX_KEY)]
    patients: Annotated[int, Field(ge=1)]
    cohort: Annotated[str, Field(pattern=HEX_KEY)]
    """Which patients, by `cohort.fingerprint`."""
    registered_at: Annotated[int, Field(ge=0)]

    @property
    def declared_patients(self) -> int:
        """The count that may leave."""
        return declared(self.patients)

    @property
    def digest(self) -> str:
        """What a person saw when they reviewed a study: file, mapping and patients."""
        return digest_of([self.csv_sha256, self.mapping_sha256, self.cohort])


@dataclass(frozen=True)
class Registration:
    dataset: Dataset
    report: QualityReport


def register(home: SiteHome, manifest: AnyManifest, csv: Path, mapping: Path, at: int) -> Registration:
    """Check a CSV against a study through a mapping, and record it for that study.

    Raises:
        InputError: the file or the mapping does not fit the study; nothing is recorded.
    """
    report_file = home.path / "datasets" / f"{manifest.study.id}.report.json"
    report_file.parent.mkdir(parents=True, exist_ok=True)
    # Digests first: a file that changes while it is checked is then refused when it is loaded.
    csv_sha256, mapping_sha256 = file_digest(csv), file_digest(mapping)
    table = read_site_table(csv, load_mapping(mapping), manifest, report_to=report_file)
    if isinstance(manifest, Manifest):
        encode(table.frame, manifest)
    dataset = Dataset(
        study_id=manifest.study.id,
        csv=str(csv.resolve()),
        mapping=str(mapping.resolve()),
        csv_sha256=csv_sha256,
        mapping_sha256=mapping_sha256,
        patients=table.report.patients,
        cohort=fingerprint([str(patient) for patient in table.frame.index], home.patient_key()),
        registered_at=at,
    )
    write_atomic(_file(home, manifest.study.id), json.dumps(dataset.model_dump(), indent=1).encode(), 0o600)
    return Registration(dataset, table.report)


def find(home: SiteHome, study_id: str) -> Dataset:
    """
    Raises:
        InputError: nothing is registered for that study.
    """
    path = _file(home, study_id)
    if not path.is_file():
        raise InputError(
            f'no data is registered for study "{study_id}"',
            remedy="run `fedward site register --study STUDY.toml --csv FILE --mapping FILE`",
            code="no-data",
        )
    return read_model(path, Dataset, "dataset")


def load(dataset: Dataset, manifest: Manifest) -> Encoded:
    """The registered data as matrices; errors as `read`."""
    return encode(read(dataset, manifest), manifest)


def read(dataset: Dataset, manifest: BaseManifest) -> pd.DataFrame:
    """The registered data as a checked table, a row a patient or an encounter (`sources.SiteTable`).

    Raises:
        IntegrityError: the file or the mapping is not the registered one any more.
        InputError: it does not fit the study.
    """
    csv, mapping = Path(dataset.csv), Path(dataset.mapping)
    for path, expected in ((csv, dataset.csv_sha256), (mapping, dataset.mapping_sha256)):
        if not path.is_file() or file_digest(path) != expected:
            raise IntegrityError(
                f"{path.name} is not the file that was registered",
                remedy="register it again, so that a person has seen what will train",
                code="data-changed",
            )
    return read_site_table(csv, load_mapping(mapping), manifest).frame


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise InputError(f"cannot read {path}", remedy="check the path and its permissions") from None


def _file(home: SiteHome, study_id: str) -> Path:
    return home.path / "datasets" / f"{study_id}.json"
