"""Single and crossed attributes: one order for names, places and membership; what a manifest may cross; digests that stay."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from federation import heart_manifest

from fedward.privacy.errors import InputError
from fedward.study.attributes import attributes, single_attributes
from fedward.study.changes import differences
from fedward.study.encoding import encode, group_names
from fedward.study.manifest import parse
from fedward.study.metrics import attribute_slices, histogram_shape, slice_names

SEX, AGE = ("sex=female", "sex=male"), ("age in [0, 50)", "age in [50, 65)", "age in [65, 120)")
CP = {"column": "cp"}


def crossing(*pairs: list[str], groups: list[dict[str, object]] | None = None) -> dict[str, object]:
    plain = [{"column": "sex"}, {"column": "age", "cut": [0, 50, 65, 120]}, CP]
    return {"groups": plain if groups is None else groups, "intersections": list(pairs)}


def test_crossed_attributes_follow_the_single_ones() -> None:
    manifest = heart_manifest(fairness=crossing(["sex", "age"], ["cp", "sex"]))
    found = attributes(manifest)
    assert [one.name for one in found] == ["sex", "age", "cp", "sex & age", "cp & sex"]
    assert [one.crosses for one in found] == [None, None, None, (0, 1), (2, 0)]
    assert found[:3] == single_attributes(manifest)
    assert found[3].groups == tuple(f"{a} & {b}" for a, b in product(SEX, AGE))
    names = slice_names(manifest)
    assert names == ("everybody", *group_names(manifest))
    assert len(set(names)) == len(names) == histogram_shape(manifest)[0] == 1 + 2 + 3 + 4 + 6 + 8
    for one in found:
        assert tuple(names[place] for place in one.slices) == one.groups
        assert group_names(manifest)[one.columns] == one.groups
        assert attribute_slices(manifest)[one.name] == list(one.slices)


def test_a_patient_is_in_a_crossed_group_only_if_in_both() -> None:
    manifest = heart_manifest(
        fairness=crossing(["sex", "age"], groups=[{"column": "sex"}, {"column": "age", "cut": [20, 50, 65]}])
    )
    rows = [("male", 30.0), ("female", 50.0), (None, 30.0), ("male", np.nan), ("male", 65.0), (None, np.nan)]
    frame = pd.DataFrame({feature.column: [np.nan] * len(rows) for feature in manifest.features})
    for feature in manifest.features:
        if feature.type == "categorical":
            frame[feature.column] = pd.Series([None] * len(rows), dtype=object)
    frame["sex"], frame["age"] = pd.Series([sex for sex, _ in rows], dtype=object), [age for _, age in rows]
    frame["disease"] = 0.0
    names = np.array(group_names(manifest))
    assert [list(names[row]) for row in encode(frame, manifest).membership] == [
        ["sex=male", "age in [20, 50)", "sex=male & age in [20, 50)"],
        ["sex=female", "age in [50, 65)", "sex=female & age in [50, 65)"],
        ["age in [20, 50)"],
        ["sex=male"],
        ["sex=male"],  # 65 is below no cut
        [],
    ]


def test_a_study_that_crosses_nothing_keeps_its_digest() -> None:
    plain = heart_manifest()
    assert set(plain.model_dump(mode="json")["fairness"]) == {"groups"}
    assert heart_manifest(fairness={"intersections": []}).canonical == plain.canonical
    crossed = heart_manifest(fairness={"intersections": [["sex", "age"]]})
    assert crossed.canonical != plain.canonical
    assert parse(crossed.model_dump(mode="json")) == crossed
    assert differences(plain, crossed) == ["groups that it crosses: nothing in A, sex & age in B"]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([["sex", "sex"]], 'cross "sex" with itself'),
        ([["sex", "chol"]], 'cross "chol", which is none of the fairness groups'),
        ([["sex", "age"], ["age", "sex"]], 'the pair "age" and "sex" twice'),
        ([["sex", "age"], ["sex", "age"]], 'the pair "sex" and "age" twice'),
        ([["sex"]], "Field required"),
        ([["sex", "age", "cp"]], "at most 2"),
        ([["sex", "age"]] * 5, "at most 4"),
        (["sex", "age"], "valid"),
    ],
)
def test_only_pairs_of_groups_can_be_crossed(pairs: list[list[str]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        heart_manifest(fairness=crossing(*pairs))


def test_slices_are_bounded_where_attributes_are_crossed() -> None:
    bands = [{"column": name, "cut": list(range(20, 21 + count))} for name, count in (("age", 19), ("chol", 19))]
    with pytest.raises(InputError, match="makes 402 slices with its intersections, and at most 400 are counted"):
        heart_manifest(fairness=crossing(["age", "chol"], groups=[*bands, {"column": "sex"}]))  # 1 + 19 + 19 + 2 + 361
    found = heart_manifest(fairness=crossing(["age", "chol"], groups=bands))
    assert histogram_shape(found)[0] == 400


def test_an_attribute_of_one_band_cannot_be_crossed() -> None:
    one = {"column": "age", "cut": [65, 120]}
    assert heart_manifest(fairness=crossing(groups=[{"column": "sex"}, one]))
    with pytest.raises(InputError, match='cross "age", which has one band'):
        heart_manifest(fairness=crossing(["sex", "age"], groups=[{"column": "sex"}, one]))


def test_a_level_that_reads_like_a_crossed_group_is_refused_only_where_groups_are_crossed() -> None:
    data = heart_manifest().model_dump(mode="json")
    levels = next(feature for feature in data["features"] if feature["column"] == "sex")
    levels["levels"] = ["female", "male & age in [0, 50)"]
    assert parse(data)
    data["fairness"]["intersections"] = [["sex", "age"]]
    with pytest.raises(InputError, match="joins the names of crossed groups"):
        parse(data)


def test_crossed_groups_can_be_asked_of_a_release_and_are_counted_among_its_groups() -> None:
    crossed = {"intersections": [["sex", "age"]]}
    assert heart_manifest(fairness=crossed, release={"min_groups": 11})
    with pytest.raises(InputError, match=r"fairness\.groups has 11 groups"):
        heart_manifest(fairness=crossed, release={"min_groups": 12})
