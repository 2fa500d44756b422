"""Units, drift, the report's files, pandera's silence, and a registration that a crash leaves whole."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import fedward, good
from federation import heart_manifest
from hypothesis import given
from hypothesis import strategies as st

from fedward.client import datasets
from fedward.client.drift import psi
from fedward.client.home import SiteHome
from fedward.client.mapping import load_mapping
from fedward.client.sources import DataRefusedError, read_site_table
from fedward.client.sources.schema import PATIENT, failures, schema_of
from fedward.client.units import factors, suspects, unit_hint
from fedward.privacy.errors import FedwardError, InputError
from fedward.privacy.ledger import Budget
from fedward.study.heart import heart_folder
from fedward.study.manifest import NumericFeature

MANIFEST = heart_manifest()
MAPPING = heart_folder() / "va.mapping.toml"
CANARY = "Zyxwv-Quarantine"


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome.create(tmp_path / "home", "va", Budget(10.0, 1e-3))


def export() -> pd.DataFrame:
    return pd.read_csv(heart_folder() / "va.csv", dtype=str)


def register(home: SiteHome, frame: pd.DataFrame, at: int = 1) -> datasets.Registration:
    path = home.path.parent / f"export{at}.csv"
    frame.to_csv(path, index=False)
    return datasets.register(home, MANIFEST, path, MAPPING, at)


# ---- units ----------------------------------------------------------------------------------------------------------


def feature(unit: str, low: float, high: float, column: str = "x") -> NumericFeature:
    return NumericFeature(type="numeric", column=column, unit=unit, bounds=(low, high))


@pytest.mark.parametrize(
    ("column", "unit", "bounds", "median", "source", "factor"),
    [
        ("chol", "mg/dl", (85, 605), 5.3, "mmol/L (cholesterol)", 38.67),
        ("glucose", "mg/dL", (40, 600), 6.1, "mmol/L (glucose)", 18.016),
        ("creatinine", "mg/dl", (0.3, 15), 92, "µmol/L (creatinine)", 1 / 88.42),
        ("chol", "mmol/L", (2, 16), 210, "mg/dL (cholesterol)", 1 / 38.67),
        ("age", "years", (18, 100), 640, "months", 1 / 12),
        ("sbp", "mm Hg", (60, 260), 17.3, "kPa", 7.50062),
        ("weight", "kg", (30, 250), 80_000, "g", 0.001),
        ("height", "cm", (100, 230), 1.72, "m", 100),
        ("anything", "furlongs", (10, 90), 4.0, "a tenth of it", 10),
    ],
)
def test_a_median_out_of_bounds_says_which_unit_it_may_be(
    column: str, unit: str, bounds: tuple[float, float], median: float, source: str, factor: float
) -> None:
    found = suspects(feature(unit, *bounds, column), median, None)[0]
    assert (found.source, found.factor) == (source, pytest.approx(factor))


@given(st.sampled_from(["mg/dl", "years", "mmHg", "kg", "%", "x"]), st.floats(1, 1000))
def test_a_median_where_it_was_is_never_suspected(unit: str, median: float) -> None:
    assert suspects(feature(unit, 0, 2000), median, median * 1.3) == []
    assert suspects(feature(unit, 0, 2000), median, None) == []
    assert all(suspects(feature(unit, 0, 1e9), median / one.factor, median) for one in factors(unit))


def test_a_few_values_in_another_unit_are_noticed_beside_the_others() -> None:
    cholesterol = feature("mg/dl", 85, 605, "chol")
    values = np.array([200.0, 210, 190, 250, 230, np.nan, 5.1, 5.6])
    assert unit_hint(cholesterol, values) == (
        "chol: the values out of bounds may be in mmol/L (cholesterol): scale = 38.67"
    )
    assert unit_hint(cholesterol, values[:6]) == ""


def test_a_refusal_says_the_unit_and_no_value(home: SiteHome) -> None:
    frame = export()
    frame["CHOL"] = (frame["CHOL"].astype(float) / 38.67).round(2).where(frame["CHOL"] != "-9", "-9").astype(str)
    with pytest.raises(DataRefusedError) as caught:
        register(home, frame)
    assert "chol: the values out of bounds may be in mmol/L (cholesterol): scale = 38.67" in str(caught.value)
    assert not any(value in str(caught.value) for value in set(frame["CHOL"]) - {"-9", "0.0"})


# ---- drift ----------------------------------------------------------------------------------------------------------


def test_the_index_is_the_sum_of_its_definition() -> None:
    p, q = np.array([10.5, 20.5, 30.5]) / 61.5, np.array([30.5, 20.5, 10.5]) / 61.5
    assert psi([10, 20, 30], [30, 20, 10]) == pytest.approx(sum((p - q) * np.log(p / q)))
    assert psi([5, 5], [50, 50]) == pytest.approx(0, abs=1e-9)


def test_the_first_registration_compares_itself_with_nothing(home: SiteHome) -> None:
    assert register(home, export()).report.drift is None


def test_the_same_data_again_shows_no_shift(home: SiteHome) -> None:
    register(home, export())
    drift = register(home, export(), 86_400).report.drift
    assert drift is not None
    assert (drift.stayed, drift.new, drift.gone, drift.since) == (200, 0, 0, 1)
    assert {column.word for column in drift.columns} == {"none"}
    assert "no column's values shifted more than chance explains" in "\n".join(drift.lines())


def test_half_of_the_patients_are_no_shift_and_are_counted(home: SiteHome) -> None:
    frame = export()
    register(home, frame.iloc[:120])
    drift = register(home, frame.iloc[60:], 2).report.drift
    assert drift is not None
    assert (drift.stayed, drift.new, drift.gone) == (60, 80, 60)
    assert {column.word for column in drift.columns} == {"none"}


def test_shifts_of_numbers_levels_missing_values_and_units_are_told(home: SiteHome) -> None:
    frame = export()
    register(home, frame)
    frame["AGE"] = (frame["AGE"].astype(int) + 12).clip(upper=99).astype(str)
    frame["CP_CD"] = "1"
    frame["THAL_CD"] = "-9"
    frame["HR_MAX"] = "-9"
    frame["OLDPEAK"] = frame["OLDPEAK"].map(lambda text: text if text == "-9" else str(round(abs(float(text)) / 10, 3)))
    drift = register(home, frame, 2).report.drift
    assert drift is not None
    words = {column.column: column.word for column in drift.columns}
    assert (words["age"], words["cp"], words["thalach"]) == ("large", "large", "large")
    assert (words["sex"], words["fbs"], words["disease"]) == ("none", "none", "none")
    assert any(hint.startswith("oldpeak: its unit may have changed since") for hint in drift.hints)
    text = "\n".join(drift.lines())
    assert "age: large shift of its values (PSI" in text


# ---- the report -----------------------------------------------------------------------------------------------------


def test_the_report_is_kept_encrypted_and_shown_again_refused_or_not(home: SiteHome, tmp_path: Path) -> None:
    frame = export()
    frame.loc[3, "CHOL"] = CANARY
    with pytest.raises(DataRefusedError):
        register(home, frame)
    kept, lines = datasets.kept_report(home, MANIFEST.study.id)
    assert kept["problems"][0]["found"] == CANARY
    assert any(CANARY in line for line in lines)
    assert "To fix it: correct the cells" in "\n".join(lines)
    assert not any(CANARY.encode() in path.read_bytes() for path in home.path.rglob("*") if path.is_file())
    shown = fedward("site", "data", MANIFEST.study.id, "--home", home.path)
    assert CANARY in shown.out
    assert good("site", "data", MANIFEST.study.id, "--home", home.path) == kept
    assert fedward("site", "data", "no-such-study", "--home", home.path).code == 3


@pytest.mark.parametrize("suffix", ["md", "html"])
def test_a_report_file_shows_what_a_file_says_and_runs_none_of_it(home: SiteHome, tmp_path: Path, suffix: str) -> None:
    frame, out = export(), tmp_path / f"report.{suffix}"
    frame.loc[3, "CHOL"] = "<script>|[x](y)"
    path = tmp_path / "bad.csv"
    frame.to_csv(path, index=False)
    ran = fedward("site", "register", "--study", heart_folder() / "study.toml", "--data", path, "--mapping", MAPPING,
                  "--report", out, "--home", home.path)  # fmt: skip
    assert ran.code == 3
    assert "script" not in ran.err
    text = out.read_text()
    assert out.stat().st_mode & 0o777 == 0o600
    for words in ("For this hospital only", "chol", "not a number", "correct the cells", "asymptomatic", "Groups"):
        assert words in text
    assert "<script>" not in text
    assert ("&lt;script&gt;|[x](y)" if suffix == "html" else r"\<script\>\|\[x\](y)") in text


def test_a_report_of_another_form_is_refused_before_anything_is_read(home: SiteHome, tmp_path: Path) -> None:
    study, out = heart_folder() / "study.toml", tmp_path / "r.pdf"
    ran = fedward("site", "register", "--study", study, "--mapping", MAPPING, "--report", out, "--home", home.path)
    assert (ran.code, datasets.registered(home)) == (2, [])


# ---- pandera ---------------------------------------------------------------------------------------------------------


def test_the_schema_finds_each_kind_and_says_no_value_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    table = read_site_table(heart_folder() / "va.csv", load_mapping(MAPPING), MANIFEST)
    loose = table.frame.reset_index().rename(columns={"patient": PATIENT}).astype({PATIENT: object})
    loose["disease"] = loose["disease"].astype(str).astype(object)
    strict = heart_manifest(training={"missing": "refuse"})
    schema = schema_of(MANIFEST, one_row_a_patient=True)
    assert failures(loose, schema, MANIFEST) == []
    assert {kind for _, kind, _ in failures(loose, schema_of(strict, one_row_a_patient=True), strict)} == {
        "missing-value"
    }
    loose.loc[4, "age"] = 9871.0
    loose.loc[5, "sex"] = CANARY
    loose.loc[6, "disease"] = "2"
    loose.loc[7, "disease"] = None
    loose.loc[8, PATIENT] = loose.loc[3, PATIENT]
    loose.loc[9, PATIENT] = None
    assert set(failures(loose, schema, MANIFEST)) == {
        ("age", "out-of-bounds", 4), ("sex", "unknown-level", 5), ("disease", "unknown-outcome", 6),
        ("disease", "missing-outcome", 7),
        (PATIENT, "duplicate-patient", 8), (PATIENT, "missing-patient", 9)}  # fmt: skip
    assert ("duplicate-patient", 8) not in {
        (kind, place) for _, kind, place in failures(loose, schema_of(MANIFEST, one_row_a_patient=False), MANIFEST)
    }
    assert CANARY not in caplog.text


@pytest.mark.parametrize("change", ["type", "column", "more"])
def test_a_frame_of_another_form_is_this_program_s_fault_and_refused(change: str) -> None:
    table = read_site_table(heart_folder() / "va.csv", load_mapping(MAPPING), MANIFEST)
    loose = table.frame.reset_index().rename(columns={"patient": PATIENT}).astype({PATIENT: object})
    loose["disease"] = loose["disease"].astype(str).astype(object)
    if change == "type":
        loose["age"] = loose["age"].astype(str).astype(object)
    elif change == "column":
        loose = loose.drop(columns="age")
    else:
        loose[CANARY] = 1
    with pytest.raises(InputError, match="form of the study's schema") as caught:
        failures(loose, schema_of(MANIFEST, one_row_a_patient=True), MANIFEST)
    assert caught.value.__context__ is None
    assert CANARY not in str(caught.value)


# ---- a crash --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, 5))
def test_a_registration_that_dies_leaves_the_old_one_whole(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At each of its durable writes; the next one then goes through, and compares itself with the one that held."""
    frame = export()
    before = register(home, frame).dataset
    writes = iter(range(1, 100))
    real, record = SiteHome.write, SiteHome.record

    def write(self: SiteHome, path: Path, data: bytes) -> None:
        if next(writes) == at:
            raise OSError("the machine is gone")
        real(self, path, data)

    def note(self: SiteHome, *arguments: object, **fields: object) -> object:
        if next(writes) == at:
            raise OSError("the machine is gone")
        return record(self, *arguments, **fields)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SiteHome, "write", write)
        patch.setattr(SiteHome, "record", note)
        with pytest.raises((OSError, FedwardError)):
            register(home, frame.iloc[:150], 2)
    assert datasets.find(home, MANIFEST.study.id) == before
    assert datasets.remaining(home, before) == 200
    assert len(datasets.load(home, before, MANIFEST)) == 200
    done = register(home, frame.iloc[:150], 3)
    assert done.report.drift is not None
    assert (done.report.drift.stayed, done.report.drift.gone) == (150, 50)
    assert len(list((home.path / "datasets").glob("*.facts"))) == 1


def test_the_report_is_json_with_its_drift(home: SiteHome) -> None:
    register(home, export())
    data = register(home, export().iloc[:100], 2).report.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))
    assert data["drift"]["gone"] == 100
