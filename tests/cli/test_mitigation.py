"""`fedward coordinator mitigation` on a record: what it says, whom it leaves out, and that it changes nothing."""

from __future__ import annotations

import json
import re
import sqlite3
from hashlib import sha256
from pathlib import Path

import histories
import pytest
from command import fedward, good
from exploring import heart_exploration
from federation import Federation, heart_manifest
from measurements import counted, measure
from serving import served

from fedward.server.mitigating import LIMITS, mitigated
from fedward.server.readings import newest_evaluation

STUDY = "heart-4-hospitals"
GATES: dict[str, object] = {"min_auroc": 0.5, "max_site_drop": None, "max_equalized_odds_gap": None}
AGES = ("age in [0, 50)", "age in [50, 65)", "age in [65, 120)")


def patients(oldest: tuple[int, int]) -> dict[tuple[str, ...], tuple[int, int]]:
    return {
        ("sex=female", AGES[0]): (140, 160), ("sex=male", AGES[0]): (160, 150),
        ("sex=female", AGES[1]): (250, 360), ("sex=male", AGES[1]): (390, 380),
        ("sex=male", AGES[2]): oldest,
    }  # fmt: skip


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A completed study that holds its gates, whose newest evaluation is of patients of whom too few are old."""
    made = Federation(tmp_path_factory.mktemp("federation"))
    manifest = heart_manifest(training={"rounds": 2}, gates=GATES)
    made.ready(manifest)
    histories.completed(made)
    measure(made, counted(manifest, patients((4, 9))))
    return made


@pytest.fixture(scope="module")
def home(federation: Federation) -> Path:
    return federation.home.path


def test_it_says_what_the_thresholds_do_and_that_nothing_has_them(federation: Federation, home: Path) -> None:
    found = good("coordinator", "mitigation", STUDY, "--home", home)
    study = federation.store.study(federation.key)
    made = mitigated(federation.sealed(), newest_evaluation(federation.store, study))
    assert found == json.loads(json.dumps(made.as_json()))
    assert (found["attribute"], found["applied"], found["bound"], found["criterion"]) == (
        "sex", False, 0.05, "equal_opportunity",
    )  # fmt: skip
    assert found["after"]["equal_opportunity_gap"] <= 0.05 + 1e-9 < found["before"]["equal_opportunity_gap"]
    ran = fedward("coordinator", "mitigation", STUDY, "--home", home)
    assert ran.code == 0, ran
    told = " ".join(ran.out.split())
    assert LIMITS in told
    assert "Other attributes: age." in told
    for choice in ("before", "after"):
        for name in ("equal_opportunity_gap", "equalized_odds_gap", "balanced_accuracy"):
            assert f"{found[choice][name]:.3f}" in told
        for group in found[choice]["groups"]:
            assert group["group"] in told
            for name in ("threshold", "sensitivity", "specificity"):
                assert f"{group[name]:.3f}" in told
    assert re.search(rf"loss of it[ │]+{found['loss']:z.3f}", told)


def test_each_option_reaches_the_analysis(home: Path) -> None:
    tight = good("coordinator", "mitigation", STUDY, "--bound", 0, "--home", home)
    assert tight["bound"] == 0
    assert tight["after"]["equal_opportunity_gap"] <= 1e-9
    odds = good("coordinator", "mitigation", STUDY, "--criterion", "equalized_odds", "--home", home)
    assert odds["criterion"] == "equalized_odds"
    assert odds["after"]["equalized_odds_gap"] <= 0.05 + 1e-9


def test_groups_too_small_are_not_compared_and_with_one_left_nothing_is(home: Path) -> None:
    """The oldest are too few; the smaller of the other bands would give them away; the last one has nobody to compare with."""
    ran = fedward("coordinator", "mitigation", STUDY, "--attribute", "age", "--home", home)
    assert ran.code == 4, ran
    assert 'too few groups of "age" are large enough' in ran.err
    assert "choose another attribute: sex" in ran.err
    assert ran.out == ""


def test_what_cannot_be_asked_is_said(federation: Federation, home: Path, tmp_path: Path) -> None:
    for options, code, said in (
        (("--attribute", "religion"), 3, "sex, age"),
        (("--bound", "nan"), 3, "a number from 0 to 1"),
        (("--bound", "1.5"), 2, "1.5"),
        (("--criterion", "justice"), 2, "justice"),
    ):
        ran = fedward("coordinator", "mitigation", STUDY, *options, "--home", home)
        assert (ran.code, said in ran.err) == (code, True), ran
    copy = federation.copy(tmp_path / "copy")
    federation.store = federation.home.open_store()
    manifest = heart_exploration()
    copy.store.create_study(manifest.study.id, manifest.model_dump_json(), tuple(copy.sites), 0)
    ran = fedward("coordinator", "mitigation", manifest.study.id, "--home", copy.home.path)
    assert (ran.code, "has no model" in ran.err) == (3, True), ran


def test_before_the_first_evaluation_it_says_so(tmp_path: Path) -> None:
    begun = histories.template(tmp_path / "begun")
    ran = fedward("coordinator", "mitigation", STUDY, "--home", begun.home.path)
    assert (ran.code, "has been evaluated yet" in ran.err) == (3, True), ran


def test_from_elsewhere_it_is_the_same(federation: Federation, home: Path, tmp_path: Path) -> None:
    """A viewer may ask: what is told of groups is no more than the pages tell."""
    copy = federation.copy(tmp_path / "copy")
    federation.store = federation.home.open_store()
    with served(copy.home, tmp_path) as service:
        viewer = service.give("viewer", "viewer")
        there = good("coordinator", "mitigation", STUDY, "--criterion", "equalized_odds", "--home", viewer)
        refused = fedward("coordinator", "mitigation", STUDY, "--attribute", "age", "--home", viewer)
        wrong = fedward("coordinator", "mitigation", STUDY, "--bound", "nan", "--home", viewer)
    assert there == good("coordinator", "mitigation", STUDY, "--criterion", "equalized_odds", "--home", home)
    assert (refused.code, 'too few groups of "age"' in refused.err) == (4, True), refused
    assert (wrong.code, "a number from 0 to 1" in wrong.err) == (3, True), wrong


def kept(home: Path) -> dict[str, str]:
    """Every table of the record and every other file of the home, by digest."""
    found = {
        path.relative_to(home).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and not path.name.startswith("store.sqlite")
    }
    with sqlite3.connect(f"file:{home / 'store.sqlite'}?mode=ro", uri=True) as opened:
        found["store"] = sha256("\n".join(opened.iterdump()).encode()).hexdigest()
    return found


def test_nothing_is_changed_by_it(federation: Federation, tmp_path: Path) -> None:
    """The record with its model's digest and its release, the model's file, the audit log: all as before."""
    copy = federation.copy(tmp_path / "copy")
    federation.store = federation.home.open_store()
    home = copy.home.path
    good("coordinator", "release", STUDY, "--reason", "To see that an analysis leaves it alone.", "--home", home)
    before = (
        kept(home),
        good("coordinator", "releases", "--home", home),
        good("coordinator", "gates", STUDY, "--home", home),
    )
    assert any(name.endswith(".safetensors") for name in before[0])
    for options in ((), ("--criterion", "equalized_odds", "--bound", 0)):
        made = good("coordinator", "mitigation", STUDY, *options, "--home", home)
        assert made["after"] != made["before"]
    after = (
        kept(home),
        good("coordinator", "releases", "--home", home),
        good("coordinator", "gates", STUDY, "--home", home),
    )
    assert after == before
