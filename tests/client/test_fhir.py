"""FHIR R4 resources as a source: the table that the same hospital's CSV gives, what counts, units, and silence about patients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import heart_fhir as made
import pandas as pd
import pytest
from federation import heart_manifest

from fedward.client import datasets
from fedward.client.home import SiteHome
from fedward.client.mapping import load_mapping
from fedward.client.sources import DataRefusedError, SiteTable, read_site_table
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.ledger import Budget
from fedward.study.heart import heart_folder

CANARY = "Zyxwv-Quarantine"
MANIFEST = heart_manifest()
GOLDEN = Path(__file__).parents[1] / "golden" / "fhir-r4-elements.json"


def write(folder: Path, resources: object, name: str = "bundle.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(resources))
    return path


def mapping(folder: Path, **changes: str) -> Path:
    path = folder / "mapping.toml"
    path.write_text(made.mapping_text(**changes))
    return path


def read(folder: Path, resources: list[dict[str, Any]], **changes: str) -> SiteTable:
    return read_site_table(write(folder, made.bundle(resources)), load_mapping(mapping(folder, **changes)), MANIFEST)


def some(count: int = 4) -> list[dict[str, Any]]:
    return [resource for row in made.rows()[:count] for resource in made.resources(row)]


def first(resources: list[dict[str, Any]], code: str) -> dict[str, Any]:
    return next(one for one in resources if one.get("code", {}).get("coding", [{}])[0].get("code") == code)


def refused(folder: Path, resources: object, **changes: str) -> FedwardError:
    with pytest.raises(FedwardError) as caught:
        read_site_table(write(folder, resources), load_mapping(mapping(folder, **changes)), MANIFEST)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    assert CANARY not in f"{error} {error!r} {error.args}"
    return error


# ---- R4 and R4B ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(json.loads(GOLDEN.read_text())))
def test_r4b_has_every_element_of_r4_with_its_type_and_no_other(name: str) -> None:
    """The golden file holds R4's (4.0.1) elements of the three resources and of the types that are read; `*` marks a list."""
    module = import_module(f"fhir.resources.R4B.{name.removesuffix('Component').lower()}")
    model = getattr(module, name)
    found = {}
    for field, annotation in vars(model)["__annotations__"].items():
        if field in model.model_fields and not field.endswith("__ext"):
            kind = re.search(r"fhirtypes\.(\w+)", annotation)
            plain = kind[1].removesuffix("Type") if kind else annotation.split(" |")[0]
            found[model.model_fields[field].alias or field] = ("*" if "List" in annotation else "") + plain
    assert found == json.loads(GOLDEN.read_text())[name]


# ---- the same table --------------------------------------------------------------------------------------------------


def test_the_heart_hospital_s_resources_give_the_table_of_its_csv(tmp_path: Path) -> None:
    own = load_mapping(heart_folder() / "va.mapping.toml")
    wanted = read_site_table(heart_folder() / "va.csv", own, MANIFEST).frame.sort_index()
    path = write(tmp_path, made.heart_bundle())
    found = read_site_table(path, load_mapping(mapping(tmp_path)), MANIFEST)
    pd.testing.assert_frame_equal(found.frame, wanted)
    assert "row 1 is the first patient by identifier" in found.report.numbering


def test_bundles_single_resources_and_ndjson_in_a_folder_are_one_source(tmp_path: Path) -> None:
    resources = some(3)
    whole = read(tmp_path, resources)
    folder = tmp_path / "export"
    (folder / "deeper").mkdir(parents=True)
    write(folder, made.bundle(resources[:5]), "a.json")
    write(folder, resources[5], "one.json")
    (folder / "deeper" / "rest.ndjson").write_text("\n\n".join(json.dumps(one) for one in resources[6:]) + "\n")
    (folder / "readme.txt").write_text("not FHIR")
    write(folder, {"resourceType": "Encounter", "anything": "goes"}, "other.json")
    found = read_site_table(folder, load_mapping(mapping(tmp_path)), MANIFEST)
    pd.testing.assert_frame_equal(found.frame, whole.frame)


def test_registered_files_are_what_trains(tmp_path: Path) -> None:
    home = SiteHome.create(tmp_path / "home", "va", Budget(10.0, 1e-3))
    path = write(tmp_path, made.heart_bundle())
    done = datasets.register(home, MANIFEST, None, mapping(tmp_path), 1)
    assert (done.dataset.kind, done.dataset.patients, done.dataset.source) == ("fhir", 200, str(path))
    assert len(datasets.load(home, done.dataset, MANIFEST)) == 200
    datasets.unchanged(done.dataset)
    resources = [resource for row in made.rows() for resource in made.resources(row)]
    first(resources, "2093-3")["valueQuantity"]["value"] = 200
    for change in (lambda: write(tmp_path, made.bundle(resources)), lambda: path.write_text("{"), path.unlink):
        change()
        for look in (lambda: datasets.load(home, done.dataset, MANIFEST), lambda: datasets.unchanged(done.dataset)):
            with pytest.raises(IntegrityError) as caught:
                look()
            assert caught.value.code == "data-changed"


# ---- what counts -----------------------------------------------------------------------------------------------------


def cell(folder: Path, changed: Callable[[list[dict[str, Any]], dict[str, str]], object], **changes: str) -> Any:
    """The first patient's cholesterol after a change of their resources."""
    resources, row = some(), made.rows()[0]
    changed(resources, row)
    return read(folder, resources, **changes).frame.loc[row["PSEUDO_ID"], "chol"]


def chol(row: dict[str, str], value: float, day: str, **changes: Any) -> dict[str, Any]:
    quantity = {"value": value, "system": made.UCUM, "code": "mg/dL"}
    return made.observation(row, "CHOL", effectiveDateTime=day, valueQuantity=quantity) | changes


BASE = 'observation = "http://loinc.org|2093-3"\nunit = "mg/dL"\n'


@pytest.mark.parametrize(
    ("take", "value"), [("latest", 310), ("first", 150), ("mean", 240), ("lowest", 150), ("highest", 310)]
)
def test_which_of_several_values_is_taken(tmp_path: Path, take: str, value: float) -> None:
    def change(resources: list[dict[str, Any]], row: dict[str, str]) -> None:
        resources += [chol(row, 310, "2000-01-05"), chol(row, 150, "1998-05")]  # beside the 260 of December 1999

    assert cell(tmp_path, change, CHOL=f'{BASE}take = "{take}"') == value


def test_a_window_is_by_days_and_both_ends_are_in_it(tmp_path: Path) -> None:
    def change(resources: list[dict[str, Any]], row: dict[str, str]) -> None:
        resources.remove(first(resources, "2093-3"))
        undated = chol(row, 400, "")
        del undated["effectiveDateTime"]
        period = chol(row, 170, "", effectivePeriod={"start": "1999-03-05", "end": "1999-09-09"})
        del period["effectiveDateTime"]
        resources += [chol(row, 310, "1999-03-06"), chol(row, 150, "1999-03-04T23:59:59Z"), period, undated]

    window = "since = 1999-03-05\nuntil = 1999-03-05"
    assert cell(tmp_path, change, CHOL=f"{BASE}{window}") == 170


@pytest.mark.parametrize("status", ["preliminary", "entered-in-error", "cancelled", "registered", "unknown"])
def test_what_is_not_final_does_not_count(tmp_path: Path, status: str) -> None:
    add = lambda resources, row: resources.append(chol(row, 310, "2000-01-05", status=status))  # noqa: E731
    assert cell(tmp_path, add) == 260
    amended = lambda resources, row: resources.append(chol(row, 310, "2000-01-05", status="amended"))  # noqa: E731
    assert cell(tmp_path, amended) == 310


@pytest.mark.parametrize("code", ["mmol/L", None])
def test_a_value_in_another_unit_is_refused_with_what_it_says_in_the_report_alone(
    tmp_path: Path, code: str | None
) -> None:
    resources = some()
    quantity = {"value": 6.7123, "unit": "mmol/L", **({"system": made.UCUM, "code": code} if code else {})}
    first(resources, "2093-3")["valueQuantity"] = quantity
    error = refused(tmp_path, made.bundle(resources))
    assert "chol: 1 × in another unit than the mapping says, row 2" in str(error)
    assert "6.7123" not in str(error)
    assert isinstance(error, DataRefusedError)
    assert error.report.problems[0].found == "6.7123 mmol/L"


def test_a_unit_that_the_mapping_names_is_converted(tmp_path: Path) -> None:
    def change(resources: list[dict[str, Any]], row: dict[str, str]) -> None:
        first(resources, "2093-3")["valueQuantity"] |= {"value": 6.7, "code": "mmol/L"}

    assert cell(tmp_path, change, CHOL=f'{BASE}units = {{ "mmol/L" = 38.67 }}') == pytest.approx(6.7 * 38.67)


def test_a_component_of_a_panel_is_read(tmp_path: Path) -> None:
    resources, row = some(), made.rows()[0]
    resources.remove(first(resources, "8480-6"))
    parts = [
        {
            "code": made.concept(made.LOINC, code),
            "valueQuantity": {"value": value, "system": made.UCUM, "code": "mm[Hg]"},
        }
        for code, value in (("8462-4", 85), ("8480-6", 133))
    ]
    panel = made.observation(row, "BP_SYS", code=made.concept(made.LOINC, "85354-9"), component=parts)
    del panel["valueQuantity"]
    text = 'observation = "http://loinc.org|85354-9"\ncomponent = "http://loinc.org|8480-6"\nunit = "mm[Hg]"'
    assert read(tmp_path, [*resources, panel], BP_SYS=text).frame.loc[row["PSEUDO_ID"], "trestbps"] == 133


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, 1),
        ({"code": {"coding": [{"system": made.LOCAL, "code": "x"}, {"system": made.ICD, "code": "I25"}]}}, 1),
        ({"code": made.concept(made.ICD, "I24.9")}, 0),
        ({"code": made.concept("http://snomed.info/sct", "I25.1")}, 0),
        ({"verificationStatus": made.concept("http://terminology.hl7.org/CodeSystem/condition-ver-status", "refuted")}, 0),
        ({"verificationStatus": made.concept("http://terminology.hl7.org/CodeSystem/condition-ver-status", "entered-in-error")}, 0),
        ({"verificationStatus": made.concept("http://terminology.hl7.org/CodeSystem/condition-ver-status", "confirmed")}, 1),
        ({"onsetDateTime": "1999-12"}, 1),
        ({"onsetDateTime": "2000-01"}, 0),
        ({"onsetDateTime": "2000-02-01"}, 0),
        ({"onsetDateTime": None, "recordedDate": "1999-06-01"}, 1),
        ({"onsetDateTime": None}, 0),
    ],
)  # fmt: skip
def test_the_outcome_is_a_condition_that_counts(tmp_path: Path, change: dict[str, Any], outcome: int) -> None:
    resources = [one for one in some() if one["resourceType"] != "Condition"]
    row = made.rows()[0]
    kept = {name: value for name, value in made.condition(row, **change).items() if value is not None}
    text = f'condition = ["{made.ICD}|I25*"]\nuntil = 1999-12-31'
    assert read(tmp_path, [*resources, kept], disease=text).frame.loc[row["PSEUDO_ID"], "disease"] == outcome


def test_references_by_full_url_and_by_absolute_url_are_followed(tmp_path: Path) -> None:
    row = made.rows()[0]
    resources = made.resources(row)
    del resources[0]["id"]
    for number, one in enumerate(resources[1:]):
        one["subject"]["reference"] = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"
        assert number >= 0
    whole = made.bundle(resources)
    whole["entry"][0]["fullUrl"] = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"
    found = read_site_table(write(tmp_path, whole), load_mapping(mapping(tmp_path)), MANIFEST)
    absolute = some(1)
    for one in absolute[1:]:
        one["subject"]["reference"] = f"https://ehr.example/fhir/{one['subject']['reference']}/_history/2"
    pd.testing.assert_frame_equal(read(tmp_path, absolute).frame, found.frame)


def test_observations_of_a_group_are_passed_over(tmp_path: Path) -> None:
    resources = some(2)
    whole = read(tmp_path, resources).frame
    group = chol(made.rows()[0], 310, "2001-01-01", subject={"reference": "Group/7"})
    pd.testing.assert_frame_equal(read(tmp_path, [*resources, group]).frame, whole)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_what_fhir_does_not_allow_is_refused_by_place_and_element(tmp_path: Path) -> None:
    resources = some(2)
    first(resources, "2093-3")["valueQuantity"]["value"] = CANARY
    error = refused(tmp_path, made.bundle(resources))
    place = resources.index(first(resources, "2093-3")) + 1
    assert f"a resource of the type Observation is not what FHIR R4 allows. Got bundle.json, entry {place}" in str(
        error
    )
    assert "valueQuantity" in str(error)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r[1].update(status=CANARY, unheard=CANARY), "not what FHIR R4 allows"),
        (lambda r: r[1].update({CANARY: {"a": 1}}), "not what FHIR R4 allows"),
        (lambda r: r[0].update(birthDate=CANARY), "not what FHIR R4 allows"),
        (lambda r: r[1]["subject"].update(reference=f"Patient/{CANARY}"), "who is not in the files"),
        (lambda r: r.append(dict(r[0])), "comes twice"),
        (
            lambda r: r[0]["identifier"].append({"system": "http://va.example/mrn", "value": CANARY}),
            "several identifiers",
        ),
        (lambda r: r[0]["identifier"].clear(), "no patient identifier"),
        (lambda r: r.clear(), "holds no patient"),
        (lambda r: r.append(CANARY), "holds no resource"),
    ],
)
def test_what_cannot_be_told_is_refused_in_silence(
    tmp_path: Path, change: Callable[[list[Any]], object], said: str
) -> None:
    resources = some(2)
    change(resources)
    assert said in str(refused(tmp_path, made.bundle(resources)))


@pytest.mark.parametrize(
    "text", ["", "{", f'["{CANARY}"]', f'{{"{CANARY}": 1}}', "[" * 100_000, '{"resourceType": "Bundle", "entry": 7}']
)
def test_what_is_no_fhir_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bundle.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_site_table(path, load_mapping(mapping(tmp_path)), MANIFEST)
    assert caught.value.__context__ is None
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('patient = "gender"\nobservation = "a|b"', "exactly one of"),
        ('unit = "mg/dL"', "exactly one of"),
        ('patient = "gender"\nunit = "mg/dL"', "are for an observation"),
        ('observation = "a|b"\nunits = { "mmol/L" = 2.0 }', "factors to unit"),
        ('observation = "2093-3"', "pattern"),
        ('observation = "a|b"\nsince = 2000-01-02\nuntil = 2000-01-01', "since must not lie after until"),
        ('observation = "a|b"\nuntill = 2000-01-02', "no such fields: untill"),
        ('patient = "gender"\nsince = 2000-01-02', "for observations and conditions"),
    ],
)
def test_a_mapping_that_says_too_much_or_too_little_is_refused(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_mapping(mapping(tmp_path, sex=table))
