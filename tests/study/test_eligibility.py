"""Eligibility: patients are counted once each, every demand at its boundary, and a study without one keeps its bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.errors import InputError
from fedward.study.demand import Eligibility
from fedward.study.eligibility import Tally, tally, unmet
from fedward.study.encoding import Encoded, group_names
from fedward.study.manifest import Manifest, parse

MANIFEST = heart_manifest()
SEX = ("sex=female", "sex=male")
AGE = ("age in [0, 50)", "age in [50, 65)", "age in [65, 120)")
GROUPS = {"sex": dict(zip(SEX, (40, 60), strict=True)), "age": dict(zip(AGE, (30, 30, 40), strict=True))}
MET = Tally(100, 60, 40, GROUPS)


def demanding(value: object) -> Manifest:
    data: dict[str, Any] = MANIFEST.model_dump(mode="json")
    return parse(data | {"eligibility": value})


def demand(**fields: Any) -> Eligibility:
    found = demanding(fields).eligibility
    assert found is not None
    return found


def table(rows: list[tuple[int, float, tuple[bool, ...]]]) -> Encoded:
    """Rows as (patient, outcome, membership in each of the five groups)."""
    return Encoded(
        patients=tuple(str(patient) for patient, _, _ in rows),
        inputs=np.zeros((len(rows), 1), dtype=np.float32),
        outcomes=np.array([outcome for _, outcome, _ in rows], dtype=np.float32),
        membership=np.array([groups for _, _, groups in rows], dtype=np.bool_).reshape(len(rows), 5),
    )


# --- the tally ----------------------------------------------------------------------------------------------------------------

ROW = st.tuples(st.integers(0, 6), st.sampled_from([0.0, 1.0, math.nan]), st.tuples(*[st.booleans()] * 5))


@given(st.lists(ROW, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_tally_is_that_of_sets_of_patients(rows: list[tuple[int, float, tuple[bool, ...]]]) -> None:
    found = tally(table(rows), MANIFEST)
    ill = {patient for patient, outcome, _ in rows if outcome == 1}
    well = {patient for patient, outcome, _ in rows if outcome == 0}
    assert (found.patients, found.positive, found.negative) == (
        len({row[0] for row in rows}),
        len(ill),
        len(well - ill),
    )
    flat = {name: size for sizes in found.groups.values() for name, size in sizes.items()}
    assert tuple(flat) == group_names(MANIFEST) == (*SEX, *AGE)
    assert list(found.groups) == ["sex", "age"]
    for place, size in enumerate(flat.values()):
        assert size == len({patient for patient, _, groups in rows if groups[place]})


def test_crossed_groups_are_none_of_the_tally() -> None:
    crossed = heart_manifest(fairness={"intersections": [["sex", "age"]]})
    frame = table([(1, 0, (True, False, True, False, False)), (2, 1, (False, True, False, False, True))])
    both = (frame.membership[:, :2, None] & frame.membership[:, None, 2:]).reshape(2, 6)
    data = Encoded(frame.patients, frame.inputs, frame.outcomes, np.hstack([frame.membership, both]))
    assert tally(data, crossed) == tally(frame, heart_manifest())


def test_a_patient_of_many_encounters_counts_once_and_one_ill_encounter_makes_them_positive() -> None:
    young, old = (True, False, True, False, False), (True, False, False, True, False)
    found = tally(table([(1, 0, young), (1, 1, old), (1, 0, old), (2, 0, young), (2, 0, young)]), MANIFEST)
    assert (found.patients, found.positive, found.negative) == (2, 1, 1)
    assert found.groups == {"sex": dict(zip(SEX, (2, 0), strict=True)), "age": dict(zip(AGE, (2, 1, 0), strict=True))}


# --- what is not met ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "counts", "met"),
    [
        ({"min_patients": 100}, MET, True),
        ({"min_patients": 110}, MET, False),
        ({"min_positive": 60}, MET, True),
        ({"min_positive": 70}, MET, False),
        ({"min_negative": 40}, MET, True),
        ({"min_negative": 50}, MET, False),
        ({"groups": [{"column": "sex", "min_patients": 40}]}, MET, True),
        ({"groups": [{"column": "sex", "min_patients": 50}]}, MET, False),
        ({"groups": [{"column": "sex", "min_patients": 50, "min_levels": 1}]}, MET, True),
        ({"groups": [{"column": "sex", "min_patients": 60, "min_levels": 1}]}, MET, True),
        ({"groups": [{"column": "sex", "min_patients": 70, "min_levels": 1}]}, MET, False),
        ({"groups": [{"column": "age", "min_patients": 30, "min_levels": 3}]}, MET, True),
        ({"groups": [{"column": "age", "min_patients": 40, "min_levels": 2}]}, MET, False),
        ({"min_patients": 100, "groups": [{"column": "age", "min_patients": 40}]}, MET, False),
    ],
)
def test_each_demand_at_its_boundary(fields: dict[str, Any], counts: Tally, met: bool) -> None:
    assert (not unmet(demand(**fields), counts)) == met


def test_what_is_not_met_is_said_with_how_much() -> None:
    asked = demand(
        min_patients=200,
        min_positive=60,
        min_negative=50,
        groups=[{"column": "age", "min_patients": 40}, {"column": "sex", "min_patients": 50, "min_levels": 2}],
    )
    assert [one.words for one in unmet(asked, MET)] == [
        "patients: 100 here, and the study asks for at least 200",
        "patients without the outcome: 40 here, and the study asks for at least 50",
        "patients with age in [0, 50): 30 here, and the study asks for at least 40",
        "patients with age in [50, 65): 30 here, and the study asks for at least 40",
        "groups of sex with 50 patients or more: 1 here, and the study asks for at least 2",
    ]
    assert asked.words == (
        "at least 200 patients",
        "at least 60 patients with the outcome",
        "at least 50 patients without the outcome",
        "at least 40 patients in each group of age",
        "at least 2 groups of sex with at least 50 patients",
    )


LEAST = st.none() | st.integers(1, 12).map(lambda tens: 10 * tens)


@given(st.integers(0, 130), st.integers(0, 130), LEAST, LEAST, LEAST)
@settings(max_examples=100, deadline=None)
def test_as_many_demands_are_unmet_as_counts_are_too_small_and_a_patient_more_never_makes_it_worse(
    positive: int, negative: int, patients: int | None, ill: int | None, well: int | None
) -> None:
    asked = Eligibility.model_construct(min_patients=patients, min_positive=ill, min_negative=well, groups=())
    counts = [(positive + negative, patients), (positive, ill), (negative, well)]
    before = len(unmet(asked, Tally(positive + negative, positive, negative, {})))
    assert before == sum(least is not None and count < least for count, least in counts)
    for more in ((positive + 1, negative), (positive, negative + 1)):
        assert len(unmet(asked, Tally(sum(more), *more, {}))) <= before


def test_what_is_no_number_meets_nothing() -> None:
    nothing: Any = math.nan
    asked = demand(min_patients=10, min_positive=10, min_negative=10, groups=[{"column": "sex", "min_patients": 10}])
    counts = Tally(nothing, nothing, nothing, {"sex": dict.fromkeys(SEX, nothing)})
    assert len(unmet(asked, counts)) == 5
    few = demand(groups=[{"column": "sex", "min_patients": 10, "min_levels": 1}])
    assert len(unmet(few, counts)) == 1


@pytest.mark.parametrize("groups", [{}, {"age": dict.fromkeys(AGE, 100)}, {"sex": {}}])
def test_counts_of_another_study_are_an_error_and_no_yes(groups: dict[str, dict[str, int]]) -> None:
    with pytest.raises(InputError, match="another study"):
        unmet(demand(groups=[{"column": "sex", "min_patients": 10}]), Tally(100, 50, 50, groups))


def test_no_demand_is_met_by_nobody_at_all() -> None:
    assert unmet(None, Tally(0, 0, 0, {})) == ()


def test_no_repr_shows_a_count() -> None:
    (one,) = unmet(demand(min_patients=7770), Tally(4711, 815, 3896, GROUPS))
    for text in (repr(one), repr(Tally(4711, 815, 3896, GROUPS))):
        assert not any(number in text for number in ("4711", "815", "3896", "40"))


# --- the manifest -------------------------------------------------------------------------------------------------------------


def test_a_study_without_demands_has_the_bytes_that_it_always_had() -> None:
    assert "eligibility" not in MANIFEST.model_dump(mode="json")
    assert b"eligibility" not in MANIFEST.canonical
    assert demanding(None).canonical == MANIFEST.canonical
    asked = demanding({"min_patients": 100})
    assert b"eligibility" in asked.canonical
    assert parse(asked.model_dump(mode="json")) == asked
    assert Manifest.model_validate_json(asked.canonical).canonical == asked.canonical
    assert demanding({"min_patients": 110}).canonical != asked.canonical


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "demands nothing"),
        ({"groups": []}, "demands nothing"),
        ({"min_patients": 0}, "eligibility.min_patients"),
        ({"min_patients": -10}, "eligibility.min_patients"),
        ({"min_patients": 9}, "eligibility.min_patients"),
        ({"min_patients": 15}, "multiple of 10"),
        ({"min_patients": 100_000_010}, "eligibility.min_patients"),
        ({"min_patients": 10**30}, "eligibility.min_patients"),
        ({"min_positive": 20.0}, "eligibility.min_positive"),
        ({"min_negative": True}, "eligibility.min_negative"),
        ({"min_negative": "20"}, "eligibility.min_negative"),
        ({"min_patents": 20}, "misspelt"),
        ({"groups": [{"column": "sex"}]}, "min_patients"),
        ({"groups": [{"column": "cp", "min_patients": 20}]}, 'eligibility group "cp" is none of the fairness groups'),
        ({"groups": [{"column": "sex", "min_patients": 20, "min_levels": 3}]}, "has 2 levels, and 3 are demanded"),
        ({"groups": [{"column": "age", "min_patients": 20, "min_levels": 4}]}, "has 3 levels, and 4 are demanded"),
        ({"groups": [{"column": "age", "min_patients": 20, "min_levels": 0}]}, "min_levels"),
        ({"groups": [{"column": "sex", "min_patients": 20}, {"column": "sex", "min_patients": 30}]}, "twice"),
    ],
)
def test_a_demand_that_makes_no_sense_is_refused_by_name(value: object, words: str) -> None:
    with pytest.raises(InputError) as refused:
        demanding(value)
    assert words in refused.value.text()


def test_as_many_levels_as_there_are_may_be_demanded() -> None:
    asked = demand(
        min_patients=10,
        groups=[
            {"column": "sex", "min_patients": 10, "min_levels": 2},
            {"column": "age", "min_patients": 100_000_000, "min_levels": 3},
        ],
    )
    assert len(asked.groups) == 2
