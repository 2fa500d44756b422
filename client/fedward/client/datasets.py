"""Data registered for a study: where it lies, what it was when a person registered it, and how many patients.

Registration records the SHA-256 of the data and of the mapping: of a file's bytes, of all files of a folder, of the
rows that a query gave. A node reads them once for each registration and refuses anything else, so that what was
reviewed is what trains. Every read leaves out who is on the exclusion list. Nothing of a registration leaves but,
where policy allows, a rounded count.

A registration is one file that is replaced whole, written last. What the next one compares itself with lies beside
it, in a file that the registration names: a crash at any point leaves the old registration or the new one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from fedward.client import exclusions
from fedward.client.cohort import fingerprint, patient_hash
from fedward.client.drift import Drift, Facts, compare, facts_of
from fedward.client.exclusions import Change
from fedward.client.home import SiteHome
from fedward.client.mapping import Mapping, load_mapping, table_path
from fedward.client.quality import QualityReport
from fedward.client.sources import DataRefusedError, SiteTable, data_digest, database_name, read_site_table, silent
from fedward.client.sources.sheet import Progress
from fedward.privacy.canonical import canonical_json, digest_of
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UnreachableError
from fedward.study import lock
from fedward.study.eligibility import Unmet, tally, unmet
from fedward.study.encoding import Encoded, encode
from fedward.study.fields import NAME, Part
from fedward.study.kinds import AnyManifest
from fedward.study.manifest import HEX_KEY, BaseManifest, Manifest

ROUNDING = 10
_HASH_BYTES = 32
_PATIENCE_S = 30.0


def declared(patients: int) -> int:
    """A count as it may leave: rounded to tens, at least ten."""
    return max(ROUNDING, round(patients / ROUNDING) * ROUNDING)


class Dataset(Part):
    """A registration."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    study_id: Annotated[str, Field(pattern=NAME)]
    kind: Literal["csv", "parquet", "sql", "fhir"] = "csv"
    source: str
    """What people see of it: a path, or a database without secrets."""
    path: str
    """The file or folder; for a database the mapping's folder."""
    mapping: str
    source_sha256: Annotated[str, Field(pattern=HEX_KEY)]
    mapping_sha256: Annotated[str, Field(pattern=HEX_KEY)]
    patients: Annotated[int, Field(ge=1)]
    """Without those who had opted out."""
    cohort: Annotated[str, Field(pattern=HEX_KEY)]
    """Which patients, by `cohort.fingerprint`."""
    exclusion_changes: Change = 0
    """How often the exclusion list had changed."""
    exclusion_removals: Change = 0
    """How often somebody had been taken off it."""
    facts: Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")] = ""
    """The file of what the next registration compares itself with."""
    registered_at: Annotated[int, Field(ge=0)]

    @property
    def declared_patients(self) -> int:
        """The count that may leave."""
        return declared(self.patients)

    @property
    def digest(self) -> str:
        """What a person saw when they reviewed a study: data, mapping, patients, and who came back from the exclusion list."""
        return digest_of([self.source_sha256, self.mapping_sha256, self.cohort, self.exclusion_removals])


@dataclass(frozen=True)
class Registration:
    """`unmet` is what the study demands of a hospital's patients and these do not meet; None where it demands nothing."""

    dataset: Dataset
    report: QualityReport
    unmet: tuple[Unmet, ...] | None = None


def register(
    home: SiteHome, manifest: AnyManifest, data: Path | None, mapping: Path, at: int, *, progress: Progress = silent
) -> Registration:
    """Check data against a study through a mapping, and record it for that study.

    Args:
        data: the file or folder; None takes what the mapping names.

    Raises:
        InputError: the data or the mapping does not fit the study; nothing is recorded but the report of what is wrong.
        UnreachableError: the database cannot be reached.
    """
    # The digest first: a mapping that changes while it is used is then refused when the data is loaded.
    mapping_sha256, chosen = file_digest(mapping), load_mapping(mapping)
    path = _place(chosen, mapping, data)
    known = exclusions.listed(home)
    excluded = exclusions.judge(home, known.changes)
    try:
        table = read_site_table(path, chosen, manifest, excluded=excluded, progress=progress)
    except DataRefusedError as error:
        _keep_report(home, manifest.study.id, error.report)
        raise
    fell_short = _unmet(encode(table.frame, manifest), manifest) if isinstance(manifest, Manifest) else None
    key = home.patient_key()
    patients = [str(patient) for patient in table.frame.index]
    hashes = b"".join(sorted({patient_hash(patient, key) for patient in patients}))
    report = replace(
        table.report,
        drift=_drift(home, manifest, table, hashes),
        warnings=(*table.report.warnings, *(f"not eligible: {one.words}" for one in fell_short or ())),
    )
    facts = facts_of(table.frame, manifest, at).model_dump(mode="json")
    dataset = Dataset(
        study_id=manifest.study.id,
        kind=chosen.source.kind,
        source=str(path) if chosen.source.sql is None else database_name(chosen.source.sql),
        path=str(path),
        mapping=str(mapping.resolve()),
        source_sha256=table.digest,
        mapping_sha256=mapping_sha256,
        patients=table.report.patients,
        cohort=fingerprint(patients, key),
        exclusion_changes=known.changes,
        exclusion_removals=known.removals,
        facts=digest_of([facts, hashes.hex()])[:16],
        registered_at=at,
    )
    _keep(home, dataset, report, canonical_json(facts) + b"\n" + hashes)
    return Registration(dataset, report, fell_short)


def _unmet(data: Encoded, manifest: Manifest) -> tuple[Unmet, ...] | None:
    return None if manifest.eligibility is None else unmet(manifest.eligibility, tally(data, manifest))


def _keep(home: SiteHome, dataset: Dataset, report: QualityReport, facts: bytes) -> None:
    """Write what the registration names, then the registration, then take away what earlier ones named."""
    (home.path / "datasets").mkdir(mode=0o700, exist_ok=True)
    busy = UnreachableError("another registration is being written", remedy="wait for it and try again")
    with lock.hold(home.path / "datasets" / "lock", _PATIENCE_S, lambda: busy):
        home.write(_facts_file(home, dataset), facts)
        _keep_report(home, dataset.study_id, report)
        home.record("data-registered", at=dataset.registered_at, study_id=dataset.study_id, digest=dataset.digest)
        home.write(_file(home, dataset.study_id), canonical_json(dataset.model_dump()))
        for path in _file(home, dataset.study_id).parent.glob(f"{dataset.study_id}.*.facts"):
            if path != _facts_file(home, dataset):
                path.unlink(missing_ok=True)


def _place(mapping: Mapping, mapping_path: Path, data: Path | None) -> Path:
    if mapping.source.kind != "sql":
        return (data if data is not None else table_path(mapping, mapping_path)).resolve()
    if data is not None:
        raise InputError("the mapping names a database, and a file is given as well", remedy="leave out --data")
    return mapping_path.parent.resolve()


def find(home: SiteHome, study_id: str) -> Dataset:
    """
    Raises:
        InputError: nothing is registered for that study.
    """
    path = _file(home, study_id)
    if not path.is_file():
        raise InputError(
            f'no data is registered for study "{study_id}"',
            remedy="run `fedward site register --study STUDY.toml --mapping FILE`",
            code="no-data",
        )
    return home.read_part(path, Dataset, "dataset")


def registered(home: SiteHome) -> list[str]:
    """The studies for which data is registered, by name."""
    return sorted(
        path.stem for path in (home.path / "datasets").glob("*.json") if not path.name.endswith(".report.json")
    )


def forget(home: SiteHome, study_id: str) -> None:
    """Remove what is registered for a study; the hospital's own data stay where they are."""
    if study_id in registered(home):
        dataset = find(home, study_id)
        _facts_file(home, dataset).unlink(missing_ok=True)
        _file(home, study_id).unlink(missing_ok=True)


def load(home: SiteHome, dataset: Dataset, manifest: Manifest) -> Encoded:
    """The registered data as matrices; errors as `read`."""
    return encode(read(home, dataset, manifest), manifest)


def read(home: SiteHome, dataset: Dataset, manifest: BaseManifest) -> pd.DataFrame:
    """The registered data as a checked table, a row a patient or an encounter (`sources.SiteTable`), without who opted out.

    Raises:
        IntegrityError: the data or the mapping is not the registered one any more, or the exclusion list was put back.
        InputError: it does not fit the study.
    """
    excluded = exclusions.judge(home, dataset.exclusion_changes)
    return read_site_table(
        Path(dataset.path), _mapping(dataset), manifest, expected=dataset.source_sha256, excluded=excluded
    ).frame


def remaining(home: SiteHome, dataset: Dataset) -> int:
    """How many of the registered patients have not opted out since. The data is not read.

    Raises:
        IntegrityError: the exclusion list was put back, or what the registration remembers is damaged.
    """
    held = exclusions.listed(home).held(dataset.exclusion_changes)
    if not held:
        return dataset.patients
    return dataset.patients - len(held & _patients(home, dataset)[1])


def unchanged(dataset: Dataset) -> None:
    """Look at what can be looked at without the study: the files, and for a database the mapping alone.

    Raises:
        IntegrityError: a file or the mapping is not the registered one any more.
    """
    found = data_digest(Path(dataset.path), _mapping(dataset).source)
    if found not in (None, dataset.source_sha256):
        raise _changed(Path(dataset.path))


def kept_report(home: SiteHome, study_id: str) -> tuple[dict[str, Any], list[str]]:
    """The data quality report of the last registration, or of the last try at one: as JSON data and as lines of text.

    Raises:
        InputError: there is none.
        IntegrityError: it is damaged.
    """
    kept = json.loads(home.read(_report_file(home, study_id), "data quality report"))
    return kept["report"], kept["lines"]


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


def _mapping(dataset: Dataset) -> Mapping:
    path = Path(dataset.mapping)
    if not path.is_file() or file_digest(path) != dataset.mapping_sha256:
        raise _changed(path)
    return load_mapping(path)


def _changed(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path.name} is not what was registered",
        remedy="register it again, so that a person has seen what will train",
        code="data-changed",
    )


def _drift(home: SiteHome, manifest: AnyManifest, table: SiteTable, hashes: bytes) -> Drift | None:
    """What changed since the last registration; None where there was none, or what it remembers cannot be read any more."""
    try:
        before, then = _patients(home, find(home, manifest.study.id))
    except FedwardError:
        return None
    now = _split(hashes)
    counts = (len(now & then), len(now - then), len(then - now))
    return compare(table.frame, manifest, before, counts, table.medians)


def _patients(home: SiteHome, dataset: Dataset) -> tuple[Facts, frozenset[bytes]]:
    """What a registration remembers: its columns, and its patients' keyed hashes."""
    facts, _, hashes = home.read(_facts_file(home, dataset), "record of the registered patients").partition(b"\n")
    return Facts.model_validate_json(facts), _split(hashes)


def _split(hashes: bytes) -> frozenset[bytes]:
    return frozenset(hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES))


def _keep_report(home: SiteHome, study_id: str, report: QualityReport) -> None:
    kept = {"report": report.to_json(), "lines": report.lines()}
    home.write(_report_file(home, study_id), canonical_json(kept))


def _file(home: SiteHome, study_id: str) -> Path:
    return home.path / "datasets" / f"{study_id}.json"


def _facts_file(home: SiteHome, dataset: Dataset) -> Path:
    return home.path / "datasets" / f"{dataset.study_id}.{dataset.facts}.facts"


def _report_file(home: SiteHome, study_id: str) -> Path:
    return home.path / "datasets" / f"{study_id}.report.json"
