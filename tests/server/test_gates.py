"""A gate holds only by what is known, and within its limit; a study that asks for nothing still asks who took part."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from federation import heart_manifest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.accounting import epsilon
from fedward.server.gates import judged, withheld
from fedward.server.records import AttemptRow, MetricRow, SharedMetrics, StandingRow, StatusRow
from fedward.server.verdicts import PARTICIPATION, SIDES, WORDS, Verdict, failing
from fedward.server.views import StudyView
from fedward.study.manifest import Gates, Manifest, RosterEntry, SealedManifest
from fedward.study.metrics import slice_names
from fedward.study.schedule import attempt_events

ROUNDS = 2
SITES = ("a", "b", "c")


def manifest(**gates: object) -> Manifest:
    none: dict[str, object] = dict.fromkeys(("min_auroc", "max_site_drop", "max_equalized_odds_gap"))
    return heart_manifest(training={"rounds": ROUNDS}, federation={"quorum": 2}, gates=none | gates)


def row(slice_: str, name: str, value: float | None, low: float | None = None, high: float | None = None) -> MetricRow:
    sizes = {"everybody": 300, "sex": 150, "age": 100}  # of two sexes and three ages; a group of both is 50
    patients = 50 if " & " in slice_ else sizes.get(slice_.split("=", maxsplit=1)[0].split(" ", maxsplit=1)[0], 50)
    return MetricRow(ROUNDS, slice_, name, value, low, high, patients, patients)


def study(*metrics: MetricRow, version: int = ROUNDS, state: str = "completed") -> StudyView:
    """A study that three sites trained in both rounds; what is measured is measured of everybody, too."""
    whole = [row("everybody", "brier", 0.1)] if any(one.version == version for one in metrics) else []
    metrics = (*whole, *metrics)
    return StudyView(
        1, "s", "S", "d" * 64, state, "", "none", ROUNDS, version, "m", None, None, None, "", None,
        tuple(StandingRow(site, "approved", "", 0) for site in SITES),
        tuple(AttemptRow(n, n, "b", "committed", "", "m", 0, 1.0) for n in range(1, ROUNDS + 1)),
        tuple(StatusRow(n, site, "contributed", "") for site in SITES for n in range(1, ROUNDS + 1)),
        metrics,
    )  # fmt: skip


def one(gates: dict[str, object], *metrics: MetricRow, shared: tuple[SharedMetrics, ...] = ()) -> Verdict:
    """The verdict of the one gate."""
    found, took_part = judged(manifest(**gates), study(*metrics), None, shared)
    assert (took_part.gate, took_part.holds) == (PARTICIPATION, True)
    return found


def test_every_gate_of_the_manifest_is_judged() -> None:
    names = set(Gates.model_fields) - {"judged_by"}
    assert names == set(SIDES)
    assert set(WORDS) == names | {PARTICIPATION}
    asked = manifest(**dict.fromkeys(names, 0.5))
    assert [verdict.gate for verdict in judged(asked, study(), None)] == [*SIDES, PARTICIPATION]


@pytest.mark.parametrize("gate", SIDES)
def test_what_is_not_known_does_not_hold(gate: str) -> None:
    unknown = one({gate: 0.5})
    assert (unknown.holds, unknown.known, unknown.value) == (False, False, None)
    assert "is not known" in unknown.why


def test_a_limit_itself_holds_and_what_is_beyond_does_not() -> None:
    for value, holds in ((0.8, True), (0.81, True), (0.799, False)):
        assert one({"min_auroc": 0.8}, row("everybody", "auroc", value, 0.7, 0.9)).holds is holds
    for value, holds in ((0.1, True), (0.09, True), (0.101, False)):
        assert (
            one({"max_calibration_error": 0.1}, row("everybody", "calibration_error", value, 0.0, 0.2)).holds is holds
        )


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_no_number_passes_a_gate(value: float | None) -> None:
    for gate, name in (("min_auroc", "auroc"), ("max_calibration_error", "calibration_error")):
        found = one({gate: 0.5}, row("everybody", name, value, 0.0, 1.0))
        assert (found.holds, found.known) == (False, False)


def test_an_older_models_figures_do_not_speak_for_the_newest() -> None:
    old = replace(row("everybody", "auroc", 0.9, 0.8, 0.95), version=ROUNDS - 1)
    assert one({"min_auroc": 0.8}, old).why == "AUROC is not known: the newest model has not been evaluated"


def test_by_interval_the_worse_end_must_hold() -> None:
    figure = row("everybody", "auroc", 0.85, 0.79, 0.9)
    assert one({"min_auroc": 0.8}, figure).holds
    found = one({"min_auroc": 0.8, "judged_by": "interval"}, figure)
    assert not found.holds
    assert found.why == "AUROC is 0.790 at the worse end of its interval, and must be at least 0.8"
    bare = one({"min_auroc": 0.8, "judged_by": "interval"}, row("everybody", "auroc", 0.95))
    assert not bare.holds  # no interval, so none that holds


def test_the_worst_group_decides_and_is_named() -> None:
    names = slice_names(manifest())[1:]
    figures = [row(name, "auroc", 0.9 - 0.01 * place, 0.5, 0.95) for place, name in enumerate(names)]
    found = one({"min_group_auroc": 0.89}, *figures)
    assert (found.holds, found.of) == (False, names[-1])
    assert found.value == figures[-1].value
    unknown = replace(figures[0], value=None)
    without = one({"min_group_auroc": 0.5}, unknown, *figures[1:])
    assert (without.holds, without.known, without.of) == (False, False, names[0])


def test_a_group_too_small_to_be_shown_is_not_judged_by() -> None:
    """Its figure would stand in the verdict, for everybody to read; and so would its part in a gap."""
    names, attribute = slice_names(manifest())[1:], manifest().fairness.groups[0].column
    figures = [row(name, "auroc", 0.9, 0.8, 0.95) for name in names]
    assert one({"min_group_auroc": 0.8}, *figures).holds
    small = [replace(figures[0], positives=10), *figures[1:]]
    found = one({"min_group_auroc": 0.8}, *small)
    assert (found.holds, found.known, found.value, found.of) == (False, False, None, names[0])
    gaps = [row(group.column, "equalized_odds_gap", 0.1, 0.0, 0.2) for group in manifest().fairness.groups]
    assert one({"max_equalized_odds_gap": 0.2}, *figures, *gaps).holds
    hidden = one({"max_equalized_odds_gap": 0.2}, *small, *gaps)
    assert (hidden.holds, hidden.value, hidden.of) == (False, None, attribute)


def test_patients_of_no_group_do_not_follow_from_a_verdict() -> None:
    """Of exact counts: 300 in all, less 150 and 147, would be the three whose sex is not known."""
    names = slice_names(manifest())[1:]
    figures = [row(name, "auroc", 0.9, 0.8, 0.95) for name in names]
    figures[1] = replace(figures[1], positives=147)
    found = one({"min_group_auroc": 0.8}, *figures)
    assert (found.holds, found.known, found.of) == (False, False, names[1])


def test_a_study_of_few_patients_is_not_judged_by_them() -> None:
    few = replace(row("everybody", "auroc", 0.9, 0.8, 0.95), positives=10)
    found = one({"min_auroc": 0.8}, few)
    assert (found.holds, found.value) == (False, None)


def test_a_groups_calibration_is_judged_by_its_distance_from_zero() -> None:
    names = slice_names(manifest())[1:]
    gaps = [row(name, "calibration_gap", 0.0, -0.01, 0.02) for name in names[1:]]
    gaps += [row(name, "auroc", 0.8) for name in names]
    found = one({"max_group_calibration_gap": 0.1}, row(names[0], "calibration_gap", -0.2, -0.3, -0.1), *gaps)
    assert (found.value, found.low, found.high, found.of, found.holds) == (0.2, 0.1, 0.3, names[0], False)


def test_every_attribute_is_judged_by_equalised_odds() -> None:
    columns = [group.column for group in manifest().fairness.groups]
    assert len(columns) > 1
    gaps = [row(name, "auroc", 0.8) for name in slice_names(manifest())[1:]]
    gaps += [row(column, "equalized_odds_gap", 0.1, 0.0, 0.2) for column in columns]
    assert one({"max_equalized_odds_gap": 0.2}, *gaps).holds
    assert not one({"max_equalized_odds_gap": 0.2}, *gaps[:-1]).holds


def test_crossed_groups_are_judged_as_the_others_are() -> None:
    crossed = {"intersections": [["sex", "age"]]}
    names = slice_names(heart_manifest(fairness=crossed))[1:]

    def judged_one(gate: str, *figures: MetricRow) -> Verdict:
        asked = heart_manifest(training={"rounds": ROUNDS}, gates={gate: 0.5}, fairness=crossed)
        return next(found for found in judged(asked, study(*figures), None) if found.gate == gate)

    figures = [row(name, "auroc", 0.9 - 0.05 * place, 0.0, 1.0) for place, name in enumerate(names)]
    worst = judged_one("min_group_auroc", *figures)
    assert (worst.holds, worst.of) == (False, "sex=male & age in [65, 120)")
    gaps = [row(name, "equalized_odds_gap", 0.1, 0.0, 0.2) for name in ("sex", "age")]
    assert judged_one("max_equalized_odds_gap", *figures, *gaps).of == "sex & age"
    assert judged_one(
        "max_equalized_odds_gap", *figures, *gaps, row("sex & age", "equalized_odds_gap", 0.4, 0.0, 0.5)
    ).holds


def gave(site: str, drop: float | None, version: int = ROUNDS) -> SharedMetrics:
    return SharedMetrics(site, version, 0.5, None if drop is None else 0.5 + drop)


def test_a_silent_hospital_may_be_the_one_that_loses() -> None:
    told = [gave("a", 0.01), gave("b", -0.2)]
    assert one({"max_site_drop": 0.05}, shared=(*told, gave("c", 0.05))).holds
    assert one({"max_site_drop": 0.05}, shared=(*told, gave("c", 0.06))).of == "c"
    assert one({"max_site_drop": 0.05}, shared=tuple(told)).why.endswith("not shared by c")
    assert one({"max_site_drop": 0.05}, shared=(*told, gave("c", None))).why.endswith("not shared by c")
    assert one({"max_site_drop": 0.05}, shared=(*told, gave("c", 0.0, 1))).why.endswith("not shared by c")


def sealed(asked: Manifest) -> SealedManifest:
    roster = tuple(
        RosterEntry(site=site, identity_key=f"{place:064x}", declared_patients=300, noise_multiplier=2.0 + place)
        for place, site in enumerate(SITES)
    )
    return SealedManifest(
        manifest=asked, federation_id="0" * 32, coordinator_key="1" * 64, roster=roster, sealed_at=1, expires_at=2
    )


def test_epsilon_is_that_of_the_hospital_with_the_least_noise_failed_attempts_included() -> None:
    asked = manifest(max_epsilon=100.0)
    made = sealed(asked)
    failed = AttemptRow(3, 2, "b", "quorum-missed", "", None, 0, 1.0)
    view = replace(study(), attempts=(*study().attempts, failed))
    (found, _) = judged(asked, view, made)
    once = attempt_events(made, "a", train=True, evaluate=False)["train"]
    assert once is not None
    assert asked.privacy.delta is not None
    assert found.value == pytest.approx(epsilon([replace(once, steps=3 * once.steps)], asked.privacy.delta))
    assert found.value > judged(asked, study(), made)[0].value  # type: ignore[operator]
    assert found.holds
    assert not judged(manifest(max_epsilon=found.value - 0.01), view, made)[0].holds


def test_floors_are_asked_while_it_runs_and_gates_once_it_has_ended() -> None:
    asked = manifest(min_auroc=0.8)
    assert withheld(asked, study(state="running"), None) == ()
    assert withheld(asked, study(), None) == failing(judged(asked, study(), None)) != ()
    assert withheld(asked, replace(study(), version=0), None) == ("no round of training is committed",)


@given(
    value=st.floats(0, 1), low=st.floats(0, 1), high=st.floats(0, 1), limit=st.floats(0, 1),
    judged_by=st.sampled_from(["value", "interval"]),
)  # fmt: skip
def test_a_stricter_limit_never_holds_where_a_weaker_one_did_not(
    value: float, low: float, high: float, limit: float, judged_by: str
) -> None:
    low, high = min(low, value), max(high, value)
    figure = row("everybody", "auroc", value, low, high)
    holds = one({"min_auroc": limit, "judged_by": judged_by}, figure).holds
    assert holds == ((value if judged_by == "value" else low) >= limit)
    if judged_by == "interval" and holds:
        assert one({"min_auroc": limit}, figure).holds
