"""`fedward privacy probe` as a person and a script call it; its noise is a node's own, so what is asserted of it holds in
all but one of more than a million runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import fedward, good

from fedward.study.heart import heart_folder

SURE = ("--confidence", 0.9999999)
QUICK = ("--canaries", 1500, "--seed", 1)


def test_the_right_mechanism_passes_and_the_limits_are_said() -> None:
    ran = fedward("privacy", "probe", *QUICK)
    assert ran.code == 0
    assert "That is no proof" in ran.out
    assert "A low bound proves nothing" in ran.out
    assert "unit: patient" in ran.out
    assert "200 steps on" in ran.err
    assert "REFUTED" not in ran.out


def test_a_planted_fault_is_refuted_with_exit_code_1() -> None:
    ran = fedward("privacy", "probe", *QUICK, "--plant", 0.1)
    assert ran.code == 1
    assert "REFUTED" in ran.out
    assert "A fault was planted" in ran.out


def test_json_holds_the_whole_finding() -> None:
    ran = fedward("privacy", "probe", *QUICK, "--plant", 0.1, "--path", "hooks", "--json")
    assert ran.code == 1
    found = ran.json
    assert found["holds"] is False
    assert found["bound"] > found["claim"]["epsilon"] == pytest.approx(0.4, abs=0.01)
    assert found["claim"]["delta"] == 1e-3
    assert found["design"]["path"] == "hooks"
    assert found["design"]["canaries"] == 1500
    assert found["plant"] == 0.1
    assert found["limits"]


def test_a_study_brings_its_terms_and_options_go_before_them(tmp_path: Path) -> None:
    study = heart_folder() / "study.toml"
    found = good("privacy", "probe", study, "--canaries", 60, *SURE, "--sigma", 9.0, "--guesses", 30)
    assert found["mechanism"]["noise_multiplier"] == 9.0
    assert found["mechanism"]["attempts"] > 1
    assert found["design"]["guesses"] == 30
    own = good("privacy", "probe", study, "--canaries", 60, *SURE)
    assert own["mechanism"]["noise_multiplier"] != 9.0
    assert own["holds"]


def test_the_seed_repeats_the_canaries_but_not_the_noise() -> None:
    asked = ("--canaries", 200, "--guesses", 200, "--steps", 1, "--seed", 7, *SURE)
    found = [good("privacy", "probe", *asked) for _ in range(6)]
    assert len({one["included"] for one in found}) == 1
    assert len({one["correct"] for one in found}) > 1


@pytest.mark.parametrize(
    "arguments",
    [("--sigma", 0), ("--sigma", "nan"), ("--rate", 2), ("--delta", 1), ("--confidence", 1), ("--guesses", 3000)],
)
def test_numbers_outside_their_range_are_explained(arguments: tuple[object, ...]) -> None:
    ran = fedward("privacy", "probe", *arguments)
    assert ran.code == 3
    assert "error:" in ran.err
