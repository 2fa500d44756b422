"""A sweep: its grid, its validation without a look at the test, its choice, and its folder."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import fedward
from federation import heart_manifest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.errors import InputError, UsageError
from fedward.simulations import sweep
from fedward.simulations.baselines import split
from fedward.simulations.expected import split_key
from fedward.simulations.folders import read_hospitals
from fedward.simulations.grid import Setting, Vary, parse_vary, settings
from fedward.simulations.options import PLAIN
from fedward.simulations.sweep import Validated, choose, validate, validation_area
from fedward.simulations.sweep_folder import SweepFolder
from fedward.study.encoding import Encoded
from fedward.study.heart import heart_folder

MANIFEST = heart_manifest(training={"rounds": 3})


@pytest.fixture(scope="module")
def hospitals() -> dict[str, Encoded]:
    return read_hospitals(heart_folder(), MANIFEST)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("privacy.epsilon=1,3.5", (1, 3.5)),
        ("training.algorithm=fedavg, fedadam", ("fedavg", "fedadam")),
        ("training.algorithm='fedavg'", ("fedavg",)),
        ("model.hidden=[8],[16,8]", ([8], [16, 8])),
        ('training={algorithm="fedprox",proximal=0.1}', ({"algorithm": "fedprox", "proximal": 0.1},)),
        ("privacy.secure_aggregation=true,false", (True, False)),
        ("a.b=1,x", (1, "x")),
    ],
)
def test_values_are_toml_s_and_words(text: str, values: tuple[object, ...]) -> None:
    assert parse_vary(text).values == values


@pytest.mark.parametrize("text", ["", "privacy.epsilon", "=1", "privacy.epsilon="])
def test_what_varies_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_vary(text)


def test_settings_are_every_combination_and_a_wrong_one_is_named() -> None:
    found = settings(MANIFEST, [Vary("privacy.epsilon", (1.0, 3.0)), Vary("training.rounds", (2, 4, 6))])
    assert [(one.manifest.privacy.epsilon, one.manifest.training.rounds) for one in found] == [
        (e, r) for e in (1.0, 3.0) for r in (2, 4, 6)
    ]
    assert found[0].name == "epsilon 1, rounds 2"
    (prox,) = settings(MANIFEST, [Vary("training", ({"algorithm": "fedprox", "proximal": 0.2},))])
    assert (prox.manifest.training.proximal, prox.manifest.training.rounds) == (0.2, 3)
    with pytest.raises(InputError, match=r"training.rounds = 0"):
        settings(MANIFEST, [Vary("training.rounds", (0,))])
    for field in ("nothing", "nothing.at.all", "training.rounds.deep"):
        with pytest.raises(InputError, match="no field"):
            settings(MANIFEST, [Vary(field, (1,))])
    with pytest.raises(InputError, match="epsilom"):
        settings(MANIFEST, [Vary("privacy.epsilom", (1,))])
    with pytest.raises(UsageError, match="too many"):
        settings(
            MANIFEST, [Vary("training.rounds", tuple(range(1, 102))), Vary("privacy.epsilon", tuple(range(1, 11)))]
        )
    with pytest.raises(UsageError, match="at least one field"):
        settings(MANIFEST, [])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("training.missing", ("midpoint", "refuse")),
        ("training.holdout", (0.2, 0.5)),
        ("training", ({"holdout": 0.2},)),
        ("fairness.groups", ([],)),
        ("outcome.column", ("death",)),
    ],
)
def test_what_the_hospitals_tables_are_made_of_is_not_varied(field: str, values: tuple[object, ...]) -> None:
    """The hospitals are encoded once, and a setting's validation patients would be another's test."""
    with pytest.raises(InputError, match="same patients") as caught:
        settings(MANIFEST, [Vary(field, values)])
    assert caught.value.remedy


def test_numbers_that_nearly_agree_are_two_values() -> None:
    found = settings(MANIFEST, [Vary("privacy.delta", (1.0000001e-4, 1.0000002e-4))])
    assert len({one.values["privacy.delta"] for one in found}) == 2


def test_no_test_patient_is_seen_before_the_choice(hospitals: dict[str, Encoded]) -> None:
    """The test's patients may hold anything: not a bit of a validation figure changes."""
    (setting,) = settings(MANIFEST, [Vary("training.rounds", (3,))])
    spoiled = {}
    for site, data in hospitals.items():
        test = split(data, MANIFEST.training.holdout, split_key(1, site)).held_out
        rows = np.isin(data.patients, test.patients)
        assert 0 < rows.sum() < len(rows)
        spoiled[site] = replace(
            data,
            inputs=np.where(rows[:, None], np.float32(99), data.inputs),
            outcomes=np.where(rows, 1 - data.outcomes, data.outcomes),
        )
    honest = validation_area(setting, hospitals, 1, "stacked", PLAIN)
    assert validation_area(setting, spoiled, 1, "stacked", PLAIN) == honest
    assert validation_area(setting, spoiled, 2, "stacked", PLAIN) != validation_area(
        setting, hospitals, 2, "stacked", PLAIN
    )


def validated(value: str, other: str, *areas: float) -> Validated:
    return Validated(Setting({"privacy.epsilon": value, "training.rounds": other}, MANIFEST), areas)


def test_the_best_mean_is_chosen_for_each_value_and_one_that_bursts_is_not() -> None:
    found = [
        validated("1", "2", 0.7, 0.8), validated("1", "4", 0.9, math.nan), validated("1", "6", 0.7, 0.8),
        validated("3", "2", 0.6, 0.6), validated("3", "4", 0.5, 0.8),
    ]  # fmt: skip
    chosen = choose(found, "privacy.epsilon")
    assert {value: one.setting.values["training.rounds"] for value, one in chosen.items()} == {"1": "2", "3": "4"}
    with pytest.raises(UsageError, match="not varied"):
        choose(found, "privacy.delta")
    with pytest.raises(InputError, match=r"epsilon = 9"):
        choose([*found, validated("9", "2", math.nan, 0.5)], "privacy.epsilon")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), min_size=1, max_size=20))
def test_nothing_beats_what_is_chosen(found: list[tuple[str, float]]) -> None:
    all_ = [validated(value, str(place), area) for place, (value, area) in enumerate(found)]
    chosen = choose(all_, "privacy.epsilon")
    assert set(chosen) == {value for value, _ in found}
    assert all(area <= chosen[value].mean for value, area in found)


def test_a_folder_goes_on_after_a_kill_and_refuses_another_sweep(
    tmp_path: Path, hospitals: dict[str, Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings(MANIFEST, [Vary("privacy.epsilon", (1.0, 3.0))])
    folder = SweepFolder.open(tmp_path / "s", found, hospitals, "stacked", PLAIN)
    first = validate(found, hospitals, range(2), known=folder.known, keep=folder.keep)
    lines = tmp_path / "s" / "validation.jsonl"
    lines.write_text(lines.read_text() + '{"setting": "abc', encoding="utf-8")  # killed while it wrote
    again = SweepFolder.open(tmp_path / "s", found, hospitals, "stacked", PLAIN)
    monkeypatch.setattr(sweep, "validation_area", lambda *_: pytest.fail("found again"))
    assert validate(found, hospitals, range(2), known=again.known, keep=again.keep) == first
    again.finish(first, range(2), {"a": 1})
    table = pd.read_parquet(tmp_path / "s" / "validation.parquet")
    assert table.auroc.tolist() == [area for one in first for area in one.areas]
    with pytest.raises(InputError, match="another sweep"):
        SweepFolder.open(tmp_path / "s", found[:1], hospitals, "stacked", PLAIN)
    with pytest.raises(InputError, match="other files"):
        SweepFolder.open(heart_folder(), found, hospitals, "stacked", PLAIN)


def test_the_command_sweeps_and_goes_on(tmp_path: Path) -> None:
    arguments = ("sweep", "heart", "--vary", "privacy.epsilon=1,3", "--vary", "training.rounds=2,4", "--seeds", "2")
    done = fedward(*arguments, "--out", str(tmp_path / "s"), "--json")
    assert done.json["along"] == "privacy.epsilon"
    assert len(done.json["validation"]) == 4
    for value, one in done.json["chosen"].items():
        best = max(
            (s for s in done.json["validation"] if s["setting"]["privacy.epsilon"] == value), key=lambda s: s["mean"]
        )
        assert one["setting"] == best["setting"]
        assert one["privacy"]["epsilon"] == float(value)
        run = json.loads((tmp_path / "s" / "chosen" / value / "summary.json").read_text())
        assert run == one["test"]
    assert {path.name for path in (tmp_path / "s" / "plots").iterdir()} == {
        "auroc.svg",
        "convergence.svg",
        "gain.svg",
        "gap.svg",
    }
    assert fedward(*arguments, "--out", str(tmp_path / "s"), "--json").json == done.json
    text = fedward(*arguments, "--out", str(tmp_path / "s")).out
    assert "Nothing was chosen by these figures" in text
    assert "unit: patient" in text
    wrong = fedward("sweep", "heart", "--vary", "training.rounds=2", "--along", "privacy.epsilon", "--json")
    assert (wrong.code, wrong.json["error"]) == (2, "usage")
