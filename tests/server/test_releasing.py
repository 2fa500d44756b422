"""A model that too few sites or groups trained may not become a release, and what is said of it names what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from federation import heart_manifest

from fedward.privacy.errors import InputError
from fedward.server.records import AttemptRow, MetricRow, StandingRow, StatusRow
from fedward.server.releasing import shortfalls
from fedward.server.views import StudyView
from fedward.study.metrics import slice_names

ROUNDS = 4


def study(contributed: dict[str, list[int]], version: int = ROUNDS, groups: dict[str, int] | None = None) -> StudyView:
    """A study whose sites are in these rounds, one attempt each; `groups` have so many held-out patients."""
    metrics = [
        MetricRow(version, name, "auroc", 0.8, 0.7, 0.9, count // 2, count - count // 2)
        for name, count in ({"everybody": 900} | (groups or {})).items()
    ]
    return StudyView(
        1, "s", "S", "d" * 64, "completed", "", "none", ROUNDS, version, "m", None, None, None, "", None,
        tuple(StandingRow(site, "approved", "", 0) for site in contributed),
        tuple(AttemptRow(n, n, "b", "committed", "", "m", 0, 1.0) for n in range(1, version + 1)),
        tuple(StatusRow(n, site, "contributed", "") for site, rounds in contributed.items() for n in rounds),
        tuple(metrics),
    )  # fmt: skip


EVERY = [1, 2, 3, 4]


def test_without_a_table_a_release_needs_what_a_round_needs() -> None:
    manifest = heart_manifest(training={"rounds": ROUNDS}, federation={"quorum": 3})
    assert shortfalls(manifest, study({"a": EVERY, "b": EVERY, "c": [1]})) == ()
    assert shortfalls(manifest, study({"a": EVERY, "b": EVERY, "c": []})) == (
        "trained by 2 of at least 3 sites (a, b)",
    )
    assert shortfalls(manifest, study({"a": []}, version=0)) == ("no round of training is committed",)


def test_a_site_counts_that_was_in_enough_rounds() -> None:
    manifest = heart_manifest(training={"rounds": ROUNDS}, release={"min_sites": 3, "min_rounds": 3})
    assert shortfalls(manifest, study({"a": EVERY, "b": [1, 2, 4], "c": [2, 3, 4]})) == ()
    assert shortfalls(manifest, study({"a": EVERY, "b": EVERY, "c": [1, 2]})) == (
        "trained by 2 of at least 3 sites in 3 rounds or more (a, b)",
    )


def test_what_was_not_committed_and_the_test_of_the_last_model_count_for_nothing() -> None:
    manifest = heart_manifest(training={"rounds": ROUNDS}, release={"min_sites": 2}, federation={"quorum": 1})
    view = study({"a": EVERY, "b": [1]})
    failed = replace(view, attempts=(replace(view.attempts[0], outcome="quorum-missed"), *view.attempts[1:]))
    assert shortfalls(manifest, failed) == ("trained by 1 of at least 2 sites (a)",)
    tested = replace(
        study({"a": EVERY}),
        attempts=(*view.attempts, AttemptRow(5, 5, "b", "committed", "", "m", 0, 1.0)),
        statuses=(*study({"a": EVERY}).statuses, StatusRow(5, "b", "contributed", "")),
    )
    assert shortfalls(manifest, tested) == ("trained by 1 of at least 2 sites (a)",)


def test_a_group_counts_that_has_enough_held_out_patients() -> None:
    manifest = heart_manifest(training={"rounds": ROUNDS}, release={"min_groups": 2}, federation={"quorum": 1})
    first, second, *_ = slice_names(manifest)[1:]
    many = {"a": EVERY}
    assert shortfalls(manifest, study(many, groups={first: 20, second: 300})) == ()
    assert shortfalls(manifest, study(many, groups={first: 19, second: 300})) == (
        f"1 of at least 2 groups have 20 held-out patients or more ({second})",
    )
    assert shortfalls(manifest, study(many, groups={"another": 300})) == (
        "its groups are not known: the newest model has not been evaluated",
    )
    older = study(many, groups={first: 300, second: 300})
    older = replace(older, metrics=tuple(replace(row, version=2) for row in older.metrics))
    assert shortfalls(manifest, older) == ("its groups are not known: the newest model has not been evaluated",)


@pytest.mark.parametrize(
    ("release", "said"),
    [({"min_rounds": 5}, "is more than the 4 rounds"), ({"min_groups": 60}, "and fairness.groups has")],
)
def test_a_floor_out_of_reach_is_no_manifest(release: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        heart_manifest(training={"rounds": ROUNDS}, release=release)
