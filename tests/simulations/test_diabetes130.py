"""A download of Diabetes 130-US Hospitals: every count as the plain file has it, and a small file of its form."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command import fedward, good
from downloads import downloaded

from fedward.privacy.errors import InputError
from fedward.simulations.diabetes130 import SPECIALTY, Stays, read_stays
from fedward.simulations.folders import cut_table
from fedward.simulations.partition import parse_partition, partition
from fedward.simulations.sources import read_sites
from fedward.study.encoding import group_names, input_names
from fedward.study.examples import example_folder
from fedward.study.manifest import NumericFeature, load

MANIFEST = load(example_folder("diabetes130") / "study.toml")
ARCHIVE = "diabetes130/dataset_diabetes.zip"
GONE = {"11", "13", "14", "19", "20", "21"}
STAY = {
    "encounter_id": "1", "patient_nbr": "7", "race": "Caucasian", "gender": "Male", "age": "[70-80)", "weight": "?",
    "admission_type_id": "1", "discharge_disposition_id": "1", "admission_source_id": "7", "time_in_hospital": "3",
    "payer_code": "?", "medical_specialty": "Cardiology", "num_lab_procedures": "40", "num_medications": "12",
    "number_outpatient": "0", "number_emergency": "0", "number_inpatient": "0", "number_diagnoses": "9", "A1Cresult": "None",
    "insulin": "No", "diabetesMed": "Yes", "readmitted": "NO",
}  # fmt: skip


def download(folder: Path, *changes: dict[str, str], name: str = "diabetic_data.csv") -> Path:
    """A file of UCI's form with a row for each change to `STAY`."""
    rows = [STAY | {"encounter_id": str(number)} | change for number, change in enumerate(changes, 1)]
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def plain() -> list[dict[str, str]]:
    """The real file by Python's own csv module, stays that ended in death or hospice left out."""
    with zipfile.ZipFile(downloaded(ARCHIVE)) as opened, opened.open("dataset_diabetes/diabetic_data.csv") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))
    assert len(rows) == 101_766
    return [row for row in rows if row["discharge_disposition_id"] not in GONE]


@pytest.fixture(scope="module")
def real() -> Stays:
    return read_stays(downloaded(ARCHIVE), MANIFEST)


def test_every_count_is_the_file_s(plain: list[dict[str, str]], real: Stays) -> None:
    frame = real.frame
    assert len(frame) == len(plain) == 101_766 - real.left_out
    assert Counter(frame.index) == Counter(row["patient_nbr"] for row in plain)
    assert int(frame["readmitted_30_days"].sum()) == sum(row["readmitted"] == "<30" for row in plain)
    for column, origin, name in (
        ("race", "race", "AfricanAmerican"),
        ("race", "race", "?"),
        ("sex", "gender", "Female"),
    ):
        level = {"AfricanAmerican": "african-american", "?": None, "Female": "female"}[name]
        found = frame[column].isna() if level is None else frame[column] == level
        assert int(found.sum()) == sum(row[origin] == name for row in plain)
    assert int(frame["days"].sum()) == sum(int(row["time_in_hospital"]) for row in plain)
    assert int(frame["inpatient_stays"].sum()) == sum(min(5, int(row["number_inpatient"])) for row in plain)
    bounds = {"num_lab_procedures": 100, "num_medications": 40, "number_outpatient": 5, "number_emergency": 5}
    bounds |= {"number_inpatient": 5, "number_diagnoses": 9}
    assert real.clipped == sum(int(row[name]) > most for row in plain for name, most in bounds.items())


def test_a_patient_is_tested_on_the_first_stay(plain: list[dict[str, str]]) -> None:
    first: dict[str, dict[str, str]] = {}
    for row in sorted(plain, key=lambda row: int(row["encounter_id"])):
        first.setdefault(row["patient_nbr"], row)
    hospitals = read_sites(f"diabetes130:{downloaded(ARCHIVE)}", MANIFEST).hospitals
    assert sum(len(data) for data in hospitals.values()) == len(first)
    tested = {
        patient: outcome
        for data in hospitals.values()
        for patient, outcome in zip(data.last_encounters().patients, data.last_encounters().outcomes, strict=True)
    }
    assert tested == {patient: float(row["readmitted"] == "<30") for patient, row in first.items()}
    # Pseudo-sites: everybody's first stay was under that specialty.
    cardiology = {patient for patient, row in first.items() if row["medical_specialty"] == "Cardiology"}
    assert set(hospitals["specialty-cardiology"].patients) == cardiology
    assert len(hospitals) == 12
    assert min(len(data) for data in hospitals.values()) > 600
    rates = [data.last_encounters().outcomes.mean() for data in hospitals.values()]
    assert max(rates) > 1.4 * min(rates)


def test_it_is_cut_by_a_column_that_the_study_lacks(real: Stays) -> None:
    hospitals = cut_table(real.frame, MANIFEST, parse_partition("column:admission_source_id"))
    assert {"admission-source-id-7", "admission-source-id-17"} <= set(hospitals)
    assert sum(len(data) for data in hospitals.values()) == 69_990
    ordered = partition(
        real.frame, parse_partition("shift:4:num_procedures"), "readmitted_30_days", np.random.default_rng(0)
    )
    means = [piece["num_procedures"].mean() for piece in ordered.values()]
    assert means == sorted(means)
    assert means[3] > means[0] + 2


def small(patients: int = 60) -> list[dict[str, str]]:
    """Two stays of each patient, half of the first ones followed by a readmission."""
    names = ["InternalMedicine", "Cardiology", "Surgery-Neuro", "?", "Osteopath"]
    return [
        {
            "patient_nbr": str(number % patients),
            "medical_specialty": names[number % len(names)] if number < patients else "Nephrology",
            "readmitted": "<30" if number % 2 and number < patients else ">30",
            "age": f"[{10 * (number % 10)}-{10 * (number % 10) + 10})",
        }
        for number in range(2 * patients)
    ]


def test_zip_folder_and_file_are_the_same_stays(tmp_path: Path) -> None:
    path = download(tmp_path, *small())
    with zipfile.ZipFile(tmp_path / "any+name.zip", "w") as opened:
        opened.write(path, "diabetic_data.csv")
    only = tmp_path / "only"
    only.mkdir()
    (only / "dataset.zip").write_bytes((tmp_path / "any+name.zip").read_bytes())
    frames = [read_stays(place, MANIFEST).frame for place in (path, tmp_path, tmp_path / "any+name.zip", only)]
    assert all(frame.equals(frames[0]) for frame in frames)
    assert len(frames[0]) == 120
    assert set(frames[0][SPECIALTY]) == {
        "internal medicine",
        "cardiology",
        "surgery",
        "not recorded",
        "other",
        "nephrology",
    }
    assert frames[0]["payer_code"].isna().all()


def test_the_study_is_simulated_from_the_command_line(tmp_path: Path) -> None:
    path = download(tmp_path, *small(400))
    found = good("simulate", "diabetes130", "--sites", f"diabetes130:{path}", "--seeds", 1, "--partition", "iid:3")
    assert found["study"] == "diabetes130-readmission"
    assert {"race=caucasian", "sex=male", "site=site-1"} <= {one["slice"] for one in found["auroc"]}
    said = fedward("simulate", "diabetes130", "--sites", f"diabetes130:{path}", "--seeds", 1).err
    assert "800 stays of 400 patients; 0 that ended in death or hospice are left out" in " ".join(said.split())
    assert "names no hospital" in said


def test_missing_marks_and_values_out_of_bounds(tmp_path: Path) -> None:
    changes = [{"race": "?", "gender": "Unknown/Invalid", "number_inpatient": "21", "patient_nbr": "8"}, {}, {}]
    stays = read_stays(download(tmp_path, *changes, {"discharge_disposition_id": "11"}), MANIFEST)
    assert (stays.left_out, stays.clipped, len(stays.frame)) == (1, 1, 3)
    odd = stays.frame.loc[["8"]].iloc[0]
    assert (odd["race"], odd["sex"], odd["inpatient_stays"]) == (None, None, 5.0)


def test_a_study_of_other_columns_of_the_file(tmp_path: Path) -> None:
    kept = tuple(one for one in MANIFEST.features if one.column in {"race", "sex", "days"})
    stays = NumericFeature(type="numeric", column="number_inpatient", bounds=(0.0, 30.0))
    other = MANIFEST.model_copy(update={"features": (*kept, stays)})
    frame = read_stays(download(tmp_path, {"number_inpatient": "21"}), other).frame
    assert frame["number_inpatient"].tolist() == [21.0]
    assert "days:missing" in input_names(other)
    assert "race=asian" in group_names(other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encounter_id": "x"}, "no whole number"),
        ({"readmitted": "maybe"}, "readmitted_30_days: "),
        ({"discharge_disposition_id": "99"}, "discharge: "),
        ({"discharge_disposition_id": "11"}, "no stay"),
        ({"number_inpatient": "many"}, "inpatient_stays: "),
    ],
)
def test_values_that_the_data_does_not_have_are_refused(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_stays(download(tmp_path, changes), MANIFEST)


def test_one_strange_code_among_many_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="discharge: 1 × a code"):
        read_stays(download(tmp_path, {}, {}, {}, {"discharge_disposition_id": "99"}), MANIFEST)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no diabetes data at .*doi\.org"):
        read_stays(tmp_path / "none.zip", MANIFEST)
    with pytest.raises(InputError, match="none of these"):
        read_stays(tmp_path, MANIFEST)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match='a column "encounter_id"'):
        read_stays(tmp_path / "a.csv", MANIFEST)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="download it again"):
        read_stays(tmp_path / "empty.csv", MANIFEST)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text"):
        read_stays(tmp_path / "binary.csv", MANIFEST)
    path = download(tmp_path, {}, {})
    path.write_text(path.read_text() + "1,2\n")
    with pytest.raises(InputError, match="no outcome"):
        read_stays(path, MANIFEST)
    path.write_text(path.read_text() + "," * 60 + "\n")
    with pytest.raises(InputError, match="download it again"):
        read_stays(path, MANIFEST)
    text = download(tmp_path, {}).read_text().replace("A1Cresult", "A1C")
    path.write_text(text)
    with pytest.raises(InputError, match="A1Cresult"):
        read_stays(path, MANIFEST)


def test_the_same_study_and_mapping_serve_a_real_hospital(tmp_path: Path) -> None:
    from fedward.client.mapping import load_mapping
    from fedward.client.sources import read_site_table

    folder = tmp_path / "example"
    assert good("example", "diabetes130", folder)["files"] == ["ATTRIBUTION.md", "mapping.toml", "study.toml"]
    table = read_site_table(
        download(tmp_path, *small()), load_mapping(folder / "mapping.toml"), load(folder / "study.toml")
    )
    assert table.report.refused is False
    np.testing.assert_array_equal(np.unique(table.frame["readmitted_30_days"]), [0, 1])
