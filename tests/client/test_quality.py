"""The quality report: complete, in order, for the hospital's eyes, and silent where a traceback would show it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fedward.client.mapping import Mapping
from fedward.client.quality import LISTED, QualityReport
from fedward.client.sources import DataRefusedError, read_site_table
from fedward.study.manifest import Manifest, parse


def _manifest(**changes: Any) -> Manifest:
    return parse(
        {
            "study": {"id": "small", "title": "A small study"},
            "outcome": {"column": "disease"},
            "features": [
                {"type": "numeric", "column": "age", "bounds": [18, 100]},
                {"type": "categorical", "column": "sex", "levels": ["female", "male"]},
            ],
            "fairness": {"groups": [{"column": "sex"}, {"column": "age", "cut": [18, 50, 80]}]},
            "model": {"name": "logistic-regression"},
            "training": {"algorithm": "fedsgd", "rounds": 1},
            "federation": {"quorum": 1, "min_patients": 3},
            "privacy": {"mechanism": "none", "secure_aggregation": False},
        }
        | changes
    )


def _report(folder: Path, rows: str, on_invalid: str = "clip", manifest: Manifest | None = None) -> QualityReport:
    path = folder / "t.csv"
    path.write_text("id,age,sex,disease\n" + rows, encoding="utf-8")
    mapping = Mapping.model_validate({"source": {"patient_id": "id", "on_invalid": on_invalid}})
    return read_site_table(path, mapping, manifest or _manifest()).report


MIXED = "a,20,male,0\nb,150,female,1\nc,,male,1\nd,90,x,0\ne,40,male,\n\nf,60,female,0\n"


def test_a_report_counts_everything(tmp_path: Path) -> None:
    report = _report(tmp_path, MIXED)
    assert (report.rows, report.blank_rows, report.patients, report.excluded) == (6, 1, 5, 1)
    assert (report.with_outcome, report.prevalence) == (2, 0.4)
    age, sex = report.columns
    assert (age.missing, age.missing_percent, age.minimum, age.maximum, age.bounds) == (1, 20.0, 20.0, 100.0, (18, 100))
    assert (sex.missing, sex.levels) == (1, {"female": 2, "male": 2})
    assert [group.sizes for group in report.groups] == [
        {"female": 2, "male": 2, "missing": 1},
        {"[18, 50)": 1, "[50, 80)": 1, "missing": 1, "outside every band": 2},
    ]


def test_problems_have_row_column_value_and_what_was_done(tmp_path: Path) -> None:
    report = _report(tmp_path, MIXED)
    assert [(p.row, p.column, p.kind, p.found, p.done) for p in report.problems] == [
        (3, "age", "out-of-bounds", "150", "clipped to the bound"),
        (5, "sex", "unknown-level", "x", "read as missing"),
        (6, "disease", "missing-outcome", "", "row excluded"),
    ]
    assert report.total_problems == 3


def test_rows_are_numbered_as_a_spreadsheet_does_past_blank_lines(tmp_path: Path) -> None:
    report = _report(tmp_path, "a,20,male,0\n\n,,,\nb,150,female,1\nc,30,male,0\n")
    assert [problem.row for problem in report.problems] == [5]
    assert report.blank_rows == 2


def test_lines_say_it_to_a_data_manager(tmp_path: Path) -> None:
    text = "\n".join(_report(tmp_path, MIXED).lines())
    for piece in (
        "For this hospital only",
        "Rows of data: 6 (and 1 blank, skipped). Patients: 5. Rows excluded: 1.",
        "Outcome disease: 2 patients (40.0%).",
        "18 to 100",
        "female 2, male 2",
        "age: [18, 50) 1, [50, 80) 1, missing 1, outside every band 2",
        "age: 1 × outside the study's bounds",
        "clipped to the bound",
        "Warning: rows left out for want of a known outcome: 1",
    ):
        assert piece in text


def test_lines_hold_no_control_characters(tmp_path: Path) -> None:
    lines = _report(tmp_path, 'a,20,"\x1b[2J\x07\nz",0\nb,30,male,1\nc,30,female,1\n').lines()
    assert all(line.isprintable() for line in lines)
    assert any("�[2J" in line for line in lines)


def test_the_report_is_json(tmp_path: Path) -> None:
    data = _report(tmp_path, MIXED).to_json()
    again = json.loads(json.dumps(data, allow_nan=False))
    assert again == data
    assert again["columns"][0]["bounds"] == [18, 100]
    assert again["problem_counts"][0] == {"column": "age", "kind": "out-of-bounds", "count": 1, "rows": [3]}
    assert again["problems"][0]["found"] == "150"


def test_no_repr_shows_a_value(tmp_path: Path) -> None:
    report = _report(tmp_path, MIXED)
    shown = repr(report) + repr(report.columns) + repr(report.problems) + repr(report.groups) + repr(report.counts)
    shown = re.sub(r"0x[0-9a-f]+", "", shown)  # an address may have any digits
    assert "150" not in shown
    assert "bounds=" not in shown


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        ("a,20,male,0\nb,30,female,0\nc,40,male,0\n", "same outcome (0)"),
        ("a,20,male,1\nb,30,female,1\nc,40,male,1\n", "same outcome (1)"),
        ("a,20,male,0\nb,30,female,1\n", "patients: 2, and the study asks for at least 3"),
        ("a,20,male,0\nb,20,female,1\nc,20,male,0\n", "age: every known value is the same"),
        ("a,20,male,0\nb,30,male,1\nc,40,male,0\n", "sex: every known value is the same"),
        ("a,20,male,0\nb,,female,1\nc,,male,0\n", "age: 67% of the values are missing"),
        ("a,20,,0\nb,30,,1\nc,40,,0\n", "sex: no patient has a value"),
        ("a,20,male,0\nb,90,female,1\nc,40,male,0\n", "age: patients in no group that the study compares: 1"),
    ],
)
def test_what_is_allowed_and_odd_is_a_warning(tmp_path: Path, rows: str, warning: str) -> None:
    assert any(warning in found for found in _report(tmp_path, rows, "refuse").warnings)


def test_a_good_table_has_no_warning(tmp_path: Path) -> None:
    rows = "".join(f"{i},{20 + i},{'male' if i % 4 < 2 else 'female'},{i % 2}\n" for i in range(55))
    assert _report(tmp_path, rows, "refuse").warnings == ()


def test_a_long_list_is_cut_and_the_count_is_not(tmp_path: Path) -> None:
    rows = "".join(f"p{i},{150 if i % 3 == 0 else 50},male,{i % 2}\n" for i in range(3 * (LISTED + 5)))
    report = _report(tmp_path, rows)
    assert report.total_problems == LISTED + 5
    assert len(report.problems) == LISTED
    assert any(f"{LISTED} of them are listed" in line for line in report.lines())


def test_a_refused_table_has_a_report_too(tmp_path: Path) -> None:
    with pytest.raises(DataRefusedError) as caught:
        _report(tmp_path, MIXED, "refuse")
    report = caught.value.report
    assert report.total_problems == 3
    assert report.refused
    assert report.to_json()["refused"] is True
    assert any(line.startswith("REFUSED") for line in report.lines())
    assert {problem.done for problem in report.problems} == {"table refused"}


def test_an_image_is_one_line(tmp_path: Path) -> None:
    features = [{"type": "image", "column": "scan", "shape": [1, 2, 2], "bounds": [0, 255]}]
    manifest = _manifest(features=features, fairness={"groups": []})
    path = tmp_path / "t.csv"
    path.write_text("id,scan_0,scan_1,scan_2,scan_3,disease\na,0,10,20,30,1\nb,0,0,0,255,0\n", encoding="utf-8")
    table = read_site_table(path, Mapping.model_validate({"source": {"patient_id": "id"}}), manifest)
    assert list(table.frame.columns) == ["scan_0", "scan_1", "scan_2", "scan_3", "disease"]
    (column,) = table.report.columns
    assert (column.column, column.minimum, column.maximum, column.missing) == ("scan", 0.0, 255.0, 0)
