"""Thresholds of each group's own, from a study's counts: against trying every threshold, and without what may not be shown."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping

import numpy as np
import pytest
from federation import heart_manifest
from measurements import Patients, counted
from numpy.typing import NDArray

from fedward.privacy.errors import InputError, RefusalError
from fedward.server.control import coordinator_pb2 as pb
from fedward.server.control.wire import mitigated_message, mitigated_of
from fedward.server.mitigating import LeftOut, Mitigated, compared, limits, mitigated
from fedward.server.records import Evaluation
from fedward.study.evaluation import count_deviation
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest
from fedward.study.messages import counts_to_bytes
from fedward.study.metrics import SMALL, bin_centres, bin_edges, histogram_shape, slice_names
from fedward.study.metrics.mitigation import Criterion

Counts = NDArray[np.int64]
AGES = {"column": "age", "cut": [0, 40, 50, 60, 70, 120]}
BANDS = ("age in [0, 40)", "age in [40, 50)", "age in [50, 60)", "age in [60, 70)", "age in [70, 120)")
SITES = ("a", "b", "c", "d")
CRITERIA: tuple[Criterion, ...] = ("equal_opportunity", "equalized_odds")


def study(noised: bool = False, **changes: object) -> Manifest:
    fairness = {"groups": [{"column": "sex"}, AGES]} | changes
    evaluation = {"bins": 12} | ({} if noised else {"noise": "none"})
    return heart_manifest(noised=noised, fairness=fairness, evaluation=evaluation)


def sealed(manifest: Manifest) -> SealedManifest:
    roster = tuple(
        RosterEntry(site=site, identity_key=f"{place:064x}", declared_patients=300, noise_multiplier=4.0)
        for place, site in enumerate(SITES)
    )
    return SealedManifest(
        manifest=manifest, federation_id="0" * 32, coordinator_key="1" * 64, roster=roster, sealed_at=1, expires_at=2,
        count_deviation=count_deviation(manifest),
    )  # fmt: skip


def evaluated(manifest: Manifest, total: Counts) -> Evaluation:
    assert total.shape == histogram_shape(manifest)
    return Evaluation(7, counts_to_bytes(total), SITES, ())


def patients(last: tuple[int, int] = (5, 30), sizes: tuple[tuple[int, int], ...] = ()) -> Patients:
    """Men and women in five bands of age, of which the last has few with the outcome and the first is the smallest other."""
    bands = sizes or ((18, 30), (260, 380), (370, 290), (390, 270), last)
    made: dict[tuple[str, ...], tuple[int, int]] = {}
    for band, (ill, none) in zip(BANDS, bands, strict=True):
        made["sex=female", band] = (ill // 2, none // 2)
        made["sex=male", band] = (ill - ill // 2, none - none // 2)
    return made


def rates(counts: Counts, edges: tuple[int, ...]) -> tuple[float, float, float]:
    """(gap in sensitivity, equalised-odds gap, balanced accuracy) of a threshold for each group, counted by hand."""
    tpr = [part[edge:, 1].sum() / part[:, 1].sum() for part, edge in zip(counts, edges, strict=True)]
    fpr = [part[edge:, 0].sum() / part[:, 0].sum() for part, edge in zip(counts, edges, strict=True)]
    true = sum(part[edge:, 1].sum() for part, edge in zip(counts, edges, strict=True)) / counts[..., 1].sum()
    spared = sum(part[:edge, 0].sum() for part, edge in zip(counts, edges, strict=True)) / counts[..., 0].sum()
    gap = max(tpr) - min(tpr)
    return gap, max(gap, max(fpr) - min(fpr)), (true + spared) / 2


def steps(counts: Counts, first: int) -> list[int]:
    """Where a threshold may be, written anew: outwards from the common one, `SMALL` of each outcome a step and left over."""
    bins = len(counts)
    ill = [int(counts[edge:, 1].sum()) for edge in range(bins + 1)]
    none = [int(counts[edge:, 0].sum()) for edge in range(bins + 1)]
    found = {0, first, bins}
    for end in (bins, 0):
        last = first
        for edge in range(first, end, 1 if end else -1):
            done = min(abs(ill[edge] - ill[last]), abs(none[edge] - none[last]))
            left = min(abs(ill[edge] - ill[end]), abs(none[edge] - none[end]))
            if done >= SMALL and left >= SMALL:
                found.add(edge)
                last = edge
    return sorted(found)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("bound", [0.0, 0.03, 0.1, 1.0])
def test_no_thresholds_of_the_groups_that_may_be_shown_are_better(criterion: Criterion, bound: float) -> None:
    """All of them are tried. The last band is too small, and the first would give it away: neither is in anything."""
    manifest = study()
    total = counted(manifest, patients())
    found = mitigated(sealed(manifest), evaluated(manifest, total), "age", bound, criterion)
    assert found.left_out == (LeftOut(BANDS[0], "small"), LeftOut(BANDS[4], "small"))
    assert [point.group for point in found.found.after.groups] == list(BANDS[1:4])
    names, edges = slice_names(manifest), bin_edges(12, manifest.counting.temper)
    counts = total[[names.index(band) for band in BANDS[1:4]]]
    first = next(place for place, centre in enumerate(bin_centres(12, manifest.counting.temper)) if centre >= 0.5)
    may = [steps(part, first) for part in counts]
    assert found.choices == tuple(len(one) for one in may)
    assert min(found.choices) > 3  # or there is little to try
    tried = [rates(counts, chosen) for chosen in itertools.product(*may)]
    which = 0 if criterion == "equal_opportunity" else 1
    best = max(one[2] for one in tried if one[which] <= bound + 1e-9)
    assert found.found.after.balanced_accuracy == pytest.approx(best, abs=1e-9)
    assert [point.threshold for point in found.found.before.groups] == [edges[first]] * 3
    for choice in (found.found.before, found.found.after):
        places = tuple(int(np.flatnonzero(edges == point.threshold)[0]) for point in choice.groups)
        assert all(place in one for place, one in zip(places, may, strict=True))
        told = (choice.equal_opportunity_gap, choice.equalized_odds_gap, choice.balanced_accuracy)
        assert told == pytest.approx(rates(counts, places), abs=1e-12)


def test_what_is_left_out_changes_nothing_that_is_told() -> None:
    manifest = study()
    made = sealed(manifest)
    one, other = (
        mitigated(made, evaluated(manifest, counted(manifest, patients(last))), "age").as_json()
        for last in ((5, 30), (9, 14))
    )
    assert one == other


def test_asking_for_one_bound_after_another_finds_no_small_count() -> None:
    """Each answer tells points of the groups' curves; between two of a group are many patients of each outcome, but between
    calling everybody, nobody and by the common threshold, which the study's own sensitivity and specificity tell."""
    manifest = study()
    total = counted(manifest, patients())
    made, row = sealed(manifest), evaluated(manifest, total)
    points: dict[str, dict[float, tuple[float, float]]] = {}
    for criterion, bound in itertools.product(CRITERIA, np.linspace(0, 1, 60)):
        found = mitigated(made, row, "age", float(bound), criterion).found
        for point in (*found.before.groups, *found.after.groups):
            points.setdefault(point.group, {})[point.threshold] = (point.sensitivity, 1 - point.specificity)
    assert max(len(one) for one in points.values()) > 3
    for group, told in points.items():
        none, ill = total[slice_names(manifest).index(group)].sum(0)
        numbers = [(at, round(tpr * ill), round(fpr * none)) for at, (tpr, fpr) in sorted(told.items())]
        for before, after in itertools.pairwise(numbers):
            many = min(before[1] - after[1], before[2] - after[2]) >= SMALL
            assert many or {before[0], after[0]} <= {0.0, 0.5, 1.0}, group


def test_the_first_attribute_is_compared_unless_another_is_named() -> None:
    manifest = study(intersections=[["sex", "age"]])
    made, row = sealed(manifest), evaluated(manifest, _crossed(manifest))
    assert compared(made) == ("sex", "age", "sex & age")
    assert mitigated(made, row).attribute == "sex"
    crossed = mitigated(made, row, "sex & age")
    assert [point.group for point in crossed.found.after.groups] == [
        name for name in slice_names(manifest) if name.startswith("sex=") and " & " in name
    ]


def _crossed(manifest: Manifest) -> Counts:
    """The same patients, in the crossed groups as well; all of them large."""
    groups = patients(sizes=((60, 60),) * 5)
    both = {(*one, " & ".join(one)): numbers for one, numbers in groups.items()}
    return counted(manifest, both)


def test_of_exact_counts_patients_of_no_group_are_not_given_away() -> None:
    """Everybody less men and women would be five patients whose sex is not known."""
    manifest = study()
    known: dict[tuple[str, ...], tuple[int, int]] = {("sex=female",): (40, 60), ("sex=male",): (80, 70)}
    assert mitigated(sealed(manifest), evaluated(manifest, counted(manifest, known)), "sex").left_out == ()
    with pytest.raises(RefusalError) as refused:
        mitigated(sealed(manifest), evaluated(manifest, counted(manifest, known | {(): (5, 5)})), "sex")
    assert refused.value.code == "groups-too-small"


def test_noise_is_told_and_a_group_that_drowns_in_it_is_left_out() -> None:
    manifest = study(noised=True)
    made = sealed(manifest)
    assert made.count_deviation > 0
    deviation = made.count_deviation * 2  # of four sites
    bins = manifest.counting.bins
    enough = math.ceil(3 * deviation * bins**0.5) + 1
    sizes = (*(((enough * 4, enough * 4),) * 4), (enough, enough - 3))
    total = counted(manifest, patients(sizes=sizes))
    found = mitigated(made, evaluated(manifest, total), "age")
    assert found.deviation == pytest.approx(deviation)
    assert found.left_out == (LeftOut(BANDS[4], "noise"),)
    assert found.choices == (bins + 1,) * 4
    assert f"noise of deviation {deviation:.1f}" in limits(found)
    assert "flatter more" in limits(found)
    exact = mitigated(sealed(study()), evaluated(study(), counted(study(), patients())), "age")
    assert "noise" not in limits(exact)


def test_noised_counts_below_zero_have_rates() -> None:
    manifest = study(noised=True)
    made = sealed(manifest)
    big = round(30 * made.count_deviation * manifest.counting.bins)
    total = counted(manifest, patients(sizes=((big, big),) * 5))
    noise = np.rint(np.random.default_rng(3).normal(0, 2 * made.count_deviation, total.shape)).astype(np.int64)
    found = mitigated(made, evaluated(manifest, total + noise), "age", 0.05, "equalized_odds")
    assert (total + noise).min() < 0
    assert found.found.after.equalized_odds_gap <= 0.05 + 1e-9
    for point in (*found.found.before.groups, *found.found.after.groups):
        assert 0 <= point.sensitivity <= 1 + 1e-12
        assert -1e-12 <= point.specificity <= 1


def test_with_fewer_than_two_groups_left_the_words_say_so() -> None:
    manifest = study()
    sizes = ((30, 60), (3, 10), (4, 10), (5, 10), (6, 10))
    with pytest.raises(RefusalError) as refused:
        mitigated(sealed(manifest), evaluated(manifest, counted(manifest, patients(sizes=sizes))), "age")
    assert refused.value.code == "groups-too-small"
    assert "two groups or more" in str(refused.value.expected)
    assert f"{BANDS[1]} is too small to show" in str(refused.value.got)
    assert "choose another attribute: sex" in str(refused.value.remedy)
    few = patients(sizes=((1, 5),) * 5)
    with pytest.raises(RefusalError, match="too few groups"):
        mitigated(sealed(manifest), evaluated(manifest, counted(manifest, few)), "sex")


def test_what_has_no_such_analysis_says_why() -> None:
    manifest = study()
    made, row = sealed(manifest), evaluated(manifest, counted(manifest, patients()))
    with pytest.raises(InputError, match="no such attribute") as unknown:
        mitigated(made, row, "religion")
    assert unknown.value.expected == "sex, age"
    with pytest.raises(InputError, match="has been evaluated yet"):
        mitigated(made, None, "sex")
    with pytest.raises(InputError, match="has no model"):
        mitigated(None, row)
    bare = study(groups=[])
    assert compared(sealed(bare)) == ()
    with pytest.raises(InputError, match="compares no groups"):
        mitigated(sealed(bare), evaluated(bare, counted(bare, {(): (50, 50)})))
    for bound in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="no gap"):
            mitigated(made, row, "sex", bound)
    with pytest.raises(InputError, match="no such criterion"):
        mitigated(made, row, "sex", 0.1, "justice")  # type: ignore[arg-type]
    assert compared(None) == ()


def _any() -> Mitigated:
    manifest = study()
    return mitigated(
        sealed(manifest), evaluated(manifest, counted(manifest, patients())), "age", 0.02, "equalized_odds"
    )


def test_it_travels_whole() -> None:
    made = _any()
    sent = mitigated_message(made).SerializeToString()
    assert mitigated_of(pb.Mitigated.FromString(sent)) == made


def test_for_scripts_it_is_one_object_that_says_that_it_is_not_applied() -> None:
    told: Mapping[str, object] = json.loads(json.dumps(_any().as_json(), allow_nan=False))
    assert told["applied"] is False
    assert (told["version"], told["sites"], told["attribute"], told["bound"]) == (7, 4, "age", 0.02)
    assert "applied to nothing" in str(told["limits"])
    assert [one["group"] for one in told["left_out"]] == [BANDS[0], BANDS[4]]  # type: ignore[attr-defined]
