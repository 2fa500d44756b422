"""Reading a hospital's table: every kind of bad input, and that no exception tells what a patient's cell says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward.client.mapping import Mapping
from fedward.client.sources import DataRefusedError, SiteTable, read_site_table, sheet
from fedward.privacy.errors import FedwardError, InputError
from fedward.study.manifest import Manifest, parse

CANARY = "Zyxwv-Quarantine"
HEAD = "id,Age,Sex,bp,disease\n"
GOOD = HEAD + "p1,20,M,120,0\np2,30,F,,1\np3,40.5,?,130,0\n"


def _manifest(**changes: Any) -> Manifest:
    return parse(
        {
            "study": {"id": "small", "title": "A small study"},
            "outcome": {"column": "disease"},
            "features": [
                {"type": "numeric", "column": "age", "bounds": [18, 100]},
                {"type": "categorical", "column": "sex", "levels": ["female", "male"]},
                {"type": "numeric", "column": "bp", "bounds": [60, 250]},
            ],
            "fairness": {"groups": [{"column": "sex"}]},
            "model": {"name": "logistic-regression"},
            "training": {"algorithm": "fedsgd", "rounds": 1},
            "federation": {"quorum": 1, "min_patients": 3},
            "privacy": {"mechanism": "none", "secure_aggregation": False},
        }
        | changes
    )


def _mapping(**source: Any) -> Mapping:
    return Mapping.model_validate(
        {
            "source": {"patient_id": "id", "missing": ("?", "-9")} | source,
            "columns": {
                "age": {"from": "Age"},
                "sex": {"from": "Sex", "values": {"M": "male", "F": "female"}},
                "bp": {"missing": ("0",)},
            },
        }
    )


def _read(folder: Path, content: str | bytes, *, manifest: Manifest | None = None, **source: Any) -> SiteTable:
    path = folder / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_site_table(path, _mapping(**source), manifest or _manifest())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _assert_silent(error: FedwardError, *secrets: str) -> None:
    """Nothing a log, a traceback or `--json` would print of the error holds a cell."""
    assert list(_chain(error)) == [error], "an exception that may hold cells is chained"
    shown = " ".join([str(error), repr(error), repr(error.args), json.dumps(error.as_json()), error.code])
    if isinstance(error, DataRefusedError):
        shown += repr(error.report)
    for secret in secrets:
        assert secret not in shown


def _refused(folder: Path, content: str | bytes, *secrets: str, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        _read(folder, content, **options)
    _assert_silent(caught.value, CANARY, *secrets)
    return caught.value


# ---- what comes out -------------------------------------------------------------------------------------------------


def test_the_frame_is_as_promised(tmp_path: Path) -> None:
    frame = _read(tmp_path, GOOD).frame
    assert list(frame.columns) == ["age", "sex", "bp", "disease"]
    assert [str(dtype) for dtype in frame.dtypes] == ["float64", "object", "float64", "int64"]
    assert (frame.index.name, str(frame.index.dtype), list(frame.index)) == ("patient", "object", ["p1", "p2", "p3"])
    assert frame["age"].tolist() == [20.0, 30.0, 40.5]
    assert frame["sex"].tolist() == ["male", "female", None]
    assert np.isnan(frame["bp"].iloc[1])
    assert frame["disease"].tolist() == [0, 1, 0]


def test_identifiers_stay_texts(tmp_path: Path) -> None:
    frame = _read(tmp_path, HEAD + "001,20,M,120,0\n1,30,F,120,1\n1.0,30,F,120,1\n").frame
    assert list(frame.index) == ["001", "1", "1.0"]
    assert all(type(patient) is str for patient in frame.index)


def test_a_mark_that_is_a_number_means_that_number(tmp_path: Path) -> None:
    frame = _read(tmp_path, HEAD + "a,-9.0,M,0.0,0\nb,-9,F,00,1\nc,30,F,120,1\n").frame
    assert np.isnan(frame["age"].to_numpy()).tolist() == [True, True, False]
    assert np.isnan(frame["bp"].to_numpy()).tolist() == [True, True, False]


def test_spaces_unused_columns_quotes_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    content = '\ufeffid ,note,Age,Sex,bp,disease,\r\np1,"a, ""b""\nc", 20 , M,120,0,\r\n\r\n'
    frame = _read(tmp_path, content).frame
    assert list(frame.itertuples(name=None)) == [("p1", 20.0, "male", 120.0, 0)]


def test_other_delimiters_encodings_and_decimal_marks(tmp_path: Path) -> None:
    content = "id;Age;Sex;bp;disease;Größe\np1;20,5;M;120;0;ä\n".encode("cp1252")
    frame = _read(tmp_path, content, delimiter=";", decimal=",", encoding="cp1252").frame
    assert frame["age"].tolist() == [20.5]
    assert len(_read(tmp_path, GOOD.encode("utf-16"), encoding="utf-16").frame) == 3


def test_units_are_converted_before_bounds_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,age,sex,bp,disease\na,240,male,12.3,1\nb,600,female,,0\n", encoding="utf-8")
    columns = {"age": {"scale": 1 / 12, "digits": 3}, "bp": {"scale": 10.0}}
    mapping = Mapping.model_validate({"source": {"patient_id": "id"}, "columns": columns})
    frame = read_site_table(path, mapping, _manifest()).frame
    assert frame["age"].tolist() == [20.0, 50.0]
    assert frame["bp"].iloc[0] == 123.0


def test_five_patients_of_one_class_are_loaded_with_warnings(tmp_path: Path) -> None:
    rows = "".join(f"p{i},{20 + i},M,120,1\n" for i in range(5))
    table = _read(tmp_path, HEAD + rows, manifest=_manifest(federation={"quorum": 1, "min_patients": 20}))
    assert len(table.frame) == 5
    assert any("same outcome" in warning for warning in table.report.warnings)
    assert any("at least 20" in warning for warning in table.report.warnings)


def test_a_site_tables_repr_shows_no_patient(tmp_path: Path) -> None:
    assert "p1" not in repr(_read(tmp_path, GOOD))


# ---- a file that is no table ----------------------------------------------------------------------------------------


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="no data file at"):
            read_site_table(path, _mapping(), _manifest())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("\n \n,,\n", "is empty"),
        (HEAD, "column names and no rows"),
        (HEAD + "\n,,,,\n", "column names and no rows"),
    ],
)
def test_an_empty_table_is_refused(tmp_path: Path, content: str, said: str) -> None:
    assert said in str(_refused(tmp_path, content))
    assert said in str(_refused(tmp_path, content, on_invalid="clip"))


def test_a_file_in_another_encoding_is_refused_without_its_bytes(tmp_path: Path) -> None:
    error = _refused(tmp_path, GOOD.encode() + f"{CANARY},é".encode("latin-1"), "40.5")
    assert "not utf-8 text" in str(error)
    assert "encoding" in str(error.remedy)
    assert "binary" in str(_refused(tmp_path, GOOD.replace("p1", "\0p1")))


def test_a_file_over_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MAX_TABLE_BYTES", len(GOOD) - 1)
    error = _refused(tmp_path, GOOD)
    assert "too large" in str(error)
    assert str(len(GOOD)) in str(error)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", CANARY)

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "Permission denied" in str(_refused(tmp_path, GOOD))


@pytest.mark.parametrize(
    "row",
    [f'p4,"{CANARY},M,120,0\n', f'p4,"20"{CANARY},M,120,0\n', f"p4,{CANARY * 10_000},M,120,0\n"],
    ids=["unclosed quote", "text after a quote", "a cell without end"],
)
def test_broken_csv_is_refused_by_row(tmp_path: Path, row: str) -> None:
    error = _refused(tmp_path, GOOD + row)
    assert "is no CSV" in str(error)
    assert "after row 4" in str(error)


@pytest.mark.parametrize("row", [f"p4,20,M,120,0,{CANARY}", f"p4,20,M,{CANARY}"])
def test_rows_of_another_width_are_refused_by_row(tmp_path: Path, row: str) -> None:
    error = _refused(tmp_path, GOOD + row + "\n", on_invalid="clip")
    assert "1 rows with more or fewer cells" in str(error)
    assert "row 5" in str(error)


# ---- columns --------------------------------------------------------------------------------------------------------


def test_a_missing_column_is_named_with_what_there_is_and_the_closest(tmp_path: Path) -> None:
    error = _refused(tmp_path, GOOD.replace("Sex", "Sexe"))
    assert 'lacks 1 of 5 columns. Expected "Sex" (for sex, did you mean "Sexe"?)' in str(error)
    assert '"id", "Age", "Sexe", "bp", "disease"' in str(error)


def test_a_file_without_column_names_shows_no_patient(tmp_path: Path) -> None:
    error = _refused(tmp_path, f"{CANARY},51,M,123,0\np2,52,F,124,1\n", "51", "123")
    assert "lacks 5 of 5 columns" in str(error)
    assert "a first line of 5 cells" in str(error)


def test_column_names_in_another_case_are_suggested(tmp_path: Path) -> None:
    error = _refused(tmp_path, GOOD.replace("id,Age,Sex,bp,disease", "ID,age,sex,BP,Disease"))
    assert '"Age" (for age, did you mean "age"?)' in str(error)


def test_a_wrong_delimiter_is_suspected(tmp_path: Path) -> None:
    assert "perhaps [source] delimiter is wrong" in str(_refused(tmp_path, GOOD.replace(",", ";")))


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    content = "id,Age,Sex,bp,disease,Age\np1,20,M,120,0,21\n"
    error = _refused(tmp_path, content)
    assert "several columns of one name" in str(error)
    assert '"Age"' in str(error)


def test_a_mapping_that_does_not_fit_is_refused_before_the_file_is_opened(tmp_path: Path) -> None:
    mapping = Mapping.model_validate({"source": {"patient_id": "id"}, "columns": {"weight": {}}})
    with pytest.raises(InputError, match=r"columns\.weight"):
        read_site_table(tmp_path / "none.csv", mapping, _manifest())


# ---- cells ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column", "what"),
    [
        (f"p4,{CANARY},M,120,0", "age", "not a number"),
        ("p4,inf,M,120,0", "age", "not a number"),
        ("p4,-Infinity,M,120,0", "age", "not a number"),
        ("p4,nan,M,120,0", "age", "not a number"),
        ("p4,NaN,M,120,0", "age", "not a number"),
        ("p4,1e999,M,120,0", "age", "not a number"),
        ("p4,5_1,M,120,0", "age", "not a number"),
        ("p4,TRUE,M,120,0", "age", "not a number"),
        ("p4,9871,M,120,0", "age", "outside the study's bounds"),
        ("p4,-17,M,120,0", "age", "outside the study's bounds"),
        ("p4,20,M,59.99,0", "bp", "outside the study's bounds"),
        (f"p4,20,{CANARY},120,0", "sex", "a code that the mapping does not know"),
        ("p4,20,m,120,0", "sex", "a code that the mapping does not know"),
        ("p4,20,male,120,0", "sex", "a code that the mapping does not know"),
        ("p4,20,M,120,", "disease", "no outcome"),
        ("p4,20,M,120,-9", "disease", "no outcome"),
        ("p4,20,M,120,2", "disease", "an outcome that the mapping does not know"),
        (f"p4,20,M,120,{CANARY}", "disease", "an outcome that the mapping does not know"),
        (",20,M,120,0", "id", "no patient identifier"),
        ("?,20,M,120,0", "id", "no patient identifier"),
        ("p1,20,M,120,0", "id", "the patient has an earlier row"),
    ],
)
def test_a_wrong_cell_is_refused_by_column_and_row(tmp_path: Path, row: str, column: str, what: str) -> None:
    error = _refused(tmp_path, GOOD + row + "\n", "9871", "59.99", "5_1")
    assert f"t.csv holds 1 values that cannot be used. Got {column}: 1 × {what}, row 5." in str(error)
    assert isinstance(error, DataRefusedError)
    assert (error.code, error.exit_code) == ("data-refused", 3)
    assert "for this hospital only" in str(error.remedy)
    (problem,) = error.report.problems
    assert (problem.row, problem.column, problem.what) == (5, column, what)
    assert problem.found in row


def test_clipping_mends_and_lists_each_cell(tmp_path: Path) -> None:
    rows = "p4,9871,M,120,0\np5,-17,F,120,1\np6,40,zz,inf,1\np7,40,M,oops,\np8,40,M,100,2\n"
    good = GOOD + "".join(f"q{i},30,F,120,{i % 2}\n" for i in range(5))
    table = _read(tmp_path, good + rows, on_invalid="clip")
    frame = table.frame
    assert "p7" not in frame.index
    assert "p8" not in frame.index
    assert (frame.loc["p4", "age"], frame.loc["p5", "age"]) == (100.0, 18.0)
    assert frame.loc["p6", "sex"] is None
    assert np.isnan(frame["bp"].loc["p6"])
    assert [(p.row, p.column, p.done) for p in table.report.problems] == [
        (10, "age", "clipped to the bound"),
        (11, "age", "clipped to the bound"),
        (12, "sex", "read as missing"),
        (12, "bp", "read as missing"),
        (13, "bp", "read as missing"),
        (13, "disease", "row excluded"),
        (14, "disease", "row excluded"),
    ]
    assert (table.report.rows, table.report.patients, table.report.excluded) == (13, 11, 2)


@pytest.mark.parametrize(
    ("row", "what"),
    [("p1,20,M,120,0", "earlier row"), (",20,M,120,0", "no patient identifier")],
)
def test_clipping_mends_no_identifier(tmp_path: Path, row: str, what: str) -> None:
    error = _refused(tmp_path, GOOD + row + "\n", on_invalid="clip")
    assert what in str(error)
    assert 'on_invalid = "clip"' not in str(error)


def test_the_same_patient_twice_says_how_rows_can_be_encounters(tmp_path: Path) -> None:
    error = _refused(tmp_path, GOOD + f"{CANARY},20,M,120,0\np2,20,M,120,0\n {CANARY} ,20,M,120,0\n")
    assert "id: 2 × the patient has an earlier row, rows 6, 7" in str(error)
    assert 'set [source] rows = "encounters"' in str(error)


def test_rows_that_are_encounters_may_share_a_patient(tmp_path: Path) -> None:
    more = GOOD + "p1,25,M,110,1\n p2 ,31,F,,0\n"
    table = _read(tmp_path, more, rows="encounters")
    assert list(table.frame.index) == ["p1", "p2", "p3", "p1", "p2"]
    assert (table.report.patients, table.report.encounters, table.report.rows) == (3, 5, 5)
    assert table.report.to_json()["patients"] == 3
    lines = "\n".join(table.report.lines())
    assert "Patients: 3, with 5 encounters." in lines
    assert "2 encounters (40.0%)" in lines


def test_encounters_need_a_patient_too(tmp_path: Path) -> None:
    assert "no patient identifier" in str(_refused(tmp_path, GOOD + ",20,M,120,0\n", rows="encounters"))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("M,120", f"M,{CANARY}", "bp: 3 × not a number"),
        ("M,120", "M,9871", "bp: 3 × outside the study's bounds"),
        (",M,", f",{CANARY},", "sex: 3 × a code that the mapping does not know"),
        ("0\n", "2\n", "disease: 3 × an outcome that the mapping does not know"),
    ],
)
def test_clipping_mends_no_column_that_is_mostly_wrong(tmp_path: Path, old: str, new: str, what: str) -> None:
    content = HEAD + "".join(f"p{i},20,M,120,0\n" for i in range(3)).replace(old, new) + "p9,20,F,130,1\n"
    assert what in str(_refused(tmp_path, content, "9871", on_invalid="clip"))


def test_clipping_away_every_row_is_refused(tmp_path: Path) -> None:
    error = _refused(tmp_path, HEAD + "p1,20,M,120,\np2,30,F,120,\n", on_invalid="clip")
    assert "disease: 2 × no outcome, rows 2, 3" in str(error)


def test_a_decimal_comma_is_suspected(tmp_path: Path) -> None:
    error = _refused(tmp_path, GOOD.replace(",", ";").replace("40.5", "40,7"), "40,7", delimiter=";")
    assert 'age looks like numbers with another decimal mark: try [source] decimal = ","' in str(error)


def test_a_long_list_of_rows_is_cut_in_the_message(tmp_path: Path) -> None:
    error = _refused(tmp_path, GOOD + "".join(f"q{i},150,M,120,0\n" for i in range(25)))
    assert "age: 25 × outside the study's bounds, rows 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 and 15 more" in str(error)


def test_a_study_that_allows_no_missing_value_gets_none(tmp_path: Path) -> None:
    strict = _manifest(training={"algorithm": "fedsgd", "rounds": 1, "missing": "refuse"})
    for policy in ("refuse", "clip"):
        error = _refused(tmp_path, GOOD, manifest=strict, on_invalid=policy)
        assert "sex: 1 × missing where the study allows none, row 4" in str(error)
        assert "bp: 1 × missing where the study allows none, row 3" in str(error)
    rows = "".join(f"q{i},30,F,120,{i % 2}\n" for i in range(5))
    # "clip" would turn this code into a missing value, which the study allows as little.
    error = _refused(tmp_path, HEAD + rows + f"p9,30,{CANARY},120,0\n", manifest=strict, on_invalid="clip")
    assert "sex: 1 × a code that the mapping does not know, row 7" in str(error)


def _image_manifest() -> Manifest:
    features = [{"type": "image", "column": "scan", "shape": [1, 1, 3]}]
    return _manifest(features=features, fairness={"groups": []})


def test_an_image_is_pixels_and_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    mapping = Mapping.model_validate({"source": {"patient_id": "id"}, "columns": {"scan": {"from": "px"}}})
    path.write_text("id,px_0,px_1,px_2,disease\na,0,1,255,1\nb,4,5,6,0\n", encoding="utf-8")
    frame = read_site_table(path, mapping, _image_manifest()).frame
    assert list(frame.columns) == ["scan_0", "scan_1", "scan_2", "disease"]
    assert frame["scan_2"].tolist() == [255.0, 6.0]
    path.write_text("id,px_0,px_1,px_2,disease\na,0,,255,1\nb,4,5,6,0\n", encoding="utf-8")
    clipping = mapping.model_copy(update={"source": mapping.source.model_copy(update={"on_invalid": "clip"})})
    with pytest.raises(DataRefusedError, match=r"scan_1: 1 × missing where the study allows none, row 2"):
        read_site_table(path, clipping, _image_manifest())
    path.write_text("id,px_0,px_2,disease\na,0,255,1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r'"px_1" \(for scan_1'):
        read_site_table(path, mapping, _image_manifest())


# ---- canaries -------------------------------------------------------------------------------------------------------

_SECRET = st.text("QZX#%;|\t\n\"'é\x1b 5", min_size=1, max_size=8).map(lambda text: f"{CANARY}{text}")
_CELL = st.one_of(st.sampled_from(["20", "M", "F", "0", "1", "", "?", "inf"]), _SECRET)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if len(cell) % 2 else cell


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.booleans(),
    policy=st.sampled_from(["refuse", "clip"]),
    encoding=st.sampled_from(["utf-8", "cp1252", "utf-16"]),
    rows=st.lists(st.lists(_CELL, min_size=4, max_size=6), min_size=1, max_size=6),
)
def test_no_exception_tells_a_cell(
    tmp_path: Path, header: bool, policy: str, encoding: str, rows: list[list[str]]
) -> None:
    content = (HEAD if header else "") + "\n".join(",".join(map(_quoted, row)) for row in rows) + "\n"
    try:
        _read(tmp_path, content.encode("utf-8"), on_invalid=policy, encoding=encoding)
    except InputError as error:
        _assert_silent(error, CANARY)
