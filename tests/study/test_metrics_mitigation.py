"""Thresholds of each group's own, against all combinations of them; nothing else may be better, and the bound holds."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
from fairlearn.metrics import equal_opportunity_difference, equalized_odds_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, recall_score

from fedward.privacy.errors import InputError
from fedward.study.metrics import SMALL, bin_edges
from fedward.study.metrics.mitigation import Allowed, Choice, Criterion, apart, mitigate

BINS = 5
EDGES = bin_edges(BINS)
Counts = NDArray[np.int64]

tables = (
    st.integers(2, 3)
    .flatmap(lambda groups: arrays(np.int64, (groups, BINS, 2), elements=st.integers(0, 6)))
    .filter(lambda counts: bool((counts.sum(1) > 0).all()))
)
bounds = st.sampled_from([0.0, 0.05, 0.2, 1.0])
criteria = st.sampled_from(["equal_opportunity", "equalized_odds"])


def names(counts: Counts) -> list[str]:
    return [f"g{place}" for place in range(len(counts))]


def patients(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """(group, bin, outcome) of every patient behind counts."""
    places = np.repeat(np.arange(counts.size), counts.reshape(-1))
    group, bin_, outcome = np.unravel_index(places, counts.shape)
    return group, bin_, outcome


def rates(counts: Counts, edges: tuple[int, ...]) -> tuple[float, float, float]:
    """(equal-opportunity gap, equalised-odds gap, balanced accuracy), counted by hand."""
    tpr = [part[edge:, 1].sum() / part[:, 1].sum() for part, edge in zip(counts, edges, strict=True)]
    fpr = [part[edge:, 0].sum() / part[:, 0].sum() for part, edge in zip(counts, edges, strict=True)]
    true = sum(part[edge:, 1].sum() for part, edge in zip(counts, edges, strict=True)) / counts[..., 1].sum()
    spared = sum(part[:edge, 0].sum() for part, edge in zip(counts, edges, strict=True)) / counts[..., 0].sum()
    opportunity = max(tpr) - min(tpr)
    return opportunity, max(opportunity, max(fpr) - min(fpr)), (true + spared) / 2


def gap(choice: Choice, criterion: Criterion) -> float:
    return choice.equal_opportunity_gap if criterion == "equal_opportunity" else choice.equalized_odds_gap


@settings(max_examples=150)
@given(tables, bounds, criteria, st.integers(0, BINS))
def test_no_combination_of_edges_is_better(counts: Counts, bound: float, criterion: Criterion, first: int) -> None:
    found = mitigate(counts, EDGES, names(counts), first, bound, criterion)
    which = 0 if criterion == "equal_opportunity" else 1
    tried = [rates(counts, edges) for edges in itertools.product(range(BINS + 1), repeat=len(counts))]
    best = max(one[2] for one in tried if one[which] <= bound + 1e-9)
    assert found.after.balanced_accuracy == pytest.approx(best, abs=1e-9)
    assert gap(found.after, criterion) <= bound + 1e-9
    for choice in (found.before, found.after):
        edges = tuple(int(np.searchsorted(EDGES, point.threshold)) for point in choice.groups)
        told = (choice.equal_opportunity_gap, choice.equalized_odds_gap, choice.balanced_accuracy)
        assert told == pytest.approx(rates(counts, edges), abs=1e-9)
    assert found.loss == pytest.approx(rates(counts, (first,) * len(counts))[2] - best, abs=1e-9)


@settings(max_examples=25)
@given(tables, bounds, criteria, st.integers(0, BINS))
def test_what_is_told_is_what_the_thresholds_do(counts: Counts, bound: float, criterion: Criterion, first: int) -> None:
    """The libraries, on the patients behind the counts, with each group's threshold applied."""
    found = mitigate(counts, EDGES, names(counts), first, bound, criterion)
    group, bin_, outcome = patients(counts)
    assert [point.threshold for point in found.before.groups] == [EDGES[first]] * len(counts)
    for choice in (found.before, found.after):
        thresholds = np.array([point.threshold for point in choice.groups])
        called = EDGES[bin_] >= thresholds[group]  # a bin's scores reach its lower edge
        kept = {"sensitive_features": group}
        assert choice.balanced_accuracy == pytest.approx(balanced_accuracy_score(outcome, called))
        opportunity = equal_opportunity_difference(outcome, called, **kept)
        assert choice.equal_opportunity_gap == pytest.approx(opportunity, abs=1e-12)
        assert choice.equalized_odds_gap == pytest.approx(equalized_odds_difference(outcome, called, **kept), abs=1e-12)
        for place, point in enumerate(choice.groups):
            mine = group == place
            assert point.sensitivity == pytest.approx(recall_score(outcome[mine], called[mine]))
            assert point.specificity == pytest.approx(recall_score(1 - outcome[mine], ~called[mine]))


@st.composite
def tables_with_edges(draw: st.DrawFn) -> tuple[Counts, int, Allowed]:
    """Counts, the common threshold, and which edges each group's own may be: that one, the last, and any others."""
    counts, first = draw(tables), draw(st.integers(0, BINS))
    allowed = draw(arrays(np.bool_, (len(counts), BINS + 1)))
    allowed[:, [first, -1]] = True
    return counts, first, allowed


@settings(max_examples=150)
@given(tables_with_edges(), bounds, criteria)
def test_no_combination_of_the_edges_that_are_allowed_is_better(
    drawn: tuple[Counts, int, Allowed], bound: float, criterion: Criterion
) -> None:
    counts, first, allowed = drawn
    found = mitigate(counts, EDGES, names(counts), first, bound, criterion, allowed)
    which = 0 if criterion == "equal_opportunity" else 1
    tried = [rates(counts, edges) for edges in itertools.product(*(np.flatnonzero(row) for row in allowed))]
    best = max(one[2] for one in tried if one[which] <= bound + 1e-9)
    assert found.after.balanced_accuracy == pytest.approx(best, abs=1e-9)
    places = tuple(int(np.searchsorted(EDGES, point.threshold)) for point in found.after.groups)
    assert all(row[place] for row, place in zip(allowed, places, strict=True))
    assert rates(counts, places)[which] <= bound + 1e-9


@settings(max_examples=150)
@given(arrays(np.int64, (2, 8, 2), elements=st.integers(0, 30)), st.integers(0, 8))
def test_edges_that_are_apart_have_many_patients_between_them_and_no_more_could_be_added(
    counts: Counts, first: int
) -> None:
    """But for calling everybody, nobody and by the common threshold, which is told anyway."""
    allowed = apart(counts, first)

    def many(group: Counts, low: int, high: int) -> bool:
        return bool((group[low:high].sum(0) >= SMALL).all())

    for group, row in zip(counts, allowed, strict=True):
        assert row[[0, first, 8]].all()
        for low, high in itertools.pairwise(sorted({0, first, 8})):  # each side of the common threshold by itself
            kept = [edge for edge in range(low, high + 1) if row[edge]]
            for before, after in itertools.pairwise(kept):
                assert len(kept) == 2 or many(group, before, after)
                between = range(before + 1, after)
                assert not any(many(group, before, edge) and many(group, edge, after) for edge in between)


def binormal(groups: int, bins: int, patients_: int = 2000) -> Counts:
    rng = np.random.default_rng(groups)
    counts = []
    for group in range(groups):
        columns = []
        for outcome in (0, 1):
            scores = 1 / (1 + np.exp(-(rng.normal(size=patients_) + 1.6 * (outcome - 0.5) + 0.12 * group)))
            columns.append(np.bincount((scores * bins).astype(int), minlength=bins))
        counts.append(np.stack(columns, axis=1))
    return np.stack(counts)


def test_a_looser_bound_costs_no_more_and_a_shift_of_scores_is_undone() -> None:
    counts = binormal(3, 40)
    losses = []
    for bound in (0.0, 0.01, 0.02, 0.05, 0.2, 1.0):
        found = mitigate(counts, bin_edges(40, 1.0), names(counts), 20, bound, "equalized_odds")
        losses.append(found.loss)
    assert losses == sorted(losses, reverse=True)
    found = mitigate(counts, bin_edges(40, 1.0), names(counts), 20, 0.03, "equalized_odds")
    assert found.before.equalized_odds_gap > 0.06
    thresholds = [point.threshold for point in found.after.groups]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < thresholds[-1]
    assert abs(found.loss) < 0.02


@pytest.mark.parametrize("criterion", ["equal_opportunity", "equalized_odds"])
def test_twelve_groups_of_a_hundred_bins_take_seconds(criterion: Criterion) -> None:
    """101 to the power of 12 combinations; processor time, as other work may run beside."""
    counts, began = binormal(12, 100), time.process_time()
    found = mitigate(counts, bin_edges(100, 1.0), names(counts), 50, 0.03, criterion)
    assert time.process_time() - began < 10
    assert gap(found.after, criterion) <= 0.03 + 1e-9
    assert gap(found.before, criterion) > 0.03


@settings(max_examples=50)
@given(tables, st.integers(0, 2**32 - 1), criteria)
def test_noisy_counts_still_have_rates(counts: Counts, seed: int, criterion: Criterion) -> None:
    noisy = counts + np.rint(np.random.default_rng(seed).normal(0, 2, counts.shape))
    if not (noisy.sum(1) > 0).all():
        with pytest.raises(InputError, match="no patients of one outcome"):
            mitigate(noisy, EDGES, names(counts), 3, 0.1, criterion)
        return
    found = mitigate(noisy, EDGES, names(counts), 3, 0.1, criterion)
    assert gap(found.after, criterion) <= 0.1 + 1e-9
    for point in (*found.before.groups, *found.after.groups):
        assert 0 <= point.sensitivity <= 1 + 1e-12
        assert -1e-12 <= point.specificity <= 1


def test_of_equally_good_thresholds_the_one_that_changes_least_is_told() -> None:
    counts = np.zeros((2, BINS, 2), dtype=np.int64)
    counts[:, 0, 0] = counts[:, 4, 1] = 10
    for first in (1, 2, 3, 4):
        found = mitigate(counts, EDGES, names(counts), first, 0.0)
        assert found.after == found.before
        assert found.loss == 0


def test_it_is_told_as_an_analysis() -> None:
    found = mitigate(binormal(2, 10), bin_edges(10, 1.0), ["sex=female", "sex=male"], 5, 0.02)
    told = json.loads(json.dumps(found.as_json()))
    assert told["applied"] is False
    assert (told["criterion"], told["bound"]) == ("equal_opportunity", 0.02)
    assert told["loss"] == pytest.approx(told["before"]["balanced_accuracy"] - told["after"]["balanced_accuracy"])
    assert [group["group"] for group in told["after"]["groups"]] == ["sex=female", "sex=male"]


def test_what_cannot_be_analysed_is_refused() -> None:
    fine = binormal(2, BINS)
    who = names(fine)
    empty = fine.copy()
    empty[1, :, 1] = 0
    nan = fine.astype(float)
    nan[0, 0, 0] = np.nan
    for counts, edges, first, bound, criterion, words in (
        (fine[:, :-1], EDGES, 2, 0.1, "equal_opportunity", "do not fit"),
        (empty, EDGES, 2, 0.1, "equal_opportunity", 'group "g1" has no patients'),
        (nan, EDGES, 2, 0.1, "equal_opportunity", "no number"),
        (fine, EDGES, 2, float("nan"), "equal_opportunity", "no gap"),
        (fine, EDGES, 2, -0.1, "equal_opportunity", "no gap"),
        (fine, EDGES, 6, 0.1, "equal_opportunity", "no such bin"),
        (fine, EDGES, 2, 0.1, "parity", "no such criterion"),
    ):
        with pytest.raises(InputError, match=words):
            mitigate(counts, edges, who, first, bound, criterion)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="two groups"):
        mitigate(fine[:1], EDGES, who[:1], 2, 0.1)
    for allowed in (np.ones((3, BINS + 1), dtype=np.bool_), np.zeros((len(fine), BINS + 1), dtype=np.bool_)):
        with pytest.raises(InputError, match="do not fit"):
            mitigate(fine, EDGES, who, 2, 0.1, allowed=allowed)
