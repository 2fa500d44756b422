"""The Fairness page's section on thresholds of each group's own: the command's numbers, and nothing of what is too small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import histories
import laidout
import pytest
from command import good
from federation import Federation
from laidout import said
from measurements import counted, measure
from streamlit.testing.v1 import AppTest

from fedward.dashboard import words
from fedward.dashboard.federation.charts.dumbbells import dumbbells, dumbbells_words
from fedward.dashboard.federation.views import mitigation as views
from fedward.server.mitigating import LIMITS, LeftOut, mitigated
from fedward.server.readings import newest_evaluation
from fedward.study.manifest import Manifest

STUDY = "heart-4-hospitals"
AGES = ("age in [0, 50)", "age in [50, 65)", "age in [65, 120)")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = histories.template(tmp_path_factory.mktemp("federation"))
    histories.completed(made)
    manifest = made.sealed().manifest
    assert isinstance(manifest, Manifest)
    people = {
        ("sex=female", AGES[0]): (140, 160), ("sex=male", AGES[0]): (160, 150),
        ("sex=female", AGES[1]): (250, 360), ("sex=male", AGES[1]): (390, 380), ("sex=male", AGES[2]): (4, 9),
    }  # fmt: skip
    measure(made, counted(manifest, people))
    return made


def page(home: Path) -> AppTest:
    return laidout.page("fairness", str(home))


def drawn(app: AppTest, measure: str) -> list[str]:
    told = [one.proto.alt for one in app.get("vega_lite_chart")]
    return [one for one in told if one.startswith(f"{measure} by group, with the common threshold and with its own.")]


def test_the_page_has_the_command_s_numbers(federation: Federation) -> None:
    home = federation.home.path
    app = page(home)
    told = good("coordinator", "mitigation", STUDY, "--home", home)
    assert LIMITS in said(app)
    assert f"the gap in sensitivity is {words.figure(told['before']['equal_opportunity_gap'])}" in said(app)
    assert f"it would be {words.figure(told['after']['equal_opportunity_gap'])}" in said(app)
    for rate in ("sensitivity", "specificity"):
        (alt,) = drawn(app, rate.capitalize())
        for before, after in zip(told["before"]["groups"], told["after"]["groups"], strict=True):
            ends = f"{words.figure(before[rate])} to {words.figure(after[rate])}"
            assert f"{words.group(after['group'])}: {ends}" in alt
        place = [f"{rate} with" in one.label for one in app.expander].index(True)
        frame = app.expander[place].dataframe[0].value
        assert list(frame["common"]) == [one[rate] for one in told["before"]["groups"]]
        assert list(frame["own"]) == [one[rate] for one in told["after"]["groups"]]
        assert list(frame["own_threshold"]) == [one["threshold"] for one in told["after"]["groups"]]
        assert list(frame["choices"]) == told["choices"]


def test_bound_and_criterion_are_chosen(federation: Federation) -> None:
    home = federation.home.path
    app = page(home)
    app.segmented_control(key="mitigation-bound").set_value("0.02")
    app.segmented_control(key="mitigation-criterion").set_value("equalised odds").run()
    assert not app.exception
    told = good("coordinator", "mitigation", STUDY, "--bound", 0.02, "--criterion", "equalized_odds", "--home", home)
    assert f"With a threshold for each group it would be {words.figure(told['after']['equalized_odds_gap'])}" in said(
        app
    )
    assert told["after"]["equalized_odds_gap"] <= 0.02 + 1e-9


def test_an_attribute_with_one_group_left_is_said_and_not_drawn(federation: Federation) -> None:
    app = page(federation.home.path)
    assert drawn(app, "Sensitivity")
    app.segmented_control(key="mitigation-attribute").set_value("age").run()
    assert not app.exception
    assert 'Not shown: too few groups of "age" are large enough to be compared.' in said(app)
    assert not drawn(app, "Sensitivity")


def test_the_page_changes_nothing(federation: Federation) -> None:
    store, key = federation.store, federation.key
    before = (store.stamp(), store.newest_model(key), store.releases(), list(federation.home.audit.entries()))
    app = page(federation.home.path)
    app.segmented_control(key="mitigation-criterion").set_value("equalised odds").run()
    assert (store.stamp(), store.newest_model(key), store.releases(), list(federation.home.audit.entries())) == before


def test_groups_that_are_left_out_are_in_the_frame_without_numbers(federation: Federation) -> None:
    study = federation.store.study(federation.key)
    made = mitigated(federation.sealed(), newest_evaluation(federation.store, study))
    small = replace(made, left_out=(LeftOut("sex=other", "small"), LeftOut("sex=none", "noise")))
    frame = views.by_group(small, "sensitivity")
    assert list(frame["shown"]) == ["estimate", "estimate", "< 11", "undefined"]
    assert frame.loc[2:, ["common", "own", "threshold", "own_threshold", "choices"]].isna().all(axis=None)
    assert "sex: other: < 11" in dumbbells_words(frame, "sensitivity")
    spec = dumbbells(frame, "sensitivity").to_dict()
    inline = [row for rows in spec["datasets"].values() for row in rows]
    assert {row["group"] for row in inline if row.get("value") is not None} == {"sex: female", "sex: male"}
