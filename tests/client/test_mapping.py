"""Mappings: what is accepted, and that a wrong one is refused by field and column."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.mapping import ColumnMapping, Mapping, check_fits, load_mapping, parse_number, table_path
from fedward.privacy.errors import InputError
from fedward.study.manifest import Manifest, parse

GOOD = """
[source]
path = "export.csv"
patient_id = "id"
missing = ["?"]

[columns.age]
from = "Age"

[columns.sex]
from = "Gender"
values = { M = "male", F = "female" }

[columns.disease]
values = { no = "0", yes = "1" }
"""


@pytest.fixture
def manifest() -> Manifest:
    return parse(
        {
            "study": {"id": "small", "title": "A small study"},
            "outcome": {"column": "disease"},
            "features": [
                {"type": "numeric", "column": "age", "bounds": [18, 100]},
                {"type": "categorical", "column": "sex", "levels": ["female", "male"]},
            ],
            "model": {"name": "logistic-regression"},
            "training": {"algorithm": "fedsgd", "rounds": 1},
            "federation": {"quorum": 1},
            "privacy": {"mechanism": "none", "secure_aggregation": False},
        }
    )


def _load(folder: Path, text: str) -> Mapping:
    path = folder / "site.mapping.toml"
    path.write_text(text, encoding="utf-8")
    return load_mapping(path)


def _refused(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        _load(folder, text)
    return str(caught.value)


def test_a_mapping_is_read(tmp_path: Path, manifest: Manifest) -> None:
    mapping = _load(tmp_path, GOOD)
    check_fits(mapping, manifest)
    assert mapping.origin("age") == "Age"
    assert mapping.origin("disease") == "disease"
    assert mapping.marks("age") == {"", "?"}
    assert mapping.source.on_invalid == "refuse"
    assert table_path(mapping, tmp_path / "site.mapping.toml") == tmp_path / "export.csv"


def test_a_study_column_that_is_not_mapped_keeps_its_name(tmp_path: Path, manifest: Manifest) -> None:
    mapping = _load(tmp_path, '[source]\npatient_id = "id"\n')
    check_fits(mapping, manifest)
    assert mapping.origin("sex") == "sex"
    with pytest.raises(InputError, match="names no file"):
        table_path(mapping, tmp_path / "site.mapping.toml")


@pytest.mark.parametrize(
    ("change", "with_", "named"),
    [
        ('patient_id = "id"', "", "source.patient_id"),
        ('patient_id = "id"', 'patient_id = ""', "source.patient_id"),
        ('missing = ["?"]', "missing = [-9]", "source.missing.0"),
        ('missing = ["?"]', 'missing = "?"', "source.missing"),
        ('missing = ["?"]', 'delimiter = "::"', "source.delimiter"),
        ('missing = ["?"]', 'encoding = "rot13"', "source.encoding"),
        ('missing = ["?"]', 'decimal = "·"', "source.decimal"),
        ('missing = ["?"]', 'on_invalid = "ignore"', "source.on_invalid"),
        ('missing = ["?"]', 'mising = ["?"]', "source.mising"),
        ('from = "Age"', "from = 3", "columns.age.from"),
        ('from = "Age"', 'form = "Age"', "columns.age.form"),
        ('from = "Age"', "scale = 0", "columns.age.scale"),
        ('from = "Age"', "scale = inf", "columns.age.scale"),
        ('from = "Age"', 'scale = "2"', "columns.age.scale"),
        ('from = "Age"', "offset = nan", "columns.age.offset"),
        ('from = "Age"', "digits = -1", "columns.age.digits"),
        ('M = "male"', "M = 1", "columns.sex.values.M"),
        ('M = "male"', '" M" = "male"', "columns.sex.values"),
        ('M = "male"', '"?" = "male"', "columns.sex"),
        ("[columns.age]", "[colums.age]", "colums"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: str, with_: str, named: str) -> None:
    assert change in GOOD
    assert named in _refused(tmp_path, GOOD.replace(change, with_, 1))


def test_what_is_no_mapping_file_is_refused(tmp_path: Path) -> None:
    assert "not TOML" in _refused(tmp_path, "[source")
    assert "source" in _refused(tmp_path, "")
    with pytest.raises(InputError, match="no mapping at"):
        load_mapping(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes("# é".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        load_mapping(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("change", "with_", "said"),
    [
        ("[columns.age]", "[columns.aeg]", 'columns.aeg: no column of the study, did you mean "age"?'),
        ('"male"', '"Male"', 'columns.sex.values."M": "Male" is none of female, male, did you mean "male"?'),
        ('yes = "1"', 'yes = "2"', 'columns.disease.values."yes": "2" is none of 0, 1'),
        ('from = "Age"', 'values = { a = "1" }', "columns.age.values"),
        ('from = "Gender"', "scale = 2.0", "columns.sex: scale"),
        ('from = "Age"', 'from = "id"', "columns.age: reads the patient identifier"),
        ('from = "Age"', 'from = "disease"', "columns.age: reads the outcome"),
    ],
)
def test_a_mapping_that_does_not_fit_the_study_is_refused(
    tmp_path: Path, manifest: Manifest, change: str, with_: str, said: str
) -> None:
    mapping = _load(tmp_path, GOOD.replace(change, with_, 1))
    with pytest.raises(InputError) as caught:
        check_fits(mapping, manifest)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", "1"), ("-2.6", "-2.6"), (".7", "0.7"), ("5.", "5"), ("+1e2", "100"), ("007", "7"), ("0", "0")],
)
def test_numbers(text: str, number: str) -> None:
    assert parse_number(text) == Decimal(number)
    assert parse_number(text.replace(".", ","), ",") == Decimal(number)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "inf", "-Infinity", "nan", "NaN", "1_000", "1 000", "1,5", "1.2.3", "0x10", "١٢", "1e", "e5", "--1"],
)
def test_what_is_no_number(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize("text", ["9" * 65, "1e9999", "TRUE", ".", "1\n"])
def test_what_only_looks_like_a_number(text: str) -> None:
    assert parse_number(text) is None


def test_with_a_decimal_comma_a_point_is_no_number() -> None:
    assert parse_number("1.500", ",") is None
    assert parse_number("1.234,5", ",") is None


@given(st.text(max_size=80))
def test_any_text_is_a_number_or_none(text: str) -> None:
    for decimal in (".", ","):
        number = parse_number(text, decimal)
        assert number is None or number.is_finite()


@given(st.integers(0, 700))
def test_mmol_with_two_decimals_comes_back_as_whole_mg(mg: int) -> None:
    column = ColumnMapping.model_validate({"scale": 38.67, "digits": 0})
    assert column.convert(Decimal(f"{mg / 38.67:.2f}")) == mg


def test_conversion_is_decimal_and_has_no_negative_zero() -> None:
    assert ColumnMapping(scale=10.0).convert(Decimal("0.23")) == 2.3
    assert ColumnMapping(scale=1.8, offset=32.0).convert(Decimal("36.6")) == 97.88
    # 0.1 is not exactly a tenth in binary: taken as written, 0.9 × 0.1 is 0.09.
    assert ColumnMapping(scale=0.1).convert(Decimal("0.9")) == 0.09
    assert str(ColumnMapping().convert(Decimal("-0"))) == "0.0"
    assert str(ColumnMapping(digits=0).convert(Decimal("-0.2"))) == "0.0"
