"""Tallies, noise and what is derived: against a plain loop, brute-force neighbours, numpy, and repeated runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy.accounting import epsilon
from fedward.privacy.errors import InputError
from fedward.privacy.events import CountEvent, DpEvent
from fedward.simulations.baselines import UnsafeSeededDraws
from fedward.study.answers import (
    COUNTS,
    GRID,
    SUMS,
    Answer,
    answers_of,
    attempt_events,
    deviation,
    noised,
    shape_of,
    tally,
)
from fedward.study.exploration import Exploration, load_exploration, parse_exploration
from fedward.study.heart import heart_folder
from fedward.study.metrics import SMALL

LEVELS = ["typical", "atypical", "non-anginal", "asymptomatic"]
QUERIES: list[dict[str, Any]] = [
    {"kind": "count", "name": "all"},
    {
        "kind": "count",
        "name": "old-men",
        "where": [{"column": "sex", "level": "male"}, {"column": "age", "at_least": 60}],
    },
    {"kind": "count", "name": "ill", "where": [{"column": "disease", "level": "1"}]},
    {"kind": "histogram", "name": "pain", "column": "cp"},
    {"kind": "histogram", "name": "ages", "column": "age", "bins": [40, 50, 60]},
    {"kind": "mean", "name": "mean-age", "column": "age"},
    {"kind": "mean", "name": "ill-age", "column": "age", "where": [{"column": "disease", "level": "1"}]},
    {"kind": "quantile", "name": "median", "column": "age", "q": [0.5], "bins": 8},
]


def exploration(queries: list[dict[str, Any]] = QUERIES) -> Exploration:
    made = load_exploration(heart_folder() / "explore.toml").model_dump(mode="json", exclude_none=True)
    return parse_exploration(made | {"queries": queries})


class Rounding:
    """Draws whose uniforms are all one number, so that a patient's rounding does not hang on the others'."""

    def __init__(self, at: float) -> None:
        self.at = at

    def uniform(self, n: int) -> NDArray[np.float64]:
        return np.full(n, self.at)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a tally draws no {name}")


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cid", "dea", "eve"]),
        st.none() | st.floats(0, 150),
        st.none() | st.sampled_from(["female", "male"]),
        st.none() | st.sampled_from(LEVELS),
        st.integers(0, 1),
    ),
    max_size=12,
)


def table(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    names = ["patient", "age", "sex", "cp", "disease"]
    frame = pd.DataFrame(rows, columns=names).set_index("patient")
    frame["age"] = frame["age"].astype(float)
    for name in ("sex", "cp"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    frame["disease"] = frame["disease"].astype("int64")
    return frame


def by_hand(rows: list[tuple[Any, ...]], at: float) -> list[int]:
    """The tally of `QUERIES`, one patient and one query at a time."""
    last = {row[0]: row[1:] for row in rows}.values()
    old_men = sum(sex == "male" and age is not None and age >= 60 for age, sex, _, _ in last)
    ill = sum(disease for *_, disease in last)
    pain = [sum(cp == level for _, _, cp, _ in last) for level in LEVELS]
    forties = sum(age is not None and 40 <= age < 50 for age, *_ in last)
    fifties = sum(age is not None and 50 <= age <= 60 for age, *_ in last)
    width = (100 - 18) / 8
    parts = [0] * 8
    sums, known, ill_sum, ill_known = 0, 0, 0, 0
    for age, _, _, disease in last:
        if age is None:
            continue
        if 18 <= age <= 100:
            parts[min(int((age - 18) / width), 7)] += 1
        exact = max(-1.0, min(1.0, (age - 59) / 41)) * GRID
        step = math.floor(exact) + (at < exact - math.floor(exact))
        sums, known = sums + step, known + 1
        ill_sum, ill_known = ill_sum + step * disease, ill_known + disease
    counts = [len(last), old_men, ill, *pain, len(last) - sum(pain), forties, fifties, len(last) - forties - fifties]
    return [*counts, known, ill_known, *parts, sums, ill_sum]


@settings(deadline=None, max_examples=50)
@given(ROWS, st.sampled_from([0.001, 0.5, 0.999]))
def test_a_tally_is_what_a_plain_loop_counts(rows: list[tuple[Any, ...]], at: float) -> None:
    assert tally(table(rows), exploration(), Rounding(at)).tolist() == by_hand(rows, at)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.sampled_from([0.001, 0.5, 0.999]))
def test_no_patient_changes_more_than_is_charged(rows: list[tuple[Any, ...]], at: float) -> None:
    """Every table against the table without one of its patients, all of that patient's encounters."""
    asked = exploration()
    shape, whole = shape_of(asked), tally(table(rows), asked, Rounding(at))
    for patient in {row[0] for row in rows}:
        without = tally(table([row for row in rows if row[0] != patient]), asked, Rounding(at))
        change = np.abs(whole - without)
        counts, sums = change[: shape.counts], change[shape.counts :]
        assert counts.max() <= 1
        assert np.count_nonzero(counts) <= shape.changed_counts
        assert sums.max() <= GRID
        assert np.count_nonzero(sums) <= shape.changed_sums
        # In units of each block's deviation: together at most one Gaussian sum of the same noise multiplier.
        assert np.sum(counts**2) + np.sum((sums / GRID) ** 2) <= shape.changed


def test_the_bound_is_reached() -> None:
    """Not looser than it must be: a patient at the bound who meets every condition changes all that is charged."""
    asked, nobody = exploration(), table([])
    one = table([("ann", 100.0, "male", "typical", 1)])
    change = tally(one, asked, Rounding(0.5)) - tally(nobody, asked, Rounding(0.5))
    shape = shape_of(asked)
    assert np.abs(change[: shape.counts]).sum() == shape.changed_counts == 8
    assert np.abs(change[shape.counts :]).tolist() == [GRID] * shape.changed_sums


def test_all_queries_together_cost_what_one_gaussian_sum_costs() -> None:
    for multiplier in (2.0, 6.5, 30.0):
        events = attempt_events(exploration(), multiplier)
        assert set(events) == {COUNTS, SUMS}
        rho = sum(e.coordinates * e.sensitivity**2 / (2 * e.deviation**2) for e in events.values())
        assert rho == pytest.approx(1 / (2 * multiplier**2), rel=1e-12)
        spent = epsilon(list(events.values()), 1e-3)
        assert spent == pytest.approx(epsilon([DpEvent(multiplier, 1.0, 1)], 1e-3), abs=2e-3)
    counts_alone = attempt_events(exploration(QUERIES[:5]), 3.0)
    assert counts_alone == {COUNTS: CountEvent(3.0 * math.sqrt(5), 1, 5, 1)}


def test_the_noise_that_is_charged_is_the_noise_that_is_added() -> None:
    """Mean 0, and the deviation of each block within 4 standard errors of what its event says."""
    asked, draws, runs = exploration(), UnsafeSeededDraws(7), 1500
    shape, zeros = shape_of(asked), np.zeros(shape_of(asked).length, dtype=np.int64)
    events = attempt_events(asked, 2.5)
    noise = np.stack([noised(zeros, asked, 2.5, draws) for _ in range(runs)])
    for part, event in ((noise[:, : shape.counts], events[COUNTS]), (noise[:, shape.counts :], events[SUMS])):
        size = part.size
        assert abs(part.mean()) < 4 * event.deviation / math.sqrt(size)
        assert part.std() == pytest.approx(event.deviation, rel=4 / math.sqrt(2 * size))


def test_rounding_to_the_grid_keeps_the_mean() -> None:
    asked, draws = exploration([{"kind": "mean", "name": "m", "column": "age"}]), UnsafeSeededDraws(3)
    one = table([("ann", 59 + 41 * 0.37 / GRID, None, None, 0)])  # 0.37 of a step
    sums = np.array([tally(one, asked, draws)[1] for _ in range(1000)])
    assert set(sums.tolist()) == {0, 1}
    assert sums.mean() == pytest.approx(0.37, abs=4 * 0.5 / math.sqrt(1000))


def test_the_wrong_vector_and_the_wrong_table_are_refused() -> None:
    asked = exploration()
    with pytest.raises(InputError, match="do not fit"):
        noised(np.zeros(3, dtype=np.int64), asked, 2.0, UnsafeSeededDraws(1))
    with pytest.raises(InputError, match="no privacy"):
        attempt_events(asked, 0.0)
    with pytest.raises(InputError, match="does not fit"):
        answers_of(asked, np.zeros(3, dtype=np.int64), [2.0])
    with pytest.raises(InputError, match="does not fit"):
        answers_of(asked, np.zeros(shape_of(asked).length, dtype=np.int64), [])
    with pytest.raises(InputError, match="lacks columns"):
        tally(table([("ann", 50.0, "male", "typical", 1)]).drop(columns="cp"), asked, Rounding(0.5))


# ---- what is derived


def cohort(patients: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ages = np.clip(rng.normal(56, 9, patients), 18, 100)
    rows = [(f"p{i}", age, "male" if rng.random() < 0.7 else "female", LEVELS[rng.integers(4)], int(rng.random() < 0.4))
            for i, age in enumerate(ages)]  # fmt: skip
    return table(rows)


def estimates(answers: tuple[Answer, ...], name: str) -> Any:
    return next(answer for answer in answers if answer.name == name).estimates


def test_without_noise_to_speak_of_the_answers_are_the_cohorts_own() -> None:
    frame = cohort(2000, 1)
    asked = exploration([*QUERIES, {"kind": "quantile", "name": "fine", "column": "age", "q": [0.1, 0.9], "bins": 200}])
    exact = tally(frame, asked, UnsafeSeededDraws(2))
    answers = answers_of(asked, exact, [1e-6])
    ages = frame["age"].to_numpy()
    assert estimates(answers, "all")[0].value == 2000
    assert estimates(answers, "ill")[0].value == frame["disease"].sum()
    assert [e.value for e in estimates(answers, "pain")[:4]] == [int((frame["cp"] == level).sum()) for level in LEVELS]
    # Rounding moves a mean by at most a standard deviation of half a step a patient.
    mean = estimates(answers, "mean-age")[0]
    assert mean.value == pytest.approx(ages.mean(), abs=4 * 0.5 * (41 / GRID) / math.sqrt(2000))
    assert estimates(answers, "mean-age")[1].value == 2000
    for estimate, q in zip(estimates(answers, "fine"), (0.1, 0.9), strict=False):
        assert estimate.value == pytest.approx(np.quantile(ages, q), abs=82 / 200)
        assert estimate.low <= np.quantile(ages, q) <= estimate.high
    assert (estimates(answers, "median")[0].low, estimates(answers, "median")[0].high) == (48.75, 59.0)


def test_intervals_hold_the_cohorts_own_values_as_often_as_they_say() -> None:
    """Three sites, 300 repetitions of noise, 10 of rounding: 95% less four standard errors of that many repetitions."""
    asked = exploration()
    frames = [cohort(patients, seed) for patients, seed in ((300, 1), (500, 2), (150, 3))]
    ages = np.concatenate([frame["age"].to_numpy() for frame in frames])
    ill = np.concatenate([frame["disease"].to_numpy() for frame in frames])
    truth = {"all": len(ages), "ill": ill.sum(), "mean-age": ages.mean(), "ill-age": ages[ill == 1].mean(),
             "median": np.quantile(ages, 0.5, method="inverted_cdf")}  # fmt: skip
    draws, runs, held = UnsafeSeededDraws(5), 300, dict.fromkeys(truth, 0)
    centre: dict[str, list[float]] = {name: [] for name in truth}
    rounded = [[tally(frame, asked, draws) for frame in frames] for _ in range(10)]
    for run in range(runs):
        total = sum(noised(exact, asked, s, draws) for exact, s in zip(rounded[run % 10], (3.0, 4.0, 5.0), strict=True))
        answers = answers_of(asked, np.asarray(total), [3.0, 4.0, 5.0])
        for name, true in truth.items():
            one = estimates(answers, name)[0]
            held[name] += one.low <= true <= one.high
            centre[name].append(one.value)
    least = runs * 0.95 - 4 * math.sqrt(runs * 0.95 * 0.05)
    assert min(held.values()) >= least, held
    for name in ("all", "ill", "mean-age", "ill-age"):  # and none is off to one side
        spread = np.std(centre[name]) / math.sqrt(runs)
        assert abs(np.mean(centre[name]) - truth[name]) < 4.5 * spread, name
    sigma = math.hypot(*(deviation(asked, s) for s in (3.0, 4.0, 5.0)))
    assert np.std(centre["all"]) == pytest.approx(sigma, rel=4 / math.sqrt(2 * runs))


def test_small_and_negative_counts_are_not_shown_and_give_no_mean() -> None:
    asked = exploration()
    shape = shape_of(asked)
    total = np.zeros(shape.length, dtype=np.int64)
    total[0], total[1], total[2] = SMALL, SMALL - 1, -40
    answers = answers_of(asked, total, [1.0])
    assert estimates(answers, "all")[0].value == SMALL
    for name in ("old-men", "ill", "mean-age", "median"):
        shown = estimates(answers, name)[0]
        assert (shown.value, shown.low, shown.high) == (None, None, None)
        assert "under 11" in shown.reason


def test_too_much_noise_gives_no_mean_and_no_quantile() -> None:
    asked = exploration()
    shape = shape_of(asked)
    total = np.full(shape.length, 20, dtype=np.int64)
    answers = answers_of(asked, total, [10.0])
    for name in ("mean-age", "median"):
        assert (estimates(answers, name)[0].value, estimates(answers, name)[0].reason[:7]) == (None, "too few")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(-2000, 20000), min_size=8, max_size=8), st.floats(0.5, 50), st.integers(-200_000, 200_000))
def test_whatever_noise_makes_of_a_sum_every_estimate_is_in_order(bins: list[int], s: float, total: int) -> None:
    asked = exploration(QUERIES[5:6] + QUERIES[7:])
    vector = np.array([sum(bins), *bins, total], dtype=np.int64)
    for answer in answers_of(asked, vector, [s]):
        for one in answer.estimates:
            if one.value is None:
                assert one.reason
                continue
            assert one.low <= one.value <= one.high
            if one.label not in {"patients"}:
                assert one.low >= 18
                assert one.high <= 100
