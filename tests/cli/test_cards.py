"""`fedward coordinator card | influence` on the record of a real study of the in-memory federation, here and from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import histories
import pytest
from command import fedward, good
from exploring import heart_exploration
from federation import Federation
from serving import served

from fedward.server.cards import pages
from fedward.server.cards.facts import card
from fedward.server.gates import verdicts
from fedward.study import attribution

STUDY = "heart-4-hospitals"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    made = histories.template(tmp_path_factory.mktemp("federation"))
    histories.completed(made)
    return made


@pytest.fixture(scope="module")
def home(federation: Federation) -> Path:
    return federation.home.path


def test_a_card_is_written_in_both_forms_from_the_record_alone(
    federation: Federation, home: Path, tmp_path: Path
) -> None:
    told = histories.told(federation)
    made = card(told, verdicts(told))
    for name, page in (("card.html", pages.html(made)), ("card.md", pages.markdown(made))):
        ran = fedward("coordinator", "card", STUDY, "--out", tmp_path / name, "--home", home)
        assert ran.code == 0, ran
        assert "of 3 rounds" in ran.out
        assert (tmp_path / name).read_text(encoding="utf-8") == page
    ran = fedward("coordinator", "card", STUDY, "--home", home)
    assert ran.out == pages.markdown(made)
    found = good("coordinator", "card", STUDY, "--home", home)
    assert found["model"] == made.model
    assert found["performance"]["positives"] == made.performance.positives  # type: ignore[union-attr]
    assert found["out"] is None


def test_a_card_from_elsewhere_is_the_same(federation: Federation, home: Path, tmp_path: Path) -> None:
    """A viewer may have it: nothing of it is more than a viewer sees."""
    copy = federation.copy(tmp_path / "copy")
    federation.store = federation.home.open_store()
    told = histories.told(copy)
    made = pages.markdown(card(told, verdicts(told)))
    with served(copy.home, tmp_path) as service:
        ran = fedward("coordinator", "card", STUDY, "--home", service.give("viewer", "viewer"))
        assert (ran.code, ran.out) == (0, made)
        assert "## Calibration\n\nOf patients given" in ran.out
        refused = fedward("coordinator", "influence", STUDY, "--home", service.give("viewer", "viewer"))
        assert refused.code == 4  # the model's file is not for viewers
        there = good("coordinator", "influence", STUDY, "--rows", 50, "--home", service.give("auditor", "auditor"))
    assert there == good("coordinator", "influence", STUDY, "--rows", 50, "--home", home)


def test_what_stands_there_is_not_overwritten_and_other_forms_are_refused(home: Path, tmp_path: Path) -> None:
    for command, name in (("card", "kept.md"), ("influence", "kept.json")):
        (tmp_path / name).write_text("kept")
        ran = fedward("coordinator", command, STUDY, "--out", tmp_path / name, "--home", home)
        assert ran.code == 2
        assert "exists already" in ran.err
        assert (tmp_path / name).read_text() == "kept"
    ran = fedward("coordinator", "card", STUDY, "--out", tmp_path / "card.pdf", "--home", home)
    assert (ran.code, "HTML or Markdown" in ran.err) == (2, True)
    assert not (tmp_path / "card.pdf").exists()


def test_an_exploration_has_no_card(federation: Federation, tmp_path: Path) -> None:
    copy = federation.copy(tmp_path / "copy")
    federation.store = federation.home.open_store()
    manifest = heart_exploration()
    copy.store.create_study(manifest.study.id, manifest.model_dump_json(), tuple(copy.sites), 0)
    for command in ("card", "influence"):
        ran = fedward("coordinator", command, manifest.study.id, "--home", copy.home.path)
        assert ran.code == 3, ran
        assert "has no model to describe" in ran.err
        assert "an exploration" in ran.err


def test_influence_says_on_whom_and_how_noisy_it_is(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "influence.json"
    ran = fedward("coordinator", "influence", STUDY, "--rows", 100, "--out", out, "--home", home)
    assert ran.code == 0, ran
    assert "The patients are synthetic: 100 drawn with seed 0" in ran.out
    assert "The noise of differential privacy adds to every coefficient." in ran.out
    found = json.loads(out.read_text())
    assert len(found["features"]) == 13
    assert sum(one["share"] for one in found["features"]) == pytest.approx(1)
    assert all(one["low"] < one["ratio"] < one["high"] for one in found["odds"])
    assert found == good("coordinator", "influence", STUDY, "--rows", 100, "--home", home)
    assert found != good("coordinator", "influence", STUDY, "--rows", 100, "--seed", 1, "--home", home)


def test_influence_on_public_patients_of_a_file(home: Path, tmp_path: Path) -> None:
    header = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal"
    rows = ["63,male,typical,145,233,high,lv-hypertrophy,150,no,2.3,down,0,fixed-defect",
            "41,female,atypical,130,204,normal,lv-hypertrophy,172,no,1.4,up,0,normal",
            "67,male,asymptomatic,160,286,normal,lv-hypertrophy,108,yes,1.5,flat,3,normal"]  # fmt: skip
    (tmp_path / "public.csv").write_text("\n".join([header, *rows]))
    found = good("coordinator", "influence", STUDY, "--data", tmp_path / "public.csv", "--home", home)
    assert found["rows"] == 3
    assert "3 of public.csv" in found["about"]
    (tmp_path / "public.csv").write_text("\n".join([header, *rows, rows[0].replace("typical", "Typical")]))
    ran = fedward("coordinator", "influence", STUDY, "--data", tmp_path / "public.csv", "--home", home)
    assert (ran.code, "levels that the study has not" in ran.err) == (3, True)


def test_a_card_holds_the_influence_if_asked(home: Path) -> None:
    plain = fedward("coordinator", "card", STUDY, "--home", home).out
    ran = fedward("coordinator", "card", STUDY, "--influence", "--home", home)
    assert "## What the model follows" not in plain
    assert "## What the model follows" in ran.out
    assert "The patients are synthetic: 1000 drawn with seed 0" in ran.out
    assert good("coordinator", "card", STUDY, "--influence", "--home", home)["influence"]["rows"] == 1000


def test_without_captum_the_command_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "find_spec", lambda _: None)
    for arguments in (("influence", STUDY), ("card", STUDY, "--influence")):
        ran = fedward("coordinator", *arguments, "--home", home)
        assert ran.code == 3
        assert 'pip install "fedward[explain]"' in ran.err
    assert fedward("coordinator", "card", STUDY, "--home", home).code == 0
