"""Encoding: by the manifest's public constants alone, checked against the formula by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.errors import InputError
from fedward.study.encoding import encode, group_names, input_names
from fedward.study.manifest import Manifest, parse

FEATURES = [
    {"column": "age", "type": "numeric", "bounds": [20, 100]},
    {"column": "sex", "type": "categorical", "levels": ["female", "male"]},
]


def study(features: list[dict[str, object]] | None = None, **tables: dict[str, object]) -> Manifest:
    data = heart_manifest().model_dump(mode="json")
    data["features"] = FEATURES if features is None else features
    data["fairness"] = {"groups": []}
    for table, values in tables.items():
        data[table] |= values
    return parse(data)


def table(**columns: list[object]) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    columns.setdefault("disease", [0] * rows)
    return pd.DataFrame(columns, index=pd.Index([f"p{i}" for i in range(rows)], name="patient"))


def test_numbers_levels_and_gaps_by_hand() -> None:
    frame = table(age=[20.0, 60.0, 100.0, np.nan], sex=["male", "female", None, "male"], disease=[1, 0, 1, 0])
    got = encode(frame, study())
    assert input_names(study()) == ("age", "age:missing", "sex=female", "sex=male", "sex:missing")
    assert got.inputs.tolist() == [[-1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 1], [0, 1, 0, 1, 0]]
    assert got.inputs.dtype == np.float32
    assert got.outcomes.tolist() == [1, 0, 1, 0]
    assert got.patients == ("p0", "p1", "p2", "p3")
    assert got.membership.shape == (4, 0)


def test_where_nothing_may_be_missing_there_is_no_indicator_and_a_gap_is_refused() -> None:
    strict = study(training={"missing": "refuse"})
    assert input_names(strict) == ("age", "sex=female", "sex=male")
    assert encode(table(age=[100.0], sex=["male"]), strict).inputs.tolist() == [[1, 0, 1]]
    for frame in (table(age=[np.nan], sex=["male"]), table(age=[20.0], sex=[None])):
        with pytest.raises(InputError, match="missing values"):
            encode(frame, strict)


@settings(max_examples=60, deadline=None)
@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), shares=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_every_number_within_its_bounds_lands_in_the_unit_interval(
    low: float, width: float, shares: list[float]
) -> None:
    high = low + width
    manifest = study([{"column": "x", "type": "numeric", "bounds": [low, high]}])
    values = [min(max(low + share * width, low), high) for share in shares]
    encoded = encode(table(x=values), manifest).inputs[:, 0]
    expected = 2 * (np.array(values) - low) / (high - low) - 1
    assert np.abs(encoded).max() <= 1 + 1e-6
    np.testing.assert_allclose(encoded, expected, atol=1e-5)


def test_one_patient_never_changes_another_s_numbers() -> None:
    """Nothing is estimated from patients: normalisation costs no privacy."""
    rows = {"age": [25.0, 40.0, 99.0], "sex": ["male", None, "female"]}
    whole = encode(table(**rows), study()).inputs
    for i in range(3):
        alone = encode(table(**{k: [v[i]] for k, v in rows.items()}), study()).inputs
        assert np.array_equal(alone[0], whole[i])


def test_pixels_are_scaled_like_numbers_and_have_no_indicator() -> None:
    image = study([{"column": "scan", "type": "image", "shape": [1, 2, 2]}])
    frame = table(scan_0=[0.0], scan_1=[127.5], scan_2=[255.0], scan_3=[51.0])
    assert input_names(image) == ("scan_0", "scan_1", "scan_2", "scan_3")
    np.testing.assert_allclose(encode(frame, image).inputs, [[-1, 0, 1, -0.6]], atol=1e-6)


def test_columns_are_found_by_name_in_whatever_order() -> None:
    frame = table(age=[25.0, 40.0], sex=["male", "female"])
    turned = frame[frame.columns[::-1]].assign(other=1)
    assert np.array_equal(encode(frame, study()).inputs, encode(turned, study()).inputs)


@pytest.mark.parametrize("column", ["age", "sex", "disease"])
def test_an_absent_column_is_named(column: str) -> None:
    frame = table(age=[25.0], sex=["male"]).drop(columns=[column])
    with pytest.raises(InputError, match=column):
        encode(frame, study())


def test_groups_are_levels_and_half_open_bands() -> None:
    groups = [{"column": "sex"}, {"column": "age", "cut": [20, 50, 100]}]
    manifest = study(fairness={"groups": groups})
    frame = table(age=[20.0, 49.9, 50.0, 100.0, np.nan], sex=["male", "female", None, "male", "female"])
    assert group_names(manifest) == ("sex=female", "sex=male", "age in [20, 50)", "age in [50, 100)")
    assert encode(frame, manifest).membership.tolist() == [
        [False, True, True, False],
        [True, False, True, False],
        [False, False, False, True],
        [False, True, False, False],  # 100 is not below 100
        [True, False, False, False],  # without an age, no band
    ]


def test_bands_that_differ_in_a_late_digit_have_different_names() -> None:
    cut = [1_000_000, 1_000_001, 1_000_002, 1_000_002.5]
    names = group_names(study(fairness={"groups": [{"column": "age", "cut": cut}]}))
    assert len(set(names)) == 3
    assert names[-1] == "age in [1000002, 1000002.5)"


def test_selecting_keeps_each_patient_s_row_together() -> None:
    got = encode(table(age=[20.0, 60.0, 100.0], sex=["male", "female", "male"], disease=[1, 0, 1]), study())
    mask = np.array([True, False, True])
    chosen, rest = got.select(mask), got.select(~mask)
    assert (chosen.patients, rest.patients) == (("p0", "p2"), ("p1",))
    assert (len(chosen), chosen.outcomes.tolist(), rest.outcomes.tolist()) == (2, [1, 1], [0])
    assert np.array_equal(chosen.inputs, got.inputs[[0, 2]])
    assert np.array_equal(rest.inputs, got.inputs[[1]])


def test_nobody_selected_is_an_empty_matrix_of_the_same_width() -> None:
    got = encode(table(age=[20.0], sex=["male"]), study()).select(np.array([False]))
    assert (len(got), got.inputs.shape, got.outcomes.shape) == (0, (0, 5), (0,))
