"""FHIR R4 bundles made of the heart hospitals' exports, and the mapping that reads them back."""

from __future__ import annotations

import csv
from typing import Any

from fedward.study.heart import heart_folder

LOINC, LOCAL, ICD, UCUM = (
    "http://loinc.org",
    "http://heart.example/codes",
    "http://hl7.org/fhir/sid/icd-10",
    "http://unitsofmeasure.org",
)
NUMBERS = {
    "BP_SYS": ("8480-6", "mm[Hg]"),
    "CHOL": ("2093-3", "mg/dL"),
    "HR_MAX": ("8873-2", "/min"),
    "OLDPEAK": ("oldpeak", "mm"),
}
CODES = ("CP_CD", "FBS_CD", "RESTECG_CD", "EXANG_CD", "SLOPE_CD", "CA", "THAL_CD")
GENDERS = {"0": "female", "1": "male"}


def rows() -> list[dict[str, str]]:
    """VA's patients as their hospital exports them."""
    with (heart_folder() / "va.csv").open() as file:
        return list(csv.DictReader(file))


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def patient(row: dict[str, str]) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": f"p-{row['PSEUDO_ID']}",
        "identifier": [{"system": "http://va.example/mrn", "value": row["PSEUDO_ID"]}],
        "gender": GENDERS[row["SEX_CD"]],
        "birthDate": f"{1999 - int(row['AGE'])}-07-01",
    }


def observation(row: dict[str, str], name: str, **changes: Any) -> dict[str, Any]:
    """One value of a row: a quantity with its UCUM code, or a coded one."""
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "status": "final",
        "code": concept(
            LOINC if name in NUMBERS and name != "OLDPEAK" else LOCAL, NUMBERS[name][0] if name in NUMBERS else name
        ),
        "subject": {"reference": f"Patient/p-{row['PSEUDO_ID']}"},
        "effectiveDateTime": "1999-12-01T08:30:00+01:00",
    }
    if name in NUMBERS:
        unit = NUMBERS[name][1]
        found["valueQuantity"] = {"value": float(row[name]), "unit": unit, "system": UCUM, "code": unit}
    else:
        found["valueCodeableConcept"] = concept(LOCAL, row[name])
    return found | changes


def condition(row: dict[str, str], **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "code": concept(ICD, "I25.1"),
        "subject": {"reference": f"Patient/p-{row['PSEUDO_ID']}"},
        "onsetDateTime": "1999",
    } | changes


def resources(row: dict[str, str]) -> list[dict[str, Any]]:
    """Everything that a hospital would record of a row; a missing value is no observation."""
    found = [patient(row), *(observation(row, name) for name in (*NUMBERS, *CODES) if row[name] != "-9")]
    return [*found, condition(row)] if row["DX_CD"] != "0" else found


def bundle(of: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": resource} for resource in of]}


def heart_bundle() -> dict[str, Any]:
    return bundle([resource for row in rows() for resource in resources(row)])


def mapping_text(**changes: str) -> str:
    """The mapping of those resources; a column's table may be replaced, `age='patient = "age"'`."""
    columns = {"sex": 'patient = "gender"', "age": 'patient = "age"', "disease": f'condition = ["{ICD}|I25*"]'}
    for name, (code, unit) in NUMBERS.items():
        columns[name] = f'observation = "{LOINC if name != "OLDPEAK" else LOCAL}|{code}"\nunit = "{unit}"'
    columns |= {name: f'observation = "{LOCAL}|{name}"' for name in CODES}
    tables = "\n".join(f"[source.fhir.columns.{name}]\n{text}" for name, text in (columns | changes).items())
    rest = (
        (heart_folder() / "va.mapping.toml").read_text().partition("[columns.cp]")[2].partition("[columns.disease]")[0]
    )
    return (
        '[source]\nkind = "fhir"\npath = "bundle.json"\npatient_id = "http://va.example/mrn"\n[source.fhir]\nas_of = 1999-12-31\n'
        f"{tables}\n[columns.cp]{rest}"
    )
