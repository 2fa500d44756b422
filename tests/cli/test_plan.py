"""`fedward plan` as somebody types it: tables, one JSON object, a manifest that the planner stands for, and its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import fedward, good

from fedward.study.heart import heart_folder
from fedward.study.manifest import load
from fedward.study.schedule import least_noise
from fedward.study.terms import PRIVACY_WORDS

SIZES = "303,294,123,200"
FAST = ("--rounds", "5")


def test_json_has_everything_and_its_schema_is_stable() -> None:
    found = good("plan", "heart", "--on", "heart", "--seeds", 2, "--epsilon", 3, "--budget", 8, *FAST)
    assert set(found) == {
        "study", "patients", "delta", "meaning", "simulated_on", "clipping_norm", "server_momentum", "spare_attempts", "plans",
    }  # fmt: skip
    assert found["patients"] == {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
    assert found["meaning"] == f"{PRIVACY_WORDS}; covers training and held-out patients"
    assert (found["delta"], found["simulated_on"]) == (1e-3, "heart")
    (one,) = found["plans"]
    assert set(one) == {
        "epsilon", "schedule", "sites", "attempts", "epsilon_per_round", "epsilon_training",
        "epsilon_evaluation", "epsilon_whole", "epsilon_training_against_all_others", "equal_noise_at", "candidates",
        "auroc", "left", "warnings",
    }  # fmt: skip
    assert set(one["schedule"]) == {
        "rounds", "local_steps", "sampling_rate", "server_learning_rate", "noise_multiplier", "signal", "noise",
    }  # fmt: skip
    assert one["schedule"]["sampling_rate"] == 1
    assert 0 < one["epsilon_per_round"] < one["epsilon_training"] <= one["epsilon_whole"] <= 3
    assert 0 < one["epsilon_evaluation"] <= one["epsilon_whole"]
    assert set(one["auroc"]) == {"mean", "low", "high", "deviation", "seeds"}
    assert 0.7 < one["auroc"]["low"] <= one["auroc"]["mean"] <= one["auroc"]["high"] < 1
    assert set(one["left"]) == {"budget", "spent", "later", "again"}
    assert 0 < one["left"]["later"] < 8
    assert set(one["sites"]["va"]) == {"noise_multiplier", "weight"}
    assert "above 1/(10 N)" in one["warnings"][0]


def test_tables_say_what_an_epsilon_means() -> None:
    ran = fedward("plan", "heart", "--patients", SIZES, "--epsilon", "1,3", "--budget", "6", *FAST)
    assert ran.code == 0, ran
    for words in (
        "What an ε buys",
        "hospital-1",
        "spare attempts",
        "lifetime",
        "Warning: δ = 0.001",
        PRIVACY_WORDS,
        "ε at δ = 0.001",
    ):
        assert words in " ".join(ran.out.split()), words
    assert "calibrating" in ran.err


def test_the_written_study_is_the_plan(tmp_path: Path) -> None:
    out = tmp_path / "planned.toml"
    found = good("plan", "heart", "--patients", SIZES, "--epsilon", 2, "--write", out, *FAST)["plans"][0]
    written, own = load(out), load(heart_folder() / "study.toml")
    assert written.privacy.epsilon == 2
    assert written.training.rounds == found["schedule"]["rounds"]
    assert written.training.server_learning_rate == found["schedule"]["server_learning_rate"]
    assert least_noise(written) == found["schedule"]["noise_multiplier"]
    same = {"training": own.training, "privacy": own.privacy}
    assert written.model_copy(update=same) == own


def test_a_folder_with_data_of_ones_own(tmp_path: Path) -> None:
    assert fedward("example", tmp_path / "mine").code == 0
    found = good("plan", tmp_path / "mine", "--on", tmp_path / "mine", "--seeds", 2, "--epsilon", 3, *FAST)
    assert found["patients"]["va"] == 200
    assert found["plans"][0]["auroc"]["seeds"] == 2


def test_patients_by_name_and_the_studys_own_epsilon() -> None:
    found = good("plan", "heart", "--patients", "a=3000, b=5000, c=4000", "--epsilon", 0.5, "--delta", 1e-5, *FAST)
    assert found["patients"] == {"a": 3000, "b": 5000, "c": 4000}
    assert found["plans"][0]["warnings"] == []
    assert found["plans"][0]["auroc"] is None


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--patients", SIZES, "--epsilon", "1,2", "--write", "out.toml"], 2, "exactly one --epsilon"),
        (["--patients", SIZES, "--epsilon", "1,x"], 2, "list of numbers"),
        (["--patients", SIZES, "--epsilon", "0"], 2, "numbers above 0"),
        (["--patients", SIZES, "--epsilon", "nan"], 2, "numbers above 0"),
        (["--patients", "303,many"], 2, "--patients"),
        (["--patients", "303,0"], 2, "at least 1"),
        (["--patients", "a=3,a=4"], 2, "named once"),
        ([], 2, "no numbers of patients"),
        (["--patients", "90,300", "--delta", "0.02"], 4, "promises nothing at hospital-1"),
        (["--patients", SIZES, "--epsilon", "3", "--budget", "1", "--rounds", "5"], 4, "does not hold it"),
        (["--patients", SIZES, "--epsilon", "3", "--budget", "nan"], 2, "--budget is no lifetime"),
        (["--patients", "303,294", "--rounds", "5"], 3, "manifest: quorum 3 exceeds the roster of 2"),
        (["--patients", "303,294", "--rounds", "5"], 3, "at least as many hospitals as the quorum"),
        (["--patients", "A b=303,c=294,d=100", "--rounds", "5"], 3, "do not fit the study"),
        (["--on", "nowhere"], 3, "no hospital's data"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_options_are_told(options: list[str], code: int, words: str) -> None:
    ran = fedward("plan", "heart", *options)
    assert ran.code == code, ran
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_what_a_budget_cannot_hold_is_left_out_unless_it_was_asked_for() -> None:
    found = good("plan", "heart", "--patients", SIZES, "--budget", 2, *FAST)
    assert [one["epsilon"] for one in found["plans"]] == [0.5, 1.0]


def test_what_a_ledger_is_charged_is_said_of_one_plan_alone() -> None:
    said = " ".join(fedward("plan", "heart", "--patients", SIZES, "--epsilon", "0.5,1", *FAST).out.split())
    assert "charged the larger of the two." in said
    said = " ".join(fedward("plan", "heart", "--patients", SIZES, "--epsilon", "0.0001", *FAST).out.split())
    assert "charged the larger of the two, ε = 0.001." in said


def test_a_study_that_is_not_there() -> None:
    ran = fedward("plan", "nowhere.toml", "--patients", SIZES)
    assert ran.code == 3
    assert "no manifest at nowhere.toml" in ran.err
