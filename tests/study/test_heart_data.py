"""The embedded heart study holds UCI's records: read through the mappings, and bit by bit."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedward.client.mapping import Mapping, load_mapping, parse_number, table_path
from fedward.client.sources import SiteTable, read_site_table
from fedward.study.heart import SITES, heart_folder
from fedward.study.manifest import CategoricalFeature, Manifest, load

PATIENTS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
DISEASED = {"cleveland": 139, "hungarian": 106, "switzerland": 115, "va": 149}
GRADES = {
    "cleveland": {str(grade): grade for grade in range(5)},
    "hungarian": {"nincs": 0, "van": 1},
    "switzerland": {"kein": 0, "I": 1, "II": 2, "III": 3, "IV": 4},
    "va": {str(grade): grade for grade in range(5)},
}
"""UCI's `num` in each hospital's words: the study asks only whether it is above 0."""

FEATURES = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"]
FEATURES += ["slope", "ca", "thal"]
UCI_CODES = {
    "sex": {0.0: "female", 1.0: "male"},
    "cp": {1.0: "typical", 2.0: "atypical", 3.0: "non-anginal", 4.0: "asymptomatic"},
    "fbs": {0.0: "normal", 1.0: "high"},
    "restecg": {0.0: "normal", 1.0: "st-t-abnormality", 2.0: "lv-hypertrophy"},
    "exang": {0.0: "no", 1.0: "yes"},
    "slope": {1.0: "up", 2.0: "flat", 3.0: "down"},
    "thal": {3.0: "normal", 6.0: "fixed-defect", 7.0: "reversible-defect"},
}

Record = tuple[object, ...]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return load(heart_folder() / "study.toml")


@pytest.fixture(scope="module")
def uci() -> Path:
    root = os.environ.get("FEDWARD_TEST_DATA")
    if root:
        return Path(root) / "heart_uci"
    if os.environ.get("FEDWARD_REQUIRE_ALL") == "1":
        pytest.fail("FEDWARD_REQUIRE_ALL=1, and FEDWARD_TEST_DATA does not name the folder with heart_uci/")
    pytest.skip("set FEDWARD_TEST_DATA to the folder with UCI's original files in heart_uci/")


def _mapping(site: str) -> tuple[Mapping, Path]:
    path = heart_folder() / f"{site}.mapping.toml"
    mapping = load_mapping(path)
    return mapping, table_path(mapping, path)


def _table(site: str, manifest: Manifest) -> SiteTable:
    mapping, path = _mapping(site)
    return read_site_table(path, mapping, manifest)


def _originals(folder: Path, site: str) -> list[list[float | None]]:
    lines = (folder / f"processed.{site}.data").read_text(encoding="ascii").split()
    return [[None if cell == "?" else float(cell) for cell in line.split(",")] for line in lines]


def _in_study_words(record: list[float | None]) -> Record:
    """An original record as the study reads it: 0 is no cholesterol and no blood pressure, any grade is disease."""
    values: list[object] = []
    for name, cell in zip(FEATURES, record, strict=False):
        if cell is None or (name in ("chol", "trestbps") and cell == 0):
            values.append(None)
        else:
            values.append(UCI_CODES[name][cell] if name in UCI_CODES else cell)
    grade = record[-1]
    assert grade is not None
    return (*values, int(grade > 0))


def test_the_study_manifest_is_valid_and_says_what_was_agreed(manifest: Manifest) -> None:
    assert manifest.study.id == "heart-4-hospitals"
    assert [feature.column for feature in manifest.features] == FEATURES
    assert manifest.outcome.column == "disease"
    assert (manifest.training.algorithm, manifest.training.rounds) == ("fedsgd", 15)
    assert (manifest.privacy.epsilon, manifest.privacy.delta) == (3.0, 1e-3)
    assert (manifest.federation.quorum, manifest.federation.min_patients) == (3, 50)


@pytest.mark.parametrize("site", SITES)
def test_a_hospital_reads_cleanly(site: str, manifest: Manifest) -> None:
    table = _table(site, manifest)
    assert len(table.frame) == PATIENTS[site]
    assert table.frame["disease"].sum() == DISEASED[site]
    assert table.report.total_problems == 0
    assert table.report.excluded == 0
    assert table.frame.index.is_unique
    assert not any("no group" in warning for warning in table.report.warnings)


def test_no_identifier_is_used_at_two_hospitals(manifest: Manifest) -> None:
    ids = [patient for site in SITES for patient in _table(site, manifest).frame.index]
    assert len(set(ids)) == sum(PATIENTS.values())


@pytest.mark.parametrize("site", SITES)
def test_through_the_mapping_come_ucis_records(site: str, manifest: Manifest, uci: Path) -> None:
    frame = _table(site, manifest).frame
    assert list(frame.columns) == [*FEATURES, "disease"]
    read = [
        tuple(None if isinstance(value, float) and np.isnan(value) else value for value in row)
        for row in frame.itertuples(index=False, name=None)
    ]
    assert Counter(read) == Counter(_in_study_words(record) for record in _originals(uci, site))


def _unmapped(row: dict[str, str], site: str, mapping: Mapping, manifest: Manifest) -> tuple[float | None, ...]:
    """UCI's record from an export: a 0 stays a 0, and the grade of disease is kept."""
    values: list[float | None] = []
    for feature in manifest.features:
        text, column = row[mapping.origin(feature.column)], mapping.column(feature.column)
        if text in {"", *mapping.source.missing}:
            values.append(None)
        elif isinstance(feature, CategoricalFeature):
            back = {level: code for code, level in UCI_CODES[feature.column].items()}
            values.append(back[column.values.get(text, text)])
        else:
            number = parse_number(text, mapping.source.decimal)
            assert number is not None
            values.append(column.convert(number))
    return (*values, float(GRADES[site][row[mapping.origin("disease")]]))


@pytest.mark.parametrize("site", SITES)
def test_the_exports_lose_nothing_of_ucis_records(site: str, manifest: Manifest, uci: Path) -> None:
    mapping, path = _mapping(site)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=mapping.source.delimiter))
    exported = [_unmapped(row, site, mapping, manifest) for row in rows]
    assert exported == [tuple(record) for record in _originals(uci, site)]


def test_the_files_are_the_ones_of_sha256sums() -> None:
    lines = (heart_folder() / "SHA256SUMS").read_text(encoding="ascii").splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(sums) == {f"{site}.csv" for site in SITES}
    for name, digest in sums.items():
        assert hashlib.sha256((heart_folder() / name).read_bytes()).hexdigest() == digest


def test_the_attribution_names_source_licence_and_investigators() -> None:
    text = (heart_folder() / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for name in ("10.24432/C52P4X", "CC BY 4.0", "Janosi", "Steinbrunn", "Pfisterer", "Detrano", "What was changed"):
        assert name in text
