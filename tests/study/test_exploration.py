"""An exploration's manifest: what may be asked, and that everything else is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedward.privacy.errors import InputError
from fedward.study.exploration import Exploration, HistogramQuery, QuantileQuery, load_exploration, parse_exploration
from fedward.study.heart import heart_folder


def data(**changes: Any) -> dict[str, Any]:
    return load_exploration(heart_folder() / "explore.toml").model_dump(mode="json", exclude_none=True) | changes


def asking(*queries: dict[str, Any]) -> Exploration:
    return parse_exploration(data(queries=list(queries)))


def query(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "name": "one", **fields}


def test_the_example_is_an_exploration_of_the_heart_studys_columns() -> None:
    exploration = load_exploration(heart_folder() / "explore.toml")
    assert exploration.columns == ("sex", "disease", "cp", "age", "thalach")
    assert exploration.planned_attempts == 2
    assert exploration.least_sites == 3
    assert [q.words for q in exploration.queries][1:] == [
        "the number of patients with sex = female and disease = 1",
        "the number of all patients, by cp",
        "the number of all patients, by age",
        "the mean thalach of all patients",
        "the 25%, 50%, 75% quantiles of age of all patients",
    ]


def test_it_survives_its_own_json() -> None:
    exploration = load_exploration(heart_folder() / "explore.toml")
    assert Exploration.model_validate_json(exploration.model_dump_json()) == exploration


def test_bins_are_public_edges_or_equal_parts_of_the_bounds() -> None:
    equal = asking(query("quantile", column="age", q=[0.5], bins=4))
    assert isinstance(equal.queries[0], QuantileQuery)
    np.testing.assert_array_equal(equal.edges(equal.queries[0]), [18, 38.5, 59, 79.5, 100])
    given = asking(query("histogram", column="age", bins=[20, 50.5, 60]))
    assert isinstance(given.queries[0], HistogramQuery)
    assert given.labels(given.queries[0]) == ("[20, 50.5)", "[50.5, 60]", "missing or outside")
    levels = asking(query("histogram", column="disease"))
    assert isinstance(levels.queries[0], HistogramQuery)
    assert levels.labels(levels.queries[0]) == ("0", "1", "missing")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (query("mean", column="weight"), '"weight" is no column'),
        (query("mean", column="sex"), "a mean needs a number"),
        (query("quantile", column="cp", q=[0.5]), "a quantile needs a number"),
        (query("quantile", column="age", q=[1.0]), "less than 1"),
        (query("quantile", column="age", q=[]), "at least 1"),
        (query("histogram", column="age"), "give it bins"),
        (query("histogram", column="sex", bins=4), "leave out bins"),
        (query("histogram", column="age", bins=[0, 50]), "within the bounds"),
        (query("histogram", column="age", bins=[50, 40]), "must rise"),
        (query("histogram", column="age", bins=1_000_000), "less than or equal to 200"),
        (query("count", where=[{"column": "weight", "level": "x"}]), '"weight" is no column'),
        (query("count", where=[{"column": "sex", "level": "other"}]), '"other" is none of female, male'),
        (query("count", where=[{"column": "sex", "at_least": 1}]), "has levels"),
        (query("count", where=[{"column": "age", "level": "old"}]), "is a number"),
        (query("count", where=[{"column": "age"}]), "either a level or a band"),
        (query("count", where=[{"column": "age", "at_least": 60, "below": 50}]), "the band is empty"),
        (query("count", where=[{"column": "age", "below": 50}] * 4), "at most 3"),
        (query("median", column="age"), "does not match any of the expected tags"),
        (query("count", code="print(1)"), "misspelt"),
    ],
)
def test_other_questions_are_refused_by_name(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        asking(fields)
    assert says in refused.value.text()


def test_names_are_distinct_and_answers_are_not_without_end() -> None:
    with pytest.raises(InputError, match="not a valid exploration") as refused:
        asking(query("count"), query("count"))
    assert "share a name" in refused.value.text()
    with pytest.raises(InputError) as refused:
        asking(*(query("histogram", column="age", bins=200) | {"name": f"q{n}"} for n in range(25)))
    assert "5025 answers" in refused.value.text()


@pytest.mark.parametrize("missing", ["epsilon", "delta"])
def test_no_answer_without_differential_privacy(missing: str) -> None:
    made = data()
    del made["privacy"][missing]
    with pytest.raises(InputError) as refused:
        parse_exploration(made)
    assert f"privacy.{missing}" in refused.value.text()
    made = data()
    made["privacy"]["mechanism"] = "none"
    with pytest.raises(InputError):
        parse_exploration(made)
